"""WaveNet: dilated causal convolutions read the samples before and give the distribution of the next.

van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves, Kalchbrenner, Senior and Kavukcuoglu 2016, WaveNet: A Generative
Model for Raw Audio (arXiv:1609.03499).

    log p(x | c) = sum_t log p(x_t | x_<t, c),   p(x_t | x_<t, c) a softmax over the levels         (eq. 1, section 2.2)
    logits = W_2 relu(W_1 relu(sum of the layers' skips))                                           (figure 4)

`WaveNet.run` holds the network, `parts.nn.dilated` the gated units and the rings of their past; the sum and sampling
are those of every sequence model (`_sequence`). Recordings come as mu-law levels from the reader (section 2.2). A
condition is global (section 2.5): its vector enters every unit.
Deviation: the start of a sequence is a symbol of its own. Local conditioning, on a signal in step with the samples, is
not here.

Likelihood: exact, one pass. Sampling: T steps of one column of each layer.
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
    ) -> None:
        super().__init__(spec, condition_spec)
        if min(channels, skip, layers, stacks) < 1 or layers > 20:
            raise PolymodeError(
                f"channels={channels}, skip={skip}, layers={layers}, stacks={stacks}: expected sizes of at least 1 and "
                "at most 20 layers a stack"
            )
        self.embedding = nn.Embedding(self.levels + 1, channels)  # the last row is the start symbol
        self.condition_encoder, width = encoder_for(condition_spec, skip)
        self.network = DilatedStack(channels, skip, layers=layers, stacks=stacks, context_features=width)
        self.hidden, self.last = nn.Linear(skip, skip), nn.Linear(skip, self.levels)

    def empty_cache(self, n: int, context: Tensor | None) -> Past:
        return self.network.empty_past(n)

    def run(self, inputs: Tensor, start: int, state: Past | None, context: Tensor | None) -> tuple[Tensor, Past | None]:
        skips = self.network(self.embedding(inputs), context, start, state)  # (B, t, S)
        return self.last(F.relu(self.hidden(F.relu(skips)))), state
