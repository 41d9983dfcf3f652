"""Attention patterns: heat maps, and CircuitsVis' view of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mi_course.errors import CourseError
from mi_course.plots.charts import heatmap
from mi_course.plots.figure import Array, Figure, as_array, check_length, shown_token
from mi_course.plots.views import interactive


def attention(
    patterns: Array,
    tokens: Sequence,
    *,
    labels: Sequence | None = None,
    columns: int | None = None,
    **words: str,
) -> Figure:
    """Attention patterns [head, query, key], or one [query, key], side by side over shared tokens.

    Args:
        patterns: [head, query, key], or one [query, key]; rows sum to 1.
        tokens: names on both axes.
        labels: of the heads.
        columns: panels side by side.
        words: `title` and `alt` (both needed) and `caption`.
    """
    axes = dict(xlabel="key: token attended to", ylabel="query: token that attends", unit="attention")
    scale = dict(signed=False, limits=(0, 1), columns=columns)
    heads = _heads(patterns, tokens, labels)
    return heatmap(heads, xlabels=tokens, ylabels=tokens, **axes, **scale, **words)


def _heads(patterns: Array, tokens: Sequence, labels: Sequence | None) -> dict[str, np.ndarray]:
    array = as_array("patterns", patterns)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[1:] != (len(tokens),) * 2:
        wanted = f"[head, query, key] with {len(tokens)} tokens on both sides"
        raise CourseError(f"patterns must have shape {wanted}, but has {tuple(array.shape)}.")
    labels = [f"head {h}" if len(array) > 1 else "" for h in range(len(array))] if labels is None else labels
    check_length("labels (each one once)", set(labels), "the head axis of patterns", len(array))
    return {str(label): pattern for label, pattern in zip(labels, array)}


def attention_view(
    patterns: Array,
    tokens: Sequence,
    *,
    labels: Sequence | None = None,
    name: str | None = None,
    **words: str,
) -> Figure:
    """Attention heads to hover and click (CircuitsVis) above `attention`, which print and GitHub show.

    Args:
        patterns: [head, query, key].
        tokens: names on both axes.
        labels: of the heads.
        name: of the view on its page, where two would be alike.
        words: `title` and `alt` (both needed) and `caption`.
    """
    heads = _heads(patterns, tokens, labels)
    data = {
        "attention": [np.round(pattern, 4).tolist() for pattern in heads.values()],
        "attentionHeadNames": list(heads),
        "tokens": [shown_token(token) for token in tokens],
        "minValue": 0,
        "maxValue": 1,
    }
    still = attention(patterns, tokens, labels=labels, **words)
    return interactive("AttentionHeads", data, [*heads, *tokens], name, still)
