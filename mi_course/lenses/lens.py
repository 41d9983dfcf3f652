"""One interface for every lens: an affine map a layer, then what the model itself does with its last stream.

    lens(model, stream, layer) = unembed(stream @ W_l + b_l)

The logit lens is W = 1 and b = 0, a translator has fitted both, a Jacobian lens has W_l = J_lᵀ and b = 0. Derived in
notebook 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course import files
from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.lenses.streams import checked_layers, fingerprint, streams, unembed


@dataclass(frozen=True, eq=False)
class Lens:
    """Maps from the stream of some layers to the last stream of one model; rows multiply from the left, x @ W + b.

    Args:
        name: what it is called in figures.
        weights: layer → W [d_model d_model]; a layer that is not there is read raw if `raw`.
        shifts: layer → b [d_model]; nothing where a layer is not there.
        of: the fingerprint of the model it was fitted on; empty for one that fits every model.
        raw: layers without a map are read as they are (the logit lens), not refused.
        card: what a loaded file says of itself.
    """

    name: str
    weights: dict[int, Float[Tensor, "d_model d_model"]] = field(default_factory=dict)
    shifts: dict[int, Float[Tensor, "d_model"]] = field(default_factory=dict)
    of: str = ""
    raw: bool = False
    card: dict = field(default_factory=dict)

    @property
    def layers(self) -> list[int]:
        """The layers it has a map for."""
        return sorted(self.weights)

    def __repr__(self) -> str:
        return f"Lens({self.name}: layers {', '.join(map(str, self.layers)) or 'all, as they are'})"

    def checked(self, model) -> Lens:
        """Itself, if it was fitted on a model of this configuration.

        Args:
            model: that is to be read.
        """
        if self.of and self.of != fingerprint(model):
            raise CourseError(
                f"This lens ({self.name}) was fitted on a model of another configuration ({self.of}, not "
                f"{fingerprint(model)}): fit one on this model."
            )
        return self

    def transported(
        self, stream: Float[Tensor, "*rows d_model"], layer: int
    ) -> Float[Tensor, "*rows d_model"]:
        """The stream of a layer as the last stream that this lens takes it for.

        Args:
            stream: of that layer.
            layer: which.
        """
        if layer not in self.weights:
            if self.raw:
                return stream
            raise CourseError(
                f"{self.name} has no map for layer {layer}: it has {', '.join(map(str, self.layers))}."
            )
        out = stream @ self.weights[layer].to(stream)
        return out + self.shifts[layer].to(stream) if layer in self.shifts else out

    def logits(
        self, model, stream: Float[Tensor, "*rows d_model"], layer: int
    ) -> Float[Tensor, "*rows d_vocab"]:
        """What the lens reads in a stream.

        Args:
            model: whose norm and unembedding are used.
            stream: of the layer.
            layer: which.
        """
        return unembed(model, self.transported(stream, layer))

    @torch.no_grad()
    def read(
        self, model, tokens: Int[Tensor, "batch pos"], layers: Sequence[int] | None = None
    ) -> dict[int, Float[Tensor, "batch pos d_vocab"]]:
        """Layer → logits [batch pos d_vocab] of one run.

        Args:
            model: the one it was fitted on.
            tokens: ids [batch pos].
            layers: all that it has, for a raw lens all there are, unless said.
        """
        self.checked(model)
        wanted = layers if layers is not None or self.raw else self.layers
        layers = checked_layers(model, wanted)
        return {layer: self.logits(model, x, layer) for layer, x in streams(model, tokens, layers).items()}

    def vectors(self, model, layer: int) -> Float[Tensor, "token d_model"]:
        """For every token the direction in a layer's stream that speaks for it: W_l (w ⊙ W_U[:, token]).

        The final norm's scale is left out, since it makes all directions of one stream longer or shorter alike.

        Args:
            model: whose unembedding is used.
            layer: where the direction lives.
        """
        norm = getattr(model, "ln_final", None)
        W_U = model.W_U.detach()
        reads = W_U if norm is None else norm.w.detach()[:, None] * W_U  # d_model token
        W = self.weights.get(layer)
        return (reads if W is None else W.to(reads) @ reads).T

    # -- files -----------------------------------------------------------------------------------

    def save(self, path: str | Path, **card) -> Path:
        """`path`.safetensors in 16-bit floats with a card `path`.json.

        Args:
            path: where.
            card: more to note, by name.
        """
        tensors = {f"W.{layer}": W.half() for layer, W in self.weights.items()}
        tensors |= {f"b.{layer}": b.float() for layer, b in self.shifts.items()}
        return files.save_checked(path, tensors, lens=self.name, of=self.of, layers=self.layers, **card)


def logit_lens() -> Lens:
    """The raw lens: no map at all, for any model."""
    return Lens("logit lens", raw=True)


def load_lens(name_or_path: str | Path) -> Lens:
    """A shipped lens by its name, or a saved one by its path.

    Args:
        name_or_path: `smollm2-jacobian`, `smollm2-tuned`, or what `save` was given.
    """
    path = files.shipped_path(name_or_path, "lens")
    tensors, card = files.read_checked(path)
    if not {"lens", "of"} <= card.keys():
        raise CourseError(f"{path} is no lens.")
    part = (
        lambda letter: {  # noqa: E731
            int(key[2:]): value.float() for key, value in tensors.items() if key.startswith(f"{letter}.")
        }
    )
    return Lens(card["lens"], part("W"), part("b"), card["of"], card=card)


def random_like(lens: Lens, seed: int = 0) -> Lens:
    """Random maps with the singular values of a lens' own, each between random orthogonal bases: its control.

    Args:
        lens: the one that is imitated.
        seed: of the bases.
    """

    def turned(layer: int, W: Tensor) -> Tensor:
        rng, d = generator(seed, layer), len(W)
        U, V = (torch.linalg.qr(torch.randn(d, d, generator=rng)).Q for _ in range(2))
        return U * torch.linalg.svdvals(W.float()) @ V.T

    return Lens(f"random, like {lens.name}", {k: turned(k, W) for k, W in lens.weights.items()}, {}, lens.of)
