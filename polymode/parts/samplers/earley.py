"""Decoding held to a grammar: which symbols may come next so that a sentence is there when the places are used up.

Earley 1970, An Efficient Context-Free Parsing Algorithm, Comm. ACM 13; empty rules as in Aycock and Horspool 2002,
Practical Earley Parsing, The Computer Journal 45. A model's symbols are masked by a grammar in Poesia et al. 2022,
Synchromesh (arXiv:2201.11227). After t characters the set I_t holds the rules that the text may be within: items
(A -> alpha . beta, j), A begun at set j. What is still to come has a least cost, counted in symbols:

    c(A)     = min over A -> X_1 ... X_m of c(X_1) + ... + c(X_m)                       1 for a character
    out_j(B) = min over (A -> alpha . B beta, k) in I_j of c(beta) + out_k(A)           from the end of a B begun at j
    a character a may come with L places left iff c(beta) + out_j(A) <= L - 1 for some (A -> alpha . a beta, j)

so nothing begins that can't be finished, and every sentence that fits can come. `Constraint` is what
`Decoding.allowed` takes; `_Table` holds c, `_Items` a set and its out. Symbols of several characters are walked through
their trie; c and out are matrices and vectors over its inner nodes, as a symbol may end within one rule and begin
within another. Where there are more than `MOST_NODES` (byte-level codes) the costs are those of spelling by single
characters, an upper bound: what is drawn are sentences still, but some that fit by long symbols only can't come.

Sets that hold the same are one object, so texts that stand at the same point of a sentence share what was worked out
once. Left recursion (`sum = term | sum "+" term`) leaves far fewer sets than repetition does (`term ("+" term)*`),
where each is apart by the set that the first term ended in. Beyond `MOST_SETS` they are begun anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from polymode.core.errors import DataError, PolymodeError
from polymode.core.spec import Spec
from polymode.core.spelling import END_OF_TEXT, code_of, decode, encode, symbols_of
from polymode.parts.samplers.grammar import Chars, Grammar, Side

#: inner nodes of a vocabulary's trie up to which costs are exact
MOST_NODES = 64
#: sets that are kept for the next draws
MOST_SETS = 20_000
#: symbols that follow a sentence unless another is named
ENDS = ("", END_OF_TEXT, "\n")
Costs = NDArray[np.float64]


class Constraint:
    """Which symbols may come after n beginnings: calling it gives (n, K) bool.

    After a sentence only its end may come, again and again; a sentence that fills all places needs none.

    Args:
        grammar: of the sentences.
        spec: of the data, whose symbols are spelled.
        length: most symbols of a sentence; None for as many as a datum has.
        end: the name of the symbol that follows a sentence; None for the one that is spelled as nothing, the end of a
            text of a byte-level code, or the end of a line, whichever there is first.

    Raises:
        DataError: symbols without a spelling, or none that is the end.
        PolymodeError: no sentence that they spell in so many places.
    """

    def __init__(self, grammar: Grammar, spec: Spec, *, length: int | None = None, end: str | None = None) -> None:
        self.spec, self.length = spec, spec.num_dims if length is None else min(length, spec.num_dims)
        code, symbols = code_of(spec), symbols_of(spec)
        ending = end if end is not None else next((s for s in ENDS if s in symbols), "")
        if ending not in symbols:
            raise DataError(
                f"nothing can follow a sentence, as none of the {len(symbols)} symbols is {ending!r}; give the one "
                'that ends it, such as end=";"'
            )
        self.end = symbols.index(ending)
        #: how the end is spelled
        self.ending = decode(torch.tensor([self.end]), spec)
        if code is None:
            spellings = list(symbols)
        else:  # a byte is the character of its number
            spellings = [
                "" if s in code.special else code.spellings[i].decode("latin-1") for i, s in enumerate(symbols)
            ]
        spellings[self.end] = ""
        self._table = _Table(grammar, spellings, self.end, in_bytes=code is not None)
        self._seen: dict[tuple[int, ...], _Items] = {}
        if (least := self._table.start.least) > self.length:
            needs = f"the shortest takes {least:.0f}" if least < np.inf else "they spell none of any length"
            raise PolymodeError(
                f"no sentence of the grammar is spelled by {self.length} of the {len(symbols)} symbols: {needs}"
            )

    def __call__(self, past: Int[Tensor, "n t"], left: int) -> Bool[Tensor, "n K"]:
        left = min(left, self.length - past.shape[1])
        costs = np.stack([items.costs for items in self._places(past)])
        return torch.from_numpy(costs <= left - 1)

    def check(self, prompt: str) -> None:
        """Raise PolymodeError unless a sentence of at most that length begins with the prompt."""
        ids = encode(prompt, self.spec)
        if self._places(ids.unsqueeze(0))[0].least > self.length - len(ids):
            raise PolymodeError(
                f"no sentence of the grammar of at most {self.length} symbols begins with the prompt {prompt!r}"
            )

    def _places(self, past: Tensor) -> list[_Items]:
        """Where each row stands: a step on from where it stood in the last call, if it was there."""
        rows = [tuple(row) for row in past.tolist()]
        found: dict[tuple[int, ...], _Items] = {}
        for row in rows:
            if row not in found:
                before = self._seen.get(row[:-1]) if row else None
                found[row] = self._table.walk(row) if before is None else before.after(row[-1])
        self._seen = found  # only these, so that it does not grow
        if self._table.sets > MOST_SETS:
            self._table.forget()
        return [found[row] for row in rows]


@dataclass
class _Node:
    """A node of the vocabulary's trie: the symbols that end here, and what follows by the number of a character."""

    symbols: list[int] = field(default_factory=list)
    children: dict[int, _Node] = field(default_factory=dict)

    @cached_property
    def inner(self) -> list[tuple[int, _Node]]:
        """The children that have some."""
        return [(c, child) for c, child in self.children.items() if child.children]

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """(2, symbols): those that end a character on, and which character."""
        pairs = [(symbol, c) for c, child in self.children.items() for symbol in child.symbols]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2).T


