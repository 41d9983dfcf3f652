"""Recipes: how everything shipped in data/checkpoints was trained, and is trained again."""

from mi_course.recipes.recipe import Recipe
from mi_course.recipes.registry import everything, find
