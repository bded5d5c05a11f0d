"""Completing data: what is known stays, what is missing is drawn given it.

    x_missing ~ p(. | x_known)

by any model that `Completes`: exactly where its order of drawing allows the mask, see there. `known_part` makes the
usual masks, `completions` several draws of each datum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Completes, require
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec

#: what may be known of a datum, in words
PARTS = ("top", "bottom", "left", "right", "first", "frame", "random")


def known_part(spec: Spec, part: str, *, share: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """A mask (*shape), True where a datum is known.

    Args:
        part: "top", "bottom", "left" and "right" of pictures and grids; "first" of anything, in reading order; "frame",
            all but a box in the middle; "random".
        share: about how much is known.
        generator: for "random".

    Raises:
        PolymodeError: an unknown part, one that such data do not have, or a share outside (0, 1).
    """
    require_choice("part", part, PARTS)
    if not 0 < share < 1:
        raise PolymodeError(f"share={share}, expected a share of what is known between 0 and 1")
    known = torch.zeros(spec.shape, dtype=torch.bool)
    if part == "first":
        known.view(-1)[: max(1, round(share * spec.num_dims))] = True
        return known
    if part == "random":
        return rng.rand(spec.shape, rng.resolve(generator, None), torch.empty(0)) < share
    if spec.kind not in ("image", "grid"):
        raise PolymodeError(f"{part!r} is a part of pictures and grids and the data are {spec}; take first or random")
    h, w = spec.shape[-2:]
    if part == "frame":
        high, wide = (max(1, round(size * (1 - share) ** 0.5)) for size in (h, w))
        known[:] = True
        known[..., (h - high) // 2 : (h - high) // 2 + high, (w - wide) // 2 : (w - wide) // 2 + wide] = False
        return known
    rows, columns = max(1, round(share * h)), max(1, round(share * w))
    side = {
        "top": (slice(rows), slice(None)), "bottom": (slice(h - rows, h), slice(None)),
        "left": (slice(None), slice(columns)), "right": (slice(None), slice(w - columns, w)),
    }[part]  # fmt: skip
    known[(..., *side)] = True
    return known


def completions(
    model: GenerativeModel,
    x: Tensor,
    known: Tensor,
    *,
    each: int = 1,
    condition: Condition | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    **options: Any,
) -> Tensor:
    """Draws of what is missing: (N, each, *shape).

    Args:
        x: (N, *shape) data; what they hold where nothing is known is not looked at.
        known: (*shape) for all, or (N, *shape).
        each: draws of a datum.
        condition: one row a datum.
        options: of the model's `complete`.

    Raises:
        CapabilityError: a model that completes nothing.
        DataError: a mask that its order does not allow.
    """
    require(model, Completes, "complete")
    assert isinstance(model, Completes)
    if each < 1:
        raise PolymodeError(f"each={each}, expected at least 1 draw of a datum")
    rows = x.repeat_interleave(each, dim=0)
    mask = known.expand(x.shape).repeat_interleave(each, dim=0)
    conditions = None if condition is None else condition.repeat_interleave(each)
    filled = model.complete(rows, mask, conditions, generator=generator, seed=seed, **options)
    return filled.view(len(x), each, *x.shape[1:])