class _Table:
    """A grammar over the spellings of a vocabulary; "" is a symbol that spells nothing.

    The rules lie in one line of dotted positions: `what[p]` stands after the dot (a rule's number, or below zero a
    class's), None at a rule's end, `rule[p]` is the rule, `rest[p]` (T, T) the cost of all from p to its end.
    """

    def __init__(self, grammar: Grammar, spellings: list[str], end: int, *, in_bytes: bool) -> None:
        self.spellings, self.end = spellings, end
        alphabet = sorted(set("".join(spellings)))
        self.index = {c: i for i, c in enumerate(alphabet)}
        number = {name: i for i, name in enumerate(grammar.rules)}
        self.top = len(number)  # a rule of its own above the first
        classes: dict[Chars, int] = {}
        self.what: list[int | None] = []
        self.rule: list[int] = []
        begins: list[list[int]] = [[] for _ in range(self.top + 1)]
        above: list[Side] = [(grammar.start,)]
        for rule, sides in enumerate([*grammar.rules.values(), above]):
            for side in dict.fromkeys(sides):
                begins[rule].append(len(self.what))
                for part in _as_bytes(side) if in_bytes else side:
                    if isinstance(part, str):
                        self.what.append(number[part])
                    else:
                        self.what.append(-1 - classes.setdefault(part, len(classes)))
                self.what.append(None)
                self.rule += [rule] * (len(self.what) - len(self.rule))
        self.takes = np.zeros((len(classes), len(alphabet)), dtype=bool)
        for chars, i in classes.items():
            self.takes[i, chars.of(alphabet)] = True
        self.trie = self._trie()
        self.rest, self.empty = self._costs(begins)
        # what this vocabulary can't spell is never begun
        self.begins = [[p for p in some if np.isfinite(self.rest[p]).any()] for some in begins]
        self.final = np.where(np.arange(self.rest.shape[1]) == 0, 0.0, np.inf)  # a text ends where a symbol does
        self.forget()

    def forget(self) -> None:
        """Begin anew; texts that have begun go on from the sets they hold."""
        self._sets: dict[frozenset[tuple[int, _Items]], _Items] = {}
        self.start = _Items(self, None)

    @property
    def sets(self) -> int:
        """How many sets there are."""
        return len(self._sets)

    def walk(self, row: Sequence[int]) -> _Items:
        """Where a row of symbols stands."""
        items = self.start
        for symbol in row:
            items = items.after(symbol)
        return items

    def items(self, kernel: frozenset[tuple[int, _Items]]) -> _Items:
        """The set that these items begin."""
        if (found := self._sets.get(kernel)) is None:
            found = self._sets[kernel] = _Items(self, kernel)
        return found

    @cached_property
    def ended(self) -> _Items:
        """Beyond a sentence."""
        items = _Items(self, frozenset())
        items.costs[self.end] = -np.inf
        return items

    @cached_property
    def nowhere(self) -> _Items:
        """Within no sentence."""
        return _Items(self, frozenset())

    def _trie(self) -> _Node:
        root = _Node()
        for symbol, spelling in enumerate(self.spellings):
            node = root
            for c in spelling:
                node = node.children.setdefault(self.index[c], _Node())
            if spelling:
                node.symbols.append(symbol)
        return root

    def _costs(self, begins: list[list[int]]) -> tuple[Costs, list[bool]]:
        """`rest`, and which rules may be empty."""
        inner = [self.trie]
        for node in inner:  # grows as it is walked
            inner += [child for _, child in node.inner]
        place = {id(node): i for i, node in enumerate(inner if len(inner) <= MOST_NODES else inner[:1])}
        size = len(place)
        one = np.full((self.takes.shape[1], size, size), np.inf)
        for i, node in enumerate(inner[:size]):
            for c, child in node.children.items():
                if child.symbols:
                    one[c, i, 0] = 1.0
                if child.children and id(child) in place:
                    one[c, i, place[id(child)]] = 0.0
        of_class = [one[takes].min(0, initial=np.inf) for takes in self.takes]
        of_rule = np.full((self.top + 1, size, size), np.inf)
        nothing = np.where(np.eye(size, dtype=bool), 0.0, np.inf)
        rest = np.empty((len(self.what), size, size))
        while True:
            before = of_rule.copy()
            for p in reversed(range(len(self.what))):
                what = self.what[p]
                if what is None:
                    rest[p] = nothing
                else:
                    here = of_class[-1 - what] if what < 0 else of_rule[what]
                    rest[p] = (here[:, :, None] + rest[p + 1]).min(1)
            for rule, some in enumerate(begins):
                of_rule[rule] = rest[some].min(0)
            if np.array_equal(before, of_rule):
                return rest, (of_rule[:, 0, 0] == 0.0).tolist()


