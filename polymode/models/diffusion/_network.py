"""The network of a noise path: a backbone by the kind of data, which sees noisy data, the time and the condition.

    mlp     a residual perceptron of the features                                                    anything
    unet    convolutions over time, sound or pictures                                  image, series, waveform
    dit     a transformer of patches of the same
    unet2d  the U-Net of Ho et al. 2020, layer by layer, as `interop.diffusers` reads and writes it        image

A series (T, D) has D channels along its time, a waveform (T,) one. Labels, vectors and tokens are told in one of the
ways of `parts/nn/conditioning.py`. A source picture is put beside the data, brought to their size by bicubic
interpolation (Saharia et al. 2021, SR3, arXiv:2104.07636, section 2.3), or its numbers beside a perceptron's input; a
source that was dropped is an even grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError, require_choice
from polymode.core.spec import Spec
from polymode.parts.encoders.condition import ConditionEncoder, TokenEncoder
from polymode.parts.features import Features
from polymode.parts.nn.conditioning import ConditionBy, require_way
from polymode.parts.nn.dit import DiT
from polymode.parts.nn.time import TimeMLP
from polymode.parts.nn.unet import UNet
from polymode.parts.nn.unet2d import UNet2D

Backbone = Literal["auto", "mlp", "unet", "dit", "unet2d"]
#: a transformer sees at most this many patches, of 2x2 pixels (DiT-S/2) or more
MOST_PATCHES = 64
#: a perceptron reads series and sounds shorter than this: on 24 frames it learns faster, pass by pass and in all
SHORT = 64
#: of at most this many numbers a perceptron sees so many octaves: the checkerboard is learned in half the nats
FEW, OCTAVES = 4, 3


class Context(NamedTuple):
    """What is known of a condition: a vector (B, W), or tokens (B, T, W) of which some are `seen` (B, T), and the
    planes (B, C, H, W) of a source picture, as large as the data, or its numbers (B, N)."""

    told: Tensor | None = None
    seen: Tensor | None = None
    planes: Tensor | None = None


class Network(nn.Module):
    """(B, inputs * F), t (B,), context -> (B, outputs * F); the output is zero at first.

    Args:
        spec: what one datum is.
        size: F.
        condition_spec: what it is conditioned on.
        backbone: "mlp" for anything, "unet" and "dit" for images, series and waveforms; "auto" is a U-Net for images of
            at least 8x8, series and waveforms of at least 64 frames, else a perceptron.
        widths: channels of the U-Net's levels, the full resolution first; for the others one width a block, all equal.
            None chooses by the data.
        outputs: numbers said of each feature.
        inputs: numbers seen of each feature.
        condition_by: how the condition is told: "film", "concat", "adain" or "attention"; of dit and unet2d the first.
        octaves: a perceptron of few numbers is shown their octaves; where it is asked at times that were not trained
            they lead it astray.
        backbone_options: of unet2d, see there.

    Raises:
        PolymodeError: a U-Net or transformer for data without space, unequal widths of the others, or a way or options
            that a backbone does not have.
        ConditionError: unpaired source pictures.
    """

    def __init__(
        self,
        spec: Spec,
        size: int,
        condition_spec: ConditionSpec | None = None,
        *,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        outputs: int = 1,
        inputs: int = 1,
        condition_by: ConditionBy = "film",
        octaves: bool = True,
        backbone_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        require_choice("backbone", backbone, ("auto", "mlp", "unet", "dit", "unet2d"))
        require_way(condition_by)
        if backbone == "auto":
            backbone = "unet" if spacious(spec) else "mlp"
        if backbone_options and backbone != "unet2d":
            raise PolymodeError(f"backbone_options came with backbone={backbone!r}; only 'unet2d' has any")
        self.inputs, self.outputs = inputs, outputs
        self.channels, self.space = (size, ()) if backbone == "mlp" else space_of(spec)
        #: series have their channels last
        self.turned = backbone != "mlp" and spec.kind == "series"
        seen, said, dims = inputs * self.channels, outputs * self.channels, len(self.space)
        self.condition_by = condition_by
        seen += self._sees_source(condition_spec)
        self.body: nn.Module
        if backbone == "unet":
            widths = widths or unet_widths(spec)
            context = self._reads(condition_spec, widths[-1])
            self.body = UNet(seen, said, widths=widths, context_features=context, dims=dims, condition_by=condition_by)
            return
        if backbone != "mlp" and condition_by != "film":
            raise PolymodeError(f"condition_by={condition_by!r} of backbone={backbone!r}, expected 'film'")
        if backbone == "unet2d":
            widths = widths or unet_widths(spec)
            context = self._reads(condition_spec, widths[-1])
            self.body = UNet2D(seen, said, widths=widths, context_features=context, **(backbone_options or {}))
            return
        widths = widths or ((128,) * 4 if backbone == "dit" else (256,) * 3 if size > 8 else (128,) * 3)
        if len(set(widths)) != 1:
            raise PolymodeError(f"widths={tuple(widths)} of backbone={backbone!r}, expected equal ones")
        width, layers = widths[0], len(widths)
        context = self._reads(condition_spec, width)
        if backbone == "mlp":
            self.body = TimeMLP(
                seen, width, layers, context_features=context, features_out=said,
                octaves=OCTAVES if octaves and size <= FEW else 0, condition_by=condition_by,
            )  # fmt: skip
            return
        self.body = DiT(
            seen, said, patch=patch_of(self.space), width=width, layers=layers, heads=heads_of(width),
            context_features=context, dims=dims,
        )  # fmt: skip

    def _sees_source(self, condition_spec: ConditionSpec | None) -> int:
        """How many channels, or numbers, of a source picture are put beside the data; 0 where there is none."""
        source = None if condition_spec is None else condition_spec.source
        self.source = None if source is None else Features(source)
        if source is None or condition_spec is None:
            return 0
        if condition_spec.unpaired:
            raise ConditionError(
                "diffusion learns from pairs and these pictures are unpaired: use cyclegan, or pair the folders by "
                "name (paired=True)"
            )
        if self.space and len(self.space) != 2:
            raise ConditionError(f"a source picture can't be put beside data of {len(self.space)} axis; use mlp")
        return source.shape[0] if self.space else source.num_dims

    def _reads(self, condition_spec: ConditionSpec | None, width: int) -> int:
        """Make the encoder of what is told beside a source picture; how many numbers it gives, 0 for none."""
        told = None if condition_spec is None else replace(condition_spec, image=None, unpaired=False)
        self.encoder: ConditionEncoder | TokenEncoder | None = None
        if told is not None and told.kinds:
            self.encoder = (TokenEncoder if self.condition_by == "attention" else ConditionEncoder)(told, width)
        return 0 if self.encoder is None else width

    def read(self, condition: Condition) -> Context:
        """What the body is to know of a condition; once for all times."""
        told, seen = None, None
        if isinstance(self.encoder, TokenEncoder):
            told, seen = self.encoder(condition)
        elif self.encoder is not None:
            told = self.encoder(condition)
        return Context(told, seen, self._planes(condition))

    def _planes(self, condition: Condition) -> Tensor | None:
        if self.source is None or condition.image is None:
            return None
        planes = self.source(condition.image).view(condition.image.shape)
        if condition.dropped is not None:
            planes = planes * ~condition.dropped.view(-1, 1, 1, 1)
        if not self.space:
            return planes.flatten(1)
        if planes.shape[2:] == self.space:
            return planes
        # antialias chooses a = -1/2, as `evaluate.fidelity.bicubic`
        return F.interpolate(planes, size=self.space, mode="bicubic", align_corners=False, antialias=True)

    def forward(self, x: Tensor, t: Tensor, context: Context | Tensor | None = None) -> Tensor:
        """``context`` of `read`, or a vector (B, W) alone."""
        told, seen, planes = context if isinstance(context, Context) else Context(context)
        more = () if seen is None else (seen,)
        if self.turned:
            x = x.view(len(x), self.inputs, *self.space, self.channels).movedim(-1, 2).flatten(1, 2)
        else:
            x = x.view(len(x), self.inputs * self.channels, *self.space)
        if planes is not None:
            x = torch.cat([x, planes.to(x)], 1)
        said = self.body(x, t, told, *more)
        if self.turned:
            said = said.view(len(x), self.outputs, self.channels, *self.space).movedim(2, -1)
        return said.flatten(1)


def space_of(spec: Spec) -> tuple[int, tuple[int, ...]]:
    """(channels, sides) of data that have space: images, series and waveforms."""
    match spec.kind:
        case "image":
            return spec.shape[0], spec.shape[1:]
        case "series":
            return spec.shape[1], spec.shape[:1]
        case "waveform":
            return 1, spec.shape
    raise PolymodeError(f"{spec} has no space: expected images, series or waveforms; give backbone='mlp'")


def spacious(spec: Spec) -> bool:
    """Whether convolutions are worth it."""
    if spec.kind == "image":
        return min(spec.shape[-2:]) >= 8
    return spec.kind in ("series", "waveform") and spec.shape[0] >= SHORT


def unet_widths(spec: Spec) -> tuple[int, ...]:
    """Channels by size: sides of images are halved while they stay at least 4, at most twice; those of series and
    sounds to 64 at most, for the attention there."""
    if spec.kind == "image":
        return (32, 64) if min(spec.shape[-2:]) < 16 else (32, 64, 96)
    halvings = max(1, (spec.shape[0] // 64).bit_length())
    return (32, 64, *(96,) * (halvings - 1))


def patch_of(space: Sequence[int]) -> int:
    """The smallest power of two that leaves at most `MOST_PATCHES` patches, at least 2 of images."""
    patch = len(space)
    while math.prod(-(-side // patch) for side in space) > MOST_PATCHES:
        patch *= 2
    return patch


def heads_of(width: int) -> int:
    """As many heads of about 32 numbers as divide the width."""
    return next(h for h in range(max(1, width // 32), 0, -1) if width % h == 0)
