"""Augmentations of images that gradients flow through, and a controller that says how often.

Karras, Aittala, Hellsten, Laine, Lehtinen and Aila 2020, Training generative adversarial networks with limited data
(arXiv:2006.06676).

    every transform is applied to a row with probability p, drawn for itself            (section 2.3, appendix B)
    r_t = E[sign(D(data))]: 0 for a discriminator that generalises, 1 for one that has overfitted        (eq. 1)
    p rises where r_t is above 0.6 and falls where it is below, 0 to 1 in `ADA.images` images      (section 3.1)

Transforms that lose nothing (mirror, quarter turns, whole pixels) come first, then one resampling for scale and
rotation, then colour. `Augmentation` is the pipeline, `ADA` the pipeline with the controller.
Deviation: of the paper's eighteen transforms those seven; bilinear resampling with reflected edges; p is at most 0.8,
above which augmentations leak into samples; 50,000 images from 0 to 1 by default and not 500,000, for runs that see
no more than a few hundred thousand.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng

#: the r_t that is steered towards, the minibatches it is measured over, and the largest p
TARGET, MEASURED_OVER, LIMIT = 0.6, 4, 0.8
#: largest shift as a share of a side; standard deviations of log2 of scale and contrast, and of brightness
SHIFT, SCALE, CONTRAST, BRIGHTNESS = 0.125, 0.2, 0.5, 0.2


class Augmentation(nn.Module):
    """Features of images (B, C * H * W) to those of augmented ones.

    Args:
        shape: (C, H, W).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, y: Float[Tensor, "B D"], p: float | Tensor, generator: torch.Generator) -> Float[Tensor, "B D"]:
        """Each transform on each row with probability p; the draws do not depend on p."""
        n = len(y)
        chosen = rng.rand((7, n), generator, y) < p
        how, size = rng.rand((4, n), generator, y), rng.randn((3, n), generator, y)
        y = y.view(n, *self.shape)
        y = _on(chosen[0] & (how[0] < 0.5), y, lambda rows, _: rows.flip(3))
        y = self._turned(y, chosen[1], how[1])
        y = _on(chosen[2], y, lambda rows, at: shifted(rows, self._pixels(how[2, at], 1), self._pixels(how[3, at], 2)))
        angle = math.pi * (2 * rng.rand((n,), generator, y) - 1)
        zoom = torch.where(chosen[3], (SCALE * size[0]).exp2(), 1.0)
        angle = torch.where(chosen[4], angle, 0.0)
        y = _on(chosen[3] | chosen[4], y, lambda rows, at: resampled(rows, zoom[at], angle[at]))
        y = _on(chosen[5], y, lambda rows, at: rows + BRIGHTNESS * size[1, at].view(-1, 1, 1, 1))
        y = _on(chosen[6], y, lambda rows, at: rows * (CONTRAST * size[2, at]).exp2().view(-1, 1, 1, 1))
        return y.flatten(1)

    def _turned(self, y: Tensor, chosen: Bool[Tensor, " B"], how: Float[Tensor, " B"]) -> Tensor:
        """By a multiple of a quarter, or of a half where sides differ; no turn is one of them."""
        step = 1 if self.shape[1] == self.shape[2] else 2
        quarters = step * (how * (4 // step)).long()
        for k in range(step, 4, step):
            y = _on(chosen & (quarters == k), y, lambda rows, _, k=k: rows.rot90(k, (2, 3)))
        return y

    def _pixels(self, u: Tensor, axis: int) -> Tensor:
        """Whole pixels, up to `SHIFT` of the side either way, of uniform numbers."""
        most = round(SHIFT * self.shape[axis])
        return (u * (2 * most + 1)).long() - most


class ADA(Augmentation):
    """Augmentation whose probability follows the discriminator's overfitting; its state is in buffers.

    Args:
        shape: (C, H, W).
        target: of r_t.
        images: that p takes from 0 to 1, if r_t stays on one side.
    """

    p: Tensor
    signs: Tensor
    seen: Tensor

    def __init__(self, shape: tuple[int, ...], *, target: float = TARGET, images: int = 50_000) -> None:
        super().__init__(shape)
        self.target, self.images = target, images
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(()))  # sum of signs since the last move of p
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))  # (rows, minibatches) since then

    def forward(self, y: Float[Tensor, "B D"], generator: torch.Generator) -> Float[Tensor, "B D"]:  # type: ignore[override]
        return super().forward(y, self.p, generator)

    @torch.no_grad()
    def watch(self, real_scores: Float[Tensor, " B"]) -> None:
        """Tell the controller the discriminator's logits on augmented data of one minibatch."""
        self.signs += real_scores.sign().sum()
        self.seen += torch.tensor([len(real_scores), 1], device=self.seen.device)
        if int(self.seen[1]) < MEASURED_OVER:
            return
        rows = self.seen[0].to(self.p.dtype)
        self.p += (self.signs / rows - self.target).sign() * rows / self.images
        self.p.clamp_(0.0, LIMIT)
        self.signs.zero_()
        self.seen.zero_()


def _on(rows: Bool[Tensor, " B"], y: Tensor, transform: object) -> Tensor:
    """``transform(rows, their indices)`` in place of the rows that ``rows`` marks; the others keep their bits."""
    at = rows.nonzero().squeeze(1)
    return y if len(at) == 0 else y.index_copy(0, at, transform(y[at], at))  # type: ignore[operator]


def shifted(y: Float[Tensor, "B C H W"], down: Tensor, right: Tensor) -> Float[Tensor, "B C H W"]:
    """Images moved by whole pixels, one shift (B,) a row and axis; what comes in is the reflected edge."""
    _, _, height, width = y.shape
    i = _reflected(torch.arange(height, device=y.device) - down.unsqueeze(1), height)  # (B, H)
    j = _reflected(torch.arange(width, device=y.device) - right.unsqueeze(1), width)
    row = torch.arange(len(y), device=y.device)
    # advanced indices around a slice put the channels last
    return y[row.view(-1, 1, 1), :, i.unsqueeze(2), j.unsqueeze(1)].permute(0, 3, 1, 2)


def _reflected(index: Tensor, length: int) -> Tensor:
    """Indices beyond either end, mirrored at it."""
    index = index.remainder(2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def resampled(y: Float[Tensor, "B C H W"], zoom: Tensor, angle: Tensor) -> Float[Tensor, "B C H W"]:
    """Images enlarged by ``zoom`` and turned by ``angle`` radians about their middle, (B,) each."""
    _, _, height, width = y.shape
    aspect = width / height  # turning is in pixels, and the sampler's unit is half a side
    cos, sin, zero = angle.cos() / zoom, angle.sin() / zoom, torch.zeros_like(angle)
    theta = torch.stack([cos, -sin / aspect, zero, sin * aspect, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(y.shape), align_corners=False)
    return F.grid_sample(y, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
