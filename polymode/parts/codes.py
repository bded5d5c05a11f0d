"""Lines and axes through a space of codes: between two codes, along one dimension, along what varies most.

    linear     l(t) = (1 - t) a + t b
    spherical  s(t) = r(t) (sin((1 - t) w) a / |a| + sin(t w) b / |b|) / sin w,   cos w = <a, b> / (|a| |b|)
               r(t) = (1 - t) |a| + t |b|                       (Shoemake 1985; White 2016, arXiv:1609.04468)

Codes of a standard normal prior lie near a sphere of radius sqrt(Z), which a straight line leaves: halfway between two
independent codes it is shorter by a factor of sqrt(2). `linear` and `spherical` give back their ends bit for bit.
Deviation: White mixes the codes themselves; here the direction turns and the length goes linearly between the two
lengths, which is the same for codes of one length and never dips where lengths differ.

`traversal` sets one dimension at a time, `activity` is how much each varies over data (the statistic of Burda et al.
2016, arXiv:1509.00519, appendix C), `principal` the directions along which codes vary most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core.errors import PolymodeError, require_choice

How = Literal["linear", "spherical"]
#: below this sine of the angle two codes count as parallel, and the arc between them is the straight line
LEAST_SINE = 1e-6
#: a dimension of a posterior's mean is active above this variance (Burda et al.)
ACTIVE = 0.01


def line(a: Float[Tensor, "B Z"], b: Float[Tensor, "B Z"], steps: int, how: str = "linear") -> Float[Tensor, "B S Z"]:
    """`steps` codes from a to b, both ends among them.

    Raises:
        PolymodeError: fewer than two steps, or no such kind of line.
    """
    require_choice("how", how, ("linear", "spherical"))
    if steps < 2:
        raise PolymodeError(f"steps={steps}, expected at least 2: both ends are among them")
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device).view(1, -1, 1)
    between = linear if how == "linear" else spherical
    return between(a.unsqueeze(1), b.unsqueeze(1), t)


def linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The straight line at t, by broadcasting."""
    return (1 - t) * a + t * b


def spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The great arc at t, by broadcasting over (..., Z); the straight line where a and b are parallel or zero."""
    # the shortest that are divided by are of length zero, which are parallel to everything below
    lengths = [v.norm(dim=-1, keepdim=True) for v in (a, b)]
    safe = [length.clamp(min=torch.finfo(length.dtype).tiny) for length in lengths]
    cosine = ((a / safe[0]) * (b / safe[1])).sum(-1, keepdim=True).clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    apart = (sine > LEAST_SINE) & (lengths[0] > 0) & (lengths[1] > 0)
    sine = torch.where(apart, sine, 1.0)
    length = linear(lengths[0], lengths[1], t)
    arc = ((1 - t) * angle).sin() / sine * (length / safe[0]) * a + (t * angle).sin() / sine * (length / safe[1]) * b
    return torch.where(apart, arc, linear(a, b, t))


def traversal(z: Float[Tensor, "B Z"], dims: Sequence[int], values: Float[Tensor, "K S"]) -> Float[Tensor, "B K S Z"]:
    """Codes whose dimension dims[k] is set to values[k, s], the others as they are.

    Raises:
        PolymodeError: a dimension that the code does not have.
    """
    check_dims(dims, z.shape[1])
    moved = z[:, None, None, :].repeat(1, len(dims), values.shape[1], 1)  # (B, K, S, Z)
    for k, d in enumerate(dims):
        moved[:, k, :, d] = values[k].to(z)
    return moved


def check_dims(dims: Sequence[int], size: int) -> None:
    """Raise PolymodeError unless a code of `size` dimensions has all of these."""
    if outside := [d for d in dims if not 0 <= d < size]:
        raise PolymodeError(f"there is no code dimension {outside[0]}: the code has {size}, 0 to {size - 1}")


def activity(codes: Float[Tensor, "N Z"]) -> Float[Tensor, " Z"]:
    """The variance of each dimension over data, in float64; of a posterior's means, Burda et al.'s statistic."""
    return codes.double().var(0, correction=0)


def most_active(codes: Float[Tensor, "N Z"], count: int) -> list[int]:
    """The `count` dimensions that vary most over data, the most active first."""
    return activity(codes).argsort(descending=True, stable=True)[:count].tolist()


def principal(codes: Float[Tensor, "N Z"]) -> tuple[Float[Tensor, "Z Z"], Float[Tensor, " Z"]]:
    """(directions of length one, a row each, the deviation of the codes along each), the widest first, in float64.

    A direction's sign is that of its largest entry, which is positive.
    """
    centred = codes.double() - codes.double().mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(codes))
    return oriented(vectors.T.flip(0)), values.flip(0).clamp(min=0).sqrt()


def oriented(directions: Float[Tensor, "K Z"]) -> Float[Tensor, "K Z"]:
    """Directions whose largest entry is positive: an eigenvector's sign is anyone's choice, and should be one."""
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return directions * torch.where(largest < 0, -1.0, 1.0)
