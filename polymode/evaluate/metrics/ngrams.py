"""BLEU of samples against test sequences, BLEU of samples against each other, and the divergence of their n-grams.

Papineni, Roukos, Ward and Zhu 2002, "BLEU: a method for automatic evaluation of machine translation", ACL, sections
2.1-2.3. With c_s(g) how often the n-gram g is in the sequence s:

    p_n  = sum_s sum_g min(c_s(g), max_r c_r(g)) / sum_s sum_g c_s(g)       s candidates, r references
    BLEU = exp(min(0, 1 - R / C)) (p_1 ... p_N)^{1/N}                       C their length, R that of the nearest
                                                                            reference of each, the shorter of two

`clipped` counts, `corpus_bleu` is the BLEU of samples against test sequences, all of them references of each sample.
Copies and one good sentence said again and again have a high BLEU; Self-BLEU (Zhu et al. 2018, "Texygen",
arXiv:1802.01886) is the mean over samples of the BLEU against all other samples: above that of real data
(the ceiling) samples repeat one another, below it they hold less order than data do. `self_bleu` holds it.

The Jensen-Shannon divergence between the n-gram shares p of data and q of samples, m = (p + q) / 2, in nats:

    JSD = H(m) - (H(p) + H(q)) / 2   in [0, ln 2]        (Lin 1991, IEEE Trans. Inf. Theory 37)

`jensen_shannon` holds it, without smoothing: it is finite wherever one is zero. The plug-in value is biased upwards,
the more so the rarer the n-grams: compare it with the ceiling, which has the same count.

Smoothing: none in `corpus_bleu`, as in the paper, so one order without a match makes it zero; in `self_bleu`, as in
Texygen, an order without a match counts as 0.1 matches (Chen and Cherry 2014, smoothing 1). N = 4, or the length of
a sequence where it is shorter. Tokens are the data's own (characters of a text), without those spelled by nothing
that fill up short strings. Intervals leave out one of 20 groups of sequences at a time; those of BLEU take the
references as given. At most 2^15 tokens are counted on each side, for BLEU those of at most 200 sequences. Cost
N L log L in the number of tokens L.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import jackknife, jackknife_groups

ORDER = 4
#: sequences on each side of a BLEU, and tokens on each side of any of these metrics
SEQUENCES, TOKENS = 200, 1 << 15
#: matches that an order without any counts as in a sentence's BLEU
EPSILON = 0.1


@dataclass(frozen=True)
class Counts:
    """How often each n-gram is in each sequence: entry e says that `gram[e]` is `count[e]` times in `owner[e]`."""

    owner: Tensor
    gram: Tensor
    count: Tensor
    grams: int

    def where(self, keep: Tensor) -> Counts:
        """Only some entries."""
        return Counts(self.owner[keep], self.gram[keep], self.count[keep], self.grams)


def count_ngrams(rows: Sequence[Tensor], order: int) -> list[Counts]:
    """Counts of n = 1 .. order in sequences of ids (T_i,), of any lengths; n-grams are numbered over all of them."""
    if not rows:
        raise PolymodeError("n-grams were asked of no sequences; give at least one")
    lengths = torch.tensor([len(r) for r in rows])
    line = torch.cat(list(rows)).long()
    owner = torch.arange(len(rows)).repeat_interleave(lengths)
    left = lengths.cumsum(0).repeat_interleave(lengths) - torch.arange(len(line))  # tokens to the sequence's end
    symbols, line = line.unique(return_inverse=True)
    at, code, grams = torch.arange(len(line)), line, len(symbols)
    found = []
    for n in range(1, order + 1):
        if n > 1:
            keep = left[at] >= n
            at = at[keep]
            # an n-gram is an (n-1)-gram and one more symbol, renumbered at once so that numbers stay small
            distinct, code = (code[keep] * len(symbols) + line[at + n - 1]).unique(return_inverse=True)
            grams = len(distinct)
        pairs, count = (owner[at] * max(1, grams) + code).unique(return_counts=True)
        found.append(Counts(pairs // max(1, grams), pairs % max(1, grams), count.double(), grams))
    return found


def clipped(candidates: Counts, most: Tensor, n: int) -> Tensor:
    """(n, 2) of each candidate: n-grams clipped by `most` (one an entry), and n-grams."""
    sums = torch.zeros(n, 2, dtype=torch.float64)
    sums[:, 0].index_add_(0, candidates.owner, torch.minimum(candidates.count, most))
    sums[:, 1].index_add_(0, candidates.owner, candidates.count)
    return sums


def combine(sums: Tensor, lengths: Tensor, nearest: Tensor, *, smoothing: float) -> Tensor:
    """BLEU (...) from clipped sums (..., N, 2), lengths and the references' lengths (...)."""
    matches, totals = sums[..., 0], sums[..., 1].clamp(min=1.0)  # no n-grams at all: no match, not 0 / 0
    precision = torch.where(matches > 0, matches, smoothing) / totals
    # exp(1 - R / 0) is 0: an empty candidate has a BLEU of nothing
    penalty = torch.where(lengths > 0, (1 - nearest / lengths.clamp(min=1.0)).clamp(max=0.0), -math.inf)
    return (precision.log().mean(-1) + penalty).exp()


