"""A notebook on other seeds: does each claim stand when everything random is drawn anew?

`python -m mi_course seeds 04` runs notebook 04 once for each seed with its line `SEED = 0` changed, and writes what
the claims measured to data/seeds/04.md. The stored notebook stays as it is.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import nbformat

from mi_course import files, sweeps
from mi_course.claims.ledger import shown_value
from mi_course.claims.scoreboard import Row, Scoreboard
from mi_course.course import places, runner
from mi_course.errors import CourseError

LINE = re.compile(r"^SEED = 0\b", re.MULTILINE)


def reseed(nb: nbformat.NotebookNode, seed: int) -> int:
    """Give the line `SEED = 0` another number if there is just one; how many there were."""
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    found = sum(len(LINE.findall(cell.source)) for cell in code)
    for cell in code if found == 1 else ():
        cell.source = LINE.sub(f"SEED = {seed}", cell.source)
    return found


def with_seed(path: Path, seed: int, folder: Path) -> Path:
    """A copy of a notebook, of the same name, whose SEED is another."""
    nb = nbformat.read(path, as_version=4)
    if (found := reseed(nb, seed)) != 1:
        raise CourseError(
            f"{path.name} has {found} lines `SEED = 0`; one is needed to run it on other seeds."
        )
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    copy = folder / f"seed{seed}" / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    files.write(copy, nbformat.writes(nb))
    return copy


def measure(
    path: Path, seeds: Sequence[int], workers: int = 1, scheduler: str | None = None
) -> dict[int, list[Row]]:
    """Seed → what every claim of the notebook measured; runs the notebook once a seed, `workers` seeds at a time."""
    if workers == 1 and not scheduler:
        done = {seed: one(str(path), seed) for seed in seeds}
    else:
        done = by_sweep(path, seeds, workers, scheduler)
    return {
        seed: [row for row in Scoreboard.from_notebooks([file]).rows if row.measures]
        for seed, file in done.items()
    }


def one(path: str, seed: int) -> str:
    """Run the notebook at `path` with this seed; where the executed copy is."""
    copy = with_seed(Path(path), seed, places.root() / "build" / "seeds")
    (ran,) = runner.execute([copy], jobs=1)
    if ran.result.failed:
        raise CourseError(f"Seed {seed}: {ran.result.failed}")
    files.write(copy, nbformat.writes(ran.nb))
    return str(copy)


def by_sweep(path: Path, seeds: Sequence[int], workers: int, scheduler: str | None) -> dict[int, str]:
    """Seed → where the executed copy is; a sweep that was stopped goes on, one that ended is made again."""
    mark = hashlib.sha256(path.read_bytes()).hexdigest()[:8]  # of the notebook as it stands
    out = places.root() / "build" / "seeds" / f".{path.stem}-{mark}"
    tasks = [
        sweeps.Task(f"seed{seed}", "mi_course.course.seeds:one", {"path": str(path.resolve()), "seed": seed})
        for seed in seeds
    ]
    found = sweeps.run(tasks, out, workers=workers, scheduler=scheduler)
    if found.failed:
        raise CourseError("; ".join(found.failed.values()))
    shutil.rmtree(out)
    return {seed: found.results[f"seed{seed}"] for seed in seeds}


def page(path: Path, rows: dict[int, list[Row]]) -> str:
    """A table: one line a measure with its bound, one column a seed, and the verdict of each claim and seed."""
    seeds = list(rows)
    lines = [
        f"# {path.stem}: every measure on {len(seeds)} seeds", "",
        f"Written by `python -m mi_course seeds {path.name[:2]}`. The notebook shows seed {seeds[0]}; the bounds are the ledger's.",
        "", *table({f"seed {seed}": rows[seed] for seed in seeds}),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def table(columns: dict[str, list[Row]], differing: bool = False) -> list[str]:
    """Lines of a table: what each run of a notebook measured, a column each; `differing` leaves out what all agree on."""
    lines = [f"| claim | measure | bound | {' | '.join(columns)} |", "|---|---|---|" + "---|" * len(columns)]
    for row, *others in zip(*columns.values()):
        found = []
        for name, measure in row.claim.measures_of(row.notebook).items():
            values = [shown(one.measures[name]) for one in (row, *others)]
            if not differing or len(set(values)) > 1:
                found.append(f"| | `{name}` | {bound(measure)} | {' | '.join(values)} |")
        if found:
            verdicts = " | ".join(one.verdict for one in (row, *others))
            lines += [f"| **{row.claim.id}** | *verdict* | | {verdicts} |", *found]
    return lines


def bound(measure) -> str:
    """The bound of a measure in a word."""
    if measure.op == "report":
        return "–"
    if measure.op == "between":
        return f"{measure.bound[0]:g} … {measure.bound[1]:g}"
    return f"{measure.op.replace('<', '&lt;').replace('>', '&gt;')} {shown(measure.bound)}"


def shown(value) -> str:
    """As the ledger shows it, in three digits."""
    return shown_value(value, digits=3)


def main(names: Sequence[str], seeds: Sequence[int], workers: int = 1, scheduler: str | None = None) -> int:
    """Measure, write the pages, and say which verdicts differ between seeds."""
    for path in places.find(names):
        rows = measure(path, seeds, workers, scheduler)
        target = files.data_dir() / "seeds" / f"{path.name[:2]}.md"
        files.write(target, page(path, rows))
        print(target)
        for i, row in enumerate(rows[seeds[0]]):
            verdicts = {seed: rows[seed][i].verdict for seed in seeds}
            if len(set(verdicts.values())) > 1:
                print(
                    f"{row.claim.id}: " + ", ".join(f"seed {seed} {word}" for seed, word in verdicts.items())
                )
    return 0
