"""Recurrent temporal restricted Boltzmann machine: the mean hidden state of each frame sets the biases of the next.

Sutskever, Hinton and Taylor 2008, The Recurrent Temporal Restricted Boltzmann Machine (NIPS 21); the biases of visible
units as in Boulanger-Lewandowski, Bengio and Vincent 2012 (arXiv:1206.6392, eqs. 9 and 10).

    p(v_t, h_t | h^_{t-1}) = RBM with b_t = b + V (h^_{t-1} - 1/2),  c_t = c + U (h^_{t-1} - 1/2)
    h^_t = E[h_t | v_t, h^_{t-1}] = sigmoid(W (v_t - mu) + c_t)
    grad of log p(x) = sum_t of the gradient of each frame's RBM, by contrastive divergence, in W, b_t and c_t, and from
    these back through time into U, V, W, b, c

The temporal machine of `trbm` has hidden states there that are drawn; with their means, which are known given the
frames, the likelihood of a frame is that of one RBM. `RTRBM.biases` holds the recurrence; back-propagation through time
is autograd's. `_temporal` holds the rest.
Deviation: units are centred, visible ones at the mean of the first batch, hidden ones at 1/2; h^_0 is learned, which
stands for the paper's biases of the first frame; AdamW in place of gradient descent with momentum.

Likelihood: an estimate, with a log Z for each frame by annealed importance sampling; exact by enumeration when tiny.
Sampling: T frames of `steps` Gibbs sweeps.
Expected: `polymode reproduce rtrbm_chorales`; the paper of 2012 reports 6.35 nats a frame. A series of known entropy
comes within 0.1 nats of it; tests/learning/test_temporal_machines.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymode.core.condition import ConditionSpec
from polymode.core.spec import Spec
from polymode.models.boltzmann._temporal import Biases, TemporalMachine


class RTRBM(TemporalMachine):
    """A recurrent temporal restricted Boltzmann machine of frames of bits.

    Args:
        spec: what one datum is: a series (T, D) of bits.
        condition_spec: what it is conditioned on.
        hidden: H, hidden units of a frame, which are also what is remembered.
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
        k: int = 5,
        charge_silence: bool = True,
    ) -> None:
        super().__init__(spec, condition_spec, hidden=hidden, k=k, charge_silence=charge_silence)
        self.to_b = nn.Parameter(0.01 * torch.randn(self.d, hidden))  # V
        self.to_c = nn.Parameter(0.01 * torch.randn(hidden, hidden))  # U
        self.first = nn.Parameter(torch.zeros(hidden))  # logits of h^_0

    def biases(self, frames: Tensor, rest: Biases, generator: torch.Generator) -> Biases:
        read = self.machine.hidden_input(frames, rest[1].unsqueeze(1))  # c + W (v_t - mu), (B, T, H)
        means = [self.begin(len(frames))]
        for at_frame in read[:, :-1].unbind(1):
            means.append(torch.addmm(at_frame, means[-1] - 0.5, self.to_c.T).sigmoid())
        h = torch.stack(means, 1) - 0.5  # h^_{t-1}, (B, T, H)
        return rest[0].unsqueeze(1) + h @ self.to_b.T, rest[1].unsqueeze(1) + h @ self.to_c.T

    def begin(self, n: int) -> Tensor:
        return self.first.sigmoid().expand(n, -1)

    def next_biases(self, state: Tensor, rest: Biases) -> Biases:
        return rest[0] + (state - 0.5) @ self.to_b.T, rest[1] + (state - 0.5) @ self.to_c.T

    def advance(self, state: Tensor, v: Tensor, biases: Biases, generator: torch.Generator) -> Tensor:
        return self.machine.hidden_input(v, biases[1]).sigmoid()
