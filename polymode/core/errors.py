"""What goes wrong, said in one sentence: what came, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PolymodeError(ValueError):
    """A mistake the user can mend; the message is one sentence, the command line exits with status 2."""


class DataError(PolymodeError):
    """Data that is missing, damaged, or not what was declared."""


class ConditionError(PolymodeError):
    """A condition that is missing, unexpected or of the wrong form."""


class CapabilityError(PolymodeError):
    """A model was asked for something that its family cannot give on this data."""


class CheckpointError(PolymodeError):
    """A checkpoint that cannot be trusted or read."""


class TrainingError(PolymodeError):
    """Training could not go on."""


class MissingPackageError(PolymodeError):
    """An optional package is needed; the message holds the command that installs it (it may belong to no extra)."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        what = f"'polymode[{extra}]'" if extra else package
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed: pip install {what}")


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """A hint such as ``; did you mean 'made'?``, or the empty string when nothing is near."""
    close = difflib.get_close_matches(name, list(known), n=most, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def require_choice(argument: str, value: object, choices: Iterable[object]) -> None:
    """Raise unless ``value`` is one of ``choices``; the sentence lists them."""
    choices = list(choices)
    if value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        raise PolymodeError(
            f"{argument}={value!r} is not a choice: expected one of {listed}{nearest(str(value), map(str, choices))}"
        )
