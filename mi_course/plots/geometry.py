"""Features as directions: arrows, polytopes, stacks and regions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float

from mi_course.errors import CourseError
from mi_course.plots.charts import colour_scale, ink_on
from mi_course.plots.figure import (
    AMOUNTS,
    COLOURS,
    DASHES,
    GREY,
    INK,
    Array,
    Figure,
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
    shown_token,
    start_figure,
    styled,
)


def _panels(
    W: Array | Series, rows: int, what: str, control: Names
) -> tuple[dict[str, np.ndarray], set[str]]:
    """({label: W}, the controls among them); one W alone has the empty label. `rows` 0 allows any number."""
    panels = as_series("W", W if isinstance(W, Mapping) else {"": W}, 2)
    for label, values in panels.items():
        if rows and len(values) != rows:
            name = f"W[{label!r}]" if label else "W"
            raise CourseError(f"{name} must have shape [{rows}, {what}], but has {tuple(values.shape)}.")
    return panels, known_names("control", control, panels)


def _of_features(name: str, given: Any, panels: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """{label: one value a feature}, from such a dictionary or from one sequence for all panels."""
    if given is None:
        return None
    given = (
        {str(k): v for k, v in given.items()} if isinstance(given, Mapping) else dict.fromkeys(panels, given)
    )
    known_names(name, list(panels), list(given))
    for label, values in panels.items():
        check_length(name, given[label], "the feature axis of W", values.shape[1])
    return given


def _feature_colours(colours: Any, panels: Mapping[str, np.ndarray], controls: set[str]):
    """({label: a colour for each feature}, the colour scale or None): by value, else blue, else grey for controls."""
    values = _of_features("colours", colours, panels)
    if values is None:
        plain = {label: GREY if label in controls else COLOURS[0] for label in panels}
        return {label: [plain[label]] * W.shape[1] for label, W in panels.items()}, None
    from matplotlib.colors import ListedColormap

    values = {label: as_array("colours", values[label], 1) for label in panels}
    readable = ListedColormap(
        matplotlib.colormaps[AMOUNTS](np.linspace(0, 0.88, 256))
    )  # its yellow is too pale
    scale = matplotlib.cm.ScalarMappable(colour_scale(values.values(), signed=False), readable)
    return {label: list(scale.to_rgba(each)) for label, each in values.items()}, scale


def _small_multiples(
    words: Mapping[str, str], n: int, columns: int, across: float, down: float, beside: float = 0.6, **layout
):
    """(figure, n axes): at most `columns` in a row, each `across` by `down` inches, and `beside` for what is beside."""
    columns = max(1, min(n, columns))
    rows = math.ceil(n / columns)
    figure, axes = start_figure(
        words, max(4.2, across * columns + beside), down * rows + 0.5, rows, columns, **layout
    )
    for panel in axes.flat[n:]:
        panel.set_visible(False)
    return figure, list(axes.flat[:n])


def _head(axes, label: str, controls: set[str]) -> None:
    axes.set_title(textwrap.fill(looks_of([label], controls & {label})[label][1], 26), fontsize=10)


def _hull_edges(points: Float[np.ndarray, "n d"]) -> list[tuple[int, int]]:
    """Edges of the convex hull in the space that the points span; a diagonal of a (nearly) flat face is none."""
    from scipy.spatial import ConvexHull

    if len(points) < 2:
        return []
    centred = points - points.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes[sizes > 1e-6 * max(sizes.max(), 1e-12)].T
    if flat.shape[1] < 2:
        return [(int(flat.argmin()), int(flat.argmax()))] if flat.size else []
    hull, faces = ConvexHull(flat), {}
    for simplex, normal in zip(hull.simplices, hull.equations[:, :-1]):
        for pair in combinations(sorted(map(int, simplex)), 2):
            faces.setdefault(pair, []).append(normal)
    return [pair for pair, normals in faces.items() if flat.shape[1] == 2 or normals[0] @ normals[-1] < 0.995]


def vectors(
    W: Array | Series,
    *,
    labels: Any = None,
    hull: bool = False,
    colours: Any = None,
    unit: str = "",
    control: Names = None,
    columns: int | None = None,
    xlabel: str = "hidden 1",
    ylabel: str = "hidden 2",
    **words: str,
) -> Figure:
    """The columns of W [2, feature] as arrows from the origin, or several, {label: W}, on one scale.

    The thin circle has radius 1; a column near zero is a dot. `labels` names the features, `colours` (in `unit`)
    colours them by a value, both a sequence or {label: sequence}; `hull` draws the convex hull of the tips. `control`
    names the panels drawn as controls, `columns` how many stand beside each other; `xlabel` and `ylabel` name the two
    dimensions, and `words` are title, alt and caption.
    """
    panels, controls = _panels(W, 2, "feature", control)
    names = _of_features("labels", labels, panels)
    paint, scale = _feature_colours(colours, panels, controls)
    reach = (1.12 if labels is None else 1.3) * max(
        1.0, *(np.linalg.norm(values, axis=0).max() for values in panels.values())
    )
    n = len(panels)
    with styled():
        across = 3.6 if n == 1 else max(1.8, min(3.0, 9 / (columns or min(n, 4))))
        figure, axes = _small_multiples(words, n, columns or 4, across, across, sharex=True, sharey=True)
        for panel, (label, values) in zip(axes, panels.items()):
            _head(panel, label, controls)
            panel.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
            angle = np.linspace(0, 2 * np.pi, 181)
            panel.plot(np.cos(angle), np.sin(angle), color="#c9cdd3", linewidth=0.8)
            panel.grid(True)
            _arrows(panel, values, paint[label], reach, hull, names and names[label])
        figure.picture.supxlabel(xlabel, fontsize=10)
        figure.picture.supylabel(ylabel, fontsize=10)
        if scale is not None:
            colour_bar(figure.picture, scale, axes, unit)
    return figure


def _arrows(axes, W: np.ndarray, paint: list, reach: float, hull: bool, names: Sequence | None) -> None:
    """Arrows to the columns of W [2, feature]; dots for those too short for an arrow."""
    long = np.linalg.norm(W, axis=0) > 0.03 * reach
    tips = W[:, long].T
    if hull:
        for pair in _hull_edges(tips):
            axes.plot(*tips[list(pair)].T, color=INK, linewidth=0.9, linestyle=":", label="_hull")
    for i, (x, y) in enumerate(W.T):
        if long[i]:
            look = dict(arrowstyle="-|>,head_width=0.22,head_length=0.45", color=paint[i], linewidth=1.8)
            axes.annotate("", (x, y), (0, 0), arrowprops={**look, "shrinkA": 0, "shrinkB": 0})
        if long[i] and names is not None:
            away = np.array([x, y]) / np.hypot(x, y) * 9
            where = dict(xytext=away, textcoords="offset points", ha="center", va="center")
            axes.annotate(shown_token(names[i]), (x, y), fontsize=8.5, color=INK, **where).set_in_layout(
                False
            )
    colour = [shade for shade, arrow in zip(paint, long) if not arrow]
    if colour:
        axes.scatter(*W[:, ~long], s=26, c=colour, edgecolor=INK, linewidth=0.6, zorder=3)


def polytopes(
    W: Series,
    *,
    edges: Any = None,
    labels: Any = None,
    control: Names = None,
    **words: str,
) -> Figure:
    """The columns of each W [3, feature] as points in space, {label: W}: seen from the front, and from above.

    Both are orthographic projections, turned by a few degrees so that corners do not hide each other; what lies
    behind is paler. Thin lines are the edges of the convex hull, or `edges`: pairs of features, or {label: pairs}.
    `labels` names the features, `control` the panels drawn as controls; `words` are title, alt and caption.
    """
    panels, controls = _panels(W, 3, "feature", control)
    names = _of_features("labels", labels, panels)
    given = edges if isinstance(edges, Mapping) else dict.fromkeys(panels, edges)
    known_names("edges", list(map(str, given)), panels)
    given = {str(label): pairs for label, pairs in given.items()}
    reach = 1.15 * max(0.1, *(np.linalg.norm(values, axis=0).max() for values in panels.values()))
    across = max(1.5, min(2.8, 8.4 / len(panels)))
    with styled():
        size = (max(4.2, across * len(panels) + 0.6), 2 * across)
        figure, axes = start_figure(words, *size, 2, len(panels), sharex=True, sharey=True)
        for column, (label, values) in enumerate(panels.items()):
            pairs = _checked_pairs(given.get(label), values)
            _head(axes[0, column], label, controls)
            for row, tilt in enumerate((14, 76)):
                _solid(
                    axes[row, column], values, pairs, tilt, reach, label in controls, names and names[label]
                )
        for row, side in enumerate(("from the front", "from above")):
            axes[row, 0].set_ylabel(side)
    return figure


def _checked_pairs(pairs: Any, W: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of columns to join; by default the edges of the hull of the columns that are not zero."""
    if pairs is None:
        norms = np.linalg.norm(W, axis=0)
        kept = np.flatnonzero(norms > 0.03 * norms.max())
        return [(int(kept[i]), int(kept[j])) for i, j in _hull_edges(W[:, kept].T)]
    pairs = [tuple(map(int, pair)) for pair in pairs]
    if any(len(pair) != 2 or not all(0 <= i < W.shape[1] for i in pair) for pair in pairs):
        raise CourseError(f"edges must be pairs of columns of W, numbers from 0 to {W.shape[1] - 1}.")
    return pairs


