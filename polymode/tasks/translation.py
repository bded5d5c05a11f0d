"""Pictures as other pictures: every model that `Translates`, in batches, there and back.

y = G(x),    and back:  F(G(x))   where the model has both ways
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Translates, require
from polymode.core.errors import CapabilityError
from polymode.core.model import GenerativeModel

#: pictures that are translated at once
BATCH = 256


def translate_pictures(
    model: GenerativeModel,
    x: Tensor,
    to: str | None = None,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    **options: Any,
) -> Tensor:
    """What pictures (N, C, H, W) become, (N, C', H', W').

    Args:
        to: a destination of the model's `routes`, the first by default: "b", or "a" for the way back; a label where a
            model has many domains.
        options: the model's own.

    Raises:
        CapabilityError: a model that translates nothing.
        PolymodeError: there is no such destination.
        DataError: pictures that are not of the domain that the way begins in.
    """
    require(model, Translates, "translation")
    assert isinstance(model, Translates)
    g = rng.resolve(generator, seed)
    return torch.cat([model.translate(rows, to, generator=g, **options) for rows in x.split(BATCH)])


def there_and_back(model: GenerativeModel, x: Tensor, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
    """(what pictures of domain a become, what becomes of that on the way back).

    Raises:
        CapabilityError: a model that translates nothing, or one way only.
    """
    require(model, Translates, "translation")
    assert isinstance(model, Translates)
    if "a" not in model.routes:
        raise CapabilityError(f"{type(model).__name__} has no way back; its ways are {', '.join(model.routes)}")
    there = translate_pictures(model, x, "b", seed=seed)
    return there, translate_pictures(model, there, "a", seed=seed)
