"""Toy models of superposition: many tiny autoencoders trained side by side, and the shapes their features take.

Everything is from Elhage et al. (2022) and derived by hand in notebook 04. A model squeezes n sparse features into
m < n hidden dimensions and has to get them back: h = W x, x' = ReLU(Wᵀh + b). Column W_i of W [m n] is feature i's
direction. One `ToyModels` holds many such models along a leading `inst` axis, so that densities, seeds and restarts
train in one tensor program. The density p = 1−S is the chance that a feature is active.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mi_course.corpora import generator
from mi_course.errors import CourseError, nearest
from mi_course.training import History, TrainConfig, fit

REPRESENTED = 0.5  # a feature counts as represented when ‖W_i‖ is above this
MAX_BYTES = 2**31  # a training step may take this much memory, estimated before the first

# -- features ------------------------------------------------------------------------------------


def importances(n: int, ratio: float | int = 1.0) -> Float[Tensor, "n"]:
    """I_i = ratio^i: what an error on feature i weighs in the loss, the first feature 1."""
    if n < 1 or not ratio > 0:
        raise CourseError(f"Importances need n ≥ 1 features and a ratio above 0, not n = {n}, ratio {ratio}.")
    return torch.tensor(float(ratio)) ** torch.arange(n)


@dataclass(frozen=True)
class Features:
    """A world of n sparse features, uniform on [0, 1] (or [−1, 1] if `signed`) where active.

    `density` is 1−S: one number, one per feature [n], one per model [inst, 1], or both [inst, n].
    `together`: features come in sets of `set_size` that are active at the same time, each with its own value
    ("correlated"). `apart`: at most one member of a set is active, chosen evenly ("anticorrelated"); the density
    is then that of the set. `importance` weighs the squared errors, [n] or [inst, n]; left out, all weigh 1.
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
        """
        return lambda step: self.draw(batch, generator(seed, step)).mT

    def sample(self, batch: int, rng: torch.Generator) -> Float[Tensor, "*inst batch n"]:
        """One draw. With r uniform, the feature is active where r < p, and r/p is then uniform again."""
        return self.draw(batch, rng).mT.contiguous()

    def draw(self, batch: int, rng: torch.Generator) -> Float[Tensor, "*inst n batch"]:
        """The same with the batch last, which is how models of few features compute fastest."""
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
        """Σ_i I_i (|x_i| − x'_i)² of each model, a mean over the batch."""
        target, weight = x.abs() if self.signed else x, self.weight.to(x.device) / x.shape[-2]
        relu = models.cfg.output == "relu"
        return WeightedError.apply(models.before_output(x), target, weight, None, relu)

    @torch.no_grad()
    def expected_losses(
        self, models: ToyModels, samples: int = 2**16, seed: int = 10**6, chunk: int = 2**12
    ) -> Float[Tensor, "inst"]:
        """The loss of each model on `samples` fresh inputs, the same for all: what restarts are compared by."""
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

    E[loss] = Σ_k Σ_(|A|=k) P(A) ∫ loss over the values of A: the k-sparse terms of Elhage et al. (2022), where
    P(A) = Π_A p_i Π_(not A) (1−p_j). `points` [point n] with `weights` [*inst point] is a batch that never changes;
    `k` [point] says which term a point belongs to. Independent, unsigned features only; n up to about 6.
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
        """Every step sees all points."""
        return lambda step: self.points

    def losses(self, models: ToyModels, x: Float[Tensor, "point n"]) -> Float[Tensor, "inst"]:
        """The expected loss of each model, exact up to Gauss's rule."""
        relu = models.cfg.output == "relu"
        return WeightedError.apply(models.before_output(x), x, self.weight, self.weights, relu)

    @torch.no_grad()
    def terms(self, models: ToyModels) -> Float[Tensor, "k inst"]:
        """The part of the expected loss from inputs with exactly k active features, k = 0 … max_k."""
        error = (models.squared_errors(self.points) * self.weight.unsqueeze(-2)).sum(-1) * self.weights
        return torch.stack([error[:, self.k == k].sum(1) for k in range(int(self.k.max()) + 1)])

    def expected_losses(self, models: ToyModels) -> Float[Tensor, "inst"]:
        """All terms together."""
        return self.terms(models).sum(0)


# -- models --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToyConfig:
    """The shape of a toy model: n features through m hidden dimensions and back."""

    n: int
    m: int
    hidden: str = "linear"  # h = W x, or "relu": h = ReLU(W x), which makes neurons special
    output: str = "relu"  # x' = ReLU(W_out h + b), or "linear": the control
    tied: bool = True  # W_out = Wᵀ; untied, W_out [n m] is learned on its own

    def __post_init__(self):
        if self.n < 1 or self.m < 1:
            raise CourseError(
                f"A toy model needs n ≥ 1 features and m ≥ 1 dimensions, not {self.n} and {self.m}."
            )
        for name in ("hidden", "output"):
            if getattr(self, name) not in ("linear", "relu"):
                raise CourseError(f"{name} is 'linear' or 'relu', not {getattr(self, name)!r}.")


class WeightedError(torch.autograd.Function):
    """Σ_i I_i Σ_b share_b (target − output)² of each model: the loss of all worlds.

    Its gradient, 2 I_i share_b (output − target) where a ReLU lets it through, is written out, because autograd
    goes over the batch twice as often.
    """

    @staticmethod
    def forward(ctx, before, target, weight, share, relu: bool):
        """`before` [inst batch n] the output's ReLU, `target` [*inst batch n], `weight` [*inst n], `share` [*inst batch]
        or None, all 1.
        """
        error = (before.relu() if relu else before.clone()).sub_(target)
        ctx.save_for_backward(error, before, weight, share)
        ctx.relu = relu
        square = error.square()
        each = square.sum(-2) if share is None else (square.mT @ share.unsqueeze(-1)).squeeze(-1)  # inst n
        return (each * weight).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        error, before, weight, share = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(error, before, 0.0) if ctx.relu else error.clone()
        gradient.mul_(2 * grad[:, None, None] * weight.unsqueeze(-2))  # inst 1 n
        if share is not None:
            gradient.mul_(share.unsqueeze(-1))
        return gradient, None, None, None, None


class ToyModels(nn.Module):
    """Many toy models of one shape: W [inst m n], b [inst n], and W_out [inst n m] where it is not tied.

    Each is initialised from its own seed (Xavier normal, zero bias), so that model i does not depend on its company.
    """

    def __init__(self, config: ToyConfig, seeds: int | Sequence[int] = 1):
        super().__init__()
        seeds = range(seeds) if isinstance(seeds, int) else seeds
        if not len(seeds):
            raise CourseError("ToyModels needs at least one seed.")
        self.cfg, self.seeds = config, tuple(seeds)
        shapes = [(config.m, config.n)] + ([] if config.tied else [(config.n, config.m)])
        std = math.sqrt(2 / (config.n + config.m))
        drawn = [[torch.randn(s, generator=rng) * std for s in shapes] for rng in map(generator, seeds)]
        self.W = nn.Parameter(torch.stack([row[0] for row in drawn]))
        if not config.tied:
            self._W_out = nn.Parameter(torch.stack([row[1] for row in drawn]))
        self.b = nn.Parameter(torch.zeros(len(seeds), config.n))

    @property
    def instances(self) -> int:
        return len(self.W)

    @property
    def W_out(self) -> Float[Tensor, "inst n m"]:
        """The way back: Wᵀ unless untied."""
        return self.W.mT if self.cfg.tied else self._W_out

    def hidden(self, x: Float[Tensor, "*inst batch n"]) -> Float[Tensor, "inst batch m"]:
        """h = W x, or its ReLU."""
        h = (self.W @ x.mT).mT
        return h.relu() if self.cfg.hidden == "relu" else h

    def before_output(self, x: Float[Tensor, "*inst batch n"]) -> Float[Tensor, "inst batch n"]:
        """W_out h + b, which the output's ReLU reads."""
        if x.shape[-1] != self.cfg.n:
            raise CourseError(f"These models read {self.cfg.n} features; x has shape {list(x.shape)}.")
        if x.ndim == 3 and len(x) not in (1, self.instances):
            raise CourseError(
                f"x is for {len(x)} models (shape {list(x.shape)}); these are {self.instances}."
            )
        return torch.baddbmm(self.b.unsqueeze(-1), self.W_out, self.hidden(x).mT).mT

    def forward(self, x: Float[Tensor, "*inst batch n"]) -> Float[Tensor, "inst batch n"]:
        """x' = W_out h + b, through a ReLU unless the output is linear."""
        out = self.before_output(x)
        return out.relu() if self.cfg.output == "relu" else out

    def squared_errors(self, x: Float[Tensor, "*inst batch n"]) -> Float[Tensor, "inst batch n"]:
        """(|x_i| − x'_i)². For features that are never negative the target |x| is x itself."""
        return (self(x) - x.abs()).square()

    def pick(self, which: Int[Tensor, "pick"] | Sequence[int]) -> ToyModels:
        """A copy of some of the models."""
        which = torch.as_tensor(which).tolist()
        chosen = ToyModels(self.cfg, [self.seeds[i] for i in which])
        chosen.load_state_dict({name: value[which] for name, value in self.state_dict().items()})
        return chosen


def with_weights(
    W: Float[Tensor, "*inst m n"], b: Float[Tensor, "*inst n"] | float | int = 0.0, **config
) -> ToyModels:
    """Models with W put in by hand: one [m n] or several [inst m n]; `config` are fields of ToyConfig."""
    W = checked(W[None] if W.ndim == 2 else W)
    b = torch.as_tensor(b, dtype=torch.float)
    if W.ndim != 3:
        raise CourseError(f"W is [m n] or [inst m n], not of shape {list(W.shape)}.")
    if b.ndim > 2 or (b.ndim and b.shape[-1] != W.shape[2]) or (b.ndim == 2 and len(b) != len(W)):
        raise CourseError(
            f"The bias of a W {list(W.shape)} is a number, [n] or [inst n], not {list(b.shape)}."
        )
    if not bool(b.isfinite().all()):
        raise CourseError("The bias holds a value that is not finite.")
    models = ToyModels(ToyConfig(n=W.shape[2], m=W.shape[1], **config), len(W))
    with torch.no_grad():
        models.W.copy_(W)
        models.b.copy_(b)
    return models


def checked(W: Tensor) -> Tensor:
    """W itself, once it is a finite matrix or a batch of them."""
    if W.ndim < 2:
        raise CourseError(f"W is [m n], features along its columns, not of shape {list(W.shape)}.")
    if not bool(W.isfinite().all()):
        raise CourseError("W holds a value that is not finite.")
    return W


def step_bytes(instances: int, batch: int, n: int) -> int:
    """What a training step needs, roughly: eight arrays of the size of the input, 4 bytes a number."""
    return 8 * 4 * instances * batch * n


def affordable(models: ToyModels, batch: int, remedy: str) -> None:
    """Refuse, before anything is computed, what would not fit into memory."""
    need = step_bytes(models.instances, batch, models.cfg.n)
    if need > MAX_BYTES:
        raise CourseError(
            f"{models.instances} models at a time need about {need / 2**30:.1f} GiB a step, more than "
            f"{MAX_BYTES / 2**30:.1f}: take them in {math.ceil(need / MAX_BYTES)} parts, or {remedy}."
        )


def fitting(models: ToyModels, world: Features | Quadrature, batch: int, penalty: Tensor) -> None:
    """Refuse a world, a batch or a penalty that these models cannot be trained with."""
    if world.n != models.cfg.n:
        raise CourseError(f"The world has {world.n} features, the models read {models.cfg.n}.")
    if batch < 1:
        raise CourseError(f"A batch has at least one input, not {batch}.")
    p = world.p if isinstance(world, Features) else world.weights
    for rows in (p, world.weight):
        if rows.ndim == 2 and len(rows) not in (1, models.instances):
            raise CourseError(f"The world is one for {len(rows)} models; these are {models.instances}.")
    if penalty.ndim > 1 or (penalty.ndim and len(penalty) not in (1, models.instances)):
        raise CourseError(f"l1 is one number, or one for each of the {models.instances} models.")
    affordable(
        models, batch if isinstance(world, Features) else len(world.points), "train with a smaller batch"
    )


def train(
    models: ToyModels,
    world: Features | Quadrature,
    steps: int = 2500,
    lr: float = 5e-3,
    batch: int = 256,
    seed: int = 0,
    l1: float | int | Float[Tensor, "inst"] = 0.0,
    **options,
) -> History:
    """Train all models in place through `training.fit`: Adam, its rate falling linearly to 0 over the run.

    The loss is the sum over models, which Adam treats as each on its own. `l1` adds l1 · Σ|h|, a mean over the batch; one
    number for all models or one for each.
    `options` go to `fit` (evaluate, evaluate_at, checkpoint, progress, …); `decay_share` and `warmup` set another schedule.
    """
    schedule = {key: options.pop(key) for key in ("decay_share", "warmup") if key in options}
    config = TrainConfig(steps, lr, betas=(0.9, 0.999), **({"decay_share": 1.0, "warmup": 0} | schedule))
    penalty = torch.as_tensor(l1, dtype=torch.float)
    fitting(models, world, batch, penalty)
    penalised = bool(penalty.any())

    def loss(models: ToyModels, x: Tensor) -> Tensor:
        total = world.losses(models, x).sum()
        return total + (penalty * models.hidden(x).abs().sum(-1).mean(1)).sum() if penalised else total

    return fit(models, world.sampler(batch, seed), config, loss=loss, **{"progress": False} | options)


def best_of(losses: Float[Tensor, "inst"], restarts: int) -> Int[Tensor, "setting"]:
    """Index of the lowest loss among each setting's restarts, which follow one another along `inst`."""
    if bool(losses.isnan().any()):
        raise CourseError("A loss is not a number: there is no lowest one.")
    if restarts < 1 or len(losses) % restarts:
        raise CourseError(
            f"{len(losses)} models are not a whole number of settings with {restarts} restarts each."
        )
    rows = losses.view(-1, restarts)
    return rows.argmin(1) + restarts * torch.arange(len(rows))


# -- closed forms, n = 2 and m = 1 ---------------------------------------------------------------


def ignored_loss(p: float | Tensor, importance: float | int | Tensor = 1.0) -> float | Tensor:
    """I (p/3 − p²/4): a feature without a direction, its bias at the mean p/2; the variance of a sparse uniform.

    In n = 2, m = 1 this is the loss of W = [1, 0] with the extra feature's I, and of [0, 1] with I = 1.
    """
    return importance * (p / 3 - p**2 / 4)


def antipodal_loss(p: float | Tensor, importance: float | int | Tensor = 1.0) -> float | Tensor:
    """p² (1 + I)/6: two features at W = [1, −1] without bias; they only hurt each other when both are active."""
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


# -- geometry ------------------------------------------------------------------------------------


def feature_norms(W: Float[Tensor, "*inst m n"]) -> Float[Tensor, "*inst n"]:
    """‖W_i‖, the length of each feature's direction."""
    return checked(W).norm(dim=-2)


def represented(W: Float[Tensor, "*inst m n"], above: float = REPRESENTED) -> Bool[Tensor, "*inst n"]:
    """Which features have a direction at all: ‖W_i‖ > 0.5."""
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
    """Ŵ_i · Ŵ_j; 0 with a column of zeros."""
    unit = W / feature_norms(W).unsqueeze(-2).clamp_min(1e-12)
    return unit.mT @ unit


def components(
    W: Float[Tensor, "m n"], above: float = 0.05, of: Bool[Tensor, "n"] | None = None
) -> list[list[int]]:
    """The parts into which the interference graph falls: features i, j are linked where |W_i · W_j| > `above`.

    Only represented features count, or those in `of`. A part is one factor of a tegum product: a polytope that
    has some dimensions to itself.
    """
    nodes = torch.nonzero(represented(W) if of is None else of).flatten().tolist()
    links = (W.mT @ W)[nodes][:, nodes].abs() > above
    n_parts, part = connected_components(links.numpy(), directed=False)
    return [[node for node, own in zip(nodes, part, strict=True) if own == k] for k in range(n_parts)]


def cross_part_overlap(W: Float[Tensor, "m n"], parts: Sequence[Sequence[int]]) -> float:
    """The largest |W_i · W_j| between features of different parts; 0 for one part."""
    dots = (W.mT @ W).abs()
    pairs = [dots[a][:, b].max() for a, b in combinations([list(part) for part in parts], 2)]
    return float(max(pairs, default=torch.tensor(0.0)))


def tegum(*shapes: Float[Tensor, "_ _"]) -> Float[Tensor, "m n"]:
    """The tegum product: each shape in dimensions of its own, block by block; D of each feature stays what it was."""
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


def polytope(name: str) -> Float[Tensor, "dim n"]:
    """The corners of a named polytope as columns of unit length, in double precision."""
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
    """Whether each D lies within a distance of some level."""
    levels = torch.tensor(list(levels), dtype=D.dtype)
    return ((D.unsqueeze(-1) - levels).abs() <= within).any(-1)


# -- neurons -------------------------------------------------------------------------------------


def top_share(W: Float[Tensor, "*inst m n"]) -> Float[Tensor, "*inst m"]:
    """max_i W_ki² / Σ_i W_ki²: the part of a neuron's squared weight that its largest feature holds; 0 when dead."""
    mass = checked(W).square()
    total = mass.sum(-1)
    return torch.where(total > 1e-6, mass.amax(-1) / total.clamp_min(1e-12), 0.0)


def monosemantic(W: Float[Tensor, "*inst m n"], above: float = 0.95) -> Bool[Tensor, "*inst m"]:
    """Which neurons listen to one feature: its share of the squared weight is at least 95%. A dead one is not."""
    return top_share(W) >= above


def features_per_neuron(W: Float[Tensor, "*inst m n"]) -> Float[Tensor, "*inst m"]:
    """(Σ_i W_ki²)² / Σ_i W_ki⁴: how many features share a neuron, 1 for one, k for k equal ones; 0 when dead."""
    mass = checked(W).square()
    total = mass.sum(-1)
    return torch.where(total > 1e-6, total**2 / mass.square().sum(-1).clamp_min(1e-12), 0.0)


# -- attacks -------------------------------------------------------------------------------------


def optimal_attack(W: Float[Tensor, "m n"], feature: int, norm: float | int) -> Float[Tensor, "n"]:
    """The small change of the input that moves output i most: along row i of WᵀW, of length `norm` (an L2 attack).

    x'_i changes by (WᵀW)_i · δ to first order, which Cauchy and Schwarz make largest along (WᵀW)_i itself:
    by norm · ‖(WᵀW)_i‖. Without superposition that row is e_i, and the attack is an honest change of x_i alone.
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
    """|value(t + window) − value(t)| for every start t."""
    if not 1 <= window < len(series):
        raise CourseError(f"A window of {window} does not fit into {len(series)} entries.")
    return (series[window:] - series[:-window]).abs()