class _Items:
    """A set of items, closed under prediction and completion; None begins the first."""

    def __init__(self, table: _Table, kernel: frozenset[tuple[int, _Items]] | None) -> None:
        self.table, self.complete = table, False
        self.waiting: dict[int, list[tuple[int, _Items]]] = {}  # what stands before a rule, by the rule
        self.before_chars: list[tuple[int, _Items]] = []
        self._next: dict[int, _Items | None] = {}
        self._after: dict[int, _Items] = {}
        todo = [(p, self) for p in table.begins[table.top]] if kernel is None else list(kernel)
        seen = set(todo)
        while todo:
            p, origin = todo.pop()
            what, new = table.what[p], []
            if what is None:
                self.complete |= table.rule[p] == table.top
                # what is empty was passed over where it was predicted
                if origin is not self:
                    new = [(q + 1, above) for q, above in origin.waiting.get(table.rule[p], ())]
            elif what < 0:
                self.before_chars.append((p, origin))
            else:
                if what not in self.waiting:
                    self.waiting[what] = []
                    new = [(q, self) for q in table.begins[what]]
                self.waiting[what].append((p, origin))
                if table.empty[what]:
                    new.append((p + 1, origin))
            for item in new:
                if item not in seen:
                    seen.add(item)
                    todo.append(item)
        self.row = {rule: i for i, rule in enumerate(self.waiting)}
        self.out = self._out()

    def _out(self) -> Costs:
        """(rules waited for, T): the least cost of a text from the end of such a rule, begun here, to its own end."""
        out = np.full((len(self.row), len(self.table.final)), np.inf)
        items = [(p, origin) for some in self.waiting.values() for p, origin in some]
        # a rule that is begun here may wait for one that is begun here, in a circle: Bellman's equations, iterated
        inside = [(p, origin) for p, origin in items if origin is self and self.table.rule[p] != self.table.top]
        outside = [(p, origin) for p, origin in items if origin is not self or self.table.rule[p] == self.table.top]
        if outside:
            ahead = np.stack([self._ahead(p, origin) for p, origin in outside])
            self._lower(out, outside, ahead)
        if inside:
            source = [self.row[self.table.rule[p]] for p, _ in inside]
            before = None
            while before is None or not np.array_equal(before, out):
                before = out.copy()
                self._lower(out, inside, out[source])
        return out

    def _ahead(self, p: int, origin: _Items) -> Costs:
        """(T,): the cost from the end of an item's rule."""
        rule = self.table.rule[p]
        return self.table.final if rule == self.table.top else origin.out[origin.row[rule]]

    def _lower(self, out: Costs, items: list[tuple[int, _Items]], ahead: Costs) -> None:
        costs = (self.table.rest[[p + 1 for p, _ in items]] + ahead[:, None]).min(2)
        what = self.table.what
        np.minimum.at(out, [self.row[what[p]] for p, _ in items], costs)  # type: ignore[index]  # waited for: a rule

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """Of the items before a character, which class it is of."""
        what = self.table.what
        return np.array([-1 - what[p] for p, _ in self.before_chars], dtype=np.int64)  # type: ignore[operator]

    @cached_property
    def ends(self) -> Costs:
        """(A,): the least cost after each character, where it ends a symbol."""
        if not self.before_chars:
            return np.full(self.table.takes.shape[1], np.inf)
        ahead = np.stack([self._ahead(p, origin) for p, origin in self.before_chars])
        costs = (self.table.rest[[p + 1 for p, _ in self.before_chars], 0] + ahead).min(1)
        return np.where(self.table.takes[self.classes], costs[:, None], np.inf).min(0)

    @cached_property
    def costs(self) -> Costs:
        """(K,): the least cost after each symbol, below any number for the end of a sentence that is there."""
        found = np.full(len(self.table.spellings), np.inf)
        todo = [(self, self.table.trie)]
        while todo:
            items, node = todo.pop()
            symbols, characters = node.ends
            found[symbols] = items.ends[characters]
            todo += [(after, child) for c, child in node.inner if (after := items.next(c)) is not None]
        if self.complete:
            found[self.table.end] = -np.inf
        return found

    @cached_property
    def least(self) -> float:
        """The least cost from here."""
        return 0.0 if self.complete else 1.0 + float(self.costs.min(initial=np.inf))

    def next(self, c: int) -> _Items | None:
        """The set after a character, by its number."""
        if c not in self._next:
            fits = self.table.takes[self.classes, c].nonzero()[0]
            kernel = frozenset((self.before_chars[i][0] + 1, self.before_chars[i][1]) for i in fits)
            self._next[c] = self.table.items(kernel) if kernel else None
        return self._next[c]

    def after(self, symbol: int) -> _Items:
        """The set after a symbol."""
        if symbol not in self._after:
            self._after[symbol] = self._read(symbol)
        return self._after[symbol]

    def _read(self, symbol: int) -> _Items:
        table = self.table
        if symbol == table.end:
            return table.ended if self.complete or self is table.ended else table.nowhere
        if not table.spellings[symbol]:
            return table.nowhere
        items: _Items | None = self
        for c in table.spellings[symbol]:
            items = None if items is None else items.next(table.index[c])
        return table.nowhere if items is None else items


def _as_bytes(side: Side) -> Side:
    """A rule's side over UTF-8 bytes, each the character of its number; of classes the ASCII characters."""
    parts: list[Chars | str] = []
    for part in side:
        if isinstance(part, str):
            parts.append(part)
        elif len(part.members) == 1 and not part.but:
            parts += [Chars(frozenset(chr(b))) for b in next(iter(part.members)).encode()]
        else:
            parts.append(Chars(frozenset(map(chr, part.of([chr(i) for i in range(128)])))))
    return tuple(parts)
