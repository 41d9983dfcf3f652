"""JupyterLab on the notebooks."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from mi_course.course import places
from mi_course.errors import CourseError


def start(
    solved: bool = False, port: int | None = None, browser: bool = True, options: Sequence[str] = ()
) -> int:
    """Run JupyterLab until it is stopped, on the learner's copies or on the notebooks with solutions.

    Where the port is taken, Jupyter takes the next free one and says so.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise CourseError("JupyterLab is not installed here: pip install 'mi-course[dev]'.")
    from jupyterlab.labapp import main

    main(arguments(folder(solved), port, browser, options))
    return 0


def folder(solved: bool) -> Path:
    """The notebooks with solutions, or the copies without."""
    notebooks = places.root() / "notebooks"
    copies = notebooks / "student"
    if not solved and not any(copies.glob("*.ipynb")):
        raise CourseError(f"There are no copies in {copies}: make them with `python -m mi_course student`.")
    return notebooks if solved else copies


def arguments(folder: Path, port: int | None, browser: bool, options: Sequence[str]) -> list[str]:
    """As JupyterLab takes them."""
    chosen = [f"--ServerApp.root_dir={folder}"]
    chosen += [f"--ServerApp.port={port}"] if port else []
    chosen += [] if browser else ["--no-browser"]
    return [*chosen, *options]
