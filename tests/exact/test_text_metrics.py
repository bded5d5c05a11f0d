"""BLEU, divergence of n-grams and perplexity against hand computation, enumeration and other libraries' values."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.capabilities import HasBound, HasLogProb
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.rng import generator
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet, Split
from polymode.data.readers.smiles import encode
from polymode.data.readers.text import from_text
from polymode.evaluate import Evaluator, log_likelihood
from polymode.evaluate.metrics import ngrams
from polymode.evaluate.metrics.ngrams import corpus_bleu, count_ngrams, jensen_shannon, self_bleu, sequences
from polymode.evaluate.metrics.perplexity import perplexity, sliding_nll, units
from polymode.evaluate.statistics import jackknife

REFERENCES = (
    "the cat sat on the mat while the dog ran",
    "a dog ran in the big park",
    "the bird sang on a tree near the mat",
    "it is a guide to action that ensures",
)
CANDIDATES = (
    "the cat sat on the big mat",
    "a dog ran on the mat while the bird sang",
    "the the the the the cat on the mat",
)
#: corpus BLEU of orders 1 to 4 by nltk 3.10.4; sacrebleu 2.6.0 has 50.523398330566614 for order 4
GOLDEN_BLEU = [0.8846153846153846, 0.7844645405527361, 0.6518080445080044, 0.5052339833056663]
#: mean sentence BLEU against the other six, smoothing 1, orders 2 to 4, by nltk 3.10.4
GOLDEN_SELF_BLEU = [0.6397746792300497, 0.5158931955340796, 0.38225813488344323]


def words(*texts: str) -> list[Tensor]:
    known = sorted({w for text in (*REFERENCES, *CANDIDATES) for w in text.split()})
    return [torch.tensor([known.index(w) for w in text.split()]) for text in texts]


def ids(*rows: list[int]) -> list[Tensor]:
    return [torch.tensor(row) for row in rows]


def random_rows(n: int, levels: int, seed: int, low: int = 3, high: int = 12) -> list[Tensor]:
    g = generator(seed)
    lengths = torch.randint(low, high, (n,), generator=g)
    return [torch.randint(levels, (int(t),), generator=g) for t in lengths]


# -- counts and BLEU -----------------------------------------------------------------------------------------------
def test_counts_are_those_of_a_counter() -> None:
    rows = [*random_rows(30, 3, 0), torch.tensor([], dtype=torch.int64), torch.tensor([2])]
    for n, counts in enumerate(count_ngrams(rows, 4), 1):
        grams: dict[tuple, int] = {}
        expected = Counter()
        for i, row in enumerate(rows):
            for gram in zip(*(row.tolist()[k:] for k in range(n)), strict=False):
                expected[i, gram] += 1
                grams.setdefault(gram, len(grams))
        assert counts.grams == len(grams)
        mine = Counter({(i, g): int(c) for i, g, c in zip(counts.owner.tolist(), counts.gram.tolist(), counts.count)})
        # numbers of n-grams are arbitrary: compare the multisets of (owner, count) by n-gram
        by_gram = [sorted((i, c) for (i, g), c in some.items() if g == k) for some, k in
                   [(mine, k) for k in range(counts.grams)]]  # fmt: skip
        truth = [sorted((i, c) for (i, g), c in expected.items() if g == k) for k in grams]
        assert sorted(by_gram) == sorted(truth)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_corpus_bleu_is_the_peers(order: int) -> None:
    value, low, high = corpus_bleu(words(*CANDIDATES), words(*REFERENCES), order=order)
    assert value == pytest.approx(GOLDEN_BLEU[order - 1], rel=1e-12)
    assert math.isnan(low)  # three sequences are too few to leave some out
    assert math.isnan(high)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_self_bleu_is_the_peers(order: int) -> None:
    value, low, high = self_bleu(words(*REFERENCES, *CANDIDATES), order=order)
    assert value == pytest.approx(GOLDEN_SELF_BLEU[order - 2], rel=1e-12)
    assert low <= value <= high


def test_bleu_by_hand() -> None:
    # Papineni's example: the the the the the the the / the cat is on the mat / there is a cat on the mat: p_1 = 2/7
    text = ["the the the the the the the", "the cat is on the mat", "there is a cat on the mat"]
    known = sorted({w for t in text for w in t.split()})
    rows = [torch.tensor([known.index(w) for w in t.split()]) for t in text]
    assert corpus_bleu(rows[:1], rows[1:], order=1)[0] == pytest.approx(2 / 7)
    # 3 tokens against 5: precision 1, penalty exp(1 - 5/3); nearest of 4 and 2 to 3 is the shorter, 2: no penalty
    assert corpus_bleu(ids([0, 1, 2]), ids([0, 1, 2, 3, 4]), order=1)[0] == pytest.approx(math.exp(-2 / 3))
    assert corpus_bleu(ids([0, 1, 2]), ids([0, 1, 2, 3], [0, 1]), order=1)[0] == pytest.approx(1.0)
    # (2 of 4, 1 of 3) matches: sqrt(1/2 1/3)
    assert corpus_bleu(ids([0, 1, 8, 9]), ids([0, 1, 2, 3]), order=2)[0] == pytest.approx(math.sqrt(1 / 6))


def test_bleu_at_its_ends() -> None:
    rows = random_rows(20, 5, 1, low=6)
    assert corpus_bleu(rows, rows)[0] == pytest.approx(1.0)
    assert corpus_bleu(rows, [r + 100 for r in rows]) == (0.0, 0.0, 0.0)
    assert self_bleu([rows[0]] * 5)[0] == pytest.approx(1.0)
    # duplicates of a row are others to it; a row that shares nothing has smoothed precisions 0.1 / (T, T - 1, ..)
    lone = self_bleu(ids([0, 1, 2, 3, 4], [5, 6, 7, 8, 9]), order=2)[0]
    assert lone == pytest.approx(math.sqrt(0.1 / 5 * 0.1 / 4))
    # too short for the order, and empty: no match, never nan
    assert corpus_bleu(ids([0, 1]), ids([0, 1]), order=4)[0] == 0.0
    empty = torch.tensor([], dtype=torch.int64)
    assert corpus_bleu([empty, empty], ids([0, 1]), order=1)[0] == 0.0
    assert 0 <= self_bleu([empty, torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3])], order=2)[0] <= 1


def test_the_interval_of_self_bleu_leaves_groups_out() -> None:
    rows = random_rows(12, 8, 2)
    value, low, high = self_bleu(rows, order=2)
    without = [self_bleu([r for i, r in enumerate(rows) if i % 6 != g], order=2)[0] for g in range(6)]
    assert (low, high) == pytest.approx(jackknife(value, torch.tensor(without).double(), correct=False)[1:], rel=1e-6)


def test_nothing_to_compare_is_said() -> None:
    row = ids([0, 1, 2, 3])
    for call in (lambda: corpus_bleu([], row), lambda: corpus_bleu(row, []), lambda: jensen_shannon([], row)):
        with pytest.raises(PolymodeError, match="sequences on both sides"):
            call()
    with pytest.raises(PolymodeError, match="at least 2 sequences and there are 1"):
        self_bleu(row)
    with pytest.raises(PolymodeError, match="no sequence on one side has 4 tokens"):
        jensen_shannon(row, ids([1, 2]))
    with pytest.raises(PolymodeError, match="no sequences"):
        count_ngrams([], 2)


# -- divergence ----------------------------------------------------------------------------------------------------
def test_jensen_shannon_by_hand_and_its_bounds() -> None:
    # p = (1/2, 1/2, 0), q = (1/2, 0, 1/2), m = (1/2, 1/4, 1/4): 3/2 ln 2 - ln 2
    assert jensen_shannon(ids([0, 1]), ids([0, 2]), order=1)[0] == pytest.approx(0.5 * math.log(2))
    assert jensen_shannon(ids([0, 1, 0, 1]), ids([2, 3, 2, 3]), order=2)[0] == pytest.approx(math.log(2))
    rows = random_rows(50, 4, 3)
    assert jensen_shannon(rows, rows, order=2)[0] == pytest.approx(0.0, abs=1e-12)
    assert jensen_shannon(rows, list(reversed(rows)), order=2)[0] == pytest.approx(0.0, abs=1e-12)
    a, b = random_rows(40, 6, 4), random_rows(40, 3, 5)
    value, low, high = jensen_shannon(a, b, order=2)
    assert 0 <= low <= value <= high <= math.log(2)
    assert value == pytest.approx(jensen_shannon(b, a, order=2)[0])


def test_jensen_shannon_equals_the_sum_over_a_counter() -> None:
    a, b = random_rows(40, 5, 6), random_rows(30, 4, 7)
    for order in (1, 2, 3):
        counts = [
            Counter(g for row in rows for g in zip(*(row.tolist()[k:] for k in range(order)), strict=False))
            for rows in (a, b)
        ]
        p, q = ({g: Fraction(n, sum(c.values())) for g, n in c.items()} for c in counts)
        total = 0.0
        for own, other in ((p, q), (q, p)):
            total += sum(0.5 * float(v) * math.log(float(2 * v / (v + other.get(g, 0)))) for g, v in own.items())
        assert jensen_shannon(a, b, order=order)[0] == pytest.approx(total, rel=1e-10)


def test_padding_is_no_token_of_an_ngram() -> None:
    x, spec = encode(["CCO", "C", "CCCCO"])
    assert [len(s) for s in sequences(x, spec, 10)] == [3, 1, 5]
    assert len(sequences(x, spec, 2)) == 2
    plain = specs.tokens(5, 4)
    assert [len(s) for s in sequences(x % 4, plain, 10)] == [5, 5, 5]


# -- perplexity ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("levels", [2, 65, 50_257])
def test_uniform_symbols_have_a_perplexity_of_their_number(levels: int) -> None:
    nats = torch.full((7,), -12 * math.log(levels), dtype=torch.float64)
    value, low, high = perplexity(nats, torch.full((7,), 12.0))
    assert value == pytest.approx(levels, rel=1e-12)
    assert (low, high) == pytest.approx((levels, levels), rel=1e-12)


def test_perplexities_of_units_are_powers_of_each_other() -> None:
    text = "the quick brown fox  jumps over the lazy dog\nand sleeps all day " * 40
    spec = from_text(text, name="t", source="t", length=16).spec
    x = from_text(text, name="t", source="t", length=16).test.x
    held = units(x, spec)
    nats = -torch.rand(len(x), generator=generator(0), dtype=torch.float64) * 30
    by = {unit: perplexity(nats, n)[0] for unit, n in held.items()}
    assert by["token"] == pytest.approx(by["character"], rel=1e-12)
    tokens_a_word = float(held["token"].sum() / held["word"].sum())
    assert math.log(by["word"]) == pytest.approx(tokens_a_word * math.log(by["token"]), rel=1e-12)
    bits_a_character = float(-nats.sum() / held["character"].sum() / math.log(2))
    assert math.log2(by["character"]) == pytest.approx(bits_a_character, rel=1e-12)


def test_words_of_windows_are_those_of_the_text() -> None:
    text = " ".join("w" * (1 + i % 7) for i in range(4000))
    data = from_text(text, name="t", source="t", length=32, valid_fraction=0.1, test_fraction=0.5)
    counted = float(units(data.test.x, data.spec)["word"].sum())
    symbols = data.spec.support.symbols
    whole = len("".join(symbols[i] for i in data.test.x.flatten().tolist()).split())
    assert counted == pytest.approx(whole, rel=0.01)
    # windows that are cut count 1 in 8 words too many where each is counted whole
    naive = sum(len("".join(symbols[i] for i in row).split()) for row in data.test.x.tolist())
    assert naive > 1.08 * whole


def test_units_of_strings_and_of_unknown_symbols() -> None:
    x, spec = encode(["ab c", "d", "ef  gh i"])
    held = units(x, spec)
    assert held["token"].tolist() == [8, 8, 8]
    assert held["character"].tolist() == [4, 1, 8]
    assert held["word"].tolist() == [2, 1, 3]
    assert list(units(torch.zeros(2, 5).long(), specs.tokens(5, 9))) == ["token"]
    x, spec = encode(["CCO", "C"])
    assert list(units(x, spec)) == ["token", "character"]


def test_perplexity_at_its_ends() -> None:
    units_ = torch.tensor([2.0, 3.0])
    assert perplexity(torch.tensor([0.0, 0.0]), units_) == (1.0, 1.0, 1.0)
    value, low, high = perplexity(torch.tensor([-math.inf, 0.0]), units_)
    assert value == math.inf
    assert math.isnan(low)
    assert math.isnan(high)
    assert perplexity(torch.tensor([-1e6, -2e6]), units_)[0] == math.inf  # overflow, not an exception
    value, low, _ = perplexity(torch.tensor([-2.0]), torch.tensor([2.0]))
    assert value == pytest.approx(math.e)
    assert math.isnan(low)
    with pytest.raises(PolymodeError, match="0 rows"):
        perplexity(torch.zeros(0), torch.zeros(0))
    with pytest.raises(PolymodeError, match="with 0 units"):
        perplexity(torch.zeros(2), torch.zeros(2))
    with pytest.raises(PolymodeError, match="same rows"):
        perplexity(torch.zeros(2), torch.ones(3))
    with pytest.raises(PolymodeError, match="1 of 2 rows are nan"):
        perplexity(torch.tensor([math.nan, 1.0]), units_)


def test_the_estimators_own_error_widens_the_interval() -> None:
    nats, held = torch.tensor([-4.0, -6.0, -5.0]), torch.full((3,), 2.0)
    assert perplexity(nats, held)[2] == pytest.approx(math.exp((5 + 1.96 / math.sqrt(3)) / 2))
    assert perplexity(nats, held, std_error=2.0)[2] == pytest.approx(math.exp((5 + 1.96 * math.sqrt(1 / 3 + 4)) / 2))


# -- windows over a text -------------------------------------------------------------------------------------------
def markov(levels: int, reach: int):
    """Logits that depend on the last `reach` tokens that are shown."""
    table = torch.randn(levels**reach * 4, levels, generator=generator(0), dtype=torch.float64)

    def logits_of(x: Tensor) -> Tensor:
        out = []
        for t in range(x.shape[1]):
            shown = x[0, max(0, t + 1 - reach) : t + 1].tolist()
            code = len(shown) * levels**reach + sum(v * levels**k for k, v in enumerate(shown))
            out.append(table[code % len(table)])
        return torch.stack(out)[None]

    return logits_of


@pytest.mark.parametrize(("window", "stride"), [(50, 50), (8, 4), (8, 1), (5, 3), (7, 6), (100, 100)])
def test_windows_score_each_token_once_with_the_context_they_show(window: int, stride: int) -> None:
    text = torch.randint(3, (50,), generator=generator(1))
    logits_of = markov(3, 2)
    found = sliding_nll(logits_of, text, window=window, stride=stride)
    assert len(found) == 49
    for t in range(1, 50):
        # the first window that ends behind t, by its definition
        begin = next(b for b in range(0, 50, stride) if min(b + window, 50) > t)
        p = logits_of(text[None, begin:t])[0, -1].softmax(-1)[text[t]]
        assert float(found[t - 1]) == pytest.approx(-math.log(p), rel=1e-10)


def test_windows_without_overlap_leave_their_first_tokens_out() -> None:
    text = torch.randint(3, (20,), generator=generator(1))
    assert len(sliding_nll(markov(3, 1), text, window=5, stride=5)) == 16
    with pytest.raises(PolymodeError, match="stride in 1"):
        sliding_nll(markov(3, 1), text, window=5, stride=6)
    with pytest.raises(PolymodeError, match="at least two tokens"):
        sliding_nll(markov(3, 1), text[:1], window=5, stride=5)


# -- in a report ---------------------------------------------------------------------------------------------------
class Chain(GenerativeModel, HasLogProb):
    """A first-order Markov chain over letters, its table given."""

    def __init__(self, spec: Spec, condition_spec: None = None, *, table: Tensor) -> None:
        super().__init__(spec, condition_spec)
        self.register_buffer("table", table)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(-self._log_prob(x, condition))

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.table[x[:, :-1], x[:, 1:]].log().sum(1) - math.log(len(self.table))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        x = [torch.randint(len(self.table), (n,), generator=generator)]
        for _ in range(self.spec.num_dims - 1):
            x.append(torch.multinomial(self.table[x[-1]], 1, generator=generator)[:, 0])
        return torch.stack(x, 1)


class Bounded(Chain, HasBound):
    """The same with a bound only."""

    withheld = (HasLogProb,)

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self._log_prob(x, condition) - 1.0


def chain_table(levels: int = 5) -> Tensor:
    table = torch.full((levels, levels), 0.1 / levels)
    return table.scatter_(1, (torch.arange(levels)[:, None] + 1) % levels, 0.9 + 0.1 / levels)


def chain_data(n: int = 400) -> DataSet:
    spec = specs.tokens(16, tuple("ab cd"))
    model = Chain(spec, table=chain_table())
    return DataSet("chain", spec, *(Split(model.sample(n, seed=i)) for i in range(3)))


def test_a_report_of_tokens_has_them_with_kind_ceiling_and_floor() -> None:
    data = chain_data()
    evaluator = Evaluator(data, metrics=["ngrams", "perplexity"])
    report = evaluator.report(Chain(data.spec, table=chain_table()))
    by = {m.metric: m for m in report.measurements}
    assert list(by) == ["BLEU-4", "Self-BLEU-4", "JSD-4", "perplexity a token", "perplexity a word"]
    nats = log_likelihood(Chain(data.spec, table=chain_table()), data).nats
    assert by["perplexity a token"].value == pytest.approx(math.exp(-float(nats.double().mean()) / 16), rel=1e-6)
    assert by["perplexity a token"].kind == "exact"
    assert by["perplexity a token"].title == "perplexity a token[n=400]"
    floor = report.floor.get("perplexity a token")
    assert floor is not None
    assert floor.value == pytest.approx(5.0, rel=1e-6)
    assert by["JSD-4"].low <= report.ceiling.get("JSD-4").value <= by["JSD-4"].high
    assert report.floor.get("JSD-4").value > 3 * by["JSD-4"].value
    assert report.floor.get("BLEU-4").value < by["BLEU-4"].value
    assert by["Self-BLEU-4"].better is None
    assert by["BLEU-4"].n == 200
    assert by["JSD-4"].n == 400


def test_a_bound_gives_an_upper_bound_and_a_limit_the_same_rows() -> None:
    data = chain_data()
    report = Evaluator(data, metrics=["perplexity"], limit=50).report(Bounded(data.spec, table=chain_table()))
    m = next(m for m in report.measurements if m.metric == "perplexity a token")
    assert m.kind == "lower bound"
    assert m.protocol.startswith("an upper bound")
    assert "≤" in report.to_html().split("perplexity a token")[1][:400]
    assert m.n == 50
    # units of the scored rows, not of others: at equal lengths only a word's can tell
    split = Split(data.test.take(50, generator(0))[0])
    scored = log_likelihood(Bounded(data.spec, table=chain_table()), split).nats
    held = units(split.x, data.spec)["word"]
    word = next(m for m in report.measurements if m.metric == "perplexity a word")
    assert word.value == pytest.approx(perplexity(scored, held)[0], rel=1e-6)
    assert word.high - word.low == pytest.approx(perplexity(scored, held)[2] - perplexity(scored, held)[1], rel=1e-4)


def test_short_sequences_have_a_lower_order() -> None:
    rows = torch.tensor(list(itertools.product(range(3), repeat=2)) * 6)
    data = DataSet("pairs", specs.tokens(2, 3), Split(rows), Split(rows), Split(rows))
    board = Evaluator(data, metrics=["ngrams"]).ceiling
    assert [m.metric for m in board.measurements] == ["BLEU-2", "Self-BLEU-2", "JSD-2"]
    assert board.measurements[0].value == pytest.approx(1.0)
    assert board.measurements[2].value == pytest.approx(0.0, abs=1e-12)


def test_long_sequences_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "TOKENS", 100)
    x = torch.zeros(50, 30).long()
    assert len(sequences(x, specs.tokens(30, 2), 50)) == 3
