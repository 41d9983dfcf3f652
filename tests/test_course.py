"""The runner, the guard, storing: on notebooks of three cells."""

import json

import nbformat
import pytest

from mi_course import files
from mi_course.course import notebooks, places, runner, storing
from mi_course.errors import CourseError
from tests.conftest import notebook

# --- finding ---------------------------------------------------------------------------------------


def test_notebooks_are_found_by_number_name_and_path(clone):
    tour, bigrams = clone("90_tools_tour", "1"), clone("91_bigrams", "1")
    assert places.find() == [tour, bigrams]
    assert places.find(["91"]) == places.find(["91_bigrams"]) == places.find([str(bigrams)]) == [bigrams]


@pytest.mark.parametrize(
    "asked, hint", [("91_bigram", "91_bigrams"), ("19", "91"), ("circuits", "90_tools_tour")]
)
def test_an_unknown_notebook_is_answered_with_the_nearest(clone, asked, hint):
    clone("90_tools_tour", "1"), clone("91_bigrams", "1")
    with pytest.raises(CourseError, match=hint):
        places.find([asked])


def test_outside_a_clone_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        places, "__file__", str(tmp_path / "site-packages" / "mi_course" / "course" / "places.py")
    )
    with pytest.raises(CourseError, match="inside a clone"):
        places.root()


# --- running ---------------------------------------------------------------------------------------


@pytest.fixture
def three(clone):
    clone("90_good", "## A", "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['PYTHONHASHSEED'])")
    clone("91_bad", "## A", "x = 1", "1 / 0", "x")
    clone("92_endless", "## A", "while True: pass")
    return clone


def test_one_failure_does_not_stop_the_others_and_is_told_at_the_end(three, capsys):
    assert runner.run(timeout=6, jobs=2) == 1
    said = capsys.readouterr().out
    assert "91_bad.ipynb, cell 2 raised ZeroDivisionError: division by zero" in said
    assert "----> 1 1 / 0" in said and "\x1b[" not in said, "the traceback, and no colours in a pipe"
    assert "92_endless.ipynb, cell 1 did not end within 6 s" in said
    assert "1 of 3 notebooks ran from start to end." in said
    assert said.index("90_good ") < said.index("ZeroDivisionError"), "progress first, failures last"

    ran = json.loads((three.root / "build" / "run.json").read_text())["notebooks"]
    assert ran["90_good"]["seconds"] > 0 and 20 < ran["90_good"]["peak_mb"] < 500
    assert ran["90_good"]["failed"] is None and "ZeroDivisionError" in ran["91_bad"]["failed"]
    executed = nbformat.read(three.root / "build" / "notebooks" / "90_good.ipynb", 4)
    assert executed.cells[1].outputs[0].text == "1 0\n"
    assert "The site" in said, "where it is, or how to get it"
    assert json.loads((three.root / "build" / "scoreboard.json").read_text())["rows"] == []


def test_the_network_is_cut_for_kernels(clone):
    asks = "import urllib.request\ntry:\n    urllib.request.urlopen('http://example.com')\nexcept OSError as e:\n    print(e)"
    (ran,) = runner.execute([clone("90_asks", "## A", asks)], timeout=30)
    assert "The network is switched off here" in ran.nb.cells[1].outputs[0].text


def test_a_kernel_that_dies_is_named(clone):
    (ran,) = runner.execute(
        [clone("90_dies", "## A", "import os, signal; os.kill(os.getpid(), 9)")], timeout=30
    )
    assert "90_dies.ipynb, cell 1 lost its kernel" in ran.result.failed


def test_a_kernel_that_never_answers_stops_no_other_notebook(clone, monkeypatch):
    usual = runner.NotebookClient.execute

    def execute(client, **settings):
        if "mute" in client.nb.cells[1].source:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return usual(client, **settings)

    monkeypatch.setattr(runner.NotebookClient, "execute", execute)
    mute, speaks = runner.execute([clone("90_mute", "## A", "'mute'"), clone("91_two", "## A", "1")])
    assert "90_mute.ipynb, cell 0 could not be run: RuntimeError: Kernel died" in mute.result.failed
    assert not speaks.result.failed and speaks.nb.cells[1].outputs


def test_run_json_keeps_what_other_notebooks_measured(clone):
    clone("90_one", "## A", "1"), clone("91_two", "## A", "2")
    runner.run(["90"]), runner.run(["91"])
    assert set(json.loads((clone.root / "build" / "run.json").read_text())["notebooks"]) == {
        "90_one",
        "91_two",
    }


# --- storing ---------------------------------------------------------------------------------------


def test_storing_twice_changes_nothing(clone):
    path = clone("90_good", "# T", "## A", "1 + 1", "print('a'); print('b')")
    assert runner.run(keep=True) == 0
    first = path.read_text()
    assert runner.run(keep=True) == 0
    assert path.read_text() == first
    stored = nbformat.read(path, 4)
    nbformat.validate(stored)
    assert stored.metadata.kernelspec.name == "python3" and notebooks.unrun_cells(stored) == []
    assert [len(cell.get("outputs", [])) for cell in stored.cells] == [0, 0, 1, 1], "one stream, not two"


