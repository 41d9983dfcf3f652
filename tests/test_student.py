"""Student copies: what they leave out, that they are current, and that they run without an answer."""

import json
import re
import symtable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from mi_course.course import classroom, cli, places, seeds
from mi_course.offline import steady_environment
from tests.conftest import ROOT, notebook

STORED = places.find()
SOLVED = "def f(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION"
STUB = "def f(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()"
each = pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)


def copy_of(path: Path, seed: int | None = None) -> nbformat.NotebookNode:
    return classroom.student_copy(nbformat.read(path, 4), path.stem, seed)


# -- the committed copies --------------------------------------------------------------------------------


@each
def test_the_committed_copy_is_current(path):
    stored = (ROOT / "notebooks" / "student" / path.name).read_text(encoding="utf-8")
    assert stored == nbformat.writes(copy_of(path)) + "\n", "python -m mi_course student"


def test_there_is_a_copy_of_every_notebook_and_no_other_file():
    assert {p.name for p in (ROOT / "notebooks" / "student").glob("*.ipynb")} == {p.name for p in STORED}


def test_nothing_takes_a_copy_for_the_course():
    assert not any("student" in path.parts for path in places.find())
    assert "student" not in places.find(["notebooks/student/00_tools_tour.ipynb"])[0].parts
    assert {path.parent.name for path in places.find()} == {"notebooks"}, "nbval compares the course alone"


@each
def test_a_copy_is_the_notebook_without_its_answers(path):
    """The same cells in the same order, but for the word to the learner and what was parted."""
    nb, copy = classroom.parted(nbformat.read(path, 4)), copy_of(path)
    del copy.cells[1]
    assert len(nb.cells) == len(copy.cells)
    changed = [i for i, (a, b) in enumerate(zip(nb.cells, copy.cells, strict=True)) if a.source != b.source]
    assert changed == [0] + [i for i, c in enumerate(nb.cells) if "### BEGIN SOLUTION" in c.source]
    assert f"/notebooks/student/{path.name})" in copy.cells[0].source, "the badge opens the copy"
    assert not any("SOLUTION" in c.source or c.get("outputs") for c in copy.cells)


@each
def test_every_exercise_has_stub_check_and_statement(path):
    found = classroom.exercises([path.stem])
    assert len(found) >= 5, "at least five exercises with a check (CONTRIBUTING.md)"
    assert all(e.title and e.misconception and 1 <= e.stars <= 3 and e.minutes for e in found)
    assert len({e.name for e in found}) == len(found)
    copy = copy_of(path)
    asked = sum("raise NotImplementedError()" in c.source for c in copy.cells if c.cell_type == "code")
    assert asked == len(found) == nbformat.writes(nbformat.read(path, 4)).count("### BEGIN SOLUTION")


@each
def test_no_other_cell_needs_an_answer(path):
    """Whoever skips an exercise is not stuck: what it defines is used by its check alone."""
    nb = classroom.parted(nbformat.read(path, 4))
    for answer, check in classroom.pairs(nb):
        mine, _ = names(nb.cells[answer].source)
        for cell in nb.cells[check + 1 :]:
            if cell.cell_type == "code":
                defined, used = names(cell.source)
                assert not (used - defined) & mine, cell.source
                mine -= defined


def names(source: str) -> tuple[set[str], set[str]]:
    """What a cell defines, and which names it takes from the notebook, also inside its functions."""
    top = symtable.symtable(re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE), "cell", "exec")
    tables = [top]
    for table in tables:
        tables += table.get_children()
    used = {
        s.get_name()
        for t in tables
        for s in t.get_symbols()
        if s.is_referenced() and (t is top or s.is_global())
    }
    return {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}, used


