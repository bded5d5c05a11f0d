"""Decoding held to a grammar: what can be drawn is exactly what a grammar says, by enumeration and by Python itself."""

from __future__ import annotations

import ast
import itertools
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import polymode as pm
from polymode.core import spec as specs
from polymode.core.errors import DataError, PolymodeError
from polymode.core.spelling import decode
from polymode.parts.samplers import earley
from polymode.parts.samplers.earley import Constraint
from polymode.parts.samplers.grammar import Chars, Grammar, Side
from polymode.tasks import grammar
from polymode.tasks.text import continue_text
from tests.exact.test_autoregressive import wild


def balanced(text: str) -> bool:
    """Whether brackets of two kinds close in order."""
    while (shorter := text.replace("()", "").replace("[]", "")) != text:
        text = shorter
    return not text


def is_sum(text: str) -> bool:
    """Whether a text is a sum of numbers in parentheses of any depth, said by Python."""
    if not re.fullmatch(r"[01+()]*", text) or re.search(r"\(\)|\+\+|\(\+|^\+|\d\(|\)\d|\)\(", text):
        return False
    try:
        ast.parse(re.sub(r"\d+", "1", text), mode="eval")
    except SyntaxError:
        return False
    return True


#: rules, symbols, and an independent judge of sentences
GRAMMARS: dict[str, tuple[str, tuple[str, ...], Callable[[str], bool]]] = {
    "left": ('e = t | e "+" t  t = [01]+ | "(" e ")"', ("", "0", "1", "+", "(", ")"), is_sum),
    "right": ('e = t ("+" e)?  t = n | "(" e ")"  n = [01] n | [01]', ("0", "1", "+", "(", ")", ""), is_sum),
    "ambiguous": ('s = | s s | "(" s ")" | "[" s "]"', ("(", ")", "[", "", "]"), balanced),
    "circular": ('s = s | t | s t  t = s | "ab"', ("", "a", "b"), lambda x: bool(re.fullmatch("(ab)+", x))),
    "empty rules": ('s = a? b* a?  a = "x"?  b = "y" | ""', ("", "x", "y"), lambda x: bool(re.fullmatch("x?y*x?", x))),
    "palindromes": ('s = | [ab] | "a" s "a" | "b" s "b"', ("", "a", "b", "c"), lambda x: x == x[::-1] and "c" not in x),
    "other than": (r's = "<" [^<>\n]* ">"', ("", "<", ">", "a", "\n"), lambda x: bool(re.fullmatch("<a*>", x))),
    "long symbols": ('s = "a" s "b" | "ab"', ("", "aa", "ab", "bb", "b", "abb"),
                     lambda x: bool(x) and x == "a" * (len(x) // 2) + "b" * (len(x) // 2)),
    "no symbol a character": ('s = "the" " " n | s " and " s  n = "dog" | "dogs"',
                              ("the ", "", "dog", "s", "s and", " and t", " ", "he "),
                              lambda x: bool(re.fullmatch("the dogs?( and the dogs?)*", x))),
    "spelled in two ways": ('s = "-"* "x"', ("", "-", "--", "x", "-x", "x"), lambda x: bool(re.fullmatch("-*x", x))),
}  # fmt: skip
each_grammar = pytest.mark.parametrize("name", GRAMMARS)


def drawn(held: Constraint, spec: specs.Spec) -> set[tuple[int, ...]]:
    """Every row that can be drawn, symbol by symbol."""
    rows: list[tuple[int, ...]] = [()]
    for t in range(spec.num_dims):
        past = torch.tensor(rows, dtype=torch.int64).view(len(rows), t)
        allowed = held(past, spec.num_dims - t)
        assert allowed.any(1).all()  # what has begun can be finished
        rows = [(*row, k) for row, may in zip(rows, allowed.tolist(), strict=True) for k, m in enumerate(may) if m]
    return set(rows)


def expected(spec: specs.Spec, end: int, judge: Callable[[str], bool], length: int) -> set[tuple[int, ...]]:
    """Every row of symbols that spells a sentence and is then filled up, by trying all."""
    symbols, d = spec.support.symbols, spec.num_dims
    others = [k for k in range(len(symbols)) if k != end]
    found = set()
    for size in range(length + 1):
        for row in itertools.product(others, repeat=size):
            if judge("".join(symbols[k] for k in row)):
                found.add(row + (end,) * (d - size))
    return found


@each_grammar
@pytest.mark.parametrize("d", [4, 5])
def test_what_can_be_drawn_is_every_sentence_that_fits_and_nothing_else(name: str, d: int):
    text, symbols, judge = GRAMMARS[name]
    spec = specs.tokens(d, symbols)
    sentences = expected(spec, symbols.index(""), judge, d)
    assert len(sentences) >= 2
    assert drawn(Constraint(Grammar.from_text(text), spec), spec) == sentences


@each_grammar
def test_sentences_may_be_shorter_than_the_window(name: str):
    text, symbols, judge = GRAMMARS[name]
    spec = specs.tokens(6, symbols)
    held = Constraint(Grammar.from_text(text), spec, length=4)
    assert drawn(held, spec) == expected(spec, symbols.index(""), judge, 4)


def test_the_bound_for_large_vocabularies_draws_sentences_only(monkeypatch: pytest.MonkeyPatch):
    rules, spec = Grammar.from_text('s = "(" s "end)" | "x"'), specs.tokens(5, ("", *"(end)x", "end)", "(x"))

    def judge(text: str) -> bool:
        return text == "(" * text.count("(") + "x" + "end)" * text.count("(")

    every = expected(spec, 0, judge, 5)
    assert drawn(Constraint(rules, spec), spec) == every
    monkeypatch.setattr(earley, "MOST_NODES", 1)
    found = drawn(Constraint(rules, spec), spec)
    assert found < every
    # what fits by single characters all comes, and what a long symbol saves is used where it is there
    assert {decode(torch.tensor(row), spec) for row in found} == {"x", "(xend)"}
    assert {decode(torch.tensor(row), spec) for row in every} == {"x", "(xend)", "((xend)end)"}


# -- drawing from models -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variant", ["gpt", "gru"])
def test_samples_follow_the_conditionals_renewed_over_what_is_allowed(variant: str):
    text, symbols, judge = GRAMMARS["left"]
    spec = specs.tokens(4, symbols)
    model, held = wild(variant, spec), Constraint(Grammar.from_text(text), spec)
    sentences = sorted(expected(spec, 0, judge, 4))
    index = {row: i for i, row in enumerate(sentences)}
    with torch.no_grad():
        logits = model.logits(torch.tensor(sentences))
    said = torch.zeros(len(sentences), dtype=torch.float64)
    for t in range(4):
        for i, row in enumerate(sentences):
            may = sorted({other[t] for other in sentences if other[:t] == row[:t]})
            said[i] += logits[i, t].double()[may].log_softmax(0)[may.index(row[t])]
    torch.testing.assert_close(said.exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    n = 4000
    x, nats = model.sample_with_log_prob(n, seed=0, allowed=held)
    rows = list(map(tuple, x.tolist()))
    found = torch.bincount(torch.tensor([index[row] for row in rows]), minlength=len(sentences)) / n
    assert (found - said.exp()).abs().max() < 5 * (0.25 / n) ** 0.5
    torch.testing.assert_close(nats, model.log_prob(x))  # what the model says without a grammar


def test_beams_find_the_likeliest_sentence():
    text, symbols, judge = GRAMMARS["ambiguous"]
    spec = specs.tokens(4, symbols)
    model = wild("gpt", spec)
    allowed = Constraint(Grammar.from_text(text), spec)
    sentences = torch.tensor(sorted(expected(spec, symbols.index(""), judge, 4)))
    # the mask goes before the softmax, so a beam's score is of the conditionals renewed over what is allowed
    scores = torch.zeros(len(sentences), dtype=torch.float64)
    with torch.no_grad():
        logits = model.logits(sentences).double()
    for t in range(4):
        may = allowed(sentences[:, :t], 4 - t)
        scores += logits[:, t].masked_fill(~may, -torch.inf).log_softmax(1).gather(1, sentences[:, t : t + 1])[:, 0]
    found = model.sample(1, beams=200, allowed=allowed)[0]
    assert torch.equal(found, sentences[scores.argmax()])


def test_a_prompt_is_gone_on_from_and_a_wrong_one_is_told():
    text, symbols, judge = GRAMMARS["left"]
    spec = specs.tokens(6, symbols)
    model, held = wild("wavenet", spec), Constraint(Grammar.from_text(text), spec)
    texts = continue_text(model, ["", "(", "1+(", "((1)"], seed=0, allowed=held)
    assert all(judge(t) for t in texts)
    assert texts[3].startswith("((1)")
    held.check("((1")
    for wrong in ("+", "((((", "1)"):
        with pytest.raises(PolymodeError, match=re.escape(f"begins with the prompt {wrong!r}")):
            held.check(wrong)
    with pytest.raises(PolymodeError, match="no symbol may come after the first 1 with 5 places left"):
        continue_text(model, "+", seed=0, allowed=held)


def test_a_constraint_can_be_used_again_and_again():
    text, symbols, _ = GRAMMARS["left"]
    spec = specs.tokens(6, symbols)
    model, held = wild("gru", spec), Constraint(Grammar.from_text(text), spec)
    held.check("")
    first = model.sample(20, seed=0, allowed=held)
    assert torch.equal(model.sample(20, seed=0, allowed=held), first)
    again = first.flip(0)  # rows in another order, and none of them seen one symbol before
    fresh = Constraint(Grammar.from_text(text), spec)
    assert torch.equal(held(again[:, :4], 2), fresh(again[:, :4], 2))


def test_sets_that_are_forgotten_change_nothing(monkeypatch: pytest.MonkeyPatch):
    text, symbols, judge = GRAMMARS["left"]
    spec = specs.tokens(5, symbols)
    monkeypatch.setattr(earley, "MOST_SETS", 7)
    held = Constraint(Grammar.from_text(text), spec)
    for _ in range(2):
        assert drawn(held, spec) == expected(spec, 0, judge, 5)
    model = wild("gru", spec)
    assert all(judge(decode(row, spec)) for row in model.sample(50, seed=0, allowed=held))


def test_a_line_end_follows_where_nothing_is_spelled_as_nothing():
    spec = specs.tokens(6, ("a", "b", "\n"))
    held = Constraint(Grammar.from_text('s = "a" s "b" | "ab"'), spec)
    assert {decode(torch.tensor(row), spec) for row in drawn(held, spec)} == {"ab\n\n\n\n", "aabb\n\n", "aaabbb"}
    texts = continue_text(wild("gpt", spec), n=20, seed=0, allowed=held, stop=held.ending)
    assert set(texts) <= {"ab", "aabb", "aaabbb"}
    with pytest.raises(DataError, match="none of the 2 symbols"):
        Constraint(Grammar.from_text('s = "a"'), specs.tokens(6, ("a", "b")))
    with pytest.raises(DataError, match="has no spelling"):
        Constraint(Grammar.from_text('s = "a"'), specs.tokens(6, 3))


def test_a_byte_level_code_spells_sentences_with_long_tokens_and_characters_beyond_ascii():
    pytest.importorskip("tokenizers", reason="needs tokenizers: pip install tokenizers")
    from polymode.data import tokenizer

    code = tokenizer.learn("the élan (12 + 345) " * 50, 300)
    spec = specs.Spec("tokens", (12,), specs.Tokens(len(code.symbols), code.symbols), code.to_extra())
    held = Constraint(Grammar.from_text('s = "é" t " élan"  t = [0-9é] | "(" t " + " t ")"'), spec)
    model = pm.create("gpt2", spec, seed=0, width=16, layers=1, heads=2)
    texts = continue_text(model, n=100, seed=0, allowed=held, stop=held.ending)
    whole = re.compile(r"é(\d|\(.* \+ .*\)) élan")
    assert all(whole.fullmatch(text) for text in texts), texts
    assert any("(" in text for text in texts)


# -- the grammars of Python ------------------------------------------------------------------------------------------
def derivations(rules: Grammar, seed: int, n: int) -> Iterator[str]:
    """Random derivations, each side of a rule as likely as another until a budget is used up, then the shortest."""
    least = dict.fromkeys(rules.rules, 10**6)

    def cost(side: Side) -> int:
        return sum(least[p] if isinstance(p, str) else 1 for p in side)

    before = None
    while before != least:
        before = dict(least)
        least = {name: min(cost(side) + 1 for side in sides) for name, sides in rules.rules.items()}
    shortest = {name: min(sides, key=cost) for name, sides in rules.rules.items()}
    draw = random.Random(seed)
    for i in range(n):
        out, todo, budget = [], [rules.start], 40 + i % 300
        while todo:
            part = todo.pop()
            if isinstance(part, Chars):
                out.append(draw.choice(sorted(part.members)))
                continue
            budget -= 1
            todo += reversed(draw.choice(rules.rules[part]) if budget > 0 else shortest[part])
        yield "".join(out)


@pytest.mark.parametrize(("name", "n"), [("arithmetic", 1000), ("python", 1500)])
def test_every_sentence_is_python(name: str, n: int):
    warnings.simplefilter("ignore")
    kinds = Counter[str]()
    for text in derivations(grammar.read(name), 0, n):
        kinds.update(type(node).__name__ for node in ast.walk(ast.parse(text)))
    needed = {
        "arithmetic": "Assign BinOp UnaryOp Pow Name Constant Expr",
        "python": "FunctionDef ClassDef Return Delete Assign AugAssign AnnAssign For While If With Raise Try Assert "
        "Import ImportFrom Global Nonlocal Expr Pass Break Continue BoolOp BinOp UnaryOp Lambda IfExp Dict Set "
        "ListComp SetComp DictComp GeneratorExp Compare Call Constant Attribute Subscript Starred Name List Tuple "
        "Slice JoinedStr FormattedValue ExceptHandler arguments keyword alias withitem",
    }[name]
    assert not set(needed.split()) - set(kinds)


def test_a_name_is_no_keyword():
    spec = specs.tokens(9, ("", *"abcdefghijklmnopqrstuvwxyz_ANT"))
    held = grammar.allowed("python", spec)
    for word in ("i", "is_", "classy", "Non", "None_", "de", "deff", "self", "a"):
        held.check(f"{word}")
        ids = torch.tensor([[spec.support.symbols.index(c) for c in word]])
        assert bool(held(ids, 1)[0, 0])
    for word in ("if", "is", "class", "def", "lambda", "in"):
        ids = torch.tensor([[spec.support.symbols.index(c) for c in word]])
        assert not bool(held(ids, 1)[0, 0])


def test_python_is_drawn_from_an_untrained_model():
    spec = specs.tokens(24, ("", *map(chr, range(32, 127)), "\n"))
    model = pm.create("gru", spec, seed=0, embed=8, hidden=16)
    texts = continue_text(model, "def f(x", n=40, seed=0, allowed=grammar.allowed("python", spec))
    assert all(ast.parse(text).body for text in texts)


# -- what is no grammar ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no rules"), ('s = "a" t', "uses the rule 't' and has none"), ('s = "a"\nt = "b"', "rule 't'; remove"),
        ('s = "a" s', "'s' of the grammar never ends"), ('s = "a" | t\nt = t "b" | "c" t', "'t' of the grammar never"),
        ('s = "a', "line 1 of the grammar"), ('s = "a"\n\nt = ]', "line 3"), ('s = ("a"', r"ends where a closing \)"),
        ('s = "a" )', "where a rule"), ("s = [z-a]", "a range from 'z' down to 'a'"), ('s = "a"\ns = "b"', "already"),
        ('"a" = s', "line 1 of the grammar has '\"a\"'"), ("s = * t", "line 1 of the grammar has '\\*'"),
    ],
)  # fmt: skip
def test_what_is_no_grammar_is_told_in_a_sentence(text: str, words: str):
    with pytest.raises(PolymodeError, match=words):
        Grammar.from_text(text)


def test_the_notation_is_read_as_it_says():
    read = Grammar.from_text(
        r"""s ::= "a" | 'b' x   # a comment with "text"
        x: [\]\-\n^"]? ("c" | "d")+ ( "\e" )*
        """
    )
    assert read.start == "s"
    spec = specs.tokens(4, ("", *'abcde]-\n^"x'))
    found = {decode(torch.tensor(row), spec) for row in drawn(Constraint(read, spec), spec)}
    signs = ("", "]", "-", "\n", "^", '"')
    judged = {f"b{i}{m}{e}" for i in signs for m in ("c", "d", "cc", "cd", "dc", "dd", "ccc") for e in ("", "e", "ee")}
    triples = {"b" + "".join(t) for t in itertools.product("cd", repeat=3)}
    assert found == {"a"} | {t for t in judged if len(t) <= 4} | triples


def test_grammars_that_can_not_be_spelled_or_found_are_told(tmp_path: Path):
    with pytest.raises(PolymodeError, match="by 2 of the 3 symbols: the shortest takes 3"):
        Constraint(Grammar.from_text('s = "aba"'), specs.tokens(2, ("", "a", "b")))
    with pytest.raises(PolymodeError, match="they spell none of any length"):
        Constraint(Grammar.from_text('s = "abc"'), specs.tokens(9, ("", "a", "b")))
    with pytest.raises(PolymodeError, match=r"neither 'arithmetic' or 'python' nor a file.*did you mean 'python'"):
        grammar.read("pyton")
    (tmp_path / "own.txt").write_text('s = "x" | s "x"', encoding="utf-8")
    assert grammar.read(tmp_path / "own.txt").start == "s"
