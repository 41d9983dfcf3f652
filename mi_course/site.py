"""The offline site: every notebook as a page, and an index with the path and the claims.

nbconvert makes the pages; MathJax lies beside them, and the CircuitsVis library stands once in each page that
needs it, so that reading asks for nothing from outside.
"""

import hashlib
import html
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbconvert.exporters import HTMLExporter
from pygments.formatters import HtmlFormatter

from mi_course import claims, course

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #59616e; --paper: #fff; --panel: #f5f6f8; --rule: #d8dce3;
  --link: #0b57c2; --good: #17693a; --bad: #a3231b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ec; --soft: #a5adba; --paper: #15181d; --panel: #1f242b;
  --rule: #3a414c; --link: #8ab8ff; --good: #7bd49b; --bad: #ff9c94; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, sans-serif; }
main, header, footer { max-width: 60rem; margin: 0 auto; padding: 1rem 1.2rem; }
a { color: var(--link); } a:focus-visible, summary:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -100rem; } .skip:focus { position: static; }
h1 { line-height: 1.2; } h2 { margin-top: 2.2em; border-bottom: 1px solid var(--rule); }
.anchor-link { visibility: hidden; margin-left: .4em; text-decoration: none; }
:is(h1, h2, h3, h4):hover .anchor-link, .anchor-link:focus { visibility: visible; }
code { font: .9em ui-monospace, monospace; background: var(--panel); padding: .1em .25em; border-radius: 3px; }
pre { font: .86rem/1.45 ui-monospace, monospace; overflow-x: auto; margin: 0; padding: .7rem .9rem; }
pre code { padding: 0; background: none; }
.code_cell { margin-top: 1rem; }
.input_area { background: var(--panel); border: 1px solid var(--rule); border-radius: 6px; }
.output_area { margin: .5rem 0 1rem; overflow-x: auto; } .output_area pre { padding-left: .9rem; }
.prompt { display: none; }
img { max-width: 100%; height: auto; } figure { margin: 0; } figcaption, .soft { color: var(--soft); }
.scroll, .text_cell_render { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; } caption { text-align: left; color: var(--soft); }
th, td { border-bottom: 1px solid var(--rule); padding: .35em .7em; text-align: left; vertical-align: top; }
mjx-container { max-width: 100%; } mjx-container[display=true] { overflow-x: auto; overflow-y: hidden; min-width: 0 !important; }
details { background: var(--panel); border: 1px solid var(--rule); border-radius: 6px; padding: .4em .8em; margin: .6em 0; }
.id { white-space: nowrap; } .met { color: var(--good); } .missed { color: var(--bad); }
@media (max-width: 40rem) { .output_area table { width: max-content; max-width: 44rem; } }
@media print { nav, .anchor-link { display: none; } .input_area, .output_area { break-inside: avoid; } }
"""

# Formulas stand in text only: a dollar in an output or in a token is a dollar.
MATHJAX = """<script>MathJax = {
  tex: { inlineMath: [["$", "$"]], processEscapes: true },
  options: { enableMenu: false, ignoreHtmlClass: "mi-page", processHtmlClass: "text_cell_render" } };</script>
