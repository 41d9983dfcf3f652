"""A claim leads to its cell and its paper, and its cell leads back."""

import re

import nbformat
import pytest

from mi_course import claims
from mi_course.course import site, site_claims, site_parts
from tests.conftest import notebook

GOOD = {"==": lambda b: b, "<=": lambda b: b, ">=": lambda b: b, "<": lambda b: b - 1, ">": lambda b: b + 1}
GOOD |= {"between": lambda b: b[0], "report": lambda b: 1.0}


@pytest.fixture
def tour():
    """Notebook 00 with the claim MF-02 settled in its second cell, and the scoreboard that follows."""
    claim = claims.claim_of("MF-02")
    values = {name: GOOD[m.op](m.bound) for name, m in claim.measures_of("00").items()}
    settled = claims.Settled(claim, "00", values)
    nb = notebook("# Tour", "settle")
    nb.cells[1].outputs = [
        nbformat.v4.new_output("execute_result", data={"text/html": settled._repr_html_()})
    ]
    return site.Page("00_tour", nb), claims.Scoreboard((claims.Row(claim, "00", settled.verdict, values),))


def test_words_lead_to_claims_and_corrections():
    assert site_claims.with_claims("see MF-01.") == 'see <a href="paper-elhage2021.html#MF-01">MF-01</a>.'
    assert 'href="corrections.html#S-01"' in site_claims.with_claims("(S-01)")
    assert site_claims.with_claims("ISO-99, AMF-01x, MF-011") == "ISO-99, AMF-01x, MF-011"


def test_a_settled_claim_and_a_table_of_verdicts_lead_to_the_ledger(tour):
    page, _ = tour
    output = site_claims.with_ways_back(page.nb.cells[1].outputs[0].data["text/html"])
    assert 'href="paper-elhage2021.html#MF-02">MF-02 among the claims of Elhage et al. 2021<' in output
    table = site_claims.with_ways_back(claims.verdicts("00")._repr_html_())
    mine = [claim for claim in claims.ledger().values() if "00" in claim.notebooks]
    assert [f'href="{site_claims.address(claim)}"' in table for claim in mine] == [True] * len(mine)


def test_the_pages_of_the_papers_hold_every_claim_and_only_link_to_what_is_there(tour):
    page, board = tour
    made = site_claims.pages(site_parts.environment(), [page], board)
    for claim in claims.ledger().values():
        assert f'id="{claim.id}"' in made[f"paper-{claim.paper.key}.html"]
    cell = f'href="00_tour.html#cell-id={page.nb.cells[1].id}"'
    assert cell in made["claims.html"] and cell in made["paper-elhage2021.html"]
    assert "notebook 01 is not written yet" in made["paper-elhage2021.html"]
    for correction in claims.corrections():
        assert f'id="{correction}"' in made["corrections.html"]
    everywhere = {*made, "00_tour.html", "index.html", "style.css", "site.js", "glossary.html", "search.html"}
    for text in made.values():
        links = re.findall(r'(?:href|src|action)="([^"#:]+)[#"]', text)
        assert set(links) <= everywhere, set(links) - everywhere


def test_numbers_stand_beside_their_bounds(tour):
    page, board = tour
    row = board.rows[0]
    (bounded,) = [m for m in row.claim.measures if m.notebook == "00" and m.op == "<="]
    assert site_claims.met(row, bounded) == "✔ yes" and site_claims.shown(row, bounded) == "1e-05"
    missed = claims.Row(row.claim, "00", "not reproduced", {**row.measures, bounded.name: 1.0})
    assert site_claims.met(missed, bounded) == "✘ no"
    planned = claims.Row(row.claim, "00")
    assert site_claims.met(planned, bounded) == site_claims.shown(planned, bounded) == "–"


def test_how_a_paper_was_read_is_said_in_words():
    assert site_claims.source("P+D") == "the paper + our derivation"
    assert site_claims.source("P(excerpts)") == "the paper (excerpts)"
    assert site_claims.source("(from memory)") == "(from memory)"
