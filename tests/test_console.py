"""Consoles of all kinds: every command prints on them, in plain signs where theirs are few."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mi_course.course import cli, console, doctor
from mi_course.errors import CourseError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "sign, plain",
    [("✔", "+"), ("✘", "x"), ("→", "->"), ("λ", "lambda"), ("Σ", "sigma"), ("é", "e"), ("₁", "1"), ("中", "?"),
     ("\u0302", ""), ("\udcff", "?")],
)  # fmt: skip
def test_signs_in_ascii(sign, plain):
    assert console.plain_sign(sign) == plain


# What the command is asked, its exit code, and a word that it says with plain signs and with its own.
ASKED = {
    "--help": (0, "For learners", "For learners"),
    "run --help": (0, "examples:", "examples:"),
    "train --list": (0, "lambda = 3", "λ = 3"),
    "train ✔": (1, "'+'", "'✔'"),
    "run ✘": (1, "'x'", "'✘'"),
    "λ": (2, "'lambda'", "'λ'"),
    "run 90": (1, "x lambda -> ?", "✘ λ → 中"),
    "student 90 --out class✔": (0, "class+", "class✔"),
    "student 90 --out in✔/the/way": (1, "in+", "in✔"),
    "badges --check": (1, "90_bad.ipynb", "90_bad.ipynb"),
    "lab": (1, "There are no copies", "There are no copies"),
    "doctor": (0, "+ sound -> lambda", "✔ sound → λ"),
    "doctor --quiet": (0, "", ""),
}


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("asked", ASKED)
def test_every_command_prints_on_every_console(asked, encoding, clone, monkeypatch):
    clone("90_bad", "# Ünï ✔", "raise ValueError('✘ λ → 中')")
    monkeypatch.chdir(clone.root)
    (clone.root / "in✔").write_text("in the way")
    monkeypatch.setattr(doctor, "main", lambda: print("✔ sound → λ") or 0)
    code, plain, own = ASKED[asked]
    pipe = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(pipe, encoding=encoding, write_through=True))
    assert cli.main(asked.split()) == code
    said = pipe.getvalue().decode(encoding)
    assert (own if encoding == "utf-8" else plain) in said, said


def test_a_real_console_of_cp1252(tmp_path):
    command = [sys.executable, "-m", "mi_course", "train", "λ"]
    env = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, capture_output=True, cwd=tmp_path, env=env, timeout=300)
    assert ran.returncode == 1 and b"There is no recipe 'lambda'" in ran.stderr


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
