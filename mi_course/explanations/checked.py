"""What every explanation asks of its input, said in one sentence where it is not so."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from mi_course.errors import CourseError, first_line

Model = Callable[[Tensor], Tensor]  # rows [row feature] → one number a row


def numbers(name: str, given, ndim: int) -> Tensor:
    """`given` as 64-bit numbers with `ndim` axes and nothing missing."""
    try:
        values = torch.as_tensor(given).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise CourseError(f"{name} must be an array of numbers; words need a code for each first.") from None
    if values.ndim != ndim or not values.numel():
        axes = {1: "[feature]", 2: "[row feature]"}[ndim]
        raise CourseError(f"{name} must be {axes} with at least one entry, not {list(values.shape)}.")
    if not bool(values.isfinite().all()):
        where = (~values.isfinite()).nonzero()[0].tolist()
        raise CourseError(
            f"{name} holds NaN or infinity (first at {where}): fill or drop such rows, since an explanation would "
            "credit the filling."
        )
    return values


def instance_and_background(x, background, most: int = 1) -> tuple[Tensor, Tensor]:
    """The instance [feature] (or, with most=2, instances [row feature]) and the background [row feature], of one width."""
    x = numbers("x", x, 2 if most == 2 and getattr(x, "ndim", 1) == 2 else 1)
    background = numbers("background", background, 2)
    if background.shape[1] != x.shape[-1]:
        raise CourseError(f"x has {x.shape[-1]} features, and the background {background.shape[1]}.")
    return x, background


def asked(model: Model, rows: Tensor):
    """What the `model` makes of `rows` in 64 bits; one sentence where it computes in 32 and does not take them."""
    try:
        return model(rows)
    except (RuntimeError, ValueError) as error:
        if not any(word in str(error) for word in ("dtype", "Double", "double", "float64")):
            raise
        raise CourseError(
            f"Rows are numbers of 64 bits, and the model does not take them ({first_line(error)}): hand in "
            "model.double(), or lambda rows: model(rows.float())."
        ) from error


def outputs(model: Model, rows: Tensor) -> Tensor:
    """The model's outputs [row] in 64 bits; models of two outputs must be told which one is meant."""
    with torch.no_grad():
        out = torch.as_tensor(asked(model, rows)).detach().double()
    if out.shape != rows.shape[:1]:
        raise CourseError(
            f"The model gave {list(out.shape)} for {len(rows)} rows: one number a row is explained, so pick an output, "
            "as in lambda rows: model(rows)[:, 1]."
        )
    if not bool(out.isfinite().all()):
        raise CourseError("The model gave NaN or infinity for some rows that mix x with the background.")
    return out


def warn_of_codes(background: Tensor) -> None:
    """A column of three to twelve whole numbers may be codes of categories, between which there is nothing."""
    for j, column in enumerate(background.T):
        values = column.unique()
        if 3 <= len(values) <= 12 and bool((values == values.round()).all()):
            warnings.warn(
                f"Feature {j} holds {len(values)} whole numbers only. If they are codes of categories, a step between "
                "them means nothing: give each category a column of its own.",
                stacklevel=3,
            )
