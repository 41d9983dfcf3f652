"""What the site needs beyond Sphinx: its sources staged from notebooks and ledger, and words that lead somewhere.

The staged folder looks like the repository (`docs/`, `notebooks/`), so that a relative link holds on GitHub and here.
"""

import functools
import html
import json
import re
from pathlib import Path

import jinja2
import nbformat
from docutils import nodes
from nbformat.v4 import new_markdown_cell
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from mi_course import claims, files
from mi_course.claims.ledger import shown_value
from mi_course.course import notebooks as opening
from mi_course.course import places, site

ID = re.compile(r"\b[A-Z]{1,4}-\d\d\b")
OF_TABLE = re.compile(r"(<th scope='row'[^>]*>)([A-Z]{1,4}-\d\d)(?= ★|<)")
BADGE = re.compile(r"\[Open in Colab\]\([^)]*\)\n*")
LINK = re.compile(r"(?<!!)(\]\()(?!\w+:|#)([^)\s#]+)((?:#[^)\s]*)?\))")
UNTOUCHED = (nodes.literal, nodes.literal_block, nodes.reference, nodes.title, nodes.raw, nodes.term)
UNTOUCHED += (nodes.math, nodes.math_block, addnodes.pending_xref, addnodes.desc_signature)


def stage(app: Sphinx, config) -> None:
    """Write every source under `app.srcdir`; what did not change keeps its date, and Sphinx passes over it."""
    folder, docs = Path(app.srcdir), Path(app.confdir)
    paths = [site.newest(path) for path in places.find()]
    board = claims.Scoreboard.from_notebooks(paths)
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    ours = [page for page in docs.rglob("*.md") if "_pages" not in page.parts]
    made = {f"docs/{page.relative_to(docs).as_posix()}": page.read_text("utf-8") for page in ours}
    made |= from_templates(docs, notebooks, board, site.pictures(folder / "pictures", notebooks))
    made |= {
        f"notebooks/{name}.ipynb": nbformat.writes(shown(nb, name[:2])) for name, nb in notebooks.items()
    }
    made |= (
        site.gallery(folder.parent / "gallery") if any(name.startswith("05") for name in notebooks) else {}
    )
    for name in [name for name in made if name.startswith("docs/")]:
        made[name] = LINK.sub(functools.partial(to_repository, name, set(made)), made[name])
    for old in [*folder.rglob("*.md"), *folder.rglob("*.ipynb")]:
        if old.relative_to(folder).as_posix() not in made:
            old.unlink()
    for name, text in made.items():
        if not (folder / name).exists() or (folder / name).read_text("utf-8") != text:
            files.write(folder / name, text)


def to_repository(name: str, pages: set[str], to: re.Match) -> str:
    """A link to a file that is no page here leads to where the course lives; one to nothing is left for Sphinx to name."""
    root = places.root().resolve()
    there = (root / name).parent.joinpath(to[2]).resolve()
    if not there.exists() or not there.is_relative_to(root) or there.relative_to(root).as_posix() in pages:
        return to[0]
    kind = "tree" if there.is_dir() else "blob"
    place = places.settings()["tool"]["mi-course"]
    github = "https://github.com/{owner}/{repo}/{kind}/{branch}".format(kind=kind, **place)
    return f"{to[1]}{github}/{there.relative_to(root).as_posix()}{to[3]}"