@pytest.mark.parametrize("number", ["00", "02"])
def test_a_copy_runs_from_start_to_end_without_an_answer(number):
    """Nothing fails but the checks of what is not written; every demonstration shows what it shows in the course."""
    (path,) = places.find([number])
    nb = nbformat.read(ROOT / "notebooks" / "student" / path.name, 4)
    client = NotebookClient(nb, timeout=300, kernel_name="python3", extra_arguments=["--log-level=50"])
    client.execute(env=steady_environment(ROOT / "build" / "ipython"), cwd=str(path.parent))
    failed = [(o.ename, o.evalue) for c in nb.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert {name for name, _ in failed} == {"CheckFailed"}
    assert all("not written yet" in said for _, said in failed)
    assert len(failed) == len(classroom.exercises([number]))
    shown = [
        c for c in nb.cells if c.cell_type == "code" and c.outputs and c.outputs[0].output_type != "error"
    ]
    stored = [c for c in nbformat.read(path, 4).cells if c.get("outputs")]
    assert len(shown) == len(stored) - len(failed)


# -- the command --------------------------------------------------------------------------------------------


def test_answer_and_check_in_one_cell_are_parted(clone, tmp_path):
    clone("90_bigrams", "# T", f"{SOLVED}\n\n\nchecks.check_double(f)")
    classroom.student(["90"], tmp_path / "class")
    copy = nbformat.read(tmp_path / "class" / "90_bigrams.ipynb", 4)
    assert [c.source for c in copy.cells[2:]] == [STUB, "checks.check_double(f)"]
    assert all(c.metadata.tags == ["raises-exception"] for c in copy.cells[2:])


def test_without_a_folder_the_committed_copies_are_renewed(clone):
    clone("90_bigrams", "# T", SOLVED)
    assert cli.main(["student"]) == 0
    assert (clone.root / "notebooks" / "student" / "90_bigrams.ipynb").exists()


def test_a_variant_has_another_seed_and_says_so(clone, capsys):
    clone("90_bigrams", "# T", "SEED = 0  # everything", SOLVED)
    clone("91_fixed", "# T", "seed = 0", SOLVED)
    assert cli.main(["student", "--seed", "7"]) == 0
    said = capsys.readouterr()
    assert "91_fixed has no line SEED = 0" in said.err and "90" not in said.err
    folder = clone.root / "build" / "student-seed7"
    copy = nbformat.read(folder / "90_bigrams.ipynb", 4)
    assert "Variant 7" in copy.cells[1].source and copy.cells[2].source == "SEED = 7  # everything"
    same = nbformat.read(folder / "91_fixed.ipynb", 4)
    assert "Variant" not in same.cells[1].source, "it is no variant"
    assert not (clone.root / "notebooks" / "student").exists(), (
        "a variant does not touch the committed copies"
    )


def test_a_variant_of_the_course_still_has_its_exercises():
    (path,) = places.find(["04"])
    nb = nbformat.read(path, 4)
    assert seeds.reseed(nb, 5) == 1
    before, after = copy_of(path), classroom.student_copy(nb, path.stem, 5)
    changed = [a.source for a, b in zip(after.cells, before.cells, strict=True) if a.source != b.source]
    assert len(changed) == 2 and "Variant 5" in changed[0] and "SEED = 5" in changed[1]


def test_the_teachers_page_says_which_notebooks_have_variants():
    rows = re.findall(
        r"^\| (yes|no) \| ([\d, ]+) \|", (places.root() / "docs" / "teaching.md").read_text("utf-8"), re.M
    )
    said = {number: answer for answer, numbers in rows for number in numbers.split(", ")}
    found = {path.name[:2]: seeds.reseed(nbformat.read(path, 4), 5) == 1 for path in places.find()}
    assert said == {number: "yes" if variant else "no" for number, variant in found.items()}


def test_nbgraders_folder_has_solutions_and_points(clone, tmp_path):
    words = "# Exercises\n### Exercise 1 · Double (★★, 5 minutes)\n*Misconception: none.*"
    clone("90_bigrams", "# T", words, SOLVED, "checks.check_double(f)")
    assert cli.main(["student", "--for", "nbgrader", "--out", str(tmp_path)]) == 0
    nb = nbformat.read(tmp_path / "source" / "90_bigrams" / "90_bigrams.ipynb", 4)
    answer, check = nb.cells[-2:]
    assert (
        answer.source == SOLVED and answer.metadata.nbgrader.solution and not answer.metadata.nbgrader.grade
    )
    assert check.metadata.nbgrader.points == 2 and check.metadata.nbgrader.locked
    assert [c.metadata.nbgrader.grade_id for c in (answer, check)] == ["double", "double-check"]
    compile((tmp_path / "nbgrader_config.py").read_text(), "config", "exec")


@pytest.mark.parametrize(
    "line, title, stars, minutes",
    [
        ("**1 · Find the hook** — ★, 5 minutes. *You learn.*", "Find the hook", 1, 5),
        ("### Exercise 2 · Count (★★, 15 minutes)", "Count", 2, 15),
        ("### Exercise 3 · The pattern ★★★ 10 minutes", "The pattern", 3, 10),
        ("### Exercise 4 ★ (10 min): what would it say?", "what would it say?", 1, 10),
        ("### Exercise 5 · Twenty columns ★ (5 minutes)", "Twenty columns", 1, 5),
        ("### An exercise of another kind", "", 1, 10),
    ],
)
def test_exercises_are_read_as_they_are_written(line, title, stars, minutes):
    nb = notebook(
        f"# Words\n\n{line}\n\n*Common misconception:* that it\nis easy.\n\nMore.",
        SOLVED,
        "checks.check_a_b(f)",
    )
    exercise = classroom.stated("90_x", nb, 1, 2)
    assert (exercise.title, exercise.stars, exercise.minutes) == (title, stars, minutes)
    assert exercise.name == "a-b" and exercise.misconception == "that it is easy."


@pytest.mark.parametrize("asked", [["student", "--seed", "x"], ["student", "--for", "moodle"]])
def test_what_is_not_understood_exits_with_2(asked):
    assert cli.main(asked) == 2


def test_a_folder_that_cannot_be_written_is_one_sentence(clone, tmp_path, capsys):
    clone("90_bigrams", "# T", SOLVED)
    (tmp_path / "file").write_text("")
    assert cli.main(["student", "--out", str(tmp_path / "file")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("mi_course: ") and said.count("\n") == 1


def test_copies_are_plain_json_with_stable_ids():
    for path in (ROOT / "notebooks" / "student").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert len({cell["id"] for cell in cells}) == len(cells)
        assert {key for cell in cells for key in cell["metadata"]} <= {"tags", "jupyter"}
