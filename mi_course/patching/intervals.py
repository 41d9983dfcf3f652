"""How sure a mean over prompts is: bootstrap intervals, and two permutation tests.

Prompts are drawn as if others like them had been taken (Efron 1979). What is resampled is prompts: an interval says
nothing about other templates, other words or another model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError

EXACT = 12  # so many prompts or fewer: all 2^n sign patterns are counted
AT_ONCE = 128  # resamples held in memory together


def bootstrap(
    of: Callable[[Tensor], Tensor], n: int, *, level: float | int = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The percentile interval of a statistic of means: `of(share [resample n])` gives it for prompts drawn with
    replacement, [*axes resample], each with its share in the mean.

    With few prompts it is too narrow, and where all prompts agree it is a point. Lower and upper end hold `level` of
    so many `resamples`, drawn with `seed`; those that `of` leaves out, for want of a value, count for nothing.
    """
    if n < 2:
        raise CourseError("An interval over prompts needs two prompts at least.")
    if not 0 < level < 1 or resamples < 1:
        raise CourseError(f"level={level} must lie between 0 and 1, and resamples={resamples} be 1 or more.")
    found = torch.cat([of(part) for part in shares(n, resamples, seed).split(AT_ONCE)], -1)
    if not found.shape[-1]:
        raise CourseError(
            f"Clean and corrupted score the same in all {resamples:,} resamples: take more prompts, or a metric that "
            "tells them apart."
        )
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2]).to(found)
    low, high = found.quantile(ends, dim=-1)
    return low, high


def shares(n: int, resamples: int, seed: int) -> Float[Tensor, "resample n"]:
    """The share of each of `n` prompts in so many `resamples`, drawn with replacement by `seed`."""
    drawn = torch.randint(n, (resamples, n), generator=generator(seed))
    return (
        torch.zeros(resamples, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
        / n
    )


def with_gap(
    ends: Float[Tensor, "end batch"], share: Float[Tensor, "resample batch"]
) -> Bool[Tensor, "resample"]:
    """In which resamples, each prompt's `share` in them given, the means of the two `ends` differ by more than rounding."""
    share = share.to(ends)
    corrupted, clean = ends @ share.T
    size = (ends.abs() @ share.T).sum(0)
    return (clean - corrupted).abs() > 100 * torch.finfo(ends.dtype).eps * size


def sign_flip_p(
    changes: Float[Tensor, "*axes batch"], *, permutations: int = 1000, seed: int = 0
) -> Float[Tensor, "*axes"]:
    """The share of sign patterns whose mean change is as far from 0 as the one found (two-sided, Fisher 1935).

    Null: a patch is as likely to raise a prompt's score as to lower it by as much. Exact for 12 prompts or fewer, else
    (hits + 1) / (permutations + 1).
    """
    n = changes.shape[-1]
    if n <= EXACT:
        signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        signs = torch.randint(2, (permutations, n), generator=generator(seed)) * 2.0 - 1
    signs, found = signs.to(changes), changes.mean(-1, keepdim=True).abs()
    slack = 100 * torch.finfo(changes.dtype).eps * found  # a sum in another order is a tie
    hits = sum((((changes @ part.T) / n).abs() >= found - slack).sum(-1) for part in signs.split(AT_ONCE))
    return hits.to(changes) / len(signs) if n <= EXACT else (hits + 1).to(changes) / (permutations + 1)


def rank_p(found: Float[Tensor, "*axes"], null: Float[Tensor, "draw"]) -> Float[Tensor, "*axes"]:
    """The share of random draws that do as well or better, the one found counted among them: (1 + hits) / (1 + draws)."""
    return (1 + (null >= found[..., None]).sum(-1)) / (1.0 + len(null))