def _solid(
    axes, W: np.ndarray, pairs: list, tilt: int, reach: float, grey: bool, names: Sequence | None
) -> None:
    """One view of the points W [3, feature], from `tilt` degrees above the horizon and 17 degrees to the side."""
    side, up = np.deg2rad(17), np.deg2rad(tilt)
    right = np.array([np.cos(side), np.sin(side), 0])
    towards = np.array([np.sin(side) * np.cos(up), -np.cos(side) * np.cos(up), np.sin(up)])
    x, y, depth = np.stack([right, np.cross(towards, right), towards]) @ W
    near = 0.35 + 0.65 * np.clip(depth / reach + 0.6, 0, 1.2) / 1.2  # opacity: what lies behind is paler
    for i, j in pairs:
        front = depth[i] + depth[j] > -0.2 * reach
        look = dict(linestyle="-" if front else ":", color=INK if front else GREY)
        axes.plot([x[i], x[j]], [y[i], y[j]], linewidth=1.0, zorder=1, **look)
    colour = GREY if grey else COLOURS[0]
    axes.scatter(x, y, s=40, color="white", edgecolor="none", zorder=2)
    axes.scatter(x, y, s=40, c=[colour] * len(x), alpha=near, edgecolor="none", zorder=2)
    axes.scatter([0], [0], s=30, marker="+", color=INK, linewidth=0.8, zorder=1)
    for i in range(len(x)) if names is not None else ():
        length = np.hypot(x[i], y[i]) or 1.0
        where = dict(textcoords="offset points", ha="center", va="center", fontsize=8.5, color=INK)
        text = axes.annotate(
            shown_token(names[i]), (x[i], y[i]), (9 * x[i] / length, 9 * y[i] / length), **where
        )
        text.set_in_layout(False)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def stacks(
    W: Series | Array,
    *,
    labels: Any = None,
    colours: Any = None,
    unit: str = "",
    control: Names = None,
    columns: int | None = None,
    ylabel: str = "|weight|, stacked by feature",
    **words: str,
) -> Figure:
    """For each neuron a bar of |weight|, a segment for each feature, from W [neuron, feature] or {label: W}.

    A monosemantic neuron is a bar of one colour, a polysemantic one is striped. Large segments carry the number of
    the feature, or its name from `labels`; `colours` (in `unit`) colours features by a value instead. `control` names
    the panels drawn as controls, `columns` how many stand beside each other; `ylabel` names the height, and `words`
    are title, alt and caption.
    """
    panels, controls = _panels(W, 0, "feature", control)
    names = _of_features("labels", labels, panels)
    names = names or {label: [str(i) for i in range(values.shape[1])] for label, values in panels.items()}
    paint, scale = _feature_colours(colours, panels, set())
    if scale is None:
        paint = {label: _many_colours(values.shape[1]) for label, values in panels.items()}
    n, most = len(panels), max(map(len, panels.values()))
    with styled():
        across = max(1.7, min(8.4 / (columns or min(n, 4)), 0.8 + 0.36 * most, 8.4))
        figure, axes = _small_multiples(words, n, columns or 4, across, 2.7 if n < 5 else 2.2, sharey=True)
        top = 1.05 * max(max(np.abs(values).sum(1).max() for values in panels.values()), 1e-9)
        for panel, (label, values) in zip(axes, panels.items()):
            _head(panel, label, controls)
            panel.set_ylim(0, top)
            _stack(panel, np.abs(values), paint[label], names[label], top)
            panel.grid(True, axis="y")
        figure.picture.supxlabel("neuron", fontsize=10)
        figure.picture.supylabel(ylabel, fontsize=10)
        if scale is not None:
            colour_bar(figure.picture, scale, axes, unit)
    return figure


