"""Shapley values: what a feature adds, averaged over every order in which features can come in.

Shapley (1953); Lundberg & Lee (2017) for models. Derived in notebook 13.
Shapes: `coalition` is one of the 2ⁿ sets of features, in the order of `coalitions`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.explanations.checked import Model, instance_and_background, numbers, outputs

MOST = 15  # features: 32,768 coalitions
ROWS = 1 << 13  # rows that the model reads at once: more leave the cache


class Estimate(NamedTuple):
    """`values` from a sample, and how far they may be off: `se`, the standard error over permutations."""

    values: Float[Tensor, "feature"]
    se: Float[Tensor, "feature"]  # standard error over permutations


def coalitions(n: int) -> Bool[Tensor, "coalition feature"]:
    """All 2ⁿ sets of n features: row c holds the binary digits of c, feature 0 first."""
    if n > MOST:
        raise CourseError(
            f"{n} features have {2**n:,} coalitions, and each is run on every background row: exact values are for at "
            f"most {MOST}. Take sampled_shapley, or let features that belong together come in together."
        )
    return (torch.arange(2**n)[:, None] >> torch.arange(n - 1, -1, -1) & 1).bool()


def coalition_values(
    model: Model,
    x: Float[Tensor, "*instance feature"],
    background: Float[Tensor, "row width"],
    chosen: Bool[Tensor, "coalition feature"] | None = None,
) -> Float[Tensor, "*instance coalition"]:
    """v(S) = the mean output with the features of S taken from x and all others from a background row.

    This is the *interventional* value (Janzing et al. 2020): what is absent is drawn anew without regard to S, so
    correlated features are torn apart. `chosen` are the coalitions wanted, all of them if left out. Instances,
    coalitions and background rows go through the model together, as many as fit.
    """
    x, background = instance_and_background(x, background, most=2)
    chosen = coalitions(x.shape[-1]) if chosen is None else chosen
    at_once = max(1, ROWS // (len(chosen) * len(background)))
    found = []
    for some in x.reshape(-1, 1, 1, x.shape[-1]).split(at_once):
        parts = []
        for part in chosen.split(max(1, ROWS // len(background))):
            rows = torch.where(part[:, None], some, background)  # instance coalition row feature
            parts.append(outputs(model, rows.flatten(0, 2)).view(rows.shape[:3]).mean(-1))
        found.append(torch.cat(parts, dim=1))
    return torch.cat(found).view(*x.shape[:-1], len(chosen))


def conditional_values(
    model: Model,
    x: Float[Tensor, "feature"],
    rows: Float[Tensor, "row feature"],
    weights: Float[Tensor, "row"] | None = None,
) -> Float[Tensor, "coalition"]:
    """v(S) = the mean output over the rows that agree with x on S: true to the data, not to the model.

    For discrete features. `rows` are data, or all states with their probabilities as `weights`. A row that agrees with
    x on exactly M counts for every S ⊆ M, so all 2ⁿ sums take n passes (a superset sum).
    """
    x, rows = instance_and_background(x, rows)
    n, weights = len(x), torch.ones(len(rows)).double() if weights is None else numbers("weights", weights, 1)
    coalitions(n)  # the same limit
    place = ((rows == x) * 2 ** torch.arange(n - 1, -1, -1)).sum(1)
    sums = (
        torch.zeros(2, 2**n)
        .double()
        .index_add(1, place, torch.stack([weights * outputs(model, rows), weights]))
    )
    for axis in range(1, n + 1):
        cube = sums.view(2, *[2] * n)
        without, within = cube.select(axis, 0), cube.select(axis, 1)
        sums = torch.stack([without + within, within], dim=axis).reshape(2, -1)
    if not bool((sums[1] > 0).all()):
        raise CourseError(
            "No row agrees with x on every feature: conditional values need discrete features that the data hold."
        )
    return sums[0] / sums[1]


def shapley_of(v: Float[Tensor, "*instance coalition"]) -> Float[Tensor, "*instance feature"]:
    """The Shapley values of a game given by the values of all its coalitions.

    φ_j = Σ over S without j of |S|! (n − |S| − 1)! / n! · (v(S ∪ j) − v(S)), with v as a cube of n axes of length 2.
    Sum to v(all) − v(none); a feature that never changes v gets 0.
    """
    n = int(math.log2(v.shape[-1]))
    if n < 1 or v.shape[-1] != 2**n:
        raise CourseError(
            f"{v.shape[-1]} values are not those of all coalitions, of which there are 2, 4, 8, …"
        )
    size = coalitions(n).sum(1)
    factorial = torch.tensor([math.factorial(i) for i in range(n + 1)]).double()
    weight = (factorial[size] * factorial[(n - 1 - size).clamp_min(0)] / factorial[n]).view([2] * n)
    cube = v.double().reshape(-1, *[2] * n)
    adds = lambda j: weight.select(j, 0) * (cube.select(j + 1, 1) - cube.select(j + 1, 0))
    credit = torch.stack([adds(j).flatten(1).sum(1) for j in range(n)], dim=1)
    return credit.view(*v.shape[:-1], n)


def exact_shapley(
    model: Model, x: Float[Tensor, "*instance feature"], background: Float[Tensor, "row width"]
) -> Float[Tensor, "*instance feature"]:
    """Shapley values over all coalitions of one prediction, or of many together: 2ⁿ × background rows for each.

    `model` takes rows of inputs, `x` holds the features of what is explained, and `background` rows stand in for
    those that are absent.
    """
    return shapley_of(coalition_values(model, x, background))


def sampled_shapley(
    model: Model,
    x: Float[Tensor, "feature"],
    background: Float[Tensor, "row width"],
    permutations: int = 2000,
    *,
    seed: int = 0,
) -> Estimate:
    """The mean over random orders of what each feature adds when it comes in (Štrumbelj & Kononenko 2014).

    Every order adds up to v(all) − v(none) by itself, so the sum is exact and only its division is estimated. A
    coalition that several orders pass through is run once. `model` takes rows of inputs, `x` holds the features of
    what is explained, and `background` rows stand in for those that are absent; `permutations` orders are drawn by
    `seed`.
    """
    x, background = instance_and_background(x, background)
    if permutations < 2:
        raise CourseError(f"permutations={permutations}: an error needs at least two.")
    n = len(x)
    order = torch.rand(permutations, n, generator=generator(seed, 13)).argsort(1)  # who comes in when
    entered = order.argsort(1)[:, None] < torch.arange(n + 1)[:, None]  # permutation step feature
    distinct, which = entered.flatten(0, 1).unique(dim=0, return_inverse=True)
    v = coalition_values(model, x, background, distinct)[which].view(permutations, n + 1)
    adds = torch.empty(permutations, n).double().scatter_(1, order, v.diff(dim=1))
    return Estimate(adds.mean(0), adds.std(0) / permutations**0.5)
