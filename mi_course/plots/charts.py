"""Curves, bars, heat maps and scatter plots."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from mi_course.errors import CourseError
from mi_course.plots.figure import (
    AMOUNTS,
    CONTROLS,
    GREY,
    INK,
    MARKERS,
    SIGNED,
    Array,
    Figure,
    Marks,
    Names,
    Series,
    as_array,
    as_series,
    check_length,
    colour_bar,
    draw_legend,
    known_names,
    log_axis,
    looks_of,
    mark_events,
    mark_heights,
    place_text,
    shown_token,
    start_figure,
    styled,
)


def line(
    xs: Array | Series,
    series: Series,
    *,
    xlabel: str,
    ylabel: str,
    control: Names = None,
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = False,
    vlines: Marks | None = None,
    hlines: Marks | None = None,
    bands: Marks | None = None,
    spread: Marks | None = None,
    panels: Mapping[str, Series] | None = None,
    **words: str,
) -> Figure:
    """Curves {label: ys} over `xs`, or over {label: xs} where they have their own; the control is grey and dashed.

    `vlines` {name: x} marks events, `hlines` {name: y} thresholds, `bands` {name: (from, to)} shades windows,
    `spread` {label: (low, high)} shades a range around a curve, `panels` {ylabel: series} adds panels below.

    Args:
        xs: positions, or {label: positions}.
        series: {label: ys}.
        xlabel: what stands under the axis.
        ylabel: what stands beside it.
        control: label, or labels, to draw in grey.
        log_x: a logarithmic axis.
        log_y: the same upwards.
        markers: a mark at every point.
        vlines: {name: x}.
        hlines: {name: y}.
        bands: {name: (from, to)}.
        spread: {label: (low, high)}.
        panels: {ylabel: series}.
        words: `title` and `alt` (both needed) and `caption`.
    """
    stack = {name: as_series(name, curves) for name, curves in {ylabel: series, **(panels or {})}.items()}
    names = list(dict.fromkeys(label for curves in stack.values() for label in curves))
    looks = looks_of(names, known_names("control", control, names))
    own = as_series("xs", xs if isinstance(xs, Mapping) else dict.fromkeys(names, xs))
    known_names("xs", names, list(own))
    spread = as_series("spread", spread, 2) if spread else {}
    known_names("spread", list(spread), list(stack[ylabel]))
    with styled():
        figure, axes = start_figure(words, 7.5, 1.5 + 1.9 * len(stack), rows=len(stack), sharex=True)
        for panel, (name, curves) in zip(axes[:, 0], stack.items()):
            for label, ys in curves.items():
                marker = MARKERS[names.index(label) % len(MARKERS)] if markers or len(ys) == 1 else None
                _curve(
                    panel, label, own[label], ys, looks[label], marker, spread if panel is axes[0, 0] else {}
                )
            for i, (label, (start, end)) in enumerate((bands or {}).items()):
                panel.axvspan(start, end, color=("#f3c13a", "#7fc8a9")[i % 2], alpha=0.3, lw=0, label=label)
            if log_x:
                log_axis(panel, "x", np.concatenate([own[label] for label in curves]))
            if log_y:
                log_axis(panel, "y", np.concatenate(list(curves.values())))
            panel.set_ylabel(name)
            panel.grid(True)
        mark_heights(axes[0, 0], hlines)
        axes[-1, 0].set_xlabel(xlabel)
        draw_legend(figure.picture, last=list(hlines or ()))
        mark_events(axes, vlines)
    return figure


def _curve(
    axes, label: str, xs: np.ndarray, ys: np.ndarray, look: tuple, marker: str | None, spread: dict
) -> None:
    check_length(f"The curve {label!r}", ys, "its xs", len(xs))
    colour, said = look
    dash = CONTROLS.get(colour, ("-", ""))[0]
    axes.plot(xs, ys, dash, color=colour, label=said, marker=marker, markersize=4)
    if label in spread:
        for edge in spread[label]:
            check_length(f"spread[{label!r}]", edge, "its curve", len(xs))
        axes.fill_between(xs, *spread[label], color=colour, alpha=0.2, linewidth=0)


def bars(
    labels: Sequence,
    series: Series | Array,
    *,
    ylabel: str,
    xlabel: str = "",
    control: Names = None,
    hlines: Marks | None = None,
    errors: Series | None = None,
    points: Series | None = None,
    digits: int | None = None,
    **words: str,
) -> Figure:
    """Bars {series: heights} grouped by label; the control is grey and hatched.

    `hlines` {name: height} draws thresholds, `errors` {series: half-lengths}, `points` {series: [label, repeat]}
    shows single runs as dots, `digits` writes the heights above the bars.

    Args:
        labels: under the groups of bars.
        series: {series: heights}, or the heights alone.
        ylabel: what stands beside the axis.
        xlabel: what stands under it.
        control: series to draw in grey.
        hlines: {name: height}.
        errors: {series: half-lengths}.
        points: {series: [label, repeat]}.
        digits: written above the bars.
        words: `title` and `alt` (both needed) and `caption`.
    """
    labels = [str(label) for label in labels]
    heights = as_series("series", series if isinstance(series, Mapping) else {ylabel: series})
    looks = looks_of(list(heights), known_names("control", control, heights))
    errors = as_series("errors", errors) if errors else {}
    points = as_series("points", points, 2) if points else {}
    for what, given in (("series", heights), ("errors", errors), ("points", points)):
        known_names(what, list(given), list(heights))
        for name, values in given.items():
            check_length(f"{what}[{name!r}]", values, "labels", len(labels))
    each = 0.24 if digits is None else 0.26 + 0.08 * digits
    width = min(9.0, max(4.6, 2.6 + len(labels) * (len(heights) + 0.6) * each))
    thick = 0.8 / len(heights)
    with styled():
        figure, ((axes,),) = start_figure(words, width, 3.3)
        for i, (name, ys) in enumerate(heights.items()):
            at = np.arange(len(labels)) + (i - (len(heights) - 1) / 2) * thick
            drawn = axes.bar(at, ys, thick * 0.92, yerr=errors.get(name), **_dress(looks[name]))
            if name in points:
                dots = np.repeat(at, points[name].shape[1])
                axes.scatter(dots, points[name].ravel(), s=12, color="white", edgecolor=INK, lw=0.8, zorder=3)
            if digits is not None:
                said = [_decimals(y, digits) for y in ys]
                axes.bar_label(drawn, said, fontsize=8, padding=1)
        axes.axhline(0, color=INK, linewidth=0.8)
        mark_heights(axes, hlines)
        reach = [max(map(len, label.split("\n"))) for label in labels]
        touching = any((a + b) / 2 * 0.08 * len(labels) > 0.6 * width for a, b in zip(reach, reach[1:]))
        crowded = touching or sum(map(len, labels)) * 0.09 > 0.6 * width
        lean = dict(rotation=35, ha="right", rotation_mode="anchor") if crowded else {}
        axes.set_xticks(range(len(labels)), labels, **lean)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(True, axis="y")
        draw_legend(figure.picture, last=list(hlines or ()), alone=bool(control))
    return figure


def _dress(look: tuple[str, str]) -> dict[str, Any]:
    colour, said = look
    fill = dict(color=colour)
    if colour in CONTROLS:
        fill = dict(color="#dcdee2", edgecolor=colour, hatch=CONTROLS[colour][1])
    return {"label": said, "ecolor": INK, "capsize": 2, **fill}


def colour_scale(arrays: Collection[np.ndarray], signed: bool, limits: tuple | None = None):
    """The colour scale shared by all arrays; zero sits in the middle of a signed one, whatever the data."""
    from matplotlib.colors import Normalize

    low, high = limits or (min(a.min() for a in arrays), max(a.max() for a in arrays))
    if signed:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    return Normalize(low, high if high > low else low + 1)


def has_two_signs(arrays: Collection[np.ndarray]) -> bool:
    return bool(min(a.min() for a in arrays) < 0 < max(a.max() for a in arrays))


def ink_on(rgb: Sequence[float]) -> str:
    """Black or white, whichever is easier to read on `rgb` (relative luminance of WCAG 2)."""
    luminance = np.dot((0.2126, 0.7152, 0.0722), np.asarray(rgb[:3]) ** 2.2)
    return "#ffffff" if luminance < 0.18 else "#000000"


def _cell_names(axis, names: Sequence | None, n: int, what: str, room: float) -> bool:
    """Name the cells, every k-th where `room` inches are too short; True where the names must stand upright."""
    if names is None:
        axis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
        return False
    check_length(what, names, "that side of the matrix", n)
    step = math.ceil(n * 0.155 / room)
    shown = [shown_token(name) for name in names]
    axis.set_ticks(range(0, n, step), shown[::step])
    return max(map(len, shown)) * 0.095 > room / n * step


def heatmap(
    matrix: Array | Series,
    *,
    xlabels: Sequence | None = None,
    ylabels: Sequence | None = None,
    xlabel: str = "",
    ylabel: str = "",
    unit: str = "",
    signed: bool | None = None,
    limits: tuple | None = None,
    digits: int | None = None,
    columns: int | None = None,
    **words: str,
) -> Figure:
    """A matrix [row, column] in colours, or several, {label: matrix}, on one colour scale.

    Signed data (default: where both signs occur) get a diverging map with zero in the middle. Values are written
    into the cells with `digits`, and by default where there are few; `limits` fixes the ends of the scale.

    Args:
        matrix: [row, column], or {label: matrix}.
        xlabels: names of the columns.
        ylabels: names of the rows.
        xlabel: what stands under the axis.
        ylabel: what stands beside it.
        unit: of the colours.
        signed: zero in the middle; default: where both signs occur.
        limits: (lowest, highest) of the colours.
        digits: written into the cells.
        columns: panels side by side.
        words: `title` and `alt` (both needed) and `caption`.
    """
    matrices = as_series("matrix", matrix if isinstance(matrix, Mapping) else {"": matrix}, 2)
    shapes = {values.shape for values in matrices.values()}
    if len(shapes) > 1:
        raise CourseError(f"The matrices of one heat map need one shape, but these have {sorted(shapes)}.")
    n, (n_rows, n_columns) = len(matrices), shapes.pop()
    columns = min(n, columns or (n if n < 4 else {4: 2, 5: 3, 6: 3, 9: 3}.get(n, 4)))
    across, down = _panel_size(n_rows, n_columns, columns)
    signed = has_two_signs(matrices.values()) if signed is None else signed
    digits = 2 if digits is None and n_rows * n_columns <= 150 and across / n_columns > 0.4 else digits
    with styled():
        rows = math.ceil(n / columns)
        size = (max(4.2, across * columns + 1.6), (down + 0.3) * rows + 0.6)
        figure, axes = start_figure(words, *size, rows, columns, sharex=True, sharey=True)
        norm = colour_scale(matrices.values(), signed, limits)
        for panel, (label, values) in zip(axes.flat, matrices.items()):
            shades = panel.imshow(values, cmap=SIGNED if signed else AMOUNTS, norm=norm, aspect="auto")
            panel.set_title(label, fontsize=10)
            panel.spines[:].set_visible(False)
            if digits is not None:
                _write_cells(panel, shades, values, digits)
        upright = _cell_names(axes[0, 0].xaxis, xlabels, n_columns, "xlabels", across)
        _cell_names(axes[0, 0].yaxis, ylabels, n_rows, "ylabels", down)
        for i, panel in enumerate(axes.flat):
            panel.set_visible(i < n)
            panel.tick_params(axis="x", rotation=90 if upright else 0, labelbottom=i + columns >= n)
        figure.picture.supxlabel(xlabel, fontsize=10)
        figure.picture.supylabel(ylabel, fontsize=10)
        colour_bar(figure.picture, shades, axes, unit)
    return figure


def _panel_size(n_rows: int, n_columns: int, columns: int) -> tuple[float, float]:
    """Inches across and down for one matrix: square cells, unless the matrix is very long."""
    across = max(2.4, min(6.2, 0.5 * n_columns)) if columns == 1 else min(3.4, 7.2 / columns)
    down = across * n_rows / n_columns if n_columns < 4 * n_rows else 0.35 * n_rows
    return across, min(4.8, max(0.9, down))


def _decimals(value: Any, digits: int) -> str:
    """Rounded; what rounds to zero has no sign."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}"


