"""A stored notebook: what its opening says, and what it must be: run from start to end, with something to compare."""

import ast
import hashlib
import re

import nbformat

from mi_course.pretrained.needing import SKIPPED, needs


def unrun_cells(nb: nbformat.NotebookNode) -> list[str]:
    """One sentence for every code cell that a comparison of outputs would pass over in silence.

    Code cells must have run once, in order, from 1 to n, without errors. Cells tagged
    `skip-execution` are left alone; errors are allowed where tagged `raises-exception`.
    """
    problems, expected = [], 0
    for index, cell in enumerate(nb.cells):
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or "skip-execution" in tags:
            continue
        expected += 1
        if cell.execution_count is None:
            problems.append(f"Cell {index} has not been run: {_first_line(cell)}")
        elif cell.execution_count != expected:
            problems.append(
                f"Cell {index} is number {cell.execution_count}, not {expected}: restart and run all."
            )
        if "raises-exception" not in tags:
            errors = [output for output in cell.outputs if output.output_type == "error"]
            problems += [f"Cell {index} ends in {error.ename}: {error.evalue}" for error in errors]
        if any(output.get("text", "").startswith(SKIPPED) for output in cell.outputs):
            problems.append(f"Cell {index} was skipped, for it needs a model: python -m mi_course fetch")
    return problems


def unmarked_cells(nb: nbformat.NotebookNode) -> list[str]:
    """Cells that use what a cell marked `# needs …` defined, without saying so: where that is absent they would fail."""
    problems, needy, defined = [], {}, set()
    for index, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            continue
        bound, read = _names(cell.source)
        if models := needs(cell.source):
            needy |= dict.fromkeys(bound - defined, models[0])
            continue
        if used := sorted((read - bound) & set(needy)):
            problems.append(
                f"Cell {index} uses {used[0]}: its first line must be `# needs {needy[used[0]]}`."
            )
        defined |= bound
        needy = {name: model for name, model in needy.items() if name not in bound}
    return problems


def _names(source: str) -> tuple[set[str], set[str]]:
    """The names a cell binds and those it reads; none where it is no plain Python."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return set(), set()
    bound = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return bound, read


def silent_sections(nb: nbformat.NotebookNode) -> list[str]:
    """Sections (`##`) that have code but no output that can be compared: text, a table or a figure."""
    sections: dict[str, list] = {}
    title = "the opening"
    for cell in nb.cells:
        if cell.cell_type == "markdown" and (heading := re.search(r"^## +(.+)", cell.source, re.MULTILINE)):
            title = heading[1].strip()
        elif cell.cell_type == "code":
            sections.setdefault(title, []).append(cell)
    sections.pop("the opening", None)
    return [
        f"Section {title!r} shows nothing that can be compared."
        for title, cells in sections.items()
        if not any(_compared(output) for cell in cells for output in cell.outputs)
    ]


def _compared(output) -> bool:
    return output.output_type == "stream" or bool({"text/plain", "text/html"} & set(output.get("data", {})))


def _first_line(cell) -> str:
    return (cell.source.strip().splitlines() or ["(empty)"])[0]


KEPT_CELL_METADATA = ("tags", "nbgrader", "jupyter")
KEPT_METADATA = ("mi_course",)  # what a student copy was when it was made


def tidy(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same notebook without anything that changes by itself: ids follow from the sources. Solutions are folded."""
    seen: dict[str, int] = {}
    for cell in nb.cells:
        digest = hashlib.sha1(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cell.metadata = {key: cell.metadata[key] for key in KEPT_CELL_METADATA if key in cell.metadata}
        if cell.cell_type == "code" and "### BEGIN SOLUTION" in cell.source:
            cell.metadata["jupyter"] = {**cell.metadata.get("jupyter", {}), "source_hidden": True}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    kept = {key: nb.metadata[key] for key in KEPT_METADATA if key in nb.metadata}
    nb.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, **kept}
    nb.nbformat, nb.nbformat_minor = 4, 5
    return nbformat.from_dict(nb)


# -- what the opening says ----------------------------------------------------------------------------

MEASURED = re.compile(r"(?<=Measured on two CPU cores: )about (\S+ s, \S+ GB)")


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
    said = MEASURED.search("\n".join(cell.source for cell in nb.cells[:5]))
    return said[1] if said else ""
