"""The claims ledger: what the papers say, what we run, and the only door to a paper's number.

Every row of `data/claims/*.toml` is a `Claim`: a paper's statement in our words, the scale at which
we try it, its control, and named measures, each with a role and a bound that was written down before the run.

    effect    what the paper says            control   what must hold for an effect to mean anything
    identity  exact                          report    decides nothing

A control may be the null of an effect: what a broken method scores. A notebook ends by calling `settle`, which
computes the verdict:

    all bounds met → the claim's `if_met` word · an effect met and no control broken → "partly"
    no effect met, or a control broken → "not reproduced" · nothing but reports → "reading"

Numbers differ a little between machines and verdicts should not. A `Settled` therefore prints its
verdict only; the numbers stand in its HTML view, inside spans that the notebook tests blank out.
"""

import functools
import operator
import re
import sys
from collections import Counter
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from mi_course.errors import CourseError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
from mi_course.files import data_dir

Number = float | int | bool

OPERATORS = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
    "between": lambda value, bound: bound[0] <= value <= bound[1],
    "report": None,  # no bound
}
SHOWN = {"<=": "≤ ", ">=": "≥ ", "<": "< ", ">": "> ", "==": ""}
ROLES = {"effect": "effects", "control": "controls", "identity": "identities", "report": "reports"}
MARKS = {"reproduced": "✔", "toy analogue": "✔", "partly": "◐", "not reproduced": "✘", "reading": "¶"}
RECORDED = (*MARKS, "not testable here", "planned")
NEEDS_WHY = ("partly", "not reproduced", "not testable here")
CORRECTIONS = "corrections.toml"


# How a claim's `source` begins to say where it was read (legend: data/README.md), and what each mark means.
MARK_OF_SOURCE = re.compile(r"\(from memory\)|\b[PSD]\b(?: ?\([^)]*\))?")
READ = {
    "P": "the paper itself", "S": "a secondary text", "D": "our own derivation or trial",
    "P(excerpts)": "word-for-word excerpts of the paper", "P(abstract)": "the paper's abstract alone",
    "P(post)": "the authors' own post", "(from memory)": "from memory, without the text at hand",
}  # fmt: skip


class SettleError(CourseError):
    """A claim cannot be settled like this."""


@dataclass(frozen=True)
class Paper:
    """Where a claim comes from.

    Args:
        key: file name of the ledger page, such as elhage2021.
        title: as printed.
        authors: as they are cited, such as Olsson et al.
        year: of the version that was read.
        url: where it can be read.
    """

    key: str  # file name of the ledger page, e.g. "elhage2021"
    title: str
    authors: str
    year: int
    url: str

    def cite(self) -> str:
        """As text cites it: authors and year."""
        return f"{self.authors} {self.year}"


@dataclass(frozen=True)
class Measure:
    """One number (or yes/no fact) a notebook has to bring, and the bound it has to keep.

    Args:
        name: the keyword of `settle` that brings it.
        role: effect, control, identity or report; a report decides nothing.
        op: how the value is compared with the bound: `<=`, `>=`, `<`, `>`, `==`, `between`, or `report` where it has none.
        what: how it is computed, in words.
        notebook: where, as two digits.
        bound: a number, two of them for `between`, True or False for a fact; None: only reported.
        unit: of the value, empty where it has none.
        null_of: for a control that a broken method scores, the names of the effects it stands beside.
    """

    name: str  # keyword of `settle`
    role: str  # one of ROLES
    op: str  # one of OPERATORS
    what: str  # how it is computed
    notebook: str
    bound: Number | tuple[Number, Number] | None = None
    unit: str = ""
    null_of: (
        str | tuple[str, ...]
    ) = ()  # a control that is what a broken method scores: the measures it stands beside

    def is_fact(self) -> bool:
        """Whether it is a yes or no."""
        return isinstance(self.bound, bool)

    def decides(self) -> bool:
        """Whether a verdict depends on it."""
        return self.role != "report"

    def met(self, value: Number) -> bool | None:
        """Whether `value` keeps the bound; None where the measure is only reported."""
        return bool(OPERATORS[self.op](value, self.bound)) if self.decides() else None

    def shown_role(self) -> str:
        """The role in words, a null with the measures whose null it is."""
        return f"null of {', '.join(self.null_of)}" if self.null_of else self.role

    def shown_bound(self) -> str:
        """The bound as readers see it, such as ≥ 0.9."""
        if self.op == "report":
            return "reported"
        if self.op == "between":
            text = f"{self.bound[0]:g} … {self.bound[1]:g}"
        else:
            text = SHOWN[self.op] + shown_value(self.bound)
        return f"{text} {self.unit}".strip() + ("" if self.decides() else " (reported)")


