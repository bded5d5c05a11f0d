"""How complex a row is: its length in bits under a general-purpose compressor, which knows nothing of the data.

Serra et al. 2020, "Input complexity and out-of-distribution detection with likelihood-based generative models",
arXiv:1909.11480, section 3. `compressed_bits` holds it, `as_bytes` what the compressor is given. Raw deflate (RFC 1951)
has no header, which matters on rows of a hundred bytes; PNG's differences to the left and the upper pixel let it see
smooth images.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from polymode.core.errors import CapabilityError
from polymode.core.spec import Columns, Spec


def compressed_bits(x: Tensor, spec: Spec) -> Tensor:
    """L(x), the bits of each row under raw deflate, (B,): the shortest over PNG's filters, and packed bits of binaries.

    Raises:
        CapabilityError: data that are not on a lattice of one number of levels.
    """
    candidates = as_bytes(x, spec)
    return torch.tensor([min(_deflated(c[i]) for c in candidates) for i in range(len(x))], dtype=torch.float64)


def as_bytes(x: Tensor, spec: Spec) -> list[np.ndarray]:
    """Rows as whole numbers of as few bytes as hold them, and what else of them may compress better.

    Raises:
        CapabilityError: data that are not on a lattice of one number of levels.
    """
    if spec.levels is None or isinstance(spec.support, Columns):
        raise CapabilityError(f"{spec} has no length in bits; complexity is for pixels, bits, levels and tokens")
    width = np.uint8 if spec.levels <= 256 else np.dtype("<u2") if spec.levels <= 65536 else np.dtype("<u4")
    rows = spec.check(x).cpu().numpy().astype(width)
    candidates = [rows]
    if spec.kind == "image":
        # differences to the left and the upper neighbour, modulo the width as in PNG
        left, upper = rows.copy(), rows.copy()
        left[..., 1:] -= rows[..., :-1]
        upper[..., 1:, :] -= rows[..., :-1, :]
        candidates += [left, upper]
    if spec.levels == 2:
        candidates.append(np.packbits(rows.reshape(len(rows), -1), axis=1))
    return candidates


def _deflated(row: np.ndarray) -> int:
    """Bits of a row's bytes under deflate without a header."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return 8 * (len(packer.compress(np.ascontiguousarray(row).tobytes())) + len(packer.flush()))
