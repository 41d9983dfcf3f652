"""Directions out of contrasts: the difference of means, at a layer, with its controls. Derived in notebook 12."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError, nearest
from mi_course.lenses.streams import checked_layer, fingerprint, streams
from mi_course.probing import difference_of_means

PLACES = ("last", "mean")


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector of one model's stream.

    Args:
        vector: [d_model], of the length it was found with.
        layer: before which block.
        model: fingerprint of the model it is of, so that it is not put into another one.
    """

    vector: Float[Tensor, "d_model"]
    layer: int
    model: str = ""

    @property
    def norm(self) -> float:
        """Its length."""
        return float(self.vector.norm())

    def scaled(self, norm: float | int) -> Direction:
        """The same at another length, `norm`."""
        if self.norm == 0:
            raise CourseError("The direction is 0: it has no length to change.")
        return replace(self, vector=self.vector * (norm / self.norm))

    def random(self, seed: int) -> Direction:
        """A random direction of the same length and layer, drawn by `seed`: the control for every effect."""
        drawn = torch.randn(len(self.vector), generator=generator(seed, 44)).to(self.vector)
        return replace(self, vector=drawn).scaled(self.norm)

    def cosine(self, other: Direction) -> float:
        """Cosine with an `other` one."""
        return float(torch.cosine_similarity(self.vector.double(), other.vector.double(), dim=0))


def checked_vector(model, vector: Direction | Tensor) -> None:
    """Whether a `vector` fits this `model`: its width, its finite numbers, and for a `Direction` whose it is."""
    numbers = vector.vector if isinstance(vector, Direction) else vector
    if not isinstance(numbers, Tensor) or numbers.shape[-1:] != (model.cfg.d_model,):
        shape = list(numbers.shape) if isinstance(numbers, Tensor) else type(numbers).__name__
        raise CourseError(f"The vector is {shape}, and this model's stream is {model.cfg.d_model} wide.")
    if not bool(numbers.isfinite().all()):
        raise CourseError("The vector holds NaN or infinity.")
    if isinstance(vector, Direction) and vector.model and vector.model != fingerprint(model):
        raise CourseError(
            f"The direction is of another model ({vector.model}, and this one is {fingerprint(model)}): "
            "directions do not carry over."
        )


@torch.no_grad()
def activations(
    model, prompts: Int[Tensor, "row pos"] | Sequence[Tensor], layers: Sequence[int], place: str = "last"
) -> dict[int, Float[Tensor, "row d_model"]]:
    """Layer → one stream vector a prompt.

    Args:
        model: a `TinyTransformer` or a bridge.
        prompts: ids: one tensor [row pos], or [pos] or [1 pos] each, of any lengths.
        layers: before which blocks.
        place: `last`: at the last token, where an answer begins; `mean`: mean over all positions but the first.
    """
    if place not in PLACES:
        raise CourseError(f"There is no place {place!r}: last or mean.{nearest(place, PLACES)}")
    layers = [checked_layer(model, layer) for layer in layers]
    if not len(prompts):
        raise CourseError("There are no prompts to average.")
    together = isinstance(prompts, Tensor)
    parts = prompts.split(256) if together else [p.reshape(1, -1) for p in prompts]
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for part in parts:
        if place == "mean" and part.shape[1] < 2:
            raise CourseError("A prompt of one token has nothing but its first position: give longer ones.")
        for layer, x in streams(model, part, layers).items():
            found[layer].append(x[:, -1] if place == "last" else x[:, 1:].mean(1))
    return {layer: torch.cat(rows) for layer, rows in found.items()}


def direction(x: Float[Tensor, "row d_model"], z: Bool[Tensor, "row"], layer: int, model=None) -> Direction:
    """The difference of means as a direction (`probing.difference_of_means`: there is one definition).

    Args:
        x: stream vectors.
        z: True where the behaviour is there.
        layer: where `x` was read.
        model: whose they are, if it is to be remembered.
    """
    of = "" if model is None else fingerprint(model)
    return Direction(difference_of_means(x, z).to(x.dtype), layer, of)


def shuffled(
    x: Float[Tensor, "row d_model"], z: Bool[Tensor, "row"], layer: int, model=None, *, seed: int
) -> Direction:
    """The same with shuffled labels, at the true direction's length: what a contrast without contrast gives.

    Args:
        x: stream vectors.
        z: labels, shuffled here.
        layer: where `x` was read.
        model: whose they are.
        seed: of the shuffling.
    """
    order = torch.randperm(len(z), generator=generator(seed, 45))
    return direction(x, z[order], layer, model).scaled(direction(x, z, layer).norm)
