"""From data to the space a process adds noise in, and back by a Gaussian that is exact on any data.

`GaussianDecoder` scales data to y (B, F) near unit range and holds p(x | mean, sd) of a Gaussian N(mean, sd^2 I) over
y (Ho, Jain and Abbeel 2020, arXiv:2006.11239, section 3.3, eq. 13):

    levels and stepped numbers: the Gaussian's mass on the value's cell, the tails going to the end levels;
    reals: its density in the user's units;
    categories and missing flags: P(k) proportional to the Gaussian density at the one-hot vector of k.

Each is normalised over the values a dimension may take, so a bound that ends in it is a bound in data space.
One-hot features are scaled to -1 and 1.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.spec import Binary, Categorical, Columns, Levels, Spec
from polymode.parts.features import Features


class GaussianDecoder(nn.Module):
    """Data (B, *shape) to y (B, F), and the distribution of data under a Gaussian over y.

    Args:
        spec: what one datum is; any but tokens.

    Attributes:
        size: F.
        narrowest: half the width of the narrowest cell, 0 where there are reals.
    """

    low: Tensor
    high: Tensor
    half_cell: Tensor
    signs: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.features = Features(spec)
        self.size = self.features.size
        low, high = torch.full((self.size,), -torch.inf), torch.full((self.size,), torch.inf)
        if isinstance(spec.support, Binary | Levels):
            low, high = torch.full((self.size,), -1.0), torch.full((self.size,), 1.0)
        half_cell = torch.zeros(self.size, dtype=torch.float64)  # 0 for reals
        if spec.levels is not None:
            half_cell = torch.full((self.size,), 1.0 / max(1, spec.levels - 1), dtype=torch.float64)
        signs = torch.zeros(self.size, dtype=torch.bool)  # one-hots and flags, which become -1 and 1
        if isinstance(spec.support, Columns):
            at = 0
            for column in spec.support.columns:
                if isinstance(column, Categorical):
                    low[at : at + column.levels], high[at : at + column.levels] = -1.0, 1.0
                    signs[at : at + column.levels] = True
                    at += column.levels
                else:
                    low[at] = (column.low - column.loc) / column.scale
                    high[at] = (column.high - column.loc) / column.scale
                    half_cell[at] = column.step / column.scale / 2
                    if column.missing:
                        low[at + 1], high[at + 1], signs[at + 1] = -1.0, 1.0, True
                    at += 1 + column.missing
        self.narrowest = float(torch.where(signs, 1.0, half_cell).min())
        for name, value in {"low": low, "high": high, "half_cell": half_cell, "signs": signs}.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Float[Tensor, "B F"]:
        """Data to y."""
        y = self.features(x)
        return torch.where(self.signs, 2 * y - 1, y) if isinstance(self.spec.support, Columns) else y

    def clamp(self, y: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """y put into the range of data, where data have one."""
        return y.clamp(self.low, self.high)

    # -- likelihood ------------------------------------------------------------------------------------------------
    def log_prob(self, x: Tensor, mean: Float[Tensor, "B F"], sd: float | Tensor) -> Float[Tensor, " B"]:
        """log p(x | mean, sd), nats; sd of all, or of each entry (B, F)."""
        sd = torch.as_tensor(sd).to(mean).expand_as(mean)
        match self.spec.support:
            case Binary() | Levels():
                y = self.features(x)
                half = self.half_cell.to(mean.dtype)
                return gaussian_mass(y, mean, sd, half, y < -1 + half, y > 1 - half).sum(1)
            case Columns():
                return self._log_prob_columns(x, mean, sd)
            case _:
                log_volume = self.features.scale.log().expand(self.size).sum()
                return log_normal(self.features(x), mean, sd).sum(1) - log_volume

    def _log_prob_columns(self, x: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
        f = self.features
        y, log_volume = f(x), f.scale.log().to(mean.dtype)
        at, half = f.numeric_at, self.half_cell.to(mean.dtype)[f.numeric_at]
        never = torch.zeros_like(y[:, at], dtype=torch.bool)
        stepped = half > 0
        # a width of 1 where there is no cell: its mass is not used, but must be finite
        mass = gaussian_mass(y[:, at], mean[:, at], sd[:, at], torch.where(stepped, half, 1.0), never, never)
        nats = torch.where(stepped, mass, log_normal(y[:, at], mean[:, at], sd[:, at]) - log_volume)
        total = nats.masked_fill(x[:, f.numeric].isnan(), 0.0).sum(1)
        if len(f.flagged):
            # the densities at -1 and 1 differ by 2 mean / sd^2 in nats
            sign = 2 * y[:, f.flag_at] - 1
            total = total + F.logsigmoid(2 * sign * mean[:, f.flag_at] / sd[:, f.flag_at] ** 2).sum(1)
        for j, at_j, k in zip(f.named.tolist(), f.named_at.tolist(), f.named_levels, strict=True):
            logits = 2 * mean[:, at_j : at_j + k] / sd[:, at_j : at_j + k] ** 2
            total = total - F.cross_entropy(logits, x[:, j].long(), reduction="none")
        return total

    # -- draws -----------------------------------------------------------------------------------------------------
    def sample(self, mean: Float[Tensor, "B F"], sd: float | Tensor, generator: torch.Generator) -> Tensor:
        """Data drawn from p(x | mean, sd), sd of all, or of each entry (B, F); 0 for all gives the likeliest datum."""
        is_drawn = isinstance(sd, Tensor) or sd > 0
        sd = torch.as_tensor(sd).to(mean).expand_as(mean)
        y = mean + sd * rng.randn(mean.shape, generator, mean)
        if isinstance(self.spec.support, Columns):
            f = self.features
            if len(f.flagged):
                signs = mean[:, f.flag_at].sign()
                if is_drawn:  # the densities at -1 and 1 differ by 2 mean / sd^2 in nats
                    chance = (2 * mean[:, f.flag_at] / sd[:, f.flag_at] ** 2).sigmoid()
                    signs = 2 * rng.bernoulli(chance, generator) - 1
                y[:, f.flag_at] = (signs + 1) / 2
            for at, k in zip(f.named_at.tolist(), f.named_levels, strict=True):
                logits = mean[:, at : at + k]
                if is_drawn:
                    logits = 2 * logits / sd[:, at : at + k] ** 2
                    y[:, at : at + k] = F.one_hot(rng.categorical(logits, generator), k).to(y.dtype)
        return self.features.decode(y)


def log_normal(y: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """log N(y; mean, sd^2) of each entry."""
    return -0.5 * ((y - mean) / sd) ** 2 - sd.log() - 0.5 * math.log(2 * math.pi)


def gaussian_mass(y: Tensor, mean: Tensor, sd: Tensor, half: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """log of a Gaussian's mass on [y - half, y + half]; `first` and `last` mark cells that reach to an infinity.

    Both ends are reflected into the lower tail, where log Phi(b) + log(1 - Phi(a) / Phi(b)) does not cancel.
    """
    upper, lower = (y + half - mean) / sd, (y - half - mean) / sd
    above = lower + upper > 0
    b, a = torch.where(above, -lower, upper), torch.where(above, -upper, lower)
    log_b = torch.special.log_ndtr(b)
    # the clamp keeps the log finite when float32 can't tell the two ends apart
    inner = log_b + torch.log(-torch.expm1((torch.special.log_ndtr(a) - log_b).clamp(max=-1e-7)))
    ends = torch.where(first, torch.special.log_ndtr(upper), torch.special.log_ndtr(-lower))
    return torch.where(first | last, ends, inner)