@dataclass(frozen=True)
class Claim:
    """A paper's statement as something this course can measure.

    Args:
        id: such as MF-12.
        paper: where it is made.
        core: whether the course stands on it (★).
        where: section or figure of the paper.
        claim: what is claimed, in our words.
        paper_value: the paper's own number.
        run: what is run here, as "paper's scale → ours".
        control: what stands beside it.
        source: how we read the paper, as letters that data/README.md explains.
        notebooks: those that settle it, as two digits each.
        if_met: the verdict where all bounds are kept: reproduced, toy analogue, or reading where nothing is
            measured.
        verdict: the recorded verdict of each notebook.
        why: the reason for a verdict that is not full.
        measures: what its notebooks bring.
    """

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
    if_met: str  # "reproduced", "toy analogue", or "reading" where nothing is measured
    verdict: dict[str, str]  # recorded, per notebook
    why: str
    measures: tuple[Measure, ...]

    def how_read(self) -> str:
        """`source` in words, such as "The paper itself, and our own derivation or trial"."""
        parts = []
        for part in re.split(r"[;,] *", self.source):
            marks = MARK_OF_SOURCE.findall(part)
            said = (", and in part " if "/" in part else ", and ").join(map(_read_from, marks))
            topic = MARK_OF_SOURCE.sub("", part).strip("+/ ")
            parts.append(f"{topic}: {said}" if topic else said)
        text = "; ".join(parts)
        return text[0].upper() + text[1:]

    def measures_of(self, notebook: str) -> dict[str, Measure]:
        """The claim's measures in one `notebook` ("03"), by name."""
        return {measure.name: measure for measure in self.measures if measure.notebook == notebook}

    def with_role(self, notebook: str, *roles: str) -> list[Measure]:
        """The measures in one `notebook` ("03") whose role is one of `roles`."""
        return [measure for measure in self.measures_of(notebook).values() if measure.role in roles]

    def lacks_null(self, notebook: str) -> bool:
        """Whether an effect stands in this `notebook` ("03") without what a broken method scores."""
        nulls = any(measure.null_of for measure in self.with_role(notebook, "control"))
        return bool(self.with_role(notebook, "effect")) and not nulls

    def judge(self, notebook: str, values: dict[str, Number]) -> str:
        """The verdict that follows from `values`, name → number, in this `notebook`: roles and bounds decide, never taste."""
        kept = lambda *roles: [m.met(values[m.name]) for m in self.with_role(notebook, *roles)]
        if not (deciding := kept("effect", "control", "identity")):
            return "reading"
        if all(deciding):
            return self.if_met
        return "partly" if any(kept("effect")) and all(kept("control")) else "not reproduced"


@dataclass(frozen=True)
class Correction:
    """A statement of the learner's notes this course grew from, set against the papers.

    Args:
        id: such as S-01.
        note: the number of the note, such as 000.
        says: the sentence that is often said.
        verdict: wrong, loose or caveat.
        papers: what the papers say instead.
        claims: ids of the claims that settle it.
        notebooks: where it is taught, as two digits each.
    """

    id: str
    note: str  # number of the note
    says: str
    verdict: str  # wrong · loose · caveat
    papers: str  # what the papers say
    claims: tuple[str, ...]
    notebooks: tuple[str, ...]  # where it is taught


@functools.cache
def ledger(folder: Path | None = None) -> dict[str, Claim]:
    """Every claim of the course by id, read from `data/claims/*.toml` (or those in `folder`) and checked."""
    claims: dict[str, Claim] = {}
    for page in sorted((folder or data_dir() / "claims").glob("*.toml")):
        if page.name == CORRECTIONS:
            continue
        content = read_toml(page)
        paper = built(Paper, content.get("paper", {}), page.name)
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
    """Every correction by id, read from `data/claims/corrections.toml` (or the one in `folder`) and checked."""
    page = (folder or data_dir() / "claims") / CORRECTIONS
    found: dict[str, Correction] = {}
    for row in read_toml(page).get("correction", []):
        place = f"{page.name}: {row.get('id', 'a correction without id')}"
        entry = built(Correction, row, place)
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


