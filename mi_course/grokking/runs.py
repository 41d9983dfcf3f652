"""A network trained on a table, what was seen on the way, and runs that did not grok."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course.errors import CourseError, nearest
from mi_course.files import read_checked, shipped_path
from mi_course.grokking.network import Weights, logits_of, weights_of
from mi_course.grokking.task import Task
from mi_course.models import TinyTransformer
from mi_course.training import Copies, TrainConfig, fit

FITTED, GENERALISED = 0.999, 0.99  # training accuracy at t₁, test accuracy at t₂
CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "unmirrored_accuracy", "norm")


def setting(steps: int, lr: float = 3e-3, weight_decay: float | int = 1.0, warmup: int = 10) -> TrainConfig:
    """Full-batch AdamW with β = (.9, .98) and a constant rate, as the paper trains (there `lr` is 1e-3).

    Args:
        steps: how many, each on all training pairs.
        lr: the rate; ten times the published one still groks, in a tenth of the steps.
        weight_decay: of AdamW, multiplied by the rate.
        warmup: steps in which the rate rises.
    """
    return TrainConfig(
        steps, lr=lr, weight_decay=float(weight_decay), betas=(0.9, 0.98), warmup=warmup, decay_share=0.0
    )


class DidNotGrok(CourseError):
    """The run never reached what was asked of it; it is kept in `run`, with all its curves. `message` says what."""

    def __init__(self, message: str, run: Run):
        super().__init__(message)
        self.run = run


@dataclass(frozen=True, eq=False)
class Run:
    """What was seen of one run, at the same steps throughout.

    Args:
        task: what it was trained on.
        steps: at which it was looked at.
        curves: name → value at each of these steps: CURVES, and whatever else was measured.
        kept: the steps whose weights are kept; none where only curves are.
        weights: at the steps `kept`, with one leading axis.
    """

    task: Task
    steps: Int[Tensor, "time"]
    curves: dict[str, Tensor]
    kept: tuple[int, ...] = ()
    weights: Weights | None = None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.curves:
            raise CourseError(f"Nothing called {name!r} was measured.{nearest(name, self.curves)}")
        return self.curves[name]

    def at(self, step: int) -> Weights:
        """The weights at a `step` of which they are kept."""
        if self.weights is None or step not in self.kept:
            more = " …" if len(self.kept) > 8 else ""
            some = ", ".join(map(str, self.kept[:8])) + more if self.kept else "none"
            raise CourseError(f"The weights of step {step} are not kept. Kept: {some}.")
        return self.weights.of(self.kept.index(step))

    @property
    def end(self) -> Weights:
        """The weights at the last step that is kept."""
        return self.at(self.kept[-1] if self.kept else int(self.steps[-1]))

    def first(self, reached: Bool[Tensor, "time"]) -> int | None:
        """The first step at which something is so: `reached` says at which it is; None if at none."""
        found = reached.nonzero()
        return int(self.steps[found[0, 0]]) if len(found) else None

    @property
    def fitted_at(self) -> int:
        """t₁: the first step at which training accuracy is 99.9%."""
        step = self.first(self["train_accuracy"] >= FITTED)
        if step is None:
            raise DidNotGrok(
                f"This run did not even fit its training pairs: {float(self['train_accuracy'].max()):.1%} in "
                f"{int(self.steps[-1])} steps. More steps, or less weight decay? Its curves are kept in .run.",
                self,
            )
        return step

    @property
    def grokked(self) -> bool:
        """Whether test accuracy ever reached 99%."""
        return bool((self["test_accuracy"] >= GENERALISED).any())

    @property
    def generalised_at(self) -> int:
        """t₂: the first step at which test accuracy is 99%."""
        step = self.first(self["test_accuracy"] >= GENERALISED)
        if step is None:
            raise DidNotGrok(
                f"This run did not grok: test accuracy {float(self['test_accuracy'][-1]):.1%} after "
                f"{int(self.steps[-1])} steps. Known reasons: no weight decay, too few pairs, answers without a "
                "rule, or too few steps. Its curves are kept in .run.",
                self,
            )
        return step

    @property
    def delay(self) -> float:
        """t₂ / t₁; where it did not grok, the least it can be: all steps / t₁."""
        end = self.generalised_at if self.grokked else int(self.steps[-1])
        return end / max(1, self.fitted_at)

    @property
    def jump(self) -> int:
        """The first step at which test accuracy is half way from its value at t₁ to 1."""
        accuracy = self["test_accuracy"]
        start = float(accuracy[self.index(self.fitted_at)])
        late = self.steps >= self.fitted_at
        step = self.first(late & (accuracy >= (1 + start) / 2))
        return self.generalised_at if step is None else step  # which says so, where there was none

    def index(self, step: int) -> int:
        """Which of `steps` this `step` is."""
        return int((self.steps == step).nonzero()[0])

    def verdict(self) -> str:
        """In one line: whether it grokked, and when."""
        try:
            return f"grokked: training fitted at step {self.fitted_at}, test at step {self.generalised_at}"
        except DidNotGrok as error:
            return str(error).split(":")[0]


def nll(
    logits: Float[Tensor, "*runs pair p"], answers: Int[Tensor, "*same pair"]
) -> Float[Tensor, "*runs pair"]:
    """What each pair loses, in nats, with the softmax in 64 bits.

    In 32 bits the probability of the right answer rounds to 1 once the loss is below 6e-8, its gradient to nothing,
    and Adam divides nothing by nothing: spikes that look like a discovery.

    Args:
        logits: of every number, for every pair.
        answers: the right one of each pair.
    """
    log_p = logits.double().log_softmax(-1)
    return -log_p.gather(-1, answers.expand(logits.shape[:-1])[..., None])[..., 0]


@torch.no_grad()
def look(weights: Weights, task: Task) -> dict[str, float]:
    """Losses and accuracies on training and test pairs, those on test pairs without a trained mirror, the norm.

    Args:
        weights: of one network.
        task: what it is trained on.
    """
    logits = logits_of(weights, task.pairs)
    loss, right = nll(logits, task.answers), (logits.argmax(-1) == task.answers).double()
    new = ~task.train & ~task.mirrored
    return {
        "train_loss": float(loss[task.train].mean()), "train_accuracy": float(right[task.train].mean()),
        "test_loss": float(loss[~task.train].mean()), "test_accuracy": float(right[~task.train].mean()),
        "unmirrored_accuracy": float(right[new].mean()) if bool(new.any()) else float("nan"),
        "norm": float(weights.norm),
    }  # fmt: skip


def train(
    model: TinyTransformer,
    task: Task,
    config: TrainConfig,
    every: int | Sequence[int] = 10,
    progress: bool = True,
    **options,
) -> Run:
    """Train `model` in place on the whole training part at every step, and keep its weights along the way.

    The loss is that of the model, computed at a quarter of its cost by `logits_of`. Nothing is raised where the run
    does not grok: a `Run` says so when it is asked for t₂.

    Args:
        model: of `network`, for the task's p.
        task: which pairs, and their answers.
        config: of `setting`.
        every: how many steps between looks, or at which steps to look.
        progress: show a bar.
        options: for `training.fit`, such as `checkpoint`, which holds the looks so far, or `stop_at`.
    """
    weights, answers = weights_of(model), task.answers[task.train]
    if weights.p != task.p:
        raise CourseError(f"The network counts modulo {weights.p}, and the task modulo {task.p}.")
    copies = Copies(lambda _: weights._asdict(), looks(every, config.steps, options.get("stop_at")))
    batch = task.pairs[task.train]
    loss = lambda _, pairs: nll(logits_of(weights, pairs), answers).mean()
    fit(
        model,
        lambda _: batch,
        config,
        loss=loss,
        callbacks=[copies, *options.pop("callbacks", ())],
        progress=progress,
        **options,
    )
    steps = sorted(copies.found)
    kept = [torch.stack([copies.found[step][W] for step in steps]) for W in Weights._fields]
    return seen(task, steps, Weights(*kept))


def looks(every: int | Sequence[int], steps: int, stop_at: int | None = None) -> Sequence[int]:
    """The steps at which a run is looked at.

    Args:
        every: how many steps between looks, or the steps themselves.
        steps: of the run.
        stop_at: where it ends early.
    """
    if isinstance(every, int) and every < 1:
        raise CourseError(f"A run is looked at every 1 step or more, not every {every}.")
    at = range(0, steps + 1, every) if isinstance(every, int) else every
    end = steps if stop_at is None else min(stop_at, steps)
    if not any(0 <= step <= end for step in at):
        raise CourseError(f"A run of {end} steps needs a look at one of them: give steps from 0 to {end}.")
    return at


def seen(task: Task, steps: Sequence[int], weights: Weights) -> Run:
    """A run from the weights that were kept of it.

    Args:
        task: what it was trained on.
        steps: when they were kept.
        weights: with one leading axis, as long as `steps`.
    """
    rows = [look(weights.of(i), task) for i in range(len(steps))]
    curves = {name: torch.tensor([row[name] for row in rows]).double() for name in CURVES}
    return Run(task, torch.tensor(steps), curves, tuple(steps), weights)


def shipped(name: str | Path) -> Run:
    """A run that is shipped: curves at all its steps, weights at a few, in 16-bit floats made 32 again.

    `name` is that of its recipe, as "grokking", "grokking-seed1" or "grokking-no-decay"; or a path.
    """
    path = shipped_path(name, "task")
    tensors, card = read_checked(path)
    if "task" not in card or not {"kept", "step"} <= tensors.keys():
        raise CourseError(f"{path} is no single run of notebook 09; a sweep is read with shipped_sweep.")
    weights = [tensors.pop(W).float() for W in Weights._fields if W in tensors]
    kept = tuple(tensors.pop("kept").tolist())
    steps = tensors.pop("step")
    return Run(Task(**card["task"]), steps, tensors, kept, Weights(*weights) if weights else None)
