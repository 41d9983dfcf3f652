"""Figures that say what they show, to readers who see them and to readers who do not.

Every function takes numbers and words, draws, and returns a `Figure`: nothing is computed, displayed, or left
behind in matplotlib's global state. All of them take `title=` (states the finding), `alt=` (says what the picture
looks like) and `caption=` (says what to look for, and what would refute it).

Numbers that differ in the last digits from one machine to the next belong into `table` and `measured`, whose
plain text shows names only. Text is drawn as written: a token `$x$` stays `$x$`, a leading blank becomes `·`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import math
import re
import textwrap
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mi_course.corpora import visible
from mi_course.errors import CourseError, nearest

Array = (
    Tensor | np.ndarray | Sequence
)  # shapes are checked here, not by annotation: a wrong one gets a sentence
Series = Mapping[Any, Array]  # label → values
Marks = Mapping[str, Any]  # name → position on an axis
Names = str | Collection[str] | None

COLOURS = ("#3f90da", "#e76300", "#832db6", "#bd1f01", "#ffa90e", "#a96b59", "#92dadd")  # petroff10, no greys
GREY, INK = "#8a8f98", "#222222"  # grey is kept for controls
# The greys of the first, the second and the third control: the line and the hatch of each.
CONTROLS = {GREY: ("--", "////"), "#4f545c": (":", "...."), "#b3b7bd": ("-.", "xxxx")}
MARKERS, DASHES = "osD^vPX*", ("--", "-.", ":")
AMOUNTS, SIGNED = "viridis", "RdBu_r"
STYLE = {
    **{
        "font.size": 10,
        "axes.labelsize": 10,
        "legend.fontsize": 9,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
    },
    **{
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#888888",
        "axes.axisbelow": True,
    },
    **{"lines.linewidth": 1.8, "hatch.linewidth": 0.6, "grid.color": "#e4e6ea", "legend.frameon": False},
    **{"axes.grid": False, "text.parse_math": False},
}
LEFT = ' style="text-align:left"'  # JupyterLab sets every cell to the right
CIRCUITSVIS = "https://unpkg.com/circuitsvis@1.43.3/dist/cdn/esm.js"


def _in_256_colours(png: io.BytesIO) -> bytes:
    """The same picture with a palette, a third of the size: notebooks stay small."""
    small = io.BytesIO()
    Image.open(png).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


@dataclass(frozen=True, eq=False, repr=False)
class Figure:
    """A picture, a piece of HTML, or both, with a title and with words for those who cannot see it.

    Jupyter shows it when it is the last line of a cell; `save` writes it to a file. `picture` is the
    matplotlib figure, for readers who want to change a detail; `plain` is what text-only readers get.
    """

    title: str = ""
    alt: str = ""
    caption: str = ""
    picture: Any = None
    body: str = ""
    plain: str = ""

    def __post_init__(self):
        if not self.title.strip():
            raise CourseError("A figure needs a title that states its finding: pass title=….")
        if not self.alt.strip():
            raise CourseError(
                f"The figure {self.title!r} needs words for those who cannot see it: pass alt=…."
            )

    def __repr__(self) -> str:
        return self.plain or f"Figure: {self.title}"

    def _repr_html_(self) -> str:
        parts = [self.body]
        if self.picture is not None:
            words = self.alt if self.alt.startswith(self.title) else f"{self.title}. {self.alt}"
            data = base64.b64encode(self._rendered("png")).decode()
            style = "max-width:100%;border-radius:6px"
            parts.append(f'<img alt="{escape(words)}" style="{style}" src="data:image/png;base64,{data}">')
        if self.caption:
            parts.append(f'<figcaption style="max-width:60em">{escape(self.caption)}</figcaption>')
        return f'<figure class="mi-figure" style="margin:8px 0">{"".join(parts)}</figure>'

    def _rendered(self, kind: str) -> bytes:
        buffer = io.BytesIO()
        stamp = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
        with _style():
            self.picture.draw_without_rendering()
            self.picture.set_layout_engine("none")  # each layout pass moves things a little: one is enough
            self.picture.savefig(buffer, format=kind, metadata=stamp)
        return _in_256_colours(buffer) if kind == "png" else buffer.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write .html or, where there is a picture, .png, .svg or .pdf: the ending of `path` decides."""
        path = Path(path)
        kind = path.suffix[1:].lower()
        known = ["html"] if self.picture is None else ["html", "png", "svg", "pdf"]
        if kind not in known:
            raise CourseError(
                f"Cannot save a figure as {path.name!r}: its name must end in .{' or .'.join(known)}."
            )
        page = f'<!doctype html><meta charset="utf-8"><title>{escape(self.title)}</title>{self._repr_html_()}'
        path.write_bytes(page.encode() if kind == "html" else self._rendered(kind))
        return path


# ---------------------------------------------------------------------------- reading the input


