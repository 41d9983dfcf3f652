"""The one training loop.

`fit(model, sample, config)` trains any module on `sample(step)`; the batch depends on the step alone, so a run
that is killed at any step and resumed from its checkpoint equals the uninterrupted one bit for bit (on the same
machine with the same number of threads).
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from mi_course import files, processes
from mi_course.errors import CourseError, nearest

OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Rates are per step; the schedule is warm-up, plateau, linear decay to zero."""

    steps: int
    lr: float = 1e-3  # of AdamW
    optimizer: str = "adamw"  # muon: Muon for the matrices inside blocks, AdamW for everything else
    muon_lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    warmup: int = 50  # steps
    decay_share: float = 0.3  # of the steps, at the end
    grad_clip: float | None = None  # largest norm of the gradient
    rates: tuple[tuple[str, float], ...] = ()  # (end of a parameter's name, factor on its learning rate)
    seed: int = 0  # of everything random inside the model (dropout); batches carry their own

    def __post_init__(self):
        if self.steps < 1 or self.lr <= 0 or not 0 <= self.decay_share <= 1:
            raise CourseError("A TrainConfig needs steps ≥ 1, lr > 0 and 0 ≤ decay_share ≤ 1.")
        if self.optimizer not in OPTIMIZERS:
            raise CourseError(
                f"There is no optimizer {self.optimizer!r}.{nearest(self.optimizer, OPTIMIZERS)}"
            )

    def rate(self, step: int) -> float:
        """The factor on every learning rate at a step, between 0 and 1."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return warm * min(1.0, left)


@dataclass
class History:
    """What happened: one entry a step in `loss` (nats) and `lr`, one dict (with its `step`) an evaluation or a note."""

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    evaluations: list[dict] = field(default_factory=list)
    notes: list[dict] = field(default_factory=list)  # of `after_step`, in passing

    @property
    def steps(self) -> range:
        return range(len(self.loss))

    def series(self, name: str) -> tuple[list[int], list]:
        """Steps and values of one evaluated or noted quantity."""
        rows = [row for row in (*self.evaluations, *self.notes) if name in row]
        if not rows:
            known = {key for row in (*self.evaluations, *self.notes) for key in row} - {"step"}
            raise CourseError(f"Nothing called {name!r} was evaluated.{nearest(name, known)}")
        return [row["step"] for row in rows], [row[name] for row in rows]

    def smoothed(self, width: int = 20) -> list[float]:
        """The loss as a running mean over `width` steps."""
        total = torch.tensor([0.0, *self.loss], dtype=torch.double).cumsum(0)
        end = torch.arange(1, len(self.loss) + 1)
        start = (end - width).clamp_min(0)
        return ((total[end] - total[start]) / (end - start)).tolist()

    def plot(self, title: str, alt: str, caption: str = "", width: int = 20):
        """The loss against the step, as a figure."""
        from mi_course import plots

        return plots.line(
            list(self.steps), {"training loss": self.smoothed(width)},
            xlabel="step", ylabel="loss (nats per token)", title=title, alt=alt, caption=caption,
        )  # fmt: skip


class TrainingDiverged(CourseError):
    """The loss is not a number any more; `history` holds all that came before."""

    def __init__(self, step: int, loss: float, lr: float, history: History):
        super().__init__(
            f"Training stopped at step {step}: the loss is {loss} at learning rate {lr:.3g}. "
            "Try a tenth of that rate, or grad_clip=1."
        )
        self.history = history


def orthogonalised(G: Float[Tensor, "*n rows cols"], steps: int = 5) -> Float[Tensor, "*n rows cols"]:
    """Push all singular values of G near 1 with five Newton–Schulz steps (Jordan et al. 2024, Muon).

    The quintic 3.4445 x − 4.7750 x³ + 2.0315 x⁵ keeps (0, 1] inside about 0.7 … 1.2; singular vectors stay.
    """
    X = G.mT if G.shape[-2] > G.shape[-1] else G
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        A = X @ X.mT
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return X.mT if G.shape[-2] > G.shape[-1] else X


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: every step moves all directions of a matrix by the same amount.

    Attention weights [head d_model d_head] count as one d_model × (head d_head) matrix. Matrices of one shape
    are orthogonalised together. The step is scaled by √(out/in), so that it changes what is written by as much
    whatever the shape.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            by_shape: dict[tuple, list] = {}  # in, out
            for p in group["params"]:
                if p.grad is not None:
                    moment = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                    moment.lerp_(p.grad, 1 - group["momentum"])
                    update = as_matrix(torch.lerp(p.grad, moment, group["momentum"]))  # Nesterov
                    by_shape.setdefault(tuple(update.shape), []).append((p, update))
            for (rows, cols), pairs in by_shape.items():
                updates = orthogonalised(torch.stack([update for _, update in pairs]))
                scale = group["lr"] * (cols / rows) ** 0.5
                for (p, _), update in zip(pairs, updates, strict=True):
                    p.sub_(from_matrix(update, p.shape), alpha=scale)


def as_matrix(W: Tensor) -> Tensor:
    """Heads side by side: [head d_model d_head] → [d_model, head d_head], and W_O [head d_head d_model] → [.., d_model]."""
    if W.ndim == 2:
        return W
    return W.transpose(0, 1).flatten(1) if W.shape[1] >= W.shape[2] else W.flatten(0, 1)


def from_matrix(M: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `as_matrix`."""
    if len(shape) == 2:
        return M
    n, rows, cols = shape
    return M.view(rows, n, cols).transpose(0, 1) if rows >= cols else M.view(shape)


def optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW over everything, or Muon over the matrices inside `blocks` and AdamW over the rest."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    inner = [p for name, p in named if config.optimizer == "muon" and "blocks." in name and p.ndim >= 2]
    rest = [p for name, p in named if all(p is not q for q in inner)]
    adamw = torch.optim.AdamW(
        by_rate(named, rest, config.lr, config),
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    return [adamw] + ([Muon(by_rate(named, inner, config.muon_lr, config))] if inner else [])


def by_rate(named, chosen: list, lr: float, config: TrainConfig) -> list[dict]:
    """Parameter groups: one for every factor in `config.rates` that some of the chosen parameters have."""
    groups: dict[float, list] = {}
    for name, p in named:
        if any(p is q for q in chosen):
            factor = next((factor for ending, factor in config.rates if name.endswith(ending)), 1.0)
            groups.setdefault(factor, []).append(p)
    return [{"params": params, "lr": lr * factor} for factor, params in groups.items()]


def fit(
    model: nn.Module,
    sample: Callable[[int], Tensor],
    config: TrainConfig,
    *,
    loss: Callable[[nn.Module, Tensor], Tensor] | None = None,
    evaluate: Callable[[nn.Module], dict] | None = None,
    evaluate_at: Collection[int] = (),
    snapshots_at: Collection[int] = (),
    on_snapshot: Callable[[nn.Module, int], None] | None = None,
    after_step: Callable[[nn.Module, int, list[torch.optim.Optimizer]], dict | None] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    stop_at: int | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place on `sample(step)` for `config.steps` steps and say what happened.

    `loss(model, batch)` is a scalar; left out, it is the model's own next-token loss in nats. `evaluate` and
    `on_snapshot` see the model *before* the step of that number (0 is the untrained model, `config.steps` the
    trained one); `after_step` may change weights and optimiser states after each step (a projection, a
    resampling), and what it returns is shown in the bar and kept in `history.notes`. With `checkpoint`, the state is written every so many steps and at an interrupt, and a file that
    is already there is resumed. `stop_at` ends early without touching the schedule.
    Raises `TrainingDiverged` when the loss is not finite. Every error in a sentence carries the `history` so far.
    """
    loss = loss or (lambda model, batch: model(batch, return_type="loss"))
    opts = optimizers(model, config)
    base = [[group["lr"] for group in opt.param_groups] for opt in opts]
    history, start = History(), 0
    if checkpoint is not None and Path(checkpoint).exists():
        history, start = resume(checkpoint, model, opts, config)
    else:
        torch.manual_seed(config.seed)
    end = config.steps if stop_at is None else min(stop_at, config.steps)
    device = next(model.parameters()).device
    began = time.perf_counter() - history.seconds
    logged = in_a_log()
    pace = {"mininterval": 30, "maxinterval": 30} if logged else {"mininterval": 0.5}
    bar = tqdm(range(start, end), initial=start, total=end, disable=quiet(progress), unit="step", **pace)
    try:
        with between_steps() as stop_if_asked:
            for step in bar:
                stop_if_asked()
                observe(model, step, history, evaluate, evaluate_at, snapshots_at, on_snapshot)
                rate = config.rate(step)
                for opt, lrs in zip(opts, base, strict=True):
                    for group, lr in zip(opt.param_groups, lrs, strict=True):
                        group["lr"] = lr * rate
                batch = sample(step).to(device)
                value = loss(model, batch)
                number = value.item()
                if not math.isfinite(number):
                    raise TrainingDiverged(step, number, config.lr * rate, history)
                for opt in opts:
                    opt.zero_grad(set_to_none=True)
                value.backward()
                if config.grad_clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
                for opt in opts:
                    opt.step()
                noted = after_step(model, step, opts) if after_step is not None else None
                history.loss.append(number)
                history.lr.append(config.lr * rate)
                history.tokens += batch.numel() if not batch.is_floating_point() else len(batch)
                history.seconds = time.perf_counter() - began
                if noted:
                    history.notes.append({"step": step + 1, **noted})
                if step % 20 == 0:
                    bar.set_postfix_str(say(number, noted, history, batch), refresh=not logged)
                if checkpoint is not None and (step + 1) % checkpoint_every == 0:
                    save_state(checkpoint, model, opts, history, step + 1, config)
            stop_if_asked()
    except CourseError as error:
        error.history = history
        raise
    except KeyboardInterrupt:
        if checkpoint is not None:
            save_state(checkpoint, model, opts, history, len(history.loss), config)
        raise
    observe(model, end, history, evaluate, evaluate_at, snapshots_at, on_snapshot)
    if checkpoint is not None and end > start:
        save_state(checkpoint, model, opts, history, end, config)
    return history


def observe(model, step, history, evaluate, evaluate_at, snapshots_at, on_snapshot) -> None:
    """Evaluate and snapshot if this step asks for it; a resumed run does not measure a step twice."""
    if (
        evaluate is not None
        and step in evaluate_at
        and all(row["step"] != step for row in history.evaluations)
    ):
        was_training = model.training
        model.eval()
        with torch.no_grad():
            history.evaluations.append({"step": step, **evaluate(model)})
        model.train(was_training)
    if on_snapshot is not None and step in snapshots_at:
        on_snapshot(model, step)


def say(loss: float, noted: dict | None, history: History, batch: Tensor) -> str:
    """What stands behind the progress bar."""
    shown = {"loss": loss, **(noted or {})}
    what = "samples" if batch.is_floating_point() else "tokens"
    speed = f"{history.tokens / history.seconds:,.0f} {what}/s"
    return ", ".join([*(f"{name} {value:.3f}" for name, value in shown.items()), speed])


def quiet(progress: bool) -> bool:
    """Bars are off on request, where TQDM_DISABLE is set, as under test, and in all processes but the first."""
    return not progress or processes.rank() > 0 or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")


def in_a_log() -> bool:
    """Nobody watches the bar: a pipe or a file gets it every half minute, a terminal or a notebook twice a second."""
    return not sys.stderr.isatty() and not type(sys.stderr).__module__.startswith("ipykernel")


@contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Ctrl-C waits until the function that this yields is called, so that weights, optimiser, random state and history
    belong to one step. A second one does not wait."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual in (None, signal.SIG_IGN):
        yield lambda: None
        return
    asked = []

    def note(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    def stop_if_asked():
        if asked:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield stop_if_asked
    finally:
        signal.signal(signal.SIGINT, usual)


# -- resume --------------------------------------------------------------------------------------


def save_state(path, model, opts, history: History, step: int, config: TrainConfig) -> None:
    """Model, optimisers, random state and history in one file, so that no kill can leave halves of two steps."""
    if processes.rank() > 0:
        return  # all are in the same state, and the first writes it
    tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    for i, opt in enumerate(opts):
        for key, slots in opt.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{key}.{name}": torch.as_tensor(v).cpu() for name, v in slots.items()}
    tensors["rng"] = torch.get_rng_state()
    card = {"step": step, "config": asdict(config), "history": asdict(history)}
    files.write_atomically({Path(path): save(tensors, metadata={"card": json.dumps(card)})})


def resume(path, model, opts, config: TrainConfig) -> tuple[History, int]:
    """Put everything back as it was; returns the history and the step to go on from."""
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads(file.metadata()["card"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise CourseError(f"{path} is not a checkpoint of fit, or truncated ({error}); remove it.") from error
    if card["config"] != json.loads(json.dumps(asdict(config))):
        raise CourseError(f"{path} belongs to a run with another TrainConfig; remove it or use its settings.")
    try:
        model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    except RuntimeError as error:
        raise CourseError(
            f"{path} belongs to another model: {str(error).splitlines()[-1].strip()}"
        ) from error
    for i, opt in enumerate(opts):
        state: dict[int, dict] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{i}."):
                _, _, key, slot = name.split(".", 3)
                state.setdefault(int(key), {})[slot] = value
        opt.load_state_dict({"state": state, "param_groups": opt.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng"])
    return History(**card["history"]), card["step"]
