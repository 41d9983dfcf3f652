"""The state of a run in one file, and a run that goes on from it."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mi_course import files, processes
from mi_course.errors import CourseError
from mi_course.training.history import History


@dataclass(frozen=True)
class Checkpoint:
    """Where the state of a run is kept, and every how many steps it is written; without a path, nowhere."""

    path: Path | None = None
    every: int = 500

    @classmethod
    def of(cls, given: str | Path | Checkpoint | None) -> Checkpoint:
        """From a path, from `Checkpoint(path, every)`, or from None; a folder is refused before anything is trained.

        `given` is one of the three.
        """
        saved = given if isinstance(given, Checkpoint) else cls(Path(given) if given else None)
        if saved.path is not None and Path(saved.path).is_dir():
            raise CourseError(
                f"checkpoint names a file, and {saved.path} is a folder: try {Path(saved.path) / 'run.partial'}."
            )
        if saved.every < 1:
            raise CourseError(f"A checkpoint is written every 1 step or more, not every {saved.every}.")
        return saved

    def exists(self) -> bool:
        """Whether there is a file to go on from; all processes must agree."""
        return self.path is not None and processes.seen_by_all(Path(self.path).exists(), self.path)

    def write(self, run, step: int) -> None:
        """The state of a `run` before the `step` of that number."""
        if self.path is not None:
            save_state(self.path, run, step)


def save_state(path, run, step: int) -> None:
    """Model, optimisers, callbacks, random state and history in one file, so that no kill can leave halves of two steps.

    `path` is the file, `step` the one from which `run` is to go on; it must have the same settings to do so. A model
    that lies in parts in several processes (`model.cut`) is written whole, by all of them: any number of processes can
    go on from it.
    """
    cut = cut_names(run.model, run.optimizers)
    tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in run.model.state_dict().items()}
    for i, opt in enumerate(run.optimizers):
        for key, slots in opt.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{key}.{name}": torch.as_tensor(v).cpu() for name, v in slots.items()}
    for i, callback in enumerate(run.callbacks):
        tensors |= {f"callback.{i}.{name}": v.cpu().contiguous() for name, v in callback.state().items()}
    tensors["rng"] = torch.get_rng_state()
    card = {"step": step, "config": asdict(run.config), "history": asdict(run.history)}
    metadata = {"card": json.dumps(card)}
    inside = {name for name, value in tensors.items() if cut and value.ndim and name.startswith(cut)}
    pieces = processes.whole_file(tensors, inside, metadata)
    if processes.rank() > 0:
        deque(pieces, maxlen=0)  # what is its own goes to the first, which writes
    else:
        files.write_atomically({Path(path): pieces})
    processes.wait()  # torchrun ends the writer, too, where another process leaves first


def cut_names(model, opts) -> tuple[str, ...]:
    """How the names of those tensors begin, in the file of a run, of which a process has a part; none for most models.

    `model.cut` names parameters and buffers of `model`; what its optimisers `opts` keep of one is cut as it is.
    """
    cut = set(getattr(model, "cut", ()))
    names = {id(p): name for name, p in model.named_parameters()}
    begin = [f"model.{name}" for name in sorted(cut)]
    for i, opt in enumerate(opts):
        held = [p for group in opt.param_groups for p in group["params"]]
        begin += [f"optimizer.{i}.{key}." for key, p in enumerate(held) if names[id(p)] in cut]
    return tuple(begin)


def resume(path, run) -> int:
    """Put everything of `run` back as it was; returns the step to go on from.

    `path` is the file; that of a run with other settings is refused.
    """
    cut = cut_names(run.model, run.optimizers)
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads(file.metadata()["card"])
            tensors = {name: read(file, name, cut, path) for name in file.keys()}  # noqa: SIM118
    except CourseError:
        raise
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise CourseError(f"{path} is not a checkpoint of fit, or truncated ({error}); remove it.") from error
    if card["config"] != json.loads(json.dumps(asdict(run.config))):
        raise CourseError(f"{path} belongs to a run with another TrainConfig; remove it or use its settings.")
    for i, callback in enumerate(run.callbacks):
        callback.go_on(run, part(tensors, f"callback.{i}."), card["step"])
    try:
        run.model.load_state_dict(part(tensors, "model."))
    except RuntimeError as error:
        raise CourseError(
            f"{path} belongs to another model: {str(error).splitlines()[-1].strip()}"
        ) from error
    for i, opt in enumerate(run.optimizers):
        state: dict[int, dict] = {}
        for name, value in part(tensors, f"optimizer.{i}.").items():
            key, _, slot = name.partition(".")
            state.setdefault(int(key), {})[slot] = value
        opt.load_state_dict({"state": state, "param_groups": opt.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng"])
    run.history = History(**card["history"])
    return card["step"]


def part(tensors: dict[str, Tensor], begin: str) -> dict[str, Tensor]:
    """Those of the `tensors` whose names `begin` so, without it."""
    return {name.removeprefix(begin): value for name, value in tensors.items() if name.startswith(begin)}


def history_of(path: str | Path) -> History:
    """What has happened so far in the run whose state lies in the file at `path`."""
    with safe_open(path, framework="pt") as file:
        return History(**json.loads(file.metadata()["card"])["history"])


def read(file, name: str, cut: tuple[str, ...], path) -> Tensor:
    """The tensor `name` of an open `file` at `path`, or this process's part of it where its name begins as in `cut`."""
    inside = bool(cut) and name.startswith(cut) and file.get_slice(name).get_shape()
    return processes.part_of(file, name, path) if inside else file.get_tensor(name)