def _array(name: str, values: Any, ndim: int | None = None) -> Float[np.ndarray, "..."]:
    """`values` as float64 with `ndim` axes, or one sentence that says what is wrong with them."""
    try:
        if isinstance(values, (list, tuple)):
            values = [v.detach().cpu().double().numpy() if isinstance(v, Tensor) else v for v in values]
        elif isinstance(values, Tensor):
            values = values.detach().cpu().double().numpy()
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise CourseError(f"{name} must be an array of numbers.") from None
    if ndim is not None and array.ndim != ndim:
        raise CourseError(f"{name} must have {ndim} axes, but has shape {array.shape}.")
    if array.size == 0:
        raise CourseError(f"{name} is empty: there is nothing to draw.")
    if not np.isfinite(array).all():
        raise CourseError(
            f"{name} holds NaN or infinite values, which a picture would hide: leave them out first."
        )
    return array


def _check_length(name: str, values: Collection, other: str, n: int) -> None:
    if len(values) != n:
        raise CourseError(f"{name} has {len(values)} entries, but {other} has {n}.")


def _series(name: str, series: Any, ndim: int = 1) -> dict[str, np.ndarray]:
    if not isinstance(series, Mapping) or not series:
        raise CourseError(f"{name} must be a dictionary {{label: values}} with at least one entry.")
    return {str(label): _array(f"{name}[{label!r}]", values, ndim) for label, values in series.items()}


def _known(what: str, names: Names, labels: Collection[str]) -> set[str]:
    names = {names} if isinstance(names, str) else set(map(str, names or ()))
    for name in sorted(names - set(labels)):
        raise CourseError(f"{what}: there is no {name!r} here.{nearest(name, labels)}")
    return names


def _shown(token: Any) -> str:
    return visible(str(token))


# ---------------------------------------------------------------------------- drawing


@contextmanager
def _style() -> Iterator[None]:
    """matplotlib as this module wants it, whatever the reader has set, and afterwards as it was."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # else a first run writes to stderr
    from matplotlib import style

    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def _start(words: Mapping[str, str], width: float, height: float, rows: int = 1, columns: int = 1, **layout):
    """(figure, its axes [row, column]): outside pyplot, sized in inches, with room for a title of several lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    for word in set(words) - {"title", "alt", "caption"}:
        raise CourseError(
            f"{word!r} is no setting of this figure.{nearest(word, ['title', 'alt', 'caption'])}"
        )
    figure = Figure(**words, picture=Picture(dpi=100, layout="constrained"))
    lines = textwrap.wrap(figure.title, int(width * 10))
    figure.picture.set_size_inches(width, height + 0.2 * len(lines))
    figure.picture.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    FigureCanvasAgg(figure.picture)
    look = {"fontsize": 11.5, "fontweight": "bold", "color": INK}
    figure.picture.suptitle("\n".join(lines), x=0.01, ha="left", **look)
    return figure, figure.picture.subplots(rows, columns, squeeze=False, **layout)


def _looks(labels: Sequence[str], controls: set[str]) -> dict[str, tuple[str, str]]:
    """label → (colour, words in the legend); controls are grey, each another grey, and say so."""
    colours, greys = iter(COLOURS * len(labels)), iter([*CONTROLS] * len(labels))
    said = {label: label if "control" in label.lower() else f"{label} (control)" for label in controls}
    return {
        label: (next(greys), said[label]) if label in controls else (next(colours), label) for label in labels
    }


def _legend(picture, last: Collection[str] = (), alone: bool = False, beside: int = 0) -> None:
    """One legend for all panels to the right of the panel number `beside`, each label once, thresholds last."""
    entries = {}
    for axes in picture.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    labels = sorted(entries, key=lambda label: label in last)
    if len(labels) > 1 or (labels and alone):
        handles, wrapped = (
            [entries[label] for label in labels],
            [textwrap.fill(label, 24) for label in labels],
        )
        where = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0}
        picture.axes[beside].legend(handles, wrapped, **where)


def _colour_bar(picture, shades, axes, unit: str) -> None:
    """Beside all panels; what it says is wrapped to its height."""
    letters = int(11 * picture.get_figheight())
    bar = picture.colorbar(shades, ax=axes, shrink=0.9, aspect=25, pad=0.02)
    bar.set_label(textwrap.fill(unit, max(12, letters)))


def _place(text, offsets: Sequence[tuple], taken: list, within=None) -> tuple:
    """Move `text` to the first of (x, y, ha, va) that covers nothing in `taken`, else to where it covers least."""
    least = math.inf
    for offset in offsets:
        text.set(position=offset[:2], ha=offset[2], va=offset[3])
        box = text.get_window_extent()
        outside = within is not None and (box.x0 < within.x0 or box.x1 > within.x1 or box.y0 < within.y0)
        covered = sum(map(box.overlaps, taken)) + 100 * outside
        if covered < least:
            least, best, space = covered, offset, box.padded(2)
        if covered == 0:
            break
    text.set(position=best[:2], ha=best[2], va=best[3])
    taken.append(space)
    return best


def _mark_events(axes, events: Marks | None) -> None:
    """A dotted vertical line for each event in every panel, its name above the first."""
    first, taken = axes[0, 0], []
    first.figure.draw_without_rendering()
    for name, x in sorted((events or {}).items(), key=lambda event: float(event[1])):
        for panel in axes[:, 0]:
            panel.axvline(float(x), color=INK, linestyle=":", linewidth=1.2)
        where = {"xycoords": first.get_xaxis_transform(), "xytext": (0, 3), "textcoords": "offset points"}
        text = first.annotate(name, (float(x), 1), fontsize=9, color=INK, **where)
        late = first.transData.transform((float(x), 0))[0] > first.bbox.x1 - 200
        levels = [(0, 3 + 13 * level, "right" if late else "left", "bottom") for level in range(5)]
        _place(text, levels, taken)


