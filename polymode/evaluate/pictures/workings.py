"""How a model of images works: the pattern that each unit looks for, and chains on their way to samples."""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.capabilities import HasFilters, WalksChains
from polymode.core.model import GenerativeModel
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.pictures.base import GRID, Picture
from polymode.evaluate.pictures.images import image_panel

#: chains that are shown, and after how many steps
CHAINS, STEPS = 8, (0, 1, 2, 5, 10, 20, 50, 100)


def filters(c: Comparison) -> Picture | None:
    """The filters of the largest norms, each scaled by its own largest weight; None where they are no pictures."""
    assert isinstance(c.model, HasFilters)
    found = c.model.filters()
    if c.data.spec.kind != "image" or found.dim() != 4 or found.shape[1] not in (1, 3):
        return None
    strongest = found.flatten(1).norm(dim=1).argsort(descending=True)[:GRID]
    shown = scaled(found[strongest])
    spec = specs.image(*shown.shape[1:], levels=255)
    said = f"The {len(shown)} strongest of {len(found):,} units, each scaled by its own largest weight"
    told = f"{said}: grey is none, white a positive one, black a negative one."
    return Picture("Filters", told, (image_panel("weights", shown, spec),))


def chains(c: Comparison) -> Picture:
    """Chains from where they start to samples, a row each."""
    model = c.model
    assert isinstance(model, GenerativeModel)
    assert isinstance(model, WalksChains)
    condition = None if model.condition_spec is None or c.condition is None else c.condition[:CHAINS]
    n = CHAINS if condition is None else len(condition)
    frames = model.watch(n, STEPS[-1] + 1, condition, seed=c.reference.seed)[list(STEPS)]  # (T, n, C, H, W)
    sheet = frames.transpose(0, 1).flatten(0, 1)
    told = ", ".join(map(str, STEPS))
    panel = image_panel("chains", sheet, c.data.spec, len(STEPS))
    return Picture("Chains", f"Chains from their start, a row each, after {told} steps.", (panel,))


def scaled(weights: Tensor) -> Tensor:
    """Each (N, C, H, W) as levels 0 to 254 by its own largest size: 127 is no weight."""
    largest = weights.abs().amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return (127 * (1 + weights / largest)).round().to(torch.uint8)
