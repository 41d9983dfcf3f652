"""The ledger is whole, its verdicts follow from its bounds, and stored notebooks say what it records."""

import dataclasses
import html
import importlib
import json
import re
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter

import mi_course
from mi_course import claims, files
from mi_course.claims import nulls
from mi_course.claims.ledger import corrections, ledger
from mi_course.claims.scoreboard import Row, Scoreboard
from mi_course.claims.settling import forget, settle, verdicts
from mi_course.course import places
from mi_course.errors import CourseError, nearest

# Every claim of the course, typed out: one that is dropped or renamed turns this red.
CORE = """
  ZI-02 ZI-05 ZI-06 ZI-07 FV-01
  MF-01 MF-03 MF-05 MF-06 MF-07 MF-10 MF-12 MF-13 MF-14 MF-16 MF-17
  IH-01 IH-02 IH-03 IH-04 IH-05 IH-06 IH-11
  TMS-01 TMS-02 TMS-05 TMS-07 TMS-08 TMS-10 TMS-12 TMS-16 TMS-18 TMS-20
  TM-02 TM-04 TM-05 TM-07 TM-08 TM-10 TM-11 TM-12 TM-13 TM-15 TM-18
  SM-01 SM-02 SM-04 SM-07 SM-08 SM-11
  AP-01 AP-02 AP-03 AP-04 AP-05 AP-08 AP-09
  IOI-01 IOI-03 IOI-05 IOI-06 IOI-07 IOI-08 IOI-09
  GR-01 GR-02 GR-03 GR-06 GR-07 GR-08
  PR-02 PR-03 PR-04 PR-06  LL-01 LL-02 LL-04 LL-05  SV-01 SV-02 SV-03
  CE-01 CE-02 CE-05 CE-07  AO-01 AO-04  OP-01 TT-01
  RM-01 RM-02 RM-03 RM-05 RM-06 RM-07 RM-08 RM-10 RM-11 RM-12 RM-13 RM-15 RM-16 RM-19 RM-20 OP-03  JL-01 JL-02
  VM-01 VM-02 VM-03
""".split()
OTHERS = """
  ZI-01 ZI-03 ZI-04 ZI-08
  MF-02 MF-04 MF-08 MF-09 MF-11 MF-15 MF-18 MF-19
  IH-07 IH-08 IH-09 IH-10
  TMS-03 TMS-04 TMS-06 TMS-09 TMS-11 TMS-13 TMS-14 TMS-15 TMS-17 TMS-19 TMS-21 TMS-22
  TM-01 TM-03 TM-06 TM-09 TM-14 TM-16 TM-17
  SM-03 SM-05 SM-06 SM-09 SM-10
  AP-06 AP-07 AP-10  IOI-02 IOI-04  GR-04 GR-05 GR-09
  PR-01 PR-05 PR-07  LL-03  SV-04 SV-05 SV-06 SV-07
  CE-03 CE-04 CE-06  AO-02 AO-03  RM-04  RM-09 RM-14 RM-17 RM-18 OP-02 OP-04 OP-05  JL-03 JL-04
  VM-04 VM-05 VM-06
""".split()
PER_NOTEBOOK = [3, 3, 9, 22, 22, 19, 12, 12, 15, 10, 11, 12, 16, 8, 15, 5]
CORE_PER_NOTEBOOK = [2, 1, 4, 16, 10, 11, 8, 8, 13, 6, 6, 8, 8, 5, 8, 3]

# MF-16 has a floor, an exact count and a ceiling.
ALL_MET = {"accuracy": 1.0, "gradient_steps": 0, "cut_above_chance": 0.01}
ALL_MISSED = {"accuracy": 0.4, "gradient_steps": 3, "cut_above_chance": 0.5}