def _write_cells(axes, shades, values: np.ndarray, digits: int) -> None:
    for (row, column), value in np.ndenumerate(values):
        ink = ink_on(shades.cmap(shades.norm(value)))
        axes.text(column, row, _decimals(value, digits), ha="center", va="center", fontsize=8, color=ink)


def scatter(
    xs: Array,
    ys: Array,
    *,
    xlabel: str,
    ylabel: str,
    labels: Sequence | None = None,
    groups: Sequence | None = None,
    control: Names = None,
    log_x: bool = False,
    log_y: bool = False,
    diagonal: bool = False,
    vlines: Marks | None = None,
    hlines: Marks | None = None,
    **words: str,
) -> Figure:
    """Points, coloured and shaped by group; each label (empty ones are skipped) goes where it covers least.

    Args:
        xs: [point].
        ys: [point].
        xlabel: what stands under the axis.
        ylabel: what stands beside it.
        labels: a word for each point, or an empty one.
        groups: the group of each point.
        control: group, or groups, to draw in grey.
        log_x: a logarithmic axis.
        log_y: the same upwards.
        diagonal: draw x = y.
        vlines: {name: x}.
        hlines: {name: y}.
        words: `title` and `alt` (both needed) and `caption`.
    """
    xs, ys = as_array("xs", xs, 1), as_array("ys", ys, 1)
    groups = np.array([""] * len(xs) if groups is None else [str(group) for group in groups])
    names = list(dict.fromkeys(groups.tolist()))
    for what, values in (("ys", ys), ("groups", groups), ("labels", xs if labels is None else labels)):
        check_length(what, values, "xs", len(xs))
    looks = looks_of(names, known_names("control", control, names))
    with styled():
        figure, axes = start_figure(words, 7.5, 4.4)
        panel = axes[0, 0]
        for i, name in enumerate(names):
            colour, said = looks[name]
            face, edge = ("none", colour) if colour in CONTROLS else (colour, "white")
            where, shape = groups == name, MARKERS[i % len(MARKERS)]
            panel.scatter(
                xs[where], ys[where], s=36, marker=shape, label=said or None, color=face, edgecolor=edge
            )
        if log_x:
            log_axis(panel, "x", xs)
        if log_y:
            log_axis(panel, "y", ys)
        if diagonal:
            ends = panel.get_xlim()
            panel.autoscale(False)
            panel.plot(ends, ends, color=GREY, linestyle=":", linewidth=1.2, label="x = y")
        panel.set(xlabel=xlabel, ylabel=ylabel)
        panel.grid(True)
        mark_heights(panel, hlines)
        draw_legend(figure.picture, last=list(hlines or ()), alone=True)
        mark_events(axes, vlines)
        if labels is not None:
            _label_points(panel, xs, ys, labels)
    return figure


def _label_points(axes, xs: np.ndarray, ys: np.ndarray, labels: Sequence) -> None:
    """Try eight directions at growing distance; a thin line ties a distant label to its point."""
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()
    taken = [
        Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in axes.transData.transform(np.c_[xs, ys])
    ]
    ha, va = {1: "left", 0: "center", -1: "right"}, {1: "bottom", 0: "center", -1: "top"}
    sides = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    places = [(r * x, r * y, ha[x], va[y]) for r in (6, 12, 20, 30, 42) for x, y in sides]
    for x, y, label in zip(xs, ys, labels):
        if label:
            where = {"xytext": (6, 0), "textcoords": "offset points"}
            text = axes.annotate(shown_token(label), (x, y), fontsize=8.5, color=INK, **where)
            text.set_in_layout(False)
            place = place_text(text, places, taken, within=axes.bbox)
            if max(map(abs, place[:2])) > 6:
                tie = dict(arrowstyle="-", color=GREY, linewidth=0.7, shrinkA=0, shrinkB=2)
                axes.annotate("", (x, y), **{**where, "xytext": place[:2]}, arrowprops=tie).set_in_layout(
                    False
                )
