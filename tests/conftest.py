"""The whole suite runs without a network, with fixed seeds, and with shapes checked (see pyproject.toml)."""

import os
import random
import re
import shutil
import signal
import time
from itertools import count
from pathlib import Path

import nbformat
import pytest
from hypothesis import settings
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
pytest.register_assert_rewrite("tests.answers")
# No example is timed: a busy machine is no fault. What decides a landing draws the same examples each time.
settings.register_profile("course", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("course")


def pytest_sessionstart():
    """Here rather than above: jaxtyping's hook has to be in place before mi_course is imported."""
    from mi_course.offline import cut_network, steady_environment

    os.environ.update(steady_environment(ROOT / "build" / "ipython"))
    cut_network()


def pytest_collection_modifyitems(items):
    """Where a real model is absent, a notebook's cells that need it are skipped, and its summing up is not compared."""
    from mi_course.pretrained.needing import absent
    from mi_course.pretrained.registry import wanted

    cells, touched = [item for item in items if hasattr(item, "cell")], set()
    for item in cells:
        if missing := absent(item.cell.source):
            item.add_marker(pytest.mark.skip(reason=wanted(missing[0])))
            touched.add(item.parent)
    for item in cells:
        if item.parent in touched and re.search(r"pretrained\.need\(|claims\.verdicts\(", item.cell.source):
            item.options["check"] = False


@pytest.fixture(autouse=True)
def seeds():
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 — scikit-learn falls back on it
    torch.manual_seed(0)


@pytest.fixture
def ctrl_c():
    """What presses Ctrl-C, as a function; a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def stopped(ctrl_c):
    """`stopped(train, step)`: `train(model, sample, …)` with Ctrl-C when the step of that number is drawn."""

    def wrap(train, step):
        def run(model, sample, *given, **how):
            return train(model, lambda at: (ctrl_c() if at == step else None) or sample(at), *given, **how)

        return run

    return wrap


@pytest.fixture
def minutes(monkeypatch):
    """A clock that goes on by a minute whenever somebody looks at it: a step of `fit` takes one."""
    looks = count()
    monkeypatch.setattr(time, "perf_counter", lambda: 60.0 * next(looks))


def notebook(*sources: str) -> nbformat.NotebookNode:
    """Sources that begin with # become markdown."""
    cells = [(new_markdown_cell if source.startswith("#") else new_code_cell)(source) for source in sources]
    return new_notebook(cells=cells)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A course of one's own: write notebooks with `clone(name, *cells)`."""
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    from mi_course import files
    from mi_course.course import places, site

    monkeypatch.setattr(places, "root", lambda: tmp_path)
    monkeypatch.setattr(site, "sphinx", lambda folder: files.write(folder / "index.html", "a stand-in"))

    def add(name: str, *sources: str) -> Path:
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        nbformat.write(notebook(*sources), path)
        return path

    add.root = tmp_path
    return add


@pytest.fixture(scope="session")
def whole_site(tmp_path_factory) -> Path:
    """The site of the stored notebooks, with a gallery of a few features."""
    from mi_course.course import site

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        few = lambda: site.chosen_features("sae-512-l3", per_script=1, others=1)
        patch.setattr(site, "workshop", lambda: tmp_path_factory.mktemp("workshop"))
        patch.setattr(site, "feature_pages", few)
        patch.setattr(site, "newest", lambda path: path)
        site.build(folder)
    return folder
