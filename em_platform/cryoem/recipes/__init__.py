"""Recipes in the format of zocalo: read, checked, drawn."""

from em_platform.cryoem.recipes.draw import draw_recipe
from em_platform.cryoem.recipes.lint import Problem, lint_recipe
from em_platform.cryoem.recipes.read import (
    filled,
    placeholders_of,
    read_recipe,
    read_recipe_file,
    recipe_names,
)

__all__ = [
    "Problem",
    "draw_recipe",
    "filled",
    "lint_recipe",
    "placeholders_of",
    "read_recipe",
    "read_recipe_file",
    "recipe_names",
]
