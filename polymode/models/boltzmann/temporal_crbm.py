"""Conditional restricted Boltzmann machine over series: the frames before one set the biases of its machine.

Taylor, Hinton and Roweis 2006, Modeling Human Motion Using Binary Latent Variables (NIPS 19).

    p(v_t, h_t | v_{t-1}, ..., v_{t-m}) = RBM with b_t = b + sum_i A_i v_{t-i},  c_t = c + sum_i B_i v_{t-i}

The autoregressive weights A_i go from past frames to visible units, the B_i to hidden ones; given the past it is an
RBM, and no hidden state is carried, so that all frames learn side by side. `TemporalCRBM.biases` holds b_t and c_t, and
`_temporal` the rest. The machine with labels, vectors or symbols in the place of past frames is `conditional_rbm`.
Deviation: frames are bits (theirs are reals); frames before the first are silence, and a learned bias stands for each
of them; units are centred, as of `rbm`; AdamW in place of gradient descent with momentum.

Likelihood: an estimate, with a log Z for each frame by annealed importance sampling; exact by enumeration when tiny.
Sampling: T frames of `steps` Gibbs sweeps.
Expected: a series of known entropy within 0.1 nats of it; tests/learning/test_temporal_machines.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core.condition import ConditionSpec
from polymode.core.spec import Spec
from polymode.models.boltzmann._temporal import Biases, PastFrames, TemporalMachine


class TemporalCRBM(TemporalMachine):
    """A conditional restricted Boltzmann machine of frames of bits, given the frames before.

    Args:
        spec: what one datum is: a series (T, D) of bits.
        condition_spec: what it is conditioned on beside the past.
        hidden: H, hidden units of a frame.
        order: m, frames that a frame is conditioned on.
        k: Gibbs sweeps of a training step.
        charge_silence: whether training charges silence behind a piece of music; see `TemporalMachine`.

    Raises:
        PolymodeError: sizes below one.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: int = 150,
        order: int = 4,
        k: int = 5,
        charge_silence: bool = True,
    ) -> None:
        super().__init__(spec, condition_spec, hidden=hidden, k=k, charge_silence=charge_silence)
        self.past = PastFrames(self.d, hidden, order)

    def biases(self, frames: Tensor, rest: Biases, generator: torch.Generator) -> Biases:
        return self.past(frames, rest)

    def begin(self, n: int) -> Tensor:
        return self.past.begin(n)

    def next_biases(self, state: Tensor, rest: Biases) -> Biases:
        return self.past.next(state, rest)

    def advance(self, state: Tensor, v: Tensor, biases: Biases, generator: torch.Generator) -> Tensor:
        return self.past.advance(state, v)
