"""The case of two features in one dimension, solved."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.errors import CourseError

# -- closed forms, n = 2 and m = 1 ---------------------------------------------------------------


def ignored_loss(p: float | Tensor, importance: float | int | Tensor = 1.0) -> float | Tensor:
    """I (p/3 − p²/4): a feature without a direction, its bias at the mean p/2; the variance of a sparse uniform.

    In n = 2, m = 1 this is the loss of W = [1, 0] with the extra feature's I, and of [0, 1] with I = 1. `p` is the
    share of inputs on which a feature is active, and `importance` is I.
    """
    return importance * (p / 3 - p**2 / 4)


def antipodal_loss(p: float | Tensor, importance: float | int | Tensor = 1.0) -> float | Tensor:
    """p² (1 + I)/6: two features at W = [1, −1] without bias; they only hurt each other when both are active.

    `p` is the share of inputs on which a feature is active, and `importance` is I, that of the second one.
    """
    return p**2 * (1 + importance) / 6


def crossover(importance: float | int | Tensor) -> Float[Tensor, "*shape"]:
    """p*(I): below this density the antipodal pair has the lowest of the three losses (n = 2, m = 1).

    4I/(2+5I) for an extra feature of importance I ≤ 1 and 4/(5+2I) above: where p²(1+I)/6 meets the loss of
    ignoring the less important of the two. 4/7 at I = 1. Derived in notebook 04.
    """
    importance = torch.as_tensor(importance, dtype=torch.float)
    if not bool((importance > 0).all()):
        raise CourseError("The crossover needs an importance above 0.")
    return torch.where(importance <= 1, 4 * importance / (2 + 5 * importance), 4 / (5 + 2 * importance))
