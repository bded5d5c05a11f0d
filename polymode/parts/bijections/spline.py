"""Monotone rational-quadratic splines, on an interval with the identity beyond it, or around a circle.

Durkan, Bekasov, Murray and Papamakarios 2019, Neural Spline Flows (arXiv:1906.04032). In bin k, with its knots
(x_k, y_k), width w, height h, slope s = h / w, derivatives d_0 and d_1 at its ends, xi = (x - x_k) / w and
t = xi (1 - xi):

    y = y_k + h (s xi^2 + d_0 t) / den,     den = s (1 - 2 t) + (d_0 + d_1) t                    (eq. 4)
    dy/dx = s^2 (d_1 xi^2 + 2 s t + d_0 (1 - xi)^2) / den^2                                       (eq. 5)
    xi = 2 eta s / (b + r) where b >= 0, else (r - b) / (2 (s - b));  eta = (y - y_k) / h         (eq. 6 to 8)
    b = d_0 (1 - eta) + (2 s - d_1) eta,    r^2 = (b - 2 eta s)^2 + 4 eta (1 - eta) s^2

Widths and heights are softmaxes, derivatives softplus (section 3.1). Rezende et al. 2020, Normalizing Flows on Tori
and Spheres (arXiv:2002.02428, section 2.1): around a circle both ends share their derivative, and a rotation follows,
so that no point stays where it is.

r^2 and den are sums of terms of one sign: no discriminant gets below zero and no root cancels. x is put into the
interval before it is looked for, so that what is computed for the tails and thrown away is finite too, and so are its
gradients. `_evaluate` and `_pull` hold eq. 4 and 5 and their derivatives. Parameters come with the bins first, so that
softmax and search run along contiguous memory; only what a row's bin needs is gathered, and the gradient of all
parameters is written once (`benchmarks/flows.py`).
Deviation: the inverse has a root for either sign of b, where the paper has one; zero parameters are the identity. The
gradient of the inverse is that of the spline at its solution; derivatives of derivatives are refused by
`once_differentiable`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from polymode.core.errors import PolymodeError
from polymode.parts.bijections.elementwise import Elementwise

#: least share of the interval that a bin has on either side, and least derivative at a knot
LEAST_SHARE = LEAST_SLOPE = 1e-3
#: softplus(0 + OFFSET) + LEAST_SLOPE = 1
OFFSET = math.log(math.expm1(1 - LEAST_SLOPE))


class Spline(Elementwise):
    """A rational-quadratic spline of each dimension.

    Args:
        bins: K.
        bound: the spline acts on [-bound, bound]; angles take [-pi, pi) whatever it is.
        circular: (D,) which dimensions are angles; None for none, which takes two parameters a dimension less.

    Raises:
        PolymodeError: fewer than 2 bins or so many that they leave no room, or a bound that is not positive.
    """

    circular: Tensor | None

    def __init__(self, bins: int = 8, bound: float = 5.0, circular: Bool[Tensor, " D"] | None = None) -> None:
        super().__init__()
        if not 2 <= bins <= 200 or not 0 < bound < math.inf:
            raise PolymodeError(f"bins={bins}, bound={bound}: expected 2 to 200 bins and a positive bound")
        self.bins, self.bound = bins, bound
        self.register_buffer("circular", circular, persistent=False)
        # with angles: one derivative more, and the rotation
        self.initial = (0.0,) * (3 * bins - 1 if circular is None else 3 * bins + 1)

    def of(self, dims: Int[Tensor, " n"]) -> Spline:
        return self if self.circular is None else Spline(self.bins, self.bound, self.circular[dims])

    def to_base(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        if self.circular is None:
            return _Forward.apply(x, params, self.bins, self.bound, None)
        angles = _like(self.circular, x)
        z, log_slope = _Forward.apply(x, params[:-1], self.bins, self._bounds(angles, x), angles)
        return torch.where(angles, wrap(z + params[-1]), z), log_slope

    def from_base(self, z: Tensor, params: Tensor) -> Tensor:
        if self.circular is None:
            return _Inverse.apply(z, params, self.bins, self.bound, None)
        angles = _like(self.circular, z)
        z = torch.where(angles, wrap(z - params[-1]), z)
        return _Inverse.apply(z, params[:-1], self.bins, self._bounds(angles, z), angles)

    def _bounds(self, angles: Tensor, x: Tensor) -> Tensor:
        return torch.where(angles, x.new_tensor(math.pi), x.new_tensor(self.bound))

    def owner(self, dims: int) -> Tensor:
        if self.circular is None:
            return super().owner(dims)
        lines, turns = (~self.circular).nonzero().squeeze(1), self.circular.nonzero().squeeze(1)
        return torch.cat([lines, turns, turns])

    def features(self, x: Tensor) -> Tensor:
        """Angles as their cosines and sines, so that a network is continuous where they begin anew."""
        if self.circular is None:
            return x
        turns = x[:, self.circular]
        return torch.cat([x[:, ~self.circular], turns.cos(), turns.sin()], dim=1)


def wrap(angle: Tensor) -> Tensor:
    """Angles in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def _like(circular: Tensor, x: Tensor) -> Tensor:
    """(D,) so that it goes along the first axis of x."""
    return circular.view(-1, *(1,) * (x.dim() - 1))


