"""`python -m mi_course test` runs what the authors run."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mi_course.course import cli, suite
from mi_course.offline import STEADY

RUFF = ["ruff check .", "ruff format --check ."]


@pytest.fixture
def ran(clone, monkeypatch) -> list[str]:
    """What would be run, in a clone of one notebook; a command about something broken fails."""
    clone("90_good", "1")
    commands = []

    def run(command, cwd, env):
        assert cwd == clone.root and STEADY.items() <= env.items() and command[:2] == [sys.executable, "-m"]
        commands.append(" ".join(command[2:]))
        return SimpleNamespace(returncode=4 if "broken" in command else 0)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_everything_is_ruff_and_then_pytest_with_the_notebooks(ran):
    assert cli.main(["test", "--jobs", "3"]) == 0
    assert ran[:2] == RUFF and len(ran) == 3
    assert (
        "90_good.ipynb tests --ignore=tests/test_browser.py --ignore=tests/test_lab_views.py -n 3 --dist loadfile --nbval"
        in ran[2]
    )


def test_a_part_is_pytest_alone_and_takes_its_options(ran):
    assert cli.main(["test", "tests/test_browser.py", "--jobs", "1", "--", "-k", "house"]) == 0
    assert len(ran) == 1 and ran[0].startswith("pytest tests/test_browser.py -k house --nbval")


def test_on_another_python_less_is_compared(clone):
    assert suite.blanked(suite.STORED_ON) == "tests/nbval_sanitize.cfg"
    (clone.root / "tests").mkdir()
    for name in ("nbval_sanitize", "nbval_turning"):
        (clone.root / "tests" / f"{name}.cfg").write_text(f"[{name}]\n")
    made = Path(suite.blanked((3, 99))).read_text()
    assert "[nbval_sanitize]" in made and "[nbval_turning]" in made


def test_lint_alone_and_a_failure(ran):
    assert cli.main(["test", "--lint"]) == 0 and ran == RUFF
    assert cli.main(["test", "broken"]) == 1


def test_what_is_missing_is_said(ran, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["test"]) == 1 and ran == []
    assert capsys.readouterr().err == "mi_course: ruff is not installed here: pip install 'mi-course[dev]'.\n"
