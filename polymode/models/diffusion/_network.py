"""The network of a noise path: a backbone by the kind of data, which sees noisy data, the time and the condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.spec import Spec
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn.time import TimeMLP
from polymode.parts.nn.unet import UNet

Backbone = Literal["auto", "mlp", "unet"]


class Network(nn.Module):
    """(B, F), t (B,), context -> (B, F); the output is zero at first.

    Args:
        spec: what one datum is.
        size: F.
        condition_spec: what it is conditioned on.
        backbone: "unet" for images, "mlp" for anything; "auto" is a U-Net for images of at least 8x8.
        widths: channels of the U-Net's levels, the full resolution first; for the perceptron, one width a residual
            block, all equal. None chooses by the data.
        outputs: numbers said of each feature, (B, outputs * F) in all.

    Raises:
        PolymodeError: a U-Net for what is not an image, or unequal widths of a perceptron.
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
    ) -> None:
        super().__init__()
        require_choice("backbone", backbone, ("auto", "mlp", "unet"))
        is_image = spec.kind == "image"
        if backbone == "auto":
            backbone = "unet" if is_image and min(spec.shape[-2:]) >= 8 else "mlp"
        self.shape = spec.shape if backbone == "unet" else (size,)
        if backbone == "unet":
            if not is_image:
                raise PolymodeError(f"backbone='unet' on {spec}: expected images; give backbone='mlp'")
            widths = widths or unet_widths(spec)
            self.encoder, context = encoder_for(condition_spec, widths[-1])
            channels = spec.shape[0]
            self.body: nn.Module = UNet(channels, outputs * channels, widths=widths, context_features=context)
            return
        widths = widths or ((256,) * 3 if size > 8 else (128,) * 3)
        if len(set(widths)) != 1:
            raise PolymodeError(f"widths={tuple(widths)} of a residual perceptron, expected equal ones")
        self.encoder, context = encoder_for(condition_spec, widths[0])
        self.body = TimeMLP(size, widths[0], len(widths), context_features=context, features_out=outputs * size)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        return self.body(x.view(-1, *self.shape), t, context).flatten(1)


def unet_widths(spec: Spec) -> tuple[int, ...]:
    """Channels by size: the sides are halved while they stay at least 4, at most twice."""
    sides = min(spec.shape[-2:])
    return (32, 64) if sides < 16 else (32, 64, 96)
