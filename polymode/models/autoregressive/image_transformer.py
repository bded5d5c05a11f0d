"""Image Transformer: pixels one after the other, each attending to a neighbourhood of those before it.

Parmar, Vaswani, Uszkoreit, Kaiser, Shazeer, Ku and Tran 2018, Image Transformer (arXiv:1802.05751).

    log p(x) = sum_t log p(x_t | x_<t),   t over positions in the order of their blocks                     (section 3)
    q_a = LN(q + dropout(softmax(W_q q (M W_k)^T / sqrt(d)) M W_v))                             (eq. 1, section 3.2)

where the memory M of a query are the positions of its own block and around it. Blocks follow one another, so that all
queries of a block share one memory and attention is a dense product a block (section 3.3):
1d: blocks of `block` positions in the order of rows, and the `memory` positions before them;
2d: squares of `block` x `block` pixels, drawn one after the other, and `memory` pixels above, left and right of them.
A position is a colour of a pixel with a softmax over its levels, or a pixel with all its colours, mixtures of logistics
that depend on each other linearly (section 4.1). `Neighbourhood` holds blocks and memories, `LocalAttention` eq. 1,
`ImageTransformer.outputs` the whole, `_pixels` the sum and sampling. A condition's vector is added to every input.
Deviation: layer normalisation before a layer, not after it; positions are learned vectors of rows, columns and colours.

Likelihood: exact, one pass; attention costs block + memory a position, not all positions. Sampling: a position a step
with keys and values kept.
"""

from __future__ import annotations

import itertools
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Levels, Spec
from polymode.models.autoregressive._pixels import PixelModel
from polymode.parts.distributions.heads import MOST_CATEGORIES
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn.transformer import Cache, CausalAttention, CausalTransformer

#: of what inputs sum: vectors of values and places must be heard beside a condition's, whose scale is 1
INPUT_SCALE = 0.3


class Neighbourhood(nn.Module):
    """Who attends to whom: blocks of consecutive steps, each with a memory of steps.

    Args:
        blocks: (steps, memory) of each block; the steps of all are 0, 1, 2, ... A step sees those of the memory that
            are not after it, and must be in it.
    """

    queries: Tensor
    real: Tensor
    memory: Tensor
    mask: Tensor

    def __init__(self, blocks: list[tuple[range, list[int]]]) -> None:
        super().__init__()
        queries, real = _padded([list(steps) for steps, _ in blocks])
        memory, kept = _padded([memory for _, memory in blocks])
        mask = (memory[:, None] <= queries[:, :, None]) & kept[:, None]  # (N, Q, M)
        mask[~real] = True  # softmax over nothing would be NaN; what these find is thrown away
        for name, value in {"queries": queries, "real": real, "memory": memory, "mask": mask}.items():
            self.register_buffer(name, value, persistent=False)
        self.seen = [_index([m for m in memory if m <= t]) for steps, memory in blocks for t in steps]


class LocalAttention(CausalAttention):
    """Self-attention in which each step sees its neighbourhood."""

    def __init__(self, width: int, heads: int, dropout: float, around: Neighbourhood) -> None:
        super().__init__(width, heads, dropout)
        self.around = around

    def forward(self, h: Tensor, layer: int, start: int, cache: Cache | None, bias: Tensor | None = None) -> Tensor:
        b, t, w = h.shape
        q, k, v = self.qkv(h).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)  # (B, H, t, C) each
        if cache is not None:
            k, v = cache.extend(layer, start, k, v)
            seen = self.around.seen[start]
            found = F.scaled_dot_product_attention(q, k[:, :, seen], v[:, :, seen])
            return self.out(found.transpose(1, 2).reshape(b, t, w))
        around = self.around
        q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # (B H, T, C)
        found = F.scaled_dot_product_attention(
            q[:, around.queries], k[:, around.memory], v[:, around.memory], attn_mask=around.mask,
            dropout_p=self.dropout if self.training else 0.0,
        )  # (B H, N, Q, C)  # fmt: skip
        found = found[:, around.real].unflatten(0, (b, self.heads))  # (B, H, T, C)
        return self.out(found.transpose(1, 2).reshape(b, t, w))


