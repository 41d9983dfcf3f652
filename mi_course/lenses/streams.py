"""What every lens reads: the stream before each layer, and what final norm and unembedding say of it.

Layer l is the stream that *enters* block l; layer n_layers is the last stream, which the unembedding reads. The model may
be any with hooks `blocks.{l}.hook_resid_pre`: our own, or a raw `TransformerBridge`. Derived in notebook 11.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.models import checked_tokens

VOLATILE = (
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "_attn_implementation",
)


def hook_of(model, layer: int) -> str:
    """The hook of `model` at which the stream before `layer` stands; for n_layers, that after the last block."""
    n = model.cfg.n_layers
    return f"blocks.{layer}.hook_resid_pre" if layer < n else f"blocks.{n - 1}.hook_resid_post"


def checked_layer(model, layer: int, read_by_a_block: bool = False) -> int:
    """`layer` itself, if `model` has a stream before it: n_layers is the stream after the last block, which no block reads."""
    last = model.cfg.n_layers - read_by_a_block
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer <= last:
        meant = "the last that a block reads" if read_by_a_block else "the last stream"
        raise CourseError(f"There is no layer {layer!r} here: 0 is the embedding, {last} {meant}.")
    return layer


def checked_layers(model, layers: Sequence[int] | None) -> list[int]:
    """The layers in order, all of them by default; one sentence for one that is not there."""
    found = range(model.cfg.n_layers + 1) if layers is None else sorted(set(layers))
    found = [checked_layer(model, layer) for layer in found]
    if not found:
        raise CourseError("Name at least one layer.")
    return found


def checked_model(model) -> None:
    """One sentence for a model whose stream is no longer the one it was trained with, or that has no such hooks."""
    if not hasattr(model, "hook_dict") or not model.cfg.n_layers:
        raise CourseError(
            "A lens needs a model with layers and hooks: a TinyTransformer or a TransformerBridge."
        )
    if getattr(model, "compatibility_mode", False) or getattr(model, "_weights_processed", False):
        raise CourseError(
            "This bridge was folded or centred (enable_compatibility_mode, process_weights), so its stream is another "
            "one: load it anew and use it raw."
        )
    if model.training:
        raise CourseError("The model is in training mode (dropout may be on): call model.eval() first.")


def checked_prompts(model, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Tokens that the model can read: [batch pos], in its vocabulary, within its context."""
    return checked_tokens(tokens, model.cfg)


def fingerprint(model) -> str:
    """Twelve digits of a model's configuration: its sizes, its kind, its seed; not its name or the folder it lies in."""
    theirs = getattr(getattr(model, "original_model", None), "config", None)
    if theirs is not None:
        told = {key: value for key, value in theirs.to_dict().items() if key not in VOLATILE}
    else:
        told = {key: value for key, value in vars(model.cfg).items() if key != "device"}
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@torch.no_grad()
def streams(
    model, tokens: Int[Tensor, "batch pos"], layers: Sequence[int] | None = None
) -> dict[int, Float[Tensor, "batch pos d_model"]]:
    """Layer → the stream before it, in one run that computes no logits; without `layers` all of them.

    Args:
        model: any with hooks.
        tokens: ids.
        layers: 0 … n_layers.
    """
    checked_model(model)
    tokens, layers = checked_prompts(model, tokens), checked_layers(model, layers)
    found: dict[int, Tensor] = {}
    hooks = [(hook_of(model, layer), keeping(found, layer)) for layer in layers]
    run_through(model, tokens, hooks)
    return {layer: found[layer].detach() for layer in layers}


@contextmanager
def without_learning(model) -> Iterator[None]:
    """Inside, no weight of `model` asks for a gradient, so that none is computed; afterwards those that did ask again."""
    learns = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in learns:
            p.requires_grad_(False)
        yield
    finally:
        for p in learns:
            p.requires_grad_(True)


def keeping(found: dict, layer: int):
    """A hook that notes the stream and hands it on as it is."""

    def keep(x, hook):
        found[layer] = x
        return x

    return keep


def run_through(model, tokens, hooks) -> None:
    """All blocks with hooks; a bridge unembeds only one position, since nobody wants its logits here."""
    with unembedding(model, lambda x: x[:, -1:]):
        model.run_with_hooks(tokens, fwd_hooks=hooks, return_type=None)


@contextmanager
def unembedding(model, pick: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, a bridge `model` unembeds what `pick` takes of its last stream alone: nobody wants the other logits.

    A model of our own unembeds all.
    """
    head_of = getattr(getattr(model, "original_model", None), "get_output_embeddings", lambda: None)
    if (head := head_of()) is None:
        yield
        return
    handle = head.register_forward_pre_hook(lambda module, args: (pick(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def unembed(model, stream: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_vocab"]:
    """What the model would say if this were its last stream: the final norm, then W_U.

    Args:
        model: any with `ln_final` (or none) and `W_U`.
        stream: of any layer, or moved there by a lens.
    """
    x = stream.reshape(1, -1, stream.shape[-1])
    if hasattr(model, "unembed_stream"):
        out = model.unembed_stream(x)
    else:
        out = model.unembed(model.ln_final(x))
    return out.reshape(*stream.shape[:-1], -1)
