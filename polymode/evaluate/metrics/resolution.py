"""How well small pictures are enlarged: PSNR and SSIM with bicubic interpolation beside, and whether they shrink back.

    PSNR, SSIM            of the enlarged picture against the one that was shrunk (`evaluate.fidelity`)
    PSNR over bicubic     the same less that of bicubic interpolation, picture by picture; SSIM over bicubic alike
    consistency           PSNR of the enlarged picture's own area means against the source

Ledig et al. 2017 (arXiv:1609.04802, table 2) put both beside bicubic; consistency is that of Saharia et al. 2021
(arXiv:2104.07636, section 4.4). A picture that shrinks back without an error counts as one whose error is that of
rounding, 1/12 of a squared level. 95 % intervals by Student's t over pictures. SSIM is left out where a picture is
smaller than its window.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.fidelity import WINDOW, bicubic, psnr, ssim
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval

#: mean squared error of rounding, in squared levels
ROUNDING = 1 / 12


def factor_of(condition_spec: ConditionSpec | None, spec: Spec) -> int:
    """How many times as wide and high data are as their sources; 1 where they are not, or by no whole number."""
    source = None if condition_spec is None else condition_spec.source
    if source is None or spec.kind != "image":
        return 1
    down, across = (big / small for big, small in zip(spec.shape[1:], source.shape[1:], strict=True))
    return int(down) if down == across and down == int(down) else 1


def consistency(x: Tensor, sources: Tensor, spec: Spec, source: Spec) -> Tensor:
    """(B,) decibels of the area means of pictures (B, C, H, W) against sources (B, C, h, w)."""
    top = (source.levels or 2) - 1
    means = F.avg_pool2d(x.double(), spec.shape[1] // source.shape[1]) * (top / ((spec.levels or 2) - 1))
    error = (means - sources.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(top**2 / error.clamp(min=ROUNDING))


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    assert c.condition is not None
    assert c.condition.image is not None
    assert c.data.condition_spec is not None
    spec, source, n = c.data.spec, c.data.condition_spec.source, c.n
    assert source is not None
    if source.shape[0] != spec.shape[0]:
        raise PolymodeError(f"{source} and {spec} have different channels, so there is no bicubic enlargement")
    samples, real, sources = c.samples[:n], c.reference.real[:n], c.condition.image[:n]
    plain = bicubic(sources, source, spec)
    found = []
    for name, score in (("PSNR", psnr), ("SSIM", ssim)):
        if name == "SSIM" and min(spec.shape[1:]) < WINDOW:
            continue
        mine, theirs = (score(real, x, spec) for x in (samples, plain))
        if not (mine.isfinite().all() and theirs.isfinite().all()):
            raise PolymodeError("some pictures are enlarged without any error, which has no PSNR; measure other rows")
        how = f"against the pictures that were shrunk; bicubic has {float(theirs.mean()):.4g}; Student's"
        found.append(Measurement(name, *mean_interval(mine), n, "higher", how))
        gain = "mean over pictures of the difference to bicubic interpolation; Student's"
        found.append(Measurement(f"{name} over bicubic", *mean_interval(mine - theirs), n, "higher", gain))
    back = mean_interval(consistency(samples, sources, spec, source))
    found.append(Measurement("consistency", *back, n, "higher", "PSNR of their area means against sources; Student's"))
    return found
