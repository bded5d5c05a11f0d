"""What pixel models share: images drawn pixel by pixel, and of a pixel colour by colour or all colours at once; grids
of tokens are images of one colour, whose network reads one channel a token.

    log p(x | h) = sum_i log p(x_i | x_<i, h),   i over the model's order of pixels, of a pixel over its colours

A model says what all draws are given whole images (`outputs`, one pass) and what one draw is given those before it
(`steps`, which carries what it computed). Both are the same numbers, which a test of every model shows.
`PixelNetwork` is the frame of the networks of masked convolutions, `NetworkSteps` the same pixel by pixel.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.capabilities import DrawsInOrder
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError, require_choice
from polymode.core.pieces import Choose
from polymode.core.spec import Levels, Spec, Tokens
from polymode.models.autoregressive._blocks import Ancestral, check_beginning
from polymode.parts.dimension import one_dimension
from polymode.parts.distributions.heads import Head, head_for
from polymode.parts.distributions.pixel_logistic import PixelLogisticHead
from polymode.parts.features import Features
from polymode.parts.nn.masked_conv import MaskedConv2d, PixelSteps, spread_groups
from polymode.parts.samplers.autoregressive import check_options

Colours = Literal["masked", "linear"]
#: (row, column, the colours that are drawn, head parameters (n, P)) -> their values (n, colours)
Draw = Callable[[int, int, slice, Tensor], Tensor]


class Steps(Protocol):
    """A network on n images, one draw at a time."""

    def step(self, row: int, column: int, draw: int, canvas: Tensor) -> Tensor:
        """The head's parameters of the next draw, (n, P), given all that came before on a canvas (n, C, H, W)."""


