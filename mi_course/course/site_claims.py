"""The claims on the site: a page for each paper, with a way to the cell that settles a claim, and back."""

import html
import json
import re
from typing import TYPE_CHECKING

import jinja2

from mi_course import claims
from mi_course.course.site_parts import Record, render

if TYPE_CHECKING:
    from mi_course.course.site import Page


ID = re.compile(r"\b[A-Z]{1,4}-\d\d\b")
OF_TABLE = re.compile(r"(<th scope='row'[^>]*>)([A-Z]{1,4}-\d\d)(?= ★|<)")
READ = {"P": "the paper", "S": "a secondary text", "D": "our derivation"}  # legend: data/README.md


def address(claim: claims.Claim) -> str:
    """Where a claim stands on the site."""
    return f"paper-{claim.paper.key}.html#{claim.id}"


def with_claims(text: str) -> str:
    """Words in which every id of a claim or a correction leads to it."""
    return ID.sub(lambda found: link(found[0]), text)


def link(id: str) -> str:
    """The id as a link, or as it was where it is no claim's."""
    known = claims.ledger().get(id)
    to = address(known) if known else f"corrections.html#{id}" if id in claims.corrections() else None
    return f'<a href="{to}">{id}</a>' if to else id


def with_ways_back(output: str) -> str:
    """A cell's output with links to the page of the claim it settles, and from a table of verdicts."""
    output = OF_TABLE.sub(lambda found: found[1] + link(found[2]), output)
    return claims.PAYLOAD.sub(lambda found: found[0] + to_ledger(found[1]), output)


def to_ledger(written: str) -> str:
    claim = claims.claim_of(json.loads(html.unescape(written))["claim"])
    return f'<p><a href="{address(claim)}">{claim.id} among the claims of {html.escape(claim.paper.cite())}</a></p>'


def cells(pages: list["Page"]) -> dict[tuple[str, str], str]:
    """(claim, notebook) → the address of the cell that settles it."""
    found: dict[tuple[str, str], str] = {}
    for page in pages:
        for cell in page.nb.cells:
            views = ["".join(out.get("data", {}).get("text/html", "")) for out in cell.get("outputs", [])]
            for written in claims.PAYLOAD.findall("".join(views)):
                id = json.loads(html.unescape(written))["claim"]
                found.setdefault((id, page.number), f"{page.name}.html#cell-id={cell.id}")
    return found


def shown(row: claims.Row, measure: claims.Measure) -> str:
    return claims.shown_value(row.measures[measure.name]) if measure.name in row.measures else "–"


def met(row: claims.Row, measure: claims.Measure) -> str:
    kept = measure.met(row.measures[measure.name]) if measure.name in row.measures else None
    return {True: "✔ yes", False: "✘ no", None: "–"}[kept]


def source(said: str) -> str:
    """How we read it, with the legend's letters as words."""
    words = re.sub(r"\b[PSD]\b", lambda letter: READ[letter[0]], said)
    return words.replace("paper(", "paper (").replace("+", " + ")


def pages(templates: jinja2.Environment, notebooks: list["Page"], board: claims.Scoreboard) -> dict[str, str]:
    """File name → page: the claims, what is often said, and each paper."""
    by_number, where = {page.number: page for page in notebooks}, cells(notebooks)
    cell = lambda row: where.get((row.claim.id, row.notebook), f"{by_number[row.notebook].name}.html")
    words = {"address": address, "cell": cell, "pages": by_number, "ledger": claims.ledger()}
    words |= {"shown": shown, "met": met, "source": source}
    make = lambda template, name, title, **more: render(templates, template, name, title, **words, **more)
    entries, rows = claims.corrections().values(), rows_of(board)
    said = {id: [entry for entry in entries if id in entry.claims] for id in claims.ledger()}
    found = {"claims.html": make("claims", "claims.html", "The claims", **overview(notebooks, board))}
    found["corrections.html"] = make("corrections", "corrections.html", "Often said", corrections=entries)
    for key, group in by_paper().items():
        name, paper = f"paper-{key}.html", group[0].paper
        of_paper = {"paper": paper, "claims": group, "rows": rows, "said": said}
        found[name] = make("paper", name, paper.title, **of_paper)
    return found


def overview(notebooks: list["Page"], board: claims.Scoreboard) -> dict:
    """The claims by notebook and by paper, and how often each verdict was reached."""
    counts = " · ".join(f"{times} {verdict}" for verdict, times in board.counts().items())
    return {
        "settled": [(page, [r for r in board.rows if r.notebook == page.number]) for page in notebooks],
        "papers": [(group[0].paper, len(group)) for group in by_paper().values()],
        "counts": f"{len({row.claim.id for row in board.rows})} claims: {counts}",
    }


def by_paper() -> dict[str, list[claims.Claim]]:
    """The claims of each paper, from the oldest paper to the newest."""
    found: dict[str, list[claims.Claim]] = {}
    for claim in sorted(claims.ledger().values(), key=lambda claim: (claim.paper.year, claim.paper.key)):
        found.setdefault(claim.paper.key, []).append(claim)
    return found


def rows_of(board: claims.Scoreboard) -> dict[str, list[claims.Row]]:
    """Every claim's rows, also those of notebooks that are not written yet."""
    known = {(row.claim.id, row.notebook): row for row in board.rows}
    return {
        claim.id: [known.get((claim.id, n)) or claims.Row(claim, n) for n in claim.notebooks]
        for claim in claims.ledger().values()
    }


def records() -> list[Record]:
    """What the search knows of claims and of what is often said."""
    found = []
    for claim in claims.ledger().values():
        text = f"{claim.claim} {claim.paper.cite()} {claim.paper.title} {claim.where}"
        found.append(Record(f"Claim {claim.id}", address(claim), text, "claim"))
    for entry in claims.corrections().values():
        place = f"corrections.html#{entry.id}"
        found.append(Record(f"Often said {entry.id}", place, f"{entry.says} {entry.papers}", "often said"))
    return found