def shown(nb: nbformat.NotebookNode, number: str) -> nbformat.NotebookNode:
    """A notebook as its page shows it: solutions folded, claims linked from the cells that settle them, no set-up."""
    nb, cells, titled = nbformat.from_dict(nb), [], False
    nb.metadata["language_info"] = {"name": "python"}
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            source = BADGE.sub("", cell.source)
            cell.source = re.sub("^# ", "## " if titled else "# ", source, flags=re.MULTILINE)
            titled = titled or cell.source.startswith("# ")
            cells.append(cell)
            continue
        tags, settled = cell.metadata.setdefault("tags", []), settled_in(cell)
        tags += ["remove-cell"] if "setup" in tags else []
        folded = cell.metadata.get("jupyter", {}).get("source_hidden") and not site.SOLUTION.search(
            cell.source
        )
        tags += ["hide-input"] if folded and "hide-input" not in tags else []
        if settled:  # a place to arrive at, and a way to the claim
            cells.append(new_markdown_cell("".join(f"({id.lower()}-in-{number})=\n" for id in settled)))
        cells += with_folded_solution(cell)
        if settled:
            ways = ", ".join(f"[{id}](#{id.lower()})" for id in settled)
            paper = claims.claim_of(settled[0]).paper
            cells.append(new_markdown_cell(f"Among the claims of {paper.cite()}: {ways}."))
    nb.cells = cells
    return nb


def with_folded_solution(cell: nbformat.NotebookNode) -> list:
    """The exercise as a learner gets it, and below it one solution to unfold."""
    cell.source = cell.source.replace("  # fmt: skip", "")
    if not site.SOLUTION.search(cell.source):
        return [cell]
    solution = site.SOLUTION.sub(r"\2", cell.source)
    cell.source = site.SOLUTION.sub(r"\1...", cell.source)
    return [cell, new_markdown_cell(f":::{{dropdown}} One solution\n```python\n{solution}\n```\n:::")]


def settled_in(cell: nbformat.NotebookNode) -> list[str]:
    """The claims this cell settles; its tables of verdicts get their links on the way."""
    found = []
    for output in cell.outputs:
        if view := "".join(output.get("data", {}).get("text/html", "")):
            found += [json.loads(html.unescape(written))["claim"] for written in claims.PAYLOAD.findall(view)]
            output.data["text/html"] = OF_TABLE.sub(in_table, view)
    return list(dict.fromkeys(found))


def in_table(of: re.Match) -> str:
    known = claims.ledger().get(of[2])
    to = f'<a href="../claims/{known.paper.key}.html#{of[2].lower()}">{of[2]}</a>' if known else of[2]
    return of[1] + to


def from_templates(docs: Path, notebooks: dict, board: claims.Scoreboard, alts: dict) -> dict[str, str]:
    """The front page, the claims by paper, what is often said, and a page for each module, from docs/_pages."""
    loader, by_paper, modules = jinja2.FileSystemLoader(docs / "_pages"), {}, site.public()
    strict = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    env = jinja2.Environment(loader=loader, **strict)
    env.tests["has"] = lambda many, one: one in many
    env.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    for claim in sorted(claims.ledger().values(), key=lambda claim: (claim.paper.year, claim.paper.key)):
        by_paper.setdefault(claim.paper.key, []).append(claim)
    words = {"notebooks": notebooks, "names": {n[:2]: n for n in notebooks}, "alts": alts, "board": board}
    words |= {"rows": {(row.claim.id, row.notebook): row for row in board.rows}}
    words |= {"settled": len({row.claim.id for row in board.rows}), "papers": by_paper}
    words |= {"claims": claims, "opening": opening, "shown": shown_value, "modules": modules}
    words |= {"place": places.settings()["tool"]["mi-course"]}
    make = lambda page, **more: env.get_template(f"{page}.md").render(words | more)
    made = {
        "index.md": make("index"),
        "docs/api/index.md": make("modules"),
        "claims/index.md": make("claims"),
    }
    made |= {"claims/corrections.md": make("corrections")}
    made |= {f"claims/{key}.md": make("paper", group=group) for key, group in by_paper.items()}
    made |= {f"docs/api/{name}.md": make("module", name=name, **about) for name, about in modules.items()}
    return made


