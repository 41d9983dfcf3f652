"""The recipes of notebook 07: short runs of each kind that needs no real model, and what is shipped."""

from dataclasses import replace

import pytest
import torch

from mi_course import models, recipes, sae, training
from mi_course.files import checkpoints, read_checked
from mi_course.recipes import streams


def test_the_language_model_and_its_dictionary_are_made(tmp_path, monkeypatch):
    ciphers = recipes.find("ciphers")
    short = replace(ciphers, training=training.TrainConfig(steps=3), batch=4)
    path = short.train(out=tmp_path, progress=False)
    card = read_checked(path)[1]
    assert card["final"]["held_out"] > 0 and not list(tmp_path.glob("*.partial*"))
    assert models.TinyTransformer.load(path).cfg == ciphers.config
    few = replace(recipes.find("sae-ciphers"), documents=40, steps=3, batch=32)
    path = few.train(out=tmp_path, progress=False)
    one = sae.SparseAutoencoder.load(path)
    assert one.card["hook"] == "blocks.1.hook_resid_pre" and set(one.card["final"]) == {"fvu", "l0", "dead"}


@pytest.mark.parametrize(
    "name", ["sae-deep-256", "sae-deep-1024", "sae-deep-4096", "sae-smollm2-4096", "sae-ciphers"]
)
def test_what_is_shipped_is_what_the_recipe_says(name):
    recipe, one = recipes.find(name), sae.SparseAutoencoder.load(name)
    assert one.cfg == recipe.sae and one.card["hook"] == recipe.hook
    assert one.card["training"]["steps"] == recipe.steps
    assert abs(recipe.megabytes - 2 * one.W_dec.numel() * 2 / 1e6) < 0.06


def test_the_table_of_sizes_and_steps(tmp_path):
    recipe = recipes.find("sae-deep-laws")
    table, card = read_checked(checkpoints() / "sae-deep-laws")
    assert set(table) == {"deep", "zipf"} and table["deep"].shape == (len(recipe.sizes), len(recipe.steps))
    assert (table["deep"].diff(dim=1) < 0).all()  # longer is better
    assert tuple(card["sizes"]) == recipe.sizes
    few = replace(recipe, sizes=(4, 8), steps=(2, 3))
    x = torch.randn(300, 6)
    assert few.losses(x, x[:50], progress=False).shape == (2, 2)


CIPHERS = replace(recipes.find("sae-ciphers"), documents=40, steps=8, batch=32)
NEURONS = replace(recipes.find("sae-512-l3"), name="sae-tiny", inputs=512 * 8)


@pytest.mark.parametrize("recipe", [CIPHERS, NEURONS], ids=["of a stream", "of neurons"])
def test_the_minutes_of_a_run_that_goes_on_are_those_of_all_its_parts(
    recipe, tmp_path, monkeypatch, minutes, stopped
):
    whole = read_checked(recipe.train(out=tmp_path / "whole", progress=False))[1]
    with monkeypatch.context() as patch:
        patch.setattr(sae, "train", stopped(sae.train, 5))
        with pytest.raises(KeyboardInterrupt):
            recipe.train(out=tmp_path / "parts", progress=False)
    parts = read_checked(recipe.train(out=tmp_path / "parts", progress=False))[1]
    assert parts == whole and whole["minutes"] >= 8


def test_a_recipe_of_a_real_model_that_is_not_here(monkeypatch, tmp_path):
    with pytest.raises(Exception, match="smollm2"):
        monkeypatch.setattr(
            streams.pretrained, "load", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("smollm2"))
        )
        recipes.find("sae-smollm2-4096").train(out=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
