"""PixelCNN: convolutions that see only earlier pixels give every conditional of an image in a single pass.

van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves and Kavukcuoglu 2016, Conditional Image Generation with PixelCNN
Decoders (arXiv:1606.05328), with gated=True; van den Oord, Kalchbrenner and Kavukcuoglu 2016, Pixel Recurrent Neural
Networks (arXiv:1601.06759), with gated=False; Salimans, Karpathy, Chen and Kingma 2017, PixelCNN++ (arXiv:1701.05517),
for the head of many levels.

    log p(x | h) = sum_i log p(x_i | x_<i, h),   i over rows, columns, colours                         (eq. 1 and 3)
    y = tanh(W_f * x + V_f^T h) . sigmoid(W_g * x + V_g^T h),   h the condition's vector               (eq. 2 and 4)
        or V * s in place of V^T h, s a map of the condition as large as the image                      (section 2.3)

A gated layer has a vertical stack, which reads the rows above and passes itself on to the horizontal stack, which
reads the pixels to the left; together they see every earlier pixel within reach. The plain network's one stack of
masked 3x3 convolutions has a blind spot to the upper right, because a step to the right costs a step up.
`GatedLayer` holds eq. 2 and 4, `Block` the plain network's residual block, `parts.nn.masked_conv` the masks,
`_pixels` the sum and sampling, `parts.distributions` the mixtures of logistics of PixelCNN++: of single colours, which
the network's masks order (the default), or with colours="linear" of whole pixels, as in that paper (eq. 3).
Deviation: a learned bias a position after the first layer (it tells the centre from the border at once, which short
training needs); the plain network takes a condition too, as a bias in every block; heads for binary pixels and for
mixtures of logistics beside the papers' softmax over 256 levels. Of PixelCNN++ there is the head only, not its network.

Likelihood: exact, one pass. Sampling: one pixel and colour a step on cached rows, each costing a column of every layer.
Expected: recipe pixelcnn_mnist; trained to the end, 1601.06759 reports 81.3 nats.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.condition import ConditionSpec
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.autoregressive._pixels import (
    Colours,
    NetworkSteps,
    PixelModel,
    PixelNetwork,
    check_sizes,
    first_convolution,
)
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn.masked_conv import GATE_GAIN, Mask, MaskedConv2d, PixelSteps, RowSteps, gate, spread_groups


def said(linear: nn.Module, context: Tensor) -> Tensor:
    """What a condition adds to features: (B, C, 1, 1) of its vector (B, W), (B, C, H, W) of its map (B, W, H, W)."""
    if context.dim() == 2:
        return linear(context)[:, :, None, None]
    return linear(context.movedim(1, -1)).movedim(-1, 1)


def at_row(addend: Any, row: int) -> Any:
    """A row (B, C, 1, W or 1) of what :func:`said` gives, or the number that stands for nothing."""
    return addend[:, :, row : row + 1] if isinstance(addend, Tensor) and addend.shape[2] > 1 else addend


class GatedLayer(nn.Module):
    """The vertical and the horizontal stack of one layer (1606.05328, figure 2).

    The vertical input at a row is made of earlier rows only. With mask B the horizontal stack has a residual
    connection; with mask A, in the first layer, it would show a pixel itself.
    """

    def __init__(self, in_groups: Tensor, groups: Tensor, kernel: int, mask: Mask, context_features: int) -> None:
        super().__init__()
        k, width, both = kernel // 2, len(groups), groups.repeat(2)
        self.vertical = MaskedConv2d(in_groups, both, above=k, left=k, right=k, gain=GATE_GAIN)
        self.horizontal = MaskedConv2d(in_groups, both, left=k, mask=mask, gain=GATE_GAIN)
        self.across = MaskedConv2d(both, both)
        self.out = MaskedConv2d(groups, groups, mask="B")
        self.residual = mask == "B"
        self.context = nn.Linear(context_features, 4 * width, bias=False) if context_features else None

    def biases(self, context: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
        """V^T h for the vertical and for the horizontal stack, (B, 2 width, 1, 1) each, or V * s of all positions."""
        if self.context is None or context is None:
            return 0.0, 0.0
        vertical, horizontal = said(self.context, context).chunk(2, dim=1)
        return vertical, horizontal

    def steps(self, n: int, width: int, context: Tensor | None) -> GatedSteps:
        """The layer on n images of some width."""
        return GatedSteps(self, n, width, context)

    def forward(self, v: Tensor, h: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        to_v, to_h = self.biases(context)
        v = self.vertical(v) + to_v
        new = self.out(gate(self.horizontal(h) + self.across(v) + to_h))
        return gate(v), h + new if self.residual else new


class GatedSteps:
    """A :class:`GatedLayer` on n images of some width, a row and then its pixels at a time."""

    def __init__(self, layer: GatedLayer, n: int, width: int, context: Tensor | None) -> None:
        down, self.layer = layer.vertical, layer
        self.vertical = RowSteps(down.masked_weight, down.bias, down.left, down.right, n, width)
        self.horizontal, self.out = PixelSteps(layer.horizontal, n, width), PixelSteps(layer.out, n, width)
        self.to_v, self.to_h = layer.biases(context)
        self.row = 0

    def next_row(self, v: Tensor) -> Tensor:
        """The vertical stack's next row, (n, C, 1, W)."""
        v = self.vertical.step(v) + at_row(self.to_v, self.row)
        self.horizontal.next_row(self.layer.across(v) + at_row(self.to_h, self.row))
        self.row += 1
        return gate(v)

    def step(self, column: int, h: Tensor) -> Tensor:
        """The horizontal stack at a column, (n, C)."""
        new = self.out.step(column, gate(self.horizontal.step(column, h)))
        return h + new if self.layer.residual else new


