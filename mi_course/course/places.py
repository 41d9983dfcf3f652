"""Where the course's clone, notebooks and settings are."""

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from mi_course.errors import CourseError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def root() -> Path:
    """The clone of the course: the folder that holds `notebooks/`."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd(), Path.cwd().parent):
        if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise CourseError("There is no notebooks/ folder here: run this inside a clone of the course.")


def find(names: Iterable[str] = ()) -> list[Path]:
    """The notebooks called "3", "03", "03_induction_heads" or by a path; all of them for no names."""
    stored = {path.stem: path for path in sorted((root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    return [_find_one(name, stored) for name in names] or list(stored.values())


def _find_one(name: str, stored: dict[str, Path]) -> Path:
    stem = Path(name).name.removesuffix(".ipynb")
    for known, path in stored.items():
        if stem == known or (stem.isdigit() and stem.zfill(2) == known[:2]):
            return path
    known = stored if not stem.isdigit() else [stem[:2] for stem in stored]
    raise CourseError(f"There is no notebook {name!r}.{nearest(stem, known)}")


def settings() -> dict:
    """What pyproject.toml says."""
    return tomllib.loads((root() / "pyproject.toml").read_text(encoding="utf-8"))


def mathjax() -> Path | None:
    """The one file that draws formulas, MathJax 3.2.2, from the package sphinx-mathjax-offline; None without it."""
    try:
        package = distribution("sphinx-mathjax-offline")
    except PackageNotFoundError:
        return None
    return Path(str(package.locate_file("sphinx-mathjax-offline/static/mathjax/tex-svg-full.js")))
