"""Student copies, badges and README's table, on notebooks of a few cells."""

import nbformat
import pytest

from mi_course.course import badges, classroom, notebooks, places
from mi_course.errors import CourseError
from tests.conftest import notebook

SOLVED = "def f(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION"
SETUP = '"mi_course @ git+https://github.com/someone/else@old"'
BADGE = (
    "# Bigrams\n[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/someone/else/blob/old/notebooks/90_wrong.ipynb)\n\n"
    "What can one token tell?\n\n*Measured on two CPU cores: about 40 s, 0.9 GB.*"
)


def test_a_student_copy_keeps_the_exercise_and_loses_the_solution(clone, tmp_path):
    clone("90_bigrams", "# T", SOLVED, "f(1)\n### BEGIN HIDDEN TESTS\nassert f(2) == 4\n### END HIDDEN TESTS")
    classroom.student(["90"], tmp_path / "class")
    copy = nbformat.read(tmp_path / "class" / "90_bigrams.ipynb", 4)
    nbformat.validate(copy)
    assert [cell.source for cell in copy.cells[2:]] == [
        "def f(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()",
        "f(1)",
    ]
    assert all(cell.get("outputs", []) == [] for cell in copy.cells)


def test_a_student_copy_never_overwrites_the_course(clone):
    clone("90_bigrams", SOLVED)
    with pytest.raises(CourseError, match="choose another folder"):
        classroom.student(out=clone.root / "notebooks")


def test_markers_that_do_not_match_are_named():
    with pytest.raises(CourseError, match="do not match"):
        classroom.student_copy(notebook("x = 0\n### BEGIN SOLUTION\n1"))
    with pytest.raises(CourseError, match="do not match"):
        classroom.student_copy(notebook("1\n### END SOLUTION"))


def test_solutions_are_cleared_as_nbgrader_clears_them():
    preprocessors = pytest.importorskip("nbgrader.preprocessors")
    for source in (
        SOLVED,
        f"a = 1\n{SOLVED}\n\nif a:\n        ### BEGIN SOLUTION\n        b = 2\n        ### END SOLUTION\n    pass\n",
        "f(1)\n### BEGIN HIDDEN TESTS\nassert f(2) == 4\n### END HIDDEN TESTS\ng(2)",
        *(cell.source for cell in nbformat.read(places.find(["00"])[0], 4).cells if cell.cell_type == "code"),
    ):
        nb = notebook(source)
        for theirs in (preprocessors.ClearSolutions, preprocessors.ClearHiddenTests):
            nb, _ = theirs(enforce_metadata=False).preprocess(nb, {})
        assert classroom.cleared(source) == nb.cells[0].source.rstrip("\n")


def test_what_a_learner_wrote_is_never_overwritten(clone, capsys):
    clone("90_bigrams", "# T", SOLVED)
    copies = clone.root / "notebooks" / "student"
    assert classroom.student() == classroom.student() == 0  # untouched copies are renewed without a word
    assert capsys.readouterr().err == ""
    copy = copies / "90_bigrams.ipynb"
    nb = nbformat.read(copy, 4)
    nb.cells[2].source = nb.cells[2].source.replace("raise NotImplementedError()", "return x + x")
    nbformat.write(nb, copy)
    assert classroom.student() == 0
    told = capsys.readouterr().err
    assert "somebody has written in it." in told and "return x + x" in copy.read_text()
    clone("90_bigrams", "# T", "x = 3", SOLVED)
    classroom.student()
    assert "the notebook has changed since" in capsys.readouterr().err and "return x + x" in copy.read_text()


def test_a_copy_that_was_only_run_is_renewed(clone, capsys):
    path = clone("90_bigrams", "# T", SOLVED)
    classroom.student()
    copy = clone.root / "notebooks" / "student" / path.name
    nb = nbformat.read(copy, 4)
    nb.cells[2].execution_count = 7
    nbformat.write(nb, copy)
    assert not classroom.edited(copy)


