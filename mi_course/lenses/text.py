"""Windows of real text: Python's documentation and sources, in a model's own tokens, without tokenizing the whole library."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course.corpora import is_held_out, standard_library
from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError

CHARACTERS = 12_000  # of each text, from its start


@lru_cache(maxsize=4)
def texts_of(held_out: bool, shared: bool = False) -> dict[str, str]:
    """Name → text of what is held out, or of all else; `shared` as in `corpora.standard_library`."""
    return {name: text for name, text in standard_library(shared).items() if is_held_out(name) == held_out}


def ids_of(tokenizer, text: str) -> list[int]:
    """A text in tokens, nothing put before it."""
    if hasattr(tokenizer, "encode_batch"):
        return tokenizer.encode(text, add_special_tokens=False).ids
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def windows(
    tokenizer, n: int, length: int, *, held_out: bool = False, shared: bool = False, seed: int = 0
) -> Int[Tensor, "n length"]:
    """Windows of the running interpreter's library, half of documentation and half of sources, each of another text.

    Args:
        tokenizer: of a Hugging Face model, or one of the course's own.
        n: how many.
        length: tokens each.
        held_out: from the texts that nothing here is fitted on.
        shared: from the texts that Python 3.10 to 3.13 have letter for letter in common.
        seed: which texts, and where in them.
    """
    texts = texts_of(held_out, shared)
    kinds = [[k for k in sorted(texts) if k.startswith("topics/") == there] for there in (True, False)]
    rng, rows = generator(seed, 11), []
    orders = [torch.randperm(len(names), generator=rng).tolist() if names else [] for names in kinds]
    turn = 0
    while len(rows) < n:
        if not any(orders):
            raise CourseError(f"There are only {len(rows)} texts of {length} tokens, not {n}: take fewer.")
        names, order = kinds[turn % 2], orders[turn % 2]
        turn += 1
        if not order:
            continue
        ids = ids_of(tokenizer, texts[names[order.pop()]][:CHARACTERS])
        if len(ids) >= length:
            at = int(torch.randint(len(ids) - length + 1, (1,), generator=rng))
            rows.append(ids[at : at + length])
    return torch.tensor(rows)
