"""Linear degradations of pictures y = A x with exact pseudo-inverses, and their regularised ones.

    A^+ = A^T (A A^T)^+,     back(y, ridge) = A^T (A A^T + ridge I)^-1 y

    identity    A = I                                                      noise alone
    mask        A = diag(known)                                            A A^T = A
    separable   A x = R x C^T on each channel, by the singular values of R and C: A A^T has eigenvalues (r_i c_j)^2
                (Kawar et al. 2022, DDRM, arXiv:2201.11793, appendix D)    means of blocks, blur with any edge
    mixing      A x = M x over channels                                    a picture in colour as a grey one

Rows of A sum to one, so that degraded pictures are pictures, and A commutes with scaling levels to [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.core.restoring import LinearOperator

#: singular values below this share of the largest count as zero in a pseudo-inverse: what they say of x is rounding
NEGLIGIBLE = 1e-4
#: shares of red, green and blue in a grey picture (ITU-R BT.601)
LUMA = (0.299, 0.587, 0.114)


class Identity(LinearOperator):
    """A = I: y is x and noise."""

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def back(self, y: Tensor, ridge: float = 0.0) -> Tensor:
        return y / (1 + ridge)


class Mask(LinearOperator):
    """What is known of x, and 0 elsewhere.

    Args:
        known: (*shape) bool.
    """

    def __init__(self, known: Bool[Tensor, "*shape"]) -> None:
        self.known = known

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.known.to(x.device)

    def back(self, y: Tensor, ridge: float = 0.0) -> Tensor:
        return y * self.known.to(y.device) / (1 + ridge)


class Separable(LinearOperator):
    """A x = R x C^T on every channel of pictures (B, C, H, W).

    Args:
        rows: R (h, H), from columns of pixels to columns.
        columns: C (w, W), from rows of pixels to rows.
    """

    def __init__(self, rows: Float[Tensor, "h H"], columns: Float[Tensor, "w W"]) -> None:
        self.rows, self.columns = rows.double(), columns.double()
        self.left, self.right = (torch.linalg.svd(m, full_matrices=False) for m in (self.rows, self.columns))

    def __call__(self, x: Tensor) -> Tensor:
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def back(self, y: Tensor, ridge: float = 0.0) -> Tensor:
        (u, s, v), (p, t, q) = self.left, self.right
        values = s[:, None] * t
        kept = values > NEGLIGIBLE * values.max()
        gains = torch.where(kept, values / (values.square() + ridge), 0.0)
        within = u.to(y).T @ y @ p.to(y)  # (B, C, ranks): coordinates of y
        return v.to(y).T @ (gains.to(y) * within) @ q.to(y)


class Mixing(LinearOperator):
    """Channels mixed pixel by pixel.

    Args:
        weights: M (channels out, channels).
    """

    def __init__(self, weights: Float[Tensor, "K C"]) -> None:
        self.weights = weights.double()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.einsum("kc,bchw->bkhw", self.weights.to(x), x)

    def back(self, y: Tensor, ridge: float = 0.0) -> Tensor:
        m = self.weights
        inverse = m.T @ torch.linalg.pinv(m @ m.T + ridge * torch.eye(len(m), dtype=m.dtype), hermitian=True)
        return torch.einsum("ck,bkhw->bchw", inverse.to(y), y)


def downscale(shape: Sequence[int], factor: int) -> Separable:
    """Means of blocks of factor x factor pixels.

    Raises:
        PolymodeError: a factor that does not divide both sides.
    """
    height, width = shape[-2:]
    if factor < 1 or height % factor or width % factor:
        raise PolymodeError(f"factor={factor}, expected a whole number that divides the sides {height} and {width}")
    return Separable(_block_means(height, factor), _block_means(width, factor))


def _block_means(size: int, factor: int) -> Tensor:
    return torch.eye(size // factor, dtype=torch.float64).repeat_interleave(factor, 1) / factor


def gaussian_blur(shape: Sequence[int], sd: float) -> Separable:
    """A Gaussian of `sd` pixels, cut at three of them; beyond the edge a picture goes on as its last pixel."""
    if sd <= 0:
        raise PolymodeError(f"sd={sd} of a blur, expected a positive number of pixels")
    reach = math.ceil(3 * sd)
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    return blur(shape, torch.exp(-0.5 * (places / sd) ** 2))


def box_blur(shape: Sequence[int], width: int) -> Separable:
    """The mean of width x width pixels, an odd number."""
    if width < 1 or width % 2 == 0:
        raise PolymodeError(f"width={width} of a box, expected an odd number of pixels")
    return blur(shape, torch.ones(width, dtype=torch.float64))


def blur(shape: Sequence[int], kernel: Float[Tensor, " k"]) -> Separable:
    """A kernel along both sides, of an odd number of weights, which are made to sum to one."""
    return Separable(*(_smoothing(size, kernel / kernel.sum()) for size in shape[-2:]))


def _smoothing(size: int, kernel: Tensor) -> Tensor:
    """(size, size): row i holds the kernel about i; what would lie beyond an edge is added to the edge's pixel."""
    reach = len(kernel) // 2
    at = (torch.arange(size)[:, None] + torch.arange(-reach, reach + 1)).clamp(0, size - 1)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, at, kernel.double().expand(size, -1))


def grey(channels: int) -> Mixing:
    """A picture as its brightness: BT.601's shares of three channels, the mean of any other number."""
    weights = LUMA if channels == 3 else (1 / channels,) * channels
    return Mixing(torch.tensor([weights], dtype=torch.float64))
