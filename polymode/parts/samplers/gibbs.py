"""Block Gibbs sampling: two blocks of variables, each drawn in one go given the other.

Geman and Geman 1984, Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of images. The joint
distribution of (visible, hidden) is left unchanged by each draw; the functions given hold the conditionals and the
randomness, so one sampler serves Boltzmann machines of every kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polymode.core.errors import PolymodeError

#: from one block to the other; a block is a tensor, or several
Draw = Callable[[Any], Any]


def block_gibbs(hidden: Any, steps: int, *, visible_given_hidden: Draw, hidden_given_visible: Draw) -> tuple[Any, Any]:
    """`steps` sweeps from `hidden` (B, H): (visible, hidden) of the last sweep, in which visible was drawn first.

    Args:
        hidden: the state to start from, one chain a row.
        steps: sweeps, at least 1.
        visible_given_hidden: draws visible ~ p(visible | hidden); known entries are clamped in it.
        hidden_given_visible: draws hidden ~ p(hidden | visible).

    Raises:
        PolymodeError: no step was asked for.
    """
    if steps < 1:
        raise PolymodeError(f"steps={steps}, expected at least 1 Gibbs sweep")
    for _ in range(steps):
        visible = visible_given_hidden(hidden)
        hidden = hidden_given_visible(visible)
    return visible, hidden