LEDGER_PAGE = """
[paper]
key = "page"
title = "A paper"
authors = "Somebody"
year = 2021
url = "https://example.org/?a=1&b=2"

[[claim]]
id = "XX-01"
where = "§1"
claim = "Attention <reads>."
paper_value = "0.5"
run = "large → small"
source = "P"
notebooks = ["01"]
if_met = "reproduced"
verdict = {"01" = "planned"}
why = ""
measure = [
  {name = "gap", role = "effect", op = "<=", bound = 0.02, unit = "nats", what = "a gap"},
  {name = "exact", role = "identity", op = "<=", bound = 0.1, what = "an identity"},
  {name = "broken", role = "control", null_of = "gap", op = ">=", bound = 0.1, what = "the gap of a broken method"},
  {name = "aside", role = "report", op = "report", what = "a number"},
]
"""


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    """Each test settles claims as a fresh kernel would."""
    monkeypatch.setattr("mi_course.claims.settling._settled", {})


def rows_instead(monkeypatch, rows: dict) -> None:
    """Let the claims be `rows` in every module that asks the ledger."""
    for name in ("ledger", "settling", "scoreboard"):  # by name: `claims.ledger` is the function
        monkeypatch.setattr(importlib.import_module(f"mi_course.claims.{name}"), "ledger", lambda: rows)


@pytest.fixture
def page(tmp_path):
    """Writes the ledger page above with replacements, and gives its folder."""

    def write(*replacements: tuple[str, str]) -> Path:
        text = LEDGER_PAGE
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "page.toml").write_text(text, encoding="utf-8")
        return tmp_path

    return write


# --- the ledger -------------------------------------------------------------------------------


def test_every_claim_stands_in_the_ledger():
    assert sorted(ledger()) == sorted(CORE + OTHERS)
    assert sorted(claim.id for claim in ledger().values() if claim.core) == sorted(CORE)
    assert len(ledger()) == 184


def test_every_notebook_has_its_claims():
    for number, (expected, core) in enumerate(zip(PER_NOTEBOOK, CORE_PER_NOTEBOOK, strict=True)):
        mine = [claim for claim in ledger().values() if f"{number:02}" in claim.notebooks]
        assert (len(mine), sum(claim.core for claim in mine)) == (expected, core), f"notebook {number:02}"


def test_every_claim_is_told_whole():
    for claim in ledger().values():
        assert claim.paper.url.startswith("https://") and 1950 < claim.paper.year < 2030, claim.id
        told = (claim.claim, claim.where, claim.paper_value, claim.run, claim.source, claim.control)
        assert all(told), claim.id
        assert "→" in claim.run, f"{claim.id} does not say: paper → ours"
        for measure in claim.measures:
            assert measure.what and measure.shown_bound(), (claim.id, measure.name)


@pytest.mark.parametrize(
    "said",
    [
        (("notebooks =", 'colour = "red"\nnotebooks ='), "unknown key 'colour'"),
        (('where = "§1"\n', ""), "where missing"),
        (('where = "§1"', "where = 1"), "where must be str, not 1"),
        (("year = 2021", 'year = "2021"'), "year must be int"),
        (('key = "page"', 'key = "pagan"'), "the key 'pagan'"),
        (('op = "<="', 'op = "=<"'), "unknown operator '=<'"),
        (("bound = 0.02, ", ""), "bound None does not fit '<='"),
        (("bound = 0.02", "bound = true"), "bound True does not fit '<='"),
        (("bound = 0.02", "bound = [0, 1]"), r"bound \(0, 1\) does not fit '<='"),
        (('op = "<=", bound = 0.02', 'op = "between", bound = [1, 0]'), "does not fit 'between'"),
        (('op = "report"', 'op = "report", bound = 1'), "bound 1 does not fit 'report'"),
        (('role = "effect", ', ""), "measure gap: role missing"),
        (('role = "effect"', 'role = "efect"'), "measure gap: unknown role 'efect'. Did you mean 'effect'"),
        (('role = "effect"', "role = 1"), "role must be str, not 1"),
        (('null_of = "gap", ', ""), "an effect in notebook 01 needs a null, a control with `null_of`"),
        (('role = "report"', 'role = "effect"'), "measure aside: effect without a bound"),
        (('role = "control"', 'role = "report"'), "broken is a null, so its role is control, not report"),
        (
            ('null_of = "gap"', 'null_of = "gab"'),
            "the null of 'gab', no effect of the row. Did you mean 'gap'",
        ),
        (('null_of = "gap"', 'null_of = ["gap", "aside"]'), "the null of 'aside', no effect of the row"),
        (
            ('if_met = "reproduced"', 'if_met = "reading"'),
            r"in a reading \(notebook 01\) gap can only be a report",
        ),
        (('"01" = "planned"', '"01" = "reading"'), "gap can only be a report"),
        (('name = "gap"', 'name = "the gap"'), "cannot be a keyword"),
        (('name = "gap"', 'name = "notebook"'), "cannot be a keyword"),
        (('name = "aside"', 'name = "gap"'), "measure gap stands twice for notebook 01"),
        (('name = "gap"', 'notebook = "02", name = "gap"'), "notebook 02 is not among"),
        (
            ('role = "effect", op = "<=", bound = 0.02', 'role = "control", op = "<=", bound = 0.02'),
            ('role = "identity"', 'role = "report"'),
            "nothing decides it in notebook 01: it needs an effect or an identity",
        ),
        (('if_met = "reproduced"', 'if_met = "proved"'), "not 'proved'"),
        (('"01" = "planned"', '"01" = "partial"'), "unknown verdict 'partial'. Did you mean 'partly'"),
        (('"01" = "planned"', '"02" = "planned"'), "exactly one word for each of its notebooks"),
        (('"01" = "planned"', '"01" = "partly"'), "'partly' in notebook 01 needs a `why`"),
        (("[paper]", "[paper"), "page.toml is not valid TOML"),
    ],
)
def test_a_bad_page_is_refused_in_a_sentence(page, said):
    *replacements, sentence = said
    with pytest.raises(CourseError, match=sentence) as caught:
        ledger(page(*replacements))
    assert "page.toml" in str(caught.value)


