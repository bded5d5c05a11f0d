"""Fields for what a sample is conditioned on, made from a model's ConditionSpec: those that it has are seen."""

from __future__ import annotations

from typing import Any

import gradio as gr

from polymode.app.service.conditions import PARTS

#: the choice that gives no label
OPEN = ("all in turn", "")


class Fields:
    """A field for each part of a condition that can be given in words.

    Args:
        name: where the page finds them.
        unsaid: what is there when no label is given.
    """

    def __init__(self, name: str, unsaid: tuple[str, str] = OPEN) -> None:
        self.unsaid = unsaid
        self.all: list[Any] = [
            gr.Dropdown(
                [unsaid], value="", label="label", visible=False, allow_custom_value=True, elem_id=f"{name}-label"
            ),
            gr.Textbox("", label="vector", placeholder="0.1, 0.2", visible=False, elem_id=f"{name}-vector"),
            gr.Textbox("", label="words", visible=False, elem_id=f"{name}-tokens"),
        ]

    def fitted(self, spec: Any) -> list[Any]:
        """The fields as a model of this ConditionSpec, or of None, needs them, emptied."""
        if spec is None:
            return [gr.update(value="", visible=False) for _ in self.all]
        names = [] if spec.label is None else list(spec.label_names or map(str, range(spec.label)))
        words = [s.strip() for s in spec.token_symbols if s.strip()]
        return [
            gr.update(choices=[self.unsaid, *((v, v) for v in names)], value="", visible=spec.label is not None),
            gr.update(
                value="", visible=spec.vector is not None, info=f"{spec.vector} numbers; empty: those of test rows"
            ),
            gr.update(
                value="", visible=spec.tokens is not None,
                info=f"{', '.join(words[:6])}, ...; empty: those of test rows",
            ),
        ]  # fmt: skip


def given(*values: str | None) -> dict[str, str]:
    """The parts that fields hold, without the empty ones."""
    return {part: value.strip() for part, value in zip(PARTS, values, strict=True) if value and value.strip()}
