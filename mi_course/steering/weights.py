"""The same ablation in the weights: no matrix may write along the direction (Arditi et al. 2024, §4.1). Derived in notebook 12."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mi_course.errors import CourseError
from mi_course.models import TinyTransformer
from mi_course.steering.directions import Direction, checked_vector
from mi_course.steering.edits import tensor_of, unit, without

NORMED = ("embed_ln", "ln1_post", "ln2_post")  # between a writer and the stream


def writers(model) -> dict[str, Tensor]:
    """Name → every weight of `model` that is added to the stream, as a view [… d_model].

    A `TinyTransformer`: W_E, W_pos where it is added to the stream, W_O, W_out and the biases b_O, b_out. A bridge: token and position embeddings, and of
    each block `attn.o` and `mlp.out` with their biases. A model that norms what it writes (Gemma 2 and 3, Bloom's embedding)
    has none that could be edited.
    """
    if isinstance(model, TinyTransformer):
        ends = ("W_E", "W_O", "b_O", "W_out", "b_out") + ("W_pos",) * model.cfg.positions_in_stream
        return {name: p.data for name, p in model.named_parameters() if name.endswith(ends)}
    parts = {
        name: part for name, part in model.named_children() if name in ("embed", "pos_embed", "embed_ln")
    }
    for i, block in enumerate(model.blocks):
        inside = dict(block.named_children())
        parts |= {f"blocks.{i}.{name}": inside[name] for name in NORMED if name in inside}
        parts |= {
            f"blocks.{i}.attn.o": getattr(block.attn, "o", None),
            f"blocks.{i}.mlp.out": getattr(block.mlp, "out", None),
        }
    if normed := [name for name in parts if name.endswith(NORMED)]:
        raise CourseError(
            f"This architecture norms what it writes ({normed[0]}), so no edit of its weights keeps a direction out of the "
            "stream: use Ablate."
        )
    found = {}
    for name, part in parts.items():
        layer = getattr(part, "original_component", None)
        if not isinstance(layer, (nn.Linear, nn.Embedding, Conv1D)):
            raise CourseError(
                f"The writer {name} of this architecture is no linear map that could be edited: use Ablate."
            )
        weight = layer.weight.data  # nn.Linear has the output first: W [d_model d_in]
        found[f"{name}.weight"] = weight.T if isinstance(layer, nn.Linear) else weight
        if getattr(layer, "bias", None) is not None:
            found[f"{name}.bias"] = layer.bias.data
    return found


@contextmanager
def orthogonalised(
    model, vector: Direction | Float[Tensor, "d_model"], *, untie: bool = True, skip: Sequence[str] = ()
) -> Iterator[None]:
    """Inside, nothing in the `model` can write along the direction; afterwards its weights are what they were.

    Where the unembedding is the embedding's transpose, the embedding's edit would change what is *read* as well.

    Args:
        model: a `TinyTransformer` or a bridge.
        vector: a `Direction`, or [d_model] of any length.
        untie: give the unembedding a copy of its own first.
        skip: names of writers that are left as they are.
    """
    checked_vector(model, vector)
    if isinstance(model, TinyTransformer) and model.cfg.tied and untie:
        raise CourseError("This small model is tied: build it with tied=False before its writers are edited.")
    u, parts = unit(tensor_of(vector)), writers(model)
    if unknown := set(skip) - set(parts):
        raise CourseError(f"There is no writer {min(unknown)!r}.")
    head = None if isinstance(model, TinyTransformer) or not untie else linear_head(model)
    tied = None if head is None else head.weight
    kept = {name: W.clone() for name, W in parts.items() if name not in skip}
    try:
        if tied is not None:
            head.weight = nn.Parameter(tied.detach().clone(), requires_grad=False)
        for name in kept:
            parts[name].copy_(without(parts[name], u))  # W (1 − u uᵀ)
        yield
    finally:
        for name, W in kept.items():
            parts[name].copy_(W)
        if tied is not None:
            head.weight = tied


def linear_head(model) -> nn.Linear:
    """The linear map of a bridge `model` that makes logits."""
    head = model.original_model.get_output_embeddings()
    found = [module for module in head.modules() if isinstance(module, nn.Linear)]
    if len(found) != 1:
        raise CourseError("The unembedding of this architecture is not one linear map.")
    return found[0]