class _Bin(NamedTuple):
    """What one evaluation needs of the parameters, (N,) unless it says otherwise; lengths in the unit interval."""

    shares: Tensor  # (2, K, N) softmax of the widths and of the heights
    passed: Tensor  # (K - 1, N) 1 where a bin lies before that of the row
    flat: Tensor  # place of the row's bin in a flat (K, N)
    least: Tensor  # k LEAST_SHARE
    left: Tensor  # x_k
    w: Tensor
    low: Tensor  # y_k
    h: Tensor
    at_0: Tensor  # place of d_0 and d_1 in the flat parameters
    at_1: Tensor
    free_0: Tensor  # 1 where they are parameters, 0 at the ends of an interval, where they are 1
    free_1: Tensor
    raw_0: Tensor  # d_0 and d_1 before softplus
    raw_1: Tensor


def _find(at: Tensor, raw: Tensor, bins: int, angles: Tensor | None, *, by_height: bool) -> _Bin:
    """The bin of `at` in [0, 1], (N,), among those of raw parameters (P, N)."""
    n, room = len(at), 1 - bins * LEAST_SHARE
    shares = raw[: 2 * bins].unflatten(0, (2, bins)).softmax(1)
    passed = torch.empty_like(raw[: bins - 1])
    place, total, k, left, low = at / room, *(torch.zeros_like(at) for _ in range(4))
    # bin after bin: what is touched here stays in the cache, which sums along the bins and a comparison do not
    for j in range(bins - 1):
        total += shares[int(by_height), j]
        place -= LEAST_SHARE / room
        torch.ge(place, total, out=passed[j])
        k += passed[j]
        left.addcmul_(passed[j], shares[0, j])
        low.addcmul_(passed[j], shares[1, j])
    flat = torch.add(torch.arange(n, device=at.device), k.long(), alpha=n)
    w, h = (share.view(-1).index_select(0, flat).mul_(room).add_(LEAST_SHARE) for share in shares)
    k.mul_(LEAST_SHARE)
    last = passed[-1]
    if angles is None:
        # d_0 is the derivative k - 1, d_1 the derivative k; beyond the ends any place will do that the other has not
        at_0, at_1 = flat + (2 * bins - 1) * n, flat + 2 * bins * n - last.long() * n
        free_0, free_1 = passed[0], 1 - last
    else:
        at_0, at_1 = flat + 2 * bins * n, flat + (2 * bins + 1) * n - last.long() * (bins * n)
        free_0, free_1 = torch.maximum(passed[0], angles), torch.maximum(1 - last, angles)
    raw_0, raw_1 = (raw.view(-1).index_select(0, y).mul_(f) for y, f in ((at_0, free_0), (at_1, free_1)))
    left, low = (torch.add(k, y, alpha=room) for y in (left, low))
    return _Bin(shares, passed, flat, k, left, w, low, h, at_0, at_1, free_0, free_1, raw_0, raw_1)