class LocalTransformer(CausalTransformer):
    """A causal transformer whose attention is local."""

    def __init__(self, width: int, around: Neighbourhood, *, layers: int, heads: int, dropout: float) -> None:
        super().__init__(width, layers=layers, heads=heads, dropout=dropout)
        for block in self.blocks:
            local = LocalAttention(width, heads, dropout, around)
            local.load_state_dict(block.attention.state_dict())  # as the transformer begins
            block.attention = local


class ImageTransformer(PixelModel):
    """A transformer over pixels with local attention.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        local: "1d" or "2d" blocks.
        block: positions of a 1d block, or pixels of a side of a 2d one; None for 64 or 8.
        memory: positions before a 1d block, or pixels around a 2d one; None for as many as a block, or half a side.
        width: of the network, a multiple of heads.
        layers, heads: of attention.
        dropout: of attention weights and of what layers add.
        components: mixture components of the head where it is a mixture.
        levels_as: head of ordered levels: categorical ones are drawn colour by colour, logistic ones pixel by pixel.

    Raises:
        PolymodeError: sizes below one, or a width that is no multiple of the heads.
    """

    at: Tensor
    back: Tensor
    defaults: ClassVar = TrainingDefaults(learning_rate=2e-3, batch_size=16, ema=0.99, clip=1.0, warmup=50)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        local: Literal["1d", "2d"] = "1d",
        block: int | None = None,
        memory: int | None = None,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
    ) -> None:
        many = isinstance(spec.support, Levels) and spec.support.levels > MOST_CATEGORIES
        logistic = isinstance(spec.support, Levels) and (levels_as == "logistic" or (levels_as == "auto" and many))
        super().__init__(
            spec, condition_spec, components=components, levels_as=levels_as, colours="linear" if logistic else "masked"
        )
        require_choice("local", local, ("1d", "2d"))
        block = block if block is not None else 64 if local == "1d" else 8
        memory = memory if memory is not None else block if local == "1d" else (block + 1) // 2
        if block < 1 or memory < 1 or layers < 1:
            raise PolymodeError(f"block={block}, memory={memory}, layers={layers}: expected at least 1 each")
        #: row, column and draw of every step
        self.places, blocks = (_rows if local == "1d" else _squares)(self.size, self.draws, block, memory)
        self.order_in_words = "row by row from the left" if local == "1d" else f"by squares of {block} x {block} pixels"
        rows, columns, draws = torch.tensor(self.places).t()
        self.register_buffer("at", torch.stack([rows, columns, draws]), persistent=False)
        # the step of each row, column and draw, so that outputs can be put back into the image
        self.register_buffer("back", ((rows * self.size[1] + columns) * self.draws + draws).argsort(), persistent=False)
        self.levels = spec.levels or 0
        # what was drawn before: a vector a level and colour, or a linear map of a pixel
        self.value: nn.Module = (
            nn.Linear(spec.shape[0], width) if logistic else nn.Embedding(self.draws * self.levels, width)
        )
        self.start = nn.Parameter(INPUT_SCALE * torch.randn(width))
        self.place = nn.ModuleList(nn.Embedding(size, width) for size in (*self.size, self.draws))
        for embedding in (self.value, *self.place):
            nn.init.normal_(embedding.weight, std=INPUT_SCALE)
        self.condition_encoder, _ = encoder_for(condition_spec, width)
        self.network = LocalTransformer(width, Neighbourhood(blocks), layers=layers, heads=heads, dropout=dropout)
        self.last = nn.Linear(width, self.each)
        with torch.no_grad():
            self.last.bias.copy_(self.one.initial())

    def read(self, x: Tensor) -> Tensor:
        return x.long()

    def order(self) -> list[tuple[int, int]]:
        return [(row, column) for row, column, draw in self.places if draw == 0]

    def embed(self, values: Tensor, draws: Tensor) -> Tensor:
        """Levels (..., values of a draw) that were drawn as the draws (...) of a pixel, as vectors (..., W)."""
        if isinstance(self.value, nn.Linear):
            return self.value(self.features(values.flatten(0, -2)).view(values.shape))
        return self.value(values.squeeze(-1) + draws * self.levels)

    def embed_images(self, canvas: Tensor) -> Tensor:
        """What was drawn at every step, (B, T, W), of images (B, C, H, W)."""
        rows, columns, draws = self.at
        pixels = canvas[:, :, rows, columns].transpose(1, 2)  # (B, T, C)
        drawn = pixels if self.draws == 1 else pixels.gather(2, draws.expand(len(canvas), -1).unsqueeze(2))
        return self.embed(drawn, draws)

    def places_of(self, steps: slice) -> Tensor:
        """Vectors of the places of some steps, (t, W)."""
        vectors = [embedding(index) for embedding, index in zip(self.place, self.at[:, steps], strict=True)]
        return torch.stack(vectors).sum(0)

    def given(self, drawn: Tensor, context: Tensor | None) -> Tensor:
        """Parameters of all draws in the image, (B, draws * each, H, W), of what was drawn at every step."""
        b = len(drawn)
        h = torch.cat([self.start.expand(b, 1, -1), drawn[:, :-1]], dim=1) + self.places_of(slice(None))
        h = h if context is None else h + context.unsqueeze(1)
        out = self.last(self.network(h))[:, self.back]  # (B, H W draws, each)
        return out.view(b, *self.size, -1).movedim(3, 1)

    def outputs(self, canvas: Tensor, context: Tensor | None) -> Tensor:
        return self.given(self.embed_images(canvas), context)

    def steps(self, n: int, context: Tensor | None) -> TransformerSteps:
        return TransformerSteps(self, n, context)


