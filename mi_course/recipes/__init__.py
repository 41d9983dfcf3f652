"""Recipes: how everything shipped in data/checkpoints was trained, and is trained again.

>>> from mi_course import recipes
>>> recipe = recipes.find("sae-512-l3")
>>> recipe.name, recipe.minutes > 0
('sae-512-l3', True)
"""

from mi_course.recipes.recipe import Recipe
from mi_course.recipes.registry import everything, find
