"""Progress measures: what moves while nothing seems to.

Restricted loss: only the key frequencies are left in the logits. Excluded loss: just these are taken away. Text and
code of the paper differ in which directions "the key frequencies" are: `parts="sums"` (cos and sin of w(a + b), the
text) or "products" (2 × 2 blocks). Derived in notebook 09.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.grokking.fourier import component, constant, frequency_norms, gini
from mi_course.grokking.network import Weights, logits_of
from mi_course.grokking.runs import Run, nll
from mi_course.grokking.task import Task


def restricted_loss(
    logits: Float[Tensor, "pair p"], task: Task, frequencies: list[int], parts: str = "sums"
) -> float:
    """Mean loss on the test pairs when the logits keep their constant and some frequencies alone.

    Near ln p while the network does not use them; near 0 once it does, whatever else it does. Frequencies are read
    off the *trained* network: nobody can compute this during the run. That is what is wrong with it as a forecast.

    Args:
        logits: of all p² pairs.
        task: which of them are for testing, and their answers.
        frequencies: that are kept.
        parts: see `directions`.
    """
    kept = constant(logits) + component(logits, frequencies, parts)
    return mean_loss(kept, task, ~task.train)


def excluded_loss(
    logits: Float[Tensor, "pair p"], task: Task, frequencies: list[int], parts: str = "sums"
) -> float:
    """Mean loss on the *training* pairs when some frequencies are taken away from the logits.

    Low while the network knows its pairs by heart; high once it leans on these frequencies even there.

    Args:
        logits: of all p² pairs.
        task: which of them are trained on, and their answers.
        frequencies: that are taken away.
        parts: see `directions`.
    """
    left = logits.double() - component(logits, frequencies, parts)
    return mean_loss(left, task, task.train)


def mean_loss(logits: Float[Tensor, "pair p"], task: Task, on: Bool[Tensor, "pair"]) -> float:
    """The mean loss in nats on some pairs.

    `logits` are those of all pairs of the `task`, `on` says which of them count.
    """
    return float(nll(logits[on], task.answers[on]).mean())


def other_frequencies(p: int, key: list[int], draws: int = 5, seed: int = 0) -> list[list[int]]:
    """Sets of as many frequencies as are in `key`, drawn among the rest: the control of both measures.

    `p` is the modulus, `draws` how many sets, `seed` draws them.
    """
    rest = torch.tensor([k for k in range(1, (p - 1) // 2 + 1) if k not in key])
    if len(rest) < len(key):
        raise CourseError(
            f"{len(key)} of {(p - 1) // 2} frequencies are key: too few are left for a control."
        )
    return [
        sorted(rest[torch.randperm(len(rest), generator=generator(seed, 93 + i))[: len(key)]].tolist())
        for i in range(draws)
    ]


@torch.no_grad()
def measures(weights: Weights, task: Task, key: list[int], others: list[list[int]]) -> dict[str, float]:
    """Both measures in both definitions, the same for `others` (the smallest restricted, the largest excluded), Gini.

    Args:
        weights: of one network.
        task: what it is trained on.
        key: its key frequencies, read off the end of the run.
        others: the control's frequencies.
    """
    logits = logits_of(weights, task.pairs).double()
    return {
        "restricted": restricted_loss(logits, task, key),
        "restricted_blocks": restricted_loss(logits, task, key, "products"),
        "excluded": excluded_loss(logits, task, key),
        "excluded_blocks": excluded_loss(logits, task, key, "products"),
        "random_restricted": min(restricted_loss(logits, task, ks) for ks in others),
        "random_excluded": max(excluded_loss(logits, task, ks) for ks in others),
        "gini": gini(frequency_norms(weights.W_E[: task.p].T)),
    }


def halved(run: Run, name: str) -> int:
    """The first step from t₁ on at which a loss is at most half of its value at t₁; the last step where it never is.

    Args:
        run: with that loss among its curves.
        name: of the loss.
    """
    loss, start = run[name], run.fitted_at
    step = run.first((run.steps >= start) & (loss <= loss[run.index(start)] / 2))
    return int(run.steps[-1]) if step is None else step


def lead(run: Run, name: str = "restricted") -> float:
    """How much earlier a loss has halved than the test loss, in units of t₂.

    Args:
        run: one that grokked, with that loss among its curves.
        name: of the loss.
    """
    return (halved(run, "test_loss") - halved(run, name)) / run.generalised_at


def rise(run: Run, name: str = "excluded") -> float:
    """The largest value of a loss between t₁ and t₂, divided by its value at t₁.

    Args:
        run: one that grokked, with that loss among its curves.
        name: of the loss.
    """
    between = (run.steps >= run.fitted_at) & (run.steps <= run.generalised_at)
    return float(run[name][between].max() / run[name][run.index(run.fitted_at)])


@dataclass(frozen=True)
class Phases:
    """When things happen in a run, in steps.

    Args:
        fitted: t₁, training accuracy 99.9%: the end of memorisation.
        formed: restricted loss has halved: a circuit is there.
        jump: test accuracy is half way to 1.
        fastest: the sum of squared weights falls fastest, after t₁.
        cleaned: t₂, test accuracy 99%.
        in_order: fitted, formed, jump come in that order, and the norm has fallen from t₁ to the jump.
    """

    fitted: int
    formed: int
    jump: int
    fastest: int
    cleaned: int
    in_order: bool

    def at(self, step: int) -> str:
        """The phase at a `step`: memorisation, circuit formation, clean-up, or done."""
        if step < self.fitted:
            return "memorisation"
        if step < self.jump:
            return "circuit formation"
        return "clean-up" if step < self.cleaned else "done"


def fastest_fall(run: Run, name: str = "norm", since: int | None = None) -> int:
    """The middle of the two looks between which a curve falls most a step.

    Args:
        run: with that curve.
        name: of the curve.
        since: the first step that counts; default t₁.
    """
    late = run.steps[:-1] >= (run.fitted_at if since is None else since)
    slope = run[name].diff() / run.steps.diff()
    worst = int(torch.where(late, slope, torch.inf).argmin())
    return int(run.steps[worst : worst + 2].double().mean())


def phases(run: Run) -> Phases:
    """When the phases of a `run` that grokked begin and end; raises `DidNotGrok` for one that did not."""
    fitted, cleaned, jump = run.fitted_at, run.generalised_at, run.jump
    formed, norm = halved(run, "restricted"), run["norm"]
    falls = bool(norm[run.index(jump)] < norm[run.index(fitted)])
    return Phases(fitted, formed, jump, fastest_fall(run), cleaned, fitted < formed < jump and falls)