<script defer src="mathjax.js"></script>"""

OUTSIDE_IMAGE = re.compile(r'<img\b[^>]*\bsrc="https?:[^>]*>')  # a badge: its words will do

PAGE = """<!doctype html>
<html lang="en-GB"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,"><style>{style}</style>{head}</head>
<body><a class="skip" href="#content">Skip to content</a>
<header><nav aria-label="Course">{nav}</nav></header>
<main id="content" class="mi-page">
{body}
</main></body></html>
"""


def build() -> str:
    """Write build/scoreboard.json and build/site/; return the scoreboard and where the site is, as text."""
    folder = course.root() / "build"
    pages = [newest(path) for path in course.find()]
    board = claims.Scoreboard.from_notebooks(pages)
    course.write(folder / "scoreboard.json", board.to_json())
    notebooks = [nbformat.read(path, as_version=4) for path in pages]
    names = [path.stem for path in pages]
    for number, (name, nb) in enumerate(zip(names, notebooks)):
        around = (
            names[number - 1] if number else None,
            names[number + 1] if number + 1 < len(names) else None,
        )
        course.write(folder / "site" / f"{name}.html", page_of(nb, name, around))
    shutil.copy(claims.data_dir() / "site" / "mathjax.js", folder / "site")
    gallery = (
        feature_gallery(folder / "site" / "features") if any(n.startswith("05") for n in names) else None
    )
    course.write(
        folder / "site" / "index.html", index(dict(zip(names, notebooks)), board, gallery is not None)
    )
    return f"{board}\n\nThe site: {(folder / 'site' / 'index.html').as_uri()}"


def newest(path: Path) -> Path:
    """The copy that was executed last, or the stored notebook where that is newer."""
    executed = course.root() / "build" / "notebooks" / path.name
    return executed if executed.exists() and executed.stat().st_mtime >= path.stat().st_mtime else path


# --- one notebook ----------------------------------------------------------------------------------


def page_of(nb: nbformat.NotebookNode, name: str, around: tuple[str | None, str | None]) -> str:
    """A notebook as a page that stands alone."""
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(nb)
    body = OUTSIDE_IMAGE.sub(lambda image: (re.search(r'alt="([^"]*)"', image[0]) or ["", ""])[1], body)
    before, after = (f'<a href="{other}.html">{other}</a>' if other else "" for other in around)
    nav = f'<a href="index.html">mi_course</a> {before and "· ← " + before} {after and "· " + after + " →"}'
    head = MATHJAX
    if "globalThis.CircuitsVis" in body:
        from mi_course.plots import circuitsvis_script

        head += circuitsvis_script()
    return PAGE.format(
        title=html.escape(title_of(nb, name)), style=STYLE + _code_colours(), head=head, nav=nav, body=body
    )


def _code_colours() -> str:
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n.highlight {{ background: none !important }}"


# --- the index -------------------------------------------------------------------------------------


def title_of(nb: nbformat.NotebookNode, name: str) -> str:
    """The first `# heading`."""
    for cell in nb.cells:
        if cell.cell_type == "markdown" and (heading := re.search(r"^# +(.+)", cell.source, re.MULTILINE)):
            return heading[1].strip()
    return name


def question_of(nb: nbformat.NotebookNode) -> str:
    """The first sentence in the opening cells that asks something."""
    opening = "\n\n".join(cell.source for cell in nb.cells[:5] if cell.cell_type == "markdown")
    plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)|[*_#>]", r"\1", opening)
    asked = re.search(r"[^.?!:\n][^.?!\n]*(?:\n[^.?!\n]+)*\?", plain)
    return " ".join(asked[0].split()) if asked else ""


def measured_of(nb: nbformat.NotebookNode) -> str:
    """What the notebook says about its own seconds and memory."""
    said = course.MEASURED.search("\n".join(cell.source for cell in nb.cells[:5]))
    return said[1] if said else ""


def inline(text: str) -> str:
    """A line of markdown as HTML, as far as titles and questions go: `code` and nothing else."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def index(
    notebooks: dict[str, nbformat.NotebookNode], board: claims.Scoreboard, gallery: bool = False
) -> str:
    """The path through the course, and every claim with its verdict and numbers."""
    path = "".join(
        f'<tr><th scope="row"><a href="{name}.html">{inline(title_of(nb, name))}</a></th>'
        f"<td>{inline(question_of(nb))}</td><td>{html.escape(measured_of(nb))}</td></tr>"
        for name, nb in notebooks.items()
    )
    titles = {name[:2]: name for name in notebooks}
    settled = "".join(
        _claim_row(row, titles[row.notebook], notebooks[titles[row.notebook]]) for row in board.rows
    )
    counts = " · ".join(f"{times} {verdict}" for verdict, times in board.counts().items())
    body = (
        "<h1>mi_course</h1><p>Mechanistic interpretability from the bottom up: each notebook asks one question, "
        "answers it on a model small enough to hold in the head, and settles what the papers claim.</p>"
        "<h2 id='path'>The path</h2>"
        + _table(["notebook", "question", "measured"], path)
        + (
            "<p><a href='features/index.html'>The features</a> of notebook 05, a page each.</p>"
            if gallery
            else ""
        )
        + f"<h2 id='claims'>The claims</h2><p>{len(board.rows)} claims: {html.escape(counts)}. ★ marks a core claim. "
        "A verdict follows from the bounds, which were written down before the run.</p>"
        + _table(["claim", "in our words", "verdict", "measured (bound)", "where"], settled)
    )
    nav = '<a href="#path">The path</a> · <a href="#claims">The claims</a>'
    return PAGE.format(title="mi_course", style=STYLE, head="", nav=nav, body=body)