def _mark_heights(axes, heights: Marks | None) -> None:
    for i, (name, y) in enumerate((heights or {}).items()):
        axes.axhline(float(y), color=INK, linestyle=DASHES[i % 3], linewidth=1.2, label=name)


def _log(axes, side: str, values: np.ndarray) -> None:
    """A logarithmic axis that keeps a step 0, with plain numbers."""
    if (values < 0).any() or not (values > 0).any():
        raise CourseError(f"log_{side} needs values of zero and above, at least one of them above zero.")
    rescale, axis = getattr(axes, f"set_{side}scale"), getattr(axes, f"{side}axis")
    if (values == 0).any():
        rescale("symlog", linthresh=values[values > 0].min(), linscale=0.5)
    else:
        rescale("log")
        if math.floor(math.log10(values.max())) <= math.ceil(
            math.log10(values.min())
        ):  # one power of ten or none
            axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_minor_formatter(lambda value, _: "")


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
    """
    stack = {name: _series(name, curves) for name, curves in {ylabel: series, **(panels or {})}.items()}
    names = list(dict.fromkeys(label for curves in stack.values() for label in curves))
    looks = _looks(names, _known("control", control, names))
    own = _series("xs", xs if isinstance(xs, Mapping) else dict.fromkeys(names, xs))
    _known("xs", names, list(own))
    spread = _series("spread", spread, 2) if spread else {}
    _known("spread", list(spread), list(stack[ylabel]))
    with _style():
        figure, axes = _start(words, 7.5, 1.5 + 1.9 * len(stack), rows=len(stack), sharex=True)
        for panel, (name, curves) in zip(axes[:, 0], stack.items()):
            for label, ys in curves.items():
                marker = MARKERS[names.index(label) % len(MARKERS)] if markers or len(ys) == 1 else None
                _curve(
                    panel, label, own[label], ys, looks[label], marker, spread if panel is axes[0, 0] else {}
                )
            for i, (label, (start, end)) in enumerate((bands or {}).items()):
                panel.axvspan(start, end, color=("#f3c13a", "#7fc8a9")[i % 2], alpha=0.3, lw=0, label=label)
            if log_x:
                _log(panel, "x", np.concatenate([own[label] for label in curves]))
            if log_y:
                _log(panel, "y", np.concatenate(list(curves.values())))
            panel.set_ylabel(name)
            panel.grid(True)
        _mark_heights(axes[0, 0], hlines)
        axes[-1, 0].set_xlabel(xlabel)
        _legend(figure.picture, last=list(hlines or ()))
        _mark_events(axes, vlines)
    return figure


def _curve(
    axes, label: str, xs: np.ndarray, ys: np.ndarray, look: tuple, marker: str | None, spread: dict
) -> None:
    _check_length(f"The curve {label!r}", ys, "its xs", len(xs))
    colour, said = look
    dash = CONTROLS.get(colour, ("-", ""))[0]
    axes.plot(xs, ys, dash, color=colour, label=said, marker=marker, markersize=4)
    if label in spread:
        for edge in spread[label]:
            _check_length(f"spread[{label!r}]", edge, "its curve", len(xs))
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
    """
    labels = [str(label) for label in labels]
    heights = _series("series", series if isinstance(series, Mapping) else {ylabel: series})
    looks = _looks(list(heights), _known("control", control, heights))
    errors = _series("errors", errors) if errors else {}
    points = _series("points", points, 2) if points else {}
    for what, given in (("series", heights), ("errors", errors), ("points", points)):
        _known(what, list(given), list(heights))
        for name, values in given.items():
            _check_length(f"{what}[{name!r}]", values, "labels", len(labels))
    each = 0.24 if digits is None else 0.26 + 0.08 * digits
    width = min(9.0, max(4.6, 2.6 + len(labels) * (len(heights) + 0.6) * each))
    thick = 0.8 / len(heights)
    with _style():
        figure, ((axes,),) = _start(words, width, 3.3)
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
        _mark_heights(axes, hlines)
        reach = [max(map(len, label.split("\n"))) for label in labels]
        touching = any((a + b) / 2 * 0.08 * len(labels) > 0.6 * width for a, b in zip(reach, reach[1:]))
        crowded = touching or sum(map(len, labels)) * 0.09 > 0.6 * width
        lean = dict(rotation=35, ha="right", rotation_mode="anchor") if crowded else {}
        axes.set_xticks(range(len(labels)), labels, **lean)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(True, axis="y")
        _legend(figure.picture, last=list(hlines or ()), alone=bool(control))
    return figure


def _dress(look: tuple[str, str]) -> dict[str, Any]:
    colour, said = look
    fill = dict(color=colour)
    if colour in CONTROLS:
        fill = dict(color="#dcdee2", edgecolor=colour, hatch=CONTROLS[colour][1])
    return {"label": said, "ecolor": INK, "capsize": 2, **fill}


