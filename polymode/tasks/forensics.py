"""Real or generated: a detector for the samples of any model, and how far one generator's detector knows another's.

Durall, Keuper and Keuper 2020, "Watch your up-convolution: CNN based generative deep neural networks are failing to
reproduce spectral distributions", arXiv:2003.01826, tell generated images by their radially averaged power spectrum,
which sees what upsampling leaves behind. Wang et al. 2020, "CNN-generated images are surprisingly easy to spot ... for
now", arXiv:1912.11035, ask whether a detector trained on one generator knows others. With F the Fourier transform of an
image of H x W pixels in [0, 1],

    A(k) = log mean of |F(u, v)|^2 over k <= max(H, W) sqrt((u/H)^2 + (v/W)^2) < k + 1        (Durall eqs. 1-3)

`spectrum` holds it; `Detector` puts a classifier on it and on other features; `cross_generator_matrix` trains on
generator i and tests on generator j, always against real rows that no detector has seen.

    spectrum      A(0 .. K)                          images; channels are averaged after squaring
    random-conv   averages of random convolutions    images (`evaluate.features`)
    raw           standardised values                all but tokens
    bigrams       unigram and bigram frequencies     tokens

The classifier is a ridge regression of +-1 on the features and 256 random Fourier features of them, that of the C2ST
metric: solved in closed form, the same at every run, both sides weighing the same. Its score orders rows; the area
under the ROC curve needs no threshold.

Deviations: Durall et al. normalise A by A(0) and use a support vector machine or logistic regression. Both papers train
on tens of thousands of photographs; areas here are those of small detectors on the rows that are given. Cost: N F^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import DataError, PolymodeError, require_choice
from polymode.core.spec import Spec, Tokens
from polymode.data.dataset import DataSet, Split
from polymode.evaluate import html
from polymode.evaluate.features import features_for
from polymode.evaluate.measurement import none_if_nan
from polymode.evaluate.metrics.c2st import FOURIER, RIDGE
from polymode.evaluate.metrics.mmd import bandwidth
from polymode.evaluate.statistics import auroc

FeatureName = Literal["auto", "spectrum", "random-conv", "raw", "bigrams"]
#: fewest rows a side that a detector is fitted on
LEAST_ROWS = 8
#: rows and columns of a matrix that are no generator
POOLED, REAL = "all others", "real"


def spectrum(x: Tensor, spec: Spec) -> Tensor:
    """A(k), the radially averaged log power spectrum of images (N, C, H, W): (N, K) float64.

    Raises:
        DataError: data that are no images.
    """
    if spec.kind != "image":
        raise DataError(f"a spectrum is made of images, these are {spec}; use other features")
    y = spec.check(x).double()
    # rounding to levels leaves noise of this power; below it there is nothing to see, and constant images stay finite
    floor = 1e-12
    if spec.levels is not None:
        y = y / (spec.levels - 1)
        floor = y[0, 0].numel() / (12 * (spec.levels - 1) ** 2)
    height, width = y.shape[-2:]
    power = torch.fft.fft2(y).abs().square().mean(1)  # (N, H, W)
    u, v = torch.fft.fftfreq(height).double(), torch.fft.fftfreq(width).double()
    ring = (max(height, width) * (u[:, None] ** 2 + v**2).sqrt() + 1e-9).long().flatten()  # (H W)
    count = torch.bincount(ring)
    total = torch.zeros(len(y), len(count), dtype=torch.float64).index_add_(1, ring, power.flatten(1))
    return (total[:, count > 0] / count[count > 0] + floor).log()


@dataclass(frozen=True)
class Detector:
    """A classifier of real and generated rows; `Detector.fit` makes one.

    Args:
        spec: what one datum is.
        function: (N, *shape) -> (N, F) features, standardised.
        design: features -> (N, P), the features with their Fourier features and a constant.
        weights: (P,) of the ridge regression.
        features: names of the features.
        rows: real and generated rows that it was fitted on.
    """

    spec: Spec
    function: Callable[[Tensor], Tensor]
    design: Callable[[Tensor], Tensor]
    weights: Tensor
    features: str
    rows: tuple[int, int]

    @staticmethod
    def fit(spec: Spec, real: Tensor, generated: Tensor, *, features: FeatureName = "auto", seed: int = 0) -> Detector:
        """The detector of these rows.

        Args:
            spec: what one datum is.
            real, generated: (N, *shape) and (M, *shape) in data space; at least 8 of each.
            features: one of the module's table; "auto" is spectrum and random-conv on images, bigrams on tokens, else
                raw.
            seed: of the random Fourier features.

        Raises:
            PolymodeError: data that do not fit the spec, too few rows, or features that such data do not have.
        """
        for name, x in (("real rows", real), ("generated rows", generated)):
            spec.check(x, name=name)
            if len(x) < LEAST_ROWS:
                raise PolymodeError(f"a detector needs at least {LEAST_ROWS} {name} and there are {len(x)}; give more")
        name, raw = _features(spec, real, features)
        y = raw(torch.cat([real, generated]))
        loc, deviation = y.mean(0), y.std(0, correction=0)
        # rounding leaves a constant feature a spread of some 1e-16 of its size
        varies = deviation > 1e-9 * loc.abs().clamp(min=1e-3)
        scale = torch.where(varies, deviation, 1.0)

        def function(x: Tensor) -> Tensor:
            return torch.where(varies, (raw(x) - loc) / scale, 0.0)

        z = torch.where(varies, (y - loc) / scale, 0.0)
        design = _design(z, seed)
        inputs = design(z)
        target = torch.cat([-torch.ones(len(real)), torch.ones(len(generated))]).double()
        # each side counts half, however many rows it has
        share = torch.where(target < 0, len(target) / (2 * len(real)), len(target) / (2 * len(generated)))
        gram = inputs.T @ (share[:, None] * inputs)
        ridge = RIDGE * len(target) * torch.eye(len(gram), dtype=gram.dtype)
        weights = torch.linalg.solve(gram + ridge, inputs.T @ (share * target))
        return Detector(spec, function, design, weights, name, (len(real), len(generated)))

    def scores(self, x: Tensor) -> Tensor:
        """(N,), higher = more likely generated; about -1 for real and 1 for generated rows."""
        self.spec.check(x)
        return self.design(self.function(x)) @ self.weights

    def auroc(self, real: Tensor, generated: Tensor) -> tuple[float, float, float]:
        """(area, low, high) under the ROC curve on rows that the detector was not fitted on; 0.5 is chance."""
        return auroc(self.scores(generated), self.scores(real))

    @property
    def protocol(self) -> str:
        """How it was made, in words."""
        return (
            f"ridge on {self.features} and {FOURIER} Fourier features, fitted on {self.rows[0]} real and "
            f"{self.rows[1]} generated rows"
        )


def _design(z: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """Features with random Fourier features of the median width, and a constant."""
    draws = rng.generator(seed)
    scale = bandwidth(z[torch.randperm(len(z), generator=draws)])
    frequencies = rng.randn((z.shape[1], FOURIER), draws, z) / scale
    phases = 2 * math.pi * rng.rand((FOURIER,), draws, z)

    def design(z: Tensor) -> Tensor:
        waves = math.sqrt(2) * torch.cos(z @ frequencies + phases)
        return torch.cat([z, waves, torch.ones(len(z), 1, dtype=z.dtype)], 1)

    return design


def _features(spec: Spec, real: Tensor, name: str) -> tuple[str, Callable[[Tensor], Tensor]]:
    """(name, function) of the features of a spec; scales of those that have some are taken from real rows."""
    is_image = spec.kind == "image"
    choices = ("bigrams",) if isinstance(spec.support, Tokens) else (*("spectrum", "random-conv") * is_image, "raw")
    require_choice("features", name, ("auto", *choices))

    def spectra(x: Tensor) -> Tensor:
        return torch.cat([spectrum(part, spec) for part in x.split(512)])

    if name == "spectrum":
        return name, spectra
    wanted = name if name != "auto" else "random-conv" if is_image else choices[0]
    part = Split(real)
    space = features_for(DataSet("rows", spec, part, part, part), wanted)
    if name == "auto" and is_image:
        return f"spectrum and {space.name}", lambda x: torch.cat([spectra(x), space(x)], 1)
    return space.name, space


@dataclass(frozen=True)
class CrossMatrix:
    """Areas under the ROC curve of detectors trained on one generator and tested on another.

    Args:
        trained, tested: names of rows and columns; the row "all others" is trained on every generator but the tested
            one, the column "real" tests on real rows in place of generated ones, where only 0.5 is right.
        value, low, high: (rows, columns) areas with 95 % intervals; nan where a cell has no meaning.
        n: rows on the smaller side of each test.
        protocol: how it was made, in words.
    """

    trained: tuple[str, ...]
    tested: tuple[str, ...]
    value: Tensor
    low: Tensor
    high: Tensor
    n: int
    protocol: str

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON: a cell a pair; nan becomes None."""
        cells = [
            {
                "trained": row, "tested": column, "auroc": none_if_nan(float(self.value[i, j])),
                "low": none_if_nan(float(self.low[i, j])), "high": none_if_nan(float(self.high[i, j])),
            }
            for i, row in enumerate(self.trained)
            for j, column in enumerate(self.tested)
        ]  # fmt: skip
        return {"trained": list(self.trained), "tested": list(self.tested), "n": self.n, "protocol": self.protocol,
                "cells": cells}  # fmt: skip

    def to_html(self, title: str, facts: Mapping[str, str] | None = None) -> str:
        """A page with the matrix as a heat map."""
        body = [
            f"<style>{_STYLE}</style>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">{escape(self.protocol)}; tested on {self.n} rows a side that no detector has seen.</p>',
            "<p>Area under the ROC curve of telling generated from real rows, with its 95 % interval. 0.5 is chance: "
            "the detector sees no difference. 1 is certainty. A row is what a detector was trained on, a column what "
            "it was tested on; off the diagonal it meets a generator that it does not know.</p>",
            _heat_map(self),
            f'<p class="soft">{"".join(_key(a / 10) for a in range(5, 11))} An area below 0.5 is shaded as 0.5: what '
            "the detector learned points the wrong way there.</p>",
            f"<p>The row <b>{POOLED}</b> is trained on every generator but the tested one. The column <b>{REAL}</b> "
            "holds one half of the real rows against the other, where every interval should hold 0.5.</p>",
            html.definition_list((facts or {}).items()),
        ]
        return html.page(title, body, wide=True)


