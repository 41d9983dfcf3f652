"""One recipe, many settings: what a sweep trains.

A setting is a field of the recipe, or of what it holds: `inputs`, `seed`, `sae.d_sae`, `training.lr`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from mi_course import files
from mi_course.errors import CourseError, nearest
from mi_course.recipes import registry
from mi_course.recipes.recipe import Recipe
from mi_course.sweeps import Task, flat, grid

TRAIN = "mi_course.recipes.varying:train_varied"
NAMED = "mi_course.recipes.varying:train_named"
# Sweeps with a name: notebook 07's, sizes by steps; other values may be asked for.
SWEEPS = {
    "scaling": ("sae-deep-256", {"sae.d_sae": [32, 96, 320, 1024], "steps": [50, 100, 200, 400, 800]}),
}


def varied(name: str, settings: dict[str, Any]) -> Recipe:
    """The recipe `name` with other `settings`, under a name that says them: {"sae.d_sae": 256} → sae-512-l3-d_sae256."""
    recipe = registry.find(name)
    if "seed" in settings:
        recipe = recipe.seeded(setting(recipe.seed, settings["seed"], "seed"))
    for path, value in settings.items():
        if path != "seed":
            recipe = with_field(recipe, path.split("."), value, path)
    tail = "-".join(f"{path.rpartition('.')[2]}{value}" for path, value in settings.items())
    return replace(recipe, name=f"{name}-{tail}" if tail else name)


def sweep_named(name: str, vary: dict[str, Sequence]) -> tuple[str, dict[str, Sequence]]:
    """The recipe and the settings of a sweep: of one with a `name`, its own where `vary` says nothing else."""
    recipe, own = SWEEPS.get(name, (name, {}))
    if not {**own, **vary}:
        raise CourseError(
            f"Say what changes, --vary SETTING=A,B: {name} has no sweep of its own ({', '.join(SWEEPS)} has)."
        )
    return recipe, {**own, **vary}


def with_field(holder: Any, path: Sequence[str], value: Any, whole: str) -> Any:
    """`holder` with the field at the end of `path` changed; `whole` is the path as it was given."""
    (first, *rest), held = path, inside(holder)
    if first not in held:
        hint = nearest(first, held)
        raise CourseError(f"There is no setting {whole!r}: {type(holder).__name__} has no {first!r}.{hint}")
    if rest and not inside(held[first]):
        raise CourseError(f"There is no setting {whole!r}: {first} is a single value.")
    changed = with_field(held[first], rest, value, whole) if rest else setting(held[first], value, whole)
    return {**holder, first: changed} if isinstance(holder, dict) else replace(holder, **{first: changed})


def inside(holder: Any) -> dict[str, Any]:
    """What a dataclass or a dictionary holds, by name; a single value holds nothing. A recipe's name is no setting."""
    if isinstance(holder, dict):
        return holder
    return (
        {one.name: getattr(holder, one.name) for one in fields(holder) if one.name != "name"}
        if is_dataclass(holder)
        else {}
    )


def setting(now: Any, value: Any, said: str) -> Any:
    """A value in the place of what the recipe holds `now`: words become numbers or facts where those are. `said` is the setting."""
    if inner := inside(now):
        names = ", ".join(f"{said}.{name}" for name in inner)
        raise CourseError(f"{said} is no single value: vary one of {names}.")
    if not isinstance(value, str) or isinstance(now, str):
        return value
    try:
        if isinstance(now, bool):
            return {"true": True, "false": False}[value.lower()]
        return type(now)(value) if isinstance(now, (int, float)) else json.loads(value)
    except (KeyError, ValueError):
        raise CourseError(
            f"{said} is {now!r} in this recipe, and {value!r} is nothing of the kind."
        ) from None


def tasks(name: str, vary: dict[str, Sequence], out: Path) -> list[Task]:
    """One task for each combination of what `vary` says, setting → values; each trains into a folder below `out`."""
    found = []
    for settings in grid(**vary):
        recipe = varied(name, settings)  # a wrong setting is said before anything runs
        settings = {path: setting_of(recipe, path) for path in settings}
        given = {"recipe": name, "settings": settings, "out": str(out)}
        found.append(Task(recipe.stem, TRAIN, given))
    return found


def setting_of(recipe: Recipe, path: str) -> Any:
    """What the recipe holds at a dotted `path`."""
    value: Any = recipe
    for part in path.split("."):
        value = inside(value)[part]
    return value


def train_varied(recipe: str, settings: dict[str, Any], out: str) -> dict[str, Any]:
    """On a worker: train it and return the numbers of its card."""
    path = varied(recipe, settings).train(out=Path(out) / "trained", progress=False)
    return measured(path)


def train_named(name: str, seed: int | None, out: str) -> dict[str, Any]:
    """On a worker: what `train NAME --seed` does."""
    path = registry.find(name).train(seed, Path(out), progress=False)
    return {"file": path.name} | measured(path)


def measured(path: Path) -> dict[str, Any]:
    """The numbers that a card says of its finished run."""
    card = files.read_checked(path)[1]
    return flat(card.get("final", {}) if isinstance(card.get("final"), dict) else {})