class Words(SphinxTransform):
    """Claims' ids become links; so does the first use on a page of each word of the glossary, with its meaning."""

    default_priority = 700

    def apply(self) -> None:
        terms, used = glossary(Path(self.app.confdir)), {"docs/glossary": {None}}.get(self.env.docname, set())
        pattern = re.compile("|".join([f"({ID.pattern})", *(f"({spelling})" for spelling, _, _ in terms)]))
        for text in list(self.document.findall(nodes.Text)) if self.env.docname != "index" else []:
            node, inside = text.parent, False
            while node is not None and not inside:
                node, inside = node.parent, isinstance(node, UNTOUCHED)
            if not inside and (parts := self.linked(text.astext(), pattern, terms, used)):
                text.parent.replace(text, parts)

    def linked(self, text: str, pattern: re.Pattern, terms: list, used: set) -> list | None:
        """The text cut into words and links, or None where nothing leads anywhere."""
        parts, at = [], 0
        for found in pattern.finditer(text):
            link = (
                self.to_claim(found[0])
                if found[1]
                else self.to_term(found[0], *terms[found.lastindex - 2][1:], used)
            )
            if link is not None:
                parts += [nodes.Text(text[at : found.start()]), link]
                at = found.end()
        return [*parts, nodes.Text(text[at:])] if parts else None

    def to_claim(self, id: str) -> nodes.Node | None:
        where = {"refdoc": self.env.docname, "refdomain": "std", "reftype": "ref", "reftarget": id.lower()}
        known = id in claims.ledger() or id in claims.corrections()
        return addnodes.pending_xref("", nodes.inline(id, id), refexplicit=True, **where) if known else None

    def to_term(self, word: str, name: str, meaning: str, used: set) -> nodes.Node | None:
        if name in used or None in used:  # None: in the glossary itself
            return None
        used.add(name)
        page = self.app.builder.get_relative_uri(self.env.docname, "docs/glossary")
        to = f"{page}#term-{re.sub('[^A-Za-z0-9]+', '-', name)}"
        return nodes.reference("", word, refuri=to, reftitle=meaning, classes=["term"], internal=True)


@functools.cache
def glossary(docs: Path) -> list[tuple[str, str, str]]:
    """(pattern of one spelling, term, meaning), the longest spellings first, from docs/glossary.md."""
    found, names = [], []
    block = re.search(r"```{glossary}\n(.*?)```\n", (docs / "glossary.md").read_text("utf-8"), re.DOTALL)
    for line in filter(None, block[1].splitlines()):
        if not line.startswith(" "):
            names.append(line)
            continue
        meaning = re.sub(r" See {term}.*|`", "", line.strip())
        for name in names:  # capitals as written, everything else in any case; both in the plural, too
            words = re.escape(name).replace(r"\ ", r"\s+")
            one = f"{words}s?" if re.search("[A-Z]", name) else f"(?i:{words}(?:e?s)?)"
            found.append((rf"(?<![\w-]){one}(?![\w-])", names[0], meaning))
        names = []
    return sorted(found, key=lambda entry: -len(entry[0]))


def as_rst(app: Sphinx, what: str, name: str, thing, options, lines: list[str]) -> None:
    """Our docstrings are prose with formulas: outside of `code`, |x| and a * b mean what they say."""
    outside = lambda text: re.sub(r"([|*])", r"\\\1", text)
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = "".join(p if k % 2 else outside(p) for k, p in enumerate(re.split("(`[^`]*`)", line)))


def views(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """The library of the interactive views, on pages that have one."""
    if "globalThis.CircuitsVis" in context.get("body", ""):
        app.add_js_file("circuitsvis.js")


def finish(app: Sphinx, exception) -> None:
    """The notebooks to keep, and the library of their interactive views."""
    from mi_course.plots import circuitsvis_script

    if not exception:
        library = circuitsvis_script().removeprefix("<script>").removesuffix("</script>")
        files.write(Path(app.outdir) / "_static" / "circuitsvis.js", library)
        for path in places.find():
            for copy, to in (
                (site.newest(path), path.name),
                (path.parent / "student" / path.name, f"student/{path.name}"),
            ):
                if copy.exists():
                    files.write(Path(app.outdir) / "notebooks" / to, copy.read_bytes())


def setup(app: Sphinx) -> dict:
    app.add_transform(Words)
    app.connect("config-inited", stage)
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("html-page-context", views)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