def _table(names: list[str], rows: str) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    return f"<div class='scroll'><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"


def _claim_row(row: claims.Row, name: str, nb: nbformat.NotebookNode) -> str:
    claim, verdict = row.claim, row.verdict or "open"
    asked = claim.measures_of(row.notebook)
    numbers = "<br>".join(
        f"{html.escape(measure)} {claims._shown(value)} ({html.escape(asked[measure].shown_bound())})"
        for measure, value in row.measures.items()
        if measure in asked
    )
    why = f"<p class='soft'>{html.escape(claim.why)}</p>" if claim.why else ""
    tone = {"reproduced": "met", "toy analogue": "met", "not reproduced": "missed"}.get(verdict, "")
    cell = settling_cell(nb, claim.id)
    where = f"{name}.html#cell-id={cell}" if cell else f"{name}.html"
    return (
        f'<tr id="{claim.id}-{row.notebook}"><th scope="row" class="id">{claim.id}{" ★" if claim.core else ""}</th>'
        f"<td>{html.escape(claim.claim)}<br><a href='{html.escape(claim.paper.url)}'>{html.escape(claim.paper.cite())}</a>"
        f"<span class='soft'>, {html.escape(claim.where)}</span></td>"
        f'<td class="{tone}">{claims.MARKS.get(verdict, "·")} {verdict}</td><td>{numbers}{why}</td>'
        f'<td><a href="{where}">notebook {row.notebook}</a></td></tr>'
    )


def settling_cell(nb: nbformat.NotebookNode, claim: str) -> str | None:
    """The id of the cell whose output settles this claim."""
    for cell in nb.cells:
        outputs = json.dumps(cell.get("outputs", []))
        if "data-mi-claim" in outputs and f"&quot;claim&quot;: &quot;{claim}&quot;" in outputs:
            return cell.id
    return None


# --- the features of notebook 05 -------------------------------------------------------------------

GALLERY = ("sae-512-l3", "sae-2048-l3")


def feature_gallery(folder: Path) -> Path | None:
    """A page for chosen features of two shipped autoencoders; kept while autoencoders, Python and code stay the same."""
    from mi_course import features, models

    shipped = [name for name in GALLERY if name in models.checkpoint_names("sae")]
    if not shipped:
        return None
    cards = [(claims.data_dir() / "checkpoints" / f"{name}.json").read_bytes() for name in shipped]
    made_of = hashlib.sha256(
        b"".join([*cards, Path(features.__file__).read_bytes(), sys.version.encode()])
    ).hexdigest()
    stamp, index = folder / "made_of.txt", folder / "index.html"
    if stamp.exists() and stamp.read_text() == made_of and index.exists():
        return index
    pages = [page for name in shipped for page in feature_pages(name)]
    wrap = lambda title, nav, body: PAGE.format(
        title=html.escape(title), style=STYLE, head="", nav=nav, body=body
    )
    features.gallery(pages, folder, wrap=wrap, home='<a href="../index.html">mi_course</a>')
    stamp.write_text(made_of)
    return index


def feature_pages(name: str, per_script: int = 2, others: int = 10) -> list:
    """Pages for the features that follow each script best, and for some others, from rare to frequent."""
    from mi_course import features, models, sae, scripts

    autoencoder, corpus = sae.SparseAutoencoder.load(name).requires_grad_(False), scripts.script_text()
    model = models.load(autoencoder.card["model"]).requires_grad_(False)
    first = features.record(autoencoder, model, corpus, windows=150)
    alive = (first.density > 0).nonzero()[:, 0]
    ranked = alive[first.density[alive].argsort()]
    spread = ranked[[len(ranked) * k // others for k in range(others)]].tolist()
    of_scripts = first.proxies.topk(per_script, dim=0).indices.T.flatten().tolist()
    chosen = list(dict.fromkeys([*of_scripts, *spread]))
    recording = features.record(autoencoder, model, corpus, chosen)
    return [features.feature_page(autoencoder, model, corpus, i, recording=recording) for i in chosen]
