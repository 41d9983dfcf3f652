"""The course in other hands: exercises, student copies, nbgrader, Colab badges, README's table."""

import base64
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import nbformat

from mi_course import course, seeds
from mi_course.errors import CourseError

# --- exercises, as the notebooks state them --------------------------------------------------------

CHECK = re.compile(r"^checks\.check_(\w+)\(", re.MULTILINE)
STATED = re.compile(
    r"^(?:Exercise )?\d+ ?(?:· (?P<before>.*?))? ?—? ?\(?(?P<stars>★+),? \(?(?P<minutes>\d+) min(?:utes)?\)?[.:]?(?P<after>.*)"
)
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
    for path in course.find(names):
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


# --- student copies --------------------------------------------------------------------------------

TOLD = """\
> **Your copy.** It is notebook {number} without the solutions. Where a cell says `raise NotImplementedError()`, put your
> answer in its place and run the cell below it: it says ✔, or which mistake it most likely was.
>
> Skip what you like: nothing else in the notebook needs your answers. *Restart and run all* goes on past exercises that
> are not solved yet, for their cells carry the tag `raises-exception`. Where an editor stops there all the same, go on
> with *Run after*.{variant}"""
VARIANT = """
>
> **Variant {seed}.** Everything random takes `SEED = {seed}`. The text was written beside seed 0: find out which of its
> numbers, and which verdicts, stay."""
CONFIG = """\
# Made by `python -m mi_course student --for nbgrader`. What it does, and what to do with it: docs/teaching.md
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "mi_course"
c.Execute.timeout = 300  # seconds a cell may take; one that takes longer is stopped, and the others still count
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
    out = Path(out or course.root() / usual)
    for path in course.find(names):
        copy = out / ("source" if nbgrader else "") / (path.stem if nbgrader else "") / path.name
        if copy.resolve() == path.resolve():
            raise CourseError(f"{out} holds the course's own notebooks: choose another folder with --out.")
        nb = nbformat.read(path, as_version=4)
        variant = seed if seed is not None and seeds.reseed(nb, seed) == 1 else None
        if seed != variant:
            print(f"{path.stem} has no line SEED = 0: it is the same in every variant.", file=sys.stderr)
        nb = (assignment if nbgrader else student_copy)(nb, path.stem, variant)
        course.write(copy, nbformat.writes(nb) + "\n")
        print(copy)
    if nbgrader:
        course.write(out / "nbgrader_config.py", CONFIG)
    return 0


def student_copy(nb: nbformat.NotebookNode, stem: str = "", seed: int | None = None) -> nbformat.NotebookNode:
    """`nb` with `raise NotImplementedError` between nbgrader's solution markers, and without outputs."""
    try:
        from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions
    except ImportError:
        raise CourseError("Student copies need nbgrader: pip install 'mi-course[test]'.") from None

    nb = opened(parted(nb), stem, seed)
    for cleared in (ClearSolutions, ClearHiddenTests):
        try:
            nb, _ = cleared(enforce_metadata=False).preprocess(nb, {})
        except RuntimeError as error:  # a BEGIN without an END
            raise CourseError(f"The solution markers do not match: {error}") from None
    return course.tidy(without_outputs(nb))


def assignment(nb: nbformat.NotebookNode, stem: str, seed: int | None = None) -> nbformat.NotebookNode:
    """`nb`, solutions and all, as nbgrader's source: answers and checks are marked, a check is worth its stars."""
    nb = opened(parted(nb), stem, seed)
    for answer, check in pairs(nb):
        exercise = stated(stem, nb, answer, check)
        nb.cells[answer].metadata.nbgrader = graded(exercise.name, solution=True)
        nb.cells[check].metadata.nbgrader = graded(
            f"{exercise.name}-check", grade=True, locked=True, points=exercise.stars
        )
    return course.tidy(without_outputs(nb))


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


# --- where the course lives: pyproject.toml says it once -------------------------------------------

NAME = r"[\w.-]+/[\w.-]+"  # OWNER/REPO
BADGE = re.compile(
    rf"https://colab\.research\.google\.com/github/{NAME}/blob/[\w./-]+?/notebooks/((?:student/)?[\w-]+\.ipynb)"
)
INSTALL = re.compile(rf"mi_course @ git\+https://github\.com/{NAME}@[\w./-]+")
ELSEWHERE = (  # addresses in README, CITATION.cff and docs: the pattern, and what stands there
    (rf"https://mybinder\.org/v2/gh/{NAME}/[\w.-]+", "https://mybinder.org/v2/gh/{owner}/{repo}/{branch}"),
    (rf"git clone https://github\.com/{NAME} && cd [\w.-]+", "git clone https://github.com/{owner}/{repo} && cd {repo}"),
    (rf"pip install git\+https://github\.com/{NAME}", "pip install git+https://github.com/{owner}/{repo}"),
    (rf"repository-code: \"https://github\.com/{NAME}\"", 'repository-code: "https://github.com/{owner}/{repo}"'),
)  # fmt: skip
PICTURE = re.compile(
    r"!\[([^\]]*)\]\(data/figures/([\w-]+)\.png\)"
)  # its alt text opens with the figure's title
TABLE = re.compile(r"(<!-- notebooks -->\n).*?(<!-- /notebooks -->)", re.DOTALL)


