"""Two modalities of one thing in one machine: the datum at one end of a row of layers, its condition at the other.

    p(x, c) = sum over hidden layers of exp(-E(x, hidden .., c)) / Z,     log p(x | c) = log p*(x, c) - log Z(c)

The machine is a joint one (`_deep`, whose last layer the condition is), learned as such: neither modality is an input.
So p(x | c) is drawn by clamping c, p(c | x) by clamping x (`TwoModalities._predict`), what is withheld is inferred like
any hidden unit, and log p*(x, c) says how well the two go together (`_association`). As a layer, a condition is

    label    one of K                                      a softmax unit
    tokens   as "words", those that occur in it            a bit a symbol; the symbol spelled "" fills and is none
             as "places", which symbol stands where        a softmax unit a place
    vector   reals                                         Gaussian units of the variances of the first batch

`TwoModalities._given` is the machine of p(x | c): without the last layer, which only moves the biases of its neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core.capabilities import Associates
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, ConditionError, require_choice
from polymode.core.spec import Spec, tokens, vector
from polymode.models.boltzmann._deep import DeepMachine, bits
from polymode.models.boltzmann._units import Gaussian, Groups, Known, Units, units_for
from polymode.parts.samplers import ais

TokensAs = Literal["words", "places"]


class TwoModalities(DeepMachine, Associates):
    """A joint machine of data and conditions.

    Args:
        between: units of the hidden layers from the data to the condition, an odd number of layers.
        tokens_as: what tokens are, see the module.
        options: of `DeepMachine`.

    Raises:
        ConditionError: no condition, or more than one kind of it.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        between: Sequence[int],
        *,
        tokens_as: TokensAs,
        **options: Any,
    ) -> None:
        name = type(self).__name__
        require_choice("tokens_as", tokens_as, ("words", "places"))
        if condition_spec is None:
            raise ConditionError(f"{name} needs a second modality: give condition_spec=data.condition_spec")
        if len(condition_spec.kinds) != 1:
            kinds = " and ".join(condition_spec.kinds)
            raise ConditionError(f"{name} has one second modality and {kinds} came; give one of them")
        layers = [units_for(spec), *map(bits, between), _units_of(condition_spec, tokens_as)]
        super().__init__(spec, None, layers, **options)  # the condition is a layer, and moves no table of biases
        self.condition_spec, self.tokens_as = condition_spec, tokens_as
        self.hidden_places = range(1, len(layers) - 1)

    def rows_of(self, condition: Condition | None) -> Tensor | None:
        """None: conditions are a layer."""
        return None

    @property
    def second(self) -> Units:
        """The condition's layer."""
        return self.units.parts[-1]

    def values_of(self, condition: Condition) -> Float[Tensor, "B C"]:
        """A condition as values of its layer."""
        assert self.condition_spec is not None
        if condition.label is not None:
            return self.second.encode(condition.label.unsqueeze(1))
        if condition.tokens is not None:
            if self.tokens_as == "places":
                return self.second.encode(condition.tokens)
            assert self.condition_spec.tokens is not None
            present = torch.zeros(len(condition), self.condition_spec.tokens[0], device=self.device, dtype=self.dtype)
            present.scatter_(1, condition.tokens, 1.0)
            return present[:, self.symbols]
        assert condition.vector is not None
        return self.second.encode(condition.vector.to(self.dtype))

    @property
    def symbols(self) -> list[int]:
        """The ids of the symbols that have a bit."""
        assert self.condition_spec is not None
        return _symbols(self.condition_spec)

    # -- what is known ---------------------------------------------------------------------------------------------
    def held(self, condition: Condition | None, n: int) -> Known | None:
        if condition is None:
            return None
        rest, width = self.units.size - self.shown, self.second.size
        values = torch.zeros(n, rest, dtype=self.dtype, device=self.device)
        mask = torch.zeros(n, rest, dtype=torch.bool, device=self.device)
        values[:, rest - width :] = self.values_of(condition)
        mask[:, rest - width :] = True if condition.dropped is None else ~condition.dropped.unsqueeze(1)
        return values, mask

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Also the base of the condition's layer, from the rows that have one."""
        assert condition is not None
        kept = condition if condition.dropped is None else condition[~condition.dropped]
        if len(kept):
            with torch.no_grad():
                base = self.second.fit(self.values_of(kept))
                if isinstance(self.second, Gaussian):
                    self.second.log_variance.copy_(-self.second.base_precision.log())
                self.base_bias[-self.second.size :] = base
                self.visible_bias[-self.second.size :] = base
        super().prepare(x, condition, generator)

    # -- either given the other ------------------------------------------------------------------------------------
    def _association(self, x: Tensor, condition: Condition) -> Tensor:
        return -self._energy(x, condition)

    def _predict(self, x: Tensor) -> Tensor:
        """A class by the bound of each, symbols by mean field."""
        assert self.condition_spec is not None
        if self.condition_spec.vector is not None:
            raise CapabilityError(f"{type(self).__name__} of real conditions predicts no classes or symbols")
        if (classes := self.condition_spec.label) is None:
            assert self.condition_spec.tokens is not None
            found = x.new_zeros(len(x), self.condition_spec.tokens[0], dtype=self.dtype)
            means = self.mean_field(x).v[:, -self.second.size :]
            if self.tokens_as == "places":
                means = 1 - (1 - means.unflatten(1, self.second.shape)).prod(1)[:, self.symbols]
            found[:, self.symbols] = means
            return found
        each = [
            self._association(x, Condition(label=torch.full((len(x),), k, device=self.device))) for k in range(classes)
        ]
        return torch.stack(each, 1).softmax(1)

    # -- log Z(c) --------------------------------------------------------------------------------------------------
    def _given(self, condition: Condition) -> tuple[DeepMachine, float]:
        """(The machine of x given a condition of one row, what its log Z lacks of log Z(c))."""
        c = self.values_of(condition)
        size = self.second.size
        with torch.random.fork_rng(devices=[]):  # its first weights, which are overwritten, are drawn from torch's own
            layers = self._layers()[:-1]
            machine = DeepMachine(
                self.spec, None, layers, algorithm=self.algorithm, k=self.k, chains=self.chains,
            ).to(self.device, self.dtype)  # fmt: skip
        sent = ((c - self.mean[-size:]) * self.second.scale) @ self.weights[-1]  # (1, H of the last odd layer)
        for mine, its in zip(machine.weights, self.weights[:-1], strict=True):
            mine.copy_(its)
        machine.visible_bias.copy_(self.visible_bias[:-size])
        machine.base_bias.copy_(self.base_bias[:-size])
        machine.hidden_bias.copy_(self.hidden_bias)
        machine.hidden_bias[-sent.shape[1] :] += sent[0]
        machine.chain_state.copy_(self.chain_state[: len(machine.chain_state)])
        own = (c @ self.visible_bias[-size:]) + self.second.log_measure(c)
        return machine.eval(), float(own) - 0.5 * float(sent.sum())

    def _layers(self) -> list[Units]:
        """The units of each layer in their row."""
        shown, odd = iter(self.units.parts), iter(map(bits, self.widths[1::2]))
        return [next(odd if place % 2 else shown) for place in range(len(self.widths))]

    def log_partition(
        self,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> tuple[float, float]:
        """(log Z(c), its standard error); of a condition that is withheld, log Z of the joint machine."""
        given = self.check_condition(condition, 1)
        assert given is not None
        if given.dropped is not None and bool(given.dropped):
            return super().log_partition(condition, generator=generator, seed=seed, **options)
        with self._evaluating():
            machine, lacks = self._given(given)
        log_z, error = machine.log_partition(generator=generator, seed=seed, **options)
        return log_z + lacks, error

    def reverse_log_partition(
        self,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> ais.Annealed:
        """As of `log_partition`, from above."""
        given = self.check_condition(condition, 1)
        assert given is not None
        if given.dropped is not None and bool(given.dropped):
            return super().reverse_log_partition(condition, generator=generator, seed=seed, **options)
        with self._evaluating():
            machine, lacks = self._given(given)
        found = machine.reverse_log_partition(generator=generator, seed=seed, **options)
        return replace(found, log_z=found.log_z + lacks)


def _symbols(condition_spec: ConditionSpec) -> list[int]:
    assert condition_spec.tokens is not None
    spelled = condition_spec.token_symbols
    return [i for i in range(condition_spec.tokens[0]) if not spelled or spelled[i] != ""]


def _units_of(condition_spec: ConditionSpec, tokens_as: TokensAs) -> Units:
    """The layer of a condition."""
    if condition_spec.label is not None:
        return Groups(tokens(1, condition_spec.label))
    if condition_spec.tokens is not None and tokens_as == "places":
        vocabulary, length = condition_spec.tokens
        return Groups(tokens(length, vocabulary))
    if condition_spec.tokens is not None:
        return bits(len(_symbols(condition_spec)))
    if condition_spec.vector is not None:
        return Gaussian(vector(condition_spec.vector), learned=False)
    raise ConditionError(f"{' and '.join(condition_spec.kinds)}: expected a label, tokens or a vector")
