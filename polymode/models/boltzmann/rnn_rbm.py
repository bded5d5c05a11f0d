"""RNN-RBM: a recurrent net reads the frames so far and sets the biases of a restricted machine that draws the next.

Boulanger-Lewandowski, Bengio and Vincent 2012, Modeling Temporal Dependencies in High-Dimensional Sequences:
Application to Polyphonic Music Generation and Transcription (ICML, arXiv:1206.6392).

    log p(x) = sum_t log p(v_t | v_<t),   u_t = cell(v_t, u_{t-1})
    p(v_t | v_<t) = RBM with b_t = b + W_b u_{t-1},  c_t = c + W_c u_{t-1}                     (eqs. 11-13)
    grad = contrastive divergence of every frame in b_t and c_t, and from these back through time (section 4)

Where the RTRBM remembers its own hidden units, the state u is here another's, of any width. `RNNRBM.states` holds u,
`RNNRBM.biases` b_t and c_t, `_temporal` the rest; `rnn_nade` is the same with an exact likelihood.
Deviation: the cell is an LSTM by default (theirs, "rnn", has tanh units); a GRU or a causal transformer may take its
place; frames are read through a linear layer with dropout; u_0 is what the cell makes of a learned first input; units
are centred, as of `rbm`; AdamW and a moving average of the weights in place of gradient descent.

Likelihood: an estimate, with a log Z for each frame by annealed importance sampling; exact by enumeration when tiny.
Sampling: T frames of `steps` Gibbs sweeps.
Expected: `polymode reproduce rnn_rbm_chorales`; the paper reports 6.27 nats a frame. A series of known entropy comes
within 0.1 nats of it; tests/learning/test_temporal_machines.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann._temporal import Biases, TemporalMachine
from polymode.parts.nn.recurrent import Core, core_for


class RNNRBM(TemporalMachine):
    """A recurrent model of frames of bits, with a restricted Boltzmann machine over the bits of a frame.

    Args:
        spec: what one datum is: a series (T, D) of bits.
        condition_spec: what it is conditioned on; it moves the biases of every frame.
        hidden: H, hidden units of a frame.
        core: what reads the frames: "lstm", "gru", "rnn" (tanh, the paper's) or "transformer".
        width: of the state.
        layers: of the core.
        dropout: share of what is read and of the state dropped in training.
        heads: of the transformer's attention.
        k: Gibbs sweeps of a training step.
        charge_silence: whether training charges silence behind a piece of music; see `TemporalMachine`.

    Raises:
        PolymodeError: an unknown core, sizes below one, or a dropout outside [0, 1).
    """

    defaults: ClassVar = replace(TemporalMachine.defaults, learning_rate=6e-3)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: int = 150,
        core: Core = "lstm",
        width: int = 200,
        layers: int = 1,
        dropout: float = 0.3,
        heads: int = 4,
        k: int = 5,
        charge_silence: bool = True,
    ) -> None:
        super().__init__(spec, condition_spec, hidden=hidden, k=k, charge_silence=charge_silence)
        if min(width, layers, heads) < 1 or not 0 <= dropout < 1:
            raise PolymodeError(
                f"width={width}, layers={layers}, heads={heads}, dropout={dropout}: expected sizes of at least 1 and a "
                "dropout of at least 0 and below 1"
            )
        self.read = nn.Linear(self.d, width)
        self.first = nn.Parameter(0.1 * torch.randn(width))  # stands before the first frame
        self.dropout = nn.Dropout(dropout)
        self.core = core_for(core, length=self.length, width=width, layers=layers, heads=heads, dropout=dropout)
        # at rest the machine has biases of its own
        self.to_b, self.to_c = nn.Linear(width, self.d, bias=False), nn.Linear(width, hidden, bias=False)

    def states(self, frames: Tensor) -> Tensor:
        """u_{t-1} of every t, (B, T, W): what the biases of each of the frames (B, T, D) follow from."""
        inputs = torch.cat([self.first.expand(len(frames), 1, -1), self.read(frames[:, :-1])], 1)
        return self._step(inputs, 0, None)[0]

    def _step(self, inputs: Tensor, start: int, state: Any) -> tuple[Tensor, Any]:
        """Read inputs (B, t, W) that stand before frames start, start + 1, ...: (states, what is carried on)."""
        u, state = self.core(self.dropout(inputs), start, state)
        return self.dropout(u).to(self.dtype), state

    def biases(self, frames: Tensor, rest: Biases, generator: torch.Generator) -> Biases:
        u = self.states(frames)
        return rest[0].unsqueeze(1) + self.to_b(u), rest[1].unsqueeze(1) + self.to_c(u)

    def begin(self, n: int) -> tuple[Tensor, int, Any]:
        """(u, frames read, what the core carries)."""
        u, state = self._step(self.first.expand(n, 1, -1), 0, self.core.empty_state(n))
        return u[:, 0], 1, state

    def next_biases(self, state: tuple[Tensor, int, Any], rest: Biases) -> Biases:
        return rest[0] + self.to_b(state[0]), rest[1] + self.to_c(state[0])

    def advance(
        self, state: tuple[Tensor, int, Any], v: Tensor, biases: Biases, generator: torch.Generator
    ) -> tuple[Tensor, int, Any]:
        _, read, carried = state
        if read == self.length:  # there is no frame to come
            return state
        u, carried = self._step(self.read(v).unsqueeze(1), read, carried)
        return u[:, 0], read + 1, carried
