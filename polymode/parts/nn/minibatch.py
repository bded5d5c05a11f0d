"""Layers that let a discriminator see how varied a batch is: a generator that has collapsed gives itself away.

`MinibatchDiscrimination`: Salimans et al. 2016, Improved techniques for training GANs (arXiv:1606.03498, section 3.2).

    M_i = f(x_i) T in R^{B' x C'},   c_b(x_i, x_j) = exp(-|M_ib - M_jb|_1),   o(x_i)_b = sum_{j != i} c_b(x_i, x_j)

`MinibatchDeviation`: Karras et al. 2018, Progressive growing of GANs (arXiv:1710.10196, section 3): the standard
deviation of every feature over a group of rows, averaged to one number, beside the features.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MinibatchDiscrimination(nn.Module):
    """Features (B, F) with `kernels` more beside them, (B, F + kernels).

    Args:
        features: F.
        kernels: B', new features.
        dims: C', of the space in which rows are compared.
    """

    def __init__(self, features: int, *, kernels: int = 32, dims: int = 8) -> None:
        super().__init__()
        self.kernels, self.out_features = kernels, features + kernels
        self.tensor = nn.Linear(features, kernels * dims, bias=False)

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B G"]:
        m = self.tensor(features).view(len(features), self.kernels, -1)
        distance = (m.unsqueeze(0) - m.unsqueeze(1)).abs().sum(3)  # (B, B, B')
        closeness = (-distance).exp().sum(1) - 1  # a row is not compared with itself
        # a mean and not a sum, so that the size of the batch does not matter
        return torch.cat([features, closeness / max(1, len(features) - 1)], 1)


class MinibatchDeviation(nn.Module):
    """Features (B, F) with one more beside them, (B, F + 1): how much those of a group of rows differ.

    Args:
        features: F.
        group: how many rows are compared, or up to twice as many.
    """

    def __init__(self, features: int, *, group: int = 8) -> None:
        super().__init__()
        self.group, self.out_features = group, features + 1

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B G"]:
        groups = max(1, len(features) // self.group)
        told = [
            # the root has no derivative at zero, where all rows are alike
            (rows.var(0, correction=0) + 1e-8).sqrt().mean().expand(len(rows), 1)
            for rows in features.tensor_split(groups)
        ]
        return torch.cat([features, torch.cat(told)], 1)
