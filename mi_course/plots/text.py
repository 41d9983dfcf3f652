"""Text in colours, as HTML, as a picture, and to hover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import matplotlib
import numpy as np

from mi_course.plots.charts import colour_scale, has_two_signs, ink_on
from mi_course.plots.figure import (
    SIGNED,
    Array,
    Figure,
    as_array,
    check_length,
    shown_token,
    start_figure,
    styled,
)
from mi_course.plots.tables import rounded
from mi_course.plots.views import interactive


def _shades(values: np.ndarray, signed: bool | None):
    """(colour map, its scale): zero is white; red is above, blue below, as in heat maps; amounts are blue."""
    from matplotlib.colors import LinearSegmentedColormap

    if has_two_signs([values]) if signed is None else signed:
        return matplotlib.colormaps[SIGNED], colour_scale([values], signed=True)
    pale = matplotlib.colormaps["Blues"](np.linspace(0, 0.8, 32))
    return LinearSegmentedColormap.from_list("amounts", pale), colour_scale(
        [values, np.zeros(1)], signed=False
    )


def _token_values(strings: Sequence, values: Array) -> np.ndarray:
    values = as_array("values", values, 1)
    check_length("values", values, "strings", len(strings))
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
    """The coloured text of `plots.tokens` alone, as HTML: for pages with several texts on one scale, from `limits`.

    `strings` are coloured by `values`: on a diverging scale if `signed` (default: where values have both signs), with
    their numbers below if `show_values`, rounded to `digits`.
    """
    values = _token_values(strings, values)
    cmap, norm = _shades(values if limits is None else np.append(values, limits), signed)
    spans = []
    for string, value in zip(strings, values):
        rgb = cmap(norm(value))[:3]
        look = f"background-color:{matplotlib.colors.to_hex(rgb)};color:{ink_on(rgb)};display:inline-block;"
        look += "padding:1px 3px;margin:1px;text-align:center;font-family:monospace"
        number = f'<br><span class="mi-n">{rounded(value, digits)}</span>' if show_values else ""
        hover = f'title="{rounded(value, 4)}"'
        spans.append(
            f'<span class="mi-t" style="{look}" {hover}>{escape(shown_token(string))}{number}</span>'
        )
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
    """Text whose tokens are coloured by their values, as HTML; the values stand below the tokens of a short text.

    Args:
        strings: the pieces of text.
        values: one number a piece.
        signed: zero is white; default: where both signs occur.
        digits: of the numbers shown.
        show_values: below the tokens.
        words: `title` and `alt` (both needed) and `caption`.
    """
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
    for string in map(shown_token, strings):
        if column and column + len(string) > 84:
            row, column = row + 1, 0
        boxes.append((row, column, string))
        column += len(string) + 1
    with styled():
        figure, ((axes,),) = start_figure(words, 7.5, 0.28 * (row + 1) + 0.7)
        axes.set(xlim=(0, 85), ylim=(row + 0.6, -0.6))
        axes.axis("off")
        for (row, column, string), value in zip(boxes, values):
            rgb = cmap(norm(value))[:3]
            axes.barh(row, len(string) + 0.7, left=column, height=0.86, color=rgb)
            look = {"family": "monospace", "va": "center", "color": ink_on(rgb)}
            axes.text(column + 0.35, row, string, fontsize=10, **look)
        scale = matplotlib.cm.ScalarMappable(norm, cmap)
        figure.picture.colorbar(
            scale, ax=axes, location="bottom", shrink=0.35, aspect=30, anchor=(0, 1), pad=0.02
        )
    return figure


def tokens_view(
    strings: Sequence, values: Array, *, signed: bool | None = None, name: str | None = None, **words: str
) -> Figure:
    """Coloured tokens to hover (CircuitsVis) above the same text as a picture: red above zero, blue below.

    Args:
        strings: the pieces of text.
        values: one number a piece.
        signed: zero is white; default: where both signs occur.
        name: of the view on its page, where two would be alike.
        words: `title` and `alt` (both needed) and `caption`.
    """
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
    return interactive("ColoredTokens", data, strings, name, _token_picture(strings, values, signed, words))


def varying(html: str) -> str:
    """`html` in marks that the notebooks' comparison leaves out, since it differs between machines."""
    return f'<div class="mi-v">{html}</div><!-- mi-v -->'


@dataclass(frozen=True)
class Varying:
    """What differs between machines or Pythons, so that stored notebooks are not compared on it.

    Args:
        text: what is shown, as HTML; or any text, kept in its lines, with `plain`.
        plain: it is no HTML.
    """

    text: str
    plain: bool = False

    def __repr__(self) -> str:
        return "shown in the notebook"

    def _repr_html_(self) -> str:
        return varying(f"<pre>{escape(self.text)}</pre>" if self.plain else self.text)
