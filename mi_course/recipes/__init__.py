"""Recipes: how everything shipped in data/checkpoints was trained."""

from mi_course.recipes.registry import AnyRecipe, everything, find, train
