"""What a generative model is: the base class, its capabilities, and the doors that check what comes in.

Public methods (`sample`, `log_prob`, `elbo`, ...) check data and condition, switch to evaluation mode and then call
the protected method of the same name with a leading underscore, which holds the mathematics and is what a model
file defines. `loss` is the training door and is unchecked: the data set was checked when it was made.

Capabilities are asked with `isinstance`. What a class can do may depend on its data (a flow is exact on reals, a
bound on dequantised pixels), so a model may *withhold* a capability of its class: `isinstance` then says no.
"""

from __future__ import annotations

import inspect
import math
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode import catalogue
from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, ConditionError, PolymodeError
from polymode.core.loss import Loss, Phase, TrainingDefaults
from polymode.core.spec import Spec

Nats = Float[Tensor, " B"]


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
        with self._evaluating():
            pieces = [
                self._sample(
                    min(batch_size, n - i),
                    None if condition is None else condition[i : i + batch_size],
                    g,
                    **options,
                ).cpu()
                for i in range(0, n, batch_size)
            ]
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
        """Learned numbers, each once; those of a model that fits directly are in its buffers."""
        if isinstance(self, FitsDirectly):
            return sum(t.numel() for t in self.state_dict().values() if t.is_floating_point())
        return sum(p.numel() for p in self.parameters())


class HasLogProb(Capability):
    """An exact, normalised likelihood in data space."""

    def log_prob(self, x: Tensor, condition: Condition | None = None) -> Nats:
        """log p(x | condition), (B,) nats: a probability on lattices, a density in the user's units on reals."""
        require(self, HasLogProb, "log_prob")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._log_prob(x, condition)

    @abstractmethod
    def _log_prob(self, x: Tensor, condition: Condition | None) -> Nats:
        """The mathematics of `log_prob`."""


class HasBound(Capability):
    """Lower bounds on the likelihood in data space."""

    #: what the bound is, for the protocol of a likelihood: "elbo", "uniform dequantisation"
    bound_name: str = "elbo"
    #: importance samples that an evaluation takes where nobody says; few where one is a whole chain
    default_num_samples: ClassVar[int] = 16

    def elbo(
        self,
        x: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
    ) -> Nats:
        """A one-sample estimate of a lower bound on log p(x | condition), (B,) nats."""
        require(self, HasBound, "elbo")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._log_weight(x, condition, rng.resolve(generator, seed))

    def iwae_bound(
        self,
        x: Tensor,
        num_samples: int,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
    ) -> Nats:
        """The importance-weighted bound log 1/S sum_s w_s of S samples (Burda et al. 2016, arXiv:1509.00519, eq. 8).

        Non-decreasing in S on average, equal to the ELBO at S = 1 and to log p(x) as S grows.
        """
        require(self, HasBound, "iwae_bound")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        g = rng.resolve(generator, seed)
        with self._evaluating():
            total = torch.full((len(x),), -torch.inf, device=x.device, dtype=torch.float64)
            for _ in range(num_samples):
                total = torch.logaddexp(total, self._log_weight(x, condition, g).double())
            return (total - math.log(num_samples)).to(self.dtype)

    @abstractmethod
    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Nats:
        """One sample of log w with E[w] = p(x | condition), so that E[log w] is a lower bound."""


class HasEnergy(Capability):
    """An unnormalised likelihood: log p(x) = -energy(x) - log Z, in data space."""

    def energy(self, x: Tensor, condition: Condition | None = None) -> Nats:
        """E(x | condition), (B,); lower is likelier. Only differences within one condition mean anything."""
        require(self, HasEnergy, "energy")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._energy(x, condition)

    @abstractmethod
    def _energy(self, x: Tensor, condition: Condition | None) -> Nats:
        """The mathematics of `energy`."""

    @abstractmethod
    def log_partition(
        self, condition: Condition | None = None, *, generator: torch.Generator | None = None, seed: int | None = None
    ) -> tuple[float, float]:
        """(log Z, its standard error) in nats: an estimate by AIS, or exact with error 0 where enumeration can do it.

        ``condition`` is one row.
        """


