"""Noise-contrastive estimation: an energy learns to tell data from noise of known density, and log Z with it.

Gutmann and Hyvarinen 2010, Noise-contrastive estimation: a new estimation principle for unnormalized statistical
models; 2012, JMLR 13.

    log p(x) = -E(x) - c                             c, learned, in place of log Z
    G(x) = log p(x) - log q(x),   q the noise
    loss = -log sigma(G(x) - log nu) - sum_{nu draws x' ~ q} log sigma(log nu - G(x'))        (2012, eq. 8 to 10)

Its least value is at the density of the data, at any q that covers them: there c is log Z, and nothing had to be summed
(`NCE.learned_log_partition` beside the family's own `log_partition`, which measures it).
q is any model of the catalogue with an exact likelihood: one that fits directly is fitted to the first batch, one that
learns by gradients in a first stage of its own. Conditional models share one q and learn c of their condition.

Likelihood: an estimate, see `_energy`; in many dimensions simple noise is told from data at once and nothing more is
learned, so that q has to be close. Sampling: chains from the base, annealed.
Expected: recipe nce_8gaussians; tests/learning/test_energy.py: c within 0.1 of log Z by quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.capabilities import FitsDirectly, HasLogProb
from polymode.core.checkpoint import create
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, Phase, TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.energy._energy import EnergyModel, Sampler
from polymode.parts.nn.mlp import Activation


class _LogNormaliser(nn.Module):
    """c of a condition's vector (B, W), or one number."""

    def __init__(self, context_features: int, start: float) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(start))
        self.slope = nn.Linear(context_features, 1, bias=False) if context_features else None
        if self.slope is not None:
            nn.init.zeros_(self.slope.weight)

    def forward(self, context: Tensor | None) -> Tensor:
        return self.level if self.slope is None else self.level + self.slope(context).squeeze(1)


class NCE(EnergyModel):
    """An energy-based model trained as a classifier of data and noise.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        hidden, channels, base_scale, activation, sampler: of `EnergyModel`.
        noise: the catalogue's name of q; "auto" is a Gaussian on reals and independent histograms on lattices.
        noise_options: its constructor's.
        noise_samples: nu, for each datum.
        sample_steps: of a chain that samples, annealed and then as many again.

    Raises:
        PolymodeError: numbers out of range, or noise without an exact likelihood.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-3, batch_size=512, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        noise: str = "auto",
        noise_options: dict[str, Any] | None = None,
        noise_samples: int = 4,
        hidden: Sequence[int] = (128, 128),
        channels: int = 32,
        base_scale: float = 2.0,
        sampler: Sampler = "auto",
        sample_steps: int = 200,
        activation: Activation = "silu",
    ) -> None:
        super().__init__(
            spec, condition_spec, hidden=hidden, channels=channels, base_scale=base_scale, activation=activation,
            sampler=sampler,
        )  # fmt: skip
        if noise_samples < 1 or sample_steps < 1:
            raise PolymodeError(
                f"noise_samples={noise_samples}, sample_steps={sample_steps}: expected at least 1 of each"
            )
        self.noise_samples, self.sample_steps = noise_samples, sample_steps
        name = noise if noise != "auto" else "gaussian" if spec.is_continuous else "histogram"
        self.noise = create(name, spec, **(noise_options or {}))
        if not isinstance(self.noise, HasLogProb):
            raise PolymodeError(
                f"noise={noise!r} has no exact likelihood on {spec}; give a model that has one, such as "
                f"{'gaussian, gmm or nsf' if spec.is_continuous else 'histogram, chow_liu or made'}"
            )
        # the untrained model is its base, whose log Z is known
        width = 0 if self.condition_encoder is None else hidden[-1]
        self.normaliser = _LogNormaliser(width, self.log_base_partition())

    # -- training --------------------------------------------------------------------------------------------------
    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Fits noise that fits directly, and prepares noise that learns."""
        if isinstance(self.noise, FitsDirectly):
            self.noise.fit_directly(x, generator=generator)
        else:
            self.noise.prepare(x, None, generator)

    def phases(self) -> list[Phase]:
        """Noise that learns by gradients has a stage before the contrast."""
        modules = [m for m in (self.network, self.normaliser, self.condition_encoder) if m is not None]
        contrast = Phase("contrast", tuple(modules), lambda x, c, g: self.loss(x, c, generator=g), stage=1)
        if isinstance(self.noise, FitsDirectly):
            return [contrast]
        return [Phase("noise", (self.noise,), lambda x, c, g: self.noise.loss(x, generator=g)), contrast]

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """Nats of telling a datum and its nu draws of noise apart."""
        n, nu = len(x), self.noise_samples
        with self.noise._evaluating():
            drawn = self.noise._sample(n * nu, None, generator).to(x.dtype)
        context = self.context(condition)
        of_data = self.contrast(x, context)
        of_noise = self.contrast(drawn, None if context is None else context.repeat_interleave(nu, 0)).view(n, nu)
        wrong = (F.softplus(math.log(nu) - of_data), F.softplus(of_noise - math.log(nu)).sum(1))
        parts = {"told": (of_data > math.log(nu)).float(), "log_z": self.normaliser.level.detach()}
        return Loss(wrong[0] + wrong[1], parts)

    def contrast(self, x: Tensor, context: Tensor | None) -> Float[Tensor, " B"]:
        """G(x): log p less log q, in data space."""
        assert isinstance(self.noise, HasLogProb)
        with self.noise._evaluating():
            log_q = self.noise._log_prob(x, None)
        log_p = -self.potential(self.features(x), context) - self.normaliser(context)
        return log_p - self._log_unit() - log_q.to(log_p.dtype)

    def learned_log_partition(self, condition: Condition | None = None) -> float:
        """c of one condition row, which stands for log Z; how well is what `log_partition` tells."""
        condition = self.check_condition(condition, 1)
        with self._evaluating():
            return float(self.normaliser(self.context(condition)))
