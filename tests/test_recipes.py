"""Recipes rebuild what is shipped; what is shipped is whole, and its card tells the truth about it."""

import inspect
import json
from dataclasses import replace

import pytest
import torch

from mi_course import corpora, induction, recipes
from mi_course.errors import CourseError
from mi_course.files import checkpoint_names, data_dir, read_checked
from mi_course.models import load
from mi_course.recipes import transformers
from mi_course.recipes.recipe import TinyRecipe

CARDS = sorted((data_dir() / "checkpoints").glob("*.json"))


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_shipped_files_are_whole_and_have_a_recipe(card):
    tensors, content = read_checked(card)
    recipe = recipes.find(card.stem)
    assert card.stem in (recipe.stem, f"{recipe.stem}-log", f"{recipe.stem}-snapshots")
    assert recipe.name == content.get("recipe", recipe.name) and recipe.seed == content.get(
        "seed", recipe.seed
    )
    assert all(torch.isfinite(t.float()).all() for t in tensors.values())


TINY = {name for name, recipe in recipes.registry.everything().items() if isinstance(recipe, TinyRecipe)}


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_small_model_is_what_its_card_says(name):
    shipped, recipe = load(name), recipes.find(name)
    assert shipped.cfg == recipe.config and shipped.card["minutes"] > 0
    model = recipe.begin()  # with what a recipe does to it, such as a mask
    model.load_state_dict(shipped.state_dict())
    with torch.no_grad():
        measured = recipe.final(model.eval())["final"]
    assert measured == pytest.approx(
        shipped.card["final"], abs=0.01 if name != "deep-6l" else 0.2
    )  # its text differs by Python


@pytest.mark.parametrize("name", [n for n in checkpoint_names() if n not in TINY])
def test_cards_tell_the_truth(name):
    model, recipe = load(name), recipes.find(name)
    card = model.card
    assert model.cfg == recipe.config
    assert card["tokens"] == card["steps"] * recipe.batch * recipe.config.n_ctx
    assert card["random_repeats"] == recipe.random_repeats
    assert card["steps"] == (recipe.until or recipe.training.steps)
    assert card["minutes"] > 0 and card["versions"]["torch"] and card["fingerprint"] in card["corpus"]
    prefix = induction.head_scores(model)["prefix"]
    assert torch.allclose(prefix, torch.tensor(card["final"]["prefix"]), atol=2e-3), (
        "the card's scores are this model's"
    )


def test_every_recipe_and_seed_is_shipped():
    wanted = {r.name + (f"-seed{s}" if s else "") for r in transformers.RECIPES.values() for s in r.seeds}
    assert set(checkpoint_names()) == wanted | TINY


def test_names():
    assert recipes.find("induction-2l-seed1").seed == 1
    assert recipes.find("induction-2l-snapshots").name == "induction-2l"
    for bad in ("induction-3l", "induction-2l-seedx", ""):
        with pytest.raises(CourseError, match="There is no recipe"):
            recipes.find(bad)
    with pytest.raises(CourseError, match="induction-2l"):
        recipes.find("induction-2")


@pytest.mark.parametrize("recipe", recipes.everything().values(), ids=recipes.everything())
def test_every_recipe_keeps_the_protocol(recipe):
    """Whoever asks for a recipe need not know its kind."""
    assert recipes.find(recipe.name) == recipe and isinstance(recipe, recipes.Recipe)
    assert recipe.what and recipe.device in recipe.devices and recipe.minutes != 0
    assert recipe.megabytes > 0 and type(recipe.shares_batches) is bool
    assert list(inspect.signature(recipe.train).parameters) == ["seed", "out", "device", "progress"]
    assert recipe.seeded(recipe.seed).stem == recipe.stem != recipe.seeded(5).stem
    with pytest.raises(CourseError, match="no device 'abacus'"):
        recipe.train(device="abacus")
    with pytest.raises(CourseError, match="no device 'meta'"):
        recipe.train(device=torch.device("meta"))


@pytest.fixture
def tiny(monkeypatch):
    """A recipe of a few steps."""
    base = transformers.RECIPES["induction-2l"]
    shape = {"n_layers": 1, "n_heads": 2, "d_model": 16, "n_ctx": 128}
    recipe = replace(
        base,
        name="tiny",
        model=shape,
        training=replace(base.training, steps=4),
        batch=2,
        snapshots=(0, 4),
        random_repeats=0.5,
    )
    monkeypatch.setitem(transformers.RECIPES, "tiny", recipe)
    return recipe


def test_train_writes_weights_card_log_and_snapshots(tiny, tmp_path):
    path = recipes.find("tiny").train(out=tmp_path, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        f"tiny{part}.{kind}" for part in ("", "-log", "-snapshots") for kind in ("json", "safetensors")
    )
    model = load(path)
    assert model.cfg == tiny.config
    log, _ = read_checked(tmp_path / "tiny-log")
    assert log["step"].tolist() == [0, 1, 2, 3, 4] and log["loss"].shape == (4,)
    assert log["prefix"].shape == (5, 1, 2) and log["token_losses"].shape == (5, 1000)
    snapshots, _ = read_checked(tmp_path / "tiny-snapshots")
    assert snapshots["step"].tolist() == [0, 4]
    assert torch.equal(snapshots["embed.W_E"][1], model.W_E.half())
    again = recipes.find("tiny").train(out=tmp_path / "again", progress=False)
    assert again.read_bytes() == path.read_bytes(), "the same seed gives the same bytes"
    other = recipes.find("tiny-seed1").train(out=tmp_path / "again", progress=False)
    assert (
        other.name == "tiny-seed1.safetensors"
        and json.loads(other.with_suffix(".json").read_text())["seed"] == 1
    )


def test_interrupted_training_goes_on(tiny, tmp_path, monkeypatch, ctrl_c):
    whole = recipes.find("tiny").train(out=tmp_path / "whole", progress=False)
    honest = transformers.TransformerRecipe.sampler

    def interrupted(recipe, corpus):
        def sample(step):
            if step == 2:
                ctrl_c()
            return honest(recipe, corpus)(step)

        return sample

    monkeypatch.setattr(transformers.TransformerRecipe, "sampler", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recipes.find("tiny").train(out=tmp_path / "half", progress=False)
    monkeypatch.setattr(transformers.TransformerRecipe, "sampler", honest)
    resumed = recipes.find("tiny").train(out=tmp_path / "half", progress=False)
    for part in ("", "-log", "-snapshots"):
        (ours, one), (theirs, other) = (
            read_checked(path.with_name(f"tiny{part}")) for path in (resumed, whole)
        )
        assert ours.keys() == theirs.keys() and one["sha256"] == other["sha256"], part
    assert not list(resumed.parent.glob("*.partial*"))


def test_text_alone_unless_the_recipe_says_so():
    corpus = corpora.python_text(512)
    plain = transformers.RECIPES["induction-2l"]
    assert torch.equal(plain.sampler(corpus)(3), corpus.windows(256, 8, seed=0)(3))
    assert plain.random_repeats == 0 and transformers.RECIPES["induction-2l-repeats"].random_repeats == 0.05
