"""One dimension of a datum on its own: its spec, its features and its head, for models that draw one at a time."""

from __future__ import annotations

from torch import nn

from polymode.core.spec import Columns, Real, Spec, Tokens
from polymode.parts.distributions.heads import Head
from polymode.parts.features import Features


def one_dimension(spec: Spec, dim: int) -> Spec:
    """The spec of dimension ``dim`` of flattened data.

    Its features and its head's parameters are those that dimension owns in the whole datum, in the same order.
    """
    match spec.support:
        case Columns(columns=columns):
            return Spec("table", (1,), Columns((columns[dim],)))
        case Real(loc=loc, scale=scale):
            own = Real((loc[dim if len(loc) > 1 else 0],), (scale[dim if len(scale) > 1 else 0],))
            return Spec("vector", (1,), own)
        case Tokens():
            return Spec("tokens", (1,), spec.support)
        case _:
            return Spec("vector", (1,), spec.support)


class Dimension(nn.Module):
    """Features and head of one dimension; it has no parameters."""

    def __init__(self, features: Features, head: Head) -> None:
        super().__init__()
        self.features, self.head = features, head
