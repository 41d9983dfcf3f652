"""Toy models of superposition: many tiny autoencoders trained side by side, and the shapes their features take.

Everything is from Elhage et al. (2022) and derived by hand in notebook 04. A model squeezes n sparse features into
m < n hidden dimensions and has to get them back: h = W x, x' = ReLU(Wᵀh + b). Column W_i of W [m n] is feature i's
direction. One `ToyModels` holds many such models along a leading `inst` axis, so that densities, seeds and restarts
train in one tensor program. The density p = 1−S is the chance that a feature is active.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from mi_course.errors import CourseError, nearest
from mi_course.superposition.models import checked

REPRESENTED = 0.5  # a feature counts as represented when ‖W_i‖ is above this


# -- geometry ------------------------------------------------------------------------------------


def feature_norms(W: Float[Tensor, "*inst m n"]) -> Float[Tensor, "*inst n"]:
    """‖W_i‖, the length of each feature's direction in `W`."""
    return checked(W).norm(dim=-2)


def represented(W: Float[Tensor, "*inst m n"], above: float = REPRESENTED) -> Bool[Tensor, "*inst n"]:
    """Which features of `W` have a direction at all: ‖W_i‖ is `above` 0.5."""
    return feature_norms(W) > above


def features_per_dimension(W: Float[Tensor, "*inst m n"]) -> Float[Tensor, "*inst"]:
    """‖W‖²_F / m; the paper plots its inverse, dimensions per feature, m / ‖W‖²_F."""
    return W.square().sum((-2, -1)) / W.shape[-2]


def feature_dimensionality(W: Float[Tensor, "*inst m n"]) -> Float[Tensor, "*inst n"]:
    """D_i = ‖W_i‖² / Σ_j (Ŵ_i · W_j)²: the share of a dimension a feature has for itself.

    1 for a feature alone, 1/2 in an antipodal pair, 2/5 in a pentagon; 0 for a column of zeros, by definition here.
    ΣD_i ≤ rank W (notebook 04). Elhage et al. (2022), "the geometry of superposition".
    """
    W = checked(W)
    overlap = (W.mT @ W).square().sum(-1)  # Σ_j (W_i · W_j)², which is ‖W_i‖² Σ_j (Ŵ_i · W_j)²
    return torch.where(overlap > 0, feature_norms(W) ** 4 / overlap.clamp_min(torch.finfo(W.dtype).tiny), 0.0)


def cosines(W: Float[Tensor, "*inst m n"]) -> Float[Tensor, "*inst n n"]:
    """Ŵ_i · Ŵ_j for the columns of `W`; 0 with a column of zeros."""
    unit = W / feature_norms(W).unsqueeze(-2).clamp_min(1e-12)
    return unit.mT @ unit


def components(
    W: Float[Tensor, "m n"], above: float = 0.05, of: Bool[Tensor, "n"] | None = None
) -> list[list[int]]:
    """The parts into which the interference graph falls: features i, j are linked where |W_i · W_j| > `above`.

    Only represented features count, or those in `of`. A part is one factor of a tegum product: a polytope that has
    some dimensions to itself. `W` is one model's.
    """
    nodes = torch.nonzero(represented(W) if of is None else of).flatten().tolist()
    links = (W.mT @ W)[nodes][:, nodes].abs() > above
    n_parts, part = connected_components(links.numpy(), directed=False)
    return [[node for node, own in zip(nodes, part, strict=True) if own == k] for k in range(n_parts)]


def cross_part_overlap(W: Float[Tensor, "m n"], parts: Sequence[Sequence[int]]) -> float:
    """The largest |W_i · W_j| between features of different parts; 0 for one part.

    `W` holds a column for each feature; `parts` are lists of features, as `components` gives them.
    """
    dots = (W.mT @ W).abs()
    pairs = [dots[a][:, b].max() for a, b in combinations([list(part) for part in parts], 2)]
    return float(max(pairs, default=torch.tensor(0.0)))


def tegum(*shapes: Float[Tensor, "_ _"]) -> Float[Tensor, "m n"]:
    """The tegum product: each shape in dimensions of its own, block by block; D of each feature stays what it was.

    `shapes` are matrices with a column for each feature.
    """
    return torch.block_diag(*shapes)


def regular_polygon(n: int) -> Float[Tensor, "2 n"]:
    """n unit vectors, evenly round a circle."""
    if n < 2:
        raise CourseError(f"A polygon has at least two corners, not {n}.")
    angle = 2 * math.pi * torch.arange(n, dtype=torch.double) / n
    return torch.stack([angle.cos(), angle.sin()])


def square_antiprism(height: float = 1 / math.sqrt(3)) -> Float[Tensor, "3 8"]:
    """Two squares of corners on the unit sphere, at z = ±height, one turned by 45° against the other.

    With unit corners D is 3/8 at height 1/√3, where WWᵀ is a multiple of the identity; elsewhere it is not.
    """
    if not 0 <= height <= 1:
        raise CourseError(f"Corners on the unit sphere have a height between 0 and 1, not {height}.")
    top = math.pi / 2 * torch.arange(4, dtype=torch.double)
    angle = torch.cat([top, top + math.pi / 4])
    z = torch.tensor([height] * 4 + [-height] * 4, dtype=torch.double)
    radius = math.sqrt(1 - height**2)
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z])