def test_a_claim_cannot_stand_twice(page):
    folder = page()
    (folder / "other.toml").write_text(LEDGER_PAGE.replace('"page"', '"other"'), encoding="utf-8")
    with pytest.raises(CourseError, match="page.toml: XX-01 stands in the ledger twice"):
        ledger(folder)


def test_a_why_excuses_partly(page):
    claim = ledger(page(('"planned"', '"partly"'), ('why = ""', 'why = "one seed"')))["XX-01"]
    assert claim.verdict == {"01": "partly"} and claim.why == "one seed" and not claim.core


def test_corrections_name_known_claims(page):
    assert list(corrections()) == [f"S-{number:02}" for number in range(1, 21)]
    assert {"00", "02", "03"} <= {
        notebook for entry in corrections().values() for notebook in entry.notebooks
    }
    row = '[[correction]]\nid = "S-01"\nnote = "000"\nsays = "a"\nverdict = "wrong"\npapers = "b"\n'
    folder = page()
    for tail, sentence in [
        ('claims = ["XX-02"]\nnotebooks = ["01"]', "unknown claim 'XX-02'. Did you mean 'XX-01'"),
        ("claims = []", "notebooks missing"),
    ]:
        (folder / "corrections.toml").write_text(row + tail, encoding="utf-8")
        with pytest.raises(CourseError, match=sentence):
            corrections(folder)


# --- verdicts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op, bound, inside, outside",
    [
        ("<=", 0.02, 0.02, 0.0201),
        (">=", 0.95, 0.95, 0.9499),
        ("<", 0.0, -1e-9, 0.0),
        (">", 0.0, 1e-9, 0.0),
        ("==", 6, 6, 5),
        ("==", True, True, False),
        ("==", False, False, True),
        ("between", (-0.02, 0.02), 0.02, -0.021),
        ("between", (-0.02, 0.02), -0.02, 0.021),
    ],
)
def test_a_bound_divides_its_line(op, bound, inside, outside):
    measure = claims.Measure(name="m", role="effect", op=op, what="w", notebook="01", bound=bound)
    assert measure.met(inside) is True and measure.met(outside) is False
    report = dataclasses.replace(measure, role="report")
    assert report.met(inside) is None and report.shown_bound() == f"{measure.shown_bound()} (reported)"


MET = {"gap": 0.01, "exact": 0.0, "broken": 0.2, "aside": 7.0}


