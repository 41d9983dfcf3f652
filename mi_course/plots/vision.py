"""Walls of pictures: stimuli, what pleases a unit, kernels."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mi_course.errors import CourseError
from mi_course.plots.figure import (
    INK,
    Array,
    Figure,
    Names,
    as_array,
    check_length,
    known_names,
    start_figure,
    styled,
)

GAP, HEAD = 5, 15  # pixels between pictures, and for a name above one


def pictures(
    rows: Mapping[str, Array],
    *,
    names: Sequence[str] | None = None,
    side: int = 96,
    signed: bool = False,
    control: Names = None,
    **words: str,
) -> Figure:
    """Rows of pictures {what the row shows: [n 3 size size]}, in an image network's range, −1 to 1.

    Args:
        rows: the pictures of each row, colour last but two axes; kernels may be [n size size].
        names: one a column, above the first row.
        side: how large a picture is shown, in pixels.
        signed: for kernels: 0 is grey, each picture's largest |value| black or white.
        control: rows that are controls, and say so.
        words: `title` and `alt` (both needed) and `caption`.
    """
    if not isinstance(rows, Mapping) or not rows:
        raise CourseError(
            "rows must be a dictionary {what a row shows: its pictures} with at least one entry."
        )
    controls = known_names("control", control, list(rows))
    walls = {label: _as_bytes(f"rows[{label!r}]", values, signed, side) for label, values in rows.items()}
    most = max(map(len, walls.values()))
    if names is not None:
        check_length("names", names, "the longest row", most)
    step, head = side + GAP, HEAD if names is not None else 0
    canvas = np.full((head + step * len(walls) - GAP, step * most - GAP, 3), 255, dtype=np.uint8)
    for row, wall in enumerate(walls.values()):
        for column, picture in enumerate(wall):
            top, left = head + row * step, column * step
            canvas[top : top + side, left : left + side] = picture
    with styled():
        labels = max(len(line) for label in walls for line in _folded(label).split("\n"))
        width = canvas.shape[1] / 100 + 0.075 * labels + 0.3
        figure, ((axes,),) = start_figure(words, width, canvas.shape[0] / 100 + 0.2)
        axes.imshow(canvas, interpolation="none")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        for row, label in enumerate(walls):
            said = f"{label} (control)" if label in controls and "control" not in label else label
            look = dict(ha="right", va="center", fontsize=8.5, color=INK)
            axes.text(-6, head + row * step + side / 2, _folded(said), **look)
        for column, name in enumerate(names or ()):
            look = dict(ha="center", va="bottom", fontsize=8, color=INK)
            axes.text(column * step + side / 2, head - 3, name, **look)
    return figure


def _folded(label: str) -> str:
    return textwrap.fill(label, 18)


def _as_bytes(name: str, values: Any, signed: bool, side: int) -> list[np.ndarray]:
    """Each picture as bytes [side side 3], enlarged by whole pixels or made smaller."""
    from PIL import Image

    array = as_array(name, values)
    if array.ndim == 3:
        array = np.repeat(array[:, None], 3, axis=1)
    if array.ndim != 4 or array.shape[1] != 3:
        raise CourseError(f"{name} must have shape [n, 3, rows, columns], not {list(array.shape)}.")
    if signed:
        array = array / np.maximum(np.abs(array).max(axis=(1, 2, 3), keepdims=True), 1e-12)
    if np.abs(array).max() > 1.1:
        raise CourseError(f"{name} runs up to {np.abs(array).max():.3g}: pictures run from −1 to 1.")
    shown = ((array.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)
    smooth = Image.Resampling.BICUBIC if shown.shape[1] > side else Image.Resampling.NEAREST
    return [np.asarray(Image.fromarray(picture).resize((side, side), smooth)) for picture in shown]
