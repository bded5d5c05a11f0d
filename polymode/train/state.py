"""Everything that training changes, so that a run can be saved, resumed bit for bit, and rolled back.

Randomness needs no saving: the draws of step t come from a generator seeded by (seed, rank, t).
"""

from __future__ import annotations

import hashlib
import math
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymode.core.checkpoint import write_atomically
from polymode.core.errors import CheckpointError
from polymode.core.loss import Phase, TrainingDefaults
from polymode.core.model import GenerativeModel

STATE = "trainer.pt"


@dataclass
class TrainerState:
    """Counters, weights, moving average, optimisers, and the best weights so far.

    Attributes:
        step: turns of all phases so far; batches: training batches read so far.
        rate: factor on the learning rate, lowered by rollbacks.
        ema: moving average of the parameters by name (empty when there is none).
        best: (validation loss, state dict), kept when `keep_best`.
        bad_validations: validations since the best.
        seconds: time spent before this process.
    """

    model: GenerativeModel
    optimizers: dict[str, torch.optim.Optimizer]
    decay: float = 0.0
    step: int = 0
    batches: int = 0
    rate: float = 1.0
    rollbacks: int = 0
    seconds: float = 0.0
    ema: dict[str, Tensor] = field(default_factory=dict)
    live: list[Tensor] = field(default_factory=list, repr=False)
    best: tuple[float, dict[str, Tensor]] = (math.inf, {})
    bad_validations: int = 0
    finished: bool = False

    def start_ema(self) -> None:
        """Begin the moving average at the present weights."""
        if self.decay:
            learned = {k: p.detach() for k, p in self.model.named_parameters() if p.requires_grad}
            self.ema, self.live = {k: v.clone() for k, v in learned.items()}, list(learned.values())

    def update_ema(self) -> None:
        """ema <- decay ema + (1 - decay) weights, with a decay that starts low so that early weights are forgotten."""
        if self.ema:
            decay = min(self.decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.ema.values()), self.live, 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """The state dict to sample from: the moving average where there is one."""
        return {k: self.ema.get(k, v) for k, v in self.model.state_dict().items()}

    def chosen(self) -> dict[str, Tensor]:
        """The state dict to keep: the best validated one, else the present one."""
        return self.best[1] or self.weights()

    def snapshot(self) -> dict[str, Any]:
        """A copy of everything, of tensors and plain values only."""
        counters = {
            k: getattr(self, k)
            for k in ("step", "batches", "rate", "rollbacks", "seconds", "bad_validations", "finished")
        }
        return {
            "counters": counters,
            "model": _copy(self.model.state_dict()),
            "optimizers": {k: _copy(o.state_dict()) for k, o in self.optimizers.items()},
            "ema": _copy(self.ema),
            "best_loss": self.best[0],
            "best": self.best[1],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to a snapshot."""
        for name, value in saved["counters"].items():
            setattr(self, name, value)
        self.model.load_state_dict(saved["model"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(_copy(saved["optimizers"][name]))
        self.ema = _copy(saved["ema"])
        self.best = (saved["best_loss"], saved["best"])


def _copy(value: Any) -> Any:
    """A deep copy in which every tensor is cloned."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(v) for v in value)
    return value


def write_state(folder: Path, state: TrainerState, identity: dict[str, str]) -> None:
    """Write trainer.pt; ``identity`` says what model and data it belongs to."""
    saved = state.snapshot() | {"identity": identity}
    write_atomically(folder / STATE, lambda p: torch.save(saved, p))


def read_state(folder: Path, identity: dict[str, str], device: torch.device) -> dict[str, Any] | None:
    """The saved snapshot, None when there is none; refused when it belongs to another model or other data."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        theirs = saved["identity"]
    except (RuntimeError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} is truncated or damaged ({reason}); delete it to start again") from None
    for what, value in identity.items():
        if theirs.get(what) != value:
            raise CheckpointError(
                f"{path} belongs to another {what} ({theirs.get(what)}, now {value}); choose another out folder"
            )
    return saved


def optimizer_for(phase: Phase, chosen: TrainingDefaults) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum over a phase's parameters, fused where torch has it."""
    rate = chosen.learning_rate * phase.learning_rate_scale
    if chosen.optimizer == "sgd":
        return torch.optim.SGD(
            phase.parameters(), lr=rate, momentum=chosen.betas[0], weight_decay=chosen.weight_decay, fused=True
        )
    return torch.optim.AdamW(
        phase.parameters(), lr=rate, betas=chosen.betas, weight_decay=chosen.weight_decay, fused=True
    )


def step_seed(*parts: int) -> int:
    """A well-mixed 32-bit seed of several integers."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")
