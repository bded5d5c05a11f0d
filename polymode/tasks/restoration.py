"""Mending pictures and other data, one verb a damage, by any model that has a way to do it.

    upscale      y = means of blocks of x    a model that `Restores`, or learned it (`Translates` from small pictures)
    deblur       y = x under a Gaussian      `Restores`
    colourise    y = brightness of x         `Restores`, or `Translates` from grey pictures
    denoise      y = x + noise               `Restores`; else through codes (`HasLatents`), see `tasks/denoising.py`
    complete     y = part of x               `Completes`, see `tasks/completion.py`
    vary         data like x                 `Varies` (SDEdit, Meng et al. 2022, arXiv:2108.01073), or codes

Without `Varies` the code of a datum is blended with that of a sample, m + sqrt(1 - s^2) (z - m) + s (z_sample - m),
m the mean code of samples, which keeps mean and covariance of codes. `consistency` is the PSNR of a restored picture,
damaged again, against what came (40 dB: off by a hundredth of the range).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasLatents, Translates, Varies, require
from polymode.core.condition import Condition
from polymode.core.errors import DataError, PolymodeError
from polymode.core.model import GenerativeModel
from polymode.core.restoring import LinearOperator, Restores
from polymode.core.spec import Binary, Levels, Spec
from polymode.parts import operators
from polymode.tasks.completion import completions
from polymode.tasks.denoising import denoise

__all__ = ["colourise", "completions", "consistency", "damage", "deblur", "denoise", "restore", "upscale", "vary"]

#: data that are restored at once
BATCH = 256
#: samples whose codes say where codes lie
CODES = 512


def damage(task: str, spec: Spec, *, factor: int = 2, blur: float = 1.0, known: Tensor | None = None) -> LinearOperator:
    """What was done to pictures that a task mends: "upscale", "deblur", "colourise", "denoise", or "complete"."""
    match task:
        case "upscale":
            return operators.downscale(spec.shape, factor)
        case "deblur":
            return operators.gaussian_blur(spec.shape, blur)
        case "colourise":
            return operators.grey(spec.shape[0])
        case "denoise":
            return operators.Identity()
        case "complete" if known is not None:
            return operators.Mask(known)
    raise PolymodeError(f"task={task!r}, expected upscale, deblur, colourise, denoise, or complete with what is known")


def restore(
    model: GenerativeModel,
    y: Tensor,
    operator: LinearOperator,
    condition: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    **options: Any,
) -> Tensor:
    """Data of which y (N, ...) are the degraded version, in batches; see `Restores.restore`.

    Raises:
        CapabilityError: a model that restores nothing.
    """
    require(model, Restores, "restore")
    assert isinstance(model, Restores)
    g = rng.resolve(generator, seed)
    found = []
    for i in range(0, len(y), BATCH):
        own = None if condition is None else condition[i : i + BATCH]
        found.append(model.restore(y[i : i + BATCH], operator, own, generator=g, **options))
    return torch.cat(found)


def upscale(
    model: GenerativeModel,
    small: Tensor,
    factor: int,
    condition: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    **options: Any,
) -> Tensor:
    """Pictures (N, C, h, w) enlarged to (N, C, factor h, factor w), the size of the model's.

    A model that learned to enlarge (srgan, sr3) does so; any other that `Restores` draws pictures whose means of blocks
    are the small ones.

    Raises:
        CapabilityError: a model with neither way.
        PolymodeError: a factor that does not lead to the size of the model's pictures, or a condition for a model that
            learned it, which is told the picture alone.
    """
    _need_pictures(model)
    if (source := learned_source(model)) is not None and source.shape != model.spec.shape:
        wanted = model.spec.shape[1] // source.shape[1]
        if factor != wanted:
            raise PolymodeError(f"factor={factor}, and the model learned to enlarge {wanted} times")
        return _translated(model, small, condition, rng.resolve(generator, seed), options)
    operator = operators.downscale(model.spec.shape, factor)
    return restore(model, small, operator, condition, generator=generator, seed=seed, **options)


def deblur(
    model: GenerativeModel,
    blurred: Tensor,
    sd: float,
    condition: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    **options: Any,
) -> Tensor:
    """Pictures (N, C, H, W) without the Gaussian blur of `sd` pixels that is in them.

    Rounding to levels is noise to a deblurrer, and by default as much is expected as it makes: 0.29 of a level.

    Raises:
        CapabilityError: a model that restores nothing.
    """
    _need_pictures(model)
    operator = operators.gaussian_blur(model.spec.shape, sd)
    if not blurred.is_floating_point():
        options.setdefault("noise", 1 / math.sqrt(12))
    return restore(model, blurred, operator, condition, generator=generator, seed=seed, **options)


def colourise(
    model: GenerativeModel,
    grey: Tensor,
    condition: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    **options: Any,
) -> Tensor:
    """Grey pictures (N, 1, H, W) in colours that have their brightness.

    Raises:
        CapabilityError: a model with no way to do it.
        DataError: a model of grey pictures.
        PolymodeError: a condition for a model that learned it, which is told the picture alone.
    """
    _need_pictures(model)
    channels = model.spec.shape[0]
    if channels == 1:
        raise DataError(f"the model draws {model.spec}, which has no colours; take one of pictures of three channels")
    if (source := learned_source(model)) is not None and source.shape[0] == 1:
        return _translated(model, grey, condition, rng.resolve(generator, seed), options)
    return restore(model, grey, operators.grey(channels), condition, generator=generator, seed=seed, **options)


def vary(
    model: GenerativeModel,
    x: Tensor,
    strength: float = 0.5,
    condition: Condition | None = None,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    **options: Any,
) -> Tensor:
    """Data like x (N, *shape): x itself at a strength of 0 (its reconstruction, of codes), forgotten at 1.

    Raises:
        CapabilityError: a model that neither varies data nor has codes.
        PolymodeError: a strength outside [0, 1].
    """
    g = rng.resolve(generator, seed)
    starts = range(0, len(x), BATCH)
    rows = [(x[i : i + BATCH], None if condition is None else condition[i : i + BATCH]) for i in starts]
    if isinstance(model, Varies):
        return torch.cat([model.vary(own, strength, c, generator=g, **options) for own, c in rows])
    require(model, HasLatents, "vary")
    assert isinstance(model, HasLatents)
    if not 0 <= strength <= 1 or options:
        raise PolymodeError(
            f"strength={strength} and options {', '.join(options) or 'none'} came to a model that varies codes, "
            "expected a strength from 0 to 1 and no options"
        )
    kept, found = math.sqrt(1 - strength**2), []
    for own, c in rows:
        times = -(-CODES // len(own))
        around = None if c is None else c.repeat_interleave(times)
        others = model.encode(model.sample(len(own) * times, around, generator=g), around)
        centre = others.mean(0)
        drawn = others[::times]  # the first of each datum's, under its own condition
        z = centre + kept * (model.encode(own, c) - centre) + strength * (drawn - centre)
        found.append(model.decode(z, c).cpu())
    return torch.cat(found)


def consistency(x: Tensor, y: Tensor, operator: LinearOperator, spec: Spec) -> Float[Tensor, " B"]:
    """The peak signal-to-noise ratio of A x against y in decibels, a number a datum; infinite where they are equal."""
    if not isinstance(spec.support, Binary | Levels):
        raise PolymodeError(f"{spec} has no peak; the signal-to-noise ratio is for bits and levels")
    error = (operator(x.double()) - operator(operator.back(y.double()))).flatten(1).square().mean(1)
    return 10 * torch.log10((spec.support.levels - 1) ** 2 / error)


def learned_source(model: GenerativeModel) -> Spec | None:
    """What a model that translates is given; None for one that does not."""
    return next(iter(model.routes.values()))[0] if isinstance(model, Translates) else None


def _translated(
    model: GenerativeModel, source: Tensor, condition: Condition | None, generator: torch.Generator,
    options: dict[str, Any],
) -> Tensor:  # fmt: skip
    assert isinstance(model, Translates)
    if condition is not None:
        raise PolymodeError(f"a condition came, and {type(model).__name__} is told the picture alone; leave it out")
    return torch.cat([model.translate(rows, generator=generator, **options) for rows in source.split(BATCH)])


def _need_pictures(model: GenerativeModel) -> None:
    if model.spec.kind != "image":
        raise DataError(f"pictures are mended by a model of pictures, and this one learned {model.spec}")
