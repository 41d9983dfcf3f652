"""A notebook on other seeds."""

import json
import math
from pathlib import Path

import nbformat
import pytest

from mi_course import claims, sweeps
from mi_course.claims.scoreboard import Row, Scoreboard
from mi_course.course import places, seeds
from mi_course.errors import CourseError
from tests import pythons

ROOT = Path(__file__).parents[1]


def notebook(folder, *sources):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    path = folder / "90_trial.ipynb"
    nbformat.write(nb, path)
    return path


def test_only_the_line_of_the_seed_changes(tmp_path):
    path = notebook(tmp_path, "SEED = 0  # all", "x = SEED + 1\nSEED_B = 0")
    copy = nbformat.read(seeds.with_seed(path, 2, tmp_path / "out"), as_version=4)
    assert [cell.source for cell in copy.cells] == ["SEED = 2  # all", "x = SEED + 1\nSEED_B = 0"]
    assert nbformat.read(path, as_version=4).cells[0].source == "SEED = 0  # all"


@pytest.mark.parametrize(
    "sources, found", [(("x = 1",), 0), (("x = 1", "SEED = 0"), 1), (("SEED = 0\nSEED = 0", "SEED = 0"), 3)]
)
def test_a_seed_changes_where_there_is_just_one(tmp_path, sources, found):
    nb = nbformat.read(notebook(tmp_path, *sources), as_version=4)
    nb.cells.insert(0, nbformat.v4.new_markdown_cell("SEED = 0"))  # words are no code
    assert seeds.reseed(nb, 5) == found
    changed = [source.replace("SEED = 0", "SEED = 5") if found == 1 else source for source in sources]
    assert [cell.source for cell in nb.cells] == ["SEED = 0", *changed]


@pytest.mark.parametrize("sources", [("x = 1",), ("SEED = 0", "SEED = 0")])
def test_a_notebook_without_one_seed_is_one_sentence(tmp_path, sources):
    with pytest.raises(CourseError, match="one is needed"):
        seeds.with_seed(notebook(tmp_path, *sources), 1, tmp_path / "out")


def test_the_seed_reaches_the_cells(tmp_path, monkeypatch):
    """The copy runs in a kernel of its own; a claim settled there arrives with its measures."""
    monkeypatch.setattr(places, "root", lambda: tmp_path)
    path = notebook(
        tmp_path, "from mi_course import claims\nSEED = 0",
        "claims.settle('TMS-17', rotated_max_diff=1e-6, rotated_relu_diff=0.5 + SEED)",
    )  # fmt: skip
    path = path.rename(tmp_path / "04_trial.ipynb")
    rows = seeds.measure(path, [0, 2])
    assert [rows[seed][0].measures["rotated_relu_diff"] for seed in (0, 2)] == [0.5, 2.5]
    assert "rotated_relu_diff" in seeds.page(path, rows) and "| 0.5 | 2.5 |" in seeds.page(path, rows)


def test_seeds_two_at_a_time_measure_the_same(tmp_path, monkeypatch):
    """With workers of their own; what they wrote is taken from where they wrote it."""
    monkeypatch.setattr(seeds.sweeps, "run", in_this_process)
    monkeypatch.setattr(places, "root", lambda: tmp_path)
    path = notebook(tmp_path, "from mi_course import claims\nSEED = 0",
                    "claims.settle('TMS-17', rotated_max_diff=1e-6, rotated_relu_diff=0.5 + SEED)")  # fmt: skip
    path = path.rename(tmp_path / "04_trial.ipynb")
    rows = seeds.measure(path, [0, 2], workers=2)
    assert [rows[seed][0].measures["rotated_relu_diff"] for seed in (0, 2)] == [0.5, 2.5]
    assert list((tmp_path / "build" / "seeds").glob(".04*")) == [], "made again when it is asked for again"
    broken = notebook(tmp_path, "SEED = 0\n1 / SEED")
    with pytest.raises(CourseError, match="Seed 0: .*ZeroDivisionError"):
        seeds.measure(broken, [0], workers=2)


