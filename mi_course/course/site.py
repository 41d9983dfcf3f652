"""The offline site: every notebook as a page, the claims, a glossary, the features, and a search over all of them.

nbconvert makes the pages of the notebooks, Jinja the pages around them, from the templates in `data/site/templates`.
What several pages need (style, MathJax, CircuitsVis, the search) lies beside them once, so that reading asks for
nothing from outside.
"""

import hashlib
import json
import re
import shutil
import sys
from collections import Counter
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jinja2
import nbformat
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import markdown2html as markdown
from pygments.styles import get_style_by_name
from pygments.token import STANDARD_TYPES

from mi_course import claims, files
from mi_course.course import notebooks, places, site_claims, site_glossary
from mi_course.course.site_parts import Record, change_words, environment, plain, render, words_of
from mi_course.errors import CourseError

SHIPPED = ("site.js", "search.js", "minisearch.js", "mathjax.js")
OUTSIDE_IMAGE = re.compile(r'<img\b[^>]*\bsrc="https?:[^>]*>')  # a badge: its words will do
TO_NOTEBOOK = re.compile(r'href="(?:\.\./)?(?:notebooks/)?(\d\d_\w+)\.ipynb(#[^"]*)?"')
TO_DOCUMENT = re.compile(r'href="(?:docs/)?([\w-]+)\.md(#[^"]*)?"')
TO_FILE = re.compile(r'href="(?:\.\./)*(?!(?:[\w-]+\.html|[a-z]+:)|[#"/])([^"]+)"')
HEADING = re.compile(r'<h(\d) id="[^"]*">(.*?)<a class="anchor-link" href="[^"]*"', re.DOTALL)
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)\n *### END SOLUTION", re.DOTALL | re.MULTILINE)


@dataclass
class Page:
    """One notebook, and what its opening says."""

    name: str
    nb: nbformat.NotebookNode
    counts: dict[str, int] = field(default_factory=dict)  # verdict → how often

    def __post_init__(self):
        self.title, self.question = title_of(self.nb, self.name), question_of(self.nb)
        self.measured = measured_of(self.nb)

    @property
    def number(self) -> str:
        return self.name[:2]


def build(out: str | Path | None = None) -> str:
    """Write build/scoreboard.json and the site (to build/site, or `out`); return the scoreboard and where the site is, as text."""
    paths = [newest(path) for path in places.find()]
    if not paths:
        raise CourseError(
            f"There is nothing to show: {places.root() / 'notebooks'} has no notebook NN_name.ipynb."
        )
    board = claims.Scoreboard.from_notebooks(paths)
    folder = Path(out) if out else places.root() / "build" / "site"
    places.write(places.root() / "build" / "scoreboard.json", board.to_json())
    write_site(folder, read_pages(paths, board), board)
    return f"{board}\n\nThe site: {(folder.resolve() / 'index.html').as_uri()}"


def newest(path: Path) -> Path:
    """The copy that was executed last, or the stored notebook where that is newer."""
    executed = places.root() / "build" / "notebooks" / path.name
    return executed if executed.exists() and executed.stat().st_mtime >= path.stat().st_mtime else path


def read_pages(paths: list[Path], board: claims.Scoreboard) -> list[Page]:
    pages = [Page(path.stem, nbformat.read(path, as_version=4)) for path in paths]
    for page in pages:
        page.counts = dict(
            Counter(row.verdict or "open" for row in board.rows if row.notebook == page.number)
        )
    return pages


def write_site(folder: Path, notebooks: list[Page], board: claims.Scoreboard) -> None:
    """All pages, and beside them what they share."""
    features = feature_pages() if any(page.number == "05" for page in notebooks) else []
    templates, documents = environment(bool(features)), document_pages()
    around = zip([None, *notebooks], notebooks, [*notebooks[1:], None])
    made = {page.name: notebook_page(templates, page, before, after) for before, page, after in around}
    texts = {f"{name}.html": text for name, (text, _) in made.items()}
    texts |= site_claims.pages(templates, notebooks, board)
    texts["glossary.html"] = site_glossary.page(templates, {name: used for name, (_, used) in made.items()})
    for document in documents:
        words = {"body": document.body, "formulas": "$" in document.body}
        texts[document.address] = render(templates, "page", document.address, document.title, **words)
    texts["index.html"] = index(templates, notebooks, documents, board, bool(features))
    texts["search.html"] = render(templates, "search", "search.html", "Search")
    texts["search-data.js"] = search_data(all_records(notebooks, documents, features))
    for name, text in texts.items():
        places.write(folder / name, text)
    write_features(folder / "features", features, templates)
    share(folder)


