"""The catalogue as a list."""

from __future__ import annotations

from typing import Any

from polymode import catalogue
from polymode.core.errors import PolymodeError, nearest


def models(
    *, kind: str | None = None, likelihood: str | None = None, family: str | None = None, condition: str | None = None
) -> list[dict[str, Any]]:
    """The models that take a kind of data, offer a kind of likelihood, are of a family, take a condition."""
    rows = catalogue.MODELS
    known = {
        "kind": {k for row in rows for k in (*row.takes, *row.kinds)},
        "likelihood": {k for row in rows for k in row.likelihoods},
        "family": {row.family for row in rows},
        "condition": {k for row in rows for k in row.conditions},
    }
    asked = {"kind": kind, "likelihood": likelihood, "family": family, "condition": condition}
    for name, value in asked.items():
        if value is not None and value not in known[name]:
            choices = ", ".join(sorted(known[name]))
            raise PolymodeError(f"no model has {name} {value!r}{nearest(value, known[name])}; there are: {choices}")
    return [
        {
            "name": row.name, "family": row.family, "title": row.title, "paper": row.paper, "year": row.year,
            "takes": list(row.takes), "conditions": list(row.conditions), "likelihood_real": row.likelihood_real,
            "likelihood_lattice": row.likelihood_lattice,
        }
        for row in catalogue.select(**asked)
    ]  # fmt: skip


def find(name: str) -> catalogue.Row | None:
    """The row of a model; None for a class of the user's own, ``module:Class``."""
    return None if ":" in name else catalogue.find(name)
