"""What is done to the stream while a model runs: add a vector, ablate a direction, cap a projection. Derived in notebook 12.

An edit says at which hooks it works (`sites`) and what it makes of what passes there (`edit(x)`). `steered` puts edits into
a model for as long as a `with` lasts. The first position is left alone: in real models its stream is an attention sink
hundreds of times longer than the others, and to touch it wrecks the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.lenses.streams import checked_layer, hook_of
from mi_course.steering.directions import Direction, checked_vector


@dataclass(frozen=True, eq=False)
class Add:
    """x ← x + c v at one layer: activation addition (Turner et al. 2023).

    Args:
        vector: a `Direction`, or what is added [d_model]; [row d_model] adds another one to each row of the batch.
        layer: whose incoming stream is changed; a `Direction` knows its own.
        coefficient: c; a negative one steers the other way.
    """

    vector: Direction | Float[Tensor, "*row d_model"]
    layer: int | None = None
    coefficient: float | int = 1.0

    def sites(self, model) -> list[str]:
        """The one hook in `model`."""
        if not math.isfinite(self.coefficient):
            raise CourseError(f"The coefficient is {self.coefficient}: every logit would be NaN.")
        return [hook_of(model, checked_layer(model, layer_of(self)))]

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return x + (self.coefficient * tensor_of(self.vector)).to(x)[..., None, :]


@dataclass(frozen=True, eq=False)
class Ablate:
    """x ← x − (x · u) u wherever something is written into the stream (Arditi et al. 2024, equation 4).

    u is the vector at length 1. If no write has a part along u, the stream has none.

    Args:
        vector: a `Direction`, or [d_model] of any length; [row d_model] takes another one from each row of the batch.
    """

    vector: Direction | Float[Tensor, "*row d_model"]

    def sites(self, model) -> list[str]:
        """Embeddings, attention outputs and MLP outputs of `model`."""
        return writes(model)

    def __call__(self, x: Float[Tensor, "*batch pos d_model"]) -> Float[Tensor, "*batch pos d_model"]:
        return without(x, tensor_of(self.vector))


@dataclass(frozen=True, eq=False)
class Cap:
    """x ← x + max(0, floor − x · u) u at one layer: the projection never falls below a floor (Lu et al. 2026).

    Args:
        vector: a `Direction`, or [d_model] of any length; u is it at length 1.
        floor: least projection.
        layer: whose incoming stream is changed; a `Direction` knows its own.
    """

    vector: Direction | Float[Tensor, "d_model"]
    floor: float | int
    layer: int | None = None

    def sites(self, model) -> list[str]:
        """The one hook in `model`."""
        return [hook_of(model, checked_layer(model, layer_of(self)))]

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        u = unit(tensor_of(self.vector)).to(x)
        return x + (self.floor - x @ u).clamp_min(0)[..., None] * u


Edit = Add | Ablate | Cap


def unit(vector: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
    """A `vector` at length 1."""
    length = vector.norm(dim=-1, keepdim=True)
    if not bool((length > 0).all()):
        raise CourseError("The vector is 0: it has no direction.")
    return vector / length


def without(
    x: Float[Tensor, "*rows d_model"], vector: Float[Tensor, "*row d_model"]
) -> Float[Tensor, "*rows d_model"]:
    """x − (x · u) u: what is left of `x` with the direction of `vector` taken out; [row d_model] has one for each row."""
    u = unit(vector).to(x)
    u = u[:, None] if u.ndim == 2 else u
    return x - (x * u).sum(-1, keepdim=True) * u


def tensor_of(vector: Direction | Tensor) -> Tensor:
    """The numbers of a `vector`."""
    return vector.vector if isinstance(vector, Direction) else vector


def layer_of(edit: Add | Cap) -> int:
    """Where an `edit` works."""
    if edit.layer is None and not isinstance(edit.vector, Direction):
        raise CourseError("Say at which layer: a bare vector does not know its own.")
    return edit.vector.layer if edit.layer is None else edit.layer


def writes(model) -> list[str]:
    """Hooks of all that `model` adds to its stream: embeddings, then attention and MLP of every block.

    Positions that reach Q and K alone (shortformer) write nothing into it.
    """
    added = getattr(model.cfg, "positions_in_stream", True)
    embeddings = ("hook_embed", "hook_pos_embed") if added else ("hook_embed",)
    names = [name for name in embeddings if name in model.hook_dict]
    if "hook_embed" not in names:
        names = ["embed.hook_out"]  # a bridge, whose rotary positions write nothing
    for i in range(model.cfg.n_layers):
        out = (
            (f"blocks.{i}.hook_attn_out", f"blocks.{i}.attn.hook_out"),
            (f"blocks.{i}.hook_mlp_out", f"blocks.{i}.mlp.hook_out"),
        )
        names += [next(name for name in pair if name in model.hook_dict) for pair in out
                  if any(name in model.hook_dict for name in pair)]  # fmt: skip
    return names


class Where:
    """Which positions an edit leaves alone.

    Args:
        first: the position that is spared, one for all rows or one a row [row]; None spares none.
    """

    def __init__(self, first: int | Int[Tensor, "row"] | None):
        self.first = first

    def hook(self, edit: Edit):
        """A hook that applies an `edit` everywhere else."""

        def change(x, hook=None):
            new = edit(x).to(x.dtype)
            if self.first is None:
                return new
            pos = torch.arange(x.shape[-2], device=x.device)
            first = torch.as_tensor(self.first, device=x.device)
            spared = pos == (first[:, None] if first.ndim and x.ndim > 2 else first.max())
            return torch.where(spared[..., None], x, new)

        return change


@contextmanager
def steered(model, edits: Sequence[Edit], *, first: int | None = 0) -> Iterator[Where]:
    """Inside, every run of the `model` carries the `edits`; afterwards it is as it was.

    Args:
        model: a `TinyTransformer` or a bridge.
        edits: in order.
        first: the position that is left alone; None: none is.
    """
    where, hooks = Where(first), []
    for edit in edits:
        names = edit.sites(model)
        if isinstance(edit, Edit):
            checked_vector(model, edit.vector)
        hooks += [(name, where.hook(edit)) for name in names]
    with model.hooks(fwd_hooks=hooks):
        yield where