class _Terms(NamedTuple):
    """The terms of eq. 4 and 5, each (N,)."""

    s: Tensor
    d0: Tensor
    d1: Tensor
    t: Tensor
    den: Tensor
    num: Tensor  # s xi^2 + d_0 t
    top: Tensor  # d_1 xi^2 + 2 s t + d_0 (1 - xi)^2


def _evaluate(b: _Bin, xi: Tensor) -> _Terms:
    """The spline at a place xi in [0, 1] of its bin."""
    d0, d1 = (F.softplus(raw + OFFSET).add_(LEAST_SLOPE) for raw in (b.raw_0, b.raw_1))
    s, t, square = b.h / b.w, xi * (1 - xi), xi * xi
    st = s * t
    den = torch.addcmul(s - 2 * st, d0 + d1, t)
    num = torch.addcmul(s * square, d0, t)
    top = torch.addcmul(d1 * square, d0, (1 - xi).square_()).add_(st, alpha=2)
    return _Terms(s, d0, d1, t, den, num, top)


def _pull(b: _Bin, e: _Terms, xi: Tensor, g_y: Tensor, g_log: Tensor, params: int) -> tuple[Tensor, Tensor]:
    """Gradients with respect to the place in the unit interval, (N,), and to the raw parameters, (P, N), from those
    with respect to y and to log dy/dx."""
    square, rest = xi * xi, 1 - xi
    ratio, g_num, g_top = e.num / e.den, g_y * b.h / e.den, g_log / e.top
    g_den = -(ratio * g_num) - 2 * g_log / e.den
    g_s = g_den * (1 - 2 * e.t) + g_num * square + 2 * (g_top * e.t + g_log / e.s)
    g_d0 = (g_den + g_num) * e.t + g_top * rest * rest
    g_d1 = g_den * e.t + g_top * square
    g_t = g_den * (e.d0 + e.d1 - 2 * e.s) + g_num * e.d0 + 2 * g_top * e.s
    g_xi = g_t * (rest - xi) + 2 * (xi * (g_num * e.s + g_top * e.d1) - rest * g_top * e.d0)
    g_at, g_s = g_xi / b.w, g_s / b.w
    bins = b.shares.shape[1]
    grad = torch.empty(params, len(xi), dtype=xi.dtype, device=xi.device)
    # derivatives first, d_0 last: at the ends of an interval they hit what is written after them
    grad[2 * bins :] = 0
    grad.view(-1).index_copy_(0, b.at_1, g_d1 * (b.raw_1 + OFFSET).sigmoid_() * b.free_1)
    grad.view(-1).index_copy_(0, b.at_0, g_d0 * (b.raw_0 + OFFSET).sigmoid_() * b.free_0)
    _pull_shares(grad[:bins], b.shares[0], b, b.left, b.w, -g_at, -(g_at * xi + g_s * e.s))
    _pull_shares(grad[bins : 2 * bins], b.shares[1], b, b.low, b.h, g_y, g_y * ratio + g_s)
    return g_at, grad


def _pull_shares(
    grad: Tensor, shares: Tensor, b: _Bin, start: Tensor, length: Tensor, g_start: Tensor, g_length: Tensor
) -> None:
    """Write to `grad` (K, N) the gradient of a softmax's arguments, from those of a bin's start and length."""
    # length = least + room p_k, start = k least + room sum_{j < k} p_j;  mean: sum_j p_j dL/dp_j
    room = 1 - len(shares) * LEAST_SHARE
    mean = (start - b.least) * g_start + (length - LEAST_SHARE) * g_length
    torch.mul(b.passed, g_start * room, out=grad[:-1])
    grad[-1] = 0
    grad.view(-1).index_copy_(0, b.flat, g_length * room)
    grad.sub_(mean).mul_(shares)