def _norm(arrays: Collection[np.ndarray], signed: bool, limits: tuple | None = None):
    """The colour scale shared by all arrays; zero sits in the middle of a signed one, whatever the data."""
    from matplotlib.colors import Normalize

    low, high = limits or (min(a.min() for a in arrays), max(a.max() for a in arrays))
    if signed:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    return Normalize(low, high if high > low else low + 1)


def _two_signs(arrays: Collection[np.ndarray]) -> bool:
    return bool(min(a.min() for a in arrays) < 0 < max(a.max() for a in arrays))


def _ink(rgb: Sequence[float]) -> str:
    """Black or white, whichever is easier to read on `rgb` (relative luminance of WCAG 2)."""
    luminance = np.dot((0.2126, 0.7152, 0.0722), np.asarray(rgb[:3]) ** 2.2)
    return "#ffffff" if luminance < 0.18 else "#000000"


def _cell_names(axis, names: Sequence | None, n: int, what: str, room: float) -> bool:
    """Name the cells, every k-th where `room` inches are too short; True where the names must stand upright."""
    if names is None:
        axis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        return False
    _check_length(what, names, "that side of the matrix", n)
    step = math.ceil(n * 0.155 / room)
    shown = [_shown(name) for name in names]
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
    """
    matrices = _series("matrix", matrix if isinstance(matrix, Mapping) else {"": matrix}, 2)
    shapes = {values.shape for values in matrices.values()}
    if len(shapes) > 1:
        raise CourseError(f"The matrices of one heat map need one shape, but these have {sorted(shapes)}.")
    n, (n_rows, n_columns) = len(matrices), shapes.pop()
    columns = min(n, columns or (n if n < 4 else {4: 2, 5: 3, 6: 3, 9: 3}.get(n, 4)))
    across, down = _panel_size(n_rows, n_columns, columns)
    signed = _two_signs(matrices.values()) if signed is None else signed
    digits = 2 if digits is None and n_rows * n_columns <= 150 and across / n_columns > 0.4 else digits
    with _style():
        rows = math.ceil(n / columns)
        size = (max(4.2, across * columns + 1.6), (down + 0.3) * rows + 0.6)
        figure, axes = _start(words, *size, rows, columns, sharex=True, sharey=True)
        norm = _norm(matrices.values(), signed, limits)
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
        _colour_bar(figure.picture, shades, axes, unit)
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
        ink = _ink(shades.cmap(shades.norm(value)))
        axes.text(column, row, _decimals(value, digits), ha="center", va="center", fontsize=8, color=ink)


def attention(
    patterns: Array,
    tokens: Sequence,
    *,
    labels: Sequence | None = None,
    columns: int | None = None,
    **words: str,
) -> Figure:
    """Attention patterns [head, query, key], or one [query, key], side by side over shared tokens."""
    axes = dict(xlabel="key: token attended to", ylabel="query: token that attends", unit="attention")
    scale = dict(signed=False, limits=(0, 1), columns=columns)
    heads = _heads(patterns, tokens, labels)
    return heatmap(heads, xlabels=tokens, ylabels=tokens, **axes, **scale, **words)


def _heads(patterns: Array, tokens: Sequence, labels: Sequence | None) -> dict[str, np.ndarray]:
    array = _array("patterns", patterns)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[1:] != (len(tokens),) * 2:
        wanted = f"[head, query, key] with {len(tokens)} tokens on both sides"
        raise CourseError(f"patterns must have shape {wanted}, but has {tuple(array.shape)}.")
    labels = [f"head {h}" if len(array) > 1 else "" for h in range(len(array))] if labels is None else labels
    _check_length("labels (each one once)", set(labels), "the head axis of patterns", len(array))
    return {str(label): pattern for label, pattern in zip(labels, array)}


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
    """Points, coloured and shaped by group; each label (empty ones are skipped) goes where it covers least."""
    xs, ys = _array("xs", xs, 1), _array("ys", ys, 1)
    groups = np.array([""] * len(xs) if groups is None else [str(group) for group in groups])
    names = list(dict.fromkeys(groups.tolist()))
    for what, values in (("ys", ys), ("groups", groups), ("labels", xs if labels is None else labels)):
        _check_length(what, values, "xs", len(xs))
    looks = _looks(names, _known("control", control, names))
    with _style():
        figure, axes = _start(words, 7.5, 4.4)
        panel = axes[0, 0]
        for i, name in enumerate(names):
            colour, said = looks[name]
            face, edge = ("none", colour) if colour in CONTROLS else (colour, "white")
            where, shape = groups == name, MARKERS[i % len(MARKERS)]
            panel.scatter(
                xs[where], ys[where], s=36, marker=shape, label=said or None, color=face, edgecolor=edge
            )
        if log_x:
            _log(panel, "x", xs)
        if log_y:
            _log(panel, "y", ys)
        if diagonal:
            ends = panel.get_xlim()
            panel.autoscale(False)
            panel.plot(ends, ends, color=GREY, linestyle=":", linewidth=1.2, label="x = y")
        panel.set(xlabel=xlabel, ylabel=ylabel)
        panel.grid(True)
        _mark_heights(panel, hlines)
        _legend(figure.picture, last=list(hlines or ()), alone=True)
        _mark_events(axes, vlines)
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
            text = axes.annotate(_shown(label), (x, y), fontsize=8.5, color=INK, **where)
            text.set_in_layout(False)
            place = _place(text, places, taken, within=axes.bbox)
            if max(map(abs, place[:2])) > 6:
                tie = dict(arrowstyle="-", color=GREY, linewidth=0.7, shrinkA=0, shrinkB=2)
                axes.annotate("", (x, y), **{**where, "xytext": place[:2]}, arrowprops=tie).set_in_layout(
                    False
                )


# ---------------------------------------------------------------------------- features as directions


def _panels(
    W: Array | Series, rows: int, what: str, control: Names
) -> tuple[dict[str, np.ndarray], set[str]]:
    """({label: W}, the controls among them); one W alone has the empty label. `rows` 0 allows any number."""
    panels = _series("W", W if isinstance(W, Mapping) else {"": W}, 2)
    for label, values in panels.items():
        if rows and len(values) != rows:
            name = f"W[{label!r}]" if label else "W"
            raise CourseError(f"{name} must have shape [{rows}, {what}], but has {tuple(values.shape)}.")
    return panels, _known("control", control, panels)


def _of_features(name: str, given: Any, panels: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """{label: one value a feature}, from such a dictionary or from one sequence for all panels."""
    if given is None:
        return None
    given = (
        {str(k): v for k, v in given.items()} if isinstance(given, Mapping) else dict.fromkeys(panels, given)
    )
    _known(name, list(panels), list(given))
    for label, values in panels.items():
        _check_length(name, given[label], "the feature axis of W", values.shape[1])
    return given


def _feature_colours(colours: Any, panels: Mapping[str, np.ndarray], controls: set[str]):
    """({label: a colour for each feature}, the colour scale or None): by value, else blue, else grey for controls."""
    values = _of_features("colours", colours, panels)
    if values is None:
        plain = {label: GREY if label in controls else COLOURS[0] for label in panels}
        return {label: [plain[label]] * W.shape[1] for label, W in panels.items()}, None
    from matplotlib.colors import ListedColormap

    values = {label: _array("colours", values[label], 1) for label in panels}
    readable = ListedColormap(
        matplotlib.colormaps[AMOUNTS](np.linspace(0, 0.88, 256))
    )  # its yellow is too pale
    scale = matplotlib.cm.ScalarMappable(_norm(values.values(), signed=False), readable)
    return {label: list(scale.to_rgba(each)) for label, each in values.items()}, scale


def _small_multiples(
    words: Mapping[str, str], n: int, columns: int, across: float, down: float, beside: float = 0.6, **layout
):
    """(figure, n axes): at most `columns` in a row, each `across` by `down` inches, and `beside` for what is beside."""
    columns = max(1, min(n, columns))
    rows = math.ceil(n / columns)
    figure, axes = _start(
        words, max(4.2, across * columns + beside), down * rows + 0.5, rows, columns, **layout
    )
    for panel in axes.flat[n:]:
        panel.set_visible(False)
    return figure, list(axes.flat[:n])


def _head(axes, label: str, controls: set[str]) -> None:
    axes.set_title(textwrap.fill(_looks([label], controls & {label})[label][1], 26), fontsize=10)


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
    colours them by a value, both a sequence or {label: sequence}; `hull` draws the convex hull of the tips.
    """
    panels, controls = _panels(W, 2, "feature", control)
    names = _of_features("labels", labels, panels)
    paint, scale = _feature_colours(colours, panels, controls)
    reach = (1.12 if labels is None else 1.3) * max(
        1.0, *(np.linalg.norm(values, axis=0).max() for values in panels.values())
    )
    n = len(panels)
    with _style():
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
            _colour_bar(figure.picture, scale, axes, unit)
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
            axes.annotate(_shown(names[i]), (x, y), fontsize=8.5, color=INK, **where).set_in_layout(False)
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
    """
    panels, controls = _panels(W, 3, "feature", control)
    names = _of_features("labels", labels, panels)
    given = edges if isinstance(edges, Mapping) else dict.fromkeys(panels, edges)
    _known("edges", list(map(str, given)), panels)
    given = {str(label): pairs for label, pairs in given.items()}
    reach = 1.15 * max(0.1, *(np.linalg.norm(values, axis=0).max() for values in panels.values()))
    across = max(1.5, min(2.8, 8.4 / len(panels)))
    with _style():
        size = (max(4.2, across * len(panels) + 0.6), 2 * across)
        figure, axes = _start(words, *size, 2, len(panels), sharex=True, sharey=True)
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
        text = axes.annotate(_shown(names[i]), (x[i], y[i]), (9 * x[i] / length, 9 * y[i] / length), **where)
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

    A monosemantic neuron is a bar of one colour, a polysemantic one is striped. Large segments carry the number
    of the feature, or its name from `labels`; `colours` (in `unit`) colours features by a value instead.
    """
    panels, controls = _panels(W, 0, "feature", control)
    names = _of_features("labels", labels, panels)
    names = names or {label: [str(i) for i in range(values.shape[1])] for label, values in panels.items()}
    paint, scale = _feature_colours(colours, panels, set())
    if scale is None:
        paint = {label: _many_colours(values.shape[1]) for label, values in panels.items()}
    n, most = len(panels), max(map(len, panels.values()))
    with _style():
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
            _colour_bar(figure.picture, scale, axes, unit)
    return figure


