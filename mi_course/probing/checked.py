"""What probes and erasures ask of rows and labels, said in one sentence where it is not so."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_course.errors import CourseError


def rows_of(x, name: str = "x") -> Float[Tensor, "row d"]:
    """`x` as 64-bit numbers [row d] with nothing missing."""
    try:
        rows = torch.as_tensor(x).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise CourseError(f"{name} must be an array of numbers [row d].") from None
    if rows.ndim != 2 or not rows.numel():
        raise CourseError(f"{name} must be [row d] with at least one row, not {list(rows.shape)}.")
    if not bool(rows.isfinite().all()):
        row, column = (~rows.isfinite()).nonzero()[0].tolist()
        raise CourseError(
            f"{name} holds NaN or infinity (first in row {row}, column {column}): drop such rows first."
        )
    return rows


def two_classes(z, n: int) -> Bool[Tensor, "row"]:
    """Labels [row] of a concept that is there or not, both of which occur."""
    labels = torch.as_tensor(z).detach().cpu()
    if labels.shape != (n,):
        raise CourseError(
            f"There are {n} rows, and the labels are {list(labels.shape)}: one label a row is needed."
        )
    values = labels.unique()
    if bool(values.isnan().any()) if values.is_floating_point() else False:
        raise CourseError("The labels hold NaN: drop such rows first.")
    if len(values) == 1:
        raise CourseError(
            f"All {n} labels are {values[0].item()}: with one class alone there is nothing to tell apart. Look at how "
            "the rows were split: is the label a function of the fold?"
        )
    if len(values) > 2 or not set(values.tolist()) <= {0, 1}:
        some = ", ".join(str(v) for v in values[:4].tolist())
        raise CourseError(
            f"Labels are 0 and 1 (or False and True), not {some}: ask about one concept at a time."
        )
    return labels.bool()


def concept_matrix(z, n: int) -> Float[Tensor, "row k"]:
    """What is to be erased, as numbers [row k]: labels 0 and 1, a class number a row, or columns of numbers."""
    given = torch.as_tensor(z).detach().cpu()
    if not len(given.shape) or len(given) != n or given.ndim > 2:
        raise CourseError(
            f"There are {n} rows, and the concept is {list(given.shape)}: [row] or [row k] is needed."
        )
    if given.is_floating_point() and not bool(given.isfinite().all()):
        raise CourseError("The concept holds NaN or infinity: drop such rows first.")
    if given.ndim == 1:
        values = given.unique()
        whole = not given.is_floating_point() or bool((values == values.round()).all())
        if len(values) == 1:
            raise CourseError(
                f"All {n} labels are {values[0].item()}: a concept that never changes cannot be erased."
            )
        given = (given[:, None] == values[1:]) if whole and len(values) <= 64 else given[:, None]
    columns = given.double()
    if not bool((columns.std(0) > 0).all()):
        raise CourseError("A column of the concept never changes: there is nothing to erase in it.")
    return columns


def few_rows(n: int, d: int) -> bool:
    """Whether n rows are too few to estimate the covariance of d columns; warns where they are."""
    if n > d:
        return False
    warnings.warn(
        f"{n} rows are fewer than {d} dimensions need, so their covariance is singular. It is shrunk towards a "
        "multiple of the identity (Ledoit and Wolf 2004): these rows are still erased exactly, new ones are not.",
        stacklevel=3,
    )
    return True