#: colours run from the paper's own at 0.5 to the accent at 1
_STYLE = """
table.heat{border-collapse:separate;border-spacing:3px;width:auto}
table.heat th,table.heat td{border:0;padding:.55rem .7rem;text-align:center;vertical-align:middle}
table.heat tbody th{text-align:right;position:static}table.heat thead th{color:var(--ink)}
table.heat td,.key{--s:calc(max(0, var(--a) - .5)*150%);background:color-mix(in srgb,var(--bar) var(--s),var(--card));
border-radius:6px;font-variant-numeric:tabular-nums;min-width:6.2rem}
table.heat td.own{outline:2px solid var(--soft)}table.heat td.none{background:none;color:var(--soft)}
table.heat td b{display:block;font-size:1.1rem}table.heat td small{color:var(--ink);opacity:.75;white-space:nowrap}
.key{display:inline-block;font-style:normal;text-align:center;min-width:2.6rem;padding:.15rem .3rem;margin-right:3px;
color:var(--ink)}
"""


def _key(area: float) -> str:
    return f'<i class="key" style="--a:{area}">{area:g}</i>'


def _heat_map(m: CrossMatrix) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in m.tested)
    rows = []
    for i, name in enumerate(m.trained):
        cells = []
        for j, other in enumerate(m.tested):
            area, low, high = (float(v[i, j]) for v in (m.value, m.low, m.high))
            if math.isnan(area):
                cells.append('<td class="none">–</td>')
                continue
            own = ' class="own"' if name == other else ""
            cells.append(
                f'<td{own} style="--a:{area:.3f}"><b>{area:.2f}</b><small>{low:.2f} to {high:.2f}</small></td>'
            )
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    return (
        '<div class="scroll"><table class="heat"><thead><tr><th>trained on \\ tested on</th>'
        f"{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def cross_generator_matrix(
    spec: Spec,
    real_train: Tensor,
    real_test: Tensor,
    generators: Mapping[str, Tensor],
    *,
    features: FeatureName = "auto",
    seed: int = 0,
) -> CrossMatrix:
    """Train a detector on each generator, test it on every other.

    Args:
        spec: what one datum is.
        real_train, real_test: real rows to train and to test on; they should share none.
        generators: samples (N, *shape) of each by name; the first half trains, the second tests.
        features, seed: as in `Detector.fit`.

    Raises:
        PolymodeError: no generator, a reserved name, too few rows, or rows that do not fit the spec.
    """
    if not generators:
        raise PolymodeError("there is no generator to tell from real data; give samples of at least one")
    if reserved := {POOLED, REAL} & set(generators):
        raise PolymodeError(f"a generator is named {reserved.pop()!r}, which the matrix uses itself; give another name")
    spec.check(real_test, name="real test rows")
    if len(real_test) < 2:
        raise PolymodeError(f"a test needs at least 2 real rows and there are {len(real_test)}; give more")
    names = tuple(generators)
    halves = {name: _halves(x, name, spec) for name, x in generators.items()}
    trained = (*names, *((POOLED,) if len(names) > 1 else ()))
    tested = (*names, REAL)
    value = torch.full((3, len(trained), len(tested)), torch.nan, dtype=torch.float64)
    middle = len(real_test) // 2
    detector = None
    for i, name in enumerate(trained):
        if name != POOLED:
            detector = Detector.fit(spec, real_train, halves[name][0], features=features, seed=seed)
        for j, other in enumerate(tested):
            if name == POOLED:
                if other == REAL:
                    continue
                pool = _pool([halves[n][0] for n in names if n != other], seed)
                detector = Detector.fit(spec, real_train, pool, features=features, seed=seed)
            assert detector is not None
            if other == REAL:
                found = detector.auroc(real_test[:middle], real_test[middle:])
            else:
                found = detector.auroc(real_test, halves[other][1])
            value[:, i, j] = torch.tensor(found, dtype=torch.float64)
    assert detector is not None
    n = min(len(real_test), *(len(test) for _, test in halves.values()))
    first = len(halves[names[0]][0])
    protocol = (
        f"ridge on {detector.features} and {FOURIER} Fourier features, trained on {len(real_train)} real and {first} "
        "generated rows"
    )
    return CrossMatrix(trained, tested, value[0], value[1], value[2], n, protocol)


def _halves(x: Tensor, name: str, spec: Spec) -> tuple[Tensor, Tensor]:
    spec.check(x, name=f"samples of {name}")
    if len(x) < 2 * LEAST_ROWS:
        raise PolymodeError(
            f"{name} gives {len(x)} samples, half to train and half to test; give at least {2 * LEAST_ROWS}"
        )
    return x[: len(x) // 2], x[len(x) // 2 :]


def _pool(parts: list[Tensor], seed: int) -> Tensor:
    """As many rows as the largest part has, drawn from all of them."""
    every = torch.cat(parts)
    return every[torch.randperm(len(every), generator=rng.generator(seed))[: max(map(len, parts))]]
