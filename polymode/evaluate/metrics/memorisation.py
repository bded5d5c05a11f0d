"""Whether samples lie nearer to training rows than fresh data do.

Meehan, Chaudhuri and Dasgupta 2020, "A non-parametric test to detect data-copying in generative models",
arXiv:2004.05675, section 3. With d(z) the distance of z to its nearest training row:

    copying = P(d(sample) < d(test row)) + 1/2 P(equal)

1/2 is what fresh data give; towards 1 the model repeats its training rows; towards 0 it stays away from the data.
`copying` holds it (the Mann-Whitney statistic over n m), with the standard error of Hanley and McNeil 1982.

A model may copy here and invent there, which the whole does not show. With U_c the number of (sample, test row) pairs
of cell c in which the sample is farther from its nearest training row, ties counting half, and w_c the share of test
rows in c, over the k-means cells of training rows that hold at least 20 of each:

    C_T = sum_c w_c Z_c / sum_c w_c,   Z_c = (U_c - n_c m_c / 2) / sd(U_c),   C_T << 0 says copying      (section 4)

`z_score` holds Z_c with the tie correction of the variance, `cell_score` C_T. It grows with sqrt(n), as z-scores do.
Deviation: a nearest training row may lie in another cell.

The last number is the share of samples that are training rows to the bit, on lattice data. Neighbours are looked for
among at most 20,000 training rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.data.dataset import DataSet
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.features import FeatureSpace
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import auroc, jackknife, jackknife_groups, nearest, share_interval
from polymode.parts.kmeans import assign, cluster

#: rows of each side that a cell of C_T holds at least, rows a cell expects, the most cells, and rows that make them
LEAST, ROWS_A_CELL, MOST_CELLS, CELL_ROWS = 20, 60, 20, 5000
#: pairs held at once
CHUNK = 1 << 22


def copying(of_samples: Tensor, of_test: Tensor) -> tuple[float, float, float]:
    """(share, low, high) from nearest-neighbour distances of samples (M,) and of test rows (N,)."""
    # the nearer the likelier a copy
    return auroc(-of_samples, -of_test)


def z_score(of_samples: Tensor, of_test: Tensor) -> float:
    """Z of the Mann-Whitney statistic of distances (M,) and (N,), positive where samples are farther; 0 where all tie.

    Raises:
        PolymodeError: no distances on a side.
    """
    return float(
        _leaving_out(of_samples, of_test, torch.zeros_like(of_samples).long(), torch.zeros_like(of_test).long(), 1)[0]
    )


def _leaving_out(of_samples: Tensor, of_test: Tensor, group_s: Tensor, group_t: Tensor, groups: int) -> Tensor:
    """Z of all rows, then Z without each group of rows: (1 + G,).

    The pairs of two groups are counted once, so that leaving groups out costs nothing. The tie correction is that of
    all rows.
    """
    if min(len(of_samples), len(of_test)) == 0:
        raise PolymodeError(f"a z-score needs distances on both sides, these are {len(of_samples)} and {len(of_test)}")
    pairs = torch.zeros(groups, groups, dtype=torch.float64)
    for rows in torch.arange(len(of_samples)).split(max(1, CHUNK // len(of_test))):
        farther = (of_samples[rows, None] > of_test).double() + 0.5 * (of_samples[rows, None] == of_test)
        by_test = torch.zeros(len(rows), groups, dtype=torch.float64).index_add_(1, group_t, farther)
        pairs.index_add_(0, group_s[rows], by_test)
    without = pairs.sum() - pairs.sum(1) - pairs.sum(0) + pairs.diagonal()
    u = torch.cat([pairs.sum()[None], without])
    m, n = (
        len(g) - torch.cat([torch.zeros(1), torch.bincount(g, minlength=groups)]).double() for g in (group_s, group_t)
    )
    total = len(of_samples) + len(of_test)
    tied = torch.cat([of_samples, of_test]).unique(return_counts=True)[1].double()
    untied = 1 - float((tied**3 - tied).sum()) / (total**3 - total)
    variance = m * n * (m + n + 1) / 12 * untied
    return torch.where(variance > 0, (u - m * n / 2) / variance.clamp(min=1e-300).sqrt(), 0.0)


def cell_score(
    of_samples: Tensor, sample_cells: Tensor, of_test: Tensor, test_cells: Tensor
) -> tuple[float, float, float]:
    """(C_T, low, high) from distances and cells of samples (M,) and of test rows (N,).

    The interval is the jackknife's, never narrower than between equal distributions, where every Z_c is standard
    normal.

    Raises:
        PolymodeError: no cell holds enough of both.
    """
    groups = jackknife_groups(min(len(of_samples), len(of_test)))
    of_s, of_t = torch.arange(len(of_samples)) % groups, torch.arange(len(of_test)) % groups
    found, weights = [], []
    for cell in test_cells.unique().tolist():
        s, t = sample_cells == cell, test_cells == cell
        if min(int(s.sum()), int(t.sum())) >= LEAST:
            found.append(_leaving_out(of_samples[s], of_test[t], of_s[s], of_t[t], groups))
            weights.append(float(t.sum()))
    if not found:
        raise PolymodeError(
            f"C_T needs a cell with {LEAST} samples and {LEAST} test rows, and none has them; use more rows, "
            "or the memorisation share alone"
        )
    share = torch.tensor(weights).double() / sum(weights)
    scores = share @ torch.stack(found)  # (1 + G,)
    value, low, _ = jackknife(float(scores[0]), scores[1:], correct=False)
    half = max(value - low, 1.96 * float(share.norm()))
    return value, value - half, value + half


def neighbours(c: Comparison) -> tuple[Tensor, Tensor]:
    """(distance, index among the reference's training rows) of each sample's nearest training row."""

    def find() -> tuple[Tensor, Tensor]:
        distance, which = nearest(plain_samples(c).float(), train_features(c), 1)
        return distance[:, 0], which[:, 0]

    return c.cached("neighbours", find)


def test_neighbours(c: Comparison) -> Tensor:
    """The distance of each test row to its nearest training row, (n,)."""
    return c.reference.cached("test neighbours", lambda: nearest(plain_real(c).float(), train_features(c), 1)[0][:, 0])


def plain_features(data: DataSet) -> FeatureSpace:
    """Distances between data as they are; for tokens between their bigrams."""
    from polymode.evaluate.features import features_for

    return features_for(data, "auto" if data.spec.kind == "tokens" else "raw")


def plain_space(c: Comparison) -> FeatureSpace:
    """The `plain_features` of what is compared, made once."""
    return c.reference.cached("plain space", lambda: plain_features(c.data))


def plain_samples(c: Comparison) -> Tensor:
    """(M, F) of the samples in that space, made once."""
    return c.cached("plain samples", lambda: plain_space(c)(c.samples))


def plain_real(c: Comparison) -> Tensor:
    """(n, F) of the test rows in that space, made once."""
    return c.reference.cached("plain real", lambda: plain_space(c)(c.reference.real))


def train_features(c: Comparison) -> Tensor:
    """(N, F) float32 of the training rows that are looked among."""
    return c.reference.cached("train features", lambda: plain_space(c)(c.reference.neighbours).float())


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    of_test = test_neighbours(c)
    of_samples, which = neighbours(c)
    value, low, high = copying(of_samples, of_test)
    among = f"among {len(c.reference.neighbours)} training rows, distances in {plain_space(c).name} features"
    found = [
        Measurement("memorisation", value, low, high, c.n, None, f"0.5 for fresh data, 1 for copies; {among}"),
        _by_cell(c, of_samples, of_test, among),
    ]
    if c.data.spec.is_discrete:
        same = (c.samples == c.reference.neighbours[which]).flatten(1).all(1)
        share, share_low, share_high = share_interval(float(same.sum()), len(same))
        repeated = c.reference.cached("repeats", lambda: _repeats(c))
        protocol = f"samples equal to a training row; test rows: {repeated:.3g}; {among}"
        found.append(Measurement("copies", share, share_low, share_high, c.n, None, protocol))
    return found


def _by_cell(c: Comparison, of_samples: Tensor, of_test: Tensor, among: str) -> Measurement:
    """C_T over k-means cells of the training rows; refused where no cell holds enough."""

    def make() -> tuple[Tensor, Tensor]:
        rows = train_features(c)[:CELL_ROWS]
        k = max(1, min(MOST_CELLS, c.reference.n // ROWS_A_CELL, len(rows)))
        centres = cluster(rows, k, c.generator("cells"))[1]
        return centres, assign(plain_real(c).float(), centres)

    centres, test_cells = c.reference.cached("cells", make)
    sample_cells = assign(plain_samples(c).float(), centres)
    try:
        value, low, high = cell_score(of_samples, sample_cells, of_test, test_cells)
    except PolymodeError as error:
        return Measurement.refused("C_T", c.n, None, str(error))
    protocol = f"0 for fresh data, far below 0 for copies; {len(centres)} k-means cells; {among}"
    return Measurement("C_T", value, low, high, c.n, None, protocol)


def _repeats(c: Comparison) -> float:
    """The share of test rows that are training rows: what an honest model may reach."""
    which = nearest(plain_real(c).float(), train_features(c), 1)[1][:, 0]
    return float((c.reference.real == c.reference.neighbours[which]).flatten(1).all(1).double().mean())
