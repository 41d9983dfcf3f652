"""Many small networks trained side by side in one tensor program: a phase diagram in the time of a few runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.files import read_checked, shipped_path
from mi_course.grokking.network import Weights, logits_of, network, weights_of
from mi_course.grokking.runs import FITTED, GENERALISED, nll
from mi_course.grokking.task import Task
from mi_course.training import progress_bar

PHASES = ("neither fits nor generalises", "memorises only", "groks", "generalises at once")
AT_ONCE = 2  # t₂ / t₁ up to which nothing is delayed


@dataclass(frozen=True)
class Small:
    """The shape and the training of every network of a sweep.

    Args:
        d_model: width of the stream.
        d_mlp: neurons.
        n_heads: heads.
        steps: full-batch steps.
        lr: of AdamW.
        seed: of the starting weights, the same for all.
    """

    d_model: int = 48
    d_mlp: int = 96
    n_heads: int = 2
    steps: int = 800
    lr: float = 1e-2
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Sweep:
    """What became of each run.

    Args:
        tasks: one a run.
        decays: the weight decay of each run.
        fitted_at: t₁ of each run; 0 where training accuracy never reached 99.9%.
        generalised_at: t₂ of each run; 0 where test accuracy never reached 99%.
        test_accuracy: at the end.
        weights: at the end, with one leading axis; None for a sweep that is shipped.
    """

    tasks: tuple[Task, ...]
    decays: tuple[float, ...]
    fitted_at: Int[Tensor, "run"]
    generalised_at: Int[Tensor, "run"]
    test_accuracy: Float[Tensor, "run"]
    weights: Weights | None = None

    @property
    def delay(self) -> Float[Tensor, "run"]:
        """t₂ / t₁; infinite where t₂ never came."""
        late = self.generalised_at.double() / self.fitted_at.clamp_min(1)
        return torch.where(self.generalised_at > 0, late, torch.inf)

    @property
    def phase(self) -> Int[Tensor, "run"]:
        """Which of PHASES each run ended in: its index."""
        done = torch.where(self.delay <= AT_ONCE, 3, 2)
        return torch.where(self.generalised_at > 0, done, torch.where(self.fitted_at > 0, 1, 0))


@torch.enable_grad()
def sweep(
    tasks: Sequence[Task], decays: Sequence[float | int], small: Small | None = None, progress: bool = True
) -> Sweep:
    """Train one network for each task and weight decay, all in one program; run i is what it would be alone.

    Every step computes all p² pairs for all networks; a mask says which count. AdamW is Adam after the weights were
    multiplied by 1 − lr · decay, which differs from run to run.

    Args:
        tasks: of one p, one a run.
        decays: one a run.
        small: shape and training, a `Small`.
        progress: show a bar.
    """
    small = small or Small()
    if not tasks or len(tasks) != len(decays) or len({task.p for task in tasks}) != 1:
        raise CourseError("A sweep needs one weight decay for each task, and tasks of one p.")
    p, pairs = tasks[0].p, tasks[0].pairs
    answers, trained = torch.stack([t.answers for t in tasks]), torch.stack([t.train for t in tasks])
    share = trained / trained.sum(1, keepdim=True)
    start = weights_of(
        network(p, small.seed, d_model=small.d_model, n_heads=small.n_heads, d_mlp=small.d_mlp)
    )
    weights = Weights(*(W.detach().expand(len(tasks), *W.shape).clone().requires_grad_() for W in start))
    adam = torch.optim.Adam(list(weights), lr=small.lr, betas=(0.9, 0.98), fused=True)
    kept = 1 - small.lr * torch.tensor([float(decay) for decay in decays])
    fitted, generalised = (torch.zeros(len(tasks), dtype=torch.long) for _ in range(2))
    for step in progress_bar(0, small.steps + 1, progress):
        logits = logits_of(weights, pairs)
        on_train, on_test = accuracies(logits, answers, trained)
        for seen, reached in ((fitted, on_train >= FITTED), (generalised, on_test >= GENERALISED)):
            seen[(seen == 0) & reached] = step
        if step == small.steps:
            break
        adam.zero_grad()
        (nll(logits, answers) * share).sum().backward()
        with torch.no_grad():
            for W in weights:
                W.mul_(kept.view(-1, *[1] * (W.ndim - 1)))
        adam.step()
    return Sweep(
        tuple(tasks), tuple(map(float, decays)), fitted, generalised, on_test.double(),
        Weights(*(W.detach() for W in weights)),
    )  # fmt: skip


def grid(
    p: int, decays: Sequence[float | int], fractions: Sequence[float]
) -> tuple[list[Task], list[float | int]]:
    """The tasks and weight decays of a phase diagram, one row of `fractions` after another for each of `decays`.

    All at the modulus `p`, with seed 0.
    """
    return [Task(p, fraction) for _ in decays for fraction in fractions], [
        d for d in decays for _ in fractions
    ]


def shipped_sweep(name: str | Path = "grokking-sweep") -> Sweep:
    """The sweep that is shipped under this `name` or at this path, without its weights."""
    path = shipped_path(name, "task")
    tensors, card = read_checked(path)
    if not {"task", "decays", "fractions"} <= card.keys():
        raise CourseError(f"{path} is no sweep of notebook 09; a single run is read with shipped.")
    tasks, decays = grid(card["task"]["p"], card["decays"], card["fractions"])
    return Sweep(tuple(tasks), tuple(decays), **tensors)


@torch.no_grad()
def accuracies(logits, answers, trained) -> tuple[Float[Tensor, "run"], Float[Tensor, "run"]]:
    """On training and on test pairs: logits [run pair p], the right answers and which are trained on [run pair]."""
    right = logits.argmax(-1) == answers
    return (right & trained).sum(1) / trained.sum(1), (right & ~trained).sum(1) / (~trained).sum(1)
