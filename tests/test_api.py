"""What stands in the API pages: every public module has an example that runs, and its main names say all they take."""

import contextlib
import doctest
import importlib
import inspect
import io
import re

import pytest

import mi_course

PUBLIC = sorted(mi_course._parts() - {"checks", "course"})

# What README's table of things to take leads to, and what a use page begins with.
MAIN = {
    "activations": ["activations", "collect", "Store", "Store.of", "Store.write", "Store.open", "Store.sample", "Store.rows"],
    "corpora": ["from_folder", "from_texts", "repeated_tokens", "train_tokenizer", "files_below"],
    "models": ["TinyTransformer", "TinyConfig", "load"],
    "patching": ["Experiment", "Experiment.sweep", "Experiment.patch", "Experiment.logits", "Experiment.path",
                 "Experiment.path_sweep", "Experiment.attribution", "Experiment.edge_attribution",
                 "Experiment.random_nodes", "Experiment.complement", "Node", "PatchResult"],
    "plots": ["line", "bars", "heatmap", "attention", "attention_view", "scatter", "tokens", "tokens_view", "table"],
    "pretrained": ["load", "to_bridge"],
    "sae": ["SaeConfig", "SparseAutoencoder", "SaeTraining", "train", "splice", "loss_recovered", "to_saelens", "from_saelens"],
    "training": ["fit", "TrainConfig"],
}  # fmt: skip


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


@pytest.mark.parametrize("name", [f"{module}.{part}" for module, parts in MAIN.items() for part in parts])
def test_help_says_every_argument(name):
    module, *path = name.split(".")
    thing = importlib.import_module(f"mi_course.{module}")
    for part in path:
        thing = getattr(thing, part)
    words = inspect.getdoc(thing) or ""
    taken = [p for p in inspect.signature(thing).parameters if p not in ("self", "cls")]
    silent = [p for p in taken if not re.search(rf"\b{p}\b", words)]
    assert silent == [], f"help({name}) does not say what {', '.join(silent)} is"
