"""What the site needs beyond Sphinx: sources staged from notebooks and ledger, words that lead to claims and glossary.

The staged folder looks like the repository (`docs/`, `notebooks/`), so that a relative link holds on GitHub and here;
`claims/` and `features/` are written into it from the ledger, the scoreboard and the shipped autoencoders.
"""

import functools
import html
import importlib
import io
import json
import re
import shutil
from base64 import b64decode
from collections import Counter
from pathlib import Path

import jinja2
import nbformat
from docutils import nodes
from nbformat.v4 import new_markdown_cell
from PIL import Image
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from mi_course import claims, files
from mi_course.claims.ledger import shown_value
from mi_course.course import places, site

ID = re.compile(r"\b(?:[A-Z]{1,4}-\d\d)\b")
OF_TABLE = re.compile(r"(<th scope='row'[^>]*>)([A-Z]{1,4}-\d\d)(?= ★|<)")
BADGE = re.compile(r"\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)\n*")
LINK = re.compile(r"(?<!!)(\]\()(?!\w+:|#)([^)\s#]+)((?:#[^)\s]*)?\))")
PICTURE = re.compile(r'<img alt="([^"]*)"[^>]*src="data:image/png;base64,([^"]+)"')
READ = {"P": "the paper", "S": "a secondary text", "D": "our derivation"}  # legend: data/README.md
UNTOUCHED = (nodes.literal, nodes.literal_block, nodes.reference, nodes.title, nodes.raw, addnodes.pending_xref,
             nodes.term, nodes.rubric, addnodes.desc_signature)  # fmt: skip
# --- the sources -----------------------------------------------------------------------------------


def stage(app: Sphinx, config) -> None:
    """Write every source under `app.srcdir`; what did not change keeps its date, and Sphinx passes over it."""
    folder, root, docs = Path(app.srcdir), places.root(), Path(app.confdir)
    paths = [site.newest(path) for path in places.find()]
    board = claims.Scoreboard.from_notebooks(paths)
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    made = {f"notebooks/{name}.ipynb": nbformat.writes(shown(nb, name[:2])) for name, nb in notebooks.items()}
    made |= {f"docs/{page.relative_to(docs)}": page.read_text("utf-8") for page in docs.rglob("*.md") if "_pages" not in page.parts}
    made |= claim_pages(docs, notebooks, board) | feature_pages(notebooks) | api_pages()
    words = front(notebooks, board, folder)
    made["index.md"] = environment(docs).get_template("index.md").render(words)
    for name in list(made):
        if name.endswith(".md") and name.startswith("docs/"):
            made[name] = LINK.sub(lambda to, at=name: to_repository(to, root, at, made), made[name])
    for old in [*folder.rglob("*.md"), *folder.rglob("*.ipynb")]:
        if str(old.relative_to(folder)) not in made:
            old.unlink()
    for name, text in made.items():
        if not (folder / name).exists() or (folder / name).read_text("utf-8") != text:
            files.write(folder / name, text)


def to_repository(to: re.Match, root: Path, name: str, made: dict[str, str]) -> str:
    """A link to a file that is no page here leads to where the course lives; one to nothing is left for Sphinx to name."""
    there = (root / name).parent.joinpath(to[2]).resolve()
    inside = there.is_relative_to(root.resolve()) and there.exists()
    if not inside or there.relative_to(root.resolve()).as_posix() in made:
        return to[0]
    place = places.settings()["tool"]["mi-course"]
    github = "https://github.com/{owner}/{repo}/{kind}/{branch}/".format(kind="tree" if there.is_dir() else "blob", **place)
    return f"{to[1]}{github}{there.relative_to(root.resolve()).as_posix()}{to[3]}"