def badges(check: bool = False, repo: str | None = None, branch: str | None = None) -> int:
    """Rewrite every badge and setup cell, student copies included, README's table and picture, and tidy notebooks.

    `repo` (OWNER/NAME) and `branch` go into pyproject.toml first. With `check`, only say what would change.
    """
    folder, stale = course.root(), []
    place = whereabouts(repo, branch)
    for path in addressed(folder):
        name = path.relative_to(folder).as_posix()
        before = path.read_text(encoding="utf-8")
        after = rewritten(before, name, place)
        stale += [f"{name} {what}." for what in missing(after, name, folder)]
        if before != after and not check:
            course.write(path, after)
            print(f"rewritten: {name}")
        elif before != after:
            stale.append(f"{name} is out of date: python -m mi_course badges")
    stale += picture(folder, check)
    for sentence in stale:
        print(sentence)
    return 1 if stale else 0


def whereabouts(repo: str | None = None, branch: str | None = None) -> dict[str, str]:
    """Owner, repo and branch as pyproject.toml gives them, with those that are named here in their place."""
    place = dict(course.settings()["tool"]["mi-course"])
    if repo is not None:
        if not re.fullmatch(NAME, repo):
            raise CourseError(f"{repo!r} is not a repository: give OWNER/NAME, as on GitHub.")
        place["owner"], place["repo"] = repo.split("/")
    if branch is not None:
        if not re.fullmatch(r"[\w-][\w.-]*", branch):  # Binder's address has one part for it
            raise CourseError(
                f"{branch!r} is not a branch that badges can name: letters, digits, - _ . only."
            )
        place["branch"] = branch
    return place


def addressed(folder: Path) -> list[Path]:
    """Every file that says where the course lives."""
    copies = sorted((folder / "notebooks" / "student").glob("*.ipynb"))
    others = [folder / name for name in ("pyproject.toml", "README.md", "CITATION.cff")]
    return [
        *course.find(),
        *copies,
        *(path for path in others if path.exists()),
        *sorted(folder.glob("docs/*.md")),
    ]


def rewritten(text: str, name: str, place: dict[str, str]) -> str:
    """`text` with the addresses of `place`, and README with the table of notebooks."""
    if name == "pyproject.toml":
        for key, value in place.items():
            text = re.sub(rf'(\[tool\.mi-course\][^\[]*?\n{key} = )"[^"]*"', rf'\g<1>"{value}"', text)
        return text
    github = "{owner}/{repo}".format(**place)
    colab = f"https://colab.research.google.com/github/{github}/blob/{place['branch']}/notebooks"
    notebook = name.removeprefix("notebooks/") if name.endswith(".ipynb") else ""
    text = BADGE.sub(lambda found: f"{colab}/{notebook or found[1]}", text)
    text = INSTALL.sub(f"mi_course @ git+https://github.com/{github}@{place['branch']}", text)
    if notebook:
        return nbformat.writes(course.tidy(nbformat.reads(text, as_version=4))) + "\n"
    for pattern, address in ELSEWHERE:
        text = re.sub(pattern, address.format(**place), text)
    return TABLE.sub(lambda found: found[1] + table(colab) + found[2], text)


def missing(text: str, name: str, folder: Path) -> list[str]:
    """What a notebook lacks, and badges that lead nowhere."""
    sought = {"Colab badge": BADGE, "setup cell for Colab": INSTALL} if name.endswith(".ipynb") else {}
    lacking = [f"has no {what}" for what, pattern in sought.items() if not pattern.search(text)]
    if "/student/" in name and not (folder / name.replace("/student/", "/")).exists():
        lacking.append("is a copy of no notebook")
    led = sorted(set(BADGE.findall(text)))
    return lacking + [
        f"has a badge for notebooks/{there}, which does not exist"
        for there in led
        if not (folder / "notebooks" / there).exists()
    ]


def picture(folder: Path, check: bool) -> list[str]:
    """Take README's picture out of the stored notebook that made it; with `check`, only compare."""
    readme = folder / "README.md"
    found = PICTURE.search(readme.read_text(encoding="utf-8")) if readme.exists() else None
    if not found:
        return []
    nb = nbformat.read(course.find([found[2]])[0], as_version=4)
    pages = [
        o.data["text/html"]
        for c in nb.cells
        for o in c.get("outputs", [])
        if "text/html" in o.get("data", {})
    ]
    made = [re.search(r'alt="([^"]*)"[^>]*base64,([A-Za-z0-9+/=]+)', page) for page in pages]
    blobs = [base64.b64decode(m[2]) for m in made if m and unescape(m[1]).startswith(found[1].split(".")[0])]
    if not blobs:
        return [f"README.md shows a figure that {found[2]} does not make: {found[1]}"]
    path = folder / "data" / "figures" / f"{found[2]}.png"
    if path.exists() and path.read_bytes() == blobs[0]:
        return []
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blobs[0])
        return []
    return [f"{path.name} is not the figure that {found[2]} stores: python -m mi_course badges"]


def table(colab: str) -> str:
    """README's table of notebooks, from what each says in its opening cells."""
    from mi_course import site

    lines = ["| Notebook | Question | Measured on two CPU cores | |", "|---|---|---|---|"]
    for path in course.find():
        nb = nbformat.read(path, as_version=4)
        title, question, measured = site.title_of(nb, path.stem), site.question_of(nb), site.measured_of(nb)
        badge = f"[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}/{path.name})"
        lines.append(f"| [{title}](notebooks/{path.name}) | {question} | {measured} | {badge} |")
    return "\n".join(lines) + "\n"