class Block(nn.Module):
    """x + conv1x1(relu(masked conv(relu(conv1x1(relu(x)))))) on half the width (1601.06759, figure 5 and table 1)."""

    def __init__(self, groups: Tensor, colours: int, kernel: int, context_features: int) -> None:
        super().__init__()
        k, half = kernel // 2, spread_groups((len(groups) + 1) // 2, colours)
        self.down = MaskedConv2d(groups, half, mask="B", gain=math.sqrt(2))
        self.conv = MaskedConv2d(half, half, above=k, left=k, right=k, mask="B", gain=math.sqrt(2))
        self.up = MaskedConv2d(half, groups, mask="B")
        self.context = nn.Linear(context_features, len(half), bias=False) if context_features else None

    def bias(self, context: Tensor | None) -> Tensor | None:
        """What the condition adds to the masked convolution, (B, width / 2, H or 1, W or 1), or None."""
        return None if self.context is None or context is None else said(self.context, context)

    def steps(self, n: int, width: int, context: Tensor | None) -> BlockSteps:
        """The block on n images of some width."""
        return BlockSteps(self, n, width, context)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        h, bias = self.conv(self.down(x.relu()).relu()), self.bias(context)
        return x + self.up((h if bias is None else h + bias).relu())


class BlockSteps:
    """A :class:`Block` on n images of some width, pixel by pixel."""

    def __init__(self, block: Block, n: int, width: int, context: Tensor | None) -> None:
        self.down, self.up = PixelSteps(block.down, n, width), PixelSteps(block.up, n, width)
        self.conv, self.bias = PixelSteps(block.conv, n, width), block.bias(context)
        self.row = 0

    def next_row(self) -> None:
        self.conv.next_row(None if self.bias is None else at_row(self.bias, self.row))
        self.row += 1

    def step(self, column: int, x: Tensor) -> Tensor:
        h = self.conv.step(column, self.down.step(column, x.relu()).relu())
        return x + self.up.step(column, h.relu())


class GatedNetwork(PixelNetwork):
    """A :class:`PixelNetwork` of gated layers, the first included."""

    def body(self, x: Tensor, context: Tensor | None) -> Tensor:
        above = F.pad(x, (0, 0, 1, 0))[:, :, :-1]  # row r holds row r - 1: the vertical stack never sees its own
        v, h = self.first(above, x, context)
        h = h + self.position
        for layer in self.layers:
            v, h = layer(v, h, context)
        return h

    def steps(self, n: int, context: Tensor | None) -> GatedNetworkSteps:
        return GatedNetworkSteps(self, n, context)


class GatedNetworkSteps(NetworkSteps):
    """A :class:`GatedNetwork` on n images, where each row's vertical stack comes before its pixels."""

    def first_steps(self, network: PixelNetwork, n: int, context: Tensor | None) -> tuple[GatedSteps, PixelSteps]:
        assert isinstance(network.first, GatedLayer)
        first = network.first.steps(n, self.width, context)
        return first, first.horizontal

    def next_row(self, previous: Tensor) -> None:
        v = previous
        for layer in (self.first, *self.layers):
            v = layer.next_row(v)


class PixelCNN(PixelModel):
    """A convolutional autoregressive model of images.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        gated: the gated network without a blind spot, or the plain one.
        width: channels of the hidden layers.
        layers: layers, or blocks of the plain network, the first included.
        first_kernel, kernel: odd sizes of the first layer's kernel and of the others'.
        components: mixture components of the head where it is a mixture.
        levels_as: head of ordered levels.
        colours: "masked" colours see those before them in the network; "linear" ones in the head of PixelCNN++ alone,
            which is drawn at once: samples of colour images in a third of the time.

    Raises:
        PolymodeError: an even kernel, no layer, a width that leaves a colour without channels, or linear colours of
            levels that are not to be mixtures of logistics.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=3e-3, batch_size=16, ema=0.99, clip=1.0)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        gated: bool = True,
        width: int = 32,
        layers: int = 6,
        first_kernel: int = 7,
        kernel: int = 3,
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
        colours: Colours = "masked",
    ) -> None:
        super().__init__(spec, condition_spec, components=components, levels_as=levels_as, colours=colours)
        check_sizes(self.draws, width, layers, {"first_kernel": first_kernel, "kernel": kernel}, halved=not gated)
        self.condition_encoder, context = encoder_for(condition_spec, width)
        image, groups, outputs = self.groups(width)
        first: nn.Module
        if gated:
            first = GatedLayer(image, groups, first_kernel, "A", context)
            rest = [GatedLayer(groups, groups, kernel, "B", context) for _ in range(layers - 1)]
            self.network: PixelNetwork = GatedNetwork(first, rest, groups, outputs, self.size, self.each)
        else:
            first = first_convolution(image, groups, first_kernel)
            blocks = [Block(groups, self.draws, kernel, context) for _ in range(layers - 1)]
            self.network = PixelNetwork(first, blocks, groups, outputs, self.size, self.each)
        self.network.start_at(self.one.initial())

    def outputs(self, canvas: Tensor, context: Tensor | None) -> Tensor:
        return self.network(canvas, context)

    def steps(self, n: int, context: Tensor | None) -> NetworkSteps:
        return self.network.steps(n, context)
