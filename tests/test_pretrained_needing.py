"""Cells that need an absent model: skipped in one sentence, their claims not run; with the model, untouched."""

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from mi_course import claims, pretrained
from mi_course.course import notebooks
from mi_course.errors import CourseError
from mi_course.pretrained import needing, registry

MARK = "# needs smollm2-135m-instruct"


@pytest.mark.parametrize("source, models", [
    (f"{MARK}\nx = 1", ["smollm2-135m-instruct"]),
    (f"# first words\n\n  {MARK}\nx = 1", ["smollm2-135m-instruct"]),
    ("# needs one, two-b\nx", ["one", "two-b"]),
    (MARK, ["smollm2-135m-instruct"]),
    (f"x = 1\n{MARK}", []),
    (f"x = 1  {MARK}", []),
    ("# it needs one\nx", []),
    ("", []),
])  # fmt: skip
def test_a_cell_says_what_it_needs_before_its_first_line(source, models):
    assert needing.needs(source) == models


def test_a_name_that_nobody_carries_is_a_mistake():
    with pytest.raises(
        CourseError, match="No package is known to carry .smollm2.. Known: smollm2-135m-instruct"
    ):
        needing.absent("# needs smollm2\nx")


def test_outside_a_notebook_it_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("MI_COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(needing, "_shell", lambda: None)  # another test of this process may have left a shell
    with pytest.raises(CourseError, match="python -m mi_course fetch efficientnet-lite0"):
        pretrained.need("efficientnet-lite0")


def ran(tmp_path, monkeypatch, here: bool) -> nbformat.NotebookNode:
    monkeypatch.setenv("MI_COURSE_CACHE", str(tmp_path))
    monkeypatch.setenv("FAKE_HERE", "1" if here else "")
    sources = [
        "import os\nfrom mi_course import claims, pretrained\nfrom mi_course.pretrained import needing\n"
        "if os.environ['FAKE_HERE']: needing.here = lambda name: True",
        "pretrained.need('smollm2-135m-instruct')",
        f"{MARK}\nreal = 2\nprint('ran')",
        f"{MARK}\nif real == 3:\n    claims.settle('TT-01', reached=1)\n    claims.settle( \"MF-02\", x=1)\nreal",
        "claims.verdicts('00')",
        "1 + 1",
    ]
    nb = new_notebook(cells=[new_code_cell(source) for source in sources])
    NotebookClient(nb, kernel_name="python3", timeout=120).execute()
    return nb


def shown(cell) -> list[str]:
    return [output.get("text") or output.data["text/plain"] for output in cell.outputs]


def test_with_the_model_cells_run_as_they_stand(tmp_path, monkeypatch):
    nb = ran(tmp_path, monkeypatch, here=True)
    assert [shown(cell) for cell in nb.cells[1:4]] == [[], ["ran\n"], ["2"]]
    assert notebooks.unrun_cells(nb) == []


def test_without_it_they_are_skipped_and_their_claims_not_run(tmp_path, monkeypatch):
    nb = ran(tmp_path, monkeypatch, here=False)
    (told,), (skipped,), (again, verdicts) = (shown(cell) for cell in nb.cells[1:4])
    assert "gets it once" in told and told.count("\n") == 1
    assert skipped == again and skipped.startswith("Skipped: smollm2-135m-instruct is not on this machine")
    assert verdicts == "TT-01 · not run here\nMF-02 · not run here"
    assert "TT-01 · not run here" in shown(nb.cells[4])[0] and shown(nb.cells[5]) == ["2"]
    assert [problem[:18] for problem in notebooks.unrun_cells(nb)] == [
        "Cell 2 was skipped",
        "Cell 3 was skipped",
    ]
    nbformat.write(nb, tmp_path / "00_toy.ipynb")
    board = claims.Scoreboard.from_notebooks([tmp_path / "00_toy.ipynb"])
    assert board.counts() == {"not run here": 2, "open": 1}
    assert board.problems() == ["OP-01 in notebook 00 is not settled."]


def test_need_is_registered_once_and_looks_again_each_time(tmp_path, monkeypatch):
    """Once the model has been fetched, its cells run without a restart."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    monkeypatch.setattr(needing, "_shell", lambda: shell)
    monkeypatch.setenv("MI_COURSE_CACHE", str(tmp_path))
    pretrained.need("smollm2-135m-instruct")
    pretrained.need()
    assert shell.input_transformers_cleanup.count(needing._skipping) == 1
    assert "skipped(['smollm2-135m-instruct'], [])" in shell.transform_cell(f"{MARK}\nx = 1")
    assert shell.transform_cell("x = 1\n") == "x = 1\n"
    monkeypatch.setattr(needing, "here", lambda name: True)
    assert shell.transform_cell(f"{MARK}\nx = 1\n") == f"{MARK}\nx = 1\n"


def test_a_cell_that_forgot_to_say_so_is_found():
    def problems(*sources):
        return notebooks.unmarked_cells(new_notebook(cells=[new_code_cell(source) for source in sources]))

    assert problems("x = 1", f"{MARK}\nreal = 1\nx = real", "x + 1", f"{MARK}\nreal") == []
    assert problems(f"{MARK}\nreal = 1", "print(real)") == [
        f"Cell 1 uses real: its first line must be `{MARK}`."
    ]
    assert problems(f"{MARK}\nreal = 1", "real = 2", "real") == []
    assert problems(f"{MARK}\ndef f(x): return x", "lambda x: x", "y = f(1)")[0].startswith("Cell 2 uses f:")
    assert problems(f"{MARK}\nreal = 1", "%time real") == []  # no plain Python


def test_not_run_wants_known_claims():
    with pytest.raises(CourseError, match="no claim 'TT-99'"):
        claims.not_run("TT-99")


def test_every_model_can_be_needed():
    assert set(registry.CARRIED) == {
        name for name in registry.CARRIED if needing.needs(f"# needs {name}\n") == [name]
    }
