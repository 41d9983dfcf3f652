"""Recipes of notebook 11: what is shipped can be made again, and a run that was stopped goes on."""

from dataclasses import replace

import pytest
import torch

from mi_course import corpora, files, lenses, models, pretrained, recipes
from mi_course.recipes import lenses as room
from mi_course.training import TrainConfig

NAMES = ("deep-6l", "hidden-step", "smollm2-jacobian", "smollm2-tuned")


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_file_has_its_recipe(name):
    recipe = recipes.find(name)
    path = files.checkpoints() / f"{name}.safetensors"
    assert recipe.name == name and recipe.minutes > 0
    assert path.stat().st_size == pytest.approx(recipe.megabytes * 1e6, abs=6e4)


def test_the_small_models_are_of_the_recipes_shape():
    for name in NAMES[:2]:
        assert models.load(name).cfg == recipes.find(name).config


def test_the_planted_model_is_trained_and_saved_in_half(tmp_path):
    recipe = replace(recipes.find("hidden-step"), training=TrainConfig(steps=3, lr=1e-3))
    path = recipe.train(out=tmp_path, progress=False)
    tensors, card = files.read_checked(path)
    assert next(iter(tensors.values())).dtype == torch.float16 and set(card["final"]) == {
        "trained",
        "held_out",
    }
    assert [p.suffix for p in sorted(tmp_path.iterdir())] == [
        ".json",
        ".safetensors",
    ]  # nothing partial is left


def test_trained_translators_go_on_and_their_minutes_too(tmp_path, monkeypatch, minutes, stopped):
    """On a small model in SmolLM2's place."""
    model = models.load("deep-6l")
    model.tokenizer = corpora.python_text(512).tokenizer
    monkeypatch.setattr(pretrained, "load", lambda name: model)
    recipe = replace(recipes.find("smollm2-tuned"), layers=(3,), start_windows=4, length=8,
                     training=TrainConfig(steps=8, lr=1e-3, warmup=1))  # fmt: skip
    whole, card = files.read_checked(recipe.train(out=tmp_path / "whole", progress=False))
    with monkeypatch.context() as patch:
        patch.setattr(lenses, "train_translators", stopped(lenses.train_translators, 5))
        with pytest.raises(KeyboardInterrupt):
            recipe.train(out=tmp_path / "parts", progress=False)
    parts, again = files.read_checked(recipe.train(out=tmp_path / "parts", progress=False))
    assert card == again and card["minutes"] == 8
    assert all(torch.equal(W, parts[name]) for name, W in whole.items())
    assert not list((tmp_path / "parts").glob("*.partial*"))


@pytest.mark.skipif(not pretrained.here(room.NAME), reason="needs SmolLM2")
def test_the_jacobian_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    recipe = replace(recipes.find("smollm2-jacobian"), layers=(29,), prompts=2, length=12, skip=4)
    whole = lenses.load_lens(recipe.train(out=tmp_path / "whole", progress=False))
    save, saved = room.save_checked, []

    def stopped(*args, **card):
        save(*args, **card)
        saved.append(card["done"])
        raise KeyboardInterrupt

    (tmp_path / "parts").mkdir()
    monkeypatch.setattr(room, "save_checked", stopped)
    with pytest.raises(KeyboardInterrupt):
        recipe.train(out=tmp_path / "parts", progress=False)
    monkeypatch.setattr(room, "save_checked", save)
    again = lenses.load_lens(recipe.train(out=tmp_path / "parts", progress=False))
    assert saved == [1] and torch.equal(whole.weights[29], again.weights[29])
    assert not list((tmp_path / "parts").glob("*.partial*"))
