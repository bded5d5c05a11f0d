"""Masked autoencoder: an encoder that sees some patches of an image, and a light decoder that guesses the others.

He, Chen, Xie, Li, Dollár and Girshick 2022, Masked Autoencoders Are Scalable Vision Learners (CVPR, arXiv:2111.06377);
as a generator: Hoogeboom et al. 2022, Autoregressive Diffusion Models (arXiv:2110.02037); Li et al. 2023
(arXiv:2211.09117) draw images by filling masks, too.

    tokens of the visible patches -> encoder -> with a learned [MASK] for each other patch -> decoder       (section 3)
    loss: over the masked patches only                                                                      (section 3)
    log p(x) >= E_s sum_t sum_{d in s_t} log p(x_d | patches of s_1 .. s_{t-1})       (Hoogeboom et al., eq. 3 and 4)

`MAE.params` is the network, `MAE.loss` the second line: nats of the head, over N patches the mean of those asked for
times N, so that with `mask_ratio` None, which draws every number of masked patches alike, it is a draw of the bound's
negative. `MAE._log_weight` is the third with s a random order of patches cut into `steps` blocks, `MAE._complete` draws
by such an order, and `MAE.represent` gives what the encoder knows of a whole image: the mean of its tokens.
Deviation: pixels have a head with an exact likelihood, not a squared error on normalised patches; perceptrons of blocks
have a relu; the class token, which every patch sees, carries the condition.

Likelihood: a lower bound, `steps` passes; the pixels of a block are independent given those before it. Sampling:
`steps` passes. Representations: one pass of the encoder.
Expected: `polymode reproduce mae_digits`: 2.21 bits/dim; codes against those of random weights in
tests/learning/test_mae.py.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.capabilities import Completes, HasBound
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.parts.distributions.heads import head_for
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.transformer import EncoderBlock, sinusoids
from polymode.parts.samplers.autoregressive import check_options
from polymode.parts.samplers.masked import random_blocks

#: blocks of an order where nobody says: one patch each, but no more passes than this
MOST_STEPS = 64


class MAE(Conditioned, GenerativeModel, HasBound, Completes):
    """A masked autoencoder of patches.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        patch: side of a patch in pixels; None takes the largest of at most 4 by which an image has 4 patches a side.
        mask_ratio: share of patches masked in training, 0.75 in the paper; None draws every number of them alike.
        width: of the encoder's tokens, a multiple of heads.
        layers: blocks of the encoder.
        decoder_width: of the decoder's tokens, a multiple of heads.
        decoder_layers: blocks of the decoder.
        heads: of attention in each block.
        dropout: of attention and perceptrons.
        steps: blocks that an order is cut into, and passes of the bound; None for one patch a block, at most 64.
        components: mixture components of the head, a pixel.
        levels_as: head of ordered levels.

    Raises:
        PolymodeError: a patch that does not divide the image, a share or size out of range.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=1e-3, batch_size=64, weight_decay=0.05, betas=(0.9, 0.95), ema=0.99, clip=1.0, warmup=50
    )
    default_num_samples: ClassVar = 1
    pixels: Tensor
    patch_of: Tensor
    positions: Tensor
    decoder_positions: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        patch: int | None = None,
        mask_ratio: float | None = None,
        width: int = 128,
        layers: int = 4,
        decoder_width: int = 64,
        decoder_layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        steps: int | None = None,
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
    ) -> None:
        super().__init__(spec, condition_spec)
        sizes = {"width": width, "layers": layers, "decoder_width": decoder_width, "heads": heads}
        if min(*sizes.values(), decoder_layers) < 1 or not 0 <= dropout < 1:
            raise PolymodeError(f"{sizes}, decoder_layers={decoder_layers}, dropout={dropout}: expected sizes of at "
                                "least 1 and a dropout of at least 0 and below 1")  # fmt: skip
        if mask_ratio is not None and not 0 < mask_ratio <= 1:
            raise PolymodeError(
                f"mask_ratio={mask_ratio}: expected a share above 0 and up to 1, or None for all shares"
            )
        if steps is not None and steps < 1:
            raise PolymodeError(f"steps={steps}, expected at least 1 pass")
        self.mask_ratio, self.features = mask_ratio, Features(spec)
        self.head = head_for(spec, components=components, levels_as=levels_as)
        pixels = patches_of(spec, patch)  # (N, pixels of a patch), places in flattened data
        self.register_buffer("pixels", pixels, persistent=False)
        self.register_buffer("patch_of", pixels.flatten().argsort() // pixels.shape[1], persistent=False)  # (D,)
        self.n = len(pixels)
        for name, wide in (("positions", width), ("decoder_positions", decoder_width)):
            self.register_buffer(name, positions_of(spec, pixels, wide), persistent=False)
        self.steps = min(self.n, MOST_STEPS if steps is None else steps)
        self.bound_name = f"elbo over random orders of patches in {self.steps} passes"
        self.condition_encoder, context_width = encoder_for(condition_spec, width)
        self.embed = nn.Linear(pixels.shape[1], width)
        self.summary = nn.Parameter(0.02 * torch.randn(width))  # the class token
        self.encoder = nn.ModuleList(EncoderBlock(width, heads, dropout) for _ in range(layers))
        self.encoded = nn.LayerNorm(width)
        self.to_decoder = nn.Linear(width, decoder_width)
        self.mask = nn.Parameter(0.02 * torch.randn(decoder_width))
        self.decoder = nn.ModuleList(EncoderBlock(decoder_width, heads, dropout) for _ in range(decoder_layers))
        self.decoded = nn.LayerNorm(decoder_width)
        self.per_pixel = self.head.num_params // spec.num_dims
        self.out = nn.Linear(decoder_width, pixels.shape[1] * self.per_pixel)
        with torch.no_grad():
            start = self.head.initial().view(spec.num_dims, -1)[pixels[0]]
            self.out.bias.copy_(start.flatten())
        if context_width:
            self.to_input = nn.Linear(context_width, width, bias=False)

    # -- the network -----------------------------------------------------------------------------------------------
    def encode_visible(self, x: Tensor, visible: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, 1 + M, W) of the class token and of up to M visible patches; which those are, (B, M); and which
        of them are there, (B, M), as rows may see fewer than M."""
        order = visible.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        order = order[:, : int(visible.sum(1).max())]  # (B, M)
        there = visible.gather(1, order)
        patches = self.features(x)[:, self.pixels].gather(1, order.unsqueeze(2).expand(-1, -1, self.pixels.shape[1]))
        tokens = self.embed(patches) + self.positions[order]  # (B, M, W)
        summary = self.summary.expand(len(x), -1) if context is None else self.summary + self.to_input(context)
        h = torch.cat([summary.unsqueeze(1), tokens], 1)
        seen = None if there.all() else torch.cat([torch.ones_like(there[:, :1]), there], 1)[:, None, None]
        for block in self.encoder:
            h = block(h, seen)
        return self.encoded(h), order, there

    def params(self, x: Tensor, visible: Tensor, context: Tensor | None) -> Tensor:
        """Head parameters (B, P) of every pixel given the visible patches (B, N) of data x (B, *shape)."""
        h, order, there = self.encode_visible(x, visible, context)
        h = self.to_decoder(h)
        b, _, w = h.shape
        # a place more than there are patches takes what pads the rows that see fewer
        tokens = self.mask.expand(b, self.n + 1, w)
        to = torch.where(there, order, self.n).unsqueeze(2).expand(-1, -1, w)
        tokens = tokens.scatter(1, to, h[:, 1:])[:, : self.n] + self.decoder_positions
        h = torch.cat([h[:, :1], tokens], 1)
        for block in self.decoder:
            h = block(h, None)
        out = self.out(self.decoded(h[:, 1:]))  # (B, N, pixels of a patch * parameters of a pixel)
        out = out.view(b, self.spec.num_dims, self.per_pixel)[:, self.pixels.flatten().argsort()]
        return out.flatten(1)

    def represent(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """What the encoder makes of whole images, (B, W): the mean over its patches' tokens. There is no way back."""
        x, condition = self.enter(x, condition)
        with self._evaluating():
            visible = torch.ones(len(x), self.n, dtype=torch.bool, device=x.device)
            return self.encode_visible(x, visible, self.context(condition))[0][:, 1:].mean(1).cpu()

    # -- training --------------------------------------------------------------------------------------------------
    def masks(self, b: int, generator: torch.Generator) -> Tensor:
        """Which patches of b images the loss asks for, (b, N) bool, at least one each."""
        if self.mask_ratio is None:
            share = (rng.rand((1,), generator, self._anchor) + torch.arange(b, device=self.device) / b) % 1
            count = (share * self.n).long().clamp(max=self.n - 1) + 1  # (b,), each uniform in 1 .. N
        else:
            count = torch.full((b,), max(1, round(self.mask_ratio * self.n)), device=self.device)
        places = rng.rand((b, self.n), generator, self._anchor).argsort(dim=1).argsort(dim=1)
        return places < count.unsqueeze(1)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        asked = self.masks(len(x), generator)
        nats = -self.head.log_prob(x, self.params(x, ~asked, self.context(condition))) * asked[:, self.patch_of]
        return Loss(self.n * nats.sum(1) / asked.sum(1))

    # -- scores and draws ------------------------------------------------------------------------------------------
    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        everything = torch.zeros(len(x), self.n, dtype=torch.bool, device=x.device)
        return self.log_prob_by(x, random_blocks(everything, self.steps, generator), condition)

    def log_prob_by(self, x: Tensor, block: Tensor, condition: Condition | None = None) -> Tensor:
        """log p(x | order), (B,) nats: each block 0, 1, ... of patches (B, N) given those before it."""
        context, nats = self.context(condition), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for t in range(int(block.max()) + 1):
            each = self.head.log_prob(x, self.params(x, block < t, context)).double()
            nats += (each * (block == t)[:, self.patch_of]).sum(1)
        return nats.to(self.dtype)

    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        steps: int | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """By a random order of patches in `steps` passes."""
        x = torch.zeros(n, *self.spec.shape, dtype=self.spec.dtype, device=self.device)
        known = torch.zeros_like(x, dtype=torch.bool)
        return self._complete(x, known, condition, generator, steps=steps, temperature=temperature)

    def _complete(
        self,
        x: Tensor,
        mask: Tensor,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        steps: int | None = None,
        temperature: float = 1.0,
        approximate: bool = False,
    ) -> Tensor:
        """Patches that are not known, in `steps` blocks of a random order.

        Args:
            steps: passes; None for the model's own.
            temperature: of the draws.
            approximate: take masks that know a patch in part, and do not look at what is known of such a one.
        """
        check_options(temperature)
        inside = mask.flatten(1)[:, self.pixels]  # (B, N, pixels of a patch)
        known, partly = inside.all(2), inside.any(2) & ~inside.all(2)
        if partly.any() and not approximate:
            raise DataError(
                f"in {int(partly.any(1).sum())} of {len(mask)} rows a patch is known in part, and this model sees "
                f"whole patches of {self.pixels.shape[1]} values: give a mask of such patches, or approximate=True, "
                "which does not look at what is known of the others"
            )
        x, context = x.clone(), self.context(condition)
        block = random_blocks(known, self.steps if steps is None else steps, generator)
        for t in range(int(block.max()) + 1):
            drawn = self.head.sample(self.params(x, block < t, context), generator, temperature)
            x = torch.where((block == t)[:, self.patch_of].view(x.shape), drawn.to(x.dtype), x)
        return x


def patches_of(spec: Spec, side: int | None) -> Tensor:
    """The places (N, C * side * side), in flattened images, of the pixels of each patch, row by row.

    Raises:
        PolymodeError: a side that does not divide the image.
    """
    c, h, w = spec.shape
    if side is None:
        side = next(s for s in (4, 3, 2, 1) if s == 1 or (h % s == w % s == 0 and min(h, w) // s >= 4))
    if side < 1 or h % side or w % side:
        raise PolymodeError(f"patch={side}, expected a side that divides images of {h}x{w} pixels")
    places = torch.arange(c * h * w).view(c, h // side, side, w // side, side)
    return places.permute(1, 3, 0, 2, 4).reshape(-1, c * side * side)  # (N, C * side * side)


def positions_of(spec: Spec, pixels: Tensor, width: int) -> Tensor:
    """(N, W): sines and cosines of each patch's row in one half, of its column in the other (He et al., appendix A.1).

    They are of the size of the tokens that they are added to, so that attention can go by place from the first step.
    """
    _, h, w = spec.shape
    corner = pixels[:, 0]  # the first channel's first pixel
    rows, columns = sinusoids(h, width // 2)[corner // w], sinusoids(w, width - width // 2)[corner % w]
    return torch.cat([rows, columns], 1)
