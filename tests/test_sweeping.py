"""Sweeps from the command line: settings of recipes, several recipes, one sentence for what is wrong."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mi_course import files, recipes, sweeps
from mi_course.course import cli, sweeping
from mi_course.errors import CourseError
from mi_course.recipes import varying
from mi_course.recipes.recipe import Recipe


def test_a_setting_is_a_field_of_the_recipe_or_of_what_it_holds():
    made = varying.varied(
        "sae-512-l3", {"sae.d_sae": "256", "inputs": "51200", "lr": 0.01, "shuffled": "true"}
    )
    assert (made.sae.d_sae, made.inputs, made.lr, made.shuffled) == (256, 51200, 0.01, True)
    assert made.name == made.stem == "sae-512-l3-d_sae256-inputs51200-lr0.01-shuffledtrue"
    assert recipes.find("sae-512-l3").sae.d_sae == 512, "the recipe itself stays"
    deep = varying.varied("induction-2l", {"model.n_layers": "3", "training.lr": "0.01"})
    assert (deep.config.n_layers, deep.training.lr, deep.batch) == (3, 0.01, 8)


def test_another_seed_reads_another_model():
    made = varying.varied("sae-512-l3", {"seed": "1"})
    assert (made.model, made.sae.seed, made.name) == ("mlp-1l-seed1", 1001, "sae-512-l3-seed1")


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"sae.dsae": "1"}, "SaeConfig has no 'dsae'. Did you mean 'd_sae'?"),
        ({"input": "1"}, "SaeRecipe has no 'input'. Did you mean 'inputs'?"),
        ({"inputs": "many"}, "inputs is 1000000 in this recipe, and 'many' is nothing of the kind"),
        ({"inputs.size": "1"}, "inputs is a single value"),
        ({"sae": "3"}, "sae is no single value: vary one of sae.d_in"),
        ({"shuffled": "maybe"}, "shuffled is False in this recipe"),
        ({"name": "mine"}, "has no 'name'"),
    ],
)
def test_settings_that_cannot_be(settings, sentence):
    with pytest.raises(CourseError) as error:
        varying.varied("sae-512-l3", settings)
    assert sentence in str(error.value)


def test_a_sweep_with_a_name_has_settings_of_its_own():
    recipe, vary = varying.sweep_named("scaling", {"steps": ["5"]})
    assert recipe == "sae-deep-256" and vary == {"sae.d_sae": [32, 96, 320, 1024], "steps": ["5"]}
    assert varying.varied(recipe, {"sae.d_sae": 32, "steps": "5"}).steps == 5
    assert varying.sweep_named("mlp-1l", {"seed": ["0"]}) == ("mlp-1l", {"seed": ["0"]})
    with pytest.raises(CourseError, match="--vary SETTING=A,B: mlp-1l has no sweep"):
        varying.sweep_named("mlp-1l", {})


def test_every_combination_is_one_task(tmp_path):
    found = varying.tasks("sae-512-l3", {"sae.d_sae": ["256", "512"], "seed": ["0", "1"]}, tmp_path)
    assert [task.name for task in found][:2] == ["sae-512-l3-d_sae256-seed0", "sae-512-l3-d_sae256-seed1"]
    assert found[3].settings["settings"] == {"sae.d_sae": 512, "seed": 1}
    assert len({task.mark for task in found}) == 4 and json.dumps(found[0].settings)


@pytest.mark.parametrize(
    "vary, sentence",
    [
        (["lr"], "SETTING=A,B"),
        (["=3"], "SETTING=A,B"),
        (["lr="], "SETTING=A,B"),
        (["lr=1", "lr=2"], "names lr twice"),
    ],
)
def test_vary_that_cannot_be_read(vary, sentence):
    with pytest.raises(CourseError, match=sentence):
        sweeping.values(vary)
    assert sweeping.values(["lr=1, 2,1", "seed=0"]) == {"lr": ["1", "2"], "seed": ["0"]}


@dataclass(frozen=True)
class Tiny(Recipe):
    """Trains in no time: its card holds what it was asked for."""

    size: int = 4

    def make(self, out: Path, device: str, progress: bool) -> Path:
        if self.size == 13:
            raise ValueError("13 is bad luck")
        final = {"fvu": self.size / 10, "steps": [1, 2]}
        return files.save_checked(out / self.stem, {"w": torch.zeros(self.size)}, final=final)


def in_this_process(tasks, out, *, workers, scheduler):
    """As `sweeps.run`, without the engine: `test_sweeps` has that."""
    out.mkdir(parents=True, exist_ok=True)
    todo = [task for task in sweeps.checked(tasks) if not sweeps.done(task, out)]
    failed = {task.name: why for task in todo if (why := sweeps.work(task, str(out)))}
    read = lambda task: json.loads(sweeps.place(task, out).read_text())["result"]
    results = {task.name: read(task) for task in tasks if task.name not in failed}
    return sweeps.Sweep(
        results, failed, {task.name: task.settings for task in tasks}, len(todo) - len(failed)
    )


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(recipes.registry, "find", lambda name: Tiny(name, "a trial"))
    monkeypatch.setattr(recipes, "find", lambda name: Tiny(name, "a trial"))
    monkeypatch.setattr(sweeps, "run", in_this_process)


def test_a_sweep_writes_its_table_and_does_nothing_twice(tmp_path, tiny, capsys):
    asked = ["sweep", "tiny", "--vary", "size=5,6", "--vary", "seed=0,1", "--out", str(tmp_path)]
    assert cli.main(asked) == 0
    table = (tmp_path / "table.csv").read_text()
    assert table.splitlines()[:3] == [
        "task,size,seed,fvu", "tiny-size5-seed0,5,0,0.5", "tiny-size5-seed1-seed1,5,1,0.5",
    ]  # fmt: skip
    assert capsys.readouterr().out == f"{table}{tmp_path / 'table.csv'}\n"
    trained = sorted(path.name for path in (tmp_path / "trained").glob("*.safetensors"))
    assert len(trained) == 4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "trained").iterdir()}
    assert cli.main(asked) == 0 and (tmp_path / "table.csv").read_text() == table
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "trained").iterdir()}


def test_a_run_that_fails_is_named_and_the_others_are_in_the_table(tmp_path, tiny, capsys):
    assert cli.main(["sweep", "tiny", "--vary", "size=5,13", "--out", str(tmp_path)]) == 1
    assert "tiny-size13 failed: ValueError: 13 is bad luck" in capsys.readouterr().out
    assert (tmp_path / "table.csv").read_text() == "task,size,fvu\ntiny-size5,5,0.5\n"
    assert cli.main(["sweep", "tiny", "--vary", "size=x", "--out", str(tmp_path)]) == 1
    assert "size is 4 in this recipe, and 'x' is nothing of the kind" in capsys.readouterr().err


def test_several_recipes_at_once(tmp_path, tiny, capsys, monkeypatch):
    both = ["train", "one", "two", "--seed", "3", "--workers", "2"]
    assert cli.main([*both, "--out", str(tmp_path / "a")]) == 0
    made = [Path(line).name for line in capsys.readouterr().out.split()]
    assert made == ["one-seed3.safetensors", "two-seed3.safetensors"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "one-seed3.json", "one-seed3.safetensors", "two-seed3.json", "two-seed3.safetensors",
    ]  # fmt: skip
    assert cli.main([*both, "--device", "cpu:0", "--out", str(tmp_path / "d")]) == 0
    assert cli.main([*both, "--device", "cuda", "--out", str(tmp_path / "c")]) == 1
    assert "give one at a time" in capsys.readouterr().err
    monkeypatch.setattr(recipes, "find", lambda name: Tiny(name, "a trial", size=13 if name == "two" else 4))
    monkeypatch.setattr(recipes.registry, "find", recipes.find)
    assert cli.main([*both, "--out", str(tmp_path / "b")]) == 1
    assert "two-seed3 failed: ValueError: 13 is bad luck" in capsys.readouterr().out
    assert (tmp_path / "b" / ".sweep" / "one-seed3.json").exists(), "to go on from"
