"""GPT-2: the transformer of Radford et al. as it was published, whose weights are read from its own files.

Radford, Wu, Child, Luan, Amodei and Sutskever 2019, Language Models are Unsupervised Multitask Learners, sections 2.2
and 2.3; what the paper leaves open (gelu by tanh, biases, initial weights, the head tied to the embedding) is as in
the code that was released with it, openai/gpt-2 `src/model.py`.

    log p(x) = sum_t log p(x_t | x_<t),   p(x_t | x_<t) = softmax(E h_t)                        (eq. 1; E tied)
    h = LN(blocks(E x_{t-1} + P_t)),   norms before attention and perceptron                       (section 2.3)
    parameters = K W + C W + L (12 W^2 + 13 W) + 2 W     of K symbols, C positions, L blocks W wide

`GPT2.run` holds the network, `parts.nn.transformer` the blocks and the cache of keys and values; the sum and sampling
are those of every sequence model (`_sequence`). `interop.load_gpt2` and `save_gpt2` are the published files.
Deviation: there is no start symbol beside the vocabulary. The first symbol is read after "<|endoftext|>", which parts
the texts of the training data: the last symbol, 50256 of GPT-2's own vocabulary. Where a vocabulary has no such symbol
its last one stands there all the same, which costs no parameter and leaves the likelihood normalised.

Likelihood: exact, one pass. Sampling: T steps of one symbol each, whose cost grows with t by the attention only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.autoregressive._sequence import SequenceModel
from polymode.parts.nn.transformer import Cache, CausalTransformer

Size = Literal["mini", "small", "medium", "large", "xl"]
#: width, layers and heads; all but "mini", which learns on a laptop, are table 2 of the paper
SIZES: dict[Size, tuple[int, int, int]] = {
    "mini": (128, 4, 4), "small": (768, 12, 12), "medium": (1024, 24, 16), "large": (1280, 36, 20),
    "xl": (1600, 48, 25),
}  # fmt: skip


class GPT2(SequenceModel):
    """GPT-2 of token sequences.

    With GPT-2's 50,257 symbols and windows of 1024 it has 124,439,808 ("small"), 354,823,168 ("medium"), 774,030,080
    ("large") or 1,557,611,200 ("xl") parameters.

    Args:
        spec: what one datum is: T symbols.
        condition_spec: None; it takes no conditions.
        size: width, layers and heads by name.
        width: of the residual stream, a multiple of heads; the size's where it is left out, as the next two.
        layers: blocks.
        heads: of attention in each block.
        context: positions that the table has, at least T; None for T.
        start: the symbol that stands before the first; None for the last of the vocabulary.
        dropout: share of activations and attention weights dropped in training.

    Raises:
        PolymodeError: an unknown size, a width that is no multiple of heads, sizes below one, a context shorter than
            the data, a start outside the vocabulary, or a dropout outside [0, 1).
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=2e-3, batch_size=32, weight_decay=0.01, betas=(0.9, 0.99), ema=0.99, clip=1.0, warmup=50
    )

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        size: Size = "mini",
        width: int | None = None,
        layers: int | None = None,
        heads: int | None = None,
        context: int | None = None,
        start: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("size", size, SIZES)
        width, layers, heads = (
            named if given is None else given for given, named in zip((width, layers, heads), SIZES[size], strict=True)
        )
        context = spec.num_dims if context is None else context
        self.start = self.levels - 1 if start is None else start
        if min(width, layers, heads) < 1 or not 0 <= dropout < 1:
            raise PolymodeError(
                f"width={width}, layers={layers}, heads={heads}, dropout={dropout}: expected sizes of at least 1 and a "
                "dropout of at least 0 and below 1"
            )
        if context < spec.num_dims:
            raise PolymodeError(f"context={context}: the data have {spec.num_dims} symbols, expected at least as many")
        if not 0 <= self.start < self.levels:
            raise PolymodeError(f"start={start}: expected a symbol of the vocabulary, 0 to {self.levels - 1}")
        self.embedding, self.positions = nn.Embedding(self.levels, width), nn.Embedding(context, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.01)
        self.dropout = nn.Dropout(dropout)
        self.transformer = CausalTransformer(width, layers=layers, heads=heads, dropout=dropout, approximate="tanh")
        self.condition_encoder = None

    def begin(self, n: int) -> Tensor:
        return torch.full((n, 1), self.start, device=self.device)

    def empty_cache(self, n: int, context: Tensor | None) -> Cache:
        return self.transformer.empty_cache(n, self.spec.num_dims)

    def run(
        self, inputs: Tensor, start: int, state: Cache | None, context: Tensor | None
    ) -> tuple[Tensor, Cache | None]:
        h = self.embedding(inputs) + self.positions.weight[start : start + inputs.shape[1]]  # (B, t, W)
        h = self.transformer(self.dropout(h), start, state)
        return F.linear(h, self.embedding.weight), state
