"""What the autoregressive models share: one dimension of a datum drawn after the other.

    log p(x) = sum_d log p(x_d | x_<d),   < in the order of drawing
    log p(x) = log 1/M sum_m p_m(x),   of a model that learned M orders at once    (Uria, Murray and Larochelle 2014, A
        Deep and Tractable Density Estimator, arXiv:1310.1757, section 5: an ensemble that costs M passes)

An :class:`Ordered` model says what one order gives (`log_prob_by`) and walks over the dimensions (`_walk`); likelihood,
drawing, drawing with log-probabilities and completing are then here, once.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Completes, DrawsInOrder, HasLogProb
from polymode.core.condition import Condition
from polymode.core.errors import DataError, PolymodeError, require_choice
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.pieces import Choose
from polymode.parts.distributions.heads import Head
from polymode.parts.encoders.condition import Conditioned
from polymode.parts.samplers.autoregressive import check_options

Order = Literal["natural", "random"]
#: (place in the order, head parameters (n, P_d)) -> values (n, 1) of that dimension
Draw = Callable[[int, Tensor], Tensor]


class Ancestral(Conditioned, GenerativeModel, HasLogProb, Completes):
    """A model that draws one part of a datum after the other, with its likelihood if asked, around what is known.

    A subclass sets `condition_encoder`, and defines `_log_prob`, `_generate` and `_check_known`.
    """

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(-self._log_prob(x, condition))

    @abstractmethod
    def _generate(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        temperature: float,
        *,
        known: tuple[Tensor, Tensor] | None = None,
        score: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(x, log p(x) (n,) where asked for); `known` is (data, mask) of what is kept, (n, *shape) each."""

    @abstractmethod
    def _check_known(self, mask: Tensor) -> None:
        """Raise DataError unless what is known (n, *shape) comes before what is missing."""

    def sample_with_log_prob(
        self,
        n: int = 1,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Draw n data at once and tell how likely they were.

        Returns:
            The data, and (n,) nats under the model at temperature 1, which is what `log_prob` says of them.
        """
        if n < 1:
            raise PolymodeError(f"n={n}, expected at least 1 sample")
        condition, g = self.check_condition(condition, n), rng.resolve(generator, seed)
        with self._evaluating():
            x, nats = self._generate(n, condition, g, temperature, score=True)
        assert nats is not None
        return x.cpu().to(self.spec.dtype), nats.cpu()

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, temperature: float = 1.0
    ) -> Tensor:
        return self._generate(n, condition, generator, temperature)[0]

    def _complete(
        self,
        x: Tensor,
        mask: Tensor,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        temperature: float = 1.0,
        approximate: bool = False,
    ) -> Tensor:
        """Draws given what is known: exact where that is the beginning of the model's order.

        Args:
            temperature: of the draws.
            approximate: take any mask, and draw what is missing given what comes before it only, drawn or known.
        """
        if not approximate:
            self._check_known(mask)
        return self._generate(len(x), condition, generator, temperature, known=(x, mask))[0]


class Ordered(Ancestral, DrawsInOrder):
    """A model whose dimensions are drawn one after the other, in one order or in each of several.

    A subclass sets `condition_encoder`, and `orders` by `set_orders`, and defines `log_prob_by`, `_walk` and `head_of`.
    """

    #: (M, D) the dimension at each place of each order
    orders: Tensor

    def set_orders(self, order: Order, orders: int, seed: int) -> None:
        """The natural order or shuffled ones.

        Raises:
            PolymodeError: an unknown order, or a number of orders that makes no sense.
        """
        require_choice("order", order, ("natural", "random"))
        if orders < 1 or (orders > 1 and order == "natural"):
            raise PolymodeError(
                f"orders={orders} with order={order!r}: expected at least 1, and 1 unless order='random'"
            )
        d, g = self.spec.num_dims, torch.Generator().manual_seed(seed)
        chosen = [torch.arange(d) if order == "natural" else torch.randperm(d, generator=g) for _ in range(orders)]
        self.register_buffer("orders", torch.stack(chosen), persistent=False)
        if orders > 1 or not self.spec.is_finite:  # a mixture of orders has no order of its own
            self.withheld = (*self.withheld, DrawsInOrder)

    @abstractmethod
    def log_prob_by(self, order: int, x: Tensor, condition: Condition | None) -> Tensor:
        """log p(x), (B,), by one of the orders."""

    @abstractmethod
    def _walk(self, order: int, n: int, condition: Condition | None, draw: Draw) -> None:
        """Ask `draw` for the values of each dimension, in one of the orders, and read them back."""

    @abstractmethod
    def head_of(self, dim: int) -> Head:
        """The head of a dimension on its own."""

    # -- likelihood ------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """-log p(x) by an order, drawn anew each time where there are several."""
        many = len(self.orders)
        order = 0 if many == 1 else int(rng.randint(many, (), generator))
        return Loss(-self.log_prob_by(order, x, condition))

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        if len(self.orders) == 1:
            return self.log_prob_by(0, x, condition)
        each = torch.stack([self.log_prob_by(m, x, condition) for m in range(len(self.orders))])
        return torch.logsumexp(each, 0) - math.log(len(each))

    # -- sampling --------------------------------------------------------------------------------------------------
    def _generate(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        temperature: float,
        *,
        known: tuple[Tensor, Tensor] | None = None,
        score: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        check_options(temperature)
        given, kept = (None, None) if known is None else (part.flatten(1) for part in known)
        x = torch.zeros(n, self.spec.num_dims, dtype=self.spec.dtype, device=self.device)
        nats = torch.zeros(n, dtype=self.dtype, device=self.device) if score else None
        many = len(self.orders)
        which = torch.zeros(n, dtype=torch.int64) if many == 1 else rng.randint(many, (n,), generator)
        for m in which.unique().tolist():
            rows = (which == m).nonzero()[:, 0].to(x.device)
            order = self.orders[m].tolist()

            def draw(place: int, params: Tensor, rows: Tensor = rows, order: list[int] = order) -> Tensor:
                head, dim = self.head_of(order[place]), order[place]
                values = head.sample(params, generator, temperature)
                if given is not None and kept is not None:
                    values = torch.where(kept[rows, dim, None], given[rows, dim, None], values)
                # rounded to the data's dtype before the model reads it back
                values = values.to(x.dtype)
                x[rows, dim] = values[:, 0]
                if nats is not None:
                    nats[rows] += head.log_prob(values, params)[:, 0]
                return values

            self._walk(m, len(rows), None if condition is None else condition[rows], draw)
        x = x.view(n, *self.spec.shape)
        return x, self._log_prob(x, condition) if score and many > 1 else nats

    def _draw_in_order(self, n: int, choose: Choose, condition: Condition | None) -> None:
        order = self.orders[0].tolist()

        def draw(place: int, params: Tensor) -> Tensor:
            [(_, table)] = self.head_of(order[place]).tables(params)
            return choose([order[place]], table).to(self.spec.dtype)

        self._walk(0, n, condition, draw)

    def _check_known(self, mask: Tensor) -> None:
        known = mask.flatten(1)
        if len(self.orders) > 1 and (partly := known.any(1) & ~known.all(1)).any():
            # what is known makes some orders likelier than others, and the draws take them alike
            raise DataError(
                f"{int(partly.sum())} of {len(known)} rows are known in part, and this model learned "
                f"{len(self.orders)} orders at once: give approximate=True, by which each draw takes one of them and "
                "looks back in it only, or take a model of one order"
            )
        for order in self.orders:
            check_beginning(known[:, order])


def check_beginning(known: Tensor, order: str = "") -> None:
    """Raise unless what is known (B, D), in the order of drawing, comes before what is missing.

    Args:
        order: the order in words, where there are some.
    """
    late = (known[:, 1:] & ~known[:, :-1]).any(1)
    if late.any():
        which = f" ({order})" if order else ""
        raise DataError(
            f"in {int(late.sum())} of {len(known)} rows something known comes after something missing, and this model "
            f"draws each part of a datum from those before it in its order{which} only: give a mask whose known part "
            "is the beginning of that order, or approximate=True, which looks back and not ahead"
        )
