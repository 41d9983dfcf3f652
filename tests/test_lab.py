"""JupyterLab opens on the learner's copies, or says what is missing."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mi_course.course import cli, lab
from mi_course.errors import CourseError

ROOT = Path(__file__).parents[1]


def test_it_opens_the_copies_and_with_solved_the_notebooks(clone):
    path = clone("90_good", "1")
    with pytest.raises(CourseError, match="python -m mi_course student"):
        lab.folder(solved=False)
    assert lab.folder(solved=True) == path.parent
    assert cli.main(["student"]) == 0
    assert lab.folder(solved=False) == path.parent / "student"


def test_what_was_chosen_is_handed_to_jupyter(monkeypatch, clone):
    labapp = pytest.importorskip("jupyterlab.labapp")
    clone("90_good", "1")
    given = []
    monkeypatch.setattr(labapp, "main", given.append)
    assert cli.main(["lab", "--solved", "--port", "9000", "--no-browser", "--", "--allow-root"]) == 0
    folder = f"--ServerApp.root_dir={clone.root / 'notebooks'}"
    assert given == [[folder, "--ServerApp.port=9000", "--no-browser", "--allow-root"]]


def test_without_jupyterlab_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["lab"]) == 1
    assert capsys.readouterr().err == (
        "mi_course: JupyterLab is not installed here: pip install 'mi-course[dev]'.\n"
    )


def test_a_port_that_is_taken_is_said_and_the_next_one_used():
    pytest.importorskip("jupyterlab")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ["lab", "--solved", "--no-browser", "--port", str(port), "--", "--allow-root"]
        server = subprocess.Popen(
            [sys.executable, "-m", "mi_course", *command], stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT
        )  # fmt: skip
        try:
            said = ""
            while "/lab" not in said:
                assert (line := server.stderr.readline()), said
                said += line if "http" in line or "port" in line else ""
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert f"port {port} is already in use" in said and f":{port}/lab" not in said
