"""The command line: what it says and how it exits."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from safetensors import safe_open

from mi_course import __main__, __version__
from tests.conftest import notebook

ROOT = Path(__file__).parents[1]


def test_help_shows_every_command_with_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "examples:" in said and "exit code:" in said
    assert all(command in said for command in ("run", "train", "student", "badges", "site", "doctor"))


def test_version(capsys):
    with pytest.raises(SystemExit):
        __main__.main(["--version"])
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("asked", [[], ["fly"], ["run", "--jobs", "0"], ["run", "--timeout", "soon"]])
def test_what_is_not_understood_exits_with_2(asked):
    with pytest.raises(SystemExit) as stop:
        __main__.main(asked)
    assert stop.value.code == 2


def test_an_unknown_notebook_is_one_sentence(clone, capsys):
    clone("90_tools_tour", "1")
    assert __main__.main(["run", "90_tool_tour"]) == 1
    assert capsys.readouterr().err == (
        "mi_course: There is no notebook '90_tool_tour'. Did you mean '90_tools_tour'?\n"
    )


def test_run_and_student_take_numbers(clone, tmp_path, capsys):
    clone("90_good", "## A", "1 + 1")
    assert __main__.main(["run", "90", "--jobs", "1", "--store"]) == 0
    assert "1 of 1 notebooks ran from start to end." in capsys.readouterr().out
    assert __main__.main(["student", "90", "--out", str(tmp_path / "class")]) == 0
    assert (tmp_path / "class" / "90_good.ipynb").exists()


def test_ctrl_c_exits_with_130(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "dispatch", interrupted)
    assert __main__.main(["doctor"]) == 130 and "stopped" in capsys.readouterr().err


def test_train_lists_recipes_and_names_the_nearest(capsys):
    assert __main__.main(["train", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "induction-2l" in listed and "min on" in listed
    assert __main__.main(["train", "inductoin-2l"]) == 1
    assert "induction-2l" in capsys.readouterr().err


def test_every_command_has_examples_and_exit_codes(capsys):
    for command in ("run", "train", "seeds", "student", "badges", "site", "doctor"):
        with pytest.raises(SystemExit) as stop:
            __main__.main([command, "--help"])
        said = capsys.readouterr().out
        assert stop.value.code == 0 and "exit code:" in said and "--quiet" in said
        assert f"  python -m mi_course {command} " in said.split("examples:")[1]


def test_examples_are_understood():
    """Every line that a help text shows is one the parser takes."""
    commands = next(a for a in __main__.parser()._actions if a.dest == "command").choices
    shown = [line for c in (__main__.parser(), *commands.values()) for line in c.epilog.splitlines()]
    typed = [line.split("  ")[1].split() for line in shown if line.startswith("  python -m mi_course ")]
    assert len(typed) > 15
    for line in typed:
        __main__.parser().parse_args(line[3:])


def test_badges_take_another_address(clone, capsys):
    assert __main__.main(["badges", "--repo", "some/one", "--branch", "v2"]) == 0
    assert 'owner = "some"\nrepo = "one"\nbranch = "v2"' in (clone.root / "pyproject.toml").read_text()
    assert __main__.main(["badges", "--check"]) == 0
    assert __main__.main(["badges", "--repo", "nowhere"]) == 1
    assert "is not a repository: give OWNER/NAME" in capsys.readouterr().err


# --- quiet, pipes, and places that may not be written ------------------------------------------------


def test_quiet_says_nothing_unless_it_fails(clone, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    clone("90_good", "## A", "1 + 1")
    clone("91_bad", "## A", "1 / 0")
    assert __main__.main(["run", "90", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert __main__.main(["run", "91", "--quiet"]) == 1
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
    assert __main__.main(["student", "90", "--out", str(tmp_path / "file")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("mi_course: ") and "file" in said and "--out" in said and said.count("\n") == 1
    monkeypatch.setattr(os, "access", lambda *given: False)
    assert __main__.main(["train", "sae-512-l2", "--out", str(tmp_path / "models")]) == 1
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


def test_jupyter_takes_the_next_port_when_its_own_is_taken(tmp_path):
    """`make lab` needs nothing of ours for that; if Jupyter changed its mind, README would have to say so."""
    pytest.importorskip("jupyterlab")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ["lab", "--no-browser", "--allow-root", f"--port={port}", f"--notebook-dir={tmp_path}"]
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", *command],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            said = ""
            while "/lab" not in said:
                assert (line := server.stderr.readline()), said
                said += line if "http" in line or "port" in line else ""
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert f"port {port} is already in use" in said and f":{port}/lab" not in said
