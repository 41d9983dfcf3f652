"""Settling a claim: measured values meet the ledger's bounds, and the verdict follows."""

import html
import json
import math
import re
from dataclasses import dataclass, field

from mi_course.claims.ledger import (
    MARKS,
    ROLES,
    Claim,
    Measure,
    Number,
    SettleError,
    claim_of,
    ledger,
    shown_value,
)
from mi_course.errors import nearest

LEFT = " style='text-align:left'"  # JupyterLab sets every cell to the right


NOT_RUN = (
    "not run here"  # a verdict of this run alone, never of the ledger: what the claim is about is absent
)

_settled: dict[tuple[str, str], "Settled"] = {}  # this process: one claim, one result
_not_run: set[str] = set()  # claims whose cells were passed over


@dataclass(frozen=True)
class Settled:
    """A claim with the numbers a notebook measured. Prints its verdict; its HTML view shows all.

    `claim` was judged in `notebook` ("03") by its `values`, name → number; `how` holds what the notebook says of how
    a fact was computed, by name.
    """

    claim: Claim
    notebook: str
    values: dict[str, Number]
    how: dict[str, str] = field(default_factory=dict)  # what a notebook says of how a fact was computed

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
            + _table(("measure", "what it is", "role", "measured", "bound", "met"), rows)
            + "".join(f"<p>{key}: {html.escape(text)}</p>" for key, text in notes.items() if text)
            + f"{_payload(self)}</div>"
        )

    def kept(self) -> str:
        """How many bounds were kept, by role: "effects 2 of 2 · controls 1 of 1"."""
        lines = []
        for role, plural in ROLES.items():
            met = [m.met(self.values[m.name]) for m in self.claim.with_role(self.notebook, role)]
            if met and role != "report":
                lines.append(f"{plural} {sum(met)} of {len(met)}")
        return " · ".join(lines)

    def _what(self, measure: Measure) -> str:
        how = self.how.get(measure.name)
        return f"{measure.what} — computed: {how}" if how else measure.what

    def _row(self, measure: Measure) -> str:
        value = self.values[measure.name]
        mark = {True: "✔", False: "✘", None: "–"}[measure.met(value)]
        return (
            f"<tr><th scope='row'{LEFT}>{measure.name}</th><td{LEFT}>{_prose(self._what(measure))}</td>"
            f"<td{LEFT}>{measure.shown_role()}</td>"
            f'<td><span class="mi-n">{shown_value(value)}</span></td>'
            f"<td>{html.escape(measure.shown_bound())}</td><td>{mark}</td></tr>"
        )


@dataclass(frozen=True)
class Computed:
    """A yes or no that a notebook worked out, its `value`, with `how` in words: `claims.computed` makes one."""

    value: Number
    how: str


def computed(value, how: str) -> Computed:
    """A yes or no that Python itself worked out, for `settle`: `computed(torch.equal(a, b), how="bit for bit")`.

    A comparison of arrays or tensors is taken as it is. Python's own True looks the same whether it was found or
    typed, so a fact that decides a claim says how it was found. `value` is True or False; `how` says in a few words
    what was compared with what.
    """
    if not isinstance(how, str) or not how.strip():
        raise SettleError("claims.computed needs how= in a few words: what was compared with what.")
    return Computed(value, how.strip())


