"""Recipes of energies and Boltzmann machines."""

from __future__ import annotations

from polymode.recipes.base import Recipe

RECIPES: tuple[Recipe, ...] = ()