def _stack(axes, sizes: np.ndarray, paint: list, names: Sequence, top: float) -> None:
    """Bars of the rows of `sizes` [neuron, feature], a number where the segment has room for it."""
    from matplotlib.colors import to_rgb

    below = np.zeros(len(sizes))
    for feature, heights in enumerate(sizes.T):
        axes.bar(range(len(sizes)), heights, 0.86, below, color=paint[feature], edgecolor="white", lw=0.4)
        for neuron in np.flatnonzero((heights > 0.075 * top) & (len(sizes) <= 20)):
            middle, look = below[neuron] + heights[neuron] / 2, dict(ha="center", va="center", fontsize=8)
            axes.text(neuron, middle, names[feature], color=ink_on(to_rgb(paint[feature])), **look)
        below = below + heights
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, nbins=10))
    axes.set_xlim(-0.6, len(sizes) - 0.4)


def _many_colours(n: int) -> list:
    """n colours for neighbours to be told apart: the seven of the house, then the same half mixed with white."""
    from matplotlib.colors import to_rgb

    strong = np.array([to_rgb(colour) for colour in COLOURS])
    every = np.concatenate([strong, 0.5 + 0.5 * strong, 0.6 * strong])
    return [tuple(every[i % len(every)]) for i in range(n)]


def regions(
    grid: Array | Series,
    names: Mapping[int, str],
    xs: Array,
    ys: Array,
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = True,
    log_y: bool = True,
    curves: Mapping[str, tuple] | None = None,
    control: Names = None,
    columns: int | None = None,
    **words: str,
) -> Figure:
    """A phase diagram: grid [y, x] of whole numbers that `names` explains, in one colour each; or {label: grid}.

    `xs` and `ys` are the centres of the cells. `curves` {name: (xs, ys)} are drawn over every panel. `xlabel` and
    `ylabel` name the axes, which are logarithmic unless `log_x` or `log_y` is False; `control` names the panels drawn
    as controls, `columns` how many stand beside each other; `words` are title, alt and caption.
    """
    panels, controls = _panels(grid, 0, "x", control)
    sides = {"x": as_array("xs", xs, 1), "y": as_array("ys", ys, 1)}
    for values in panels.values():
        check_length("The grid", values, "ys", len(sides["y"]))
        check_length("A row of the grid", values[0], "xs", len(sides["x"]))
    unknown = sorted(set(np.concatenate([values.ravel() for values in panels.values()])) - set(names))
    if unknown:
        raise CourseError(f"names explains {sorted(names)}, but the grid also holds {unknown[0]:g}.")
    borders = {side: _borders(f"{side}s", sides[side], log) for side, log in (("x", log_x), ("y", log_y))}
    shades = {code: _pale(COLOURS[i % len(COLOURS)]) for i, code in enumerate(names)}
    with styled():
        n = len(panels)
        columns = columns or min(n, 3)
        across = 4.2 if n == 1 else max(1.6, min(3.0, 7.2 / columns))
        figure, axes = _small_multiples(words, n, columns, across, across, 2.0, sharex=True, sharey=True)
        for panel, (label, values) in zip(axes, panels.items()):
            _head(panel, label, controls)
            colours = np.array([[shades[int(code)] for code in row] for row in values])
            panel.pcolormesh(borders["x"], borders["y"], colours, edgecolor="none", antialiased=False)
            for i, (name, curve) in enumerate((curves or {}).items()):
                x, y = as_array(f"curves[{name!r}]", curve, 2)
                panel.plot(x, y, color="white", linewidth=3.2)
                panel.plot(x, y, color=INK, linestyle=(["-", *DASHES])[i % 4], label=name)
            for code, name in names.items():
                panel.scatter([], [], s=90, marker="s", color=[shades[code]], edgecolor="#888888", label=name)
            for side, log in (("x", log_x), ("y", log_y)):
                if log:
                    log_axis(panel, side, sides[side])
            panel.set(xlim=sorted(borders["x"][[0, -1]]), ylim=sorted(borders["y"][[0, -1]]))
        figure.picture.supxlabel(xlabel, fontsize=10)
        figure.picture.supylabel(ylabel, fontsize=10)
        draw_legend(figure.picture, last=list(curves or ()), alone=True, beside=min(n, columns) - 1)
    return figure


def _pale(colour: str) -> tuple[float, ...]:
    """The colour a third on its way to white, so that lines can be seen over it."""
    from matplotlib.colors import to_rgb

    return tuple(1 / 3 + 2 / 3 * np.array(to_rgb(colour)))


def _borders(name: str, centres: np.ndarray, log: bool) -> np.ndarray:
    """Where each cell ends: halfway between the centres, on a logarithmic axis by ratio; sorted upwards or down."""
    if log and not (centres > 0).all():
        raise CourseError(f"{name} must lie above zero for a logarithmic axis.")
    at = np.log(centres) if log else centres
    steps = np.diff(at)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise CourseError(f"{name} must rise, or fall, from each entry to the next.")
    first, last = (steps[0], steps[-1]) if len(steps) else (1.0, 1.0)
    ends = np.concatenate([[at[0] - first / 2], at[:-1] + steps / 2, [at[-1] + last / 2]])
    return np.exp(ends) if log else ends
