"""Very deep VAE: many layers of small maps of codes, from one pixel up to the image, in one residual pass down.

Child 2021, Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images (arXiv:2011.10650).

    p(z) = p(z_0) p(z_1 | z_0) ... p(z_N | z_<N),   q(z | x) = q(z_0 | x) q(z_1 | z_0, x) ...           (eq. 2 and 3)
    a layer, at a state s of the pass down:   (mu_p, sigma_p, r) = f_p(s),   (mu_q, sigma_q) = f_q(s, h(x))
        s <- s + r;   s <- s + W z;   s <- s + f(s)                                              (section 3.1, figure 3)

`Bottleneck` is each f, `Layer` the layer, `VDVAE.read` the pass up, which gives h of each resolution, `VDVAE.walk` the
pass down; training, weights and sampling are those of every hierarchy (`_hierarchy`). From one resolution to the next
the state is unpooled by nearest neighbour. Every resolution starts with a learned bias a position, and the last
convolution of each f, like W, starts 1 / sqrt(N) times smaller, so that depth does not swell the state.
Deviation: the finest layers may lie at a half or a quarter of the image's sides (`halvings`), from where a position
says all of its pixels at once; likelihoods are the data's own (bits, levels); a condition is added inside every f;
gradients are clipped and explosions rolled back by the trainer, where the paper skips steps.

Likelihood: a lower bound, one pass down a sample and one pass up for all. Sampling: one pass down.
Expected: `polymode reproduce vdvae_mnist`: 84.4 nats by IWAE-50 on statically binarised MNIST after 20 minutes on one
core; tests/exact/test_hierarchical_vae.py, against a grid over its codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.vae._hierarchy import Choose, Gaussian, HierarchicalVAE, check_positive
from polymode.parts.distributions.gaussian import split_gaussian
from polymode.parts.distributions.heads import head_for
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.pyramid import channel_biases, side_by_side


class Bottleneck(nn.Module):
    """1x1, 3x3, 3x3 and 1x1 convolutions with GELUs before each; 1x1 ones only where an image has so few pixels.

    Args:
        middle: channels between the first and the last convolution.
        size: (H, W) of its maps.
        context_features: width of a context (B, W) that is added after the first; 0 for none.
        scale: factor on the initial weights of the last convolution.
    """

    def __init__(
        self, ins: int, middle: int, outs: int, size: tuple[int, int], context_features: int, scale: float
    ) -> None:
        super().__init__()
        k = 3 if max(size) > 2 else 1
        self.first = nn.Conv2d(ins, middle, 1)
        self.context = nn.Linear(context_features, middle, bias=False) if context_features else None
        self.inner = nn.ModuleList(nn.Conv2d(middle, middle, k, padding=k // 2) for _ in range(2))
        self.last = nn.Conv2d(middle, outs, 1)
        nn.init.zeros_(self.last.bias)
        self.last.weight.data *= scale

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        y = self.first(F.gelu(x))
        if self.context is not None and context is not None:
            y = y + self.context(context)[:, :, None, None]  # (B, W) -> (B, W, 1, 1)
        for conv in self.inner:
            y = conv(F.gelu(y))
        return self.last(F.gelu(y))


class Layer(nn.Module):
    """A layer of codes (B, Z, H, W) at one resolution of the pass down."""

    def __init__(
        self, width: int, middle: int, latents: int, size: tuple[int, int], context_features: int, scale: float
    ) -> None:
        super().__init__()
        self.latents = latents
        self.q = Bottleneck(2 * width, middle, 2 * latents, size, context_features, 1.0)
        # p and its residual start at the standard normal and at nothing
        self.p = Bottleneck(width, middle, 2 * latents + width, size, context_features, 0.0)
        self.codes = nn.Conv2d(latents, width, 1)
        self.codes.weight.data *= scale
        self.f = Bottleneck(width, middle, width, size, context_features, scale)

    def prior(self, state: Tensor, context: Tensor | None) -> tuple[Gaussian, Tensor]:
        """(p, the state with what p's network adds to it)."""
        params, residual = self.p(state, context).tensor_split([2 * self.latents], dim=1)
        return Gaussian(*split_gaussian(params, dim=1)), state + residual

    def forward(self, state: Tensor, z: Tensor, context: Tensor | None) -> Tensor:
        state = state + self.codes(z)
        return state + self.f(state, context)


class VDVAE(HierarchicalVAE):
    """A very deep variational autoencoder of images.

    Its code holds the codes of all layers, from the top, flat.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        blocks: layers of codes at each resolution, of which the first is 1x1, the last the finest, and each between
            half of the next.
        latent_dims: channels of a layer's code.
        width: channels of the state.
        middle: channels inside a block.
        encoder_blocks: residual blocks of the pass up at each resolution.
        halvings: how often the image's sides are halved at the finest resolution.
        components: mixture components of the head, a dimension.
        levels_as: head of ordered levels.
        free_bits: nats of each layer that the training loss does not charge.
        anneal: training steps over which the KL's weight rises from zero; 0 for none.
        num_samples: importance samples of the training bound; 1 for the ELBO.

    Raises:
        PolymodeError: sizes below one, no layer at 1x1, or halvings below zero.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=2e-3, batch_size=32, ema=0.99, clip=100.0, warmup=100)
    rows_a_pass: ClassVar[int] = 256

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        blocks: Sequence[int] = (2, 3, 3),
        latent_dims: int = 8,
        width: int = 32,
        middle: int = 16,
        encoder_blocks: int = 1,
        halvings: int = 1,
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
        free_bits: float = 0.0,
        anneal: int = 0,
        num_samples: int = 1,
    ) -> None:
        super().__init__(spec, condition_spec, free_bits=free_bits, anneal=anneal, num_samples=num_samples)
        check_positive(latent_dims=latent_dims, width=width, middle=middle, encoder_blocks=encoder_blocks)
        if not blocks or blocks[0] < 1 or min(blocks) < 0 or halvings < 0:
            raise PolymodeError(
                f"blocks={tuple(blocks)}, halvings={halvings}: expected at least one layer at 1x1 and at least 0 "
                "elsewhere, and at least 0 halvings"
            )
        self.features = Features(spec)
        self.head = head_for(spec, components=components, levels_as=levels_as)
        self.condition_encoder, context = encoder_for(condition_spec, width)
        self.latent_dims, self.fold = latent_dims, 2**halvings
        self.sizes = resolutions(spec.shape[1], spec.shape[2], self.fold, len(blocks))
        self.of_layer = [r for r, count in enumerate(blocks) for _ in range(count)]  # the resolution of each layer
        self.layers = tuple(
            f"{self.sizes[r][0]}x{self.sizes[r][1]} {self.of_layer[: i + 1].count(r)}"
            for i, r in enumerate(self.of_layer)
        )
        scale, colours, area = 1 / math.sqrt(len(self.layers)), spec.shape[0], self.fold**2
        self.stem = nn.Conv2d(colours * area, width, 3, padding=1)
        up = 1 / math.sqrt(encoder_blocks * len(blocks))
        self.ups = nn.ModuleList(  # by resolution, as everything below
            nn.ModuleList(Bottleneck(width, middle, width, size, context, up) for _ in range(encoder_blocks))
            for size in self.sizes
        )
        self.biases = nn.ParameterList(torch.zeros(width, *size) for size in self.sizes)
        self.blocks = nn.ModuleList(
            Layer(width, middle, latent_dims, self.sizes[r], context, scale) for r in self.of_layer
        )
        self.last = nn.Conv2d(width, area * self.head.num_params // (spec.shape[1] * spec.shape[2]), 3, padding=1)
        with torch.no_grad():
            biases = channel_biases(self.head.initial(), spec.shape)
            self.last.bias.copy_(biases.repeat_interleave(area))

    # -- the hierarchy -----------------------------------------------------------------------------------------------
    def read(self, x: Tensor, context: Tensor | None) -> list[Tensor]:
        """The features of every resolution from 1x1, (B, width, h, w)."""
        y = self.features(x).view(x.shape)
        y = F.pad(y, (0, -y.shape[3] % self.fold, 0, -y.shape[2] % self.fold))
        y, seen = self.stem(F.pixel_unshuffle(y, self.fold)), []
        for size, ups in zip(reversed(self.sizes), reversed(self.ups), strict=True):
            if y.shape[2:] != size:
                y = F.adaptive_avg_pool2d(y, size)
            for block in ups:
                y = y + block(y, context)
            seen.append(y)
        return seen[::-1]

    def walk(self, n: int, context: Tensor | None, choose: Choose) -> Tensor:
        state = self.biases[0].expand(n, -1, -1, -1)
        for r, size in enumerate(self.sizes):
            if r:
                state = F.interpolate(state, size, mode="nearest") + self.biases[r]
            for i in (i for i, of in enumerate(self.of_layer) if of == r):
                prior, widened = self.blocks[i].prior(state, context)
                state = self.blocks[i](widened, choose(i, state, prior), context)
        _, height, width = self.spec.shape
        y = F.pixel_shuffle(self.last(state), self.fold)[:, :, :height, :width]
        return side_by_side(y, self.spec.shape[0])

    def posterior(
        self, layer: int, state: Tensor, prior: Gaussian, seen: list[Tensor], context: Tensor | None
    ) -> Gaussian:
        beside = torch.cat([state, seen[self.of_layer[layer]]], dim=1)
        return Gaussian(*split_gaussian(self.blocks[layer].q(beside, context), dim=1))

    # -- codes -------------------------------------------------------------------------------------------------------
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The means of q, each given those above."""
        context = self.context(condition)
        codes = self.infer(self.read(x, context), context, torch.zeros_like)[2]
        return torch.cat([z.flatten(1) for z in codes], dim=1)

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        sizes = [self.latent_dims * math.prod(self.sizes[r]) for r in self.of_layer]
        if z.dim() != 2 or z.shape[1] != sum(sizes):
            raise PolymodeError(f"codes have shape {tuple(z.shape)}, expected (B, {sum(sizes)})")
        codes = z.to(self.dtype).split(sizes, dim=1)
        given = self.walk(len(z), self.context(condition), lambda i, _, prior: codes[i].view(prior.mu.shape))
        return self.head.mean(given)


def resolutions(height: int, width: int, fold: int, count: int) -> list[tuple[int, int]]:
    """(H, W) of each resolution: 1x1, then the image's own divided by fold and halvings, rounded up."""
    finer = [(-(-height // (fold << i)), -(-width // (fold << i))) for i in range(count - 1)]
    return [(1, 1), *reversed(finer)]
