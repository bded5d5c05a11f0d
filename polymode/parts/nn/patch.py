"""PatchGAN: a discriminator that judges every patch of a picture by itself.

Isola, Zhu, Zhou and Efros 2017 (arXiv:1611.07004, section 3.2.2): convolutions all the way, one logit a patch; its
receptive field is the patch, and the picture's score is the mean over patches.
Deviation: group normalisation instead of batch normalisation, so that no picture depends on the rest of its batch; the
two convolutions without stride are 3x3, so that any size has patches; weights begin at torch's scale, since the slope
of a judge from N(0, 0.02^2) is for hundreds of steps too small beside an L1 loss.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.parts.nn.translator import group_norm, halvings_within


class PatchDiscriminator(nn.Module):
    """(B, C, H, W) -> logits (B, P) of P patches; `read` gives the features (B, `out_features`, h, w) before them.

    Args:
        channels: C.
        size: (H, W).
        width: channels after the first convolution; doubled at each further one.
        halvings: strided convolutions, at most as many as leave 4 pixels a side. A patch is 12 pixels wide with one, 26
            with two, 54 with three, for which the paper has 70 of 256.
        offset: a constant in every logit, which makes no difference to a critic.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], *, width: int = 32, halvings: int = 2, offset: bool = True
    ) -> None:
        super().__init__()
        strided = halvings_within(size, halvings)
        widths = [channels, *(width * 2**i for i in range(strided + 1))]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, 2, 1) if i < strided else nn.Conv2d(a, b, 3, 1, 1)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.Identity() if i == 0 else group_norm(w) for i, w in enumerate(widths[1:]))
        self.out_features = widths[-1]
        self.last = nn.Conv2d(widths[-1], 1, 3, 1, 1, bias=offset)
        self.to(memory_format=torch.channels_last)  # convolutions of this layout are faster

    def read(self, x: Tensor) -> Float[Tensor, "B F h w"]:
        """The features that patches are judged by."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
        return x

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P"]:
        return self.last(self.read(x)).flatten(1)
