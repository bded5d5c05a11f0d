"""What Boltzmann machines over series share: a restricted machine a frame, whose biases the frames before it set.

    p(x) = prod_t p(v_t | v_<t),   p(v | v_<t) = exp(-F(v; b_t, c_t)) / Z(b_t, c_t)

A machine says how b_t and c_t follow from v_<t: for all frames at once (`biases`), and one frame after the other
(`begin`, `next_biases`, `advance`), which sampling walks by. All frames of a batch are then rows of one machine
(`_rows`): contrastive divergence runs their chains side by side, each given the true past ("teacher forcing"), and the
gradient goes through b_t and c_t into whatever made them. `TemporalMachine.loss` holds it, `_frame_estimate` the
likelihood of frames, with a log Z for each: summed for tiny machines, else by annealed importance sampling.
A condition's vector is split into what it adds to b and to c of every frame.

`PastFrames` is what the last frames before each add to its biases: a linear map of them, and of which of them lie
before the first.

Chains start at the frames that they are contrasted with. None is kept between steps: it would meet the biases of other
frames, whose modes it can't reach in a few sweeps.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.capabilities import HasFrameEstimate
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.pieces import FrameEstimate
from polymode.core.rolls import lengths
from polymode.core.spec import Spec
from polymode.models.boltzmann._rows import RowMachine, bias_encoder
from polymode.models.boltzmann._units import units_for
from polymode.parts.encoders.condition import Conditioned

#: b (B, T, D) and c (B, T, H), or of one frame (B, D) and (B, H)
Biases = tuple[Tensor, Tensor]


class TemporalMachine(Conditioned, GenerativeModel, HasFrameEstimate):
    """A restricted Boltzmann machine a frame of bits. See the module for what a subclass defines.

    Args:
        spec: what one datum is: a series (T, D) of bits.
        condition_spec: what it is conditioned on.
        hidden: H, hidden units of a frame.
        k: Gibbs sweeps of a training step.
        charge_silence: False leaves silence behind a piece of music out of the training loss, as published likelihoods
            do; it then takes less time, and samples do not end.

    Raises:
        PolymodeError: sizes below one.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=2e-2, batch_size=16, ema=0.99, clip=1.0, warmup=20, loss_is_objective=False
    )

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        *,
        hidden: int,
        k: int,
        charge_silence: bool,
    ) -> None:
        super().__init__(spec, condition_spec)
        self.hidden, self.k, self.charge_silence = hidden, k, charge_silence
        self.length, self.d = spec.shape
        frame = Spec("vector", (self.d,), spec.support)
        self.machine = RowMachine(frame, None, units_for(frame), hidden=hidden, algorithm="cd", k=k, chains=1)
        self.condition_encoder = bias_encoder(condition_spec, self.d + hidden)

    # -- what a machine defines ------------------------------------------------------------------------------------
    @abstractmethod
    def biases(self, frames: Float[Tensor, "B T D"], rest: Biases, generator: torch.Generator) -> Biases:
        """b_t (B, T, D) and c_t (B, T, H) of every frame given those before it; ``rest`` is what `at_rest` gives."""

    @abstractmethod
    def begin(self, n: int) -> Any:
        """What is carried into the first frame of n series."""

    @abstractmethod
    def next_biases(self, state: Any, rest: Biases) -> Biases:
        """b_t (B, D) and c_t (B, H) from what is carried."""

    @abstractmethod
    def advance(self, state: Any, v: Float[Tensor, "B D"], biases: Biases, generator: torch.Generator) -> Any:
        """What is carried on from a frame v that was drawn under its biases."""

    def at_rest(self, condition: Condition | None, n: int) -> Biases:
        """The biases without a past, of n rows: (B, D) and (B, H)."""
        b, c = self.machine.visible_bias.expand(n, -1), self.machine.hidden_bias.expand(n, -1)
        if (moved := self.context(condition)) is None:
            return b, c
        return b + moved[:, : self.d], c + moved[:, self.d :]

    # -- training --------------------------------------------------------------------------------------------------
    def counted(self, x: Tensor) -> Bool[Tensor, "B T"]:
        """Which frames the training loss charges, up to the last that it charges in any row."""
        if self.charge_silence:
            return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        ends = lengths(x)
        # a batch of silence has a frame too, so that there is a loss
        return torch.arange(max(1, int(ends.max())), device=x.device) < ends.clamp(min=1).unsqueeze(1)

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Visible biases, and the offsets of centring, from the frames of the first batch."""
        counted = self.counted(x)
        self.machine.prepare(x[:, : counted.shape[1]][counted], None, generator)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """F(v+) - F(v-) of every frame given the true frames before it, added up over each row's frames."""
        counted = self.counted(x)
        (n, longest), at = counted.shape, counted.flatten().nonzero().squeeze(1)
        frames = x[:, :longest].to(self.dtype)
        b, c = self.biases(frames, self.at_rest(condition, n), generator)
        v, *fields = (part.flatten(0, 1)[at] for part in (frames, b, c))
        positive, negative = self.machine.contrast(v, tuple(fields), self.k, generator)
        by_row = [part.new_zeros(n).index_add(0, at // longest, part) for part in (positive, negative)]
        return Loss(by_row[0] - by_row[1], {"positive": by_row[0].detach(), "negative": by_row[1].detach()})

    # -- likelihood ------------------------------------------------------------------------------------------------
    def _frame_estimate(
        self,
        x: Tensor,
        frames: Tensor,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        chains: int = 8,
        temperatures: int = 150,
    ) -> FrameEstimate:
        """-F(v_t) - log Z_t of every frame."""
        v = x.to(self.dtype)
        asked = torch.arange(self.length, device=v.device) < frames.unsqueeze(1)  # (B, T)
        fields = tuple(part[asked] for part in self.biases(v, self.at_rest(condition, len(v)), generator))
        log_z, error = self.machine.row_partitions(fields, generator, chains=chains, temperatures=temperatures)
        found = torch.zeros(2, *asked.shape, dtype=torch.float64, device=v.device)
        found[0, asked] = -self.machine.free_energy(v[asked], fields).double() - log_z
        found[1, asked] = error
        return FrameEstimate(*found, self.protocol(chains, temperatures))

    def protocol(self, chains: int, temperatures: int) -> str:
        """How the normalisers of frames were made."""
        if self.machine.sums_rows:
            return "log Z of every frame by enumeration"
        return f"log Z of every frame by AIS ({chains} chains, {temperatures} temperatures)"

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator, *, steps: int = 50) -> Tensor:
        """Frame after frame, each by `steps` Gibbs sweeps that start at the frame before it."""
        rest, state = self.at_rest(condition, n), self.begin(n)
        v, frames = self.machine.mean.expand(n, -1), []
        for _ in range(self.length):
            biases = self.next_biases(state, rest)
            v, _ = self.machine.walk(self.machine.draw_state(v, None, biases, generator), biases, steps, generator)
            frames.append(v)
            state = self.advance(state, v, biases, generator)
        return torch.stack(frames, 1)


class PastFrames(nn.Module):
    """b_t = b + sum_i A_i v_{t-i} and c_t = c + sum_i B_i v_{t-i}, of the last `order` frames of D bits."""

    def __init__(self, d: int, hidden: int, order: int) -> None:
        super().__init__()
        if order < 1:
            raise PolymodeError(f"order={order}, expected at least 1 frame before each")
        self.order, self.d = order, d
        self.weight = nn.Parameter(0.01 * torch.randn(d + hidden, (d + 1) * order))  # A and B

    def forward(self, frames: Float[Tensor, "B T D"], rest: Biases) -> Biases:
        """b_t and c_t of every frame, (B, T, D) and (B, T, H)."""
        before = torch.cat([self.begin(len(frames)), F.pad(frames[:, :-1], (0, 1))], 1)  # (B, m + T - 1, D + 1)
        b, c = self._map(before.unfold(1, self.order, 1).flatten(2))  # windows (B, T, (D + 1) m)
        return rest[0].unsqueeze(1) + b, rest[1].unsqueeze(1) + c

    def begin(self, n: int) -> Float[Tensor, "n m D1"]:
        """The frames before the first: silence, and a last entry of one that says that there are none."""
        return F.pad(self.weight.new_zeros(n, self.order, self.d), (0, 1), value=1.0)

    def next(self, window: Float[Tensor, "n m D1"], rest: Biases) -> Biases:
        """b_t and c_t of one frame, from the window before it."""
        b, c = self._map(window.transpose(1, 2).flatten(1))
        return rest[0] + b, rest[1] + c

    def advance(self, window: Tensor, v: Float[Tensor, "n D"]) -> Tensor:
        """The window one frame later."""
        return torch.cat([window[:, 1:], F.pad(v, (0, 1)).unsqueeze(1)], 1)

    def _map(self, windows: Tensor) -> Biases:
        both = F.linear(windows, self.weight)
        return both[..., : self.d], both[..., self.d :]
