"""Taking noise out of data, by any model that has a way to: one verb for denoisers and for codes.

    x ~ p(x | y = x + noise), or its mean       a model that `Restores`, told how much noise there is
    decode(encode(y))                           any that `HasLatents`

A denoising autoencoder learned the second (Vincent et al. 2008); any other code does it as far as it has no room for
noise, such as that of a variational autoencoder of clean data (Im et al. 2017, arXiv:1511.06406). A diffusion model's
code keeps everything, noise too, and so it is asked for the first: its mean E[x | y], of least squared error, is one
call of the network, a draw a chain from y on. `psnr` (of `evaluate.fidelity`) says by how much it helped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasLatents, require
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError
from polymode.core.model import GenerativeModel
from polymode.core.restoring import Restores
from polymode.evaluate.fidelity import psnr
from polymode.parts.operators import Identity

__all__ = ["denoise", "psnr"]

#: rows that are denoised at once
BATCH = 1024


def denoise(
    model: GenerativeModel,
    noisy: Tensor,
    condition: Condition | None = None,
    *,
    noise: float | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    **options: Any,
) -> Tensor:
    """Data (B, *shape) without their noise, in data space, on the CPU.

    Args:
        noise: its standard deviation in the data's units, for a model that `Restores`.
        options: of the model's `restore`; by default the mean is taken (mean=False draws).

    Raises:
        CapabilityError: a model without codes that restores nothing.
        DataError: noisy data that are no data of the model any more, for one of codes; round and clip them first.
        PolymodeError: a model that restores and was not told the noise.
    """
    by_code = not isinstance(model, Restores)
    if by_code:
        require(model, HasLatents, "denoise")
        if options:
            raise PolymodeError(f"{type(model).__name__} takes noise out by its codes, which has no options")
    elif noise is None:
        raise PolymodeError(
            f"{type(model).__name__} has to know how much noise there is; say noise=, its standard deviation in the "
            "data's units"
        )
    g = rng.resolve(generator, seed)
    found = []
    for i in range(0, len(noisy), BATCH):
        own, rows = None if condition is None else condition[i : i + BATCH], noisy[i : i + BATCH]
        if isinstance(model, Restores):
            found.append(model.restore(rows, Identity(), own, generator=g, noise=noise, **{"mean": True} | options))
        else:
            assert isinstance(model, HasLatents)
            found.append(model.decode(model.encode(rows, own), own).cpu())
    return torch.cat(found)
