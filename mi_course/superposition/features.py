"""Sparse features and their expected losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError, nearest
from mi_course.superposition.models import MAX_BYTES, ToyModels, WeightedError, affordable, step_bytes

# -- features ------------------------------------------------------------------------------------


def importances(n: int, ratio: float | int = 1.0) -> Float[Tensor, "n"]:
    """I_i = ratio^i: what an error on feature i weighs in the loss, the first of `n` features 1."""
    if n < 1 or not ratio > 0:
        raise CourseError(f"Importances need n ≥ 1 features and a ratio above 0, not n = {n}, ratio {ratio}.")
    return torch.tensor(float(ratio)) ** torch.arange(n)


@dataclass(frozen=True)
class Features:
    """A world of n sparse features, uniform on [0, 1] (or [−1, 1] if `signed`) where active.

    `density` is 1−S: one number, one per feature [n], one per model [inst, 1], or both [inst, n]. `together`:
    features come in sets of `set_size` that are active at the same time, each with its own value ("correlated").
    `apart`: at most one member of a set is active, chosen evenly ("anticorrelated"); the density is then that of the
    set. `importance` weighs the squared errors, [n] or [inst, n]; left out, all weigh 1. `correlation` is
    independent, together or apart.
    """

    n: int
    density: float | int | Tensor
    importance: Tensor | None = None
    correlation: str = "independent"
    set_size: int = 1
    signed: bool = False

    def __post_init__(self):
        if self.n < 1:
            raise CourseError(f"A world needs at least one feature, not n = {self.n}.")
        p = torch.as_tensor(self.density, dtype=torch.float)
        weight = torch.ones(self.n) if self.importance is None else self.importance
        if not bool(((p > 0) & (p <= 1)).all()):
            raise CourseError(
                "A density 1−S lies above 0 and at most at 1; sparsity S = 1 would be no feature at all."
            )
        if p.ndim > 2 or (p.ndim and p.shape[-1] not in (1, self.n)):
            raise CourseError(
                f"density has shape {list(p.shape)}: a number, [{self.n}], [inst, 1] or [inst, {self.n}]."
            )
        if (
            weight.ndim not in (1, 2)
            or weight.shape[-1] != self.n
            or not bool((weight.isfinite() & (weight >= 0)).all())
        ):
            raise CourseError(
                f"importance has one finite number ≥ 0 a feature, [{self.n}] or [inst, {self.n}]."
            )
        if self.correlation not in ("independent", "together", "apart"):
            known = ("independent", "together", "apart")
            raise CourseError(
                f"There is no correlation {self.correlation!r}.{nearest(self.correlation, known)}"
            )
        if self.set_size < 1 or self.n % self.set_size:
            raise CourseError(f"Sets of {self.set_size} do not divide {self.n} features.")

    @property
    def weight(self) -> Float[Tensor, "*inst n"]:
        """The importances, ones where none were given."""
        return torch.ones(self.n) if self.importance is None else self.importance.float()

    @property
    def p(self) -> Float[Tensor, "*inst n_or_1"]:
        """The density with an axis for features, and one for models where it differs between them."""
        p = torch.as_tensor(self.density, dtype=torch.float)
        return p if p.ndim else p[None]

    def sampler(self, batch: int, seed: int = 0) -> Callable[[int], Tensor]:
        """`sample(step)`: x [batch n], or [inst batch n] where densities differ between models.

        All models of a step see the same random numbers, so one trained alone sees what it would see in company.
        `batch` is how many inputs a step has; step and `seed` decide them.
        """
        return lambda step: self.draw(batch, generator(seed, step)).mT

    def sample(self, batch: int, rng: torch.Generator) -> Float[Tensor, "*inst batch n"]:
        """One draw. With r uniform, the feature is active where r < p, and r/p is then uniform again.

        `rng` draws `batch` inputs.
        """
        return self.draw(batch, rng).mT.contiguous()

    def draw(self, batch: int, rng: torch.Generator) -> Float[Tensor, "*inst n batch"]:
        """The same with the batch last, which is how models of few features compute fastest.

        `rng` draws the numbers.
        """
        p, uniform = self.p.unsqueeze(-1), lambda rows: torch.rand(batch, rows, generator=rng).T.contiguous()
        if self.correlation == "independent" and not self.signed:
            r = uniform(self.n) / -p  # r/p where that is below 1, in few passes
            return nn.functional.threshold_(r, -1.0, -0.0).neg_()
        if self.correlation == "independent":
            value = uniform(self.n) / p
            active = value < 1
        else:
            p = p[..., :: self.set_size, :] if p.shape[-2] == self.n else p
            gate = uniform(self.n // self.set_size) / p
            value = uniform(self.n)
            active = (gate < 1).repeat_interleave(self.set_size, -2)
            if self.correlation == "apart":
                member = torch.arange(self.n)[:, None] % self.set_size
                active &= (gate * self.set_size).long().repeat_interleave(self.set_size, -2) == member
        return torch.where(active, 2 * value - 1 if self.signed else value, 0.0)

    def losses(self, models: ToyModels, x: Float[Tensor, "*inst batch n"]) -> Float[Tensor, "inst"]:
        """Σ_i I_i (|x_i| − x'_i)² of each of `models`, a mean over the batch `x`."""
        target, weight = x.abs() if self.signed else x, self.weight.to(x.device) / x.shape[-2]
        relu = models.cfg.output == "relu"
        return WeightedError.apply(models.before_output(x), target, weight, None, relu)

    @torch.no_grad()
    def expected_losses(
        self, models: ToyModels, samples: int = 2**16, seed: int = 10**6, chunk: int = 2**12
    ) -> Float[Tensor, "inst"]:
        """The loss of each model on `samples` fresh inputs, the same for all: what restarts are compared by.

        `models` are run on `chunk` inputs at a time, as many whole chunks as `samples` hold; `seed` draws them.
        """
        chunk = min(chunk, samples)
        if chunk < 1:
            raise CourseError("An expected loss needs samples ≥ 1 and chunk ≥ 1.")
        affordable(models, chunk, "with a smaller chunk")
        parts = [
            self.losses(models, self.draw(chunk, generator(seed, i)).mT) for i in range(samples // chunk)
        ]
        return torch.stack(parts).mean(0)


class Quadrature:
    """The same world without chance: every set of up to `max_k` active features, integrated by Gauss's rule.

    E[loss] = Σ_k Σ_(|A|=k) P(A) ∫ loss over the values of A: the k-sparse terms of Elhage et al. (2022), where P(A) =
    Π_A p_i Π_(not A) (1−p_j). `points` [point n] with `weights` [*inst point] is a batch that never changes; `k`
    [point] says which term a point belongs to. Independent, unsigned features only; n up to about 6. `world` is what
    is integrated, with `nodes` points for each active feature.
    """

    def __init__(self, world: Features, nodes: int = 16, max_k: int | None = None):
        if world.correlation != "independent" or world.signed:
            raise CourseError("Terms are enumerated for independent features between 0 and 1.")
        self.n, self.weight = world.n, world.weight
        max_k = self.n if max_k is None else max_k
        if nodes < 1 or not 0 <= max_k <= self.n:
            raise CourseError(
                f"Terms need at least one node and 0 ≤ max_k ≤ {self.n}, not {nodes} and {max_k}."
            )
        size = sum(math.comb(self.n, k) * nodes**k for k in range(max_k + 1))
        if step_bytes(1, size, self.n) > MAX_BYTES:
            raise CourseError(f"{size:,} points are too many: take fewer nodes, a smaller max_k, or sample.")
        x, w = (torch.tensor(a, dtype=torch.float) for a in np.polynomial.legendre.leggauss(nodes))
        x, w = (x + 1) / 2, w / 2  # from [−1, 1] to [0, 1]
        p = world.p.expand(*world.p.shape[:-1], self.n)
        points, weights, terms = [], [], []
        for k in range(max_k + 1):
            grid = torch.cartesian_prod(*[x] * k).reshape(-1, k) if k else torch.zeros(1, 0)
            share = torch.cartesian_prod(*[w] * k).reshape(-1, k).prod(1) if k else torch.ones(1)
            for active in combinations(range(self.n), k):
                here = torch.zeros(len(grid), self.n)
                here[:, list(active)] = grid
                on = torch.zeros(self.n, dtype=torch.bool)
                on[list(active)] = True
                points.append(here)
                weights.append(torch.where(on, p, 1 - p).prod(-1, keepdim=True) * share)
                terms.append(torch.full((len(grid),), k))
        self.points, self.weights = torch.cat(points).T.contiguous().T, torch.cat(weights, -1)
        self.k = torch.cat(terms)

    def sampler(self, batch: int = 0, seed: int = 0) -> Callable[[int], Tensor]:
        """Every step sees all points; `batch` and `seed` are there as in `Features.sampler`, and change nothing."""
        return lambda step: self.points

    def losses(self, models: ToyModels, x: Float[Tensor, "point n"]) -> Float[Tensor, "inst"]:
        """The expected loss of each of `models`, exact up to Gauss's rule; `x` are all the points."""
        relu = models.cfg.output == "relu"
        return WeightedError.apply(models.before_output(x), x, self.weight, self.weights, relu)

    @torch.no_grad()
    def terms(self, models: ToyModels) -> Float[Tensor, "k inst"]:
        """The part of the expected loss of each of `models` from inputs with exactly k active features, k = 0 … max_k."""
        error = (models.squared_errors(self.points) * self.weight.unsqueeze(-2)).sum(-1) * self.weights
        return torch.stack([error[:, self.k == k].sum(1) for k in range(int(self.k.max()) + 1)])

    def expected_losses(self, models: ToyModels) -> Float[Tensor, "inst"]:
        """All terms together, for each of `models`."""
        return self.terms(models).sum(0)
