"""Masked affine maps: every dimension is scaled and shifted by functions of those before it, all in one pass.

Papamakarios, Pavlakou and Murray 2017, Masked Autoregressive Flow (arXiv:1705.07057, eq. 3 to 6); Kingma et al. 2016,
Improving Variational Inference with Inverse Autoregressive Flow (arXiv:1606.04934, eq. 13 and 14), for the gates:

    z_d = g_d x_d + (1 - g_d) m_d,   g_d = sigmoid(s_d),   (m_d, s_d) a masked network of x_<d
    log |det| = sum_d log g_d

One pass in the direction of `to_base`, D small ones back. Which direction is the cheap one is the user's choice: a
density puts `to_base` on data (MAF), a posterior puts it on its noise (IAF).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from polymode.parts.bijections.base import Bijection
from polymode.parts.nn.masked import MaskedMLP
from polymode.parts.nn.mlp import Activation

#: gates begin near one, so that a new map changes little (1606.04934, section 4: "1 to 2")
OPEN_GATE = 1.5


class GatedAutoregressive(Bijection):
    """The map of the module's docstring over (B, D), with a context (B, W) that every dimension sees.

    Args:
        dims: D.
        hidden: widths of the masked network.
        context_features: W; 0 for none.
        reverse: the last dimension comes first.
        act: activation of the network.
    """

    order: Tensor

    def __init__(
        self,
        dims: int,
        hidden: Sequence[int],
        *,
        context_features: int = 0,
        reverse: bool = False,
        act: Activation = "elu",
    ) -> None:
        super().__init__()
        ranks = torch.arange(dims).flip(0) if reverse else torch.arange(dims)
        self.register_buffer("order", ranks.argsort(), persistent=False)
        self.net = MaskedMLP(ranks, ranks.repeat(2), hidden, context_features=context_features, act=act)
        with torch.no_grad():
            self.net.last.weight.mul_(0.1)
            self.net.last.bias.copy_(torch.cat([torch.zeros(dims), torch.full((dims,), OPEN_GATE)]))

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        means, gates = self.net(x, context).chunk(2, dim=1)
        gate = gates.sigmoid()
        return gate * x + (1 - gate) * means, F.logsigmoid(gates).sum(1)

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        steps, x = self.net.stepwise(len(z), context), torch.empty_like(z)
        for rank, d in enumerate(self.order.tolist()):
            mean, gate = steps.outputs(rank).unbind(1)
            # z / g - (1 - g) / g m, where (1 - g) / g = exp(-s)
            x[:, d] = z[:, d] * (1 + (-gate).exp()) - (-gate).exp() * mean
            steps.put(rank, x[:, d : d + 1])
        return x