def nearest_lengths(lengths: Tensor, references: Tensor, but: Tensor | None = None) -> Tensor:
    """Of each length (M,) the nearest in references (R,), the shorter of two; `but` (M,) is a reference to skip."""
    gaps = (lengths[:, None] - references).abs() + 0.5 * (references > lengths[:, None])  # a half breaks the tie
    if but is not None:
        gaps[torch.arange(len(lengths)), but] = math.inf
    return references[gaps.argmin(1)]


def corpus_bleu(
    candidates: Sequence[Tensor], references: Sequence[Tensor], *, order: int = ORDER, smoothing: float = 0.0
) -> tuple[float, float, float]:
    """(BLEU, low, high) of sequences of ids against all references; see the module."""
    _need_both(candidates, references)
    m = len(candidates)
    sums = []
    for counts in count_ngrams([*candidates, *references], order):
        ours = counts.owner < m
        theirs = counts.where(~ours)
        most = torch.zeros(counts.grams, dtype=torch.float64).scatter_reduce(0, theirs.gram, theirs.count, "amax")
        mine = counts.where(ours)
        sums.append(clipped(mine, most[mine.gram], m))
    each = torch.stack(sums, 1)  # (M, N, 2)
    lengths, of_references = (torch.tensor([float(len(s)) for s in side]) for side in (candidates, references))
    near = nearest_lengths(lengths, of_references).double()

    def bleu(rows: Tensor) -> float:
        part = each[rows].sum(0), lengths[rows].double().sum(), near[rows].sum()
        return float(combine(*part, smoothing=smoothing))

    return leave_out(bleu, m)


def self_bleu(rows: Sequence[Tensor], *, order: int = ORDER) -> tuple[float, float, float]:
    """(mean over sequences of their BLEU against all others, low, high); see the module."""
    if len(rows) < 2:
        raise PolymodeError(f"a sequence's BLEU against others needs at least 2 sequences and there are {len(rows)}")
    counted = count_ngrams(rows, order)
    lengths = torch.tensor([float(len(r)) for r in rows], dtype=torch.float64)

    def mean(kept: Tensor) -> float:
        there = torch.zeros(len(rows), dtype=torch.bool)
        there[kept] = True
        sums = []
        for counts in counted:
            some = counts.where(there[counts.owner])
            sums.append(clipped(some, _most_of_others(some), len(rows))[kept])
        near = nearest_lengths(lengths[kept], lengths[kept], torch.arange(len(kept)))
        return float(combine(torch.stack(sums, 1), lengths[kept], near, smoothing=EPSILON).mean())

    return leave_out(mean, len(rows))