def _stack(axes, sizes: np.ndarray, paint: list, names: Sequence, top: float) -> None:
    """Bars of the rows of `sizes` [neuron, feature], a number where the segment has room for it."""
    from matplotlib.colors import to_rgb

    below = np.zeros(len(sizes))
    for feature, heights in enumerate(sizes.T):
        axes.bar(range(len(sizes)), heights, 0.86, below, color=paint[feature], edgecolor="white", lw=0.4)
        for neuron in np.flatnonzero((heights > 0.075 * top) & (len(sizes) <= 20)):
            middle, look = below[neuron] + heights[neuron] / 2, dict(ha="center", va="center", fontsize=8)
            axes.text(neuron, middle, names[feature], color=_ink(to_rgb(paint[feature])), **look)
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

    `xs` and `ys` are the centres of the cells. `curves` {name: (xs, ys)} are drawn over every panel.
    """
    panels, controls = _panels(grid, 0, "x", control)
    sides = {"x": _array("xs", xs, 1), "y": _array("ys", ys, 1)}
    for values in panels.values():
        _check_length("The grid", values, "ys", len(sides["y"]))
        _check_length("A row of the grid", values[0], "xs", len(sides["x"]))
    unknown = sorted(set(np.concatenate([values.ravel() for values in panels.values()])) - set(names))
    if unknown:
        raise CourseError(f"names explains {sorted(names)}, but the grid also holds {unknown[0]:g}.")
    borders = {side: _borders(f"{side}s", sides[side], log) for side, log in (("x", log_x), ("y", log_y))}
    shades = {code: _pale(COLOURS[i % len(COLOURS)]) for i, code in enumerate(names)}
    with _style():
        n = len(panels)
        columns = columns or min(n, 3)
        across = 4.2 if n == 1 else max(1.6, min(3.0, 7.2 / columns))
        figure, axes = _small_multiples(words, n, columns, across, across, 2.0, sharex=True, sharey=True)
        for panel, (label, values) in zip(axes, panels.items()):
            _head(panel, label, controls)
            colours = np.array([[shades[int(code)] for code in row] for row in values])
            panel.pcolormesh(borders["x"], borders["y"], colours, edgecolor="none", antialiased=False)
            for i, (name, curve) in enumerate((curves or {}).items()):
                x, y = _array(f"curves[{name!r}]", curve, 2)
                panel.plot(x, y, color="white", linewidth=3.2)
                panel.plot(x, y, color=INK, linestyle=(["-", *DASHES])[i % 4], label=name)
            for code, name in names.items():
                panel.scatter([], [], s=90, marker="s", color=[shades[code]], edgecolor="#888888", label=name)
            for side, log in (("x", log_x), ("y", log_y)):
                if log:
                    _log(panel, side, sides[side])
            panel.set(xlim=sorted(borders["x"][[0, -1]]), ylim=sorted(borders["y"][[0, -1]]))
        figure.picture.supxlabel(xlabel, fontsize=10)
        figure.picture.supylabel(ylabel, fontsize=10)
        _legend(figure.picture, last=list(curves or ()), alone=True, beside=min(n, columns) - 1)
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


# ---------------------------------------------------------------------------- text in colours


def _shades(values: np.ndarray, signed: bool | None):
    """(colour map, its scale): zero is white; red is above, blue below, as in heat maps; amounts are blue."""
    from matplotlib.colors import LinearSegmentedColormap

    if _two_signs([values]) if signed is None else signed:
        return matplotlib.colormaps[SIGNED], _norm([values], signed=True)
    pale = matplotlib.colormaps["Blues"](np.linspace(0, 0.8, 32))
    return LinearSegmentedColormap.from_list("amounts", pale), _norm([values, np.zeros(1)], signed=False)


def _token_values(strings: Sequence, values: Array) -> np.ndarray:
    values = _array("values", values, 1)
    _check_length("values", values, "strings", len(strings))
    return values


def token_spans(
    strings: Sequence,
    values: Array,
    *,
    signed: bool | None = None,
    digits: int = 2,
    show_values: bool = False,
    limits: tuple | None = None,
) -> str:
    """The coloured text of `tokens` alone, as HTML: for pages with several texts on one scale, from `limits`."""
    values = _token_values(strings, values)
    cmap, norm = _shades(values if limits is None else np.append(values, limits), signed)
    spans = []
    for string, value in zip(strings, values):
        rgb = cmap(norm(value))[:3]
        look = f"background-color:{matplotlib.colors.to_hex(rgb)};color:{_ink(rgb)};display:inline-block;"
        look += "padding:1px 3px;margin:1px;text-align:center;font-family:monospace"
        number = f'<br><span class="mi-n">{_number(value, digits)}</span>' if show_values else ""
        hover = f'title="{_number(value, 4)}"'
        spans.append(f'<span class="mi-t" style="{look}" {hover}>{escape(_shown(string))}{number}</span>')
    return "".join(spans)


def tokens(
    strings: Sequence,
    values: Array,
    *,
    signed: bool | None = None,
    digits: int = 2,
    show_values: bool | None = None,
    **words: str,
) -> Figure:
    """Text whose tokens are coloured by their values, as HTML; the values stand below the tokens of a short text."""
    show_values = len(strings) <= 40 if show_values is None else show_values
    spans = token_spans(strings, values, signed=signed, digits=digits, show_values=show_values)
    figure = Figure(**words)
    text = f'<div role="group" aria-label="{escape(figure.alt)}" style="max-width:60em">{spans}</div>'
    return Figure(**words, body=f"<strong>{escape(figure.title)}</strong>{text}")


def _token_picture(
    strings: Sequence, values: np.ndarray, signed: bool | None, words: Mapping[str, str]
) -> Figure:
    """The same coloured text as a picture: lines of 84 monospaced characters, and the colour scale."""
    cmap, norm = _shades(values, signed)
    row = column = 0
    boxes = []
    for string in map(_shown, strings):
        if column and column + len(string) > 84:
            row, column = row + 1, 0
        boxes.append((row, column, string))
        column += len(string) + 1
    with _style():
        figure, ((axes,),) = _start(words, 7.5, 0.28 * (row + 1) + 0.7)
        axes.set(xlim=(0, 85), ylim=(row + 0.6, -0.6))
        axes.axis("off")
        for (row, column, string), value in zip(boxes, values):
            rgb = cmap(norm(value))[:3]
            axes.barh(row, len(string) + 0.7, left=column, height=0.86, color=rgb)
            look = {"family": "monospace", "va": "center", "color": _ink(rgb)}
            axes.text(column + 0.35, row, string, fontsize=10, **look)
        scale = matplotlib.cm.ScalarMappable(norm, cmap)
        figure.picture.colorbar(
            scale, ax=axes, location="bottom", shrink=0.35, aspect=30, anchor=(0, 1), pad=0.02
        )
    return figure


# ---------------------------------------------------------------------------- tables


def _number(value: float | int, digits: int) -> str:
    """Rounded for reading: whole numbers as they are, `digits` decimals, powers of ten where these hide the value."""
    if isinstance(value, int):
        return f"{value:,}"
    plain = value == 0 or 10.0**-digits <= abs(value) * (1 + 1e-6) and abs(value) < 1e6  # .01 in 32 bits
    return f"{value:.{digits}f}" if plain else f"{value:.1e}"


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and value.ndim == 0:
        value = value.item()
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    if not isinstance(value, (int, float)):
        return escape(str(value))
    if not math.isfinite(value):
        raise CourseError(
            "A table cannot show NaN or infinite numbers: pass None, or say in words what failed."
        )
    return f'<span class="mi-n">{_number(value, digits)}</span>'


def _rows(rows: Mapping | Sequence, columns: Sequence | None) -> tuple[list[str], list[list]]:
    """(column names, rows as lists) from any of the forms that `table` takes; row names come first."""
    rows, names = list(rows.items() if isinstance(rows, Mapping) else rows), None
    if not rows:
        raise CourseError("The table has no rows.")
    if isinstance(rows[0], tuple) and len(rows[0]) == 2 and isinstance(rows[0][1], Mapping):
        rows = [{"": name, **row} for name, row in rows]
    if isinstance(rows[0], Mapping):
        names = list(rows[0]) if columns is None else list(columns)
        for row in rows:
            _known("A row of the table", list(map(str, names)), list(map(str, row)))
        return list(map(str, names)), [[row[name] for name in names] for row in rows]
    rows = [[row[0], *row[1]] if len(row) == 2 and np.ndim(row[1]) else list(row) for row in rows]
    columns = ["value"] if columns is None and len(rows[0]) == 2 else columns
    if columns is None:
        raise CourseError("A table made of lists needs the names of its columns: pass columns=[…].")
    names = ([""] if len(columns) + 1 == len(rows[0]) else []) + list(columns)
    for row in rows:
        _check_length("A row of the table", row, "its header", len(names))
    return list(map(str, names)), rows


def table(
    rows: Mapping | Sequence,
    columns: Sequence | None = None,
    *,
    title: str = "",
    digits: int = 3,
    caption: str = "",
) -> Figure:
    """A table with row and column headers; the first column names the rows.

    `rows` is {row: {column: value}} or {row: [values]}, a list of dictionaries, or a list of lists; lists need
    `columns`. Numbers are rounded to `digits` decimals and not compared when notebooks are tested; words, yes/no
    and names are compared, so pass `str(n)` for a number that must be the same on every machine.
    """
    names, rows = _rows(rows, columns)
    labels = [_shown(row[0]) for row in rows]
    wordy = [all(isinstance(row[i], str) for row in rows) for i in range(len(names))]
    sides = [
        LEFT if i == 0 or left else "" for i, left in enumerate(wordy)
    ]  # a header stands over its column
    head = "".join(f'<th scope="col"{side}>{escape(name)}</th>' for name, side in zip(names, sides))
    body = ""
    for label, row in zip(labels, rows):
        cells = "".join(
            f"<td{LEFT if isinstance(value, str) else ''}>{_cell(value, digits)}</td>" for value in row[1:]
        )
        body += f'<tr><th scope="row"{LEFT}>{escape(label)}</th>{cells}</tr>'
    style = "caption-side:top;text-align:left;font-weight:bold;color:inherit"
    top = f'<caption style="{style}">{escape(title)}</caption><thead><tr>{head}</tr></thead>'
    html = f'<table style="min-width:20em">{top}<tbody>{body}</tbody></table>'
    plain = f"Table: {title}\n  columns: {' | '.join(names[1:])}\n  rows: {' | '.join(labels)}"
    return Figure(title, title or " ", caption, body=html, plain=plain)


def measured(*, title: str = "measured", digits: int = 3, **values: Any) -> Figure:
    """Named values on one line, as in `measured(loss=3.21, accuracy=0.97)`; plain text shows the names only."""
    if not values:
        raise CourseError("measured needs at least one named value, as in measured(loss=3.2).")
    names = [name.replace("_", " ") for name in values]
    pairs = [f"{name} = {_cell(value, digits)}" for name, value in zip(names, values.values())]
    body = f"<strong>{escape(title)}:</strong> {' · '.join(pairs)}"
    return Figure(title, title, body=body, plain=f"{title}: {', '.join(names)}")


def grid(figures: Sequence[Figure], *, title: str = "", caption: str = "") -> Figure:
    """Figures beside each other where the page is wide enough, below each other where it is not."""
    if not figures:
        raise CourseError("grid needs at least one figure.")
    cells = "".join(f'<div style="flex:1 1 360px">{figure._repr_html_()}</div>' for figure in figures)
    over = f"<strong>{escape(title)}</strong>" if title else ""
    title = title or "; ".join(figure.title for figure in figures)
    body = f'{over}<div style="display:flex;flex-wrap:wrap;gap:12px">{cells}</div>'
    return Figure(title, title, caption, body=body, plain="\n".join(map(repr, figures)))


# ---------------------------------------------------------------------------- interactive views


def _view(component: str, data: dict[str, Any], said: Sequence, name: str | None, still: Figure) -> Figure:
    """A CircuitsVis component above its still picture: text to fall back on, numbers as JSON, a small loader.

    The id depends on words, never on numbers, so it is the same on every machine. nbval blanks the JSON and
    compares the text. The loader prefers a library that is already on the page (`circuitsvis_script`).
    """
    key = (
        name
        or hashlib.sha256(json.dumps([component, still.title, list(map(str, said))]).encode()).hexdigest()
    )
    key = "mi-" + re.sub(r"\W+", "-", key if name else key[:10])
    numbers = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    label = escape(f"{still.title}. {still.alt}")
    card = "background-color:#ffffff;color:#222222;padding:8px;margin-bottom:6px;border-radius:6px;"
    card += "max-width:640px;overflow-x:auto"
    body = f"""<div role="img" aria-label="{label}" style="{card}">
