"""Grammars: rules that say which strings are sentences, read from a small notation.

    expr = term | expr [+\\-] term        # the first rule is the sentence; = may be ::= or :
    term = [0-9]+ | "(" expr ")"         # "text", [classes] and [^classes], (groups), | * + ?

The form is Backus' of 1959 with the repetitions of regular expressions. A class stands for one character; \\n, \\r, \\t
and \\0 are what they are in Python, and a backslash before any other character is that character. Any context-free
grammar will do: rules may be ambiguous, empty and left recursive. `Grammar.from_text` reads rules and checks that a
sentence can come of them; `parts.samplers.earley` holds what is drawn to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polymode.core.errors import PolymodeError, nearest

_TOKEN = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*) | (?P<name>[A-Za-z_]\w*) | (?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    | (?P<chars>\[(?:\\.|[^\]\\\n])+\]) | (?P<is>::=|=|:) | (?P<sign>[|()*+?])""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Chars:
    """One character out of some, or with `but` any other one."""

    members: frozenset[str]
    but: bool = False

    def of(self, alphabet: Sequence[str]) -> list[int]:
        """Which characters of an alphabet it takes, by their places."""
        return [i for i, c in enumerate(alphabet) if (c in self.members) != self.but]


#: a rule's right side; names are rules
Side = tuple["Chars | str", ...]


@dataclass(frozen=True)
class Grammar:
    """Rules, each a list of right sides; the first is the sentence.

    Raises:
        PolymodeError: a rule that is not there, that is never used, or that never ends.
    """

    rules: dict[str, list[Side]]

    @staticmethod
    def from_text(text: str) -> Grammar:
        """Read rules as the module shows them.

        Raises:
            PolymodeError: text that is no such grammar, with the line it fails in.
        """
        return Grammar(_RuleReader(text).rules)

    def __post_init__(self) -> None:
        used = {self.start}
        todo = [self.start]
        while todo:
            for part in (p for side in self.rules[todo.pop()] for p in side if isinstance(p, str)):
                if part not in self.rules:
                    raise PolymodeError(
                        f"the grammar uses the rule {part!r} and has none{nearest(part, self.rules) or '; add it'}"
                    )
                if part not in used:
                    used.add(part)
                    todo.append(part)
        if unused := [name for name in self.rules if name not in used]:
            raise PolymodeError(f"no sentence of the grammar uses the rule {unused[0]!r}; remove it, or use it")
        if endless := self._endless():
            raise PolymodeError(
                f"the rule {endless[0]!r} of the grammar never ends: each of its alternatives goes on "
                "forever; add one that does not"
            )

    @property
    def start(self) -> str:
        """The rule that is the sentence."""
        return next(iter(self.rules))

    def _endless(self) -> list[str]:
        ends: set[str] = set()
        while True:
            more = {
                name
                for name, sides in self.rules.items()
                if name not in ends and any(all(isinstance(p, Chars) or p in ends for p in side) for side in sides)
            }
            if not more:
                return [name for name in self.rules if name not in ends]
            ends |= more


class _RuleReader:
    """Reads the text of a grammar; repetitions and groups become rules of their own, named by a number."""

    def __init__(self, text: str) -> None:
        self.rules: dict[str, list[Side]] = {}
        self.text, self.at = text, 0
        self.tokens = list(self._split())
        while self.at < len(self.tokens):
            self._rule()
        if not self.rules:
            raise PolymodeError('the grammar has no rules; give some, such as: sentence = "a" | "b"')
        named = {name: sides for name, sides in self.rules.items() if not name.isdecimal()}
        self.rules = named | {name: sides for name, sides in self.rules.items() if name.isdecimal()}

    def _split(self) -> Iterator[tuple[str, str, int]]:
        """(kind, text, line) of each token."""
        at, line = 0, 1
        while at < len(self.text):
            found = _TOKEN.match(self.text, at)
            if found is None:
                raise PolymodeError(
                    f'line {line} of the grammar: {self.text[at : at + 10]!r} is no name, "text", [class] or sign'
                )
            assert found.lastgroup is not None
            if found.lastgroup != "blank":
                yield found.lastgroup, found[0], line
            line, at = line + found[0].count("\n"), found.end()

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        return self.tokens[self.at + ahead][:2] if self.at + ahead < len(self.tokens) else ("", "")

    def _fail(self, wanted: str) -> PolymodeError:
        if self.at < len(self.tokens):
            _, text, line = self.tokens[self.at]
            return PolymodeError(f"line {line} of the grammar has {text!r} where {wanted} was expected")
        return PolymodeError(f"the grammar ends where {wanted} was expected")

    def _rule(self) -> None:
        kind, name = self._peek()
        if kind != "name" or self._peek(1)[0] != "is":
            raise self._fail("a rule, name = ...,")
        if name in self.rules:
            raise self._fail(f"another name, as there is a rule {name!r} already,")
        self.at += 2
        self.rules[name] = []  # keeps its place before the rules of its groups
        self.rules[name] = self._alternatives()

    def _alternatives(self) -> list[Side]:
        sides = [self._side()]
        while self._peek() == ("sign", "|"):
            self.at += 1
            sides.append(self._side())
        return sides

    def _side(self) -> Side:
        parts: list[Chars | str] = []
        while True:
            kind, text = self._peek()
            if kind in ("", "is") or text in ("|", ")") or (kind == "name" and self._peek(1)[0] == "is"):
                return tuple(parts)
            parts += self._repeated()

    def _repeated(self) -> Side:
        one = self._one()
        while self._peek()[0] == "sign" and self._peek()[1] in "*+?":
            sign = self._peek()[1]
            self.at += 1
            name = str(len(self.rules))
            least: Side = one if sign == "+" else ()
            self.rules[name] = [least, one if sign == "?" else (name, *one)]
            one = (name,)
        return one

    def _one(self) -> Side:
        kind, text = self._peek()
        self.at += 1
        if kind == "name":
            return (text,)
        if kind == "text":
            return tuple(Chars(frozenset(c)) for c, _ in _characters(text[1:-1]))
        if kind == "chars":
            return (_read_class(text),)
        if (kind, text) != ("sign", "("):
            self.at -= 1
            raise self._fail('a rule\'s name, "text", [class] or (group)')
        sides = self._alternatives()
        if self._peek() != ("sign", ")"):
            raise self._fail("a closing )")
        self.at += 1
        if len(sides) == 1:
            return sides[0]
        name = str(len(self.rules))
        self.rules[name] = sides
        return (name,)


def _read_class(text: str) -> Chars:
    """[a-z_], [^\\n] and the like."""
    body = text[1:-1]
    but = body.startswith("^") and len(body) > 1
    signs = _characters(body[but:])
    members, at = set(), 0
    while at < len(signs):
        first, last = signs[at][0], signs[at][0]
        if at + 2 < len(signs) and signs[at + 1][1] == "-":
            last, at = signs[at + 2][0], at + 2
            if last < first:
                raise PolymodeError(f"the class {text} of the grammar has a range from {first!r} down to {last!r}")
        members |= set(map(chr, range(ord(first), ord(last) + 1)))
        at += 1
    return Chars(frozenset(members), but)


def _characters(text: str) -> list[tuple[str, str]]:
    """(the character, how it is written) of each in a text with backslashes."""
    special = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\0": "\0"}
    return [(special.get(written, written[-1]), written) for written in re.findall(r"\\.|.", text)]
