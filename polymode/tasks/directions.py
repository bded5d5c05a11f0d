"""Directions in a space of codes that mean something: an attribute that rows are labelled by, or what varies most.

Supervised, from codes z and whether each row has the attribute:

    mean difference   m_1 - m_0                                        (Larsen et al. 2016, arXiv:1512.09300, 4.3)
    logistic          Cov(z) w of P(y = 1 | z) = sigmoid(w . z + b)    (Shen et al. 2020, InterFaceGAN,
                                                                        arXiv:1907.10786, section 3.1)

Unsupervised:

    principal         eigenvectors of the covariance of codes          (Haerkoenen et al. 2020, GANSpace,
                                                                        arXiv:2004.02546, section 2.1)
    first weight      eigenvectors of A' A, A the weight that a code   (Shen and Zhou 2021, SeFa,
                      meets first in the decoder                        arXiv:2007.06600, eq. 6)

`attribute_direction` holds the first two, `principal_directions` and `weight_directions` the others. A `Direction` has
length one and knows the deviation of codes along it, so that a strength of 1 means the same everywhere.
Deviation: InterFaceGAN takes w itself, of a support vector machine, for codes of a standard normal, where Cov(z) is the
identity. Elsewhere w leans on dimensions in which codes hardly vary, along which they would leave the data at once; its
covariance with the codes is the pattern that w reads (Haufe et al. 2014, NeuroImage 87, theorem 1). The logistic
regression is that of `tasks.probes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core.capabilities import HasLatents, require
from polymode.core.errors import CapabilityError, DataError, PolymodeError, require_choice
from polymode.core.model import GenerativeModel
from polymode.parts.codes import oriented, principal
from polymode.tasks.probes import fit_probe

Method = Literal["logistic", "mean-difference"]


@dataclass(frozen=True)
class Direction:
    """A direction in a space of codes.

    Args:
        vector: (Z,) float64 of length one.
        deviation: of codes along it: the unit of strengths.
        name: what it is, in words.
    """

    vector: Tensor
    deviation: float
    name: str


def attribute_direction(
    codes: Float[Tensor, "N Z"], has: Tensor, *, method: Method = "logistic", name: str = "attribute"
) -> Direction:
    """From rows that lack an attribute towards rows that have it.

    Args:
        codes: of labelled rows.
        has: (N,) bool, which rows have the attribute.
        method: "logistic" for the pattern of the border between them, "mean-difference" for what joins their means.
        name: of the attribute.

    Raises:
        DataError: no row with the attribute, or none without, or codes that do not differ.
    """
    require_choice("method", method, ("logistic", "mean-difference"))
    has = has.bool()
    if has.shape != codes.shape[:1] or not 0 < int(has.sum()) < len(has):
        raise DataError(
            f"{int(has.sum())} of {len(has)} labels for {len(codes)} codes say yes to {name}; expected one label a "
            "row, and rows of both sides"
        )
    z = codes.double()
    if method == "logistic":
        weights = fit_probe(z, has.long()).raw_weights()[0]
        centred = z - z.mean(0)
        vector = centred.T @ (centred @ (weights[1] - weights[0])) / len(z)
    else:
        vector = z[has].mean(0) - z[~has].mean(0)
    if not float(vector.norm()) > 0:
        raise DataError(f"the codes of rows with {name} do not differ from those without; there is no direction")
    return _direction(vector, z, f"{name} ({method})")


def principal_directions(codes: Float[Tensor, "N Z"], count: int) -> list[Direction]:
    """The directions along which codes vary most, the widest first."""
    _check_count(count, codes.shape[1])
    vectors, deviations = principal(codes)
    pairs = zip(vectors[:count], deviations[:count].tolist(), strict=True)
    return [Direction(v, d, f"principal direction {i}") for i, (v, d) in enumerate(pairs, 1)]


def weight_directions(model: GenerativeModel, count: int, codes: Float[Tensor, "N Z"] | None = None) -> list[Direction]:
    """The directions that the decoder's first weight stretches most, the longest first.

    Args:
        count: how many.
        codes: whose deviations along them are the unit; None for the 1 of a standard normal prior.

    Raises:
        CapabilityError: a model without codes, or whose decoder does not begin with a linear map of them.
    """
    require(model, HasLatents, "code")
    assert isinstance(model, HasLatents)
    if (weight := model.code_weight()) is None:
        raise CapabilityError(
            f"the decoder of {type(model).__name__} does not begin with a linear map of the code, so it has no first "
            "weight; use principal directions, which need codes only"
        )
    _check_count(count, weight.shape[1])
    a = weight.detach().double().cpu()
    _, vectors = torch.linalg.eigh(a.T @ a)
    found = oriented(vectors.T.flip(0))[:count]
    name = "direction {} of the first weight"
    if codes is None:
        return [Direction(v, 1.0, name.format(i)) for i, v in enumerate(found, 1)]
    return [_direction(v, codes.double(), name.format(i)) for i, v in enumerate(found, 1)]


def _direction(vector: Tensor, codes: Tensor, name: str) -> Direction:
    """The direction of a vector, with the codes' deviation along it."""
    vector = vector / vector.norm()
    return Direction(vector, float((codes @ vector).std(correction=0)), name)


def _check_count(count: int, size: int) -> None:
    if not 1 <= count <= size:
        raise PolymodeError(f"count={count}, expected 1 to {size}, the dimensions of the code")
