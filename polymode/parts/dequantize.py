"""Any data as real vectors with a counted volume, so that a density on R^D becomes an honest model of the data.

Lattice values get uniform noise of their cell's width (Theis, van den Oord and Bethge 2016, arXiv:1511.01844):
log P(x) >= E_u[log p(x + u)], a lower bound; reals are standardised, and the bound is an equality. With `squash`,
bounded values also go through a logit (Dinh et al. 2017, section 4.1), so that a flow need not learn the walls.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.core.spec import Columns, Numeric, Real, Spec
from polymode.parts.features import on_lattice

#: the logit is taken of margin + (1 - 2 margin) v, which keeps the outermost cells finite
MARGIN = 0.05


class Dequantizer(nn.Module):
    """x (B, *shape) in data space <-> y (B, D) in R^D, with log p(x) >= log p(y) + log_volume.

    Args:
        spec: what one datum is; missing cells are refused.
        squash: bounded values through a logit.
    """

    loc: Tensor
    scale: Tensor
    width: Tensor
    shift: Tensor
    bounded: Tensor
    log_constant: Tensor

    def __init__(self, spec: Spec, *, squash: bool = False) -> None:
        super().__init__()
        if spec.has_missing:
            names = [c.name for c in spec.support.columns if isinstance(c, Numeric) and c.missing]
            raise PolymodeError(
                f"columns {', '.join(names)} have missing numbers, which a density on reals can't take: "
                "read the data with missing='drop' or 'mean', or use made, vae or histogram"
            )
        self.spec = spec
        self.squash = squash
        # z = x + (u - shift) * width;  v = (z - loc) / scale;  y = logit(v) where bounded and squashed, else v
        rows = _cells(spec, squash)
        for name, value in zip(("loc", "scale", "width", "shift", "bounded"), rows.unbind(0), strict=True):
            self.register_buffer(name, value.bool() if name == "bounded" else value, persistent=False)
        constant = torch.where(rows[2] > 0, rows[2], torch.ones_like(rows[2])).log().sum() - rows[1].log().sum()
        self.register_buffer("log_constant", constant.to(torch.get_default_dtype()), persistent=False)
        self.lattice = bool((rows[2] > 0).any())

    def forward(
        self, x: Tensor, generator: torch.Generator | None = None, u: Float[Tensor, "B D"] | None = None
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        """Data to (y, log_volume), lattice values at u of their cell: the given one in [0, 1), or a uniform draw of the
        generator, or the middle."""
        dtype = self.log_constant.dtype
        z = x.flatten(1).to(self.loc.dtype)
        if self.lattice:
            if u is None:
                u = torch.full_like(z, 0.5) if generator is None else rng.rand(z.shape, generator, z)
            z = z + (u - self.shift) * self.width
        v = ((z - self.loc) / self.scale).to(dtype)
        log_volume = self.log_constant.expand(len(v))
        if self.squash:
            # an unbounded value has no logit, and its place must not hold a NaN, which would reach gradients
            y = torch.where(self.bounded, MARGIN + (1 - 2 * MARGIN) * v, 0.5)
            squashed = y.log() - torch.log1p(-y)
            # d logit(y)/dv = (1 - 2 margin) / (y (1 - y))
            slope = F.softplus(squashed) + F.softplus(-squashed) + torch.tensor(1 - 2 * MARGIN).log()
            log_volume = log_volume + torch.where(self.bounded, slope, 0.0).sum(1)
            v = torch.where(self.bounded, squashed, v)
        return v, log_volume

    def inverse(self, y: Float[Tensor, "B D"]) -> Tensor:
        """R^D to the data whose cell holds it; values beyond the range go to its end."""
        if self.squash:
            y = torch.where(self.bounded, (y.sigmoid() - MARGIN) / (1 - 2 * MARGIN), y)
        z = y.to(self.loc.dtype) * self.scale + self.loc
        match self.spec.support:
            case Real():
                x = z
            case Columns(columns=columns):
                # a category's cell is [k, k + 1), a number's is centred on it
                x = torch.stack(
                    [
                        on_lattice(z[:, j], c) if isinstance(c, Numeric) else z[:, j].floor().clamp(0, c.levels - 1)
                        for j, c in enumerate(columns)
                    ],
                    dim=1,
                )
            case _:
                x = z.floor().clamp(0, (self.spec.levels or 2) - 1)
        return x.to(self.spec.dtype).view(len(y), *self.spec.shape)


def _cells(spec: Spec, squash: bool) -> Tensor:
    """(5, D): loc, scale, cell width, shift and boundedness of each dimension."""
    d = spec.num_dims
    match spec.support:
        case Real(loc=loc, scale=scale):
            zeros = torch.zeros(d)
            return torch.stack([torch.tensor(loc).expand(d), torch.tensor(scale).expand(d), zeros, zeros, zeros])
        case Columns(columns=columns):
            rows = [
                (c.loc, c.scale, c.step, 0.5, 0.0) if isinstance(c, Numeric) else _lattice(c.levels, squash)
                for c in columns
            ]
            return torch.tensor(rows, dtype=torch.float64).T.contiguous()
        case _:
            return torch.tensor(_lattice(spec.levels or 2, squash)).unsqueeze(1).expand(5, d).contiguous()


def _lattice(k: int, squash: bool) -> tuple[float, float, float, float, float]:
    """Cells [j, j + 1): onto (0, 1) before a logit, else centred with unit-like scale."""
    return (0.0, float(k), 1.0, 0.0, 1.0) if squash else (k / 2, k / 4, 1.0, 0.0, 0.0)