def jensen_shannon(
    real: Sequence[Tensor], samples: Sequence[Tensor], *, order: int = ORDER
) -> tuple[float, float, float]:
    """(JSD in nats, low, high) of the n-grams of one order of two sets of sequences; see the module."""
    _need_both(samples, real)
    counts = count_ngrams([*real, *samples], order)[-1]
    groups = jackknife_groups(min(len(real), len(samples)))
    of_samples = counts.owner >= len(real)
    group = torch.where(of_samples, counts.owner - len(real), counts.owner) % groups
    where = (of_samples.long() * groups + group) * max(1, counts.grams) + counts.gram
    by_group = torch.zeros(2 * groups * max(1, counts.grams), dtype=torch.float64)
    table = by_group.index_add_(0, where, counts.count).view(2, groups, -1)
    whole = table.sum(1)
    if bool((whole.sum(-1) == 0).any()):
        raise PolymodeError(
            f"no sequence on one side has {order} tokens, so it has no {order}-grams; use a lower order"
        )
    without = whole[:, None] - table  # (2, groups, grams)
    kept = (without.sum(-1) > 0).all(0)  # a group that holds every n-gram of a side leaves no shares without it
    found = torch.cat([_divergence(whole[:, None]), _divergence(without[:, kept])])
    if int(kept.sum()) < 2:
        return float(found[0]), math.nan, math.nan
    value, low, high = jackknife(float(found[0]), found[1:], correct=False)
    return value, max(0.0, low), min(math.log(2), high)


def _divergence(counts: Tensor) -> Tensor:
    """JSD (B,) between the shares of counts (2, B, G)."""
    p, q = counts / counts.sum(-1, keepdim=True)
    m = (p + q) / 2
    # rounding may leave equal shares a little below zero
    return ((torch.xlogy(p, p) + torch.xlogy(q, q)) / 2 - torch.xlogy(m, m)).sum(-1).clamp(0.0, math.log(2))


def _most_of_others(counts: Counts) -> Tensor:
    """Of each entry, how often its n-gram is in that other sequence which has it most."""
    first = torch.zeros(counts.grams, dtype=torch.float64).scatter_reduce(0, counts.gram, counts.count, "amax")
    top = counts.count == first[counts.gram]
    holders = torch.zeros(counts.grams).index_add_(0, counts.gram, top.float())
    rest = counts.where(~top)
    second = torch.zeros(counts.grams, dtype=torch.float64).scatter_reduce(0, rest.gram, rest.count, "amax")
    alone = top & (holders[counts.gram] == 1)
    return torch.where(alone, second[counts.gram], first[counts.gram])


def leave_out(statistic: Callable[[Tensor], float], n: int) -> tuple[float, float, float]:
    """(value, low, high) in [0, 1] of a statistic of row numbers, by the grouped jackknife."""
    value = statistic(torch.arange(n))
    # without a group at least two rows must be left, as one has no others
    if n < 4:
        return value, math.nan, math.nan
    group = torch.arange(n) % jackknife_groups(n)
    kept = [(group != g).nonzero()[:, 0] for g in range(int(group.max()) + 1)]
    without = torch.tensor([statistic(rows) for rows in kept], dtype=torch.float64)
    _, low, high = jackknife(value, without, correct=False)
    return value, max(0.0, low), min(1.0, high)


def _need_both(samples: Sequence[Tensor], real: Sequence[Tensor]) -> None:
    if not samples or not real:
        raise PolymodeError(f"n-grams need sequences on both sides, {len(samples)} samples and {len(real)} rows came")


def sequences(x: Tensor, spec: Spec, most: int) -> list[Tensor]:
    """At most `most` rows (T,) of token data, without the symbols that are spelled by nothing."""
    rows = min(most, max(1, TOKENS // spec.num_dims))
    symbols = getattr(spec.support, "symbols", ())
    if "" not in symbols:
        return list(x[:rows])
    spelled = torch.tensor([s != "" for s in symbols])
    return [row[spelled[row]] for row in x[:rows]]


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    spec, order = c.data.spec, min(ORDER, c.data.spec.num_dims)
    real = c.reference.cached("sequences", lambda: sequences(c.reference.real, spec, len(c.reference.real)))[: c.n]
    samples = sequences(c.samples, spec, c.n)
    few, references = samples[:SEQUENCES], real[:SEQUENCES]
    given = f"clipped precisions of 1 to {order} tokens, {len(references)} references; 95 % given them"
    among = "above that of real data samples repeat one another; smoothed by 0.1; 95 % by jackknife"
    shares = f"shares of {order}-grams, nats, at most ln 2 = 0.693, biased upwards at small n; 95 % by jackknife"
    return [
        Measurement(f"BLEU-{order}", *corpus_bleu(few, references, order=order), len(few), "higher", given),
        Measurement(f"Self-BLEU-{order}", *self_bleu(few, order=order), len(few), None, among),
        Measurement(f"JSD-{order}", *jensen_shannon(real, samples, order=order), len(samples), "lower", shares),
    ]
