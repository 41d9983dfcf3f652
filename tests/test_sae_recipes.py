"""The shipped autoencoders: names, cards, and what they measure."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from mi_course import files, models, recipes, sae
from mi_course.corpora import scripts
from mi_course.errors import CourseError
from mi_course.files import checkpoints
from mi_course.recipes import autoencoders as sae_recipes
from mi_course.recipes.autoencoders import HOOK, RECIPES

SHIPPED = [name for name, recipe in RECIPES.items() if recipe.shipped]


@pytest.fixture(scope="module")
def model():
    return models.load("mlp-1l").requires_grad_(False)


@pytest.fixture(scope="module")
def tokens():
    return scripts.script_text().held_out_windows(40, 128, seed=3)


def test_every_recipe_marked_so_is_shipped_and_no_other():
    ours = [name for name in files.checkpoint_names("sae") if recipes.find(name).name in RECIPES]
    assert sorted(ours) == sorted(SHIPPED)


def test_all_together_stay_small():
    sizes = [(checkpoints() / f"{name}.safetensors").stat().st_size for name in SHIPPED]
    assert sum(sizes) <= 40e6


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_says_what_was_run(name):
    card = json.loads((checkpoints() / f"{name}.json").read_text(encoding="utf-8"))
    recipe = RECIPES[name]
    assert (
        {"prefixes": (), "start_length": 0.25} | card["sae"] == asdict(recipe.sae)
        and card["model"] == recipe.model
        and card["hook"] == HOOK
    )
    final = card["final"]
    assert 0 < final["fvu"] < 0.6 and final["l0"] <= (
        51.2 if recipe.sae.l1 != 2 else 60
    )  # 10% of the neurons
    assert abs(card["change_by_16_bit_floats"]["fvu"]) < 1e-3
    if not recipe.shuffled:
        assert final["loss"] < final["spliced"] < final["mean"] < final["zero"] < final["resample"]


@pytest.mark.parametrize("name", RECIPES)
def test_another_seed_is_another_name_and_another_model(name):
    """The listed seeds are what `seeded` makes of one another."""
    recipe = recipes.find(name)
    assert recipe is RECIPES[name] and recipe.seed == int(recipe.model.partition("-seed")[2] or 0)
    other = recipe.seeded(1 - recipe.seed)
    back = other.seeded(recipe.seed)
    assert (back.name, back.what, back.sae, back.model) == (
        recipe.name,
        recipe.what,
        recipe.sae,
        recipe.model,
    )
    assert other.model != recipe.model and other.sae.seed != recipe.sae.seed
    if listed := RECIPES.get(other.name):
        assert (listed.what, listed.sae, listed.model) == (other.what, other.sae, other.model)


def test_a_seed_of_no_model_is_one_sentence(tmp_path):
    assert recipes.find("sae-512-l2-seed7").name == "sae-512-l2-seed7"
    with pytest.raises(CourseError, match="no model 'mlp-1l-seed7'"):
        recipes.find("sae-512-l2").train(seed=7, out=tmp_path)


def test_trained_small_it_writes_weights_and_card(tmp_path):
    """A dictionary of a few inputs: the same bytes twice, and nothing left over."""
    recipe = replace(RECIPES["sae-512-l3"], name="sae-tiny", inputs=512 * 8)
    path = recipe.train(out=tmp_path / "whole", progress=False)
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["recipe"] == "sae-tiny" and card["inputs"] == 512 * 8 and card["minutes"] >= 0
    assert set(card["final"]) == set(card["change_by_16_bit_floats"])
    assert sorted(p.name for p in path.parent.iterdir()) == ["sae-tiny.json", "sae-tiny.safetensors"]
    again = recipe.train(out=tmp_path / "again", progress=False)
    assert again.read_bytes() == path.read_bytes()


def test_a_shipped_one_measures_what_its_card_says(model):
    encoder = sae.SparseAutoencoder.load("sae-512-l3")
    again = sae_recipes.measure(encoder, model, scripts.script_text(), windows=60)
    for key, within in (("fvu", 0.05), ("l0", 3.0), ("recovered_zero", 0.08)):
        assert abs(again[key] - encoder.card["final"][key]) < within


def test_no_hook_is_the_models_own_loss(model, tokens):
    identity = sae_recipes.loss_with(model, tokens, lambda a, hook: a)
    assert identity == pytest.approx(float(model(tokens, return_type="loss")), abs=1e-6)
    assert sae_recipes.loss_with(model, tokens, lambda a, hook: a * 0) > identity + 0.05


def test_shuffling_keeps_every_entry_and_loses_what_was_learned(model, tokens):
    twin = sae_recipes.shuffled_weights(model)
    for (name, ours), theirs in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(ours.flatten().sort().values, theirs.flatten().sort().values), name
    assert float(twin(tokens, return_type="loss")) > float(model(tokens, return_type="loss")) + 2
    again = sae_recipes.shuffled_weights(model).state_dict()
    assert all(torch.equal(again[name], value) for name, value in twin.state_dict().items())
