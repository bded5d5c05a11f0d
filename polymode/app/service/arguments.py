"""Arguments as text: ``key=value`` pairs, and the options of a model's constructor read without importing it.

Importing a model imports torch, which takes seconds; its source file says the same at once.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from polymode.catalogue import Row
from polymode.core.errors import PolymodeError, nearest

_ROOT = Path(__file__).parents[2]
_WORD = r"""'[^']*'|"[^"]*"|[^\[\],\s][^\[\],]*"""
_WORDS = {"true": True, "false": False, "none": None, "null": None}


def constructor_options(path: str) -> dict[str, str]:
    """The keyword arguments of a class of this package, ``polymode.module:Class``, beside spec and condition_spec, with
    their types as they are written.

    A constructor that hands ``**options`` on adds to those of the class that it builds on, and a decorator's
    ``without=`` takes some away (`like` of the adversarial family).
    """
    module, _, name = path.partition(":")
    tree = ast.parse(_ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    of, found = classes[name], {}
    own = next((n.args for n in of.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if own is None or own.kwarg is not None:
        base = _base_of(of, module, tree, classes)
        found = {} if base is None else constructor_options(base)
    for argument in () if own is None else (*own.args, *own.kwonlyargs):
        found[argument.arg] = "" if argument.annotation is None else ast.unparse(argument.annotation)
    calls = [d for d in of.decorator_list if isinstance(d, ast.Call)]
    left_out = {o for d in calls for k in d.keywords if k.arg == "without" for o in ast.literal_eval(k.value)}
    return {o: kind for o, kind in found.items() if o not in {"self", "spec", "condition_spec"} | left_out}


def _base_of(of: ast.ClassDef, module: str, tree: ast.Module, classes: Collection[str]) -> str | None:
    """The first base of a class that is a model of this package, ``polymode.module:Class``."""
    for base in (b.id for b in of.bases if isinstance(b, ast.Name)):
        if base in classes:
            return f"{module}:{base}"
        for node in tree.body:
            ours = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("polymode.models")
            if ours and any((alias.asname or alias.name) == base for alias in node.names):
                return f"{node.module}:{base}"
    return None


def settled(row: Row, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model; "none" is the word where an option can't be None.

    Raises:
        PolymodeError: a setting that the model's constructor does not have; names the nearest.
    """
    known = constructor_options(row.path)
    for name in settings:
        if name not in known:
            hint = nearest(name, known) or f"; its options are: {', '.join(known)}"
            raise PolymodeError(f"{row.name} has no option {name!r}{hint}")
    return {name: "none" if value is None and "None" not in known[name] else value for name, value in settings.items()}


def pairs(texts: Iterable[str], option: str) -> dict[str, Any]:
    """``key=value`` texts as a dictionary of Python values; a later one wins."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key.strip()):
            raise PolymodeError(f"{option} {text}: expected key=value")
        found[key.strip()] = value_of(value.strip(), f"{option} {text}")
    return found


def pairs_by_model(texts: Iterable[str], option: str) -> dict[str, dict[str, Any]]:
    """``model.key=value`` texts by model."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in pairs(texts, option).items():
        model, dot, name = key.partition(".")
        if not (dot and name):
            raise PolymodeError(f"{option} {key}={value}: expected model.key=value, such as vae.latent_dims=8")
        found.setdefault(model.lower(), {})[name] = value
    return found


def cells(texts: Iterable[str], option: str) -> dict[str, str]:
    """``column=value`` texts as they are written; a later one wins."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise PolymodeError(f"{option} {text}: expected column=value, such as age=42")
        found[name.strip()] = value.strip()
    return found


def columns(texts: Iterable[str], option: str) -> dict[str, str] | list[str] | None:
    """Types of columns, ``name=type``, or plain names of columns (series); None when there are none."""
    given = list(texts)
    if not given:
        return None
    if not any("=" in text for text in given):
        return given
    typed = {}
    for text in given:
        name, equals, kind = text.rpartition("=")
        if not (equals and name and kind):
            raise PolymodeError(f"{option} {text}: expected name=type, such as age=integer")
        typed[name] = kind
    return typed


def value_of(text: str, where: str) -> Any:
    """A Python literal where the text is one (3, 0.1, [64,64], true), else the text itself; lists may hold plain words,
    as in [[smoke,lung],[smoke,bronc]]."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if not (text.startswith("[") and text.endswith("]")):
            return text
        # each word between brackets and commas, or between quotes, becomes the literal of its value; the rest stays
        spelled = re.sub(_WORD, lambda word: repr(value_of(word[0].strip(), where)), text)
        try:
            value = ast.literal_eval(spelled)
        except (ValueError, SyntaxError):
            return text
    if not _plain(value):
        raise PolymodeError(f"{where}: expected a number, a word, true, false, none, or a list of them")
    return value


def _plain(value: Any) -> bool:
    """Whether config.json can hold it."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and _plain(v) for k, v in value.items())
    return value is None or isinstance(value, bool | int | float | str)