def index(templates, notebooks: list[Page], documents: list, board: claims.Scoreboard, gallery: bool) -> str:
    """The path through the course, and what else there is."""
    counts = {"settled": len({row.claim.id for row in board.rows}), "terms": len(site_glossary.glossary())}
    counts |= {"papers": len({row.claim.paper.key for row in board.rows})}
    counts |= {"corrections": len(claims.corrections())}
    shelf = {"notebooks": notebooks, "docs": documents, "gallery": gallery, **counts}
    return render(templates, "index", "index.html", "mi_course", **shelf)


def share(folder: Path) -> None:
    """What all pages need, once."""
    from mi_course.plots import circuitsvis_script

    shipped = files.data_dir() / "site"
    for name in SHIPPED:
        shutil.copyfile(shipped / name, folder / name)
    style = (shipped / "style.css").read_text(encoding="utf-8")
    places.write(folder / "style.css", f"{style}\n{code_colours()}\n")
    library = circuitsvis_script().removeprefix("<script>").removesuffix("</script>")
    places.write(folder / "circuitsvis.js", library)


def code_colours() -> str:
    """The colours of code, each as a pair for light and dark."""
    light, dark = get_style_by_name("default"), get_style_by_name("github-dark")
    lines = []
    for token, name in STANDARD_TYPES.items():
        pair = [style.style_for_token(token)["color"] for style in (light, dark)]
        if name and any(pair):
            one, other = (f"#{colour}" if colour else "currentColor" for colour in pair)
            lines.append(f".highlight .{name} {{ color: light-dark({one}, {other}); }}")
    return "\n".join(lines)


def notebook_page(
    templates: jinja2.Environment, page: Page, before: Page | None = None, after: Page | None = None
) -> tuple[str, set[str]]:
    """A notebook as a page, and the glossary's terms that it uses."""
    exporter, nb = Exporter(), deepcopy(page.nb)
    for output in (output for cell in nb.cells for output in cell.get("outputs", [])):
        if "text/html" in output.get("data", {}):
            output.data["text/html"] = site_claims.with_ways_back(output.data["text/html"])
    body = local_links(exporter.from_notebook_node(nb)[0])
    contents = [
        (record.address.split("#")[1], record.title)
        for record in notebook_records(page, level=2)
        if "#" in record.address
    ]
    words = {"body": body, "sections": contents, "before": before, "after": after, "formulas": "$" in body}
    words["views"] = "globalThis.CircuitsVis" in body
    text = render(templates, "notebook", f"{page.name}.html", page.title, **words)
    return text, exporter.used


class Exporter(HTMLExporter):
    """nbconvert's, with folded solutions, and with links from a page's words to claims and glossary."""

    def __init__(self):
        folder = files.data_dir() / "site" / "templates"
        super().__init__(template_name="cells", extra_template_basedirs=[str(folder)])
        self.used: set[str] = set()
        self.register_filter("markdown2html", self.words)
        self.register_filter("without_solution", lambda source: SOLUTION.sub(r"\1...", source))
        self.register_filter("solved", lambda source: SOLUTION.sub(r"\2", source))

    def words(self, source: str) -> str:
        link = lambda text: site_claims.with_claims(site_glossary.with_terms(text, self.used))
        return change_words(markdown(source), link)


def local_links(body: str) -> str:
    """Links between notebooks and documents as links between pages; a picture from outside becomes its words."""
    body = OUTSIDE_IMAGE.sub(lambda image: (re.search(r'alt="([^"]*)"', image[0]) or ["", ""])[1], body)
    body = TO_NOTEBOOK.sub(lambda to: f'href="{to[1]}.html{to[2] or ""}"', body)
    return TO_DOCUMENT.sub(lambda to: f'href="doc-{to[1]}.html{to[2] or ""}"', body)


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
    said = notebooks.MEASURED.search("\n".join(cell.source for cell in nb.cells[:5]))
    return said[1] if said else ""


@dataclass(frozen=True)
class Document:
    """One page of docs/."""

    address: str
    title: str
    body: str


def document_pages() -> list[Document]:
    """docs/*.md as pages; what they link to in the repository is linked where the course lives."""
    paths = sorted((places.root() / "docs").glob("*.md"))
    place = places.settings()["tool"]["mi-course"] if paths else {}
    return [document(path.stem, path.read_text(encoding="utf-8"), place) for path in paths]


