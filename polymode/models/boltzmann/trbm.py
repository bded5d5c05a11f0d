"""Temporal restricted Boltzmann machine: the hidden state of each frame, and frames before, set the biases of the next.

Sutskever and Hinton 2007, Learning Multilevel Distributed Representations for High-Dimensional Sequences (AISTATS).

    p(v, h) = prod_t p(v_t, h_t | h_{t-1}, v_{t-1}, ..., v_{t-m})
    p(v_t, h_t | ...) = RBM with b_t = b + V (h_{t-1} - 1/2) + sum_i A_i v_{t-i},
                                 c_t = c + U (h_{t-1} - 1/2) + sum_i B_i v_{t-i}
    q(h_t | h_{t-1}, v) = p(h_t | v_t, h_{t-1}, ...) = sigmoid(W (v_t - mu) + c_t), forwards, as if no frame came behind
    log p(v) >= E_q[sum_t log p(v_t | h_{t-1}, v_<t)]

The bound follows from p(v, h) / q(h | v) = prod_t p(v_t | h_{t-1}, ...), in which h_t is summed out. `TRBM.loss` (of
`_temporal`) is contrastive divergence of its terms, with `TRBM.biases` drawing h once from q: all frames' chains then
run side by side. As in the paper the gradient leaves out that q has the same parameters. `TRBM._filter` sums over
h_{t-1} with particles (Gordon, Salmond and Smith 1993), for which q is the best proposal: it draws from the
distribution of h_t given all that a particle knows, so that its weight p(v_t | h_{t-1}, ...) does not depend on the
draw. `TRBM._sum_over` is the forward algorithm, exact, over all 2^H states.
Deviation: hidden units see the last h only, frames the last m; units are centred, as of `rbm`; h_0 is the mean of units
with learned logits; AdamW in place of gradient descent with momentum.

Likelihood: an estimate, particles over h and annealed importance sampling of each particle's log Z; exact when tiny.
Sampling: T frames of `steps` Gibbs sweeps.
Expected: a series of known entropy comes within 0.15 nats of it (tests/learning/test_temporal_machines.py); on chorales
`polymode reproduce trbm_chorales`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.pieces import FrameEstimate
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann._temporal import Biases, PastFrames, TemporalMachine
from polymode.parts.estimators.importance import log_mean_exp

#: the most hidden units whose states are all summed over
SUMMED_UNITS = 6


class TRBM(TemporalMachine):
    """A temporal restricted Boltzmann machine of frames of bits.

    Args:
        spec: what one datum is: a series (T, D) of bits.
        condition_spec: what it is conditioned on.
        hidden: H, hidden units of a frame.
        order: m, frames before each that it sees beside the hidden state.
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
        order: int = 1,
        k: int = 5,
        charge_silence: bool = True,
    ) -> None:
        super().__init__(spec, condition_spec, hidden=hidden, k=k, charge_silence=charge_silence)
        self.past = PastFrames(self.d, hidden, order)
        self.to_b = nn.Parameter(0.01 * torch.randn(self.d, hidden))  # V
        self.to_c = nn.Parameter(0.01 * torch.randn(hidden, hidden))  # U
        self.first = nn.Parameter(torch.zeros(hidden))  # logits of h_0

    def given(self, h: Tensor, biases: Biases) -> Biases:
        """Biases with h_{t-1}."""
        return biases[0] + (h - 0.5) @ self.to_b.T, biases[1] + (h - 0.5) @ self.to_c.T

    def biases(self, frames: Tensor, rest: Biases, generator: torch.Generator) -> Biases:
        b, c = self.past(frames, rest)  # what they are but for h_{t-1}
        with torch.no_grad():
            read = self.machine.hidden_input(frames, c)  # (B, T, H), all of the logits of q but U (h_{t-1} - 1/2)
            noise = rng.rand(read.shape, generator, read)
            h = [self.first.sigmoid().expand(len(frames), -1)]
            for at_frame, u in zip(read[:, :-1].unbind(1), noise.unbind(1), strict=False):
                h.append((u < torch.addmm(at_frame, h[-1] - 0.5, self.to_c.T).sigmoid()).to(u.dtype))
        # the state before the first frame has parameters
        before = torch.cat([self.first.sigmoid().expand(len(frames), 1, -1), torch.stack(h, 1)[:, 1:]], 1)
        return self.given(before, (b, c))

    # -- likelihood ------------------------------------------------------------------------------------------------
    def _frame_estimate(
        self,
        x: Tensor,
        frames: Tensor,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        particles: int = 4,
        chains: int = 4,
        temperatures: int = 150,
    ) -> FrameEstimate:
        """By the forward algorithm where there are few states, else by a particle filter."""
        v, rest = x.to(self.dtype), self.at_rest(condition, len(x))
        biases, longest = self.past(v, rest), max(1, int(frames.max()))
        if self.hidden <= SUMMED_UNITS and self.machine.sums_rows:
            nats, error = self._sum_over(v[:, :longest], biases, generator)
            told = "all hidden states summed over, log Z of every frame by enumeration"
        else:
            ais = {"chains": chains, "temperatures": temperatures}
            nats, error = self._filter(v[:, :longest], biases, generator, particles, ais)
            told = f"particle filter ({particles} particles), {self.protocol(chains, temperatures)}"
        found = torch.zeros(2, len(x), self.length, dtype=torch.float64, device=v.device)
        found[:, :, :longest] = torch.stack([nats, error])
        found *= torch.arange(self.length, device=v.device) < frames.unsqueeze(1)
        return FrameEstimate(*found, told)

    def _sum_over(self, v: Tensor, biases: Biases, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """log p(v_t | v_<t) of (B, T), exact: log p(v_t, h_t | v_<t) of each state from that of each before."""
        (n, steps, _), machine, rest = v.shape, self.machine, biases
        every = states(2, self.hidden, v)  # (N, H)
        before = self.first.sigmoid().unsqueeze(0)  # one state stands before the first frame
        log_before = v.new_zeros(n, 1, dtype=torch.float64)
        found = []
        for t in range(steps):
            b, c = self.given(before.unsqueeze(0), (rest[0][:, t : t + 1], rest[1][:, t : t + 1]))  # (B, N', .)
            log_z = machine.row_partitions((b.flatten(0, 1), c.flatten(0, 1)), generator, chains=2, temperatures=1)[0]
            read = machine.hidden_input(v[:, t], torch.zeros_like(c[0, 0]))  # (B, H)
            linear = (b @ v[:, t].unsqueeze(2)) + c @ every.T + (read @ (every - 0.5).T).unsqueeze(1)  # (B, N', N)
            measure = torch.as_tensor(machine.units.log_measure(v[:, t]), device=v.device).view(-1, 1, 1)
            joint = (linear + measure).double() - log_z.view(n, -1, 1) + log_before.unsqueeze(2)
            reached = joint.logsumexp(1)  # log p(v_t, h_t | v_<t), (B, N)
            found.append(reached.logsumexp(1))
            before, log_before = every, reached - found[-1].unsqueeze(1)
        nats = torch.stack(found, 1)
        return nats, torch.zeros_like(nats)

    def _filter(
        self, v: Tensor, biases: Biases, generator: torch.Generator, particles: int, ais: dict[str, int]
    ) -> tuple[Tensor, Tensor]:
        """(log of the mean weight of each frame, its standard error), (B, T); resampled at every frame."""
        n, steps, _ = v.shape
        h = self.first.sigmoid().expand(n, particles, -1)
        nats, errors = [], []
        for t in range(steps):
            b, c = self.given(h, (biases[0][:, t : t + 1], biases[1][:, t : t + 1]))  # (B, S, .)
            fields, own = (b.flatten(0, 1), c.flatten(0, 1)), v[:, t].repeat_interleave(particles, 0)
            log_z, error = self.machine.row_partitions(fields, generator, **ais)
            log_w = (-self.machine.free_energy(own, fields).double() - log_z).view(n, particles)
            nats.append(log_mean_exp(log_w.T))
            share = log_w.softmax(1)
            # the spread of particles, and each particle's own error
            spread = (particles * share.square().sum(1) - 1).clamp(min=0) / max(1, particles - 1)
            errors.append((spread + (share * error.view(n, -1)).square().sum(1)).sqrt())
            chosen = rng.categorical(log_w.unsqueeze(1).expand(-1, particles, -1), generator)  # (B, S)
            c = c.gather(1, chosen.unsqueeze(2).expand_as(c))
            logits = self.machine.hidden_input(v[:, t : t + 1], c)
            h = rng.bernoulli(logits.sigmoid(), generator)
        return torch.stack(nats, 1), torch.stack(errors, 1)

    # -- sampling --------------------------------------------------------------------------------------------------
    def begin(self, n: int) -> tuple[Tensor, Tensor]:
        """(h, the window of frames)."""
        return self.first.sigmoid().expand(n, -1), self.past.begin(n)

    def next_biases(self, state: tuple[Tensor, Tensor], rest: Biases) -> Biases:
        return self.given(state[0], self.past.next(state[1], rest))

    def advance(
        self, state: tuple[Tensor, Tensor], v: Tensor, biases: Biases, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        h = self.machine.draw_state(v, None, biases, generator)
        return h, self.past.advance(state[1], v)
