"""Options of commands made from the schemas: one field, one option, so that nothing is listed twice.

Values stay text until the schema reads them: its sentences say what came and what was expected.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from polymode.app.service import arguments
from polymode.app.service.schemas import DataOptions, FitSettings, Schema, make


@dataclass(frozen=True)
class Group:
    """A schema as a group of options; the command gets the filled schema as the parameter ``name``.

    Args:
        panel: the title above them in `--help`.
        spelled: option names that differ from the field's.
        read: what turns repeated texts into the field's value.
        left_out: fields that the command does not offer.
    """

    name: str
    schema: type[Schema]
    panel: str
    spelled: dict[str, str] = field(default_factory=dict)
    read: dict[str, Callable[[list[str], str], Any]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def flag(self, name: str) -> str:
        """The option of a field."""
        return self.spelled.get(name, "--" + name.replace("_", "-"))

    def parameters(self) -> Iterable[inspect.Parameter]:
        """A parameter a field, as typer reads them."""
        for name, info in self.schema.model_fields.items():
            if name in self.left_out:
                continue
            flag, kinds = self.flag(name), _kinds(info.annotation)
            about: dict[str, Any] = {"help": info.description, "rich_help_panel": self.panel, "show_default": False}
            default: Any = None
            if name in self.read:
                annotation: Any = list[str]
                default, about["metavar"] = [], "NAME=VALUE"
            elif kinds == {bool}:
                annotation, flag = bool | None, f"{flag}/--no-{flag[2:]}"
            else:
                annotation, about["metavar"] = str | None, _metavar(kinds, info.annotation)
            yield inspect.Parameter(
                f"{self.name}__{name}", inspect.Parameter.KEYWORD_ONLY, default=default,
                annotation=Annotated[annotation, typer.Option(flag, **about)],
            )  # fmt: skip

    def fill(self, given: dict[str, Any]) -> Schema:
        """The schema from what was typed."""
        values = {}
        for name in self.schema.model_fields:
            value = given.pop(f"{self.name}__{name}", None)
            if value is not None and name in self.read:
                value = self.read[name](value, self.flag(name)) or None
            if value is not None:
                values[name] = value
        return make(self.schema, values, self.flag)


DATA = Group(
    "reading", DataOptions, "Data",
    spelled={"columns": "--column", "labels": "--label-column", "seed": "--data-seed", "labelled": "--labels",
             "more": "--data-option"},
    read={"columns": arguments.columns, "more": arguments.pairs},
)  # fmt: skip
TRAINING = Group("training", FitSettings, "Training")


def takes(*groups: Group) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: the command's parameters named like the groups are replaced by the groups' options."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function, eval_str=True)
        names = {group.name for group in groups}
        own = [p for p in signature.parameters.values() if p.name not in names]
        added = [p for group in groups for p in group.parameters()]

        @functools.wraps(function)
        def command(**given: Any) -> Any:
            filled = {group.name: group.fill(given) for group in groups}
            return function(**given, **filled)

        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *added)]
        )
        command.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
        return command

    return wrap


def _kinds(annotation: Any) -> set[Any]:
    """The plain types of an annotation, None left out."""
    if get_origin(annotation) in (Union, UnionType):
        return {kind for part in get_args(annotation) for kind in _kinds(part)} - {NoneType}
    return {get_origin(annotation) or annotation}


def _metavar(kinds: set[Any], annotation: Any) -> str:
    for part in get_args(annotation):
        if get_origin(part) is Literal:
            return "|".join(map(str, get_args(part)))
    if float in kinds:
        return "NUMBER"
    return "INTEGER" if int in kinds else "TEXT"
