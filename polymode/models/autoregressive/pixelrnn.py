"""PixelRNN: LSTMs that walk over an image by rows or by diagonals give every conditional in a single pass.

van den Oord, Kalchbrenner and Kavukcuoglu 2016, Pixel Recurrent Neural Networks (arXiv:1601.06759).

    log p(x) = sum_i log p(x_i | x_<i),   i over rows, columns, colours                                (eq. 1 and 2)
    [o, i, f, g] = [sigmoid, sigmoid, sigmoid, tanh](K_ss * h_before + K_is * x),
    c = f . c_before + i . g,   h = o . tanh(c)                                                        (eq. 3)

The row LSTM reads, a row at a time, its state in the row above through a convolution, so that it sees a triangle above
the pixel. The diagonal BiLSTM reads its state to the left and above; a second one comes from the right, and what it
says is moved down a row, so that no pixel sees what is right of it: together they see every earlier pixel.
`LSTMLayer` holds K_is with its masks (section 3.4), the two directions and the residual connection (figure 5),
`parts.nn.grid_lstm` eq. 3 and its walks over the image, `_pixels` the sum and sampling, the first 7x7 convolution and
the last layers (table 1).
Deviation: the diagonal network has a column more than the image, an empty one to its right: no feature within the image
sees the last pixel of its own row, so the direction from the right would be blind to it. The input of that direction
has no mask, as it is that of earlier rows. A learned bias a position after the first layer; forget gates start open
(bias 1); heads for binary pixels and for mixtures of logistics beside the paper's softmax; a condition's vector enters
all gates.

Likelihood: exact, one pass of H steps (rows) or H + W - 1 steps (diagonals) a layer and direction. Sampling: one pixel
and colour a step on carried states, each costing a column of every layer; the direction from the right runs once a row.
Expected: `polymode reproduce pixelrnn_mnist`: 82.97 +- 0.2 nats (test) on binarised MNIST with two diagonal layers of
32 units, an hour of one core; the paper reports 79.2 with seven layers.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.condition import ConditionSpec
from polymode.core.errors import require_choice
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
from polymode.parts.nn.grid_lstm import GridLSTM, by_diagonals, by_rows, lstm_cell
from polymode.parts.nn.masked_conv import MaskedConv2d, PixelSteps, spread_groups


class Direction(nn.Module):
    """One LSTM over the image: K_is, K_ss and what the condition says to its gates.

    Args:
        inputs: K_is, from a layer's features to the gates.
        lstm: K_ss and the walk.
        context_features: width of the condition's vector, 0 for none.
    """

    def __init__(self, inputs: MaskedConv2d, lstm: GridLSTM, context_features: int) -> None:
        super().__init__()
        self.inputs, self.lstm = inputs, lstm
        gates = len(inputs.bias)
        self.context = nn.Linear(context_features, gates, bias=False) if context_features else None
        with torch.no_grad():
            inputs.bias[gates // 2 : 3 * gates // 4] = 1.0  # of the gates o, i, f, g: forget little at first

    def bias(self, context: Tensor | None) -> Tensor | None:
        """What the condition adds to the gates, (B, 4 h, 1, 1), or None."""
        return None if self.context is None or context is None else self.context(context)[:, :, None, None]

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        gates, bias = self.inputs(x), self.bias(context)
        return self.lstm(gates if bias is None else gates + bias)


class LSTMLayer(nn.Module):
    """x + conv1x1(h), where h are the states of a row LSTM or of a diagonal BiLSTM on half the width (figure 5)."""

    def __init__(
        self,
        groups: Tensor,
        draws: int,
        size: tuple[int, int],
        lstm: Literal["row", "diagonal"],
        kernel: int,
        context_features: int,
    ) -> None:
        super().__init__()
        half = spread_groups((len(groups) + 1) // 2, draws)
        units, gates, diagonal = len(half), half.repeat(4), lstm == "diagonal"
        walk = by_diagonals(*size) if diagonal else by_rows(*size, kernel)
        left = 0 if diagonal else kernel // 2
        own = MaskedConv2d(groups, gates, left=left, mask="B")
        self.main = Direction(own, GridLSTM(units, walk), context_features)
        self.right = None
        if diagonal:
            self.right = Direction(MaskedConv2d(groups, gates), GridLSTM(units, walk), context_features)
        self.up = MaskedConv2d(half, groups, mask="B")

    def steps(self, n: int, width: int, context: Tensor | None) -> LSTMSteps:
        """The layer on n images of some width."""
        return LSTMSteps(self, n, width, context)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.main(x, context)
        if self.right is not None:
            from_right = self.right(x.flip(3), context).flip(3)
            h = h + F.pad(from_right, (0, 0, 1, 0))[:, :, :-1]  # moved down a row
        return x + self.up(h)


class LSTMSteps:
    """A :class:`LSTMLayer` on n images of some width, pixel by pixel, with the states of this row and the row above."""

    def __init__(self, layer: LSTMLayer, n: int, width: int, context: Tensor | None) -> None:
        self.main, self.right, self.begun = layer.main, layer.right, False
        self.inputs, self.up = PixelSteps(layer.main.inputs, n, width), PixelSteps(layer.up, n, width)
        self.bias = layer.main.bias(context)
        self.right_bias = None if layer.right is None else layer.right.bias(context)
        features, units = layer.up.weight.shape[:2]
        self.x = layer.up.weight.new_zeros(n, features, 1, width)  # this row's input, for the direction from the right
        self.h = self.c = self.c_above = self.h_right = layer.up.weight.new_zeros(n, units, width)

    def next_row(self) -> None:
        """Turn the states of the row that ended into what they say to the next."""
        weight = self.main.lstm.weight
        if self.right is None:
            pad = len(weight) // 2
            said = F.conv1d(F.pad(self.h, (pad, pad)), weight.permute(2, 1, 0))  # (taps, h, 4 h) -> (4 h, h, taps)
        else:
            said = torch.einsum("nhw,hg->ngw", self.h, weight[1])
            if self.begun:
                self.h_right = self._walk_from_right(self.right)
        side = said.unsqueeze(2)
        self.inputs.next_row(side if self.bias is None else side + self.bias)
        self.h, self.c, self.c_above = torch.zeros_like(self.h), torch.zeros_like(self.c), self.c
        self.begun = True

    def _walk_from_right(self, right: Direction) -> Tensor:
        """The states from the right in the row that ended, all of whose pixels are known, (n, h, W)."""
        beside, above = right.lstm.weight
        gates = right.inputs(self.x)
        gates = (gates if self.right_bias is None else gates + self.right_bias).squeeze(2)
        gates = gates + torch.einsum("nhw,hg->ngw", self.h_right, above)
        states = torch.empty_like(self.h_right)
        h = c = torch.zeros_like(states[:, :, 0])
        for column in reversed(range(states.shape[2])):
            h, c = lstm_cell(gates[:, :, column] + h @ beside, c)
            states[:, :, column] = h
        return states

    def step(self, column: int, x: Tensor) -> Tensor:
        """The output at a column, (n, C)."""
        gates = self.inputs.step(column, x)
        if self.right is None:
            h, c = lstm_cell(gates, self.c_above[:, :, column])
        else:
            # left of column 0 is column -1, the row's last, whose states are still zero
            h, c = self.h[:, :, column - 1], self.c[:, :, column - 1]
            h, c = lstm_cell(gates + h @ self.main.lstm.weight[0], c)
            self.x[:, :, 0, column] = x
        self.h[:, :, column], self.c[:, :, column] = h, c
        return x + self.up.step(column, h if self.right is None else h + self.h_right[:, :, column])


class RowEnds(NetworkSteps):
    """Steps of a network whose rows have one column more than the image: when a row ends, it is read too."""

    def end_row(self, row: int, pixels: Tensor) -> None:
        super().end_row(row, pixels)
        self.features(row, self.width - 1, torch.zeros_like(pixels[:, :, 0]))


class PixelRNN(PixelModel):
    """A recurrent autoregressive model of images.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        lstm: "row", whose reach is a triangle, or "diagonal", which sees every earlier pixel and costs more.
        width: channels of the hidden layers; LSTMs have half of them (the paper's h).
        layers: LSTM layers.
        first_kernel: odd size of the first convolution's kernel.
        kernel: odd size of the row LSTM's kernels; the diagonal one has none.
        components: mixture components of the head where it is a mixture.
        levels_as: head of ordered levels.
        colours: "masked" colours see those before them in the network; "linear" ones in the head of PixelCNN++ alone,
            which is drawn at once.

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
        lstm: Literal["row", "diagonal"] = "diagonal",
        width: int = 32,
        layers: int = 2,
        first_kernel: int = 7,
        kernel: int = 3,
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
        colours: Colours = "masked",
    ) -> None:
        super().__init__(spec, condition_spec, components=components, levels_as=levels_as, colours=colours)
        require_choice("lstm", lstm, ("row", "diagonal"))
        check_sizes(self.draws, width, layers, {"first_kernel": first_kernel, "kernel": kernel}, halved=True)
        self.condition_encoder, context = encoder_for(condition_spec, width)
        #: columns to the right of the image
        self.beyond = 1 if lstm == "diagonal" else 0
        size = (self.size[0], self.size[1] + self.beyond)
        image, groups, outputs = self.groups(width)
        stack = [LSTMLayer(groups, self.draws, size, lstm, kernel, context) for _ in range(layers)]
        first = first_convolution(image, groups, first_kernel)
        self.network = PixelNetwork(first, stack, groups, outputs, size, self.each)
        self.network.start_at(self.one.initial())

    def outputs(self, canvas: Tensor, context: Tensor | None) -> Tensor:
        return self.network(F.pad(canvas, (0, self.beyond)), context)[..., : self.size[1]]

    def steps(self, n: int, context: Tensor | None) -> NetworkSteps:
        return RowEnds(self.network, n, context) if self.beyond else self.network.steps(n, context)