def shown(nb: nbformat.NotebookNode, number: str) -> nbformat.NotebookNode:
    """A notebook as its page shows it: solutions folded, claims linked from the cells that settle them, no set-up."""
    nb, cells = nbformat.from_dict(nb), []
    titled = False
    for cell in nb.cells:
        tags = cell.metadata.setdefault("tags", [])
        if cell.cell_type == "markdown":
            cell.source = BADGE.sub("", cell.source)
            cell.source = re.sub(r"^# ", "## " if titled else "# ", cell.source, flags=re.MULTILINE)
            titled = titled or cell.source.startswith("# ")
            cells.append(cell)
            continue
        if "setup" in tags:
            tags.append("remove-cell")
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            tags.append("hide-input")
        settled = settled_in(cell)
        if settled:
            cells.append(new_markdown_cell("".join(f"({id.lower()}-in-{number})=\n" for id in settled)))
        cells += with_folded_solution(cell)
        if settled:
            ways = ", ".join(f"[{id}](#{id.lower()})" for id in settled)
            cells.append(new_markdown_cell(f"Among the claims of {claims.claim_of(settled[0]).paper.cite()}: {ways}."))
    nb.cells = cells
    return nb


def with_folded_solution(cell: nbformat.NotebookNode) -> list:
    """The exercise as a learner gets it, and below it one solution to unfold."""
    if not site.SOLUTION.search(cell.source):
        return [cell]
    solution = site.SOLUTION.sub(r"\2", cell.source)
    cell.source = site.SOLUTION.sub(r"\1...", cell.source)
    fold = f":::{{dropdown}} One solution\n:class-container: solution\n\n```python\n{solution}\n```\n:::"
    return [cell, new_markdown_cell(fold)]


def settled_in(cell: nbformat.NotebookNode) -> list[str]:
    """The claims this cell settles; its tables of verdicts get their links on the way."""
    found = []
    for output in cell.outputs:
        if view := "".join(output.get("data", {}).get("text/html", "")):
            found += [json.loads(html.unescape(written))["claim"] for written in claims.PAYLOAD.findall(view)]
            output.data["text/html"] = OF_TABLE.sub(lambda of: f"{of[1]}{to_claim(of[2])}", view)
    return list(dict.fromkeys(found))


def to_claim(id: str) -> str:
    known = claims.ledger().get(id)
    return f'<a href="../claims/{known.paper.key}.html#{id.lower()}">{id}</a>' if known else id


# --- claims ----------------------------------------------------------------------------------------


def environment(docs: Path) -> jinja2.Environment:
    """The templates of docs/_pages."""
    loader = jinja2.FileSystemLoader(docs / "_pages")
    env = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    env.globals |= {"mark": lambda verdict: claims.MARKS.get(verdict, "·"), "number": shown_value, "source": source}
    env.filters["notebook"] = "notebooks/{}".format
    env.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    return env


def source(said: str) -> str:
    """How we read it, with the legend's letters as words."""
    words = re.sub(r"\b[PSD]\b", lambda letter: READ[letter[0]], said)
    return words.replace("paper(", "paper (").replace("+", " + ")


def claim_pages(docs: Path, notebooks: dict, board: claims.Scoreboard) -> dict[str, str]:
    """A page for each paper, one over all claims, and one of what is often said."""
    env, by_paper, names = environment(docs), papers(), {name[:2]: name for name in notebooks}
    rows = {(row.claim.id, row.notebook): row for row in board.rows}
    words = {"names": names, "rows": rows, "papers": by_paper, "corrections": claims.corrections().values()}
    words |= {"counts": counts(board), "board": board, "titles": {n: site.title_of(nb, n) for n, nb in notebooks.items()}}
    make = lambda page, **more: env.get_template(f"{page}.md").render(words, **more)
    made = {f"claims/{key}.md": make("paper", claims=group, paper=group[0].paper) for key, group in by_paper.items()}
    return made | {"claims/index.md": make("claims"), "claims/corrections.md": make("corrections")}


def counts(board: claims.Scoreboard) -> dict[str, int]:
    """Claims and verdicts are two things: a claim that two notebooks settle has two verdicts."""
    claimed = len({row.claim.id for row in board.rows})
    return {"claims": claimed, "verdicts": len(board.rows), "twice": len(board.rows) - claimed}


