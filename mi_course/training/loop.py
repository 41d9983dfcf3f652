"""The one training loop.

`fit(model, sample, config)` trains any module on `sample(step)`; the batch depends on the step alone, so a run
that is killed at any step and resumed from its checkpoint equals the uninterrupted one bit for bit (on the same
machine with the same number of threads).
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mi_course.errors import CourseError, kind_of
from mi_course.training.checkpoints import Checkpoint, resume
from mi_course.training.config import TrainConfig
from mi_course.training.history import History, TrainingDiverged
from mi_course.training.optimizers import optimizers
from mi_course.training.watching import between_steps, progress_bar, say


class Run:
    """What the steps of one training have in common, and what has happened so far.

    `model` is trained as `config` says; `loss(model, batch)` is what falls. `callbacks` are called around each step, and
    `saved` says where the state is kept.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        loss: Callable[[nn.Module, Tensor], Tensor],
        callbacks: Sequence[Callback] = (),
        saved: Checkpoint = Checkpoint(),  # noqa: B008 (it is frozen)
    ):
        self.model, self.config, self.loss, self.history = model, config, loss, History()
        self.callbacks, self.saved = callbacks, saved
        self.optimizers = optimizers(model, config)
        self.full_rates = [[group["lr"] for group in opt.param_groups] for opt in self.optimizers]
        self.device = next(model.parameters()).device

    def set_rates(self, step: int) -> float:
        """Every learning rate as the schedule has it at this step; returns that of AdamW."""
        factor = self.config.rate(step)
        for opt, rates in zip(self.optimizers, self.full_rates, strict=True):
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        return self.config.lr * factor

    def train_step(self, batch: Tensor, step: int) -> tuple[float, float]:
        """Rates, loss, gradients, one move of the weights; returns the loss before it and the learning rate.

        `batch` is what the loss is taken on, `step` its number, for the schedule.
        """
        lr = self.set_rates(step)
        value = checked_loss(self.loss(self.model, batch))
        number = value.item()
        if not math.isfinite(number):
            raise TrainingDiverged(step, number, lr, self.history)
        for opt in self.optimizers:
            opt.zero_grad(set_to_none=True)
        value.backward()
        if self.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        for opt in self.optimizers:
            opt.step()
        return number, lr


class Callback:
    """What else happens around the steps of `fit`: override what is needed."""

    def before(self, run: Run, step: int) -> None:
        """Sees the model of `run` before the `step` of that number: 0 is untrained, `config.steps`, asked last, is trained."""

    def after(self, run: Run, step: int) -> dict | None:
        """May change weights and optimiser states of `run` after the `step`; what it returns is noted and shown in the bar."""

    def state(self) -> dict[str, Tensor]:
        """What it has gathered that a run which goes on must have: lies in the checkpoint, name → tensor."""
        return {}

    def go_on(self, run: Run, state: dict[str, Tensor], step: int) -> None:
        """Is given the `state` of the file from which `run` goes on at the `step` of that number."""


class Evaluation(Callback):
    """`measure(model)` at the steps `at`, in evaluation mode and without gradients, for `history.evaluations`."""

    def __init__(self, measure: Callable[[nn.Module], dict], at: Collection[int]):
        self.measure, self.at = measure, at

    def before(self, run: Run, step: int) -> None:
        """Measures the model of `run` before the `step` of that number, if it is one of those asked for."""
        if step not in self.at or any(row["step"] == step for row in run.history.evaluations):
            return  # a resumed run does not measure a step twice
        was_training = run.model.training
        run.model.eval()
        try:
            with torch.no_grad():
                run.history.evaluations.append({"step": step, **self.measure(run.model)})
        finally:
            run.model.train(was_training)


class Snapshots(Callback):
    """`keep(model, step)` at the steps `at`; a run that goes on does not come by the earlier ones again, see `Copies`."""

    def __init__(self, keep: Callable[[nn.Module, int], Any], at: Collection[int]):
        self.keep, self.at = keep, at

    def before(self, run: Run, step: int) -> None:
        """Hands the model of `run` on before the `step` of that number, if it is one of those asked for."""
        if step in self.at:
            self.keep(run.model, step)


class Copies(Callback):
    """Copies of the tensors that `read(model)` names, at the steps `at`: they are in `found`, step → name → tensor.

    A checkpoint holds them, so that a run that goes on ends with those of all its parts.
    """

    def __init__(self, read: Callable[[nn.Module], dict[str, Tensor]], at: Collection[int]):
        self.read, self.at = read, at
        self.found: dict[int, dict[str, Tensor]] = {}

    def before(self, run: Run, step: int) -> None:
        """Copies what is read of the model of `run` before the `step` of that number, if it is one of those asked for."""
        if step in self.at:
            self.found[step] = {name: W.detach().clone() for name, W in self.read(run.model).items()}

    def state(self) -> dict[str, Tensor]:
        """All copies, under step and name."""
        return {f"{step}.{name}": W for step, found in self.found.items() for name, W in found.items()}

    def go_on(self, run: Run, state: dict[str, Tensor], step: int) -> None:
        """The copies of the part before, as `state` holds them; those of a `run` that did not make all before `step` are refused."""
        held = {int(key.partition(".")[0]) for key in state}
        if lost := sorted({at for at in self.at if 0 <= at < step} - held):
            raise CourseError(
                f"{run.saved.path} holds no copies of step {lost[0]}, which are asked for; remove it."
            )
        for key, W in state.items():
            at, _, name = key.partition(".")
            self.found.setdefault(int(at), {})[name] = W.to(run.device)