def settle(id: str, notebook: str | None = None, **measures) -> Settled:
    """Judge a claim by exactly the measures its ledger row names.

    `id` names the claim ("MF-12"); `notebook` ("03") is needed only where several notebooks share the claim. Measures
    are Python numbers, bools, or one-element arrays and tensors; NaN and infinity are refused. A yes or no that
    decides comes from a comparison of arrays, or through `computed`: a typed True is no evidence.
    """
    claim = claim_of(id)
    notebook = _chosen_notebook(claim, notebook)
    asked = claim.measures_of(notebook)
    if missing := [name for name in asked if name not in measures]:
        raise SettleError(f"{id} in notebook {notebook} also needs {', '.join(missing)}.")
    if extra := [name for name in measures if name not in asked]:
        hint = nearest(extra[0], asked)
        raise SettleError(f"{id} in notebook {notebook} has no measure {extra[0]!r}.{hint}")
    values = {name: _number(id, asked[name], measures[name]) for name in asked}
    how = {name: measures[name].how for name in asked if isinstance(measures[name], Computed)}
    settled = Settled(claim, notebook, values, how)
    before = _settled.setdefault((id, notebook), settled)
    if not all(_same(before.values[name], settled.values[name]) for name in asked):
        raise SettleError(
            f"{id} was already settled here with other numbers; if the experiment was changed on purpose, "
            f"call claims.forget({id!r}) first."
        )
    return settled


def forget(id: str) -> None:
    """Let the claim `id` be settled again in this process, after the experiment has been changed on purpose."""
    for key in [key for key in _settled if key[0] == id]:
        del _settled[key]


@dataclass(frozen=True)
class NotRun:
    """Claims, by their `ids`, about something that is not on this machine: no verdict, and no failure either."""

    ids: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join(f"{id} · {NOT_RUN}" for id in self.ids)

    def _repr_html_(self) -> str:
        return "".join(
            f"<p>{html.escape(id)} · {NOT_RUN}{_hidden({'claim': id, 'verdict': NOT_RUN, 'measures': {}})}</p>"
            for id in self.ids
        )


