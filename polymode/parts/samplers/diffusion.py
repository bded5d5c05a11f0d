"""Samplers of Gaussian noise paths: functions of a callable `denoise(z, r)` that gives E[x_0 | z = x_0 + r eps].

    ancestral           z_s ~ N((1 - k) x0 + k z_t, variance)                  Ho et al. 2020 (arXiv:2006.11239), alg. 2
    ddim                z_s = x0 + sqrt(r_s^2 - d^2) eps + d noise,  d^2 = eta^2 r_s^2 (1 - k)
                                                                          Song, Meng and Ermon 2021 (arXiv:2010.02502)
    euler, heun         dz/dr = (z - D) / r, with churn                         Karras et al. 2022 (arXiv:2206.00364)
    dpmpp_2m, dpmpp_3m  exponential multistep in -log r                            Lu et al. 2022 (arXiv:2211.01095)
    dpmpp_sde           the same of the SDE, order 2
    unipc               multistep predictor and corrector, B_2(h)                Zhao et al. 2023 (arXiv:2302.04867)
    euler_maruyama      the reverse diffusion, and
    predictor_corrector   with Langevin steps after each                         Song et al. 2021 (arXiv:2011.13456)
    annealed_langevin   Langevin steps alone, level after level                   Song and Ermon 2019 (arXiv:1907.05600)
    restart             heun, with stretches done again from fresh noise              Xu et al. 2023 (arXiv:2306.14878)
    multistep           z_s = x0 + s noise: what consistency models are for  Song et al. 2023 (arXiv:2303.01469), alg. 1
    ode                 the probability flow at a tolerance                                       `parts/solvers/ode.py`

In z = x_t / a the path of any model is x_0 + r eps (`parts/processes/gaussian.py`), so every sampler serves every
model. All walk falling noise ratios `levels` and return the last prediction of x_0; they begin at z of the first
level. DDIM at eta = 0 is Euler's method, and Euler's method in time for straight paths.
Deviation: Langevin steps are sized by the level, 2 (snr r)^2, where the papers take the norms of a batch's own score:
the same in expectation, and no row depends on its neighbours. The third order of dpmpp_3m takes the second derivative
as twice the second divided difference, which it is; the authors' code takes it once, and has order 2.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError, require_choice
from polymode.parts.processes.gaussian import posterior
from polymode.parts.solvers import ode as solvers

Denoise = Callable[[Tensor, float], Tensor]
#: (i, z) -> x_0 and the variance, of all or of each entry, of the step from the i-th level to the next
Reverse = Callable[[int, Tensor], tuple[Tensor, Tensor]]
Levels = Sequence[float]
Spacing = Literal["time", "karras", "log"]
Name = Literal[
    "ancestral", "ddim", "euler", "heun", "dpmpp_2m", "dpmpp_3m", "dpmpp_sde", "unipc", "euler_maruyama",
    "predictor_corrector", "annealed_langevin", "restart", "ode", "multistep",
]  # fmt: skip


def spaced(visits: int, least: float, most: float, spacing: Literal["karras", "log"], rho: float = 7.0) -> list[float]:
    """`visits` falling ratios from `most` to `least`: even in r^(1 / rho) (Karras et al. 2022, eq. 5), or in log r."""
    if visits < 1:
        raise PolymodeError(f"steps={visits}, expected at least 1")
    if visits == 1:
        return [most]
    u = [i / (visits - 1) for i in range(visits)]
    if spacing == "log":
        return [most ** (1 - v) * least**v for v in u]
    return [(most ** (1 / rho) + v * (least ** (1 / rho) - most ** (1 / rho))) ** rho for v in u]


# -- chains ------------------------------------------------------------------------------------------------------------
def ancestral(denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator) -> Tensor:
    """The reverse chain with the variances of the posteriors."""
    variances = [z.new_tensor(posterior(r, s)[1]) for r, s in _steps(levels)]
    z = chain(lambda i, z: (denoise(z, levels[i]), variances[i]), z, levels, generator)
    return denoise(z, levels[-1])


def chain(reverse: Reverse, z: Tensor, levels: Levels, generator: torch.Generator) -> Tensor:
    """z at the last level of a reverse chain whose steps have variances of their own."""
    for i, (r, s) in enumerate(_steps(levels)):
        k, (x0, variance) = posterior(r, s)[0], reverse(i, z)
        z = (1 - k) * x0 + k * z + variance.sqrt() * rng.randn(z.shape, generator, z)
    return z


def ddim(denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator, *, eta: float = 0.0) -> Tensor:
    """The implicit path; `eta` in [0, 1] is the share of fresh noise, 1 the ancestral chain."""
    for r, s in _steps(levels):
        x0 = denoise(z, r)
        fresh = eta * math.sqrt(posterior(r, s)[1])
        kept = math.sqrt(max(0.0, s**2 - fresh**2))  # rounding may go below 0
        z = x0 + kept / r * (z - x0)
        if fresh > 0:
            z = z + fresh * rng.randn(z.shape, generator, z)
    return denoise(z, levels[-1])


def multistep(denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator) -> Tensor:
    """Every level begins anew from the last prediction under fresh noise; of one level, the prediction."""
    x0 = denoise(z, levels[0])
    for r in levels[1:]:
        x0 = denoise(x0 + r * rng.randn(z.shape, generator, z), r)
    return x0


def euler_maruyama(denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator) -> Tensor:
    """The reverse diffusion of dz = sqrt(d r^2) dw."""
    for r, s in _steps(levels):
        z = _diffused(denoise, z, r, s, generator)
    return denoise(z, levels[-1])


def predictor_corrector(
    denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator, *, snr: float = 0.16, corrections: int = 1
) -> Tensor:
    """`euler_maruyama` with `corrections` Langevin steps at each new level."""
    for r, s in _steps(levels):
        z = _diffused(denoise, z, r, s, generator)
        for _ in range(corrections):
            z = _langevin(denoise, z, s, snr, generator)
    return denoise(z, levels[-1])


def annealed_langevin(
    denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator, *, snr: float = 0.16, corrections: int = 10
) -> Tensor:
    """`corrections` Langevin steps at every level, the first included."""
    for r in levels:
        for _ in range(corrections):
            z = _langevin(denoise, z, r, snr, generator)
    return denoise(z, levels[-1])


# -- the probability flow ----------------------------------------------------------------------------------------------
def euler(denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator, *, churn: float = 0.0) -> Tensor:
    """Order 1; `churn` is the noise put in, and taken out again, on the whole path (S_churn)."""
    for r, s in _steps(levels):
        z, r = _churned(z, r, churn / len(levels), generator)
        z = z + (s - r) / r * (z - denoise(z, r))
    return denoise(z, levels[-1])


def heun(denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator, *, churn: float = 0.0) -> Tensor:
    """Order 2 at two calls a step."""
    for r, s in _steps(levels):
        z, r = _churned(z, r, churn / len(levels), generator)
        z = _heun_step(denoise, z, r, s)
    return denoise(z, levels[-1])


def restart(
    denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator, *, restarts: int = 2,
    interval: tuple[float, float] = (0.1, 1.0),
) -> Tensor:  # fmt: skip
    """`heun`; on reaching the lower end of `interval` (ratios) it goes back to the upper end, `restarts` times."""
    low, high = interval
    inside = [r for r in levels if low <= r <= high]
    for r, s in _steps(levels):
        z = _heun_step(denoise, z, r, s)
        if len(inside) > 1 and s == inside[-1]:
            for _ in range(restarts):
                z = z + math.sqrt(inside[0] ** 2 - s**2) * rng.randn(z.shape, generator, z)
                for upper, lower in _steps(inside):
                    z = _heun_step(denoise, z, upper, lower)
    return denoise(z, levels[-1])


def ode(denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator, *, tolerance: float = 1e-4) -> Tensor:
    """Dormand and Prince's steps in log r between the first level and the last, as many as `tolerance` needs."""

    def field(u: float, y: Tensor) -> Tensor:
        return y - denoise(y, math.exp(u))

    solution = solvers.adaptive(field, z, math.log(levels[0]), math.log(levels[-1]), rtol=tolerance, atol=tolerance)
    return denoise(solution.y, levels[-1])


