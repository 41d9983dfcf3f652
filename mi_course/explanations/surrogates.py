"""LIME: a weighted linear model around one instance (Ribeiro et al. 2016). Derived in notebook 13."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError, nearest
from mi_course.explanations.checked import Model, instance_and_background, outputs, warn_of_codes

AROUND = ("gaussian", "switch")


class Surrogate(NamedTuple):
    """A linear model that stands in for another one near a point.

    Output ≈ `intercept` + `coefficients` · features. `r_squared` is weighted, on the draws that it was fitted to;
    `effective` = (Σw)² / Σw² of these draws the fit is worth.
    """

    coefficients: Float[Tensor, "feature"]
    intercept: Float[Tensor, ""]
    r_squared: float  # weighted, on the draws that it was fitted to
    effective: float  # (Σw)² / Σw²: of so many draws the fit is worth


def kernel(distance_squared: Float[Tensor, "draw"], width: float | int) -> Float[Tensor, "draw"]:
    """exp(−D² / width²): 1 at the instance, e⁻¹ at one width.

    `distance_squared` is D², in the units of `width`.
    """
    if width <= 0:
        raise CourseError(f"width={width}: a kernel's width is above zero.")
    return (-distance_squared / width**2).exp()


def weighted_fit(
    Z: Float[Tensor, "draw feature"],
    y: Float[Tensor, "draw"],
    w: Float[Tensor, "draw"],
    ridge: float | int = 0.0,
) -> tuple[Float[Tensor, "feature"], Float[Tensor, ""]]:
    """Coefficients and intercept that make Σ w (y − a − Z b)² + ridge |b|² smallest."""
    share = w / w.sum()
    mean_Z, mean_y = share @ Z, share @ y
    root = share.sqrt()[:, None]
    A, target = root * (Z - mean_Z), root[:, 0] * (y - mean_y)
    if ridge:
        A = torch.cat([A, (ridge / w.sum()).sqrt() * torch.eye(Z.shape[1]).double()])
        target = torch.cat([target, torch.zeros(Z.shape[1]).double()])
    b = torch.linalg.lstsq(A, target[:, None], driver="gelsd").solution[:, 0]
    return b, mean_y - mean_Z @ b


def weighted_r_squared(
    y: Float[Tensor, "draw"], guess: Float[Tensor, "draw"], w: Float[Tensor, "draw"]
) -> float:
    """1 − Σ w (y − guess)² / Σ w (y − ȳ)²: 1 is perfect, 0 no better than the weighted mean, below 0 worse."""
    spread = (w * (y - (w * y).sum() / w.sum()) ** 2).sum()
    if spread <= 1e-12 * w.sum() * (1 + y.abs().max() ** 2):
        raise CourseError("The model is constant where LIME looks: there is nothing to explain.")
    return float(1 - (w * (y - guess) ** 2).sum() / spread)


def draws_around(
    x: Tensor, background: Tensor, around: str, n: int, rng: torch.Generator, step: float | int = 1.0
) -> tuple[Float[Tensor, "draw feature"], Float[Tensor, "draw feature"]]:
    """(what the surrogate reads, what the model reads).

    "gaussian": steps of `step` standard deviations of the background in every direction, read in those units.
    "switch": every feature stays as in x (1) or comes from a background row (0), each with probability ½.
    """
    if around not in AROUND:
        raise CourseError(f"There is no neighbourhood {around!r}.{nearest(around, AROUND)}")
    if around == "switch":
        kept = torch.rand(n, len(x), generator=rng) < 0.5
        rows = background[torch.randint(len(background), (n,), generator=rng)]
        return kept.double(), torch.where(kept, x, rows)
    if len(background) < 2:
        raise CourseError("Gaussian steps take their size from the background: it needs at least two rows.")
    warn_of_codes(background)
    steps = step * torch.randn(n, len(x), generator=rng).double()
    return steps, x + steps * background.std(0)


def lime(
    model: Model,
    x: Float[Tensor, "feature"],
    background: Float[Tensor, "row width"],
    *,
    width: float | int | None = None,
    draws: int = 5000,
    around: str = "gaussian",
    step: float | int = 1.0,
    ridge: float | int = 0.0,
    seed: int = 0,
) -> Surrogate:
    """LIME by its definition: draw around x, weight by nearness, fit a line.

    Distances are Euclidean in what the surrogate reads; `width` is 0.75 √n if left out, as in the authors' code. A
    narrow kernel makes the surrogate faithful and leaves few draws to fit it (`effective`); a wide one the reverse.
    Smaller steps than the authors' (`step`, in standard deviations) save a narrow kernel from throwing draws away. A
    constant feature gets 0. `model` takes rows of inputs, and `background` rows give the features' means and spreads;
    `draws` are made with `seed`, and `ridge` is the penalty on squared coefficients.
    """
    x, background = instance_and_background(x, background)
    width = 0.75 * len(x) ** 0.5 if width is None else width
    Z, rows = draws_around(x, background, around, draws, generator(seed, 14), step)
    centre = 1.0 if around == "switch" else 0.0
    w = kernel((Z - centre).square().sum(1), width)
    effective = float(w.sum() ** 2 / w.square().sum()) if bool(w.sum() > 0) else 0.0
    if effective < len(x) + 2:
        raise CourseError(
            f"At width {width:.3g} the {draws:,} draws are worth {effective:.1f}, too few for {len(x) + 1} numbers: take "
            "more draws or a wider kernel."
        )
    y = outputs(model, rows)
    moves = (rows != x).any(0)  # a feature that never differs cannot be credited
    b, a = weighted_fit(Z * moves, y, w, ridge)
    return Surrogate(b * moves, a, weighted_r_squared(y, a + Z * moves @ b, w), effective)


def rank_of_change(one: Float[Tensor, "feature"], other: Float[Tensor, "feature"], top: int = 3) -> bool:
    """Whether between the credits `one` and `other` another `top` come first, in size, or one of them has changed its sign."""
    first, second = (set(c.abs().topk(top).indices.tolist()) for c in (one, other))
    return first != second or any(float(one[j] * other[j]) < 0 for j in first)
