"""The paper-sized toy models: parts change nothing, interrupts lose nothing, the shipped card tells the truth."""

from dataclasses import replace

import pytest
import torch

from mi_course import recipes
from mi_course import superposition as toy
from mi_course.errors import CourseError
from mi_course.files import checkpoint_names, data_dir, read_checked
from mi_course.recipes import toys as toy_recipes

PAPER = toy_recipes.PAPER_SCALE


@pytest.fixture
def tiny():
    """The recipe with a few restarts and steps, in several parts."""
    stages = {
        "uniform": replace(PAPER.stages["uniform"], shape=toy.ToyConfig(12, 3), densities=(1.0, 0.3, 0.1), steps=6,
                           batch=8, densities_at_a_time=2),
        "hidden": replace(PAPER.stages["hidden"], restarts=5, restarts_at_a_time=2, steps=6, batch=8),
    }  # fmt: skip
    return replace(PAPER, name="toy-tiny", stages=stages)


def tensors_of(recipe, out, **options):
    return read_checked(recipe.train(out=out, progress=False, **options))[0]


def test_parts_tile_all_models():
    for stage in PAPER.stages.values():
        cells = [(d, r) for rows, cols in stage.parts() for d in rows for r in cols]
        assert sorted(cells) == [(d, r) for d in range(len(stage.densities)) for r in range(stage.restarts)]


def test_parts_change_nothing(tiny, tmp_path):
    split = tensors_of(tiny, tmp_path / "split")
    whole = {
        name: replace(stage, densities_at_a_time=99, restarts_at_a_time=99)
        for name, stage in tiny.stages.items()
    }
    together = tensors_of(replace(tiny, stages=whole), tmp_path / "whole")
    assert split.keys() == together.keys() and split["hidden.loss"].shape == (8, 5)
    for name in split:
        torch.testing.assert_close(split[name].float(), together[name].float(), atol=1e-3, rtol=1e-3)


def test_an_interrupted_run_goes_on(tiny, tmp_path, monkeypatch, ctrl_c):
    whole = tensors_of(tiny, tmp_path / "whole")
    honest = toy.Features.sampler

    def interrupted(world, batch, seed=0):
        def sample(step):
            if step == 3 and len(world.p) == 2 * 8:  # in a part of the second stage
                ctrl_c()
            return honest(world, batch, seed)(step)

        return sample

    monkeypatch.setattr(toy.Features, "sampler", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny.train(out=tmp_path / "half", progress=False)
    assert list((tmp_path / "half").glob("*.partial"))
    monkeypatch.setattr(toy.Features, "sampler", honest)
    resumed = tensors_of(tiny, tmp_path / "half")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not list((tmp_path / "half").glob("*.partial"))


def test_report_and_seed(tiny, tmp_path, capsys):
    path = tiny.train(seed=3, out=tmp_path)
    assert path.stem == "toy-tiny-seed3" and "part 2 of 2" in capsys.readouterr().out
    said = tiny.report(path)
    assert "seed 3" in said and said.count("density") == 2 and "nan" not in said
    assert not torch.equal(
        read_checked(path)[0]["uniform.W"], tensors_of(tiny, tmp_path / "other")["uniform.W"]
    )


def test_no_such_device(tiny, tmp_path):
    for device in ("tpu", "cuda:99" if not torch.cuda.is_available() else "gpu"):
        with pytest.raises(CourseError, match="device"):
            tiny.train(out=tmp_path, device=device)
    for name in ("induction-2l", "sae-512-l3"):
        with pytest.raises(CourseError, match="CPU"):
            recipes.find(name).train(out=tmp_path, device="cuda")


def test_the_command_line_knows_it(tiny, tmp_path, monkeypatch, capsys):
    from mi_course.course.cli import main

    monkeypatch.setitem(toy_recipes.RECIPES, "toy-tiny", tiny)
    assert recipes.find("toy-tiny-seed2") == replace(tiny, seed=2)
    assert main(["train", "toy-tiny", "--out", str(tmp_path)]) == 0
    assert "monosemantic_neurons" in capsys.readouterr().out
    assert main(["train", "--list"]) == 0 and "toy-paper-scale" in capsys.readouterr().out
    assert main(["train", "toy-paper-scales"]) == 1


def test_what_is_shipped():
    tensors, card = read_checked(data_dir() / "checkpoints" / PAPER.name)
    assert PAPER.name not in checkpoint_names(), "it is no transformer"
    assert card["final"] == toy_recipes.outcome(tensors) and card["minutes"] > 0 and PAPER.megabytes <= 2
    assert card["stages"]["hidden"]["steps"] == PAPER.stages["hidden"].steps
    assert tensors["uniform.W"].shape == (24, 30, 400) and tensors["hidden.loss"].shape == (8, 1000)
    best = tensors["hidden.loss"].argmin(1)
    counted = toy.monosemantic(tensors["hidden.W"].float()).sum(1)
    assert torch.equal(counted, tensors["hidden.monosemantic"][torch.arange(8), best].long())
