"""The claims ledger: what the papers say, what we run, and the only door to a paper's number.

Every row of `data/claims/*.toml` is a `Claim`: a paper's statement in our words, the scale at which
we try it, its control, and named measures, each with a bound that was written down before the run.
A notebook ends by calling `settle`, which computes the verdict from the bounds:

    all bounds met → the claim's `if_met` word · some → "partly" · none → "not reproduced"

Numbers differ a little between machines and verdicts should not. A `Settled` therefore prints its
verdict only; the numbers stand in its HTML view, inside spans that the notebook tests blank out.
"""

import functools
import html
import json
import math
import operator
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

from mi_course.errors import CourseError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Number = float | int | bool

OPERATORS = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
    "between": lambda value, bound: bound[0] <= value <= bound[1],
    "report": None,  # must be given and is shown, but decides nothing
}
SHOWN = {"<=": "≤ ", ">=": "≥ ", "<": "< ", ">": "> ", "==": ""}
MARKS = {"reproduced": "✔", "toy analogue": "✔", "partly": "◐", "not reproduced": "✘"}
LEFT = " style='text-align:left'"  # JupyterLab sets every cell to the right
RECORDED = (*MARKS, "not testable here", "planned")
NEEDS_WHY = ("partly", "not reproduced", "not testable here")
CORRECTIONS = "corrections.toml"


class SettleError(CourseError):
    """A claim cannot be settled like this."""


# --- the ledger -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paper:
    """Where a claim comes from."""

    key: str  # file name of the ledger page, e.g. "elhage2021"
    title: str
    authors: str
    year: int
    url: str

    def cite(self) -> str:
        return f"{self.authors} {self.year}"


@dataclass(frozen=True)
class Measure:
    """One number (or yes/no fact) a notebook has to bring, and the bound it has to keep."""

    name: str  # keyword of `settle`
    op: str  # one of OPERATORS
    what: str  # how it is computed
    notebook: str
    bound: Number | tuple[Number, Number] | None = None
    unit: str = ""

    def is_fact(self) -> bool:
        return isinstance(self.bound, bool)

    def met(self, value: Number) -> bool | None:
        """Whether `value` keeps the bound; None where the measure is only reported."""
        return None if self.op == "report" else bool(OPERATORS[self.op](value, self.bound))

    def shown_bound(self) -> str:
        if self.op == "report":
            return "reported"
        if self.op == "between":
            text = f"{self.bound[0]:g} … {self.bound[1]:g}"
        else:
            text = SHOWN[self.op] + _shown(self.bound)
        return f"{text} {self.unit}".strip()


@dataclass(frozen=True)
class Claim:
    """A paper's statement as something this course can measure."""

    id: str
    paper: Paper
    core: bool
    where: str  # section or figure of the paper
    claim: str  # in our words
    paper_value: str
    run: str  # scale: paper → ours
    control: str
    source: str  # how we read it: legend in data/README.md
    notebooks: tuple[str, ...]
    if_met: str  # "reproduced" or "toy analogue"
    verdict: dict[str, str]  # recorded, per notebook
    why: str
    measures: tuple[Measure, ...]

    def measures_of(self, notebook: str) -> dict[str, Measure]:
        return {measure.name: measure for measure in self.measures if measure.notebook == notebook}

    def judge(self, notebook: str, values: dict[str, Number]) -> str:
        """The verdict that follows from `values`: bounds decide, never taste."""
        met = [measure.met(values[name]) for name, measure in self.measures_of(notebook).items()]
        decisive = [kept for kept in met if kept is not None]
        return self.if_met if all(decisive) else "partly" if any(decisive) else "not reproduced"


@dataclass(frozen=True)
class Correction:
    """A statement of the learner's notes this course grew from, set against the papers."""

    id: str
    note: str  # number of the note
    says: str
    verdict: str  # wrong · loose · caveat
    papers: str  # what the papers say
    claims: tuple[str, ...]
    notebooks: tuple[str, ...]  # where it is taught


def data_dir() -> Path:
    """The folder with ledger, checkpoints and tokenizers: inside an installed wheel, else in the clone."""
    package = Path(__file__).resolve().parent
    for folder in (package / "data", package.parent / "data"):
        if (folder / "claims").is_dir():
            return folder
    raise CourseError(f"The course's data folder is neither in {package} nor beside it: install it again.")


