"""WaveNet: dilated causal convolutions read the samples before and give the distribution of the next.

van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves, Kalchbrenner, Senior and Kavukcuoglu 2016, WaveNet: A Generative
Model for Raw Audio (arXiv:1609.03499).

    log p(x | c) = sum_t log p(x_t | x_<t, c),   p(x_t | x_<t, c) a softmax over the levels         (eq. 1, section 2.2)
    logits = W_2 relu(W_1 relu(sum of the layers' skips))                                           (figure 4)

`WaveNet.run` holds the network, `parts.nn.dilated` the gated units and the rings of their past; the sum and sampling
are those of every sequence model (`_sequence`). Recordings come as mu-law levels from the reader (section 2.2). The
condition enters every unit (section 2.5): a label, vector or tokens are global, one vector for all samples; a series is
local, each of its F frames said to the next ceil(T / F) samples.
Deviation: the start of a sequence is a symbol of its own; a local signal is repeated up to the rate of the samples,
which the paper found slightly worse than a learned upsampling; residual products have no bias, the gates have.

Likelihood: exact, one pass. Sampling: T steps of one column of each layer.
Expected: recipe wavenet_fsdd.
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
from polymode.parts.nn.dilated import DilatedStack, Past


class WaveNet(SequenceModel):
    """Dilated causal convolutions over waveforms, tokens, or any lattice data flattened.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        channels: of the residual stream.
        skip: channels of the skips and of the layers after them.
        layers: of a stack; an output sees 2^layers inputs a stack.
        stacks: how often dilations begin again at 1.
        drop: share of rows whose condition is withheld in training, for guidance.

    Raises:
        PolymodeError: sizes below one, or a single layer of more than 2^20 steps.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=2e-3, batch_size=8, ema=0.99, clip=1.0)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        channels: int = 32,
        skip: int = 64,
        layers: int = 9,
        stacks: int = 1,
        drop: float = 0.0,
    ) -> None:
        super().__init__(spec, condition_spec)
        if min(channels, skip, layers, stacks) < 1 or layers > 20:
            raise PolymodeError(
                f"channels={channels}, skip={skip}, layers={layers}, stacks={stacks}: expected sizes of at least 1 and "
                "at most 20 layers a stack"
            )
        self.drop = drop
        self.embedding = nn.Embedding(self.levels + 1, channels)  # the last row is the start symbol
        self.condition_encoder, width = encoder_for(condition_spec, skip)
        frames = condition_spec.series[0] if condition_spec is not None and condition_spec.series is not None else 1
        self.network = DilatedStack(
            channels, skip, layers=layers, stacks=stacks, context_features=width, hold=-(-spec.num_dims // frames)
        )
        self.hidden, self.last = nn.Linear(skip, skip), nn.Linear(skip, self.levels)

    def empty_cache(self, n: int, context: Tensor | None) -> Past:
        return self.network.empty_past(n, context)

    def run(self, inputs: Tensor, start: int, state: Past | None, context: Tensor | None) -> tuple[Tensor, Past | None]:
        if state is not None and inputs.shape[1] == 1:
            return self._step(inputs[:, 0], start, state).unsqueeze(1), state
        skips = self.network(self.embedding(inputs), context, start, state)  # (B, t, S)
        return self.last(F.relu(self.hidden(F.relu(skips)))), state

    def _step(self, inputs: Tensor, start: int, past: Past) -> Tensor:
        """The logits (B, K) after one symbol each; plain functions, as calling a module takes longer than its sum."""
        skips = past.step(start, self.embedding.weight.index_select(0, inputs))  # (B, S)
        hidden = F.linear(skips.relu_(), self.hidden.weight, self.hidden.bias)
        return F.linear(hidden.relu_(), self.last.weight, self.last.bias)
