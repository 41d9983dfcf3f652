"""Every stored notebook: run from start to end, tidy, findable, with something compared in every section.

Their outputs are compared by nbval (`make test`); here stands what nbval would pass over in silence.
"""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from mi_course.course import badges, classroom, notebooks

STORED = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=STORED, ids=lambda path: path.stem)
def stored(request):
    return request.param, nbformat.read(request.param, 4)


def test_every_cell_was_run_in_order_without_error(stored):
    assert notebooks.unrun_cells(stored[1]) == []


def test_cells_that_depend_on_a_real_model_say_so(stored):
    assert notebooks.unmarked_cells(stored[1]) == []


def test_no_verdict_was_stored_before_the_ledger_had_it(stored):
    said = [str(output) for cell in stored[1].cells for output in cell.get("outputs", [])]
    late = [words for words in said if "but the ledger records" in words]
    assert late == [], f"run {stored[0].stem} --store once more"


def test_every_section_shows_something_that_is_compared(stored):
    assert notebooks.silent_sections(stored[1]) == []


def test_it_is_stored_as_the_runner_stores(stored):
    path, nb = stored
    assert nbformat.writes(notebooks.tidy(nb)) + "\n" == path.read_text(encoding="utf-8"), (
        f"store it with: run {path.stem} --store"
    )


def test_skipped_cells_are_skipped_by_runner_and_comparison_alike(stored):
    for cell in stored[1].cells:
        assert len({"skip-execution", "nbval-skip"} & set(cell.metadata.get("tags", []))) != 1, cell.source


def test_it_opens_with_title_question_cost_and_setup(stored):
    path, nb = stored
    assert nb.cells[0].source.startswith("# "), "the title comes first"
    assert notebooks.question_of(nb), "which question does it answer?"
    assert notebooks.measured_of(nb), "what does it cost? 'Measured on two CPU cores: about X s, Y GB.'"
    (setup,) = [cell for cell in nb.cells if "setup" in cell.metadata.get("tags", [])]
    assert setup == next(cell for cell in nb.cells if cell.cell_type == "code"), "the setup cell is the first"


def code_cells(nb: nbformat.NotebookNode) -> list:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def holds_words(cell) -> bool:
    """Whether it is one of the cells with alt texts and captions, hidden in Lab and on the site."""
    return "words" in cell.metadata.get("tags", [])


def lost(source: str) -> list[str]:
    """Figures and tables that a cell makes and throws away: only the last expression of a cell is shown."""
    plain = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("!", "%")))
    calls = [node.value for node in ast.parse(plain).body[:-1] if isinstance(node, ast.Expr)]
    named = [ast.unparse(call.func) for call in calls if isinstance(call, ast.Call)]
    return [name for name in named if name.startswith(("plots.", "claims.")) or name == "settle"]


def test_a_figure_that_is_thrown_away_is_found():
    assert lost("plots.table({})\nplots.bars([], {})") == ["plots.table"]
    assert lost("display(plots.table({}))\nplots.bars([], {})") == lost("one = plots.table({})\none") == []


def test_every_figure_that_is_made_is_shown(stored):
    cells = [cell.source for cell in code_cells(stored[1]) if "setup" not in cell.metadata.get("tags", [])]
    assert [(name, cell) for cell in cells for name in lost(cell)] == []


def test_no_cell_is_longer_than_it_should_be(stored):
    def lines(cell) -> int:
        return sum(1 for line in cell.source.splitlines() if line.strip())

    long = {c.source.splitlines()[0]: lines(c) for c in code_cells(stored[1]) if not holds_words(c)}
    assert {first: count for first, count in long.items() if count > 20} == {}


def test_no_cell_hushes_its_last_value_with_a_semicolon(stored):
    """IPython looks for it in its history, which nbval does not keep: the value would be shown there."""
    assert [c.source for c in code_cells(stored[1]) if c.source.rstrip().endswith(";")] == []


def test_no_code_line_is_wider_than_a_page(stored):
    wide = [line for cell in code_cells(stored[1]) for line in cell.source.splitlines() if len(line) > 100]
    assert wide == []


def test_alt_texts_and_captions_stand_in_cells_of_their_own(stored):
    for cell in code_cells(stored[1]):
        if holds_words(cell):
            assert cell.metadata.jupyter.source_hidden and "hide-input" in cell.metadata.tags, cell.source
            assert cell.source.startswith("told = {") and not cell.outputs
        else:
            assert not re.search(r"\b(alt|caption)=[\"'(]", cell.source), cell.source


def test_nothing_is_fetched_to_read_it_and_solutions_are_folded(stored):
    words = "\n".join(cell.source for cell in stored[1].cells if cell.cell_type == "markdown")
    assert re.findall(r"!\[[^\]]*\]\(\w+:|<img[^>]*src=.https?:", words) == [], "a picture from elsewhere"
    solved = [cell for cell in code_cells(stored[1]) if "### BEGIN SOLUTION" in cell.source]
    assert len(solved) >= 5 and all(cell.metadata.jupyter.source_hidden for cell in solved)
    answers = [
        c for c in code_cells(classroom.student_copy(stored[1])) if "raise NotImplementedError()" in c.source
    ]
    assert len(answers) == len(solved) and not any("jupyter" in cell.metadata for cell in answers)


def test_it_ends_with_exercises_and_further_reading(stored):
    headings = [
        line for cell in stored[1].cells for line in cell.source.splitlines() if line.startswith("## ")
    ]
    assert any("xercise" in heading for heading in headings) and any(
        "eading" in heading for heading in headings
    )


def test_badges_and_setup_cells_agree_with_pyproject(capsys):
    assert badges.badges(check=True) == 0, capsys.readouterr().out


def test_student_copies_hold_no_solution(stored):
    copy = classroom.student_copy(stored[1])
    assert not any("SOLUTION" in cell.source or cell.get("outputs") for cell in copy.cells)
    exercises = sum("### BEGIN SOLUTION" in cell.source for cell in nbformat.read(stored[0], 4).cells)
    assert sum("NotImplementedError" in cell.source for cell in copy.cells) >= exercises