def papers() -> dict[str, list[claims.Claim]]:
    """The claims of each paper, from the oldest paper to the newest."""
    found: dict[str, list[claims.Claim]] = {}
    for claim in sorted(claims.ledger().values(), key=lambda claim: (claim.paper.year, claim.paper.key)):
        found.setdefault(claim.paper.key, []).append(claim)
    return found


# --- the front page, features and API --------------------------------------------------------------


def front(notebooks: dict, board: claims.Scoreboard, folder: Path) -> dict:
    """What the front page says: a card for each notebook, verdicts, papers, plans."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    cards = [
        {"name": name, "title": site.title_of(nb, name), "question": site.question_of(nb), "measured": site.measured_of(nb),
         "alt": thumbnail(nb, folder / "pictures" / f"{name}.png"),
         "counts": Counter(row.verdict or "open" for row in board.rows if row.notebook == name[:2])}
        for name, nb in notebooks.items()
    ]  # fmt: skip
    written = {name[:2] for name in notebooks}
    planned: dict[str, list] = {}
    for claim in claims.ledger().values():
        for number in sorted(set(claim.notebooks) - written):
            planned.setdefault(number, []).append(claim)
    shutil.copyfile(files.data_dir() / "figures" / "03_induction_heads.png", folder / "pictures" / "phase_change.png")
    return {"cards": cards, "board": board, "papers": papers(), "planned": dict(sorted(planned.items())),
            "counts": counts(board), "gallery": any(name.startswith("05") for name in notebooks),
            "repository": "https://github.com/{owner}/{repo}".format(**places.settings()["tool"]["mi-course"])}  # fmt: skip


def thumbnail(nb: nbformat.NotebookNode, path: Path, width: int = 640, height: int = 360) -> str:
    """The figure of the cell tagged `thumbnail`, else the notebook's widest, small; its alt text."""
    views = [(("thumbnail" in cell.metadata.get("tags", [])), "".join(output.get("data", {}).get("text/html", "")))
             for cell in nb.cells for output in cell.get("outputs", [])]  # fmt: skip
    found = [(tagged, Image.open(io.BytesIO(b64decode(data))), alt) for tagged, view in views for alt, data in PICTURE.findall(view)]
    if not found:
        return ""
    _, picture, alt = max(found, key=lambda one: (one[0], one[1].width * one[1].height))
    picture.thumbnail((2 * width, 2 * height))
    picture.convert("RGB").save(path, optimize=True)
    return html.unescape(alt)


def feature_pages(notebooks: dict) -> dict[str, str]:
    """A page for each chosen feature of notebook 05's autoencoders, and the table that searches them."""
    from mi_course import sae

    pages = site.feature_pages() if any(name.startswith("05") for name in notebooks) else []
    made = {"features/index.md": "# Features\n\nThe gallery is written where notebook 05 is.\n"}
    folder = places.root() / "build" / "features"
    wrap = lambda title, nav, body: f"{title}\n{nav}\n{body}"
    if pages:
        sae.gallery(pages, folder, wrap=wrap)
    for page in [*(sae.file_name(page) for page in pages), *(["index.html"] if pages else [])]:
        title, nav, body = (folder / page).read_text("utf-8").split("\n", 2)
        nav = f'<nav aria-label="Features">{nav}</nav>' if nav else ""
        body = re.sub(r"<h1>.*?</h1>", "", body, count=1)
        orphan = "" if page == "index.html" else "---\norphan: true\n---\n"
        made[f"features/{page[:-5]}.md"] = f"{orphan}# {title}\n\n```{{raw}} html\n{nav}{body}\n```\n"
    return made


def public() -> dict[str, list[str]]:
    """Module → the public names that it defines, or that its folder does."""
    import mi_course

    found = {}
    for name in sorted(set(dir(mi_course)) - {"importlib", "pkgutil"}):
        if name.startswith("_"):
            continue
        module = importlib.import_module(f"mi_course.{name}")
        own = lambda part: getattr(part, "__module__", "").startswith(module.__name__) and callable(part)
        found[name] = [n for n, part in vars(module).items() if not n.startswith("_") and own(part)]
    return {name: names for name, names in found.items() if names}