def test_badges_are_rewritten_once_and_checked(clone, capsys):
    path = clone("90_bigrams", BADGE, SETUP)
    readme = clone.root / "README.md"
    readme.write_text("# R\n<!-- notebooks -->\n<!-- /notebooks -->\n")
    assert badges.badges(check=True) == 1 and "out of date" in capsys.readouterr().out
    assert badges.badges() == 0 and badges.badges(check=True) == 0
    text = path.read_text()
    assert "github/mi-course/mi_course/blob/main/notebooks/90_bigrams.ipynb" in text
    assert "mi_course@git+https://github.com/mi-course/mi_course@main" in text
    assert (
        "| [Bigrams](notebooks/90_bigrams.ipynb) | What can one token tell? | 40 s, 0.9 GB |"
        in readme.read_text()
    )


def everything_addressed(clone) -> dict[str, str]:
    """A clone with every kind of file that says where the course lives; their texts by name."""
    clone("90_bigrams", BADGE, SETUP)
    (clone.root / "notebooks" / "student").mkdir()
    clone("student/90_bigrams", BADGE, SETUP)
    (clone.root / "README.md").write_text(
        "git clone https://github.com/a/b && cd b\npip install git+https://github.com/a/b\n"
        "[![B](b.svg)](https://mybinder.org/v2/gh/a/b/old?labpath=notebooks)\n<!-- notebooks -->\n<!-- /notebooks -->\n"
    )
    (clone.root / "CITATION.cff").write_text('repository-code: "https://github.com/a/b"\n')
    (clone.root / "docs").mkdir()
    (clone.root / "docs" / "own.md").write_text(
        "[open](" + BADGE.split("(")[-1].split(")")[0].replace("90_wrong", "student/90_bigrams") + ")\n"
    )
    return {
        path.relative_to(clone.root).as_posix(): path.read_text() for path in badges.addressed(clone.root)
    }


def test_a_fork_names_itself_once(clone, capsys):
    before = everything_addressed(clone)
    assert badges.badges(repo="Some-One/my.course", branch="v1.2") == 0
    place = places.tomllib.loads((clone.root / "pyproject.toml").read_text())["tool"]["mi-course"]
    assert place == {"owner": "Some-One", "repo": "my.course", "branch": "v1.2"}
    assert sorted(line.split(": ")[1] for line in capsys.readouterr().out.splitlines()) == sorted(before)
    after = {name: (clone.root / name).read_text() for name in before}
    for name, text in after.items():
        assert "someone/else" not in text and "github.com/a/b" not in text and "gh/a/b" not in text, name
    colab = "https://colab.research.google.com/github/Some-One/my.course/blob/v1.2/notebooks/"
    assert colab + "90_bigrams.ipynb" in after["notebooks/90_bigrams.ipynb"]
    assert colab + "student/90_bigrams.ipynb" in after["notebooks/student/90_bigrams.ipynb"]
    assert colab + "student/90_bigrams.ipynb" in after["docs/own.md"]
    assert "git+https://github.com/Some-One/my.course@v1.2" in after["notebooks/student/90_bigrams.ipynb"]
    assert "git clone https://github.com/Some-One/my.course && cd my.course\n" in after["README.md"]
    assert "https://mybinder.org/v2/gh/Some-One/my.course/v1.2?labpath=notebooks" in after["README.md"]
    assert "blob/v1.2/notebooks/student/90_bigrams.ipynb)" in after["README.md"], (
        "a learner starts in the copy"
    )
    assert after["CITATION.cff"] == 'repository-code: "https://github.com/Some-One/my.course"\n'
    assert badges.badges(check=True) == 0 and badges.badges() == 0


def test_the_rest_of_pyproject_stays(clone):
    before = (clone.root / "pyproject.toml").read_text()
    badges.badges(repo="some/one")
    after = (clone.root / "pyproject.toml").read_text()
    changed = [line for line in before.splitlines() if line not in after.splitlines()]
    assert changed == ['owner = "mi-course"', 'repo = "mi_course"']