def _place(
    x: Tensor, raw: Tensor, bound: float | Tensor, angles: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(1 inside the interval, the place in the unit interval (N,), parameters (P, N), angles (N,) or None)."""
    inside = (x.abs() <= bound).to(x.dtype)
    at = ((x + bound) / (2 * bound)).clamp_(0, 1).flatten()
    return inside, at, raw.flatten(1), None if angles is None else angles.to(x.dtype).expand_as(x).flatten()


class _Forward(torch.autograd.Function):
    """(x, raw, bins, bound, angles) -> (y, log dy/dx)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, raw: Tensor, bins: int, bound: float | Tensor, angles: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        inside, at, flat_raw, angles = _place(x, raw, bound, angles)
        b = _find(at, flat_raw, bins, angles, by_height=False)
        xi = ((at - b.left) / b.w).clamp_(0, 1)
        e = _evaluate(b, xi)
        y = torch.addcmul(b.low, b.h, e.num / e.den).view(x.shape) * (2 * bound) - bound
        log_slope = (e.s / e.den).square_().mul_(e.top).log_().view(x.shape) * inside
        ctx.bound, ctx.shape = bound, raw.shape
        ctx.save_for_backward(inside, xi, *b, *e)
        return torch.lerp(x, y, inside), log_slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_z: Tensor, g_log: Tensor) -> tuple[Tensor | None, ...]:
        inside, xi, *kept = ctx.saved_tensors
        b, e = _Bin(*kept[: len(_Bin._fields)]), _Terms(*kept[len(_Bin._fields) :])
        g_y = (g_z * inside * (2 * ctx.bound)).flatten()
        g_at, grad = _pull(b, e, xi, g_y, (g_log * inside).flatten(), ctx.shape[0])
        # the gradient at a place of the unit interval is zero where nothing was inside
        g_x = torch.addcmul(g_z, inside, g_at.view_as(g_z) / (2 * ctx.bound) - g_z)
        return g_x, grad.view(ctx.shape), None, None, None


class _Inverse(torch.autograd.Function):
    """(z, raw, bins, bound, angles) -> the x that `_Forward` maps to z; dx = (dz - dz/draw draw) / (dz/dx)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, raw: Tensor, bins: int, bound: float | Tensor, angles: Tensor | None) -> Tensor:
        inside, at, flat_raw, angles = _place(z, raw, bound, angles)
        b = _find(at, flat_raw, bins, angles, by_height=True)
        eta = ((at - b.low) / b.h).clamp_(0, 1)
        d0, d1 = (F.softplus(y + OFFSET) + LEAST_SLOPE for y in (b.raw_0, b.raw_1))
        s = b.h / b.w
        linear = d0 * (1 - eta) + (2 * s - d1) * eta
        root = ((linear - 2 * eta * s).square() + 4 * eta * (1 - eta) * s * s).sqrt()
        # the denominator of the branch that is not taken may be anything
        xi = torch.where(linear >= 0, 2 * eta * s / (linear + root), (root - linear) / (2 * (s - linear)))
        xi = xi.clamp_(0, 1)
        x = torch.addcmul(b.left, b.w, xi).view(z.shape) * (2 * bound) - bound
        ctx.bound, ctx.shape = bound, raw.shape
        ctx.save_for_backward(inside, xi, *b)
        return torch.lerp(z, x, inside)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_x: Tensor) -> tuple[Tensor | None, ...]:
        inside, xi, *kept = ctx.saved_tensors
        b = _Bin(*kept)
        e = _evaluate(b, xi)
        slope = ((e.s / e.den).square() * e.top).view_as(g_x)
        g_z = g_x / torch.lerp(torch.ones_like(slope), slope, inside)
        g_y = (g_z * inside * (-2 * ctx.bound)).flatten()
        _, grad = _pull(b, e, xi, g_y, torch.zeros_like(g_y), ctx.shape[0])
        return g_z, grad.view(ctx.shape), None, None, None