def in_this_process(tasks, out, *, workers, scheduler):
    """As `sweeps.run`, without the engine."""
    out.mkdir(parents=True, exist_ok=True)
    said = {task.name: sweeps.work(task, str(out)) for task in tasks}
    failed = {name: why for name, why in said.items() if why}
    read = lambda task: json.loads(sweeps.place(task, out).read_text())["result"]
    return sweeps.Sweep({task.name: read(task) for task in tasks if task.name not in failed}, failed)


def test_a_page_names_bounds_and_verdicts():
    claim = claims.ledger()["TMS-18"]
    values = {"monosemantic_at_0_7": 1.0, "monosemantic_at_0_3": 0.4, "monosemantic_at_0_05": 0.6}
    values["untrained_monosemantic"] = 0.0
    rows = {0: [Row(claim, "04", "reproduced", values)], 1: [Row(claim, "04", "partly", values)]}
    text = seeds.page(Path("04_toy.ipynb"), rows)
    assert "| reproduced | partly |" in text and "0.2 … 0.8" in text and "&lt;= 0.2" in text
    assert seeds.bound(claims.ledger()["TMS-16"].measures_of("04")["random_attack_ratio"]) == "–"
    assert [seeds.shown(value) for value in (True, False, 0.12345)] == ["yes", "no", "0.123"]


def test_a_page_of_pythons_shows_what_differs():
    claim = claims.ledger()["TMS-17"]
    columns = {
        f"Python {version}": [
            Row(claim, "04", verdict, {"rotated_max_diff": 1e-6, "rotated_relu_diff": value})
        ]
        for version, verdict, value in (("3.10", "reproduced", 0.5), ("3.13", "partly", 0.01))
    }
    text = pythons.page({"04_toy": columns})
    assert "Verdicts that differ: TMS-17." in text and "| 0.5 | 0.01 |" in text
    assert "rotated_max_diff" not in text  # the same on both
    same = {version: columns["Python 3.10"] for version in columns}
    assert (
        "1 claims, each with the same verdict on Python 3.10 and 3.13." in pythons.page({"04_toy": same})
        and "|" not in pythons.page({"04_toy": same}).split("and 3.13.")[1]
    )


# -- the pages that are in the repository ----------------------------------------------------------


def cells_of(lines: list[str]) -> dict[tuple[str, str], str]:
    """(claim, measure) → what stands under seed 0."""
    found, claim = {}, ""
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if len(cells) > 3 and cells[1] not in ("measure", "---"):
            claim = cells[0].strip("*") or claim
            found[claim, cells[1].strip("`*")] = cells[3]
    return found


def alike(one: str, other: str) -> bool:
    """The same word, or numbers that differ by a tenth, or by a hundredth, at most: seconds and last digits vary."""
    try:
        return math.isclose(float(one), float(other), rel_tol=0.1, abs_tol=0.01)
    except ValueError:
        return one == other


@pytest.mark.parametrize(
    "page", sorted((ROOT / "data" / "seeds").glob("[0-9][0-9].md")), ids=lambda p: p.stem
)
def test_seed_0_is_what_the_notebook_shows(page):
    """Otherwise the page was written before the notebook changed, and has to say so."""
    (stored,) = (ROOT / "notebooks").glob(f"{page.stem}_*.ipynb")
    rows = [row for row in Scoreboard.from_notebooks([stored]).rows if row.measures]
    now, text = cells_of(seeds.table({"seed 0": rows})), page.read_text(encoding="utf-8")
    written = cells_of(text.splitlines())
    verdicts = lambda cells: {key: value for key, value in cells.items() if key[1] == "verdict"}
    assert verdicts(written) == verdicts(now)
    stale = [key for key in now if not alike(now[key], written.get(key, "missing"))]
    assert not stale or "Measured before" in text, f"python -m mi_course seeds {page.stem}"
