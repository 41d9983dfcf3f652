"""Many toy models at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError

MAX_BYTES = 2**31  # a training step may take this much memory, estimated before the first


# -- models --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToyConfig:
    """The shape of a toy model: n features through m hidden dimensions and back.

    h = W x, or ReLU(W x) with `hidden="relu"`, which makes neurons special; x' = ReLU(W_out h + b), or without the
    ReLU with `output="linear"`, the control. `tied`: W_out = Wᵀ; untied, W_out [n m] is learned on its own.
    """

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
        or None, all 1; `relu` says whether there is that ReLU.
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
        """The gradient for `before`, from `grad` [inst]; nothing else gets one."""
        error, before, weight, share = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(error, before, 0.0) if ctx.relu else error.clone()
        gradient.mul_(2 * grad[:, None, None] * weight.unsqueeze(-2))  # inst 1 n
        if share is not None:
            gradient.mul_(share.unsqueeze(-1))
        return gradient, None, None, None, None


class ToyModels(nn.Module):
    """Many toy models of one shape: W [inst m n], b [inst n], and W_out [inst n m] where it is not tied.

    Each is initialised from its own seed (Xavier normal, zero bias), so that model i does not depend on its company.
    `config` is the shape; `seeds` are one for each model, or how many, from 0 on.
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
        """W_out h + b for inputs `x`, which the output's ReLU reads."""
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
        """A copy of some of the models, `which` are indices."""
        which = torch.as_tensor(which).tolist()
        chosen = ToyModels(self.cfg, [self.seeds[i] for i in which])
        chosen.load_state_dict({name: value[which] for name, value in self.state_dict().items()})
        return chosen


def with_weights(
    W: Float[Tensor, "*inst m n"], b: Float[Tensor, "*inst n"] | float | int = 0.0, **config
) -> ToyModels:
    """Models with W put in by hand: one [m n] or several [inst m n]; `config` are fields of ToyConfig.

    `b` is one number for all biases, [n] or [inst n].
    """
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
    """What a training step needs, roughly: eight arrays of the size of the input, 4 bytes a number.

    So many `instances` (models), a `batch` of inputs of `n` features.
    """
    return 8 * 4 * instances * batch * n


def affordable(models: ToyModels, batch: int, remedy: str) -> None:
    """Refuse, before anything is computed, what would not fit into memory.

    That is a step of `models` on a `batch` of so many inputs; `remedy` ends the sentence.
    """
    need = step_bytes(models.instances, batch, models.cfg.n)
    if need > MAX_BYTES:
        raise CourseError(
            f"{models.instances} models at a time need about {need / 2**30:.1f} GiB a step, more than "
            f"{MAX_BYTES / 2**30:.1f}: take them in {math.ceil(need / MAX_BYTES)} parts, or {remedy}."
        )
