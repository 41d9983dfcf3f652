"""Prompts of unequal length: which positions hold a token, and what number each has.

Shorter prompts are padded on the left, so that all end at the same position. A pad is seen by no token, and positions
are counted from the first token. A mask [batch pos] says where tokens are; without one every position is a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.patching.nodes import tensor_of


@dataclass(frozen=True, eq=False)
class Layout:
    """Where tokens stand: `mask` is None where there is no padding."""

    shape: tuple[int, int]
    device: torch.device
    mask: Bool[Tensor, "batch pos"] | None = None

    @classmethod
    def of(cls, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None = None) -> Layout:
        """That of these prompts."""
        return cls(tuple(tokens.shape), tokens.device, mask)

    @cached_property
    def ids(self) -> Int[Tensor, "rows pos"]:
        """The number of each position, one row for all prompts where none is padded."""
        if self.mask is None:
            return torch.arange(self.shape[1], device=self.device)[None]
        return (self.mask.long().cumsum(1) - 1).clamp(min=0)

    def id_of(self, batch: Int[Tensor, "n"], pos: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
        """The number of position `pos` of prompt `batch`."""
        return pos if self.mask is None else self.ids[batch, pos]

    def hidden(self, n_pos: int) -> Bool[Tensor, "*batch query key"]:
        """What a query may not see: keys ahead, and pads ([batch 1 query key]); a pad sees itself."""
        ahead = torch.ones(n_pos, n_pos, dtype=torch.bool, device=self.device).triu(1)
        if self.mask is None:
            return ahead
        itself = torch.eye(n_pos, dtype=torch.bool, device=self.device)
        return ahead | (~self.mask[:, None, None, :n_pos] & ~itself)

    def real(self, x: Shaped[Tensor, "batch pos *rest"], prompt: int) -> Shaped[Tensor, "its_pos *rest"]:
        """What one prompt has at its tokens, without its padding."""
        return x[prompt] if self.mask is None else x[prompt, self.mask[prompt]]

    def given(self) -> dict:
        """What a bridge is told: it works out the positions itself."""
        return {} if self.mask is None else {"attention_mask": self.mask.long()}


def checked_mask(mask, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"] | None:
    """The mask as booleans, None where nothing is masked."""
    mask = tensor_of(mask, tokens.device)
    if mask.shape != tokens.shape or not bool(((mask == 0) | (mask == 1)).all()):
        raise CourseError(
            f"attention_mask must be 1 at tokens and 0 at padding, {list(tokens.shape)} as the tokens are, all "
            f"rows of one length, not {list(mask.shape) if mask.numel() else 'that'}."
        )
    mask = mask.bool()
    if not bool(mask.any(1).all()):
        raise CourseError("attention_mask hides a whole prompt: every prompt needs a token.")
    return None if bool(mask.all()) else mask


def found_mask(model, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"] | None:
    """The mask that the tokenizer's padding implies: pads at the beginning of a prompt are no tokens.

    Many tokenizers pad with the token that also begins a text. Then the last of several leading ones is the beginning
    wherever every prompt has one. Where it also ends a text, prompts may all end in it, each in as many.
    """
    tokenizer = getattr(model, "tokenizer", None)
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None:
        return None
    is_pad = tokens == pad
    leading = is_pad.long().cumprod(1).sum(1)
    begins = pad == getattr(tokenizer, "bos_token_id", None)
    if begins and int(leading.min()) > 1:
        raise CourseError(
            "Every prompt begins with several pad tokens, which also begin a text: say with attention_mask= which are tokens."
        )
    if begins and int(leading.min()) == 1:
        leading = leading - 1
    if int(leading.max()) == tokens.shape[1]:
        raise CourseError("A prompt consists of padding alone.")
    check_ends(model, tokens)
    mask = torch.arange(tokens.shape[1], device=tokens.device) >= leading[:, None]
    return None if bool(mask.all()) else mask


def check_ends(model, tokens: Int[Tensor, "batch pos"]) -> None:
    """Refuse prompts that end in padding, where the answer would be read."""
    tokenizer = getattr(model, "tokenizer", None)
    pad = getattr(tokenizer, "pad_token_id", None)
    trailing = (tokens == pad).long().flip(1).cumprod(1).sum(1) if pad is not None else torch.zeros(1)
    meant = pad in (getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "eos_token_id", None))
    if int(trailing.max()) > (int(trailing.min()) if meant else 0):
        raise CourseError(
            "A prompt ends in padding, where the answer would be read: pad on the left, or pass attention_mask= and pos="
            f"{' (1 also at an end of text that is meant)' if meant else ''}."
        )


def layout_of(model, tokens: Int[Tensor, "batch pos"], attention_mask=None) -> Layout:
    """Where the prompts' tokens stand, as told or as the tokenizer's padding implies."""
    mask = found_mask(model, tokens) if attention_mask is None else checked_mask(attention_mask, tokens)
    return Layout.of(tokens, mask)
