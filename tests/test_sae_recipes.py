"""The shipped autoencoders: names, cards, and what they measure."""

import json

import pytest
import torch

from mi_course import files, models, sae
from mi_course.corpora import scripts
from mi_course.files import data_dir
from mi_course.recipes import autoencoders as sae_recipes
from mi_course.recipes.autoencoders import HOOK, SAE_RECIPES

SHIPPED = [name for name, recipe in SAE_RECIPES.items() if recipe.shipped]


@pytest.fixture(scope="module")
def model():
    return models.load("mlp-1l").requires_grad_(False)


@pytest.fixture(scope="module")
def tokens():
    return scripts.script_text().held_out_windows(40, 128, seed=3)


def test_every_recipe_marked_so_is_shipped_and_no_other():
    assert sorted(files.checkpoint_names("sae")) == sorted(SHIPPED)


def test_all_together_stay_small():
    sizes = [(data_dir() / "checkpoints" / f"{name}.safetensors").stat().st_size for name in SHIPPED]
    assert sum(sizes) <= 40e6


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_says_what_was_run(name):
    card = json.loads((data_dir() / "checkpoints" / f"{name}.json").read_text(encoding="utf-8"))
    recipe = SAE_RECIPES[name]
    assert card["sae"] == sae.asdict(recipe.sae) and card["model"] == recipe.model and card["hook"] == HOOK
    final = card["final"]
    assert 0 < final["fvu"] < 0.6 and final["l0"] <= (
        51.2 if recipe.sae.l1 != 2 else 60
    )  # 10% of the neurons
    assert abs(card["change_by_16_bit_floats"]["fvu"]) < 1e-3
    if not recipe.shuffled:
        assert final["loss"] < final["spliced"] < final["mean"] < final["zero"] < final["resample"]


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
