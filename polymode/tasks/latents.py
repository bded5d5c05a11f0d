"""What codes are good for: seeing data as a model does, going from one datum to another, moving along a direction.

    reconstruct   decode(encode(x))
    interpolate   decode of a line between encode(a) and encode(b), straight or along a sphere (`parts.codes`)
    traverse      decode of encode(x) with one dimension set to other values (Higgins et al. 2017, figure 1)
    edit          decode(encode(x) + strength * deviation * direction), see `tasks.directions`
    embed         encode(x), for classifiers, searches and plots

of any model that `HasLatents`: the means of a VAE's posterior, the base of a flow, the hidden layer of a Boltzmann
machine. Codes of several axes are flattened to (B, Z); what moves in between needs codes of real numbers. Cost: one
pass of the encoder a datum, one of the decoder a result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core.capabilities import HasLatents, require
from polymode.core.condition import Condition
from polymode.core.errors import CapabilityError, PolymodeError
from polymode.core.model import GenerativeModel
from polymode.parts.codes import How, check_dims, line, most_active, traversal
from polymode.tasks.directions import Direction

#: rows that are encoded or decoded at once
BATCH = 1024


def embed(model: GenerativeModel, x: Tensor, condition: Condition | None = None) -> Float[Tensor, "B Z"]:
    """The code of each datum, flattened, on the CPU.

    Raises:
        CapabilityError: a model without codes.
    """
    return _encoded(model, x, condition).flatten(1)


def reconstruct(model: GenerativeModel, x: Tensor, condition: Condition | None = None) -> Tensor:
    """What the model makes of each datum: its code decoded, (B, *shape).

    Raises:
        CapabilityError: a model without codes.
    """
    return _decoded(model, _encoded(model, x, condition), condition)


def recondition(model: GenerativeModel, x: Tensor, condition: Condition, new: Condition) -> Tensor:
    """Each datum's code, taken under its own condition, decoded under another: what the condition does not hold stays.

    (Kingma et al. 2014, arXiv:1406.5298, section 4.2, the analogies.)
    """
    return _decoded(model, _encoded(model, x, condition), new)


def interpolate(
    model: GenerativeModel,
    a: Tensor,
    b: Tensor,
    *,
    steps: int = 8,
    how: How = "linear",
    condition: Condition | None = None,
    condition_b: Condition | None = None,
) -> Tensor:
    """Data between a and b, (B, steps, *shape): the first is the reconstruction of a, the last that of b.

    Args:
        a, b: (B, *shape) each.
        steps: how many, both ends among them.
        how: "linear", or "spherical" for codes of a normal prior.
        condition: of a, under which all are decoded.
        condition_b: under which b is encoded; default that of a. Where it differs, the last of the line is b's code
            under the condition of a.

    Raises:
        CapabilityError: a model without codes, or with codes that have nothing in between.
        PolymodeError: a and b of different lengths, or fewer than two steps.
    """
    if len(a) != len(b):
        raise PolymodeError(f"a has {len(a)} rows and b has {len(b)}, expected as many")
    left = _movable(model, _encoded(model, a, condition))
    right = _encoded(model, b, condition if condition_b is None else condition_b)
    z = line(left.flatten(1), right.flatten(1), steps, how)  # (B, S, Z)
    return _several(model, z, left.shape[1:], condition)


def traverse(
    model: GenerativeModel,
    x: Tensor,
    dims: Sequence[int] | int = 4,
    *,
    span: float = 3.0,
    steps: int = 7,
    among: Tensor | None = None,
    condition: Condition | None = None,
) -> Tensor:
    """Each datum with one code dimension set to values from low to high, (B, K, steps, *shape).

    Args:
        x: (B, *shape).
        dims: which dimensions; a number K takes the most active ones of `among`, or of x.
        span: values go from -span to span deviations about the mean.
        steps: how many values.
        among: (N, Z) codes whose means and deviations are meant; None for those of the prior of a standard normal.
        condition: one row a datum.

    Raises:
        CapabilityError: a model without codes, or with codes that can't be moved.
        PolymodeError: a dimension that there is not, or fewer than two steps.
    """
    if steps < 2 or span <= 0:
        raise PolymodeError(f"steps={steps} and span={span}, expected at least 2 steps over a span above 0")
    z = _movable(model, _encoded(model, x, condition))
    flat = z.flatten(1)
    if isinstance(dims, int):
        dims = most_active(flat if among is None else among, dims)
    check_dims(dims, flat.shape[1])
    values = torch.linspace(-span, span, steps, dtype=torch.float64).expand(len(dims), -1)
    if among is not None:
        chosen = among.double()[:, list(dims)]
        values = chosen.mean(0)[:, None] + chosen.std(0, correction=0)[:, None] * values
    moved = traversal(flat, dims, values)
    found = _several(model, moved.flatten(1, 2), z.shape[1:], condition)
    return found.view(len(x), len(dims), steps, *model.spec.shape)


def edit(
    model: GenerativeModel,
    x: Tensor,
    direction: Direction,
    strengths: Sequence[float] = (-3.0, -1.5, 0.0, 1.5, 3.0),
    condition: Condition | None = None,
) -> Tensor:
    """Each datum moved along a direction, (B, S, *shape); a strength of 0 is the reconstruction.

    Args:
        x: (B, *shape).
        direction: where to; see `tasks.directions`.
        strengths: how far, in deviations of the codes along the direction.
        condition: one row a datum.

    Raises:
        CapabilityError: a model without codes, or with codes that can't be moved.
        PolymodeError: a direction of another code, or no strength.
    """
    z = _movable(model, _encoded(model, x, condition))
    flat = z.flatten(1)
    if len(direction.vector) != flat.shape[1]:
        raise PolymodeError(
            f"the direction has {len(direction.vector)} dimensions and the codes of {type(model).__name__} have "
            f"{flat.shape[1]}; take it from codes of this model"
        )
    if not strengths:
        raise PolymodeError("no strength came; give at least one, such as 2.0")
    shifts = torch.tensor(list(strengths), dtype=torch.float64)[:, None] * direction.deviation * direction.vector
    return _several(model, flat[:, None] + shifts.to(flat), z.shape[1:], condition)


def _encoded(model: GenerativeModel, x: Tensor, condition: Condition | None) -> Tensor:
    """Codes (B, ...) on the CPU, some rows at a time."""
    require(model, HasLatents, "code")
    assert isinstance(model, HasLatents)
    model.spec.check(x)
    pieces = [
        model.encode(x[i : i + BATCH], None if condition is None else condition[i : i + BATCH]).cpu()
        for i in range(0, len(x), BATCH)
    ]
    return torch.cat(pieces)


def _decoded(model: GenerativeModel, z: Tensor, condition: Condition | None) -> Tensor:
    """The data of codes, on the CPU, some rows at a time."""
    assert isinstance(model, HasLatents)
    pieces = [
        model.decode(z[i : i + BATCH], None if condition is None else condition[i : i + BATCH]).cpu()
        for i in range(0, len(z), BATCH)
    ]
    return torch.cat(pieces)


def _several(model: GenerativeModel, z: Tensor, shape: Sequence[int], condition: Condition | None) -> Tensor:
    """The data of S flat codes a datum (B, S, Z), each under its datum's condition: (B, S, *shape of a datum)."""
    each = None if condition is None else condition.repeat_interleave(z.shape[1])
    x = _decoded(model, z.reshape(-1, *shape), each)
    return x.view(*z.shape[:2], *model.spec.shape)


def _movable(model: GenerativeModel, z: Tensor) -> Tensor:
    if not z.is_floating_point():
        raise CapabilityError(
            f"the codes of {type(model).__name__} are whole numbers with nothing between them; it can reconstruct and "
            "embed, not interpolate, traverse or edit"
        )
    return z
