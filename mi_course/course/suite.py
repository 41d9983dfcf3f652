"""The tests of the course, as its authors run them: ruff, pytest, and every notebook against its stored outputs."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence

from mi_course.course import places
from mi_course.errors import CourseError
from mi_course.offline import STEADY

NBVAL = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=900", "--nbval-sanitize-with", "tests/nbval_sanitize.cfg"]  # fmt: skip
A_REAL_BROWSER = "tests/test_browser.py"  # is asked for by name


def lint() -> int:
    """Ruff on code and notebooks."""
    return module("ruff", "check", ".") or module("ruff", "format", "--check", ".")


def test(what: Sequence[str] = (), jobs: int = 2) -> int:
    """Everything, or `what`: paths of tests and notebooks, and pytest's own options."""
    side_by_side = ["-n", str(jobs), "--dist", "loadfile"] if jobs > 1 else []
    if what:
        return module("pytest", *what, *side_by_side, *NBVAL)
    notebooks = [str(path) for path in places.find()]
    return lint() or module("pytest", *notebooks, "tests", "--ignore", A_REAL_BROWSER, *side_by_side, *NBVAL)


def module(name: str, *arguments: str) -> int:
    """`python -m name` in the clone, one thread, fixed hashes, no network: 1 if it fails."""
    if importlib.util.find_spec(name) is None:
        raise CourseError(f"{name} is not installed here: pip install 'mi-course[test]'.")
    command = [sys.executable, "-m", name, *arguments]
    return min(1, subprocess.run(command, cwd=places.root(), env={**os.environ, **STEADY}).returncode)