def tight_frame(n: int, m: int, *, seed: int = 0, rounds: int = 300) -> Float[Tensor, "m n"]:
    """n random unit vectors with WWᵀ = (n/m) I: every D is m/n, whatever the shape. A null for polytopes.

    Alternating projection: the nearest tight frame (WWᵀ)^(−1/2) W, then columns of length 1, until both hold. `seed`
    draws the first vectors; there are so many `rounds`.
    """
    if not 1 <= m <= n:
        raise CourseError(f"A tight frame needs at least as many vectors as dimensions, not {n} in {m}.")
    W = torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    for _ in range(rounds):
        left, _, right = torch.linalg.svd(W, full_matrices=False)
        W = left @ right
        W = W / W.norm(dim=0)
    return W


def polytope(name: str) -> Float[Tensor, "dim n"]:
    """The corners of a named polytope as columns of unit length, in double precision.

    `name` is one such as pentagon or triangular bipyramid.
    """
    digon = torch.tensor([[1.0, -1.0]], dtype=torch.double)
    triangle = regular_polygon(3)
    tetrahedron = torch.tensor(
        [[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], dtype=torch.double
    ) / math.sqrt(3)
    shapes = {
        "digon": digon, "triangle": triangle, "square": regular_polygon(4), "pentagon": regular_polygon(5),
        "tetrahedron": tetrahedron, "triangular bipyramid": tegum(triangle, digon),
        "pentagonal bipyramid": tegum(regular_polygon(5), digon), "octahedron": tegum(digon, digon, digon),
        "square antiprism": square_antiprism(),
    }  # fmt: skip
    if name not in shapes:
        raise CourseError(f"There is no polytope {name!r}.{nearest(name, shapes)}")
    return shapes[name]


def on_list(
    D: Float[Tensor, "*shape"], levels: Collection[float | int], within: float
) -> Bool[Tensor, "*shape"]:
    """Whether each D lies `within` a distance of one of the `levels`."""
    levels = torch.tensor(list(levels), dtype=D.dtype)
    return ((D.unsqueeze(-1) - levels).abs() <= within).any(-1)


# -- neurons -------------------------------------------------------------------------------------


def top_share(W: Float[Tensor, "*inst m n"]) -> Float[Tensor, "*inst m"]:
    """max_i W_ki² / Σ_i W_ki²: the part of a neuron's squared weight that its largest feature holds; 0 when dead.

    `W` has a row for each neuron.
    """
    mass = checked(W).square()
    total = mass.sum(-1)
    return torch.where(total > 1e-6, mass.amax(-1) / total.clamp_min(1e-12), 0.0)


def monosemantic(W: Float[Tensor, "*inst m n"], above: float = 0.95) -> Bool[Tensor, "*inst m"]:
    """Which neurons listen to one feature: its share of the squared weight is at least 95%. A dead one is not.

    `W` has a row for each neuron; `above` is the share that is asked for.
    """
    return top_share(W) >= above


def features_per_neuron(W: Float[Tensor, "*inst m n"]) -> Float[Tensor, "*inst m"]:
    """(Σ_i W_ki²)² / Σ_i W_ki⁴: how many features share a neuron, 1 for one, k for k equal ones; 0 when dead.

    `W` has a row for each neuron.
    """
    mass = checked(W).square()
    return torch.where(mass.sum(-1) > 1e-6, participation_ratio(mass), 0.0)


def participation_ratio(mass: Float[Tensor, "*some unit"]) -> Float[Tensor, "*some"]:
    """(Σ m)² / Σ m²: over how many units a `mass` is spread, 1 for one, n for n equal ones; 0 where there is none."""
    return mass.sum(-1) ** 2 / mass.square().sum(-1).clamp_min(torch.finfo(mass.dtype).tiny)


# -- attacks -------------------------------------------------------------------------------------


def optimal_attack(W: Float[Tensor, "m n"], feature: int, norm: float | int) -> Float[Tensor, "n"]:
    """The small change of the input that moves output i most: along row i of WᵀW, of length `norm` (an L2 attack).

    x'_i changes by (WᵀW)_i · δ to first order, which Cauchy and Schwarz make largest along (WᵀW)_i itself: by norm ·
    ‖(WᵀW)_i‖. Without superposition that row is e_i, and the attack is an honest change of x_i alone. `W` is one
    model's, and `feature` is i.
    """
    if not 0 <= feature < checked(W).shape[1]:
        raise CourseError(f"There is no feature {feature} among {W.shape[1]}.")
    row = W[:, feature] @ W
    if not float(row.norm()) > 0:
        raise CourseError(
            f"Feature {feature} is not represented: no small change of the input moves its output."
        )
    return norm * row / row.norm()


# -- dynamics ------------------------------------------------------------------------------------


def largest_changes(series: Float[Tensor, "time *rest"], window: int) -> Float[Tensor, "start *rest"]:
    """|value(t + window) − value(t)| for every start t of `series`, whose first axis is time."""
    if not 1 <= window < len(series):
        raise CourseError(f"A window of {window} does not fit into {len(series)} entries.")
    return (series[window:] - series[:-window]).abs()