@pytest.mark.parametrize(
    "changed, verdict",
    [
        ({}, "reproduced"),
        ({"aside": -7.0}, "reproduced"),
        ({"exact": 1.0}, "partly"),
        ({"gap": 1.0}, "not reproduced"),  # controls and identities are no evidence
        ({"broken": 0.0}, "not reproduced"),  # the effect is met, but so it is by a broken method
        ({"gap": 1.0, "broken": 0.0, "exact": 1.0}, "not reproduced"),
    ],
)
def test_the_verdict_follows_from_roles_and_bounds(page, changed, verdict):
    claim = ledger(page())["XX-01"]
    assert claim.judge("01", {**MET, **changed}) == verdict
    toy = dataclasses.replace(claim, if_met="toy analogue")
    assert toy.judge("01", {**MET, **changed}) == ("toy analogue" if verdict == "reproduced" else verdict)


def test_one_of_two_effects_is_partly(page):
    claim = ledger(page(('role = "identity"', 'role = "effect"')))["XX-01"]
    assert claim.judge("01", {**MET, "exact": 1.0}) == claim.judge("01", {**MET, "gap": 1.0}) == "partly"
    assert claim.judge("01", {**MET, "exact": 1.0, "broken": 0.0}) == "not reproduced"


def test_identities_alone_hold_or_do_not(page):
    claim = ledger(page(('role = "effect"', 'role = "identity"'), ('null_of = "gap", ', "")))["XX-01"]
    assert claim.judge("01", MET) == "reproduced"
    assert claim.judge("01", {**MET, "exact": 1.0}) == "not reproduced"


def test_nothing_measured_is_a_reading():
    claim = ledger()["OP-01"]
    for fact in (True, False):
        assert claim.judge("13", {"shap_and_lime_in_thread_two": fact}) == "reading"


def test_every_row_has_what_decides_it_or_is_a_reading():
    words = {}
    for claim in ledger().values():
        for notebook in claim.notebooks:
            if not claim.with_role(notebook, "effect", "identity"):
                words[claim.id, notebook] = claim.verdict[notebook]
    readings = {("IH-11", "03"), ("OP-01", "00"), ("OP-01", "13"), ("TMS-22", "05"), ("VM-06", "14"),
                ("SM-09", "12")}  # fmt: skip
    assert {row for row, word in words.items() if word == "reading"} == readings
    assert set(words) == readings


def test_a_claim_of_two_notebooks_asks_each_for_its_own_measures():
    claim = ledger()["CE-07"]
    assert list(claim.measures_of("13")) == [
        "resting_mass_cut", "direct_share_patched", "left_when_patched", "other_left_when_patched", "shuffled_norms_cut",
        "ordinary_mass_cut",
    ]  # fmt: skip
    assert "direct_effect_share" in claim.measures_of("03")


# --- settle -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [np.float32(1), np.array([1.0]), torch.tensor(1.0), torch.ones(1, 1), 1])
def test_numbers_of_every_kind_settle(number):
    settled = settle("MF-16", **{**ALL_MET, "accuracy": number})
    assert settled.values["accuracy"] == 1 and type(settled.values["accuracy"]) in (int, float)


@pytest.mark.parametrize(
    "id, measures, sentence",
    [
        ("MF-61", {}, r"no claim 'MF-61' in the ledger. Did you mean 'MF-1"),
        ("MF-16", {"accuracy": 1.0}, "MF-16 in notebook 03 also needs gradient_steps, cut_above_chance"),
        ("MF-16", {**ALL_MET, "acuracy": 1.0}, "no measure 'acuracy'. Did you mean 'accuracy'"),
        ("MF-16", {**ALL_MET, "accuracy": float("nan")}, "accuracy is nan; only finite numbers"),
        ("MF-16", {**ALL_MET, "accuracy": torch.tensor(float("inf"))}, "accuracy is inf"),
        ("MF-16", {**ALL_MET, "accuracy": torch.ones(2)}, "must be a single number, not an array"),
        ("MF-16", {**ALL_MET, "accuracy": np.ones(2)}, "must be a single number, not an array"),
        ("MF-16", {**ALL_MET, "accuracy": "high"}, "must be a number, not str"),
        ("MF-16", {**ALL_MET, "accuracy": None}, "must be a number, not NoneType"),
        ("MF-16", {**ALL_MET, "accuracy": True}, "must be a number, not True or False"),
        ("TT-01", {"noop_bit_equal": 1.0}, "also needs"),
        ("MF-16", {**ALL_MET, "notebook": "02"}, "MF-16 belongs to notebook 03, not 02"),
        ("MF-02", {"max_abs_diff": 0.0}, "MF-02 is settled in notebooks 00 and 02: add notebook='00'"),
    ],
)
def test_a_claim_that_cannot_be_settled_says_why(id, measures, sentence):
    with pytest.raises(claims.SettleError, match=sentence):
        settle(id, **measures)
    assert repr(verdicts("03").settled).count("Settled(") == 0


