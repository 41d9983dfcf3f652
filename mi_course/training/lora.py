"""Low-rank updates (LoRA, Hu et al. 2021): a model is fine-tuned by W + A B, two thin matrices a weight, and nothing else moves.

The `peft` package does this for `nn.Linear` only, so not for the weights of our own transformer, and it is one more package to
keep in step with torch and transformers; the update itself is one line. A hook puts it beside a linear layer, and PyTorch's
parametrisations into any other weight, so it stands here in a few readable lines. Heads stand side by side, as `as_matrix` sets them.

>>> import torch
>>> from mi_course import models, training
>>> model = models.TinyTransformer(models.TinyConfig(n_layers=1, d_vocab=24))
>>> tokens = torch.arange(6)[None]
>>> before = model(tokens)
>>> update = training.low_rank(model, lambda name: name.endswith(("W_Q", "W_O")), rank=2)
>>> bool(torch.equal(model(tokens), before)), len(update.state_dict())
(True, 4)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mi_course.errors import CourseError
from mi_course.training.optimizers import as_matrix, from_matrix

WRAPPED = "._original_component"  # how TransformerLens' bridge names what it wraps; left out of our names
Update = dict[str, Tensor]  # name of a weight + `.A` or `.B` → thin matrix


class LowRank(nn.Module):
    """W ↦ W + A B, with A [rows rank] drawn at random and B [rank columns] zero: at the start nothing is changed.

    Args:
        W: the weight, of two axes, or three with heads.
        rank: of the update.
        draw: the generator that A is drawn from.
    """

    def __init__(self, W: Tensor, rank: int, draw: torch.Generator):
        super().__init__()
        rows, columns = as_matrix(W).shape
        A = torch.randn(rows, rank, generator=draw) * rows**-0.5  # drawn on the CPU: the same on every device
        self.A = nn.Parameter(A.to(W.device))
        self.B = nn.Parameter(torch.zeros(rank, columns, device=W.device))

    def forward(self, W: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The weight as it is used: `W` with the update on top."""
        return W + from_matrix(self.A @ self.B, W.shape).to(W.dtype)

    def beside(self, module: nn.Module, given: tuple[Tensor], out: Tensor) -> Tensor:
        """A linear layer's output with the update's own on top; it is exact also where the layer computes in 16 bits.

        Args:
            module: the layer, whose weight is [out in].
            given: what it read.
            out: what it wrote.
        """
        return out + (given[0] @ self.B.T.to(out.dtype)) @ self.A.T.to(out.dtype)


class Updates(nn.Module):
    """The thin matrices of one model: all that is trained, and all that is saved.

    Args:
        parts: name of a weight → its update.
    """

    def __init__(self, parts: dict[str, LowRank]):
        super().__init__()
        self.names = list(parts)
        self.parts = nn.ModuleList(parts.values())

    def tensors(self, dtype: torch.dtype = torch.float16) -> Update:
        """`NAME.A` and `NAME.B` of every weight NAME, as they are saved, in `dtype`."""
        return {
            f"{name}.{letter}": getattr(part, letter).detach().to(dtype).clone()
            for name, part in zip(self.names, self.parts, strict=True)
            for letter in "AB"
        }


def low_rank(model: nn.Module, chosen: Callable[[str], bool], rank: int = 16, *, seed: int = 0) -> Updates:
    """Put W + A B in the place of chosen weights, and let nothing else of `model` learn; returns what learns.

    Hand the result to `training.fit` as its model, with a loss that runs the other: then checkpoints hold the thin
    matrices alone.

    Args:
        model: changed in place; its outputs are, at first, what they were.
        chosen: name of a weight → whether it gets an update.
        rank: columns of A; the update has this rank at most.
        seed: of A.
    """
    if rank < 1:
        raise CourseError(f"An update has rank 1 or more, not {rank}.")
    draw, parts = torch.Generator().manual_seed(seed), {}
    places = {plain(name): place for name, place in weights(model).items()}
    for name, place in places.items():
        W = getattr(*place)
        if chosen(name) and W.ndim >= 2:
            parts[name] = LowRank(W, rank, draw)
    if not parts:
        raise CourseError("No weight was chosen: chosen(name) is False for every name of the model.")
    model.requires_grad_(False)
    for name, part in parts.items():
        module, last = places[name]
        if isinstance(module, nn.Linear):  # x W + (x A) B: W's own gradient is never computed
            module.register_forward_hook(part.beside)
        else:
            parametrize.register_parametrization(module, last, part, unsafe=True)
    return Updates(parts)


def weights(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Name → (the module that holds the weight, its name there), for every weight of `model`."""
    return {
        f"{path}.{last}" if path else last: (module, last)
        for path, module in model.named_modules()
        for last, _ in module.named_parameters(recurse=False)
    }


def plain(name: str) -> str:
    """A weight's `name` without what a bridge wraps around it."""
    return name.replace(WRAPPED, "")


@torch.no_grad()
def add_update(model: nn.Module, update: Update) -> nn.Module:
    """Add A B to every weight that `update` names, in place; returns the model.

    Args:
        model: with the weights that are named, of the sizes they had.
        update: `Updates.tensors()`, or what was saved of it.
    """
    places = {plain(name): place for name, place in weights(model).items()}
    pairs = []
    for name in sorted({key.rpartition(".")[0] for key in update}):
        if name not in places:
            raise CourseError(f"This update belongs to another model: here is no weight {name!r}.")
        W = getattr(*places[name])
        A, B = (update[f"{name}.{letter}"].to(W.device).float() for letter in "AB")
        if as_matrix(W).shape != (A.shape[0], B.shape[1]):
            raise CourseError(f"This update belongs to another model: {name} has shape {list(W.shape)} here.")
        pairs.append((W, A, B))
    for W, A, B in pairs:
        W.add_(from_matrix(A @ B, W.shape).to(W.dtype))
    return model


@contextmanager
def updated(model: nn.Module, update: Update) -> Iterator[nn.Module]:
    """Inside, `model` has the `update`; afterwards its weights are, bit for bit, what they were.

    Args:
        model: with the weights that are named.
        update: see `add_update`.
    """
    names = {key.rpartition(".")[0] for key in update}
    held = {
        name: getattr(*place).detach().clone()
        for name, place in weights(model).items()
        if plain(name) in names
    }
    try:
        yield add_update(model, update)
    finally:
        with torch.no_grad():
            places = weights(model)
            for name, W in held.items():
                getattr(*places[name]).copy_(W)
