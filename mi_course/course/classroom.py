"""The course in other hands: exercises, student copies, nbgrader's folder."""

import hashlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nbformat

from mi_course import files
from mi_course.course import notebooks, places, seeds
from mi_course.errors import CourseError

CHECK = re.compile(r"^checks\.check_(\w+)\(", re.MULTILINE)
STATED = re.compile(
    r"^(?:Exercise )?\d+ ?(?:· (?P<before>.*?))? ?—? ?\(?(?P<stars>★+),? \(?(?P<minutes>\d+) min(?:utes)?\)?[.:]?(?P<after>.*)"
)
MARKER = re.compile(r"(?P<indent>\s*).*### (?P<what>BEGIN|END) (?P<kind>SOLUTION|HIDDEN TESTS)")
STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")
MISCONCEPTION = re.compile(r"isconception[*:\s]+(.+?)(?:\n\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Exercise:
    """An exercise of a notebook that has a check: what it asks, its solution, and what checks it."""

    notebook: str  # the file's stem
    name: str  # after its check, so that it stays when exercises are added: count-matrix
    title: str
    stars: int  # difficulty, and nbgrader's points
    minutes: int
    misconception: str
    answer: str  # the cell with the solution
    check: str  # the cell that checks it


def exercises(names: Iterable[str] = ()) -> list[Exercise]:
    """All exercises with a check, in reading order."""
    found = []
    for path in places.find(names):
        nb = parted(nbformat.read(path, as_version=4))
        found += [stated(path.stem, nb, answer, check) for answer, check in pairs(nb)]
    return found


def pairs(nb: nbformat.NotebookNode) -> list[tuple[int, int]]:
    """Where answers and their checks stand in a parted notebook."""
    code = [i for i, cell in enumerate(nb.cells) if cell.cell_type == "code"]
    return [
        (answer, check)
        for answer, check in zip(code, code[1:])
        if "### BEGIN SOLUTION" in nb.cells[answer].source and CHECK.search(nb.cells[check].source)
    ]


def stated(notebook: str, nb: nbformat.NotebookNode, answer: int, check: int) -> Exercise:
    """The exercise whose text stands in the nearest words above its answer."""
    words = next((c.source for c in reversed(nb.cells[:answer]) if c.cell_type == "markdown"), "")
    lines = (STATED.match(re.sub(r"[#*]", "", line).strip()) for line in words.splitlines())
    line = next((found for found in lines if found), None)
    known = {"title": "", "stars": 1, "minutes": 10}
    if line:
        title = (line["before"] or line["after"]).strip()
        known = {"title": title, "stars": len(line["stars"]), "minutes": int(line["minutes"])}
    wrong = MISCONCEPTION.search(words)
    return Exercise(
        notebook,
        CHECK.search(nb.cells[check].source)[1].replace("_", "-"),
        misconception=" ".join(wrong[1].split()).strip("* ") if wrong else "",
        answer=nb.cells[answer].source,
        check=nb.cells[check].source,
        **known,
    )


def parted(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`nb` with answers and checks in cells of their own: nbgrader grades the one and keeps the other."""
    cells = []
    for cell in nb.cells:
        found = CHECK.search(cell.source) if "### END SOLUTION" in cell.source else None
        cells.append(cell)
        if found and cell.cell_type == "code":
            cells.append(nbformat.v4.new_code_cell(cell.source[found.start() :]))
            cell.source = cell.source[: found.start()].rstrip()
    nb.cells = cells
    return nb


TOLD = """\
> **Your copy.** It is notebook {number} without the solutions. Where a cell says `raise NotImplementedError()`, put your
> answer in its place and run the cell below it: it says ✔, or which mistake it most likely was.
>
> Skip what you like: nothing else in the notebook needs your answers. *Restart and run all* goes on past exercises that
> are not solved yet, for their cells carry the tag `raises-exception`. Where an editor stops there all the same, go on
> with *Run after*.{variant}"""
NEWS = ", and the notebook has changed since (a fresh copy in another folder: --out)"
VARIANT = """
>
> **Variant {seed}.** Everything random takes `SEED = {seed}`. The text was written beside seed 0: find out which of its
> numbers, and which verdicts, stay."""
CONFIG = """\
# Made by `python -m mi_course student --for nbgrader`. What it does, and what to do with it: docs/teaching.md
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "mi_course"
c.Execute.timeout = 300  # seconds a cell may take; one that takes longer is stopped, and the others still count
c.GenerateFeedback.exporter_class = "mi_course.course.feedback.Page"  # exercises by name, formulas offline
"""


def student(
    names: Iterable[str] = (),
    out: str | Path | None = None,
    seed: int | None = None,
    nbgrader: bool = False,
) -> int:
    """Write copies without solutions into `out`, or the folder from which nbgrader makes them.

    Without `out`, the committed copies in notebooks/student/ are renewed; a variant and nbgrader's folder go to build/.
    """
    usual = (
        "build/nbgrader" if nbgrader else "notebooks/student" if seed is None else f"build/student-seed{seed}"
    )
    out = Path(out or places.root() / usual)
    for path in places.find(names):
        copy = out / ("source" if nbgrader else "") / (path.stem if nbgrader else "") / path.name
        if copy.resolve() == path.resolve():
            raise CourseError(f"{out} holds the course's own notebooks: choose another folder with --out.")
        nb = nbformat.read(path, as_version=4)
        variant = seed if seed is not None and seeds.reseed(nb, seed) == 1 else None
        if seed != variant:
            print(f"{path.stem} has no line SEED = 0: it is the same in every variant.", file=sys.stderr)
        nb = (assignment if nbgrader else student_copy)(nb, path.stem, variant)
        if not nbgrader and (made := edited(copy)):
            news = NEWS if made != nb.metadata["mi_course"]["made"] else ""
            print(f"{copy} is left as it is: somebody has written in it{news}.", file=sys.stderr)
            continue
        files.write(copy, nbformat.writes(nb) + "\n")
        print(copy)
    if nbgrader:
        files.write(out / "nbgrader_config.py", CONFIG)
    return 0


def student_copy(nb: nbformat.NotebookNode, stem: str = "", seed: int | None = None) -> nbformat.NotebookNode:
    """`nb` with `raise NotImplementedError()` between nbgrader's solution markers, and without outputs."""
    nb = opened(parted(nb), stem, seed)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.source = cleared(cell.source)
    nb = unfolded(notebooks.tidy(without_outputs(nb)))
    nb.metadata["mi_course"] = {"made": print_of(nb)}
    return nb


def unfolded(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`nb` with the cells that learners write in open; in the notebooks with solutions they are folded."""
    for cell in nb.cells:
        if cell.cell_type == "code" and (
            "raise NotImplementedError()" in cell.source or "### BEGIN SOLUTION" in cell.source
        ):
            cell.metadata.pop("jupyter", None)
    return nb


def cleared(source: str) -> str:
    """What nbgrader's ClearSolutions and ClearHiddenTests leave of a cell; learners do without its buttons in Lab."""
    lines, within = [], None
    for line in source.splitlines():
        marker = MARKER.match(line)
        if marker and (marker["what"] == "BEGIN") == bool(within):
            raise CourseError(
                f"The solution markers do not match: {line.strip()!r} in {source.splitlines()[0]!r}."
            )
        if marker and marker["what"] == "BEGIN":
            within = marker["kind"]
            lines += [marker["indent"] + line for line in STUB if within == "SOLUTION"]
        elif marker:
            within = None
        elif not within:
            lines.append(line)
    if within:
        raise CourseError(
            f"The solution markers do not match: {within} never ends in {source.splitlines()[0]!r}."
        )
    return "\n".join(lines)


def print_of(nb: nbformat.NotebookNode) -> str:
    """A fingerprint of what stands in the cells, whoever ran them; opening and set-up, which `badges` keeps, left out."""
    ours = [cell.source for cell in nb.cells[1:] if "setup" not in cell.metadata.get("tags", [])]
    return hashlib.sha256("\0".join(ours).encode()).hexdigest()[:16]


def edited(copy: Path) -> str:
    """The fingerprint a copy was made with, if somebody has written in it since; else nothing."""
    if not copy.is_file():
        return ""
    nb = nbformat.read(copy, as_version=4)
    made = nb.metadata.get("mi_course", {}).get("made", "")
    return made if made != print_of(nb) else ""


def assignment(nb: nbformat.NotebookNode, stem: str, seed: int | None = None) -> nbformat.NotebookNode:
    """`nb`, solutions and all, as nbgrader's source: answers and checks are marked, a check is worth its stars."""
    nb, titles = opened(parted(nb), stem, seed), {}
    for answer, check in pairs(nb):
        exercise = stated(stem, nb, answer, check)
        titles[f"{exercise.name}-check"] = exercise.title
        nb.cells[answer].metadata.nbgrader = graded(exercise.name, solution=True)
        nb.cells[check].metadata.nbgrader = graded(
            f"{exercise.name}-check", grade=True, locked=True, points=exercise.stars
        )
    nb = unfolded(notebooks.tidy(without_outputs(nb)))
    nb.metadata["mi_course"] = {"exercises": titles}  # for feedback.Page
    return nb


def graded(grade_id: str, **what) -> dict:
    """nbgrader's metadata of a cell."""
    plain = {"grade": False, "solution": False, "task": False, "locked": False}
    return {"grade_id": grade_id, "schema_version": 3, **plain, **what}


def opened(nb: nbformat.NotebookNode, stem: str, seed: int | None) -> nbformat.NotebookNode:
    """`nb` with a word to the learner, a badge that opens the student copy, and tags that let a run go on."""
    nb.cells[0].source = re.sub(r"(colab\.\S+?/notebooks/)", r"\1student/", nb.cells[0].source)
    for cell in nb.cells:
        if cell.cell_type == "code" and ("### BEGIN SOLUTION" in cell.source or CHECK.search(cell.source)):
            cell.metadata.tags = [*cell.metadata.get("tags", []), "raises-exception"]
    variant = "" if seed is None else VARIANT.format(seed=seed)
    nb.cells.insert(1, nbformat.v4.new_markdown_cell(TOLD.format(number=stem[:2], variant=variant)))
    return nb


def without_outputs(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`nb` as nobody has run it."""
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nb
