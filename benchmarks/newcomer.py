"""How long a newcomer waits: `python -m benchmarks.newcomer` clones the course afresh and does what README says.

Minutes since the clone began: to the first figure of notebook 00, to the first ✔ of an exercise (with the solution
typed at once, so the thinking is yours to add), to the scoreboard that ends `make run`. Packages come from the index
or from pip's cache: say which, beside the numbers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST = "00_tools_tour"


class Reached(Exception):
    """What was waited for has appeared."""


def until(what: str) -> None:
    """Inside the new clone: run notebook 00, or its student copy with one exercise solved, until it shows `what`."""
    import nbformat
    from nbclient import NotebookClient

    stored = nbformat.read(f"notebooks/{FIRST}.ipynb", 4)
    nb = stored
    if what == "✔":
        nb = nbformat.read(f"notebooks/student/{FIRST}.ipynb", 4)
        solution = next(cell.source for cell in stored.cells if "### BEGIN SOLUTION" in cell.source)
        blank = next(
            cell for cell in nb.cells if "NotImplementedError" in cell.source and cell.cell_type == "code"
        )
        blank.source = solution.split("\nchecks.")[0]

    def look(cell, cell_index, execute_reply):
        shown = [output.get("text", "") + str(output.get("data", "")) for output in cell.get("outputs", [])]
        if any(what in text for text in shown) and (what != "✔" or cell.source.startswith("checks.")):
            raise Reached

    try:
        NotebookClient(
            nb,
            kernel_name="python3",
            extra_arguments=["--log-level=50"],
            resources={"metadata": {"path": "notebooks"}},
            on_cell_executed=look,
        ).execute()
    except Reached:
        return
    raise SystemExit(f"{what} never appeared")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source", default=Path(__file__).parents[1], help="what is cloned (default: this checkout)"
    )
    parser.add_argument("--until", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.until:
        return until(args.until)
    folder = Path(tempfile.mkdtemp()) / "mi_course"
    env = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    steps = [
        ("clone", ["git", "clone", "-q", str(args.source), str(folder)], None),
        ("environment", ["make", "setup"], folder),
        ("first figure", [".venv/bin/python", __file__, "--until", "<img"], folder),
        ("passed exercise", [".venv/bin/python", __file__, "--until", "✔"], folder),
        ("scoreboard of make run", ["make", "run"], folder),
    ]
    began = time.monotonic()
    try:
        for name, command, where in steps:
            start = time.monotonic()
            if subprocess.run(command, cwd=where, env=env, stdout=subprocess.DEVNULL).returncode:
                sys.exit(f"{name}: {' '.join(command)} failed")
            now = time.monotonic()
            print(
                f"{name:24} {(now - start) / 60:5.1f} min   {(now - began) / 60:5.1f} since the clone",
                flush=True,
            )
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)


if __name__ == "__main__":
    main()
