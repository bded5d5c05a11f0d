"""What samples are conditioned on: the parts that a person gives, and for the others labels in turn or test rows' own.

    label    a class, by its name or number
    vector   so many numbers, with commas between them
    tokens   a text or words in the symbols that the model learned

A part that is given is the same for all samples. A negative condition, what samples are led away from under guidance,
has the given parts and shares the others with the condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from polymode.core.errors import ConditionError, PolymodeError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from polymode.core.condition import Condition, ConditionSpec
    from polymode.core.model import GenerativeModel
    from polymode.data.dataset import DataSet

#: what can be given in words; series and pictures come with data
PARTS = ("label", "vector", "tokens")


def needs_data(spec: ConditionSpec | None, given: Mapping[str, str]) -> bool:
    """Whether some part of the condition has to come from test rows."""
    return spec is not None and spec.kinds != ("label",) and not set(spec.kinds) <= set(given)


def condition_of_samples(
    model: GenerativeModel, n: int, given: Mapping[str, str], *, data: DataSet | None, seed: int
) -> tuple[Condition | None, str]:
    """(the conditions of n samples, what they are in words).

    Raises:
        ConditionError: a part that the model is not conditioned on, that it can't read, or that nobody gives.
    """
    from polymode.core import rng
    from polymode.core.condition import Condition
    from polymode.core.condition import label as by_label

    spec = model.condition_spec
    if spec is None:
        if given:
            raise ConditionError(f"the model has no condition, and {' and '.join(given)} came; leave it out")
        return None, "none"
    if spec.kinds == ("label",) and not given:
        assert spec.label is not None
        return by_label([i % spec.label for i in range(n)]), f"all {spec.label} labels in turn"
    whole, told = Condition(), "conditions of test rows"
    if needs_data(spec, given):
        if data is None or data.test.condition is None:
            raise ConditionError(f"the model needs {' and '.join(spec.kinds)}; give the data it learned from")
        import torch

        rows = torch.randperm(len(data.test), generator=rng.generator(seed))
        whole = data.test.condition[rows[torch.arange(n) % len(rows)]]
    if given:
        said = in_words(spec, given)
        told = said if set(spec.kinds) <= set(given) else f"{said}, the rest of test rows"
    return with_parts(spec, whole, given, n), told


def condition_of_rows(
    model: GenerativeModel, own: Condition | None, given: Mapping[str, str], n: int
) -> Condition | None:
    """The condition of n data that are mended: their own, with the parts that are given in place of its own.

    Raises:
        ConditionError: a part that the model is not conditioned on, or that nobody gives.
    """
    from polymode.core.condition import Condition

    spec = model.condition_spec
    if spec is None:
        if given:
            raise ConditionError(f"the model has no condition, and {' and '.join(given)} came; leave it out")
        return None
    missing = [kind for kind in spec.kinds if kind not in given]
    if own is None and missing:
        said = f"only {in_words(spec, given)} came" if given else "none came"
        raise ConditionError(f"the model draws given {' and '.join(missing)}, and {said}; give it with the pictures")
    return with_parts(spec, own or Condition(), given, n) if given else own


def negative_of(
    model: GenerativeModel, condition: Condition | None, given: Mapping[str, str], n: int
) -> tuple[Condition | None, str]:
    """(what n samples are led away from, in words), or (None, "").

    Raises:
        ConditionError: an unconditional model, or a part as in `condition_of_samples`.
        PolymodeError: a model whose sampling takes no negative condition.
    """
    if not given:
        return None, ""
    if model.condition_spec is None or condition is None:
        raise ConditionError("the model has no condition, so there is no negative one; leave --negative out")
    if not takes_negative(model):
        raise PolymodeError(
            f"sampling of {type(model).__name__} takes no negative condition; leave --negative out, or take a model "
            "of diffusion"
        )
    return with_parts(model.condition_spec, condition, given, n), in_words(model.condition_spec, given)


def takes_negative(model: GenerativeModel) -> bool:
    """Whether its sampling is led away from a negative condition."""
    import inspect

    return "negative" in inspect.signature(model._sample).parameters


def with_parts(spec: ConditionSpec, condition: Condition, given: Mapping[str, str], n: int) -> Condition:
    """A condition of n rows with the given parts in place of its own."""
    parts: dict[str, Any] = {}
    for part, text in given.items():
        if part not in PARTS or part not in spec.kinds:
            can = " and ".join(k for k in spec.kinds if k in PARTS) or "nothing that can be given in words"
            raise ConditionError(f"{part}={text!r} was given, and the model is conditioned on {can}")
        parts[part] = _read(spec, part, text).expand(n, *[-1] * (part != "label"))
    return replace(condition, **parts)


def in_words(spec: ConditionSpec, given: Mapping[str, str]) -> str:
    """What was given, as files of samples tell it."""
    told = {part: _spelling(spec, label_index(spec, text)) if part == "label" else text for part, text in given.items()}
    return ", ".join(f"{part} {text}" for part, text in told.items())


def label_index(spec: ConditionSpec, label: str) -> int:
    """The class of a label, by its name or else by its number."""
    if label in spec.label_names:
        return spec.label_names.index(label)
    assert spec.label is not None
    if label.isdecimal() and int(label) < spec.label and not any(name.isdecimal() for name in spec.label_names):
        return int(label)
    known = spec.label_names or tuple(map(str, range(spec.label)))
    listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    raise ConditionError(f"there is no label {label!r}{nearest(label, known) or f'; labels are: {listed}'}")


def _spelling(spec: ConditionSpec, index: int) -> str:
    return spec.label_names[index] if spec.label_names else str(index)


def _read(spec: ConditionSpec, part: str, text: str) -> Tensor:
    """One row of a part: (1,), (1, F) or (1, T)."""
    import torch

    if part == "label":
        return torch.tensor([label_index(spec, text)])
    if part == "tokens":
        from polymode.tasks.seq2seq import read_sources

        tokens = read_sources([text], replace(spec, label=None, vector=None, series=None, image=None)).tokens
        assert tokens is not None
        return tokens
    try:
        numbers = [float(v) for v in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != spec.vector:
        raise ConditionError(f"vector={text!r}, expected {spec.vector} numbers with commas between them")
    return torch.tensor([numbers])