def first_line(module) -> str:
    return (module.__doc__ or "").strip().splitlines()[0]


def api_pages() -> dict[str, str]:
    """A page for each public module: its words and its example, then every name."""
    modules = public()
    lines = [f"| [`{n}`]({n}.md) | {first_line(importlib.import_module('mi_course.' + n))} |" for n in modules]
    tree = "\n".join(["```{toctree}", ":hidden:", "", *modules, "```"])
    made = {"docs/api/index.md": "# Every module\n\n{.verdicts}\n| module | what |\n|---|---|\n" + "\n".join(lines) + f"\n\n{tree}\n"}
    for name, names in modules.items():
        module = importlib.import_module(f"mi_course.{name}")
        kind = lambda n: "autoclass" if isinstance(getattr(module, n), type) else "autofunction"
        parts = [f".. automodule:: mi_course.{name}\n   :no-members:\n"]
        parts += [f".. {kind(n)}:: mi_course.{name}.{n}\n" for n in names]
        body = "\n".join(parts)
        made[f"docs/api/{name}.md"] = f"# `{name}`\n\n```{{eval-rst}}\n{body}```\n"
    return made


# --- words that lead somewhere ---------------------------------------------------------------------


class Words(SphinxTransform):
    """Claims' ids become links; so does the first use on a page of each word of the glossary."""

    default_priority = 700

    def apply(self) -> None:
        (terms, pattern), used = spellings(Path(self.app.confdir)), set()
        for text in list(self.document.findall(nodes.Text)):
            if not any(isinstance(node, UNTOUCHED) for node in above(text)):
                if parts := self.linked(text.astext(), terms, pattern, used):
                    text.parent.replace(text, parts)

    def linked(self, text: str, terms: list[str], pattern: re.Pattern, used: set[str]) -> list | None:
        """The text cut into words and links, or None where nothing leads anywhere."""
        parts, at = [], 0
        for found in pattern.finditer(text):
            id = found[1]
            name = None if id else terms[found.lastindex - 2]
            if (id not in claims.ledger() and id not in claims.corrections()) if id else name in used:
                continue
            used.add(name)
            kind, target = ("ref", id.lower()) if id else ("term", name)
            parts += [nodes.Text(text[at : found.start()]), self.link(kind, target, found[0])]
            at = found.end()
        return [*parts, nodes.Text(text[at:])] if parts else None

    def link(self, kind: str, target: str, word: str) -> addnodes.pending_xref:
        inner = nodes.inline(word, word, classes=["xref", "std", f"std-{kind}"])
        where = {"refdoc": self.env.docname, "refdomain": "std", "reftype": kind, "reftarget": target}
        return addnodes.pending_xref("", inner, refexplicit=True, refwarn=True, **where)


def as_rst(app: Sphinx, what: str, name: str, thing, options, lines: list[str]) -> None:
    """Our docstrings are prose with formulas: |x| and a * b mean what they say."""
    lines[:] = ["".join(part if i % 2 else re.sub(r"([|*])", r"\\\1", part) for i, part in enumerate(re.split(r"(`[^`]*`)", line)))
                for line in lines]  # fmt: skip


def above(node: nodes.Node):
    while (node := node.parent) is not None:
        yield node


@functools.cache
def glossary(docs: Path) -> list[tuple[str, str, str]]:
    """(term, pattern of one spelling, meaning), the longest spellings first, from docs/glossary.md."""
    found, names = [], []
    block = re.search(r"```{glossary}\n(.*?)```\n", (docs / "glossary.md").read_text("utf-8"), re.DOTALL)
    for line in block[1].splitlines() if block else []:
        if line and not line.startswith(" "):
            names.append(line)
        elif line:
            meaning = re.sub(r" See {term}.*|`", "", line.strip())
            found += [(names[0], spelling(name), meaning, len(name)) for name in names]
            names = []
    return [entry[:3] for entry in sorted(found, key=lambda entry: -entry[3])]


