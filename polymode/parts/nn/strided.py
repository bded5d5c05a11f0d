"""Strided convolutions down and up, with a residual network at the small end: images to maps of features and back.

The encoder and decoder of van den Oord, Vinyals and Kavukcuoglu 2017 (arXiv:1711.00937, section 4.1): convolutions of
stride 2 and kernel 4, then residual blocks; the decoder is the mirror image. Odd sizes are padded by one on the way
down and cropped on the way up, so images of any height and width have maps.
"""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.parts.nn.resnet import ResNet


def halved(size: tuple[int, int], times: int) -> tuple[int, int]:
    """(H, W) after some halvings, rounded up."""
    for _ in range(times):
        size = (size[0] + 1) // 2, (size[1] + 1) // 2
    return size


def _widths(width: int, halvings: int) -> list[int]:
    """Channels on the way down: `width` at the small end and half of it before, where pixels are many."""
    return [max(1, width // 2)] * (halvings - 1) + [width] * min(halvings, 1)


class ConvEncoder(nn.Module):
    """(B, C, H, W) -> (B, out_channels, h, w), each side halved `halvings` times.

    Args:
        width: channels at the small end.
        blocks: residual blocks there.
    """

    def __init__(self, in_channels: int, out_channels: int, *, width: int, halvings: int, blocks: int) -> None:
        super().__init__()
        widths = [in_channels, *_widths(width, halvings)]
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.body = ResNet(widths[-1], out_channels, width=width, blocks=blocks)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 h w"]:
        for down in self.downs:
            x = F.relu(down(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))))
        return self.body(x)


class ConvDecoder(nn.Module):
    """(B, C, h, w) -> (B, out_channels, H, W), each side doubled `halvings` times and cropped to `size`.

    Args:
        size: (H, W) to end at.
        width: channels at the small end.
        blocks: residual blocks there.
    """

    def __init__(
        self, in_channels: int, out_channels: int, size: tuple[int, int], *, width: int, halvings: int, blocks: int
    ) -> None:
        super().__init__()
        self.sizes = [halved(size, i) for i in range(halvings)][::-1]
        widths = [*_widths(width, halvings)[::-1], out_channels]
        self.body = ResNet(in_channels, widths[0], width=width, blocks=blocks)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(widths))

    @property
    def last(self) -> nn.Module:
        """The layer that gives the output."""
        return self.ups[-1] if len(self.ups) else self.body.last

    def forward(self, y: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 H W"]:
        y = self.body(y)
        for up, (height, width) in zip(self.ups, self.sizes, strict=True):
            y = up(F.relu(y))[:, :, :height, :width]
        return y
