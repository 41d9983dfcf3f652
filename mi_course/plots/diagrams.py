"""Circuits as boxes and arrows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mi_course.errors import CourseError
from mi_course.plots.figure import COLOURS, INK, Figure, start_figure, styled


def circuit(
    nodes: Mapping[str, tuple[float | int, float | int]],
    arrows: Sequence[tuple[str, str, str]],
    *,
    groups: Mapping[str, str] | None = None,
    size: tuple[float, float] = (7.5, 4.4),
    **words: str,
) -> Figure:
    """Named boxes and arrows between them, each with a few words; what is below is earlier in the model.

    Args:
        nodes: text in the box → (x, y), both between 0 and 1.
        arrows: (from, to, words beside it).
        groups: box → group; boxes of a group share a colour.
        size: in inches.
        words: `title` and `alt` (both needed) and `caption`.
    """
    if unknown := [end for start, to, _ in arrows for end in (start, to) if end not in nodes]:
        raise CourseError(f"An arrow ends at {unknown[0]!r}, which is no box.")
    names = list(dict.fromkeys((groups or {}).values()))
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    with styled():
        figure, axes = start_figure(words, *size)
        panel = axes[0, 0]
        panel.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
        panel.axis("off")
        boxes = {}
        for name, (x, y) in nodes.items():
            edge = colour.get((groups or {}).get(name, ""), INK)
            look = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": edge, "linewidth": 1.8}
            boxes[name] = panel.text(
                x, y, name, ha="center", va="center", fontsize=9, color=INK, bbox=look, zorder=3
            )
        for start, to, said in arrows:
            (x0, y0), (x1, y1) = nodes[start], nodes[to]
            ends = {"patchA": boxes[start].get_bbox_patch(), "patchB": boxes[to].get_bbox_patch()}
            look = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0, **ends}
            panel.annotate("", (x1, y1), (x0, y0), arrowprops=look, zorder=1)
            label = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
            panel.text(
                0.5 * (x0 + x1),
                0.5 * (y0 + y1),
                said,
                ha="center",
                va="center",
                fontsize=8,
                color=INK,
                bbox=label if said else None,
                zorder=2,
            )
    return figure
