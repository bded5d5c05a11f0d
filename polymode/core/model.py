"""What a generative model is: the base class, and the doors that check what comes in.

Public methods (`sample`, `log_prob`, `elbo`, ...) check data and condition, switch to evaluation mode and then call
the protected method of the same name with a leading underscore, which holds the mathematics and is what a model
file defines. `loss` is the training door and is unchecked: the data set was checked when it was made.

Capabilities (`core.capabilities`) are asked with `isinstance`. What a class can do may depend on its data (a flow is
exact on reals, a bound on dequantised pixels), so a model may *withhold* one of its class: `isinstance` then says no.
"""

from __future__ import annotations

import inspect
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymode import catalogue
from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, ConditionError, PolymodeError
from polymode.core.loss import Loss, Phase, TrainingDefaults
from polymode.core.spec import Spec


class ModelMeta(ABCMeta):
    """Remembers constructor arguments (a checkpoint is name, arguments, weights) and honours `withheld`."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if not issubclass(cls, GenerativeModel):
            return super().__call__(*args, **kwargs)
        try:
            bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
        except TypeError as error:
            raise PolymodeError(f"{cls.__name__}: {error}") from None
        if (row := catalogue.row_of(cls)) is not None:
            condition_spec = bound.arguments.get("condition_spec")
            kinds = () if condition_spec is None else condition_spec.kinds
            catalogue.check_takes(row, bound.arguments["spec"].signature, kinds)
        model = super().__call__(*args, **kwargs)
        model.arguments = {k: v for k, v in list(bound.arguments.items())[1:] if k not in ("spec", "condition_spec")}
        return model

    def __instancecheck__(cls, instance: Any) -> bool:
        return super().__instancecheck__(instance) and cls not in getattr(instance, "withheld", ())


class Capability(metaclass=ModelMeta):
    """Base of the capability classes."""

    device: Any
    spec: Spec


class GenerativeModel(nn.Module, Capability):
    """A distribution over data of one spec, perhaps given a condition.

    Args:
        spec: what one datum is.
        condition_spec: what the model is conditioned on; None for an unconditional model.

    A subclass calls ``super().__init__(spec, condition_spec)`` first, and defines `loss` and `_sample`.
    """

    defaults: ClassVar[TrainingDefaults] = TrainingDefaults()
    #: a condition has one sample, so that a seed changes nothing
    deterministic: ClassVar[bool] = False
    #: capabilities of the class that this instance does not have on its data
    withheld: tuple[type, ...] = ()
    #: buffers whose shape depends on what was learned; resized when a checkpoint is loaded
    resizable: ClassVar[tuple[str, ...]] = ()
    arguments: dict[str, Any]

    def __init__(self, spec: Spec, condition_spec: ConditionSpec | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.condition_spec = condition_spec
        self.register_buffer("_anchor", torch.zeros(()), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are."""
        anchor = self._anchor
        assert isinstance(anchor, Tensor)
        return anchor.device

    @property
    def rows_at_once(self) -> int:
        """Rows to score at once: on a processor few, so that activations of convolutions stay in its cache."""
        return max(16, min(1024, (2**15 if self.device.type == "cpu" else 2**19) // self.spec.num_dims))

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype the model computes in."""
        anchor = self._anchor
        assert isinstance(anchor, Tensor)
        return anchor.dtype

    # -- training --------------------------------------------------------------------------------------------------
    @abstractmethod
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """The training loss of a batch in data space, unchecked."""

    def phases(self) -> list[Phase]:
        """The kinds of training step; the default is `loss` over all parameters."""
        return [Phase("all", (self,), lambda x, c, g: self.loss(x, c, generator=g))]

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Called once with the first training batch, before the first step (data-dependent initialisation)."""

    def forward(self, phase: str, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        """The trainer's door, so that wrappers that hook `forward` (distributed training) see every step."""
        return next(p for p in self.phases() if p.name == phase).loss(x, condition, generator)

    # -- sampling --------------------------------------------------------------------------------------------------
    def sample(
        self,
        n: int | None = None,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        batch_size: int = 1024,
        **options: Any,
    ) -> Tensor:
        """Draw n data (n, *shape) in data space, on the CPU.

        Args:
            n: how many; may be left out where a condition says it.
            condition: one row a datum, for a conditional model.
            generator, seed: one of them for a repeatable draw.
            batch_size: how many are drawn at once (memory only).
            options: the family's own (temperature, steps, guidance_scale, ...); unknown names are refused.

        Raises:
            ConditionError: a condition that is missing, unexpected or does not fit.
        """
        n = len(condition) if n is None and condition is not None else 1 if n is None else n
        if n < 1:
            raise PolymodeError(f"n={n}, expected at least 1 sample")
        self._check_options("sample", self._sample, options)
        condition = self.check_condition(condition, n)
        g = rng.resolve(generator, seed)
        pieces = []
        with self._evaluating():
            for i in range(0, n, batch_size):
                rows = slice(i, i + batch_size)
                own = {k: v[rows] if isinstance(v, Condition) and len(v) == n else v for k, v in options.items()}
                given = None if condition is None else condition[rows]
                pieces.append(self._sample(min(batch_size, n - i), given, g, **own).cpu())
        return torch.cat(pieces).to(self.spec.dtype)

    @abstractmethod
    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        """n draws in data space."""

    # -- doors -----------------------------------------------------------------------------------------------------
    def check_condition(self, condition: Condition | None, n: int) -> Condition | None:
        """The condition on the model's device, or ConditionError if it is not what the model was made for."""
        if self.condition_spec is None:
            if condition is not None:
                raise ConditionError(
                    f"a condition ({' and '.join(condition.kinds)}) came to an unconditional "
                    f"{type(self).__name__}; make the model with condition_spec=data.condition_spec"
                )
            return None
        return self.condition_spec.check(condition, n).to(self.device)

    def enter(self, x: Tensor, condition: Condition | None) -> tuple[Tensor, Condition | None]:
        """Data and condition, checked and on the model's device: every scoring door begins with it."""
        self.spec.check(x)
        return x.to(self.device), self.check_condition(condition, len(x))

    def _check_options(self, verb: str, method: Callable[..., Any], options: dict[str, Any]) -> None:
        known = [
            name
            for name, p in inspect.signature(method).parameters.items()
            if name not in ("n", "x", "condition", "generator") and p.kind is not p.VAR_KEYWORD
        ]
        for name in options:
            if name not in known:
                listed = ", ".join(known) or "none"
                raise PolymodeError(f"{type(self).__name__}.{verb} has no option {name!r}; its options are: {listed}")

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradients, and back."""
        if not self.training:  # setting the mode walks over every module, which costs as much as a small model's pass
            with torch.no_grad():
                yield
            return
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any, **more: Any) -> None:
        for name in self.resizable:
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(saved, device=self.device))
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)

    def save(self, folder: str | Path) -> Path:
        """Write config.json and model.safetensors to ``folder``, atomically; `polymode.load` reads them back."""
        from polymode.core import checkpoint  # checkpoint builds on this module

        return checkpoint.save(self, folder)

    @property
    def num_parameters(self) -> int:
        """Learned numbers, each once; those of a model without parameters, which fits directly, are in its buffers."""
        learned = list(self.parameters()) or [t for t in self.state_dict().values() if t.is_floating_point()]
        return sum(t.numel() for t in learned)


def require(model: Any, capability: Any, verb: str) -> None:
    """Raise CapabilityError unless ``model`` has ``capability``; the sentence says what it can do instead."""
    if not isinstance(model, capability):
        from polymode.core.capabilities import capabilities  # capabilities builds on this module

        can = ", ".join(capabilities(model)) or "sampling only"
        raise CapabilityError(f"{type(model).__name__} on {model.spec} has no {verb}; it has: {can}")