class HasLatents(Capability):
    """A code for every datum, and back."""

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The code of each datum: (B, Z), the posterior's mean where it has one."""
        require(self, HasLatents, "encode")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._encode(x, condition)

    def decode(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """The likeliest (or mean, rounded) datum of each code, in data space."""
        require(self, HasLatents, "decode")
        assert isinstance(self, GenerativeModel)
        condition = self.check_condition(condition, len(z))
        with self._evaluating():
            return self._decode(z.to(self.device), condition).to(self.spec.dtype)

    @abstractmethod
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The mathematics of `encode`."""

    @abstractmethod
    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """The mathematics of `decode`."""


class HasScore(Capability):
    """The gradient of a log-density in model space (scaled, continuous)."""

    @abstractmethod
    def score(self, y: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """The gradient of log p_t(y) in y, of y's shape; t (B,) in [0, 1], data at 0."""


class Denoises(Capability):
    """Predicts clean data from noisy data in model space."""

    @abstractmethod
    def denoise(self, xt: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """E[x0 | xt], of xt's shape; t (B,) in [0, 1], data at 0."""


class Transports(Capability):
    """A velocity field that carries noise to data in model space."""

    @abstractmethod
    def velocity(self, xt: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """dx/dt at (xt, t), of xt's shape; t (B,) in [0, 1], data at 0."""


class Completes(Capability):
    """Fills what is missing."""

    def complete(
        self,
        x: Tensor,
        mask: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Draw the entries where ``mask`` is False given those where it is True, which come back unchanged.

        Args:
            x: (B, *shape) data; what it holds where mask is False is not looked at, but must be in range.
            mask: (B, *shape) bool, True where x is known.
        """
        require(self, Completes, "complete")
        assert isinstance(self, GenerativeModel)
        if mask.shape != x.shape or mask.dtype != torch.bool:
            raise PolymodeError(
                f"mask has shape {tuple(mask.shape)} and dtype {mask.dtype}, expected {tuple(x.shape)} of bool"
            )
        self._check_options("complete", self._complete, options)
        x, condition = self.enter(x, condition)
        mask = mask.to(self.device)
        with self._evaluating():
            filled = self._complete(x, mask, condition, rng.resolve(generator, seed), **options).to(self.spec.dtype)
        return torch.where(mask, x.to(self.spec.dtype), filled).cpu()

    @abstractmethod
    def _complete(self, x: Tensor, mask: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        """The mathematics of `complete`."""


class Continues(Capability):
    """Draws symbol after symbol, so that `sample` can begin with given ones and end early.

    `sample` takes, beside what all take: ``prefix``, symbols (P,) for all, (n, P), or a list of lists; ``length``, how
    many symbols of a datum are drawn, the given ones among them; ``stop``, ``allowed``, ``beams`` and the other options
    of `parts.samplers.decoding`.
    """


class FitsDirectly(Capability):
    """Learns without gradients: EM, counting, memory."""

    @abstractmethod
    def fit_directly(
        self,
        x: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator,
        valid: tuple[Tensor, Condition | None] | None = None,
        report: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        """Learn from all of the training data at once.

        Args:
            x: the training data (N, *shape), in data space.
            valid: validation data, for choices such as a bandwidth.
            report: called with numbers worth a curve, once an iteration.
        """


CAPABILITIES: tuple[type[Capability], ...] = (
    HasLogProb, HasBound, HasEnergy, HasLatents, HasScore, Denoises, Transports, Completes, Continues,
    FitsDirectly,
)  # fmt: skip


def capabilities(model: GenerativeModel) -> tuple[str, ...]:
    """The names of what this model can do on its data."""
    return tuple(c.__name__ for c in CAPABILITIES if isinstance(model, c))


def require(model: Any, capability: Any, verb: str) -> None:
    """Raise CapabilityError unless ``model`` has ``capability``; the sentence says what it can do instead."""
    if not isinstance(model, capability):
        can = ", ".join(capabilities(model)) or "sampling only"
        raise CapabilityError(f"{type(model).__name__} on {model.spec} has no {verb}; it has: {can}")
