"""What stored notebooks say of the claims they settled."""

import html
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mi_course.claims.ledger import MARKS, Claim, Measure, Number, ledger, shown_value
from mi_course.claims.settling import NOT_RUN, PAYLOAD
from mi_course.errors import CourseError


@dataclass(frozen=True)
class Row:
    """One claim in one notebook: what the notebook measured beside what the ledger records.

    Args:
        claim: of the ledger.
        notebook: as two digits.
        verdict: what the stored outputs say; None: the notebook does not settle it.
        measures: name → number, as measured.
    """

    claim: Claim
    notebook: str
    verdict: str | None = None  # None: the notebook does not settle it
    measures: dict[str, Number] = field(default_factory=dict)

    @property
    def recorded(self) -> str:
        return self.claim.verdict[self.notebook]

    def problem(self) -> str | None:
        """What is wrong with this row, in a sentence."""
        name = f"{self.claim.id} in notebook {self.notebook}"
        if self.verdict is None:
            return None if self.recorded == "not testable here" else f"{name} is not settled."
        if self.verdict == NOT_RUN:
            return None
        if set(self.measures) != set(self.claim.measures_of(self.notebook)):
            return f"{name} was settled with other measures than the ledger now asks for: run it again."
        if self.claim.judge(self.notebook, self.measures) != self.verdict:
            return f"{name} says {self.verdict}, not what the ledger's bounds now give: run it again."
        if self.recorded != self.verdict:
            return f"{name} measured {self.verdict}, but the ledger records {self.recorded}."
        return None


@dataclass(frozen=True)
class Scoreboard:
    """What the stored outputs of notebooks say about their claims: `rows`, one for each claim in each notebook."""

    rows: tuple[Row, ...]

    @classmethod
    def from_notebooks(cls, paths: Iterable[str | Path]) -> "Scoreboard":
        """Read every settled claim out of the executed notebooks at `paths`, named `NN_title.ipynb`."""
        rows: list[Row] = []
        for path in map(Path, paths):
            notebook, found = path.name[:2], _payloads(path)
            claims = [claim for claim in ledger().values() if notebook in claim.notebooks]
            for claim in claims:
                facts = found.pop(claim.id, {})
                rows.append(Row(claim, notebook, facts.get("verdict"), facts.get("measures", {})))
            if found:
                raise CourseError(f"{path.name} settles {', '.join(found)}, which belongs elsewhere.")
        return cls(tuple(rows))

    def problems(self) -> list[str]:
        """One sentence for each claim that is missing, stale, or at odds with the ledger."""
        return [problem for row in self.rows if (problem := row.problem())]

    def counts(self) -> dict[str, int]:
        """How often each verdict was reached; "open" for claims that were not settled."""
        return dict(Counter(row.verdict or "open" for row in self.rows))

    def __repr__(self) -> str:
        lines = [_line(row) for row in self.rows]
        total = " · ".join(f"{times} {verdict}" for verdict, times in self.counts().items())
        claims = len({row.claim.id for row in self.rows})
        return "\n".join([*lines, f"{claims} claims, {len(self.rows)} verdicts: {total}", *self.problems()])

    def to_json(self) -> str:
        """Every row as JSON, for `build/scoreboard.json`."""
        rows = [
            {"claim": row.claim.id, "notebook": row.notebook, "core": row.claim.core, "verdict": row.verdict}
            | {"recorded": row.recorded, "measures": row.measures}
            for row in self.rows
        ]
        return json.dumps({"rows": rows, "counts": self.counts(), "problems": self.problems()}, indent=1)


def _line(row: Row) -> str:
    roles = row.claim.measures_of(row.notebook)
    numbers = "  ".join(
        f"{name} {shown_value(value)}{_role(roles.get(name))}" for name, value in row.measures.items()
    )
    star, verdict = "★" if row.claim.core else " ", row.verdict or "open"
    return f"{row.notebook}  {row.claim.id:7}{star} {MARKS.get(verdict, '·')} {verdict:15}{numbers}"


def _role(measure: Measure | None) -> str:
    """Behind a number: what it is, unless it is an effect."""
    if measure is None or measure.role == "effect":
        return ""
    return " (null)" if measure.null_of else f" ({measure.role})"


def _payloads(path: Path) -> dict[str, dict]:
    """Claim id → facts, from the HTML outputs of one notebook."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        raise CourseError(f"{path} cannot be read as a notebook.") from None
    found: dict[str, dict] = {}
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        view = "".join(output.get("data", {}).get("text/html", ""))
        for written in PAYLOAD.findall(view):
            facts = json.loads(html.unescape(written))
            if found.setdefault(facts["claim"], facts) != facts:
                raise CourseError(f"{path.name} settles {facts['claim']} twice with different results.")
    return found
