"""Spike-and-slab restricted Boltzmann machine (mu-ssRBM): each hidden unit is a bit and a real that it gates.

Courville, Bergstra and Bengio 2011, A spike and slab restricted Boltzmann machine (AISTATS), and Unsupervised models of
images by spike-and-slab RBMs (ICML). With spikes h in {0, 1}, slabs s and Phi_i a multiple of the identity,

    E(v, s, h) = v'Lambda v / 2 - d.v + sum_i alpha_i s_i^2 / 2
                 + sum_i h_i (Phi_i |v|^2 / 2 - s_i v.W_i - alpha_i mu_i s_i + alpha_i mu_i^2 / 2 - b_i)
    p(h_i = 1 | v) = sigmoid(g_i),   g_i = b_i + mu_i v.W_i + (v.W_i)^2 / (2 alpha_i) - Phi_i |v|^2 / 2
    p(s_i | v, h) = N(h_i (mu_i + v.W_i / alpha_i), 1 / alpha_i)
    p(v | s, h) = N((d + sum_i W_i s_i h_i) / L, 1 / L),   L = Lambda + sum_i Phi_i h_i
    p(v | h) = N(C (d + sum_i mu_i h_i W_i), C),   C^-1 = L - sum_i h_i W_i W_i' / alpha_i
    F(v) = v'Lambda v / 2 - d.v - sum_i softplus(g_i) - sum_i log(2 pi / alpha_i) / 2

so that hidden units choose the covariance of v and not its mean alone, where those of a Gaussian-Bernoulli machine
choose the mean. `SSRBM.spike_input` is g, `slab_mean` the mean of s, `visible_given_spikes` p(v | h), `free_energy` F
and `joint_energy` E; `draw_state` draws h | v and then s | v, h, `draw_visible` v | s, h (AISTATS paper).
A label moves d and b. On the path of annealing E's terms are taken beta times, all but alpha s^2 / 2, without which
slabs would have no width at the base; then h is drawn by beta g(beta),

    g_i(beta) = b_i + beta (mu_i v.W_i + (v.W_i)^2 / (2 alpha_i)) - Phi_i |v|^2 / 2 - (1 - beta) alpha_i mu_i^2 / 2

Deviation: one slab a unit; Phi_i = phi_i + |W_i|^2 / alpha_i with phi_i > 0 learned, the least multiple of the identity
under which every C exists whatever is learned (the papers bound v, or choose Phi large); d is added; data are
standardised, and persistent chains start at spikes of the data's Gaussian.

Likelihood: exact by a sum over spikes, each term a D x D factorisation, where these are few; else an estimate by
annealing from independent Gaussians. Sampling: sweeps of two matrix products.
Expected: two Gaussians that differ in covariance alone are told apart; tests/learning/test_grbm.py.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import flips, states
from polymode.models.boltzmann._likelihood import Fields
from polymode.models.boltzmann._machine import Algorithm, BoltzmannMachine
from polymode.models.boltzmann._units import Beta, Gaussian, Known, between, kept


class SSRBM(BoltzmannMachine, HasLatents):
    """A spike-and-slab restricted Boltzmann machine on reals. The state of a chain is its spikes and its slabs.

    Args:
        spec: what one datum is.
        condition_spec: a label, or None.
        hidden: H, spikes.
        slab: mu at the start.
        algorithm, k, chains, temperatures, fast_rate: as of `RBM`.

    Raises:
        PolymodeError: numbers out of range.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=1e-2, batch_size=100, betas=(0.5, 0.999), loss_is_objective=False
    )
    units: Gaussian

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: int = 128,
        slab: float = 1.0,
        algorithm: Algorithm = "pcd",
        k: int = 1,
        chains: int = 100,
        temperatures: int = 10,
        fast_rate: float = 0.01,
    ) -> None:
        super().__init__(spec, condition_spec, Gaussian(spec))
        if hidden < 1:
            raise PolymodeError(f"hidden={hidden}, expected at least 1")
        self.hidden, size = hidden, self.units.size
        self.weight = nn.Parameter(torch.randn(hidden, size) / math.sqrt(size))
        self.slab = nn.Parameter(torch.full((hidden,), slab))  # mu
        self.log_alpha = nn.Parameter(torch.zeros(hidden))
        self.log_phi = nn.Parameter(torch.full((hidden,), math.log(0.1)))
        self.visible_bias = nn.Parameter(torch.zeros(size))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        if self.rows:
            self.visible_bias_of = nn.Parameter(torch.zeros(self.rows, size))
            self.hidden_bias_of = nn.Parameter(torch.zeros(self.rows, hidden))
        self.make_chains(
            2 * hidden, algorithm=algorithm, k=k, chains=chains, dtype=torch.float32, temperatures=temperatures,
            fast_rate=fast_rate,
        )  # fmt: skip

    # -- the machine -----------------------------------------------------------------------------------------------
    def fields(self, condition: Condition | None) -> Fields:
        """(d, b): (D,) and (H,), or one a row."""
        rows = self.rows_of(condition)
        if rows is None:
            return self.visible_bias, self.hidden_bias
        return self.visible_bias + self.visible_bias_of[rows], self.hidden_bias + self.hidden_bias_of[rows]

    @property
    def alpha(self) -> Float[Tensor, " H"]:
        """The precisions of slabs."""
        return self.log_alpha.exp()

    @property
    def phi(self) -> Float[Tensor, " H"]:
        """Phi_i, what a spike adds to the precision of v."""
        return self.log_phi.exp() + self.weight.square().sum(1) / self.alpha

    def spike_input(self, v: Tensor, b: Tensor, beta: Beta = 1.0) -> Float[Tensor, "B H"]:
        """beta g(beta): the logits of p(h | v)."""
        seen = v @ self.weight.T
        g = b + beta * (self.slab * seen + seen.square() / (2 * self.alpha))
        g = g - 0.5 * self.phi * v.square().sum(1, keepdim=True)
        return beta * (g - (1 - beta) * 0.5 * self.alpha * self.slab.square())

    def slab_mean(self, v: Tensor, h: Tensor, beta: Beta = 1.0) -> Float[Tensor, "B H"]:
        """The mean of p(s | v, h)."""
        return beta * h * (self.slab + v @ self.weight.T / self.alpha)

    def visible_given_spikes(
        self, h: Float[Tensor, "B H"], d: Tensor
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D D"]]:
        """The mean and the precision C^-1 of p(v | h), slabs integrated out."""
        level = self.units.precision() + (h @ self.phi).unsqueeze(1)  # (B, D)
        precision = torch.diag_embed(level) - torch.einsum("bh,hd,he->bde", h / self.alpha, self.weight, self.weight)
        linear = d + (h * self.slab) @ self.weight
        return torch.linalg.solve(precision, linear), precision

    def free_energy(self, v: Tensor, fields: Fields, beta: Beta = 1.0) -> Tensor:
        d, b = fields
        d = between(self.base_bias, d, beta)
        linear = (v * d).sum(1) if d.dim() > 1 else v @ d
        spikes = F.softplus(self.spike_input(v, b, beta)).sum(1)
        return -self.units.log_measure(v, beta) - linear - spikes - self._log_slabs()

    def joint_energy(self, v: Tensor, s: Tensor, h: Tensor, condition: Condition | None = None) -> Float[Tensor, " B"]:
        """E(v, s, h)."""
        d, b = self.fields(condition)
        gated = 0.5 * self.phi * v.square().sum(1, keepdim=True) - s * (v @ self.weight.T)
        gated = gated - self.alpha * self.slab * s + 0.5 * self.alpha * self.slab.square() - b
        visible = -self.units.log_measure(v) - (v * d).sum(1)
        return visible + (0.5 * self.alpha * s.square() + h * gated).sum(1)

    def _log_slabs(self) -> Tensor:
        """log of the integral of exp(-alpha s^2 / 2), over all slabs."""
        return 0.5 * (math.log(2 * math.pi) - self.log_alpha).sum()

    # -- chains ----------------------------------------------------------------------------------------------------
    def draw_visible(
        self, state: Tensor, fields: Fields, generator: torch.Generator, beta: Beta = 1.0, known: Known | None = None
    ) -> Tensor:
        h, s = state.chunk(2, 1)
        p = self.units.precision(beta) + beta * (h @ self.phi).unsqueeze(1)
        eta = between(self.base_bias, fields[0], beta) + beta * ((h * s) @ self.weight)
        return kept(eta / p + rng.randn(eta.shape, generator, eta) / p.sqrt(), known)

    def draw_state(
        self, v: Tensor, state: Tensor | None, fields: Fields, generator: torch.Generator, beta: Beta = 1.0
    ) -> Tensor:
        h = flips(self.spike_input(v, fields[1], beta).sigmoid(), generator)
        s = self.slab_mean(v, h, beta)
        return torch.cat([h, s + rng.randn(s.shape, generator, s) * self.alpha.rsqrt()], 1)

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Lambda and d of independent Gaussians with half of the data's precision, the rest is for spikes to add."""
        self.units.fit(self.units.encode(x))
        with torch.no_grad():
            self.units.log_variance.copy_(-(0.5 * self.units.base_precision).log())
        super().prepare(x, condition, generator)
        with torch.no_grad():
            self.visible_bias.copy_(0.5 * self.base_bias)

    # -- log Z -----------------------------------------------------------------------------------------------------
    def log_base_partition(self) -> float:
        base = self.units.log_partition(self.base_bias, 0.0) + self._log_slabs()
        return float(base) + self.hidden * math.log(2)

    @property
    def log2_summed(self) -> float:
        """Of spikes; a term is a factorisation of D x D, which beyond D = 16 counts as several."""
        return self.hidden + max(0.0, 3 * math.log2(self.units.size / 16))

    def log_partition_by_sum(self, fields: Fields) -> float:
        d, b = fields
        terms = []
        for h in states(2, self.hidden, b).split(1024):
            mean, precision = self.visible_given_spikes(h, d)
            factor = torch.linalg.cholesky(precision)
            log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
            quadratic = torch.einsum("bd,bde,be->b", mean, precision, mean)
            terms.append(h @ b + 0.5 * (quadratic - log_det + self.units.size * math.log(2 * math.pi)))
        return float((torch.cat(terms).double().logsumexp(0)) + self._log_slabs())

    # -- latents ---------------------------------------------------------------------------------------------------
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """p(h = 1 | v), (B, H)."""
        return self.spike_input(self.units.encode(x), self.fields(condition)[1]).sigmoid()

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """The mean of v given spikes, or their probabilities."""
        d = self.fields(condition)[0].expand(len(z), -1)
        pieces = zip(z.to(self.dtype).split(64), d.split(64), strict=True)
        return self.units.decode(torch.cat([self.visible_given_spikes(*piece)[0] for piece in pieces]))
