"""RNN-NADE: a recurrent net reads the frames so far, and a NADE whose biases it sets draws the notes of the next.

Boulanger-Lewandowski, Bengio and Vincent 2012, Modeling Temporal Dependencies in High-Dimensional Sequences:
Application to Polyphonic Music Generation and Transcription (ICML, arXiv:1206.6392).

    log p(x) = sum_t log p(v_t | v_<t),   h_t = cell(v_t, h_{t-1})
    p(v_t | v_<t) = NADE with b_t = b + W_b h_{t-1},  c_t = c + W_c h_{t-1};  W and V are those of all frames
    emission "independent", their RNN baseline:  p(v_t | v_<t) = prod_d Bernoulli(sigmoid(b_t))

`RNNNADE.states` holds h, `NADEEmission` and `IndependentEmission` the two distributions of a frame (`parts.nn.nade` the
conditionals of notes), `RNNNADE._frame_log_prob` the terms of the sum, `RNNNADE._walk` sampling with carried state.
Deviation: the cell is an LSTM by default (theirs, "rnn", has tanh units and was trained by Hessian-free optimisation);
a GRU or a causal transformer may take its place; frames are read through a linear layer with dropout; h_0 is what
the cell makes of a learned first input; b starts at the log-odds of the first batch; a condition's vector is added to
every input.

Likelihood: exact, one pass. Sampling: T steps of D notes each.
Expected: `polymode reproduce rnn_nade_chorales`: 5.71 +- 0.12 nats a frame ("frame NLL": every frame of the 77 test
pieces, each given all before it); `polymode reproduce rnn_chorales`, whose emission is independent: 8.41 +- 0.09.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.capabilities import HasFrameLogProb
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.autoregressive._blocks import Draw, Ordered
from polymode.parts.dimension import one_dimension
from polymode.parts.distributions.heads import BernoulliHead, Head
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn import nade
from polymode.parts.nn.recurrent import Core, core_for

Emission = Literal["nade", "independent"]
#: turns the logits of a note (B,) into bits (B,)
Flip = Callable[[Tensor], Tensor]


class IndependentEmission(nn.Module):
    """Notes of a frame that are independent given the state h (B, W)."""

    def __init__(self, notes: int, width: int) -> None:
        super().__init__()
        self.to_b = nn.Linear(width, notes)

    def logits(self, v: Tensor, h: Tensor) -> Tensor:
        """The logit of every note given those below it in the frames v (B, D), (B, D)."""
        return self.to_b(h)

    def draw(self, h: Tensor, flip: Flip) -> Tensor:
        """Frames (B, D), note by note."""
        return torch.stack([flip(logits) for logits in self.to_b(h).unbind(1)], 1)


class NADEEmission(IndependentEmission):
    """Notes of a frame by NADE, from the lowest up, with biases that are linear in the state h (B, W)."""

    def __init__(self, notes: int, width: int, hidden: int) -> None:
        super().__init__(notes, width)
        self.to_c = nn.Linear(width, hidden)
        self.w = nn.Parameter(torch.randn(notes, hidden) * math.sqrt(8 / notes))
        self.v = nn.Parameter(torch.randn(notes, hidden) / hidden)

    def biases(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """b_t (B, D) and c_t (B, H), in the weights' precision also where the core's is mixed."""
        return self.to_b(h).to(self.w.dtype), self.to_c(h).to(self.w.dtype)

    def logits(self, v: Tensor, h: Tensor) -> Tensor:
        b, c = self.biases(h)
        # chords are a few of many keys: where no frame has more than an eighth on, that saves most activations
        few = 8 * int(v.sum(1).max()) <= v.shape[1]
        conditionals = nade.sparse_conditionals if few else nade.conditionals
        return b + conditionals(v, c, self.w, self.v, "sigmoid")

    def draw(self, h: Tensor, flip: Flip) -> Tensor:
        return nade.draw(*self.biases(h), self.w, self.v, "sigmoid", flip)


class RNNNADE(Ordered, HasFrameLogProb):
    """A recurrent model of frames of bits, with a joint distribution over the bits of a frame.

    Args:
        spec: what one datum is: a series (T, D) of bits.
        condition_spec: what it is conditioned on.
        emission: of a frame given the state, "nade" or "independent" bits.
        core: what reads the frames: "lstm", "gru", "rnn" (tanh, the paper's) or "transformer".
        width: of the state.
        layers: of the core.
        hidden: width of the NADE's hidden layers.
        dropout: share of what is read and of the state dropped in training.
        heads: of the transformer's attention.

    Raises:
        PolymodeError: an unknown emission or core, sizes below one, or a dropout outside [0, 1).
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-2, batch_size=16, ema=0.99, clip=1.0, warmup=20)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        emission: Emission = "nade",
        core: Core = "lstm",
        width: int = 200,
        layers: int = 1,
        hidden: int = 100,
        dropout: float = 0.3,
        heads: int = 4,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("emission", emission, ("nade", "independent"))
        if min(width, layers, hidden, heads) < 1 or not 0 <= dropout < 1:
            raise PolymodeError(
                f"width={width}, layers={layers}, hidden={hidden}, heads={heads}, dropout={dropout}: expected sizes of "
                "at least 1 and a dropout of at least 0 and below 1"
            )
        self.set_orders("natural", 1, 0)
        self.one = BernoulliHead(one_dimension(spec, 0))
        length, notes = spec.shape
        self.read = nn.Linear(notes, width)
        self.first = nn.Parameter(0.1 * torch.randn(width))  # stands before the first frame
        self.dropout = nn.Dropout(dropout)
        self.core = core_for(core, length=length, width=width, layers=layers, heads=heads, dropout=dropout)
        self.emission = NADEEmission(notes, width, hidden) if emission == "nade" else IndependentEmission(notes, width)
        self.condition_encoder, context_width = encoder_for(condition_spec, width)
        if context_width:
            self.to_input = nn.Linear(context_width, width, bias=False)

    # -- likelihood ------------------------------------------------------------------------------------------------
    def states(self, frames: Tensor, condition: Condition | None = None) -> Tensor:
        """h_{t-1} of every t, (B, T, W): what the distribution of each of the frames (B, T, D) follows from."""
        first = self.first.expand(len(frames), 1, -1)
        inputs = torch.cat([first, self.read(frames[:, :-1])], dim=1)  # (B, T, W)
        return self._step(inputs, 0, None, self.context(condition))[0]

    def _step(self, inputs: Tensor, start: int, state: Any, context: Tensor | None) -> tuple[Tensor, Any]:
        """Read inputs (B, t, W) that stand before frames start, start + 1, ...: (states, what is carried on)."""
        if context is not None:
            inputs = inputs + self.to_input(context).unsqueeze(1)
        h, state = self.core(self.dropout(inputs), start, state)
        return self.dropout(h), state

    def logits(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The logit of every note given all frames before it and the notes below it, (B, T, D)."""
        frames = x.to(self.dtype)
        h = self.states(frames, condition)
        return self.emission.logits(frames.flatten(0, 1), h.flatten(0, 1)).view(x.shape)

    def _frame_log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        logits = self.logits(x, condition).to(self.dtype)
        return -F.binary_cross_entropy_with_logits(logits, x.to(logits.dtype), reduction="none").sum(2)

    def log_prob_by(self, order: int, x: Tensor, condition: Condition | None) -> Tensor:
        return self._frame_log_prob(x, condition).sum(1)

    # -- training --------------------------------------------------------------------------------------------------
    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Start b at the log-odds of the first batch, half a count added to either value so that they are finite."""
        rows = x.flatten(0, 1).to(self.dtype)
        ones = rows.sum(0) + 0.5
        with torch.no_grad():
            self.emission.to_b.bias.copy_(ones.log() - (len(rows) + 1 - ones).log())

    # -- sampling --------------------------------------------------------------------------------------------------
    def _walk(self, order: int, n: int, condition: Condition | None, draw: Draw) -> None:
        places = itertools.count()

        def flip(logits: Tensor) -> Tensor:
            return draw(next(places), logits.unsqueeze(1))[:, 0].to(self.dtype)

        context, state = self.context(condition), self.core.empty_state(n)
        inputs = self.first.expand(n, 1, -1)
        for t in range(self.spec.shape[0]):
            h, state = self._step(inputs, t, state, context)
            inputs = self.read(self.emission.draw(h[:, 0], flip)).unsqueeze(1)

    def head_of(self, dim: int) -> Head:
        return self.one
