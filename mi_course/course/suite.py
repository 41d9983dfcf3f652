"""The tests of the course, as its authors run them: ruff, pytest, and every notebook against its stored outputs."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence

from mi_course import files
from mi_course.course import places
from mi_course.errors import CourseError
from mi_course.offline import STEADY

NBVAL = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=900", "--nbval-sanitize-with"]
STORED_ON = (3, 11)  # the Python whose library is the text of the stored notebooks
A_REAL_BROWSER = ("tests/test_browser.py", "tests/test_lab_views.py")  # are asked for by name


def lint() -> int:
    """Ruff on code and notebooks."""
    return module("ruff", "check", ".") or module("ruff", "format", "--check", ".")


def test(what: Sequence[str] = (), jobs: int = 2) -> int:
    """Everything, or `what`: paths of tests and notebooks, and pytest's own options."""
    side_by_side = ["-n", str(jobs), "--dist", "loadfile"] if jobs > 1 else []
    if what:
        return module("pytest", *what, *side_by_side, *NBVAL, blanked())
    notebooks = [str(path) for path in places.find()]
    without = [f"--ignore={path}" for path in A_REAL_BROWSER]
    return lint() or module("pytest", *notebooks, "tests", *without, *side_by_side, *NBVAL, blanked())


def blanked(python: tuple[int, int] = sys.version_info[:2]) -> str:
    """The file with what nbval does not compare; on another Python also whether a measure near its bound meets it."""
    tests = places.root() / "tests"
    if python == STORED_ON or not tests.exists():
        return "tests/nbval_sanitize.cfg"
    rules = [
        (tests / name).read_text(encoding="utf-8") for name in ("nbval_sanitize.cfg", "nbval_turning.cfg")
    ]
    return str(files.write(places.root() / "build" / "nbval_sanitize.cfg", "\n".join(rules)))


def module(name: str, *arguments: str) -> int:
    """`python -m name` in the clone, one thread, fixed hashes, no network: 1 if it fails."""
    if importlib.util.find_spec(name) is None:
        raise CourseError(f"{name} is not installed here: pip install 'mi-course[dev]'.")
    command = [sys.executable, "-m", name, *arguments]
    return min(1, subprocess.run(command, cwd=places.root(), env={**os.environ, **STEADY}).returncode)
