"""Cells that need a real model, in a notebook that runs without it.

A cell says what it needs in its first line,

    # needs smollm2-135m-instruct

and the notebook calls `need("smollm2-135m-instruct")` once before. If the model is here, both do nothing. If not, such
cells are not run: each shows one sentence, and claims it would have settled read `not run here`. In Jupyter, on
Colab, under nbclient and nbval alike, for IPython itself passes the cell on to us before it runs.
"""

from __future__ import annotations

import re

from mi_course.errors import CourseError
from mi_course.pretrained.registry import CARRIED, carried, here, wanted

NEEDS = re.compile(r"^[ \t]*#\s*needs ([\w.,\- ]+?)\s*$", re.MULTILINE)
SKIPPED = "Skipped: "  # how the word in the place of a skipped cell begins
SETTLES = re.compile(r"""\bsettle\(\s*["']([\w-]+)["']""")


def needs(source: str) -> list[str]:
    """The models a cell (`source`, its text) says it needs, in one of its leading comment lines."""
    leading = re.match(r"(?:[ \t]*(?:#.*)?\n)*[ \t]*(?:#.*)?", source)[0]
    return [name.strip() for line in NEEDS.findall(leading) for name in line.split(",")]


def absent(source: str) -> list[str]:
    """Those that a cell (`source`, its text) needs and that are not here; a name nobody carries is a mistake, and said."""
    return [name for name in needs(source) if not here(carried(name).name)]


def need(*names: str) -> None:
    """From here on, cells that say they need one of these models are skipped while it is absent.

    `names` are those of the registry; without any, all.
    """
    missing = [name for name in names or CARRIED if not here(carried(name).name)]
    if not missing:
        return
    shell = _shell()
    if shell is None:
        raise CourseError(wanted(missing[0]))
    if _skipping not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(_skipping)
    for name in missing:
        print(f"{wanted(name)} Until then the cells that need it are skipped.")


def skipped(names: list[str], claims: list[str] = ()) -> object:
    """What stands in the place of a cell that was not run."""
    from mi_course import claims as ledger

    for name in names:
        print(f"{SKIPPED}{wanted(name)}")
    return ledger.not_run(*claims) if claims else None


def _skipping(lines: list[str]) -> list[str]:
    """IPython's input transformer: the cell as it is, or a call of `skipped` in its place."""
    source = "".join(lines)
    if not (missing := absent(source)):
        return lines
    call = f"skipped({missing!r}, {SETTLES.findall(source)!r})"
    return [f"__import__('mi_course.pretrained.needing', fromlist=['skipped']).{call}\n"]


def _shell():
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()
