"""GPT: a causal transformer reads what came before and gives the distribution of the next symbol.

Radford, Narasimhan, Salimans and Sutskever 2018, Improving Language Understanding by Generative Pre-Training; the order
of norms and the initial weights are those of Radford et al. 2019 (GPT-2); images as sequences of pixels are
Chen et al. 2020, Generative Pretraining from Pixels (iGPT).

    log p(x) = sum_t log p(x_t | x_<t),   p(x_t | x_<t) = softmax(E h_t)          (eq. 1 and 2; E the embedding, tied)
    h = transformer(E x_{t-1} + P_t),   x_0 a learned start symbol

`GPT.run` holds the network, `parts.nn.transformer` the blocks and the cache of keys and values; the sum and sampling
are those of every sequence model (`_sequence`). Vectors, images and token grids are sequences of their dimensions.
Deviation: a condition's vector is added to every input; positions are those of the datum, so a window of a text starts
at position 0 wherever it was cut.

Likelihood: exact, one pass. Sampling: T steps of one symbol each, whose cost grows with t by the attention only.
Expected: `polymode reproduce gpt_shakespeare`: 1.63 nats a character on the validation and 1.74 on the test half of the
usual held-out text, after 2,000 steps of 32 windows of 64 characters.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.autoregressive._sequence import SequenceModel
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn.transformer import Cache, CausalTransformer


class GPT(SequenceModel):
    """A decoder-only transformer of tokens, or of any lattice data flattened.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        width: of the residual stream, a multiple of heads.
        layers: blocks.
        heads: of attention in each block.
        dropout: share of activations and attention weights dropped in training.
        drop: share of rows whose condition is withheld in training, for guidance.

    Raises:
        PolymodeError: a width that is no multiple of heads, sizes below one, or a dropout outside [0, 1).
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=2e-3, batch_size=32, weight_decay=0.01, betas=(0.9, 0.99), ema=0.99, clip=1.0, warmup=50
    )

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        drop: float = 0.0,
    ) -> None:
        super().__init__(spec, condition_spec)
        if min(width, layers, heads) < 1 or not 0 <= dropout < 1:
            raise PolymodeError(
                f"width={width}, layers={layers}, heads={heads}, dropout={dropout}: expected sizes of at least 1 and a "
                "dropout of at least 0 and below 1"
            )
        self.drop = drop
        self.embedding = nn.Embedding(self.levels + 1, width)  # the last row is the start symbol
        self.positions = nn.Embedding(spec.num_dims, width)
        self.dropout = nn.Dropout(dropout)
        self.transformer = CausalTransformer(width, layers=layers, heads=heads, dropout=dropout)
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.condition_encoder, context_width = encoder_for(condition_spec, width)
        if context_width:
            self.to_input = nn.Linear(context_width, width, bias=False)

    def empty_cache(self, n: int, context: Tensor | None) -> Cache:
        return self.transformer.empty_cache(n, self.spec.num_dims)

    def run(
        self, inputs: Tensor, start: int, state: Cache | None, context: Tensor | None
    ) -> tuple[Tensor, Cache | None]:
        h = self.embedding(inputs) + self.positions.weight[start : start + inputs.shape[1]]  # (B, t, W)
        if context is not None:
            h = h + self.to_input(context).unsqueeze(1)
        h = self.transformer(self.dropout(h), start, state)
        # the start symbol is read and never drawn
        return F.linear(h, self.embedding.weight[: self.levels]), state
