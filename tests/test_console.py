"""Consoles of all kinds: every command prints on them, in plain signs where theirs are few."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mi_course.course import console
from mi_course.errors import CourseError
from tests.conftest import notebook

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "sign, plain",
    [("✔", "+"), ("✘", "x"), ("→", "->"), ("λ", "lambda"), ("Σ", "sigma"), ("é", "e"), ("₁", "1"), ("中", "?"),
     ("\u0302", ""), ("\udcff", "?")],
)  # fmt: skip
def test_signs_in_ascii(sign, plain):
    assert console.plain_sign(sign) == plain


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A clone with one notebook that goes wrong in other letters."""
    folder = tmp_path_factory.mktemp("course")
    for name in ("pyproject.toml", "constraints.txt", "data", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "notebooks").mkdir()
    nbformat.write(notebook("# Ünï ✔", "raise ValueError('✘ λ → 中')"), folder / "notebooks" / "90_bad.ipynb")
    return folder


# What the command is asked, its exit code, and a word that it says with plain signs and with its own.
ASKED = {
    "--help": (0, "For learners", "For learners"),
    "run --help": (0, "examples:", "examples:"),
    "doctor": (0, "+ Python 3.", "✔ Python 3."),
    "train --list": (0, "lambda = 3", "λ = 3"),
    "train ✔": (1, "'+'", "'✔'"),
    "run ✘": (1, "'x'", "'✘'"),
    "λ": (2, "'lambda'", "'λ'"),
    "run 90": (1, "x lambda -> ?", "✘ λ → 中"),
    "student --out class✔": (0, "class+", "class✔"),
    "badges --check": (1, "90_bad.ipynb", "90_bad.ipynb"),
    "lab": (1, "There are no copies", "There are no copies"),
}


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("asked", ASKED)
def test_every_command_prints_on_every_console(course, encoding, asked):
    if encoding != "cp1252" and asked in ("doctor", "run 90", "train --list"):
        pytest.skip("takes seconds; cp1252 will do")
    code, plain, own = ASKED[asked]
    env = os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "300"}
    begin = "import sys; from mi_course.course import cli, places; from pathlib import Path; "
    begin += "places.root = lambda: Path.cwd(); sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", begin, *asked.split()]
    ran = subprocess.run(
        command, capture_output=True, cwd=course, env=env | {"PYTHONPATH": str(ROOT)}, timeout=300
    )
    said = (ran.stdout + ran.stderr).decode(encoding)
    assert ran.returncode == code and "UnicodeEncodeError" not in said, said
    assert (own if encoding == "utf-8" else plain) in said


def test_errors_end_in_one_sentence(capsys):
    def fail(error):
        raise error

    for error, said in [
        (CourseError("No."), "No."),
        (PermissionError(13, "Permission denied", "place"), "Permission denied: place (elsewhere)"),
        (OSError("odd"), "odd (elsewhere)"),
    ]:
        assert console.answered(lambda e=error: fail(e), elsewhere=" (elsewhere)") == 1
        assert capsys.readouterr().err == f"mi_course: {said}\n"
    with pytest.raises(ZeroDivisionError):  # a fault of ours is not dressed up
        console.answered(lambda: 1 / 0)
