"""Every shipped checkpoint as a recipe: `python -m mi_course train NAME` rebuilds it with its card.

A recipe's seeds are shipped as NAME (seed 0), NAME-seed1, NAME-seed2, …; a card holds what the run measured.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from mi_course.errors import CourseError, nearest
from mi_course.files import data_dir
from mi_course.models import TinyConfig, TinyTransformer
from mi_course.recipes import autoencoders as sae_recipes
from mi_course.recipes import toys as toy_recipes
from mi_course.recipes.transformers import (
    RECIPES,
    Recipe,
    Watch,
    provenance,
    sampler,
    save_log,
    save_snapshots,
)
from mi_course.training import fit

AnyRecipe = Recipe | toy_recipes.ToyRecipe | sae_recipes.SaeRecipe


def everything() -> dict[str, AnyRecipe]:
    """All recipes by name: transformers, toy models, autoencoders."""
    return RECIPES | toy_recipes.RECIPES | sae_recipes.SAE_RECIPES


def find(name: str) -> tuple[AnyRecipe, int]:
    """The recipe and seed of a shipped name: `induction-2l-seed1` is seed 1 of `induction-2l`."""
    if name in sae_recipes.SAE_RECIPES:  # an autoencoder's name holds the seed of the model it reads
        return sae_recipes.SAE_RECIPES[name], sae_recipes.SAE_RECIPES[name].sae.seed
    stem, _, number = name.removesuffix("-log").partition("-seed")
    stem = stem.removesuffix("-snapshots")
    known = everything()
    if stem not in known or (number and not number.isdigit()):
        raise CourseError(f"There is no recipe {name!r}.{nearest(stem, known)} `train --list` shows all.")
    return known[stem], int(number or 0)


def train(
    name: str,
    seed: int | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    device: str = "cpu",
) -> Path:
    """Train a recipe's seed and write weights, card, log and snapshots to `out` (default: `data/checkpoints`)."""
    recipe, named_seed = find(name)
    seed = named_seed if seed is None else seed
    if isinstance(recipe, toy_recipes.ToyRecipe):
        return toy_recipes.train(recipe, seed, out, device, progress)
    if isinstance(recipe, sae_recipes.SaeRecipe):
        return sae_recipes.train(recipe.name, out, progress=progress)
    if device != "cpu":
        raise CourseError(f"{name} trains on the CPU, in the minutes that `train --list` says.")
    out = Path(out) if out is not None else data_dir() / "checkpoints"
    stem = recipe.name + (f"-seed{seed}" if seed else "")
    config = TinyConfig(**{**asdict(recipe.config), "seed": seed})
    model, corpus = TinyTransformer(config), recipe.corpus()
    watch = Watch(corpus, config)
    snapshots: dict[int, dict] = {}
    every = range(0, recipe.train.steps + 1, max(1, recipe.train.steps // 100))
    history = fit(
        model, sampler(recipe, corpus, seed), recipe.train,
        evaluate=watch, evaluate_at=every, stop_at=recipe.until,
        snapshots_at=recipe.snapshots if seed == 0 else (),
        on_snapshot=lambda m, step: snapshots.update({step: {k: v.clone() for k, v in m.state_dict().items()}}),
        checkpoint=out / f"{stem}.partial", progress=progress,
    )  # fmt: skip
    card = {"recipe": recipe.name, "seed": seed, **provenance(recipe, corpus, history, model, watch)}
    path = model.save(out / stem, **card)
    save_log(out / f"{stem}-log", history, watch)
    if snapshots:
        save_snapshots(out / f"{stem}-snapshots", snapshots, recipe, seed)
    (out / f"{stem}.partial").unlink()
    return path
