"""Recipes of diffusion, score and flow-matching models."""

from __future__ import annotations

from polymode.recipes.base import Recipe

RECIPES: tuple[Recipe, ...] = ()
