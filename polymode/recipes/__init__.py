"""Which model, on which data, at what cost, to which number: the table that `polymode reproduce` runs.

Pure data that imports nothing heavy, a file a family or two. A recipe is what `polymode fit` would be told, what is
measured, the number that it has to reach and the one that its paper reports. What was obtained is in
results/<recipe>.json, one file a recipe.
"""

from __future__ import annotations

from polymode.recipes import adversarial, autoregressive, diffusion, energy, flow, latent
from polymode.recipes.base import Measure, Recipe, Unit

__all__ = ["RECIPES", "Measure", "Recipe", "Unit", "find"]

RECIPES: tuple[Recipe, ...] = (
    *autoregressive.RECIPES, *latent.RECIPES, *flow.RECIPES, *adversarial.RECIPES, *diffusion.RECIPES, *energy.RECIPES,
)  # fmt: skip


def find(name: str) -> Recipe:
    """The recipe of a name, or an error that names the nearest."""
    from polymode.core.errors import PolymodeError, nearest

    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    names = [recipe.name for recipe in RECIPES]
    raise PolymodeError(f"there is no recipe {name!r}{nearest(name, names) or '; recipes are: ' + ', '.join(names)}")
