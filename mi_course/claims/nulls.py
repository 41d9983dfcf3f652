"""The page of nulls: what the cheapest broken method scores beside every effect, from stored notebooks.

`python -m mi_course.claims.nulls` writes `docs/nulls.md`; `tests/test_claims.py` compares page and notebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mi_course.claims.ledger import Measure, shown_value
from mi_course.claims.scoreboard import Row, Scoreboard
from mi_course.files import write

OPENING = """# Nulls and controls

A bound that a broken method meets is no bound. So every claim with an *effect* in the [ledger](../data/README.md) has a *null* beside it: the
cheapest method that should **not** show the effect (an untrained model, shuffled rows, a random direction, a constant answer), scored by the
same measure, with a bound of its own that was written down before the run. Where a null breaks its bound, the claim reads *not reproduced*,
however good the effect looks.

Written by `python -m mi_course.claims.nulls` from the stored notebooks; the numbers are those of the recorded seed. Identities have a control
where leaving something out must change the result. What each measure is stands in the ledger and in the notebook's cell.
"""


def page(board: Scoreboard) -> str:
    """The whole page, a table for each notebook."""
    parts = [OPENING]
    for notebook in sorted({row.notebook for row in board.rows}):
        rows = [row for row in board.rows if row.notebook == notebook and row.verdict]
        lines = [line for row in rows for line in lines_of(row)]
        if lines:
            head = "| claim | null | scores | bound | what it is | beside |\n|---|---|---|---|---|---|"
            parts.append(f"## Notebook {notebook}\n\n{head}\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def lines_of(row: Row) -> list[str]:
    """One line for each null of a claim: its score and bound, and the measures it stands beside with theirs."""
    measures = row.claim.measures_of(row.notebook)
    return [
        f"| {row.claim.id} | `{name}` | {mark(row, measure)} | {measure.shown_bound()} | {measure.what} | "
        + "; ".join(
            f"`{of}` {shown_value(row.measures[of])} ({measures[of].shown_bound()})" for of in measure.null_of
        )
        + " |"
        for name, measure in measures.items()
        if measure.null_of and name in row.measures
    ]


def mark(row: Row, measure: Measure) -> str:
    value = row.measures[measure.name]
    return f"{shown_value(value)} {'✔' if measure.met(value) else '✘'}"


def main(notebooks: Sequence[Path], target: Path) -> None:
    """Write the page for these notebooks."""
    write(target, page(Scoreboard.from_notebooks(notebooks)))


if __name__ == "__main__":
    root = Path(__file__).parent.parent.parent
    main(sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")), root / "docs" / "nulls.md")