def test_what_is_made_from_a_stored_notebook_is_renewed_with_it(clone):
    """A copy for students that was forgotten has cost a landing."""
    path = clone("90_good", "# T\n\n*Measured on two CPU cores: about X s, Y GB.*\n\nMore.", "## A", "1")
    (clone.root / "docs").mkdir()
    (clone.root / "docs" / "nulls.md").write_text("of yesterday")
    assert runner.run(keep=True, measure=True, then=storing.renewed) == 0
    copy = clone.root / "notebooks" / "student" / path.name
    assert (
        "about 5 s" in copy.read_text()
        and "of yesterday" not in (clone.root / "docs" / "nulls.md").read_text()
    )
    clone("91_bad", "## A", "1 / 0")
    assert (
        runner.run(["91"], keep=True, then=storing.renewed) == 1
        and not copy.with_name("91_bad.ipynb").exists()
    )


@pytest.mark.parametrize("cells, why", [(("## A", "1 / 0"), "failed"), (("## A", "x = 1"), "Section 'A'")])
def test_what_failed_or_says_nothing_is_not_stored(clone, capsys, cells, why):
    path = clone("90_bad", *cells)
    before = path.read_text()
    assert runner.run(keep=True) == 1
    assert path.read_text() == before
    assert "90_bad.ipynb was not stored" in (said := capsys.readouterr().out) and why in said


def test_measuring_rewrites_the_opening_and_nothing_else(clone):
    path = clone("90_good", "# T\n\n*Measured on two CPU cores: about X s, Y GB.*\n\nMore.", "## A", "1")
    assert runner.run(keep=True, measure=True) == 0
    opening = nbformat.read(path, 4).cells[0].source
    assert opening == "# T\n\n*Measured on two CPU cores: about 5 s, 0.1 GB.*\n\nMore."


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "kept.txt"
    files.write(path, "old")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(CourseError, match="untouched"):
        files.write(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


# --- the guard -------------------------------------------------------------------------------------


def ran(*sources: str) -> nbformat.NotebookNode:
    """As if run: counts 1..n, each cell shows "1"."""
    nb, count = notebook(*sources), 0
    for cell in nb.cells:
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = [nbformat.v4.new_output("stream", text="1\n")]
    return nb


def test_the_guard_is_content_with_a_notebook_run_from_start_to_end():
    nb = ran("# T", "## A", "1", "## B", "2", "## Reading")
    assert notebooks.unrun_cells(nb) == notebooks.silent_sections(nb) == []


def test_an_unrun_cell_is_refused():
    nb = ran("## A", "1", "2")
    nb.cells[2].update(execution_count=None, outputs=[])
    assert notebooks.unrun_cells(nb) == ["Cell 2 has not been run: 2"]


@pytest.mark.parametrize("counts", [(2, 3), (1, 3), (2, 1), (1, 1)])
def test_counts_other_than_one_to_n_are_refused(counts):
    nb = ran("1", "2")
    for cell, count in zip(nb.cells, counts):
        cell.execution_count = count
    assert "restart and run all" in notebooks.unrun_cells(nb)[0]


def test_an_error_is_refused_unless_tagged():
    nb = ran("1 / 0")
    nb.cells[0].outputs = [
        nbformat.v4.new_output("error", ename="ZeroDivisionError", evalue="division by zero")
    ]
    assert notebooks.unrun_cells(nb) == ["Cell 0 ends in ZeroDivisionError: division by zero"]
    nb.cells[0].metadata["tags"] = ["raises-exception"]
    assert notebooks.unrun_cells(nb) == []


def test_a_skipped_cell_does_not_count():
    nb = ran("1", "2")
    nb.cells[0].update(execution_count=None, outputs=[], metadata={"tags": ["skip-execution", "nbval-skip"]})
    nb.cells[1].execution_count = 1
    assert notebooks.unrun_cells(nb) == []


def test_a_section_without_comparable_output_is_named():
    nb = ran("## A", "1", "## B", "2", "3")
    nb.cells[3].outputs = nb.cells[4].outputs = []
    assert notebooks.silent_sections(nb) == ["Section 'B' shows nothing that can be compared."]
    nb.cells[4].outputs = [nbformat.v4.new_output("display_data", data={"image/png": "…"})]
    assert notebooks.silent_sections(nb), "pixels are not compared"


def test_tidy_keeps_tags_and_drops_what_changes_by_itself():
    nb = ran("1", "1")
    nb.cells[0].metadata = {"tags": ["setup"], "execution": {"iopub": "2026"}, "trusted": True}
    nb.metadata = {"language_info": {"name": "python", "version": "3.99"}, "widgets": {}}
    tidied = notebooks.tidy(nb)
    assert tidied.cells[0].metadata == {"tags": ["setup"]}
    assert tidied.cells[0].id != tidied.cells[1].id and notebooks.tidy(tidied) == tidied
    assert "version" not in tidied.metadata.language_info and "widgets" not in tidied.metadata
    nbformat.validate(tidied)