def test_a_check_of_another_address_changes_nothing(clone, capsys):
    everything_addressed(clone)
    badges.badges()
    before = {path: path.read_bytes() for path in badges.addressed(clone.root)}
    capsys.readouterr()
    assert badges.badges(check=True, repo="some/one") == 1
    said = capsys.readouterr().out
    assert all(f"{path.relative_to(clone.root).as_posix()} is out of date" in said for path in before)
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("address", [{"repo": "mi_course"}, {"repo": "a/b/c"}, {"repo": ""}, {"branch": "a b"}, {"branch": "x/y"}, {"branch": ""}])  # fmt: skip
def test_an_address_that_cannot_be_is_one_sentence(clone, address):
    with pytest.raises(CourseError, match="is not a"):
        badges.badges(**address)


def test_badges_that_lead_nowhere_are_named(clone, capsys):
    everything_addressed(clone)
    badges.badges()
    readme = clone.root / "README.md"
    readme.write_text(readme.read_text() + BADGE.split("\n\n")[0].removeprefix("# Bigrams\n"))
    (clone.root / "notebooks" / "90_bigrams.ipynb").rename(clone.root / "notebooks" / "91_renamed.ipynb")
    capsys.readouterr()
    assert badges.badges(check=True) == 1
    said = capsys.readouterr().out
    assert "README.md has a badge for notebooks/90_wrong.ipynb, which does not exist." in said
    assert "notebooks/student/90_bigrams.ipynb is a copy of no notebook." in said


def test_a_notebook_edited_by_hand_is_tidied(clone):
    path = clone("90_bigrams", BADGE, SETUP)
    badges.badges()
    nb = nbformat.read(path, 4)
    nb.cells[0].source += " Edited."
    nb.cells[1].metadata["trusted"] = True
    nbformat.write(nb, path)
    assert badges.badges(check=True) == 1 and badges.badges() == 0
    assert nbformat.writes(notebooks.tidy(nb)) + "\n" == path.read_text()


def test_the_setup_cell_fetches_what_cells_need_on_colab_and_no_more():
    setup = 'import x\n    %pip install -q "${SPEC:-mi_course@git+https://github.com/a/b@main}"\nimport torch'
    nb = notebook(setup)
    nb.cells += [nbformat.v4.new_code_cell(source) for source in (
        "# needs smollm2-135m-instruct\nx", "# needs efficientnet-lite0, smollm2-135m-instruct\ny")]  # fmt: skip
    nb.cells[0].metadata.tags = ["setup"]
    lines = badges.fetching(nb).cells[0].source.splitlines()
    assert (
        lines[2]
        .strip()
        .startswith("!{sys.executable} -m mi_course fetch efficientnet-lite0 smollm2-135m-instruct")
    )
    assert badges.fetching(nb).cells[0].source.splitlines() == lines, "once is enough"
    nb.cells[0].source = alone = setup.removesuffix("\nimport torch")
    assert badges.fetching(nb).cells[0].source == "\n".join(lines[:3]), "also where no import follows"
    nb.cells = nb.cells[:1]
    assert badges.fetching(nb).cells[0].source == alone, "and it goes when no cell needs one"


def test_a_notebook_without_badge_or_setup_is_named(clone, capsys):
    clone("90_bare", "# T", "1")
    assert badges.badges() == 1
    assert (
        "90_bare.ipynb has no Colab badge." in (said := capsys.readouterr().out) and "no setup cell" in said
    )


def test_readmes_picture_is_the_one_a_notebook_stores(clone, capsys):
    path = clone("90_bigrams", BADGE, "import sys\n" + SETUP)
    nb = nbformat.read(path, as_version=4)
    html = '<img alt="It falls. A line goes down." src="data:image/png;base64,cG5n">'
    nb.cells[1].outputs = [nbformat.v4.new_output("display_data", {"text/html": html})]
    nbformat.write(nb, path)
    picture = clone.root / "data" / "figures" / "90_bigrams.png"
    (clone.root / "README.md").write_text("![It falls. Down.](data/figures/90_bigrams.png)\n")
    assert badges.picture(clone.root, check=True), "not there yet"
    assert badges.picture(clone.root, check=False) == [] and picture.read_bytes() == b"png"
    assert badges.picture(clone.root, check=True) == []
    picture.write_bytes(b"another")
    assert "not the figure" in badges.picture(clone.root, check=True)[0]
    (clone.root / "README.md").write_text("![It rises. Up.](data/figures/90_bigrams.png)\n")
    assert "does not make" in badges.picture(clone.root, check=True)[0]