class PixelModel(Ancestral, DrawsInOrder):
    """An autoregressive model of images.

    A subclass sets `condition_encoder`, and defines `outputs` and `steps`; and `read` and `order` where the network
    reads other than features, or pixels are not drawn row by row.

    Args:
        components: mixture components of the head where it is a mixture.
        levels_as: head of ordered levels.
        colours: "masked" draws a pixel colour by colour, each given those before by the network; "linear" draws it at
            once, by the head of PixelCNN++ (`parts.distributions.pixel_logistic`).

    Raises:
        PolymodeError: linear colours of levels that are not to be mixtures of logistics.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        *,
        components: int,
        levels_as: Literal["auto", "categorical", "logistic"],
        colours: Colours,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("colours", colours, ("masked", "linear"))
        self.features = Features(spec)
        self.head: Head
        self.one: Head
        if colours == "linear":
            if not isinstance(spec.support, Levels) or levels_as == "categorical":
                raise PolymodeError(
                    f"colours='linear' came with levels_as={levels_as!r} and data of {spec}: expected levels whose "
                    "head is a mixture of logistics; use colours='masked'"
                )
            pixel = Spec("image", (spec.shape[0], 1, 1), spec.support)
            self.head, self.one = PixelLogisticHead(spec, components), PixelLogisticHead(pixel, components)
        else:
            self.head, self.one = (
                head_for(s, components=components, levels_as=levels_as) for s in (spec, one_dimension(spec, 0))
            )
        #: values of a pixel; the network reads a channel a value, or one a token
        self.colours = spec.num_dims // (self.size[0] * self.size[1])
        #: draws of a pixel, and parameters of a draw
        self.draws, self.each = 1 if colours == "linear" else self.colours, self.one.num_params

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.spec.shape[-2:]
        return height, width

    def groups(self, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """The draw that each channel of the image, of `width` hidden channels and of the outputs belongs to."""
        draws = torch.arange(self.draws)
        image = draws.repeat_interleave(self.features.size // (self.size[0] * self.size[1] * self.draws))
        return image, spread_groups(width, self.draws), draws.repeat_interleave(self.each)

    # -- what a model says -----------------------------------------------------------------------------------------
    @abstractmethod
    def outputs(self, canvas: Tensor, context: Tensor | None) -> Tensor:
        """Parameters of all draws, (B, draws * each, H, W), of images as the network reads them."""

    @abstractmethod
    def steps(self, n: int, context: Tensor | None) -> Steps:
        """The same one draw at a time, from empty images on."""

    def read(self, x: Tensor) -> Tensor:
        """Values (B, values, ...) as the network reads them, (B, channels, ...)."""
        if isinstance(self.spec.support, Tokens):
            return F.one_hot(x.squeeze(1).long(), self.spec.support.levels).movedim(-1, 1).to(self.dtype)
        return self.features(x).view(x.shape)

    def coloured(self, x: Tensor) -> Tensor:
        """Data, or a mask of them, as images (B, C, H, W)."""
        return x.view(len(x), self.colours, *self.size)

    def order(self) -> list[tuple[int, int]]:
        """(row, column) of all pixels as they are drawn."""
        return [(r, c) for r in range(self.size[0]) for c in range(self.size[1])]

    # -- likelihood ------------------------------------------------------------------------------------------------
    def params(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Head parameters (B, P) of data (B, *shape), as the head reads them."""
        y = self.outputs(self.read(self.coloured(x)), self.context(condition))
        return y.unflatten(1, (-1, self.each)).movedim(2, -1).flatten(1)  # (B, N P, H, W) -> (B, N, H, W, P) -> (B, .)

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.head.log_prob(x, self.params(x, condition)).sum(1)

    # -- sampling --------------------------------------------------------------------------------------------------
    #: the order of the pixels, for people
    order_in_words = "row by row from the left"

    def _check_known(self, mask: Tensor) -> None:
        rows, columns = torch.tensor(self.order(), device=mask.device).t()
        known = self.coloured(mask)[:, :, rows, columns].transpose(1, 2)  # (B, H W, C)
        known = known.unflatten(2, (self.draws, -1))  # (B, H W, draws, values)
        whole, some = known.all(3).flatten(1), known.any(3).flatten(1)
        if not torch.equal(whole, some):
            raise DataError(
                "some colours of a pixel are known and others missing, and this model draws all colours of a pixel at "
                "once: let a pixel be known whole or not at all, or give approximate=True"
            )
        check_beginning(whole, f"{self.order_in_words}, {'colour by colour' if self.draws > 1 else 'a pixel at once'}")

    def _generate(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        temperature: float,
        *,
        known: tuple[Tensor, Tensor] | None = None,
        score: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        check_options(temperature)
        nats = torch.zeros(n, dtype=self.dtype, device=self.device) if score else None
        given, kept = (None, None) if known is None else map(self.coloured, known)

        def draw(r: int, c: int, drawn: slice, params: Tensor) -> Tensor:
            value = self.one.sample(params, generator, temperature)
            if nats is not None:
                nats.add_(self.one.log_prob(value, params).sum(1))
            value = value.flatten(1)
            if given is not None and kept is not None:
                value = torch.where(kept[:, drawn, r, c], given[:, drawn, r, c], value)
            return value

        return self._walk(n, condition, draw).view(n, *self.spec.shape), nats

    def _walk(self, n: int, condition: Condition | None, draw: Draw) -> Tensor:
        """Ask `draw` for the values of each draw, and read them back: images (n, C, H, W)."""
        x = torch.zeros(n, self.colours, *self.size, dtype=self.spec.dtype, device=self.device)
        canvas = self.read(x)
        steps, values = self.steps(n, self.context(condition)), self.colours // self.draws
        for r, c in self.order():
            for turn in range(self.draws):
                drawn = slice(turn * values, (turn + 1) * values)  # colours
                value = draw(r, c, drawn, steps.step(r, c, turn, canvas))
                x[:, drawn, r, c] = value
                canvas[:, drawn if self.draws > 1 else slice(None), r, c] = self.read(value)
        return x

    def _draw_in_order(self, n: int, choose: Choose, condition: Condition | None) -> None:
        height, width = self.size

        def draw(r: int, c: int, drawn: slice, params: Tensor) -> Tensor:
            dims = [(colour * height + r) * width + c for colour in range(self.colours)[drawn]]
            if not isinstance(self.one, PixelLogisticHead):
                [(_, table)] = self.one.tables(params)
                return choose(dims, table).to(self.spec.dtype)
            value = torch.zeros(n, len(dims), dtype=self.spec.dtype, device=params.device)
            for i, dim in enumerate(dims):
                value[:, i : i + 1] = choose([dim], self.one.table_of(i, value, params)).to(value.dtype)
            return value

        self._walk(n, condition, draw)


class PixelNetwork(nn.Module):
    """(B, C, H, W) -> (B, P, H, W): a first masked layer, a learned bias a position, more layers, two 1x1 layers.

    Args:
        first: a masked convolution of mask A.
        layers: each maps (features, context) to features, and has `steps(n, width, context)`.
        groups, out_groups: colour that each channel of the layers and of the output belongs to.
        size: (H, W).
        each: parameters of a draw.
    """

    def __init__(
        self,
        first: nn.Module,
        layers: Iterable[nn.Module],
        groups: Tensor,
        out_groups: Tensor,
        size: tuple[int, int],
        each: int,
    ) -> None:
        super().__init__()
        self.each = each
        self.first, self.layers = first, nn.ModuleList(layers)
        self.position = nn.Parameter(torch.zeros(len(groups), *size))
        self.hidden = MaskedConv2d(groups, groups, mask="B", gain=math.sqrt(2))
        self.last = MaskedConv2d(groups, out_groups, mask="B")

    def body(self, x: Tensor, context: Tensor | None) -> Tensor:
        """(B, width, H, W) after all layers."""
        h = self.first(x) + self.position
        for layer in self.layers:
            h = layer(h, context)
        return h

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.last(self.hidden(self.body(x, context).relu()).relu())

    def start_at(self, initial: Tensor) -> None:
        """Give every draw the parameters of a head to start from."""
        with torch.no_grad():
            self.last.bias.copy_(initial.repeat(len(self.last.bias) // self.each))

    def steps(self, n: int, context: Tensor | None) -> NetworkSteps:
        """The network on n images, one draw at a time."""
        return NetworkSteps(self, n, context)


class NetworkSteps:
    """A :class:`PixelNetwork` on n images. A layer has `next_row` before each row and `step` for its columns."""

    def __init__(self, network: PixelNetwork, n: int, context: Tensor | None) -> None:
        self.each, self.width = network.each, network.position.shape[2]
        self.position = network.position.permute(1, 2, 0)  # (H, W, C)
        self.first, self.pixels = self.first_steps(network, n, context)
        self.layers: list[Any] = [layer.steps(n, self.width, context) for layer in network.layers]
        self.hidden, self.last = PixelSteps(network.hidden, n, self.width), PixelSteps(network.last, n, self.width)

    def first_steps(self, network: PixelNetwork, n: int, context: Tensor | None) -> tuple[Any, PixelSteps]:
        """The steps of the first layer, and those of its convolution over pixels."""
        assert isinstance(network.first, MaskedConv2d)
        first = PixelSteps(network.first, n, self.width)
        return first, first

    def step(self, row: int, column: int, draw: int, canvas: Tensor) -> Tensor:
        """The parameters of a draw, (n, each)."""
        if draw == 0:
            self._begin(row, column, canvas)
        h = self.features(row, column, canvas[:, :, row, column])
        out = self.last.step(column, self.hidden.step(column, h.relu()).relu())
        return out[:, draw * self.each : (draw + 1) * self.each]

    def features(self, row: int, column: int, pixel: Tensor) -> Tensor:
        """What all layers make of a pixel, (n, width)."""
        h = self.first.step(column, pixel) + self.position[row, column]
        for layer in self.layers:
            h = layer.step(column, h)
        return h

    def _begin(self, row: int, column: int, canvas: Tensor) -> None:
        """Tell the pixel before, of which the last draw came after its last step, and begin a row where one begins."""
        if column:
            self.pixels.put(column - 1, canvas[:, :, row, column - 1])
        else:
            if row:
                self.end_row(row - 1, canvas[:, :, row - 1])
            self.next_row(canvas[:, :, row - 1 : row] if row else torch.zeros_like(canvas[:, :, :1]))

    def end_row(self, row: int, pixels: Tensor) -> None:
        """Tell the last of a row's pixels, (n, C, W)."""
        self.pixels.put(pixels.shape[2] - 1, pixels[:, :, -1])

    def next_row(self, previous: Tensor) -> None:
        """Begin the next row, given the features of the one before, (n, C, 1, W), zeros at first."""
        self.first.next_row()
        for layer in self.layers:
            layer.next_row()


def first_convolution(image: Tensor, groups: Tensor, kernel: int) -> MaskedConv2d:
    """A network's first layer over pixels: mask A, of a kernel's upper half."""
    k = kernel // 2
    return MaskedConv2d(image, groups, above=k, left=k, right=k, mask="A")


def check_sizes(draws: int, width: int, layers: int, kernels: dict[str, int], *, halved: bool) -> None:
    """Raise PolymodeError unless every draw of a pixel has channels, also in layers of half the width."""
    for name, size in kernels.items():
        if size < 3 or size % 2 == 0:
            raise PolymodeError(f"{name}={size}: expected an odd size of at least 3")
    if layers < 1:
        raise PolymodeError(f"layers={layers}: expected at least 1")
    least = 2 * draws - 1 if halved else draws
    if width < least:
        raise PolymodeError(f"width={width}: expected at least {least}, so that each of {draws} colours has channels")
