"""What a training step minimises, and what it tells on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polymode.core.condition import Condition


@dataclass(frozen=True)
class Loss:
    """A loss per example, (B,), in nats where it is a likelihood; the trainer takes the mean.

    `parts` are further per-example or scalar tensors worth a curve (kl, reconstruction, critic's score).
    """

    per_example: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)

    @property
    def value(self) -> Tensor:
        """The mean over the batch."""
        return self.per_example.mean()


LossFunction = Callable[[Tensor, "Condition | None", torch.Generator], Loss]


@dataclass(frozen=True)
class Phase:
    """One kind of step: a loss over some parameters.

    Phases of one `stage` take turns, each `repeats` times on fresh batches; stages follow one another and divide the
    budget by their shares (a deep belief network has one a layer).

    Args:
        name: shown in the log.
        modules: what holds the parameters that this phase moves.
        loss: (x, condition, generator) -> Loss.
        repeats: steps in a row before the next phase's turn.
        stage: the stage it belongs to, from 0.
        share: of the budget that its stage gets, beside those of other stages.
        learning_rate_scale: a factor on the run's rate (two-time-scale training).
        after_step: called after each optimiser step (weight clipping).
    """

    name: str
    modules: tuple[nn.Module, ...]
    loss: LossFunction
    repeats: int = 1
    stage: int = 0
    share: float = 1.0
    learning_rate_scale: float = 1.0
    after_step: Callable[[], None] | None = None

    def parameters(self) -> list[nn.Parameter]:
        """The parameters this phase moves, each once."""
        seen: dict[int, nn.Parameter] = {id(p): p for m in self.modules for p in m.parameters() if p.requires_grad}
        return list(seen.values())


@dataclass(frozen=True)
class TrainingDefaults:
    """What a family trains well with where the user says nothing; every field is an argument of `polymode.fit`.

    Args:
        learning_rate, batch_size, weight_decay, betas: AdamW's.
        ema: decay of the moving average of the weights that are sampled from and saved (0 = none).
        clip: largest norm of the gradient (None = no clipping).
        schedule: "cosine" decays the rate to zero over the budget, "constant" does not.
        warmup: steps over which the rate rises from zero.
        optimizer: "adamw" or "sgd".
        loss_is_objective: a lower validation loss means a better model, so the best weights may be kept by it.
            False for adversarial and contrastive losses.
        labelled_share: the least share of labelled rows in a batch, where the labels of some rows are withheld.
    """

    learning_rate: float = 1e-3
    batch_size: int = 128
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    ema: float = 0.0
    clip: float | None = 10.0
    schedule: str = "cosine"
    warmup: int = 0
    optimizer: str = "adamw"
    loss_is_objective: bool = True
    labelled_share: float = 0.1


def merge_parts(parts: Iterable[dict[str, Any]]) -> dict[str, float]:
    """The mean of each named part over several losses, for the log."""
    sums: dict[str, list[float]] = {}
    for entry in parts:
        for name, value in entry.items():
            sums.setdefault(name, []).append(float(torch.as_tensor(value, dtype=torch.float64).mean()))
    return {name: sum(values) / len(values) for name, values in sums.items()}
