"""Weights of the makes whose forward is rebuilt: this course's own, GPT-2's, Llama's and its kin, NeoX's.

They are read as every TransformerLens model names them, so that whoever shares a make's arithmetic is served too.
Whether the arithmetic is the model's own is not believed but compared, see `engine`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

ACTS = {
    "relu": F.relu, "gelu": F.gelu, "silu": F.silu, "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}  # fmt: skip
OTHERS = ("attn_logit_softcapping", "final_logit_softcapping")  # what no forward here does
BY_LENGTH = ("dynamic", "longrope")  # rotary positions that turn by other angles in a longer run


@dataclass(frozen=True, eq=False)
class Mlp:
    """act(x W_in + b_in) W_out + b_out; gated: act(x W_gate + b_gate) ⊙ (x W_in + b_in)."""

    W_in: Float[Tensor, "d_model d_mlp"]
    b_in: Float[Tensor, "d_mlp"] | None
    W_out: Float[Tensor, "d_mlp d_model"]
    b_out: Float[Tensor, "d_model"] | None
    act: Callable
    W_gate: Float[Tensor, "d_model d_mlp"] | None = None
    b_gate: Float[Tensor, "d_mlp"] | None = None

    def neurons(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_mlp"]:
        read = F.linear(x, self.W_in.T, self.b_in)
        return (
            self.act(read)
            if self.W_gate is None
            else self.act(F.linear(x, self.W_gate.T, self.b_gate)) * read
        )

    def write(self, post: Float[Tensor, "*rows d_mlp"]) -> Float[Tensor, "*rows d_model"]:
        return F.linear(post, self.W_out.T, self.b_out)


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a block, views of the model's own where possible; heads stand side by side."""

    W: dict[
        str, Float[Tensor, "d_model z"]
    ]  # of q, k and v; k and v may have fewer heads, shared by several queries
    b: dict[str, Float[Tensor, "n_ctx z"] | Float[Tensor, "1 z"]]  # with what positions add to q and k
    W_O: Float[Tensor, "z d_model"]
    b_O: Float[Tensor, "d_model"] | None
    scale: float  # of the scores
    norm1: Callable
    norm2: Callable
    mlp: Mlp | None
    smear: Float[Tensor, "head 1"] | None = None
    norms: tuple[Callable, Callable] | None = None  # of queries and of keys


@dataclass(frozen=True, eq=False)
class Rotary:
    """Rotary positions (Su et al. 2021): pairs of numbers turn by angles that grow with the position."""

    table: Callable  # position ids → cosines and sines [… pair]
    adjacent: bool  # pairs (2i, 2i + 1), or (i, i + half of what turns)

    def __call__(self, x: Float[Tensor, "*rows head d_head"], ids: Int[Tensor, "*ids"]):
        cos, sin = (part.to(x.dtype)[..., None, :] for part in self.table(ids))
        if self.adjacent:
            a, b = x[..., 0::2], x[..., 1::2]
            return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
        n = cos.shape[-1]
        a, b, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]  # the rest does not turn
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def own_table(ids: Int[Tensor, "*ids"], d_head: int) -> tuple[Tensor, Tensor]:
    """Angles pos · 10,000^(−2i/d_head), as `models.rotate` has them."""
    rate = 10_000.0 ** (-torch.arange(0, d_head, 2, device=ids.device) / d_head)
    angle = ids[..., None] * rate
    return angle.cos(), angle.sin()


def table_of(module, like: Tensor) -> Callable:
    """Angles as a Hugging Face model computes them; it says each twice, once for either half."""

    def table(ids):
        cos, sin = module(like, ids.reshape(1, -1))
        return tuple(part[0, :, : part.shape[-1] // 2].view(*ids.shape, -1) for part in (cos, sin))

    return table


def read_rotary(model) -> Rotary | None:
    """How this model turns queries and keys."""
    if model.cfg.positional_embedding_type != "rotary":
        return None
    module = getattr(model, "rotary_emb", None)
    if module is None:
        return Rotary(partial(own_table, d_head=model.cfg.d_head), adjacent=True)
    like = torch.zeros(1, 1, dtype=model.W_E.dtype, device=model.W_E.device)
    return Rotary(table_of(module.original_component, like), adjacent=False)


def normaliser(kind: str | None, module, eps: float) -> Callable:
    """LayerNorm, RMSNorm or nothing, as a function of the stream."""
    if kind is None:
        return lambda x: x
    w, b = module.w.detach(), module.b.detach() if kind == "LN" else None
    if kind == "LN":
        return lambda x: F.layer_norm(x, w.shape, w, b, eps)
    if kind == "RMS":
        return lambda x: x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * w
    raise NotImplementedError(kind)


def held(module, name: str) -> Tensor | None:
    """A weight, None where there is none."""
    weight = getattr(module, name, None)
    return None if weight is None else weight.detach()


def read_mlp(mlp, cfg) -> Mlp:
    names = ("W_in", "b_in", "W_out", "b_out", "W_gate", "b_gate")
    weights = {name: held(mlp, name) for name in names}
    return Mlp(act=ACTS[cfg.act_fn], **weights)


def read_layer(block, cfg, positions: Tensor | None) -> Layer:
    """The weights of a `TinyTransformer`'s or a bridge's block; `positions` are added to what q and k read."""
    attn, norm = block.attn, partial(normaliser, cfg.normalization_type, eps=cfg.eps)
    W = {x: getattr(attn, f"W_{x.upper()}").detach().transpose(0, 1).flatten(1) for x in "qkv"}
    b = {x: held(attn, f"b_{x.upper()}") for x in "qkv"}
    b = {x: W[x].new_zeros(1, W[x].shape[1]) if b[x] is None else b[x].view(1, -1) for x in "qkv"}
    if positions is not None:
        b |= {x: b[x] + positions @ W[x] for x in "qk"}
    theirs = getattr(getattr(attn, "original_component", None), "scaling", None)
    norms = [getattr(attn, f"{x}_norm", None) for x in "qk"]
    norm1 = norm(block.ln1)
    return Layer(
        W, b, attn.W_O.detach().flatten(0, 1), held(attn, "b_O"),
        scale=theirs if isinstance(theirs, float) else cfg.d_head**-0.5,
        norm1=norm1, norm2=norm(block.ln2) if hasattr(block, "ln2") else norm1,
        mlp=None if cfg.attn_only else read_mlp(block.mlp, cfg),
        smear=attn.smear.detach().sigmoid()[:, None] if hasattr(attn, "smear") else None,
        norms=None if None in norms else tuple(map(norm, norms)),
    )  # fmt: skip


def unforeseen(model) -> str:
    """Why this model is not rebuilt, though its weights look as if it could be; empty if nothing speaks against it."""
    if model.W_E.dtype in (torch.float16, torch.bfloat16):
        return "16-bit numbers are too coarse to tell one forward from another"
    rotary = getattr(getattr(model, "rotary_emb", None), "original_component", None)
    if any(kind in str(getattr(rotary, "rope_type", "")) for kind in BY_LENGTH):
        return "its angles depend on how long the run is, which a row alone does not know"
    config = getattr(getattr(model, "original_model", None), "config", None)
    return next((name for name in OTHERS if getattr(config, name, None)), "")