def invert(denoise: Denoise, x0: Tensor, levels: Levels) -> Tensor:
    """z at the first of the falling `levels` from which the probability flow leads to x0: Heun's steps backwards."""
    z = x0
    for r, s in _steps(levels[::-1]):
        z = _heun_step(denoise, z, r, s)
    return z


# -- exponential multistep ---------------------------------------------------------------------------------------------
def dpmpp_2m(denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator) -> Tensor:
    """Order 2 at one call a step; the first step is Euler's."""
    return _dpmpp(denoise, z, levels, 2)


def dpmpp_3m(denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator) -> Tensor:
    """Order 3 at one call a step."""
    return _dpmpp(denoise, z, levels, 3)


def _dpmpp(denoise: Denoise, z: Tensor, levels: Levels, order: int) -> Tensor:
    said: list[Tensor] = []
    widths: list[float] = []
    for r, s in _steps(levels):
        said, widths = [denoise(z, r), *said[: order - 1]], [math.log(r / s), *widths[: order - 1]]
        h, decay = widths[0], s / r
        z = decay * z + (1 - decay) * said[0]
        if len(said) == 2:  # midpoint
            z = z + 0.5 * (1 - decay) * h / widths[1] * (said[0] - said[1])
        elif len(said) == 3:
            p, q = widths[1] / h, widths[2] / h
            near, far = (said[0] - said[1]) / p, (said[1] - said[2]) / q
            first, second = near + p / (p + q) * (near - far), 2 * (near - far) / (p + q)
            z = z + ((decay - 1) / h + 1) * first - ((decay - 1 + h) / h**2 - 0.5) * second
    return denoise(z, levels[-1])