@torch.enable_grad()
def fit(
    model: nn.Module,
    sample: Any,
    config: Any,
    *,
    loss: Callable[[nn.Module, Tensor], Any] | None = None,
    evaluate: Callable[[nn.Module], dict] | None = None,
    evaluate_at: Collection[int] = (),
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
    stop_at: int | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place on `sample(step)` for `config.steps` steps and say what happened.

    `sample` is a function step → batch; tokens come as integers of any width, from torch or NumPy. `loss(model,
    batch)` is a scalar; left out, it is the model's own next-token loss in nats. `evaluate` sees the model *before*
    the steps `evaluate_at` (0 is the untrained model, `config.steps` the trained one); `callbacks` (`Copies`, `Snapshots`, or
    your own `Callback`) may do more, also after a step. With `checkpoint`, a file or `Checkpoint(file, every=…)`, the
    state is written every so many steps and at an interrupt, and a file that is already there is resumed.
    `stop_at` ends early without touching the schedule.
    Raises `TrainingDiverged` when the loss is not finite. Every error in a sentence that comes between the first step and
    the last evaluation carries the `history` so far; what was trained is in the file before the last evaluation begins.

    Args:
        progress: show a bar, or lines in a log.
    """
    check_arguments(model, sample, config)
    if evaluate is not None:
        callbacks = [Evaluation(evaluate, evaluate_at), *callbacks]
    run = Run(model, config, loss or own_loss(model), callbacks, Checkpoint.of(checkpoint))
    start = begin(run)
    end = max(start, config.steps if stop_at is None else min(stop_at, config.steps))
    try:
        steps(run, sample, start, end, progress)
        if end > start:
            run.saved.write(run, end)
        for callback in callbacks:
            callback.before(run, end)
    except CourseError as error:
        error.history = run.history
        raise
    return run.history


def begin(run: Run) -> int:
    """The step to start at: that of the file, where there is one; else 0, with the seed of the settings."""
    if run.saved.exists():
        return resume(run.saved.path, run)
    torch.manual_seed(run.config.seed)
    return 0


def steps(run: Run, sample, start: int, end: int, progress: bool) -> None:
    """The steps start … end of a run, what is to happen around them, and what is to be remembered of each."""
    history, began = run.history, time.perf_counter() - run.history.seconds
    bar = progress_bar(start, end, progress)
    with between_steps(lambda: run.saved.write(run, len(history.loss))) as stop_if_asked:
        for step in bar:
            stop_if_asked()
            for callback in run.callbacks:
                callback.before(run, step)
            batch = as_batch(sample(step), run.model).to(run.device)
            value, lr = run.train_step(batch, step)
            noted: dict = {}
            for callback in run.callbacks:
                noted |= callback.after(run, step) or {}
            history.record(step, value, lr, batch, time.perf_counter() - began, noted)
            if step % 20 == 0:
                bar.set_postfix_str(say(value, noted, history, batch), refresh=bar.watched)
            if (step + 1) % run.saved.every == 0:
                run.saved.write(run, step + 1)
        stop_if_asked()


# -- wrong kinds, each in a sentence -------------------------------------------------------------


def as_batch(batch: Any, model: nn.Module) -> Tensor:
    """A batch as a tensor: whole numbers of any width become 64-bit tokens, NumPy's floats the model's own format."""
    given = batch
    if isinstance(batch, list | np.ndarray | np.generic):
        try:
            batch = torch.as_tensor(np.asarray(batch))
        except (TypeError, ValueError):  # words, or rows of unequal length
            pass
        else:
            batch = batch.to(next(model.parameters()).dtype) if batch.is_floating_point() else batch
    if not isinstance(batch, Tensor):
        raise CourseError(
            f"sample(step) must return one tensor of tokens or rows, not {kind_of(given)}; "
            "a loader's pair is unpacked with lambda step: batches[step][0]."
        )
    if not batch.numel():
        raise CourseError(f"sample(step) returned an empty batch, of shape {list(batch.shape)}.")
    return batch if batch.is_floating_point() or batch.is_complex() else batch.long()


def check_arguments(model: Any, sample: Any, config: Any) -> None:
    """One sentence for what cannot be trained, drawn from, or followed."""
    if not any(p.requires_grad for p in model.parameters()):
        raise CourseError(f"{type(model).__name__} has no parameter that can be trained.")
    if not isinstance(config, TrainConfig):
        raise CourseError(f"The third argument is a TrainConfig(steps=…, lr=…), not {kind_of(config)}.")
    if not callable(sample):
        raise CourseError(
            f"sample is a function from the step to a batch, not {kind_of(sample)}: a run that is resumed asks for any "
            "step again. For a loader take batches = list(loader) and sample=lambda step: batches[step % len(batches)]."
        )


def next_token(model: nn.Module, batch: Tensor) -> Tensor:
    """The loss of a model of tokens, which are whole numbers."""
    if batch.is_floating_point() or batch.is_complex():
        raise CourseError(
            f"{type(model).__name__} reads tokens, and they are whole numbers: sample(step) returned {batch.dtype}; "
            "take batch.long(), or pass a loss= of your own for rows of numbers."
        )
    return model(batch, return_type="loss")


def own_loss(model: nn.Module) -> Callable[[nn.Module, Tensor], Tensor]:
    """The next-token loss of a model that has one."""
    known = inspect.signature(model.forward).parameters.values()
    if not any(p.name == "return_type" or p.kind is p.VAR_KEYWORD for p in known):
        raise CourseError(
            f"{type(model).__name__} has no loss of its own: pass loss=lambda model, batch: … with one number."
        )
    return next_token


def checked_loss(value: Any) -> Tensor:
    """The loss, if it is one number that depends on the weights."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else kind_of(value)
        raise CourseError(f"loss(model, batch) must be one number as a tensor, not {what}: take its mean.")
    if not value.requires_grad:
        raise CourseError("The loss does not depend on the weights: was it computed without gradients?")
    return value