def document(name: str, source: str, place: dict[str, str]) -> Document:
    there = "https://github.com/{owner}/{repo}/blob/{branch}".format(**place)
    body = TO_FILE.sub(lambda to: f'href="{there}/{to[1]}"', local_links(markdown(source)))
    body = change_words(HEADING.sub(as_on_github, body), site_claims.with_claims)
    title = re.search(r"^# +(.+)", source, re.MULTILINE)
    said = title[1].strip() if title else name
    return Document(f"doc-{name}.html", said, f'<div class="text_cell_render">{body}</div>')


def as_on_github(heading: re.Match) -> str:
    """A heading with the anchor GitHub gives it, so that links within and between documents hold in both places."""
    anchor = re.sub(r"[^\w\- ]", "", words_of(heading[2]).lower()).replace(" ", "-")
    return f'<h{heading[1]} id="{anchor}">{heading[2]}<a class="anchor-link" href="#{anchor}"'


def all_records(notebooks: list[Page], documents: list, features: list) -> list[Record]:
    """Everything that can be found."""
    found = [record for page in notebooks for record in notebook_records(page)]
    for document in documents:
        found += sections(document.body, document.address, document.title, "for teachers")
    return [*found, *site_claims.records(), *site_glossary.records(), *feature_records(features)]


def notebook_records(page: Page, level: int = 3) -> list[Record]:
    """The sections of a notebook, with its words and its code."""
    source = "\n\n".join(
        cell.source if cell.cell_type == "markdown" else f"\n```\n{cell.source}\n```\n"
        for cell in page.nb.cells
    )
    return sections(markdown(source), f"{page.name}.html", page.title, "notebook", level)


def sections(body: str, address: str, title: str, kind: str, level: int = 3) -> list[Record]:
    """A record for each heading down to `level`; the first one is the page itself."""
    found = []
    for part in re.split(rf"(?=<h[2-{level}] id=)", body):
        anchor = re.match(rf'<h[2-{level}] id="([^"]*)">(.*?)<a class="anchor-link"', part, re.DOTALL)
        name = words_of(anchor[2]) if anchor else plain(title)
        place = f"{address}#{anchor[1]}" if anchor else address
        found.append(Record(name, place, words_of(part), kind))
    return found


def feature_records(pages: list) -> list[Record]:
    from mi_course.sae.pages import file_name

    return [
        Record(
            f"Feature {page.feature}: {page.label}",
            f"features/{file_name(page)}",
            f"{page.of} {page.label} {' '.join(page.tokens)}",
            "feature",
        )
        for page in pages
    ]


def search_data(records: list[Record]) -> str:
    """A script, not JSON: a page opened from a disk may not fetch."""
    rows = [{"id": number, **asdict(record)} for number, record in enumerate(records)]
    return f"globalThis.RECORDS = {json.dumps(rows, ensure_ascii=False)};\n"


GALLERY = ("sae-512-l3", "sae-2048-l3")


def feature_pages() -> list:
    """Pages for chosen features of the shipped autoencoders; kept while autoencoders, Python and code stay the same."""
    from mi_course.sae import pages as features

    shipped = [name for name in GALLERY if name in files.checkpoint_names("sae")]
    cards = [(files.data_dir() / "checkpoints" / f"{name}.json").read_bytes() for name in shipped]
    code = [Path(features.__file__).read_bytes(), sys.version.encode()]
    made_of = hashlib.sha256(b"".join([*cards, *code])).hexdigest()
    kept = places.root() / "build" / "features.json"
    if kept.exists() and (found := json.loads(kept.read_text(encoding="utf-8")))["made_of"] == made_of:
        tuples = lambda page: {key: tuple(v) if isinstance(v, list) else v for key, v in page.items()}
        return [features.FeaturePage(**tuples(page)) for page in found["pages"]]
    pages = [page for name in shipped for page in chosen_features(name)]
    places.write(kept, json.dumps({"made_of": made_of, "pages": [asdict(page) for page in pages]}))
    return pages


def chosen_features(name: str, per_script: int = 2, others: int = 10) -> list:
    """Pages for the features that follow each script best, and for some others, from rare to frequent."""
    from mi_course import models, sae
    from mi_course.corpora import scripts
    from mi_course.sae import pages as features

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


def write_features(folder: Path, pages: list, templates: jinja2.Environment) -> None:
    from mi_course.sae import pages as features

    if pages:
        wrap = lambda title, nav, body: render(
            templates,
            "page",
            "features/index.html" if title == "Features" else "features/",
            title,
            body=f'<nav aria-label="Features">{nav}</nav>{body}' if nav else body,
        )
        features.gallery(pages, folder, wrap=wrap)