@pytest.fixture
def fact(page, monkeypatch):
    """A ledger whose only row has an effect that is true or false."""
    rows_instead(
        monkeypatch, ledger(page(('op = "<=", bound = 0.02, unit = "nats"', 'op = "==", bound = true')))
    )
    return {**MET, "gap": np.bool_(True)}


def test_a_fact_is_true_or_false(fact):
    for found in (np.bool_(True), torch.tensor(True), claims.computed(True, how="a against b")):
        assert settle("XX-01", **{**fact, "gap": found}).verdict == "reproduced"
    with pytest.raises(claims.SettleError, match="gap must be True or False"):
        settle("XX-01", **{**fact, "gap": 1.0})


@pytest.mark.parametrize("typed", [True, False])
def test_a_typed_fact_is_no_evidence(fact, typed):
    with pytest.raises(claims.SettleError, match=f"XX-01: gap decides, and {typed} might be typed: compare"):
        settle("XX-01", **{**fact, "gap": typed})
    assert settle("XX-01", **{**fact, "aside": typed}).verdict == "reproduced"  # a report decides nothing


def test_how_a_fact_was_computed_stands_in_the_view(fact):
    settled = settle("XX-01", **{**fact, "gap": claims.computed(2 < 3, how="two <against> three")})
    assert "computed: two &lt;against&gt; three" in settled._repr_html_()
    for how in ("", "  "):
        with pytest.raises(claims.SettleError, match="needs how= in a few words"):
            claims.computed(True, how=how)


def test_one_process_one_result():
    settle("MF-16", **ALL_MET)
    settle("MF-16", **{**ALL_MET, "cut_above_chance": 0.01 + 1e-10})  # the same run again
    with pytest.raises(claims.SettleError, match=r"already settled here .* claims.forget\('MF-16'\)"):
        settle("MF-16", **ALL_MISSED)
    forget("MF-16")
    assert settle("MF-16", **ALL_MISSED).verdict == "not reproduced"


def test_the_closing_table_says_what_is_open():
    settle("MF-18", permuted_max_diff=0.0, loss_above_entropy=0.1, trigram_gap=0.3)
    table = verdicts("01")
    assert repr(table).splitlines() == ["MF-01 · open", "MF-18 · reproduced ✔", "MF-19 · open"]
    assert "MF-01 ★" in table._repr_html_() and "reproduced ✔" in table._repr_html_()
    assert "identities 2 of 2" in table._repr_html_()
    with pytest.raises(claims.SettleError, match="No claim belongs to notebook '1'"):
        verdicts("1")


def test_the_table_of_nulls_shows_each_beside_its_effect(page, monkeypatch):
    rows_instead(monkeypatch, ledger(page()))
    assert repr(claims.null_table("01")) == ""  # nothing is settled yet
    settle("XX-01", gap=0.01, exact=0.0, broken=0.05, aside=1.0)
    table = claims.null_table("01")
    assert repr(table) == "XX-01 · broken beside gap"
    view = table._repr_html_()
    assert "the gap of a broken method" in view and "≥ 0.1" in view and "✘" in view
    assert "gap " in view and "(≤ 0.02 nats)" in view
    assert "0.05" not in sanitised(view) and "0.01" not in sanitised(view)
    with pytest.raises(claims.SettleError, match="No claim belongs to notebook '1'"):
        claims.null_table("1")


# --- what is stored in a notebook ----------------------------------------------------------------


