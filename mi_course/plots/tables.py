"""Tables, measured values that the comparison leaves out, and figures side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.plots.figure import Figure, check_length, known_names, shown_token

LEFT = ' style="text-align:left"'  # JupyterLab sets every cell to the right


def rounded(value: float | int, digits: int) -> str:
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
    return f'<span class="mi-n">{rounded(value, digits)}</span>'


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
            known_names("A row of the table", list(map(str, names)), list(map(str, row)))
        return list(map(str, names)), [[row[name] for name in names] for row in rows]
    rows = [[row[0], *row[1]] if len(row) == 2 and np.ndim(row[1]) else list(row) for row in rows]
    columns = ["value"] if columns is None and len(rows[0]) == 2 else columns
    if columns is None:
        raise CourseError("A table made of lists needs the names of its columns: pass columns=[…].")
    names = ([""] if len(columns) + 1 == len(rows[0]) else []) + list(columns)
    for row in rows:
        check_length("A row of the table", row, "its header", len(names))
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

    Args:
        rows: what stands in it.
        columns: names of the columns, the first one left out.
        title: above it.
        digits: of numbers.
        caption: below it.
    """
    names, rows = _rows(rows, columns)
    labels = [shown_token(row[0]) for row in rows]
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
    """Named values on one line, as in `measured(loss=3.21, accuracy=0.97)`; plain text shows the names only.

    `values` are name=number, shown with so many `digits` after `title`.
    """
    if not values:
        raise CourseError("measured needs at least one named value, as in measured(loss=3.2).")
    names = [name.replace("_", " ") for name in values]
    pairs = [f"{name} = {_cell(value, digits)}" for name, value in zip(names, values.values())]
    body = f"<strong>{escape(title)}:</strong> {' · '.join(pairs)}"
    return Figure(title, title, body=body, plain=f"{title}: {', '.join(names)}")


def grid(figures: Sequence[Figure], *, title: str = "", caption: str = "") -> Figure:
    """The `figures` beside each other where the page is wide enough, below each other where it is not.

    `title` stands above them and `caption` below; without a title theirs are joined.
    """
    if not figures:
        raise CourseError("grid needs at least one figure.")
    cells = "".join(f'<div style="flex:1 1 360px">{figure._repr_html_()}</div>' for figure in figures)
    over = f"<strong>{escape(title)}</strong>" if title else ""
    title = title or "; ".join(figure.title for figure in figures)
    body = f'{over}<div style="display:flex;flex-wrap:wrap;gap:12px">{cells}</div>'
    return Figure(title, title, caption, body=body, plain="\n".join(map(repr, figures)))
