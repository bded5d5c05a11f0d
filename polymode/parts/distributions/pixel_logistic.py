"""The head of PixelCNN++: a mixture of discretised logistics of whole pixels, whose colours depend linearly on each
other.

Salimans, Karpathy, Chen and Kingma 2017, PixelCNN++ (arXiv:1701.05517), for a pixel (r, g, b) on [-1, 1]:

    p(r, g, b) = sum_i pi_i P(r | mu_r, s_r) P(g | mu_g + alpha r, s_g) P(b | mu_b + beta r + gamma g, s_b)     (eq. 3)
    P(x | mu, s) = sigmoid((x + 1/255 - mu) / s) - sigmoid((x - 1/255 - mu) / s), the ends taking the tails     (eq. 2)

where every mu, s, alpha, beta and gamma is that of the component i. A network that has this head is read once a pixel,
not once a colour, so that a sample of colour images costs a third; what it can say of a pixel's colours is eq. 3.
`PixelLogisticHead._split` holds eq. 3, `heads.logistic_mass` eq. 2. The coefficients are bounded by tanh, as in the
authors' code. Pixels may have any number of colours and levels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.spec import Spec
from polymode.parts.distributions.heads import (
    LEAST_LOG_SCALE,
    MOST_LOG_SCALE,
    Head,
    logistic_draws,
    logistic_mass,
    spread_components,
)


class PixelLogisticHead(Head):
    """M components a pixel. Parameters, pixel by pixel: M logits, C M centres, C M log-scales, C (C - 1) / 2 M
    coefficients, those of the second colour first; `owner` is the pixel."""

    def __init__(self, spec: Spec, components: int) -> None:
        assert spec.levels is not None
        self.colours, self.components = spec.shape[0], components
        self.half = (spec.levels - 1) / 2
        self.sizes = [components, *2 * [components * self.colours], components * self.colours * (self.colours - 1) // 2]
        super().__init__(spec, torch.arange(spec.num_dims // self.colours).repeat_interleave(sum(self.sizes)))

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """(B, S, M) log-weights, (B, C, S, M) centres and log-scales, and for each colour (B, c, S, M) coefficients of
        the c before it."""
        parts = params.unflatten(1, (-1, sum(self.sizes))).split(self.sizes, dim=2)
        logits, centres, log_scales, slopes = (
            t.unflatten(2, (t.shape[2] // self.components, self.components)).transpose(1, 2) for t in parts
        )
        log_scales = log_scales.clamp(LEAST_LOG_SCALE, MOST_LOG_SCALE)
        return logits[:, 0].log_softmax(-1), centres, log_scales, slopes.tanh().split(list(range(self.colours)), dim=1)

    def log_prob(self, x: Tensor, params: Float[Tensor, "B P"]) -> Float[Tensor, "B D"]:
        log_weights, centres, log_scales, slopes = self._split(params)
        y = (x.flatten(2).to(params.dtype) / self.half - 1).unsqueeze(-1)  # (B, C, S, 1)
        shifts = torch.stack([(by * y[:, :c]).sum(1) for c, by in enumerate(slopes)], dim=1)
        first, last = y < -1 + 0.5 / self.half, y > 1 - 0.5 / self.half
        mass = logistic_mass(y, centres + shifts, log_scales, 1 / self.half, first, last)
        # of the first colour, of the first two, ...: each colour given those before it is what it adds
        joint = torch.logsumexp(log_weights.unsqueeze(1) + mass.cumsum(1), -1)  # (B, C, S)
        return (joint - F.pad(joint, (0, 0, 1, 0))[:, :-1]).flatten(1)

    def table_of(self, colour: int, x: Tensor, params: Float[Tensor, "B P"]) -> Float[Tensor, "B 1 K"]:
        """Nats of every value of a colour of one pixel, given those of the colours before it in x (B, C)."""
        assert self.spec.levels is not None
        rows = x.repeat_interleave(self.spec.levels, dim=0)
        rows[:, colour] = torch.arange(self.spec.levels, device=x.device).repeat(len(x)).to(x.dtype)
        nats = self.log_prob(rows[:, :, None, None], params.repeat_interleave(self.spec.levels, dim=0))
        return nats[:, colour].view(len(x), 1, -1)

    def sample(self, params: Float[Tensor, "B P"], generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        log_weights, centres, log_scales, slopes = self._split(params)
        which = rng.categorical(log_weights / max(temperature, 1e-6), generator).unsqueeze(-1)  # (B, S, 1)
        drawn: list[Tensor] = []
        for c in range(self.colours):
            centre = centres[:, c].gather(-1, which).squeeze(-1)  # (B, S)
            scale = log_scales[:, c].gather(-1, which).squeeze(-1).exp() * temperature
            for before, y in enumerate(drawn):
                centre = centre + slopes[c][:, before].gather(-1, which).squeeze(-1) * y
            drawn.append(self._on_levels(centre + scale * logistic_draws(centre, generator)))
        return self._to_levels(torch.stack(drawn, dim=1))

    def mean(self, params: Float[Tensor, "B P"]) -> Tensor:
        log_weights, centres, _, slopes = self._split(params)
        by_component: list[Tensor] = []
        for c in range(self.colours):
            shift = sum((slopes[c][:, b] * y for b, y in enumerate(by_component)), torch.zeros_like(centres[:, c]))
            by_component.append(centres[:, c] + shift)
        return self._to_levels((log_weights.exp().unsqueeze(1) * torch.stack(by_component, dim=1)).sum(-1))

    def _on_levels(self, y: Tensor) -> Tensor:
        """The nearest level, on [-1, 1]."""
        return ((y.clamp(-1, 1) + 1) * self.half).round() / self.half - 1

    def _to_levels(self, y: Tensor) -> Tensor:
        """(B, C, S) on [-1, 1] to data."""
        levels = ((y.clamp(-1, 1) + 1) * self.half).round()
        return levels.to(self.spec.dtype).view(-1, *self.spec.shape)

    def initial(self) -> Float[Tensor, " P"]:
        logits, centre, log_scale = spread_components(self.components).view(3, -1)
        colours, slopes = self.colours, torch.zeros(self.sizes[3])
        pixel = torch.cat([logits, centre.repeat(colours), log_scale.repeat(colours), slopes])
        return pixel.repeat(self.spec.num_dims // colours)