class TransformerSteps:
    """An :class:`ImageTransformer` on n images, a step at a time."""

    def __init__(self, model: ImageTransformer, n: int, context: Tensor | None) -> None:
        self.model, self.context, self.t = model, context, 0
        self.cache = model.network.empty_cache(n, len(model.places))

    def step(self, row: int, column: int, draw: int, canvas: Tensor) -> Tensor:
        """The parameters of the next draw, (n, each)."""
        model, t = self.model, self.t
        assert model.places[t] == (row, column, draw)
        h = model.start.expand(len(canvas), -1)
        if t:
            r, c, k = model.places[t - 1]
            pixel = canvas[:, :, r, c]
            h = model.embed(pixel if model.draws == 1 else pixel[:, k : k + 1], model.at[2, t - 1])
        h = h + model.places_of(slice(t, t + 1))
        h = h if self.context is None else h + self.context
        self.t += 1
        return model.last(model.network(h.unsqueeze(1), t, self.cache)[:, 0])


Place = tuple[int, int, int]
Blocks = list[tuple[range, list[int]]]


def _rows(size: tuple[int, int], draws: int, block: int, memory: int) -> tuple[list[Place], Blocks]:
    """Steps row by row, in blocks of `block` that remember the `memory` steps before them."""
    places = list(itertools.product(range(size[0]), range(size[1]), range(draws)))
    blocks = [range(t, min(t + block, len(places))) for t in range(0, len(places), block)]
    return places, [(steps, list(range(max(0, steps.start - memory), steps.stop))) for steps in blocks]


def _squares(size: tuple[int, int], draws: int, block: int, memory: int) -> tuple[list[Place], Blocks]:
    """Steps square by square, each of which remembers `memory` pixels above, left and right of it."""
    places: list[Place] = []
    blocks: Blocks = []
    for top, left in itertools.product(range(0, size[0], block), range(0, size[1], block)):
        bottom, right = min(top + block, size[0]), min(left + block, size[1])
        begun = len(places)
        places += itertools.product(range(top, bottom), range(left, right), range(draws))
        near = set(itertools.product(range(top - memory, bottom), range(left - memory, right + memory)))
        around = {t for t, (r, c, _) in enumerate(places) if (r, c) in near}
        # a step reads what was drawn just before it, which may lie elsewhere: so also the steps that read these pixels
        around |= {t + 1 for t in around if t + 1 < len(places)}
        blocks.append((range(begun, len(places)), sorted(around)))
    return places, blocks


def _index(steps: list[int]) -> slice | Tensor:
    """An index of ascending steps: a slice, which copies nothing, where they follow one another."""
    first, last = steps[0], steps[-1] + 1
    return slice(first, last) if last - first == len(steps) else torch.tensor(steps)


def _padded(lists: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Lists as the rows of one tensor, filled up with zeros, and which entries are theirs."""
    rows = nn.utils.rnn.pad_sequence([torch.tensor(entries) for entries in lists], batch_first=True)
    return rows, torch.arange(rows.shape[1]) < torch.tensor([len(entries) for entries in lists]).unsqueeze(1)