def sanitised(view: str, *more: str) -> str:
    """The view as the notebook tests compare it, by more files of rules than the one."""
    rules = RawConfigParser()
    for name in ("nbval_sanitize.cfg", *more):
        rules.read(Path(__file__).parent / name, encoding="utf-8")
    for rule in rules.values():
        if "regex" in rule:
            view = re.sub(rule["regex"], rule["replace"], view)
    return view


def test_nothing_that_varies_is_compared():
    views = []
    for share in (0.0123456, 0.0298765):
        forget("MF-16")
        bundle, _ = DisplayFormatter().format(settle("MF-16", **{**ALL_MET, "cut_above_chance": share}))
        assert f"{share:.4g}" in bundle["text/html"]
        views.append((bundle["text/plain"], sanitised(bundle["text/html"])))
    assert views[0] == views[1]
    assert views[0][0] == "MF-16 · reproduced ✔"


def test_on_another_python_marks_may_turn_and_neither_verdicts_nor_identities():
    other = lambda view: sanitised(view, "nbval_turning.cfg")
    nb = nbformat.read(places.find(["13"])[0], as_version=4)
    settled = {}
    for cell in nb.cells:
        for out in cell.get("outputs", []):
            if (text := out.get("data", {}).get("text/plain", ""))[:2] in ("CE", "AT", "MF"):
                settled[text.split(" ")[0]] = out["data"]["text/html"]
    view, exact = settled["CE-05"], settled["CE-01"]
    marks = [at.start(1) for at in re.finditer(r"<td>([✔✘])</td></tr>", view)]
    assert len(marks) == 5
    for at in marks:
        turned = view[:at] + ("✔" if view[at] == "✘" else "✘") + view[at + 1 :]
        assert sanitised(turned) != sanitised(view) and other(turned) == other(view)
    assert other(view.replace("not reproduced ✘", "partly ◐")) != other(view)
    identity = re.search(r">identity</td>.*?<td>(✔)</td></tr>", exact)
    assert other(exact[: identity.start(1)] + "✘" + exact[identity.end(1) :]) != other(exact)
    summary = "<td>effects 1 of 2 · controls 2 of 3 · identities 1 of 1</td>"
    assert other(summary.replace("1 of 2", "2 of 2")) == other(summary)
    assert other(summary.replace("1 of 1", "0 of 1")) != other(summary)


def test_the_view_shows_bound_paper_scale_and_control():
    view = sanitised(settle("MF-16", **ALL_MET)._repr_html_())
    claim = ledger()["MF-16"]
    for text in ("≤ 0.03", claim.paper_value, claim.run, claim.control, claim.paper.url, "the K path cut"):
        assert text in view
    assert view.count("<td>N</td>") == len(ALL_MET)
    assert "null of accuracy" in view and ">report</td>" in view


def test_the_view_escapes_what_the_ledger_says(page, monkeypatch):
    toy = ledger(page())
    rows_instead(monkeypatch, toy)
    view = settle("XX-01", **MET)._repr_html_()
    assert "Attention &lt;reads&gt;." in view and "?a=1&amp;b=2" in view


def test_a_verdict_other_than_the_recorded_one_shows(monkeypatch):
    claim = dataclasses.replace(ledger()["MF-16"], verdict={"03": "reproduced"})
    rows_instead(monkeypatch, {"MF-16": claim})
    settled = settle("MF-16", **ALL_MISSED)
    assert repr(settled) == "MF-16 · not reproduced ✘ (but the ledger records: reproduced)"
    assert repr(dataclasses.replace(settled, values=ALL_MET)) == "MF-16 · reproduced ✔"


@pytest.fixture
def notebook(tmp_path):
    """Stores settled claims as outputs of `NN_title.ipynb`, the way Jupyter does."""

    def write(*settled, name: str = "03_induction_heads.ipynb") -> Path:
        cells = []
        for result in settled:
            bundle, _ = DisplayFormatter().format(result)
            output = nbformat.v4.new_output("execute_result", bundle, execution_count=1)
            cells.append(nbformat.v4.new_code_cell("settle(…)", outputs=[output]))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def recorded(monkeypatch):
    """A ledger of MF-16 alone, with this verdict recorded."""

    def write(word: str, **changes) -> None:
        claim = dataclasses.replace(ledger.__wrapped__()["MF-16"], verdict={"03": word}, **changes)
        rows_instead(monkeypatch, {"MF-16": claim})

    return write


