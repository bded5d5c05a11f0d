"""Taking noise out of data by a model that encodes and decodes.

    decode(encode(noisy))

A denoising autoencoder learned to do this (Vincent et al. 2008); any other model that `HasLatents` does it as far as
its codes have no room for noise, such as a variational autoencoder of clean data (Im et al. 2017, arXiv:1511.06406).
`denoise` is that, `psnr` (of `evaluate.fidelity`) says by how much it helped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core.capabilities import HasLatents, require
from polymode.core.condition import Condition
from polymode.core.model import GenerativeModel
from polymode.evaluate.fidelity import psnr

__all__ = ["denoise", "psnr"]

#: rows that are denoised at once
BATCH = 1024


def denoise(model: GenerativeModel, noisy: Tensor, condition: Condition | None = None) -> Tensor:
    """Data (B, *shape) without their noise, in data space, on the CPU.

    Raises:
        CapabilityError: a model without codes.
        DataError: noisy data that are no data of the model any more; round and clip them first.
    """
    require(model, HasLatents, "denoise")
    assert isinstance(model, HasLatents)
    found = []
    for i in range(0, len(noisy), BATCH):
        own = None if condition is None else condition[i : i + BATCH]
        found.append(model.decode(model.encode(noisy[i : i + BATCH], own), own).cpu())
    return torch.cat(found)
