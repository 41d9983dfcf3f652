"""Does a verdict depend on the Python that runs it? The course's text is the documentation of the running interpreter.

`python -m tests.pythons PYTHON …` executes every notebook with each interpreter (an environment with the course in it)
and writes what differs to data/seeds/pythons.md. Executed notebooks stay in build/pythons/; those of the same sources
are not executed again. `--only NN` names notebooks; `--stored 3.11` takes the stored ones for that version.
The page also holds what other interpreters executed before, of the same code. `--shared` writes data/shared_text.json
anew: the files that the text of all the interpreters has in common.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import nbformat

from mi_course import files
from mi_course.claims.scoreboard import Row, Scoreboard
from mi_course.course import places, runner, seeds

ROOT = Path(__file__).parents[1]
DONE = ROOT / "build" / "pythons"
TARGET = ROOT / "data" / "seeds" / "pythons.md"
HEAD = """# Every measure that differs between Pythons

Written by `python -m tests.pythons PYTHON …`. The corpus is the documentation that the running interpreter carries, so
measures on text differ from version to version. Measures that agree in three digits are left out. Where the stored
notebooks stand for a version (3.11), processors may differ as well.
"""


def code_of(path: Path) -> list[str]:
    """The code cells of a notebook; words around them change nothing, nor do those below a figure."""
    cells = nbformat.read(path, as_version=4).cells
    return [c.source for c in cells if c.cell_type == "code" and "words" not in c.metadata.get("tags", [])]


def execute(paths: list[Path]) -> None:
    """Execute notebooks with this interpreter, one after the other."""
    for path in paths:
        (ran,) = runner.execute([path], jobs=1)
        if ran.result.failed:
            print(f"{sys.version_info[0]}.{sys.version_info[1]}: {ran.result.failed}", flush=True)
            continue
        target = DONE / ".".join(map(str, sys.version_info[:2])) / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write(target, nbformat.writes(ran.nb))


def fresh(version: str, path: Path) -> bool:
    """Whether this Python executed the notebook's code as it stands."""
    done = DONE / version / path.name
    return done.exists() and code_of(done) == code_of(path)


SHARED = ROOT / "data" / "shared_text.json"
MARKS = """
import json
from mi_course import corpora
texts = corpora.standard_library()
print(json.dumps({name: corpora.text_mark(text) for name, text in texts.items() if text.strip()}))
"""


def write_shared(pythons: list[str]) -> None:
    """The files that are letter for letter the same on all of these, by name, with the mark of each."""
    runs = [
        subprocess.run([python, "-c", MARKS], capture_output=True, text=True, check=True, cwd=ROOT)
        for python in pythons
    ]
    both = set.intersection(*(set(json.loads(run.stdout).items()) for run in runs))
    files.write(SHARED, json.dumps(dict(sorted(both)), indent=0) + "\n")
    print(f"{SHARED.relative_to(ROOT)}: {len(both)} files")


def turning(rows: tuple[Row, ...]) -> list[str]:
    """The measures of one claim that are on both sides of their bound."""
    measures = rows[0].claim.measures_of(rows[0].notebook)
    return [name for name, one in measures.items() if len({one.met(row.measures[name]) for row in rows}) > 1]


def in_words(columns: list[str]) -> str:
    """Which Pythons executed a notebook."""
    first, *others = (column.removeprefix("Python ") for column in columns)
    return f"Python {first}" + "".join(f", {version}" for version in others[:-1]) + f" and {others[-1]}"


def page(found: dict[str, dict[str, list[Row]]]) -> str:
    """Notebook → Python → rows, as tables."""
    parts = [HEAD]
    for notebook, columns in found.items():
        rows = list(zip(*columns.values()))
        flips = [row[0].claim.id for row in rows if len({one.verdict for one in row}) > 1]
        turns = [f"{row[0].claim.id} `{name}`" for row in rows for name in turning(row)]
        said = (
            f"Verdicts that differ: {', '.join(flips)}."
            if flips
            else f"{len(rows)} claims, each with the same verdict on {in_words(list(columns))}."
        )
        if turns:
            said += f" Measures that meet their bound on some and miss it on others: {', '.join(turns)}."
        lines = seeds.table(columns, differing=True)
        parts.append(
            "\n".join([f"## {notebook}", "", said, *(["", *lines] if len(lines) > 2 else [])]) + "\n"
        )
    return "\n".join(parts)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.pythons", description=__doc__)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN")
    parser.add_argument("--stored", metavar="3.N", help="the version that the stored notebooks ran on")
    parser.add_argument("--execute", action="store_true", help="with this interpreter, and write no page")
    parser.add_argument("--shared", action="store_true", help="write the list of files that all have")
    given = parser.parse_args(arguments)
    if given.shared:
        return write_shared(given.pythons)
    paths = places.find(given.only)
    if given.execute:
        return execute(paths)
    for python in given.pythons:
        ask = "import sys; print(*sys.version_info[:2], sep='.')"
        version = subprocess.run(
            [python, "-c", ask], capture_output=True, text=True, check=True
        ).stdout.strip()
        wanted = [path.name[:2] for path in paths if not fresh(version, path)]
        if wanted:
            subprocess.run(
                [python, "-m", "tests.pythons", "--execute", "--only", *wanted], check=True, cwd=ROOT
            )
    found, versions = {}, {path.name for path in DONE.glob("3.*")} | ({given.stored} - {None})
    for path in paths:
        done = {
            v: path if v == given.stored else DONE / v / path.name
            for v in sorted(versions, key=lambda v: int(v.split(".")[1]))
            if v == given.stored or fresh(v, path)
        }
        boards = {v: Scoreboard.from_notebooks([one]) for v, one in done.items()}
        columns = {f"Python {v}": [row for row in board.rows if row.measures] for v, board in boards.items()}
        if len(columns) > 1 and any(columns.values()):
            found[path.stem] = columns
    files.write(TARGET, page(found))
    print(TARGET.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
