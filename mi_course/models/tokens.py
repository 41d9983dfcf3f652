"""Tokens in, a loss out: what every model's caller checks and measures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mi_course.errors import CourseError


def next_token_loss(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"], per_token: bool = False
) -> Float[Tensor, "..."]:
    """Mean −log p(next token) in nats, of `logits` for the `tokens` that come next; with `per_token`, [batch pos−1]."""
    reduction = "none" if per_token else "mean"
    flat = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction=reduction)
    return flat.view(len(tokens), -1) if per_token else flat


def check_rows(tokens: Shaped[Tensor, "..."]) -> None:
    """One sentence for `tokens` that are not [batch pos]."""
    if tokens.ndim != 2:
        raise CourseError(
            f"tokens must be [batch pos], not {list(tokens.shape)}: use tokens[None] for one row."
        )


def checked_tokens(tokens: Shaped[Tensor, "..."], cfg) -> Int[Tensor, "batch pos"]:
    """The tokens, if a model of the configuration `cfg` can read them; ids on a GPU are not waited for."""
    check_rows(tokens)
    if tokens.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8):
        kind = str(tokens.dtype).removeprefix("torch.")
        raise CourseError(f"tokens are ids, signed whole numbers, not {kind}: pass tokens.long().")
    if tokens.shape[1] > cfg.n_ctx:
        raise CourseError(f"{tokens.shape[1]} tokens do not fit: this model reads n_ctx={cfg.n_ctx}.")
    if tokens.device.type == "cpu" and tokens.numel():
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= cfg.d_vocab:
            raise CourseError(f"Token ids {low}…{high} leave the vocabulary 0…{cfg.d_vocab - 1}.")
    return tokens