@functools.cache
def spellings(docs: Path) -> tuple[list[str], re.Pattern]:
    """The term of each spelling, and a pattern with a group for each, after one for the ids of claims."""
    found = glossary(docs)
    return [name for name, _, _ in found], re.compile("|".join([f"({ID.pattern})", *(f"({way})" for _, way, _ in found)]))


def spelling(name: str) -> str:
    """Capitals as written, everything else in any case; both in the plural, too."""
    words = re.escape(name).replace(r"\ ", r"\s+")
    one = f"{words}s?" if re.search("[A-Z]", name) else f"(?i:{words}(?:e?s)?)"
    return rf"(?<![\w-]){one}(?![\w-])"


def hover(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """A link to the glossary says its meaning under the pointer."""
    meanings = {name.lower(): meaning for name, _, meaning in glossary(Path(app.confdir))}
    for link in doctree.findall(nodes.reference):
        inner = next(iter(link.findall(nodes.inline)), None)
        if inner is not None and "std-term" in inner["classes"]:
            anchor = link.get("refuri", "").rpartition("#term-")[2] or link.get("refid", "").removeprefix("term-")
            link["classes"].append("term")
            link["reftitle"] = meanings.get(anchor.replace("-", " ").lower(), "")


def around(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """The buttons above a notebook: its student copy on Colab and Binder, and both copies to keep."""
    if not re.fullmatch(r"notebooks/\d\d_\w+", pagename):
        return
    place, name = places.settings()["tool"]["mi-course"], f"{pagename.split('/')[1]}.ipynb"
    repo = "{owner}/{repo}".format(**place)
    link = lambda url, text, icon, tip: {"type": "link", "url": url, "text": text, "icon": f"fas {icon}", "tooltip": tip}
    colab = f"https://colab.research.google.com/github/{repo}/blob/{place['branch']}/notebooks/student/{name}"
    binder = f"https://mybinder.org/v2/gh/{repo}/{place['branch']}?labpath=notebooks/student/{name}"
    launch = [link(colab, "Colab", "fa-play", "Open the student copy on Colab"),
              link(binder, "Binder", "fa-play", "Open the student copy on Binder")]  # fmt: skip
    keep = [link(f"student/{name}", "student copy", "fa-pencil", "Download without solutions"),
            link(name, "with solutions", "fa-book", "Download as it is shown here")]  # fmt: skip
    group = lambda buttons, icon, tip: {"type": "group", "buttons": buttons, "icon": f"fas {icon}", "tooltip": tip, "label": tip.split()[0].lower()}
    context["header_buttons"][:0] = [group(launch, "fa-rocket", "Launch this notebook"), group(keep, "fa-download", "Download this notebook")]


def views(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """The library of the interactive views, on pages that have one."""
    if "globalThis.CircuitsVis" in context.get("body", ""):
        app.add_js_file("circuitsvis.js")


def finish(app: Sphinx, exception) -> None:
    """Beside the pages: the notebooks to keep, and the library of their interactive views."""
    if exception or not app.builder.name == "html":
        return
    from mi_course.plots import circuitsvis_script

    library = circuitsvis_script().removeprefix("<script>").removesuffix("</script>")
    files.write(Path(app.outdir) / "_static" / "circuitsvis.js", library)
    for path in places.find():
        for copy in (site.newest(path), path.parent / "student" / path.name):
            to = Path(app.outdir) / "notebooks" / copy.relative_to(copy.parents[copy.parent.name == "student"]).as_posix()
            to.parent.mkdir(parents=True, exist_ok=True)
            if copy.exists():
                shutil.copyfile(copy, to)


def setup(app: Sphinx) -> dict:
    app.add_transform(Words)
    app.connect("config-inited", stage)
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("doctree-resolved", hover)
    app.connect("html-page-context", around, priority=800)
    app.connect("html-page-context", views)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
