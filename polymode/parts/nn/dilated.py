"""Gated dilated causal convolutions, over whole sequences or one step at a time with what each layer still needs.

van den Oord et al. 2016, WaveNet: A Generative Model for Raw Audio (arXiv:1609.03499, sections 2.1, 2.3-2.5):

    z_t = tanh(W_f h_{t-d} + U_f h_t + V_f c) * sigmoid(W_g h_{t-d} + U_g h_t + V_g c)      (eq. 2 and 3)
    h_t <- h_t + W_r z_t,   skip_t += W_s z_t                                              (figure 4)

with dilations d = 1, 2, 4, ... that begin again after each stack. `Past` keeps the last d inputs of each layer in a
ring (Le Paine et al. 2016, Fast Wavenet Generation Algorithm, arXiv:1611.09482), so a step costs one column of each
layer. What lies before the sequence counts as zero.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Past:
    """For each layer the last d inputs (n, d, C); that of time t lies in slot t mod d.

    Args:
        like: any tensor of the model's device and dtype.
    """

    def __init__(self, dilations: list[int], n: int, channels: int, like: Tensor) -> None:
        self.rings = [like.new_zeros(n, d, channels) for d in dilations]

    def before(self, layer: int, start: int, h: Tensor) -> Tensor:
        """The inputs d earlier than h (n, t, C), which begins at `start`; h is put in their place."""
        ring = self.rings[layer]
        d, t = ring.shape[1], h.shape[1]
        if t == 1:
            slot = start % d
            earlier = ring[:, slot : slot + 1].clone()
            ring[:, slot : slot + 1] = h
            return earlier
        slots = (start + torch.arange(d, device=h.device)) % d  # from the oldest on
        both = torch.cat([ring[:, slots], h], dim=1)
        last = (start + t - d + torch.arange(d, device=h.device)) % d
        ring[:, last] = both[:, t:]
        return both[:, :t]


class DilatedLayer(nn.Module):
    """One gated unit of dilation d, for channels C and skip channels S; the last of all has skips only."""

    def __init__(self, channels: int, skip: int, dilation: int, context_features: int, *, last: bool) -> None:
        super().__init__()
        self.dilation = dilation
        self.earlier = nn.Linear(channels, 2 * channels, bias=False)
        self.now = nn.Linear(channels, 2 * channels)
        self.context = nn.Linear(context_features, 2 * channels, bias=False) if context_features else None
        self.out = None if last else nn.Linear(channels, channels)
        self.skip = nn.Linear(channels, skip)

    def forward(self, h: Tensor, earlier: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """(the next layer's input, what is added to the skip) from h (B, t, C) and its past of the same shape."""
        gates = self.now(h) + self.earlier(earlier)
        if self.context is not None and context is not None:
            gates = gates + self.context(context).unsqueeze(1)
        filtered, gate = gates.chunk(2, dim=2)
        z = torch.tanh(filtered) * torch.sigmoid(gate)
        return h if self.out is None else h + self.out(z), self.skip(z)


class DilatedStack(nn.Module):
    """(B, t, C) to the sum of skips (B, t, S), causal.

    Args:
        channels, skip: C and S.
        layers: of a stack, with dilations 1, 2, 4, ..., 2^(layers - 1).
        stacks: how often the dilations begin again.
        context_features: of a condition's vector (B, W), 0 for none.
    """

    def __init__(self, channels: int, skip: int, *, layers: int, stacks: int, context_features: int = 0) -> None:
        super().__init__()
        self.channels = channels
        dilations = [2**i for _ in range(stacks) for i in range(layers)]
        self.layers = nn.ModuleList(
            DilatedLayer(channels, skip, d, context_features, last=i + 1 == len(dilations))
            for i, d in enumerate(dilations)
        )

    @property
    def reach(self) -> int:
        """How many inputs an output depends on, its own among them."""
        return 1 + sum(layer.dilation for layer in self.layers)

    def forward(
        self, h: Float[Tensor, "B t C"], context: Tensor | None = None, start: int = 0, past: Past | None = None
    ) -> Float[Tensor, "B t S"]:
        total: Tensor | None = None
        for i, layer in enumerate(self.layers):
            if past is None:
                earlier = F.pad(h, (0, 0, layer.dilation, 0))[:, : h.shape[1]]
            else:
                earlier = past.before(i, start, h)
            h, skip = layer(h, earlier, context)
            total = skip if total is None else total + skip
        assert total is not None
        return total

    def empty_past(self, n: int) -> Past:
        """What is before the first step of n sequences."""
        dilations = [layer.dilation for layer in self.layers]
        return Past(dilations, n, self.channels, self.layers[0].now.weight.detach())
