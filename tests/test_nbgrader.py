"""A class in the real nbgrader: generate an assignment, collect what students do to notebooks, autograde.

All hand in notebook 00, cut down to its set-up and exercises so that many can be graded: right, wrong, empty-handed, with
cells deleted, reordered, renamed, changed, and one that never ends.
"""

import html
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from mi_course.course import classroom, feedback, places
from tests.test_browser import browser, opened  # noqa: F401 — a fixture

pytest.importorskip("nbgrader", reason="graded assignments need mi-course[class]")
from nbgrader.api import Gradebook  # noqa: E402
from nbgrader.nbgraderformat import MetadataValidator  # noqa: E402

NAME = "00_tools_tour"
EXERCISES = {e.name: e for e in classroom.exercises(["00"])}


def cell(nb: nbformat.NotebookNode, grade_id: str) -> nbformat.NotebookNode:
    return next(c for c in nb.cells if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


def answered(nb, *names: str, by: Callable[[str], str]) -> None:
    """Another answer in the place of each of these."""
    for name in names:
        cell(nb, name).source = by(EXERCISES[name].answer)


def wrong(nb) -> None:
    answered(nb, *EXERCISES, by=lambda right: right.replace("    ### BEGIN SOLUTION", "    return 0"))


def half_done(nb) -> None:
    """Two are wrong, one was never begun, one has an error in its syntax."""
    answered(
        nb, "zero-head", "direct-effect", by=lambda right: right.replace("    return ", "    return 2 * ")
    )
    answered(nb, "mean-ablate", by=lambda right: right.splitlines()[0] + "\n    raise NotImplementedError()")
    answered(nb, "hook-names", by=lambda right: "def hook_names(:")


def deleted(nb) -> None:
    """An answer, a check, and both."""
    for grade_id in ("zero-head", "mean-ablate-check", "direct-effect", "direct-effect-check"):
        nb.cells.remove(cell(nb, grade_id))


def moved(nb) -> None:
    """One check stands before its answer; two exercises changed places, which does no harm; one has another name."""
    swaps = [
        ("zero-head", "zero-head-check"),
        ("hook-names", "mean-ablate"),
        ("hook-names-check", "mean-ablate-check"),
    ]
    for pair in swaps:
        a, b = (nb.cells.index(cell(nb, grade_id)) for grade_id in pair)
        nb.cells[a], nb.cells[b] = nb.cells[b], nb.cells[a]
    answered(nb, "direct-effect", by=lambda right: right.replace("def direct_effect", "def my_effect"))


def hostile(nb) -> None:
    """A loop that never ends; a check that was made to say yes, and worth more."""
    answered(nb, "mean-ablate", by=lambda right: "while True:\n    pass")
    answered(nb, "zero-head", by=lambda right: "zero_head = None")
    cell(nb, "zero-head-check").source = "print('✔ zero head')"
    cell(nb, "zero-head-check").metadata.nbgrader.points = 100


STUDENTS = {  # what they do to a right notebook, and the exercises for which they get nothing
    "right": (lambda nb: None, []),
    "wrong": (wrong, EXERCISES),
    "half-done": (half_done, ["zero-head", "direct-effect", "mean-ablate", "hook-names"]),
    "deleted": (deleted, ["zero-head", "mean-ablate", "direct-effect"]),
    "moved": (moved, ["zero-head", "direct-effect"]),
    "hostile": (hostile, ["zero-head", "mean-ablate"]),
}


def nbgrader(folder: Path, *arguments: str) -> str:
    """What nbgrader says; it looks for its tools on PATH, as in an activated environment."""
    before = {"PATH": Path(sys.executable).parent, "PYTHONPATH": Path(__file__).parents[1]}
    found = {name: f"{path}{os.pathsep}{os.environ.get(name, '')}" for name, path in before.items()}
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=folder, capture_output=True, text=True, env=os.environ | found, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """A course folder with everything handed in and graded."""
    folder = tmp_path_factory.mktemp("class")
    classroom.student(["00"], out=folder, nbgrader=True)
    source = folder / "source" / NAME / f"{NAME}.ipynb"
    nb = nbformat.read(source, 4)
    nb.cells = [c for c in nb.cells if {"nbgrader", "setup"} & {*c.metadata, *c.metadata.get("tags", [])}]
    nb.cells.insert(
        1, nbformat.v4.new_markdown_cell(r"Causal: $A_{qk} = 0$ for $k > q$, and $$\sum_k A_{qk} = 1.$$")
    )
    nbformat.write(nb, source)
    nbgrader(folder, "generate_assignment", NAME)
    for student, (change, _) in STUDENTS.items():
        nb = nbformat.read(folder / "release" / NAME / f"{NAME}.ipynb", 4)
        answered(nb, *EXERCISES, by=lambda right: right)
        change(nb)
        handed_in = folder / "submitted" / student / NAME / f"{NAME}.ipynb"
        handed_in.parent.mkdir(parents=True)
        nbformat.write(nb, handed_in)
    (folder / "said.txt").write_text(nbgrader(folder, "autograde", NAME, "--Execute.timeout=20"))
    nbgrader(folder, "generate_feedback", NAME)
    return folder


def test_the_source_is_valid_and_its_ids_stay(tmp_path):
    for folder in ("one", "two"):
        classroom.student(["00"], out=tmp_path / folder, nbgrader=True)
    one, two = (tmp_path / folder / "source" / NAME / f"{NAME}.ipynb" for folder in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    nb = nbformat.read(one, 4)
    nbformat.validate(nb)
    marked = [c for c in nb.cells if "nbgrader" in c.metadata]
    for c in marked:
        MetadataValidator().validate_cell(c)
    ids = [c.metadata.nbgrader.grade_id for c in marked]
    assert ids == [grade_id for name in EXERCISES for grade_id in (name, f"{name}-check")]


def test_the_release_holds_no_solution(room):
    release = nbformat.read(room / "release" / NAME / f"{NAME}.ipynb", 4)
    assert not any("SOLUTION" in c.source for c in release.cells)
    assert sum("raise NotImplementedError()" in c.source for c in release.cells) == len(EXERCISES)
    for name in EXERCISES:
        assert cell(release, f"{name}-check").metadata.editable is False, (
            "a student cannot change a check by accident"
        )


@pytest.mark.parametrize("student", STUDENTS)
def test_the_points_are_right(room, student):
    lost = {f"{name}-check": 0 for name in STUDENTS[student][1]}
    with Gradebook(f"sqlite:///{room}/gradebook.db") as book:
        (notebook,) = book.find_submission(NAME, student).notebooks
        assert notebook.max_score == sum(e.stars for e in EXERCISES.values())
        points = {grade.name: grade.score for grade in notebook.grades}
    assert points == {f"{e.name}-check": e.stars for e in EXERCISES.values()} | lost


def test_only_what_has_no_check_any_more_waits_for_a_person(room):
    with Gradebook(f"sqlite:///{room}/gradebook.db") as book:
        notebooks = [n for s in book.assignment_submissions(NAME) for n in s.notebooks]
        waiting = {
            (n.student.id, grade.name) for n in notebooks for grade in n.grades if grade.needs_manual_grade
        }
    assert waiting == {("deleted", "mean-ablate-check"), ("deleted", "direct-effect-check")}


def test_nobody_was_left_out(room):
    said = (room / "said.txt").read_text()
    assert "There was an error processing" not in said
    assert "Interrupting kernel" in said, "the endless one was stopped"


def test_a_student_reads_what_went_wrong(room):
    nb = nbformat.read(room / "autograded" / "half-done" / NAME / f"{NAME}.ipynb", 4)
    (error,) = cell(nb, "zero-head-check").outputs
    assert error.ename == "CheckFailed" and len(error.traceback) == 1, "a sentence, no traceback"


def test_feedback_names_the_exercises_and_asks_for_nothing(room):
    for student in ("half-done", "deleted"):
        page = (room / "feedback" / student / NAME / f"{NAME}.html").read_text(encoding="utf-8")
        assert "Test cell" not in page and "Grade cell" not in page
        assert re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=["']?(?:https?:)?//""", page) == []
        graded = re.findall(r"""<li><a href="#([\w-]+)">([^<]+)</a> \(Score""", page)
        kept = [e for e in EXERCISES.values() if student != "deleted" or f"#{e.name}-check" in page]
        assert graded == [(f"{e.name}-check", html.escape(e.title)) for e in kept] and len(kept) >= 4
        assert all(e.title for e in kept)
        assert page.count("Check of ") >= len(kept)


def test_feedback_without_a_title_or_a_formula_or_mathjax(monkeypatch):
    page = '<head></head><a href="#zero-head-check">Test cell</a><code>Test cell</code>'
    assert ">zero head</a><code>Test cell" in feedback.named(page, {})
    assert ">a &lt; b</a>" in feedback.named(page, {"zero-head-check": "a < b"})
    assert "MathJax" in feedback.offline(page) and "MathJax" not in feedback.offline(page, formulas=False)
    monkeypatch.setattr(places, "mathjax", lambda: None)
    assert feedback.offline(page) == page


def test_formulas_of_a_feedback_page_are_drawn(browser, room):  # noqa: F811
    with opened(browser) as page:
        page.goto((room / "feedback" / "right" / NAME / f"{NAME}.html").as_uri())
        page.wait_for_load_state("load")
        page.evaluate("MathJax.startup.promise")
        assert page.locator("mjx-container svg").count() == 3
        assert all(url.startswith(("file:", "data:")) for url in page.asked)
