"""Every recipe by its name: `python -m mi_course train NAME` rebuilds what is shipped, with its card.

A recipe's seeds are shipped as NAME (seed 0), NAME-seed1, NAME-seed2, …; a card holds what the run measured.
"""

from __future__ import annotations

from mi_course.errors import CourseError, nearest
from mi_course.recipes import (
    arithmetic,
    autoencoders,
    lenses,
    oracles,
    steering,
    streams,
    toys,
    transformers,
)
from mi_course.recipes.recipe import Recipe


def everything() -> dict[str, Recipe]:
    """All recipes by name: transformers, toy models, autoencoders, runs that grok, lenses, steering, streams, oracles."""
    families = (transformers, toys, autoencoders, arithmetic, lenses, steering, streams, oracles)
    return {name: recipe for family in families for name, recipe in family.RECIPES.items()}


def find(name: str) -> Recipe:
    """The recipe of a shipped name, with its seed: `induction-2l-seed1` is seed 1 of `induction-2l`."""
    known = everything()
    if name in known:  # autoencoders are listed seed by seed
        return known[name]
    stem, _, number = name.removesuffix("-log").partition("-seed")
    stem = stem.removesuffix("-snapshots")
    if stem not in known or (number and not number.isdigit()):
        raise CourseError(f"There is no recipe {name!r}.{nearest(stem, known)} `train --list` shows all.")
    return known[stem].seeded(int(number or 0))