def not_run(*ids: str) -> NotRun:
    """Say that these claims could not be tried here; `verdicts` and the scoreboard then say so, too.

    `ids` are theirs, such as "RM-01".
    """
    _not_run.update(claim_of(id).id for id in ids)
    return NotRun(ids)


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of one notebook, as settled so far in this process."""

    notebook: str
    settled: dict[str, Settled | None]

    def __repr__(self) -> str:
        return "\n".join(
            repr(settled) if settled else f"{id} · {_unsettled(id)}" for id, settled in self.settled.items()
        )

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><th scope='row'>{id}{' ★' if claim_of(id).core else ''}</th>"
            f"<td{LEFT}>{_prose(claim_of(id).claim)}</td>"
            f"<td>{f'{settled.verdict} {MARKS[settled.verdict]}' if settled else _unsettled(id)}</td>"
            f"<td{LEFT}>{settled.kept() if settled else ''}</td></tr>"
            for id, settled in self.settled.items()
        ]
        return _table(("★ core claim", "in our words", "verdict", "bounds kept"), rows)


def verdicts(notebook: str) -> Verdicts:
    """The closing table of a notebook: each of its claims with its verdict, or "open"."""
    mine = [claim.id for claim in ledger().values() if notebook in claim.notebooks]
    if not mine:
        known = sorted({notebook for claim in ledger().values() for notebook in claim.notebooks})
        raise SettleError(f"No claim belongs to notebook {notebook!r}.{nearest(notebook, known)}")
    return Verdicts(notebook, {id: _settled.get((id, notebook)) for id in mine})


@dataclass(frozen=True)
class NullTable:
    """What broken methods score in one notebook, as settled so far in this process, beside what they are nulls of."""

    notebook: str
    settled: tuple[Settled, ...]

    def pairs(self) -> list[tuple[Settled, Measure]]:
        """Each null with the claim it belongs to."""
        return [
            (one, m)
            for one in self.settled
            for m in one.claim.measures_of(self.notebook).values()
            if m.null_of
        ]

    def __repr__(self) -> str:
        return "\n".join(
            f"{one.claim.id} · {m.name} beside {', '.join(m.null_of)}" for one, m in self.pairs()
        )

    def _repr_html_(self) -> str:
        columns = ("claim", "null", "what it is", "scores", "bound", "kept", "beside")
        return _table(columns, [self._row(one, measure) for one, measure in self.pairs()])

    def _row(self, one: Settled, null: Measure) -> str:
        measures = one.claim.measures_of(self.notebook)
        shown = lambda name: f'<span class="mi-n">{shown_value(one.values[name])}</span>'
        beside = "; ".join(
            f"{of} {shown(of)} ({html.escape(measures[of].shown_bound())})" for of in null.null_of
        )
        return (
            f"<tr><th scope='row'{LEFT}>{one.claim.id}</th><td{LEFT}>{null.name}</td>"
            f"<td{LEFT}>{_prose(null.what)}</td><td>{shown(null.name)}</td>"
            f"<td>{html.escape(null.shown_bound())}</td><td>{'✔' if null.met(one.values[null.name]) else '✘'}</td>"
            f"<td{LEFT}>{beside}</td></tr>"
        )


def null_table(notebook: str) -> NullTable:
    """Every null of a notebook beside its effect, for its last section: what would a broken method have scored?"""
    return NullTable(notebook, tuple(one for one in verdicts(notebook).settled.values() if one))


def _unsettled(id: str) -> str:
    return NOT_RUN if id in _not_run else "open"


def _chosen_notebook(claim: Claim, notebook: str | None) -> str:
    where = " and ".join(claim.notebooks)
    if notebook is None and len(claim.notebooks) > 1:
        raise SettleError(f"{claim.id} is settled in notebooks {where}: add notebook={claim.notebooks[0]!r}.")
    if notebook is not None and notebook not in claim.notebooks:
        raise SettleError(f"{claim.id} belongs to notebook {where}, not {notebook}.")
    return notebook or claim.notebooks[0]


def _number(id: str, measure: Measure, value) -> Number:
    """A plain Python number or bool out of whatever the notebook measured."""
    if type(value) is bool and measure.is_fact() and measure.decides():
        raise SettleError(
            f"{id}: {measure.name} decides, and {value} might be typed: compare arrays or tensors, or give "
            'claims.computed(…, how="…").'
        )
    value = value.value if isinstance(value, Computed) else value
    try:
        value = value.item() if hasattr(value, "item") else value
    except (RuntimeError, TypeError, ValueError):
        raise SettleError(f"{id}: {measure.name} must be a single number, not an array.") from None
    if not isinstance(value, (bool, int, float)):
        raise SettleError(f"{id}: {measure.name} must be a number, not {type(value).__name__}.")
    if isinstance(value, bool) != measure.is_fact() and measure.op != "report":
        kind = "True or False" if measure.is_fact() else "a number, not True or False"
        raise SettleError(f"{id}: {measure.name} must be {kind}.")
    if not math.isfinite(value):
        raise SettleError(f"{id}: {measure.name} is {value}; only finite numbers settle a claim.")
    return value


def _same(one: Number, other: Number) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


def _link(url: str, text: str) -> str:
    return f"<a href='{html.escape(url)}'>{html.escape(text)}</a>"


def _prose(text: str) -> str:
    """Words of the ledger as HTML, `names` between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _table(columns: tuple[str, ...], rows: list[str]) -> str:
    sides = [LEFT, LEFT] + [""] * (len(columns) - 2)  # as in the rows: names and words, then numbers
    head = "".join(f"<th scope='col'{side}>{name}</th>" for name, side in zip(columns, sides))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


PAYLOAD = re.compile(r'<span class="mi-n" data-mi-claim="([^"]*)"></span>')


def _payload(settled: Settled) -> str:
    """The same facts for machines, in an empty span: `Scoreboard` reads it from stored outputs."""
    facts = {"claim": settled.claim.id, "notebook": settled.notebook, "verdict": settled.verdict}
    return _hidden({**facts, "measures": settled.values})


def _hidden(facts: dict) -> str:
    return f'<span class="mi-n" data-mi-claim="{html.escape(json.dumps(facts))}"></span>'
