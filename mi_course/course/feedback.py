"""nbgrader's feedback pages, with exercises by their names and formulas that need no network.

nbgrader_config.py names `Page` as the exporter of `nbgrader generate_feedback`.
"""

import html
import json
import re

from nbconvert.exporters import HTMLExporter
from nbformat import NotebookNode

from mi_course.course import places

OF_CHECK = re.compile(r'(<a href="#([\w-]+)">)Test cell(</a>)|Grade cell: <code>([\w-]+)</code>')
FROM_OUTSIDE = re.compile(
    r'<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->|<script src="http[^>]*></script>',
    re.DOTALL,
)
SETTINGS = {
    "tex": {"inlineMath": [["$", "$"], ["\\(", "\\)"]], "processEscapes": True, "tags": "ams"},
    "options": {"enableMenu": False, "skipHtmlTags": ["script", "style", "pre", "code", "textarea"]},
}


class Page(HTMLExporter):
    """nbgrader's own page, edited where it is written."""

    def from_notebook_node(self, nb: NotebookNode, resources: dict | None = None, **kw) -> tuple[str, dict]:
        """The page of one notebook, and nbconvert's resources."""
        page, resources = super().from_notebook_node(nb, resources, **kw)
        formulas = any("$" in cell.source for cell in nb.cells if cell.cell_type == "markdown")
        return offline(named(page, titles(nb)), formulas), resources


def titles(nb: NotebookNode) -> dict[str, str]:
    """A check's id → the title of its exercise, as `classroom.assignment` kept it."""
    return nb.metadata.get("mi_course", {}).get("exercises", {})


def named(page: str, exercises: dict[str, str]) -> str:
    """The page with an exercise's title where nbgrader says "Test cell"; without a title, its id in words."""

    def name(found: re.Match) -> str:
        before, of_list, after, of_cell = found.groups(default="")
        id = of_list or of_cell
        words = html.escape(exercises.get(id) or id.removesuffix("-check").replace("-", " "))
        return f"{before}{words}{after}" if of_list else f"Check of {words}"

    return OF_CHECK.sub(name, page)


def offline(page: str, formulas: bool = True) -> str:
    """The page without scripts from elsewhere; MathJax stands in it where there are `formulas`, and is here."""
    page = FROM_OUTSIDE.sub("", page)
    library = places.mathjax()
    if not formulas or library is None:
        return page
    scripts = (
        f"<script>MathJax = {json.dumps(SETTINGS)}</script>\n<script>{library.read_text('utf-8')}</script>\n"
    )
    before, end, after = page.partition("</head>")
    return before + scripts + end + after