@functools.cache
def ledger(folder: Path | None = None) -> dict[str, Claim]:
    """Every claim of the course by id, read from `data/claims/*.toml` and checked."""
    claims: dict[str, Claim] = {}
    for page in sorted((folder or data_dir() / "claims").glob("*.toml")):
        if page.name == CORRECTIONS:
            continue
        content = _read_toml(page)
        paper = _built(Paper, content.get("paper", {}), page.name)
        if paper.key != page.stem:
            raise CourseError(f"{page.name}: its paper has the key {paper.key!r}; both must be the same.")
        for row in content.get("claim", []):
            claim = _claim(row, paper, f"{page.name}: {row.get('id', 'a claim without id')}")
            if claim.id in claims:
                raise CourseError(f"{page.name}: {claim.id} stands in the ledger twice.")
            claims[claim.id] = claim
    return claims


@functools.cache
def corrections(folder: Path | None = None) -> dict[str, Correction]:
    """Every correction by id, read from `data/claims/corrections.toml` and checked."""
    page = (folder or data_dir() / "claims") / CORRECTIONS
    found: dict[str, Correction] = {}
    for row in _read_toml(page).get("correction", []):
        place = f"{page.name}: {row.get('id', 'a correction without id')}"
        entry = _built(Correction, row, place)
        if entry.verdict not in ("wrong", "loose", "caveat"):
            raise CourseError(f"{place}: its verdict is wrong, loose or caveat, not {entry.verdict!r}.")
        if unknown := [claim for claim in entry.claims if claim not in ledger(folder)]:
            raise CourseError(f"{place}: unknown claim {unknown[0]!r}.{nearest(unknown[0], ledger(folder))}")
        if found.setdefault(entry.id, entry) is not entry:
            raise CourseError(f"{place} stands there twice.")
    return found


def claim_of(id: str) -> Claim:
    """The claim with this id, or a sentence with the nearest ids."""
    if id not in ledger():
        raise SettleError(f"There is no claim {id!r} in the ledger.{nearest(id, ledger())}")
    return ledger()[id]