def dpmpp_sde(denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator) -> Tensor:
    """The SDE of `dpmpp_2m`."""
    before: tuple[Tensor, float] | None = None
    for r, s in _steps(levels):
        x0, h = denoise(z, r), math.log(r / s)
        gone = -math.expm1(-2 * h)
        now = z * (s / r) * math.exp(-h) + gone * x0
        if before is not None:
            now = now + 0.5 * gone * h / before[1] * (x0 - before[0])
        z, before = now + s * math.sqrt(gone) * rng.randn(z.shape, generator, z), (x0, h)
    return denoise(z, levels[-1])


def unipc(denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator, *, order: int = 2) -> Tensor:
    """Predicts a level, and corrects it by what the network says there, at one call a step."""
    if not 1 <= order <= 3:
        raise PolymodeError(f"order={order} of unipc, expected 1, 2 or 3")
    said, at = [denoise(z, levels[0])], [levels[0]]
    for r, s in _steps(levels):
        h = math.log(r / s)
        decay = math.expm1(-h)
        plain = s / r * z - decay * said[0]
        places = [math.log(r / other) / h for other in at[1:]]  # behind: negative
        slopes = [(other - said[0]) / place for other, place in zip(said[1:], places, strict=True)]
        weights = _unipc_weights(places, h)
        ahead = denoise(_added(plain, slopes, weights, -decay), s)
        z = _added(plain, [*slopes, ahead - said[0]], _unipc_weights([*places, 1.0], h), -decay)
        said, at = [ahead, *said[: order - 1]], [s, *at[: order - 1]]
    return denoise(z, levels[-1])


def _unipc_weights(places: list[float], h: float) -> list[float]:
    """The rho of Zhao et al. 2023, eqs. 8 and 9; a single place has weight one half, whatever the step."""
    if len(places) == 1:
        return [0.5]
    b, phi, factorial = [], math.expm1(-h) / -h - 1, 1
    for i in range(1, len(places) + 1):
        b.append(phi * factorial / math.expm1(-h))
        factorial *= i + 1
        phi = phi / -h - 1 / factorial
    rows = torch.tensor([[p**i for p in places] for i in range(len(places))], dtype=torch.float64)
    return torch.linalg.solve(rows, torch.tensor(b, dtype=torch.float64)).tolist() if places else []


def _added(z: Tensor, slopes: list[Tensor], weights: list[float], scale: float) -> Tensor:
    for slope, weight in zip(slopes, weights, strict=True):
        z = z + scale * weight * slope
    return z


# -- single steps ------------------------------------------------------------------------------------------------------
def _steps(levels: Levels) -> list[tuple[float, float]]:
    return list(pairwise(levels))


def _heun_step(denoise: Denoise, z: Tensor, r: float, s: float) -> Tensor:
    slope = (z - denoise(z, r)) / r
    ahead = z + (s - r) * slope
    return z + 0.5 * (s - r) * (slope + (ahead - denoise(ahead, s)) / s)


def _churned(z: Tensor, r: float, share: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """z at a higher level (Karras et al. 2022, algorithm 2)."""
    if share <= 0:
        return z, r
    up = r * (1 + min(share, math.sqrt(2) - 1))
    return z + math.sqrt(up**2 - r**2) * rng.randn(z.shape, generator, z), up


def _diffused(denoise: Denoise, z: Tensor, r: float, s: float, generator: torch.Generator) -> Tensor:
    z = z + (1 - (s / r) ** 2) * (denoise(z, r) - z)
    return z + math.sqrt(r**2 - s**2) * rng.randn(z.shape, generator, z)


def _langevin(denoise: Denoise, z: Tensor, r: float, snr: float, generator: torch.Generator) -> Tensor:
    size = 2 * (snr * r) ** 2
    return z + size / r**2 * (denoise(z, r) - z) + math.sqrt(2 * size) * rng.randn(z.shape, generator, z)


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    f.__name__: f
    for f in (
        ancestral, ddim, multistep, euler, heun, dpmpp_2m, dpmpp_3m, dpmpp_sde, unipc, euler_maruyama,
        predictor_corrector,
        annealed_langevin, restart, ode,
    )
}  # fmt: skip


def run(name: str, denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator, **options: Any) -> Tensor:
    """The sampler of a name; options that are None are left at their defaults.

    Raises:
        PolymodeError: no such sampler, or an option that it does not have.
    """
    given = known_options(name, options)  # before the name is looked up
    return SAMPLERS[name](denoise, z, levels, generator, **given)


def known_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Those that are given, or PolymodeError where there is no such sampler, or no such option of it."""
    require_choice("sampler", name, get_args(Name))
    given = {key: value for key, value in options.items() if value is not None}
    known = [key for key, p in inspect.signature(SAMPLERS[name]).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for key in given:
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise PolymodeError(f"sampler={name!r} has no option {key!r}; {has}")
    return given