def test_scoreboard_reads_what_was_stored(notebook, recorded):
    recorded("reproduced")
    board = Scoreboard.from_notebooks([notebook(settle("MF-16", **ALL_MET))])
    (row,) = board.rows
    assert (row.verdict, row.recorded, row.measures) == ("reproduced", "reproduced", ALL_MET)
    assert board.problems() == [] and board.counts() == {"reproduced": 1}
    stored = json.loads(board.to_json())
    assert stored["rows"][0]["measures"] == ALL_MET and stored["counts"] == {"reproduced": 1}
    assert "03  MF-16  ★ ✔ reproduced" in str(board)
    assert "accuracy 1  gradient_steps 0 (report)  cut_above_chance 0.01 (null)" in str(board)


def test_scoreboard_knows_missing_claims(notebook):
    board = Scoreboard.from_notebooks([notebook()])
    assert board.counts() == {"open": 22} and len(board.problems()) == 22
    assert "22 claims, 22 verdicts: 22 open\nMF-10 in notebook 03 is not settled." in str(board)


def test_scoreboard_reports_a_verdict_the_ledger_does_not_record(notebook, recorded):
    stored = notebook(settle("MF-16", **ALL_MISSED))
    recorded("reproduced")
    (problem,) = Scoreboard.from_notebooks([stored]).problems()
    assert problem == "MF-16 in notebook 03 measured not reproduced, but the ledger records reproduced."


def test_scoreboard_reports_outputs_older_than_the_ledger(notebook, recorded):
    stored = notebook(settle("MF-16", **ALL_MET))
    floor, count, ceiling = ledger()["MF-16"].measures
    recorded("reproduced", measures=(floor, count, dataclasses.replace(ceiling, bound=0.001)))
    assert "not what the ledger's bounds now give" in Scoreboard.from_notebooks([stored]).problems()[0]
    recorded("reproduced", measures=(floor, count))
    assert "settled with other measures" in Scoreboard.from_notebooks([stored]).problems()[0]


def test_scoreboard_refuses_what_it_cannot_trust(notebook, tmp_path):
    first = settle("MF-16", **ALL_MET)
    with pytest.raises(CourseError, match="settles MF-16, which belongs elsewhere"):
        Scoreboard.from_notebooks([notebook(first, name="01_bigrams.ipynb")])
    with pytest.raises(CourseError, match="settles MF-16 twice with different results"):
        Scoreboard.from_notebooks([notebook(first, dataclasses.replace(first, values=ALL_MISSED))])
    (tmp_path / "03_cut.ipynb").write_text('{"cells": [', encoding="utf-8")
    for name in ("03_cut.ipynb", "03_absent.ipynb"):
        with pytest.raises(CourseError, match="cannot be read as a notebook"):
            Scoreboard.from_notebooks([tmp_path / name])


# --- where the data is, and what an import costs ---------------------------------------------------


def test_data_travels_inside_the_package_or_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "mi_course"
    package.mkdir()
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    with pytest.raises(CourseError, match="data folder is neither in"):
        files.data_dir()
    for folder in (tmp_path / "data", package / "data"):  # a clone, then a wheel
        (folder / "claims").mkdir(parents=True)
        assert files.data_dir() == folder


def test_the_package_loads_what_is_asked_for():
    asked = "import sys, mi_course; assert 'torch' not in sys.modules; mi_course.claims.ledger()"
    subprocess.run([sys.executable, "-c", f"{asked}; assert 'torch' not in sys.modules"], check=True)
    assert {"claims", "errors", "models"} <= set(dir(mi_course))
    with pytest.raises(AttributeError, match="no attribute 'claim'"):
        _ = mi_course.claim


def test_nearest_names():
    assert nearest("indution", ["induction", "patching"]) == " Did you mean 'induction'?"
    assert nearest("mf01", ["MF-01", "ZZ"]) == " Did you mean 'MF-01'?"
    assert nearest("x", ["alpha", "beta"]) == " Known: alpha, beta."
    assert nearest("x", []) == " There are none."
    assert nearest("??", [f"name{n}" for n in range(9)]).endswith("name7 ….")