<div id="{key}"><em>The picture below shows everything. To hover and click, trust this notebook, or read it on the course's site.</em><br>
{escape(" ".join(map(_shown, said)))}</div>
<script type="application/json" class="mi-n">{numbers}</script>
<script type="module">
const box = document.querySelector("#{key}:not([data-seen])");
box.dataset.seen = true;
box.id += "-" + document.querySelectorAll("[data-seen]").length;
try {{
  const cv = globalThis.CircuitsVis ?? await import("{CIRCUITSVIS}");
  cv.render(box.id, cv.{component}, JSON.parse(box.parentElement.querySelector("script").textContent));
}} catch (error) {{ console.warn("CircuitsVis could not be loaded: " + error.message); }}
</script></div>"""
    return Figure(still.title, still.alt, still.caption, still.picture, body)


def attention_view(
    patterns: Array,
    tokens: Sequence,
    *,
    labels: Sequence | None = None,
    name: str | None = None,
    **words: str,
) -> Figure:
    """Attention heads to hover and click (CircuitsVis) above `attention`, which print and GitHub show."""
    heads = _heads(patterns, tokens, labels)
    data = {
        "attention": [np.round(pattern, 4).tolist() for pattern in heads.values()],
        "attentionHeadNames": list(heads),
        "tokens": [_shown(token) for token in tokens],
        "minValue": 0,
        "maxValue": 1,
    }
    still = attention(patterns, tokens, labels=labels, **words)
    return _view("AttentionHeads", data, [*heads, *tokens], name, still)


def tokens_view(
    strings: Sequence, values: Array, *, signed: bool | None = None, name: str | None = None, **words: str
) -> Figure:
    """Coloured tokens to hover (CircuitsVis) above the same text as a picture: red above zero, blue below."""
    values = _token_values(strings, values)
    cmap, norm = _shades(values, signed)
    data = {
        "tokens": [str(string) for string in strings],
        "values": np.round(values, 4).tolist(),
        "minValue": round(norm.vmin, 4),
        "maxValue": round(norm.vmax, 4),
        "positiveColor": matplotlib.colors.to_hex(cmap(0.9)),
        "negativeColor": matplotlib.colors.to_hex(cmap(0.1)),
    }
    return _view("ColoredTokens", data, strings, name, _token_picture(strings, values, signed, words))


def circuitsvis_script() -> str:
    """The CircuitsVis library as one script element, for the head of a page that must work offline (1.3 MB)."""
    import circuitsvis

    library = (Path(circuitsvis.__file__).parent / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")
    library = re.sub(r"</(script)", r"<\\/\1", library, flags=re.IGNORECASE)
    library = re.sub(r"//# sourceMappingURL=\S+", "", library)
    return f"<script>{library}\nglobalThis.CircuitsVis = CircuitsVis;</script>"
