"""What stands in the API pages: every public module has an example that runs, and `help` says every argument."""

import contextlib
import doctest
import importlib
import inspect
import io
import re
from typing import NamedTuple

import pytest

from mi_course.course import site

PUBLIC = list(site.public())

# Handed in by Python and by torch's autograd.
BY_ITSELF = ("self", "cls", "ctx")
# Names that a sentence has anyway: they count in code alone, as `of`, of=… or in a list of arguments.
EVERYDAY = set(
    "a of by at on to in as is it one other where what which how given above within before after late early high low "
    "first start end kind names most made check some each apart work".split()
)


def callables():
    """(its name, the thing) for all that an API page shows: functions, classes, and their public methods."""
    for module, about in site.public().items():
        for name in about["kinds"]:
            thing = getattr(importlib.import_module(f"mi_course.{module}"), name)
            yield f"{module}.{name}", thing
            for part, method in vars(thing).items() if isinstance(thing, type) else ():
                method = getattr(method, "__func__", method)  # of classmethod and staticmethod
                if inspect.isfunction(method) and not part.startswith("_"):
                    yield f"{module}.{name}.{part}", method


def silent(thing) -> list[str]:
    """The arguments that its own docstring does not name; `(nothing)` where it has none."""
    words = thing.__doc__ or ""
    if not words or words.startswith(
        f"{thing.__name__}("
    ):  # what dataclass and NamedTuple write by themselves
        return ["(nothing)"]
    built = isinstance(thing, type) and not {"__init__", "__new__"} & set(vars(thing))
    taken = [] if built else [p for p in inspect.signature(thing).parameters if p not in BY_ITSELF]
    said = lambda p: rf"`[^`]*\b{p}\b[^`]*`|\b{p}=|^ *{p}: " if p in EVERYDAY else rf"\b{p}\b"
    return [p for p in taken if not re.search(said(p), words, re.MULTILINE)]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_module_has_an_example_that_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"mi_course.{name}")
    tests = [test for test in doctest.DocTestFinder(recurse=False).find(module, name) if test.examples]
    assert tests, f"mi_course.{name} has no example in its docstring"
    said = io.StringIO()
    with contextlib.redirect_stderr(io.StringIO()):
        ran = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(tests[0], out=said.write)
    assert ran.failed == 0, said.getvalue()


@pytest.mark.parametrize("module", PUBLIC)
def test_help_says_every_argument(module):
    found = {name: silent(thing) for name, thing in callables() if name.split(".")[0] == module}
    assert found
    assert {name: args for name, args in found.items() if args} == {}


def test_what_help_does_not_say_is_found():
    def told(x, seed, of):
        """All of `x`, drawn by seed."""

    def untold(x):
        pass

    class Built(NamedTuple):
        x: int

    assert silent(told) == ["of"] and silent(untold) == silent(Built) == ["(nothing)"]
    names = [name for name, _ in callables()]
    assert {"patching.Experiment.sweep", "training.TrainConfig", "activations.Store.of"} < set(names)
    assert len(names) == len(set(names)) > 400