def read_toml(page: Path) -> dict:
    """A TOML page, or a sentence that says where it breaks."""
    try:
        return tomllib.loads(page.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CourseError(f"{page.name} is not valid TOML: {error}.") from None


def built(kind: type, row: dict, place: str):
    """`kind(**row)`, where missing, unknown and ill-typed keys are named first; `place` begins the sentence."""
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
    claim = built(Claim, {**row, "paper": paper, "notebooks": notebooks, "measures": measures}, place)
    _check_verdicts(claim, place)
    for notebook in notebooks:
        names = [measure.name for measure in measures if measure.notebook == notebook]
        if repeated := [name for name, times in Counter(names).items() if times > 1]:
            raise CourseError(f"{place}: measure {repeated[0]} stands twice for notebook {notebook}.")
        _check_roles(claim, notebook, place)
    return claim


def _check_roles(claim: Claim, notebook: str, place: str) -> None:
    """Something is measured, unless the row is a reading; and nulls stand beside what is there."""
    reading = "reading" in (claim.if_met, claim.verdict[notebook])
    deciding = claim.with_role(notebook, "effect", "control", "identity")
    if reading and deciding:
        raise CourseError(
            f"{place}: in a reading (notebook {notebook}) {deciding[0].name} can only be a report."
        )
    measured = {measure.name for measure in claim.with_role(notebook, "effect", "identity")}
    if not reading and not measured:
        raise CourseError(
            f"{place}: nothing decides it in notebook {notebook}: it needs an effect or an identity."
        )
    for measure in claim.measures_of(notebook).values():
        if measure.null_of and measure.role != "control":
            raise CourseError(
                f"{place}: {measure.name} is a null, so its role is control, not {measure.role}."
            )
        if strange := [name for name in measure.null_of if name not in measured]:
            hint = nearest(strange[0], measured)
            raise CourseError(
                f"{place}: {measure.name} is the null of {strange[0]!r}, no effect of the row.{hint}"
            )
    if claim.lacks_null(notebook):
        raise CourseError(
            f"{place}: an effect in notebook {notebook} needs a null, a control with `null_of`: what does the "
            "cheapest broken method score?"
        )


def _measure(row: dict, notebooks: tuple[str, ...], place: str) -> Measure:
    null_of = row.get("null_of", ())
    measure = built(Measure, {**row, "null_of": [null_of] if isinstance(null_of, str) else null_of}, place)
    if measure.role not in ROLES:
        raise CourseError(f"{place}: unknown role {measure.role!r}.{nearest(measure.role, ROLES)}")
    if measure.op not in OPERATORS:
        raise CourseError(f"{place}: unknown operator {measure.op!r}.{nearest(measure.op, OPERATORS)}")
    if not measure.name.isidentifier() or measure.name in ("id", "notebook"):
        raise CourseError(f"{place}: {measure.name!r} cannot be a keyword of settle().")
    if measure.notebook not in notebooks:
        raise CourseError(f"{place}: notebook {measure.notebook} is not among the claim's {notebooks}.")
    if measure.op == "report" and measure.decides():
        raise CourseError(f"{place}: {measure.role} without a bound: only a report can do without.")
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
    if claim.if_met not in ("reproduced", "toy analogue", "reading"):
        raise CourseError(
            f"{place}: if_met is 'reproduced', 'toy analogue' or 'reading', not {claim.if_met!r}."
        )
    if not claim.notebooks or set(claim.verdict) != set(claim.notebooks):
        raise CourseError(f"{place}: verdict needs exactly one word for each of its notebooks.")
    for notebook, word in claim.verdict.items():
        if word not in RECORDED:
            raise CourseError(f"{place}: unknown verdict {word!r}.{nearest(word, RECORDED)}")
        if word in NEEDS_WHY and not claim.why:
            raise CourseError(f"{place}: {word!r} in notebook {notebook} needs a `why`.")


def _tupled(value):
    return tuple(value) if isinstance(value, list) else value


def _read_from(mark: str) -> str:
    """In words; what stands in brackets, and no word is known for, stays as it is: P (IOI)."""
    return READ.get(mark) or f"{READ[mark[0]]} {mark[1:].strip()}"


def shown_value(value: Number, digits: int = 4) -> str:
    """`value` as text: a number in so many significant `digits`, a fact as yes or no."""
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.{digits}g}"
