"""What a probe is tested on: documents that it has not seen, and labels known exactly."""

from __future__ import annotations

import io
import tokenize
import warnings

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.probing.checked import two_classes

TEXT = (tokenize.STRING, tokenize.COMMENT) + (
    (tokenize.FSTRING_MIDDLE,) if hasattr(tokenize, "FSTRING_MIDDLE") else ()
)


def held_out(documents, z=None, share: float = 0.3, *, seed: int = 0) -> Bool[Tensor, "row"]:
    """Which rows are held out: whole documents, never single rows.

    Rows of one document resemble each other, so a probe tested on rows of its own training documents is tested on what it
    has nearly seen. With labels `z` both parts must have both classes; where every document has one class alone a warning
    says so, for then a probe that recognises documents looks like one that reads the concept.

    Args:
        documents: [row] whole numbers.
        z: [row] labels 0 and 1, to be looked at.
        share: of the documents that is held out.
        seed: of the choice.
    """
    documents = torch.as_tensor(documents)
    names, which = documents.unique(return_inverse=True)
    n = round(share * len(names))
    if not 0 < n < len(names):
        raise CourseError(f"{share:.0%} of {len(names)} documents leave one part empty: give more documents.")
    chosen = torch.zeros(len(names), dtype=torch.bool)
    chosen[torch.randperm(len(names), generator=generator(seed, 12))[:n]] = True
    held = chosen[which]
    if z is not None:
        z = two_classes(z, len(documents))
        for part, name in ((~held, "train on"), (held, "test on")):
            if len(z[part].unique()) < 2:
                raise CourseError(
                    f"The rows to {name} have one class only: the label is a function of the fold. Choose documents that "
                    "hold both classes."
                )
        ones = torch.zeros(len(names)).index_add(0, which, z.float()) / torch.bincount(which)
        if bool(((ones == 0) | (ones == 1)).all()):
            warnings.warn(
                "Every document has one class alone: a probe may read which document it is. Mix classes within documents.",
                stacklevel=2,
            )
    return held


def inside_text(source: str) -> list[bool] | None:
    """For every character of the Python file `source`: does it stand inside a string or a comment? None if it cannot be parsed.

    Python's own tokenizer says so, not a guess. Quotes and the # belong to the text.
    """
    starts = [0]
    for line in io.StringIO(
        source
    ):  # as the tokenizer counts lines: str.splitlines also ends them at a form feed
        starts.append(starts[-1] + len(line))
    inside = [False] * len(source)
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in TEXT:
                (r, c), (r2, c2) = token.start, token.end
                for at in range(starts[r - 1] + c, min(starts[r2 - 1] + c2, len(source))):
                    inside[at] = True
    except (tokenize.TokenError, SyntaxError, IndexError):
        return None
    return inside