def _read_toml(page: Path) -> dict:
    try:
        return tomllib.loads(page.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CourseError(f"{page.name} is not valid TOML: {error}.") from None


def _built(kind: type, row: dict, place: str):
    """`kind(**row)`, where missing, unknown and ill-typed keys are named first."""
    known = {item.name: item for item in fields(kind)}
    row = {name: _tupled(value) for name, value in row.items()}
    if unknown := [name for name in row if name not in known]:
        raise CourseError(f"{place}: unknown key {unknown[0]!r}.{nearest(unknown[0], known)}")
    if missing := [name for name, item in known.items() if name not in row and item.default is MISSING]:
        raise CourseError(f"{place}: {', '.join(missing)} missing.")
    for name, value in row.items():
        if known[name].type in (str, int, bool) and type(value) is not known[name].type:
            raise CourseError(f"{place}: {name} must be {known[name].type.__name__}, not {value!r}.")
    return kind(**row)


def _claim(row: dict, paper: Paper, place: str) -> Claim:
    row = {"core": False, "why": "", "control": "", **row}
    notebooks = tuple(row.get("notebooks", ()))
    only = {"notebook": notebooks[0]} if len(notebooks) == 1 else {}
    measures = tuple(
        _measure({**only, **entry}, notebooks, f"{place}, measure {entry.get('name', '?')}")
        for entry in row.pop("measure", [])
    )
    claim = _built(Claim, {**row, "paper": paper, "notebooks": notebooks, "measures": measures}, place)
    _check_verdicts(claim, place)
    for notebook in notebooks:
        names = [measure.name for measure in measures if measure.notebook == notebook]
        if repeated := [name for name, times in Counter(names).items() if times > 1]:
            raise CourseError(f"{place}: measure {repeated[0]} stands twice for notebook {notebook}.")
        if all(measure.op == "report" for measure in measures if measure.notebook == notebook):
            raise CourseError(f"{place}: nothing decides it in notebook {notebook}: it needs a bound.")
    return claim


def _measure(row: dict, notebooks: tuple[str, ...], place: str) -> Measure:
    measure = _built(Measure, row, place)
    if measure.op not in OPERATORS:
        raise CourseError(f"{place}: unknown operator {measure.op!r}.{nearest(measure.op, OPERATORS)}")
    if not measure.name.isidentifier() or measure.name in ("id", "notebook"):
        raise CourseError(f"{place}: {measure.name!r} cannot be a keyword of settle().")
    if measure.notebook not in notebooks:
        raise CourseError(f"{place}: notebook {measure.notebook} is not among the claim's {notebooks}.")
    if not _fits(measure):
        raise CourseError(
            f"{place}: bound {measure.bound!r} does not fit {measure.op!r}: 'report' has none, 'between' "
            "takes [low, high], '==' a number or true/false, the others a number."
        )
    return measure


def _fits(measure: Measure) -> bool:
    bound = measure.bound
    if measure.op == "report":
        return bound is None
    if measure.op == "between":
        return isinstance(bound, tuple) and len(bound) == 2 and bound[0] < bound[1]
    return type(bound) in (int, float) or (measure.op == "==" and isinstance(bound, bool))


def _check_verdicts(claim: Claim, place: str) -> None:
    if claim.if_met not in ("reproduced", "toy analogue"):
        raise CourseError(f"{place}: if_met is 'reproduced' or 'toy analogue', not {claim.if_met!r}.")
    if not claim.notebooks or set(claim.verdict) != set(claim.notebooks):
        raise CourseError(f"{place}: verdict needs exactly one word for each of its notebooks.")
    for notebook, word in claim.verdict.items():
        if word not in RECORDED:
            raise CourseError(f"{place}: unknown verdict {word!r}.{nearest(word, RECORDED)}")
        if word in NEEDS_WHY and not claim.why:
            raise CourseError(f"{place}: {word!r} in notebook {notebook} needs a `why`.")


def _tupled(value):
    return tuple(value) if isinstance(value, list) else value


# --- settling a claim --------------------------------------------------------------------------

_settled: dict[tuple[str, str], "Settled"] = {}  # this process: one claim, one result


@dataclass(frozen=True)
class Settled:
    """A claim with the numbers a notebook measured. Prints its verdict; its HTML view shows all."""

    claim: Claim
    notebook: str
    values: dict[str, Number]

    @property
    def verdict(self) -> str:
        return self.claim.judge(self.notebook, self.values)

    def __repr__(self) -> str:
        recorded = self.claim.verdict[self.notebook]
        differs = recorded not in (self.verdict, "planned")
        verdict = f"{self.claim.id} · {self.verdict} {MARKS[self.verdict]}"
        return f"{verdict} (but the ledger records: {recorded})" if differs else verdict

    def _repr_html_(self) -> str:
        claim, paper = self.claim, self.claim.paper
        notes = {"Paper": claim.paper_value, "Scale": claim.run, "Control": claim.control, "Why": claim.why}
        rows = [self._row(measure) for measure in claim.measures_of(self.notebook).values()]
        return (
            f"<div class='mi-claim'><p><strong>{html.escape(repr(self))}</strong> — "
            f"{_prose(claim.claim)} ({_link(paper.url, paper.cite())}, {html.escape(claim.where)})</p>"
            + _table(("measure", "what it is", "measured", "bound", "met"), rows)
            + "".join(f"<p>{key}: {html.escape(text)}</p>" for key, text in notes.items() if text)
            + f"{_payload(self)}</div>"
        )

    def _row(self, measure: Measure) -> str:
        value = self.values[measure.name]
        mark = {True: "✔", False: "✘", None: "–"}[measure.met(value)]
        return (
            f"<tr><th scope='row'{LEFT}>{measure.name}</th><td{LEFT}>{_prose(measure.what)}</td>"
            f'<td><span class="mi-n">{_shown(value)}</span></td>'
            f"<td>{html.escape(measure.shown_bound())}</td><td>{mark}</td></tr>"
        )


def settle(id: str, notebook: str | None = None, **measures) -> Settled:
    """Judge a claim by exactly the measures its ledger row names.

    `notebook` is needed only where several notebooks share the claim. Measures are Python numbers,
    bools, or one-element arrays and tensors; NaN and infinity are refused.
    """
    claim = claim_of(id)
    notebook = _chosen_notebook(claim, notebook)
    asked = claim.measures_of(notebook)
    if missing := [name for name in asked if name not in measures]:
        raise SettleError(f"{id} in notebook {notebook} also needs {', '.join(missing)}.")
    if extra := [name for name in measures if name not in asked]:
        hint = nearest(extra[0], asked)
        raise SettleError(f"{id} in notebook {notebook} has no measure {extra[0]!r}.{hint}")
    settled = Settled(claim, notebook, {name: _number(id, asked[name], measures[name]) for name in asked})
    before = _settled.setdefault((id, notebook), settled)
    if not all(_same(before.values[name], settled.values[name]) for name in asked):
        raise SettleError(
            f"{id} was already settled here with other numbers; if the experiment was changed on purpose, "
            f"call claims.forget({id!r}) first."
        )
    return settled


def forget(id: str) -> None:
    """Let a claim be settled again in this process, after the experiment has been changed on purpose."""
    for key in [key for key in _settled if key[0] == id]:
        del _settled[key]


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of one notebook, as settled so far in this process."""

    notebook: str
    settled: dict[str, Settled | None]

    def __repr__(self) -> str:
        return "\n".join(repr(settled) if settled else f"{id} · open" for id, settled in self.settled.items())

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><th scope='row'>{id}{' ★' if claim_of(id).core else ''}</th>"
            f"<td{LEFT}>{_prose(claim_of(id).claim)}</td>"
            f"<td>{f'{settled.verdict} {MARKS[settled.verdict]}' if settled else 'open'}</td></tr>"
            for id, settled in self.settled.items()
        ]
        return _table(("★ core claim", "in our words", "verdict"), rows)


def verdicts(notebook: str) -> Verdicts:
    """The closing table of a notebook: each of its claims with its verdict, or "open"."""
    mine = [claim.id for claim in ledger().values() if notebook in claim.notebooks]
    if not mine:
        known = sorted({notebook for claim in ledger().values() for notebook in claim.notebooks})
        raise SettleError(f"No claim belongs to notebook {notebook!r}.{nearest(notebook, known)}")
    return Verdicts(notebook, {id: _settled.get((id, notebook)) for id in mine})


def _chosen_notebook(claim: Claim, notebook: str | None) -> str:
    where = " and ".join(claim.notebooks)
    if notebook is None and len(claim.notebooks) > 1:
        raise SettleError(f"{claim.id} is settled in notebooks {where}: add notebook={claim.notebooks[0]!r}.")
    if notebook is not None and notebook not in claim.notebooks:
        raise SettleError(f"{claim.id} belongs to notebook {where}, not {notebook}.")
    return notebook or claim.notebooks[0]


def _number(id: str, measure: Measure, value) -> Number:
    """A plain Python number or bool out of whatever the notebook measured."""
    try:
        value = value.item() if hasattr(value, "item") else value
    except (RuntimeError, TypeError, ValueError):
        raise SettleError(f"{id}: {measure.name} must be a single number, not an array.") from None
    if not isinstance(value, (bool, int, float)):
        raise SettleError(f"{id}: {measure.name} must be a number, not {type(value).__name__}.")
    if isinstance(value, bool) != measure.is_fact():
        kind = "True or False" if measure.is_fact() else "a number, not True or False"
        raise SettleError(f"{id}: {measure.name} must be {kind}.")
    if not math.isfinite(value):
        raise SettleError(f"{id}: {measure.name} is {value}; only finite numbers settle a claim.")
    return value


def _same(one: Number, other: Number) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


def _shown(value: Number) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.4g}"


def _link(url: str, text: str) -> str:
    return f"<a href='{html.escape(url)}'>{html.escape(text)}</a>"


def _prose(text: str) -> str:
    """Words of the ledger as HTML, `names` between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _table(columns: tuple[str, ...], rows: list[str]) -> str:
    sides = [LEFT, LEFT] + [""] * (len(columns) - 2)  # as in the rows: names and words, then numbers
    head = "".join(f"<th scope='col'{side}>{name}</th>" for name, side in zip(columns, sides))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


# --- what stored notebooks say -----------------------------------------------------------------

PAYLOAD = re.compile(r'<span class="mi-n" data-mi-claim="([^"]*)"></span>')


def _payload(settled: Settled) -> str:
    """The same facts for machines, in an empty span: `Scoreboard` reads it from stored outputs."""
    facts = {"claim": settled.claim.id, "notebook": settled.notebook, "verdict": settled.verdict}
    written = json.dumps({**facts, "measures": settled.values})
    return f'<span class="mi-n" data-mi-claim="{html.escape(written)}"></span>'


@dataclass(frozen=True)
class Row:
    """One claim in one notebook: what the notebook measured beside what the ledger records."""

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
        if set(self.measures) != set(self.claim.measures_of(self.notebook)):
            return f"{name} was settled with other measures than the ledger now asks for: run it again."
        if self.claim.judge(self.notebook, self.measures) != self.verdict:
            return f"{name} says {self.verdict}, not what the ledger's bounds now give: run it again."
        if self.recorded != self.verdict:
            return f"{name} measured {self.verdict}, but the ledger records {self.recorded}."
        return None


@dataclass(frozen=True)
class Scoreboard:
    """What the stored outputs of notebooks say about their claims."""

    rows: tuple[Row, ...]

    @classmethod
    def from_notebooks(cls, paths: Iterable[str | Path]) -> "Scoreboard":
        """Read every settled claim out of executed notebooks named `NN_title.ipynb`."""
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
        rows = [
            {"claim": row.claim.id, "notebook": row.notebook, "core": row.claim.core, "verdict": row.verdict}
            | {"recorded": row.recorded, "measures": row.measures}
            for row in self.rows
        ]
        return json.dumps({"rows": rows, "counts": self.counts(), "problems": self.problems()}, indent=1)


def _line(row: Row) -> str:
    numbers = "  ".join(f"{name} {_shown(value)}" for name, value in row.measures.items())
    star, verdict = "★" if row.claim.core else " ", row.verdict or "open"
    return f"{row.notebook}  {row.claim.id:7}{star} {MARKS.get(verdict, '·')} {verdict:15}{numbers}"


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
