"""Figures that say what they show, to readers who see them and to readers who do not.

Every function takes numbers and words, draws, and returns a `Figure`: nothing is computed, displayed, or left
behind in matplotlib's global state. All of them take `title=` (states the finding), `alt=` (says what the picture
looks like) and `caption=` (says what to look for, and what would refute it).

Numbers that differ in the last digits from one machine to the next belong into `table` and `measured`, whose
plain text shows names only. Text is drawn as written: a token `$x$` stays `$x$`, a leading blank becomes `·`.
"""

from __future__ import annotations

import base64
import io
import logging
import math
import textwrap
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mi_course import files
from mi_course.corpora.corpus import visible
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


def _in_256_colours(png: io.BytesIO) -> bytes:
    """The same picture with a palette, a third of the size: notebooks stay small."""
    small = io.BytesIO()
    Image.open(png).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


@dataclass(frozen=True, eq=False, repr=False)
class Figure:
    """A picture, a piece of HTML, or both, with a title and with words for those who cannot see it.

    Jupyter shows it when it is the last line of a cell; `save` writes it to a file. `picture` is the matplotlib
    figure, for readers who want to change a detail; `plain` is what text-only readers get. `title` states the
    finding, `alt` says it to those who cannot see it, `caption` says what to see; `body` is HTML.
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
        with styled():
            self.picture.draw_without_rendering()
            self.picture.set_layout_engine("none")  # each layout pass moves things a little: one is enough
            self.picture.savefig(buffer, format=kind, metadata=stamp)
        return _in_256_colours(buffer) if kind == "png" else buffer.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write .html or, where there is a picture, .png, .svg or .pdf: the ending of `path` decides.

        Its folder is made where it is missing.
        """
        path = Path(path)
        kind = path.suffix[1:].lower()
        known = ["html"] if self.picture is None else ["html", "png", "svg", "pdf"]
        if kind not in known:
            raise CourseError(
                f"Cannot save a figure as {path.name!r}: its name must end in .{' or .'.join(known)}."
            )
        page = f'<!doctype html><meta charset="utf-8"><title>{escape(self.title)}</title>{self._repr_html_()}'
        return files.write(path, page if kind == "html" else self._rendered(kind))


def as_array(name: str, values: Any, ndim: int | None = None) -> Float[np.ndarray, "..."]:
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


def check_length(name: str, values: Collection, other: str, n: int) -> None:
    if len(values) != n:
        raise CourseError(f"{name} has {len(values)} entries, but {other} has {n}.")


def as_series(name: str, series: Any, ndim: int = 1) -> dict[str, np.ndarray]:
    if not isinstance(series, Mapping) or not series:
        raise CourseError(f"{name} must be a dictionary {{label: values}} with at least one entry.")
    return {str(label): as_array(f"{name}[{label!r}]", values, ndim) for label, values in series.items()}


def known_names(what: str, names: Names, labels: Collection[str]) -> set[str]:
    names = {names} if isinstance(names, str) else set(map(str, names or ()))
    for name in sorted(names - set(labels)):
        raise CourseError(f"{what}: there is no {name!r} here.{nearest(name, labels)}")
    return names


def shown_token(token: Any) -> str:
    return visible(str(token))


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib as this module wants it, whatever the reader has set, and afterwards as it was."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # else a first run writes to stderr
    from matplotlib import style

    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def start_figure(
    words: Mapping[str, str], width: float, height: float, rows: int = 1, columns: int = 1, **layout
):
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


def looks_of(labels: Sequence[str], controls: set[str]) -> dict[str, tuple[str, str]]:
    """label → (colour, words in the legend); controls are grey, each another grey, and say so."""
    colours, greys = iter(COLOURS * len(labels)), iter([*CONTROLS] * len(labels))
    said = {label: label if "control" in label.lower() else f"{label} (control)" for label in controls}
    return {
        label: (next(greys), said[label]) if label in controls else (next(colours), label) for label in labels
    }


def draw_legend(picture, last: Collection[str] = (), alone: bool = False, beside: int = 0) -> None:
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


def colour_bar(picture, shades, axes, unit: str) -> None:
    """Beside all panels; what it says is wrapped to its height, and lies beside a bar too low for upright words."""
    height = picture.get_figheight()
    bar = picture.colorbar(shades, ax=axes, shrink=0.9, aspect=25, pad=0.02)
    upright = textwrap.fill(unit, max(12, int(11 * height)))
    if height < 2.6 and max(map(len, upright.split("\n"))) * 0.08 > height - 1.1:
        bar.set_label(textwrap.fill(unit, 14), rotation=0, ha="left", va="center")
    else:
        bar.set_label(upright)


def place_text(text, offsets: Sequence[tuple], taken: list, within=None) -> tuple:
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


def mark_events(axes, events: Marks | None) -> None:
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
        place_text(text, levels, taken)


def mark_heights(axes, heights: Marks | None) -> None:
    for i, (name, y) in enumerate((heights or {}).items()):
        axes.axhline(float(y), color=INK, linestyle=DASHES[i % 3], linewidth=1.2, label=name)


def log_axis(axes, side: str, values: np.ndarray) -> None:
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
