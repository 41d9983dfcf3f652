"""Permutation importance: what a model loses when one column is shuffled (Breiman 2001). Derived in notebook 13."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.explanations.checked import Model, numbers, outputs

Loss = Callable[[Tensor, Tensor], Tensor]  # outputs [row], targets [row] → loss [row]


class Importance(NamedTuple):
    """Mean `rise` of the loss when a feature is shuffled, and its standard error over rows, `se`."""

    rise: Float[Tensor, "feature"]
    se: Float[Tensor, "feature"]


def squared_error(guess: Tensor, y: Tensor) -> Tensor:
    return (guess - y) ** 2


def permutation_importance(
    model: Model,
    X: Float[Tensor, "row feature"],
    y: Float[Tensor, "target"],
    *,
    loss: Loss = squared_error,
    repeats: int = 20,
    columns: list[int] | None = None,
    seed: int = 0,
) -> Importance:
    """How much the loss rises when one column is shuffled, each alone: a statement about a data set, not a prediction.

    On held-out rows it asks what the model uses that is true; on training rows it also credits what it has learnt by
    heart. The standard error is over rows, of each row's rise averaged over the shuffles. A copy of a column halves
    it or worse, for the other one stays as it was. With the squared error and y the model's own output, an additive
    feature of variance V scores 2 V. `columns` are those asked for, in this order; all if left out. `X` holds a row
    of features for each target in `y`; `loss` (output, target) gives one number a row; each column is shuffled in
    `repeats` orders, drawn by `seed`.
    """
    X, y = numbers("X", X, 2), numbers("y", y, 1)
    if len(y) != len(X):
        raise CourseError(f"X has {len(X)} rows, and y {len(y)}.")
    if len(X) < 2 or repeats < 1:
        raise CourseError("A shuffle needs at least two rows and one repeat.")
    columns = list(range(X.shape[1])) if columns is None else columns
    if wrong := [j for j in columns if not 0 <= j < X.shape[1]]:
        raise CourseError(f"There is no column {wrong[0]}: columns are 0…{X.shape[1] - 1}.")
    rng, before = generator(seed, 15), loss(outputs(model, X), y)
    rises = torch.zeros(len(columns), len(X)).double()
    for _ in range(repeats):
        for rise, j in zip(rises, columns):
            shuffled = X.clone()
            shuffled[:, j] = X[torch.randperm(len(X), generator=rng), j]
            rise += (loss(outputs(model, shuffled), y) - before) / repeats
    return Importance(rises.mean(1), rises.std(1) / len(X) ** 0.5)
