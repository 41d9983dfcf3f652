"""Laws of size: the best loss for a budget, the line through it in logs, and how sure its slope is.

>>> import torch
>>> from mi_course import scaling
>>> compute = torch.tensor([1.0, 10.0, 100.0])
>>> law = scaling.power_law(compute, 3 * compute**-0.5)
>>> round(law.exponent, 3), round(law.r_squared, 3)
(-0.5, 1.0)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError


class PowerLaw(NamedTuple):
    """y ≈ factor · x^exponent, and the R² of the line in logs.

    Args:
        factor: y where x is 1.
        exponent: the slope in logs.
        r_squared: share of the variance of log y that the line explains.
    """

    factor: float
    exponent: float
    r_squared: float


def power_law(x: Float[Tensor, "point"], y: Float[Tensor, "other"]) -> PowerLaw:
    """A straight line through log y against log x, by least squares.

    Args:
        x: above 0, at least two different values.
        y: above 0.
    """
    if len(x) != len(y) or bool((x <= 0).any()) or bool((y <= 0).any()) or len(x.unique()) < 2:
        raise CourseError("A power law needs at least two different x, and only numbers above 0.")
    a, b = x.double().log(), y.double().log()
    spread = (a - a.mean()).square().sum()
    slope = ((a - a.mean()) * (b - b.mean())).sum() / spread
    rest = b - b.mean() - slope * (a - a.mean())
    total = (b - b.mean()).square().sum()
    explained = 1.0 if float(total) == 0 else float(1 - rest.square().sum() / total)
    return PowerLaw(float((b.mean() - slope * a.mean()).exp()), float(slope), explained)


def frontier(compute: Float[Tensor, "run"], loss: Float[Tensor, "run"]) -> Bool[Tensor, "run"]:
    """Which runs nobody beats: no run that costs as much or less has a smaller loss.

    Args:
        compute: of each run.
        loss: of each run.
    """
    cheaper = compute[None] <= compute[:, None]
    beaten = cheaper & (loss[None] < loss[:, None])
    dearer = (compute[None] < compute[:, None]) & (loss[None] == loss[:, None])
    return ~(beaten | dearer).any(1)


def interval(
    x: Float[Tensor, "point"], y: Float[Tensor, "point"], draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """A 95% bootstrap interval of the exponent: points are drawn again and again, with replacement.

    Draws in which all x are one are left out.

    Args:
        x: of the points.
        y: of the points.
        draws: how many.
        seed: of the draws.
    """
    rng, found = generator(seed, 17), []
    for _ in range(draws):
        pick = torch.randint(len(x), (len(x),), generator=rng)
        if len(x[pick].unique()) > 1:
            found.append(power_law(x[pick], y[pick]).exponent)
    if not found:
        raise CourseError(
            "An interval needs points of at least two different x, and at least one draw that holds them."
        )
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