# --- the page of nulls ------------------------------------------------------------------------------


def test_the_page_of_nulls_says_what_the_notebooks_say():
    root = Path(__file__).parent.parent
    board = Scoreboard.from_notebooks(sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")))
    assert (root / "docs" / "nulls.md").read_text(encoding="utf-8") == nulls.page(board)


def test_a_broken_null_is_marked(page, monkeypatch):
    claim = ledger(page())["XX-01"]
    kept, broken = (
        nulls.lines_of(Row(claim, "01", "partly", {**MET, "broken": value})) for value in (0.2, 0.05)
    )
    assert kept == [
        "| XX-01 | `broken` | 0.2 ✔ | ≥ 0.1 | the gap of a broken method | `gap` 0.01 (≤ 0.02 nats) |"
    ]
    assert "0.05 ✘" in broken[0]


@pytest.mark.parametrize(
    "source, words",
    [
        ("P", "The paper itself"),
        ("P(excerpts)+D", "Word-for-word excerpts of the paper, and our own derivation or trial"),
        ("P; controls S", "The paper itself; controls: a secondary text"),
        ("P; MSE tie +D", "The paper itself; MSE tie: our own derivation or trial"),
        ("P(abstract)/(from memory)", "The paper's abstract alone, and in part from memory, without the text at hand"),
        ("P (IOI)", "The paper itself (IOI)"),
    ],
)  # fmt: skip
def test_where_a_claim_was_read_is_said_in_words(source, words):
    assert dataclasses.replace(claims.ledger()["MF-01"], source=source).how_read() == words


def test_no_claim_leaves_a_letter_for_its_reader():
    for claim in claims.ledger().values():
        said = claim.how_read()
        assert len(said) > 8 and not re.search(r"\b[PSD]\b(?!\))", said), (
            f"{claim.id}: {claim.source} → {said}"
        )


def test_readme_counts_what_the_notebooks_settle():
    root = Path(__file__).parent.parent
    board = Scoreboard.from_notebooks(sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")))
    readme = (root / "README.md").read_text(encoding="utf-8")
    ((claims_said, verdicts_said, parts),) = re.findall(
        r"settle (\d+) claims \((\d+) verdicts[^)]*\): ([^.]*)\.", readme
    )
    said = {word.rstrip("s"): int(n) for n, word in re.findall(r"(\d+) ([a-z ]+)", parts)}
    assert said == board.counts()
    assert (int(claims_said), int(verdicts_said)) == (
        len({row.claim.id for row in board.rows}),
        len(board.rows),
    )


def test_every_claim_that_fell_short_is_named_once_with_its_verdict():
    page = (Path(__file__).parent.parent / "docs" / "fell_short.md").read_text(encoding="utf-8")
    said = [
        (name, {"not": "not reproduced"}.get(verdict.strip(), verdict.strip()))
        for names, verdict in re.findall(r"^\| ([^|]*[A-Z]+-\d\d[^|]*)\|([^|]*)\|", page, re.MULTILINE)
        for name in re.findall(r"[A-Z]+-\d\d", names)
    ]
    short = {
        (claim.id, verdict)
        for claim in claims.ledger().values()
        for verdict in claim.verdict.values()
        if verdict in ("partly", "not reproduced")
    }
    assert set(said) == short
    assert len(said) == len(short)


@pytest.mark.parametrize("path", places.find(), ids=lambda path: path.name[:2])
def test_what_is_stored_of_a_claim_is_what_the_ledger_says_now(path):
    """A sentence that was changed in the ledger alone would differ from the notebook's next run."""
    nb = nbformat.read(path, as_version=4)
    outputs = [out for cell in nb.cells for out in cell.get("outputs", [])]
    shown = html.unescape("".join(out.get("data", {}).get("text/html", "") for out in outputs))
    for row in Scoreboard.from_notebooks([path]).rows:
        if row.verdict is not None:
            for name in ("claim", "run", "control", "why", "paper_value"):
                assert html.unescape(getattr(row.claim, name) or "") in shown, f"{row.claim.id}: {name}"
