"""Gated dilated causal convolutions, over whole sequences or one step at a time with what each layer still needs.

van den Oord et al. 2016, WaveNet: A Generative Model for Raw Audio (arXiv:1609.03499, sections 2.1, 2.3-2.5):

    z_t = tanh(W_f h_{t-d} + U_f h_t + V_f c_t) * sigmoid(W_g h_{t-d} + U_g h_t + V_g c_t)      (eq. 2 and 3)
    h_t <- h_t + W_r z_t,   skips_t = W_s [z_t of every layer]                                  (figure 4)

with dilations d = 1, 2, 4, ... that begin again after each stack. What lies before the sequence counts as zero. The
condition c_t is one vector for all steps, or one for every `hold` of them (section 2.5, upsampled by repetition).

`Past` keeps the last d inputs of each layer in a ring (Le Paine et al. 2016, Fast Wavenet Generation Algorithm,
arXiv:1611.09482), so a step costs one column of each layer. At that size the number of operations is what costs, so
`Past.step` has four a layer, into memory laid out once: what rings, biases and condition say to the gates of all layers
is one product at the start, W_s one at the end, and sigmoid(a) = (1 + tanh(a / 2)) / 2 makes both halves one tanh.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

#: steps whose places in the rings are found at once
STEPS = 256


class DilatedStack(nn.Module):
    """(B, t, C) to the sum of skips (B, t, S), causal.

    Args:
        channels, skip: C and S.
        layers: of a stack, with dilations 1, 2, 4, ..., 2^(layers - 1).
        stacks: how often the dilations begin again.
        context_features: of a condition's vectors (B, W) or (B, F, W), 0 for none.
        hold: steps that each of F vectors stands for, the last one for all that follow.
    """

    def __init__(
        self, channels: int, skip: int, *, layers: int, stacks: int, context_features: int = 0, hold: int = 1
    ) -> None:
        super().__init__()
        self.channels, self.hold = channels, hold
        self.dilations = [2**i for _ in range(stacks) for i in range(layers)]
        depth = len(self.dilations)
        self.gates = nn.ModuleList(nn.Linear(2 * channels, 2 * channels) for _ in range(depth))  # of [h_{t-d}, h_t]
        # the last layer has skips only
        self.out = nn.ModuleList(nn.Linear(channels, channels, bias=False) for _ in range(depth - 1))
        self.skips = nn.Linear(depth * channels, skip)
        self.context = nn.Linear(context_features, depth * 2 * channels, bias=False) if context_features else None

    @property
    def reach(self) -> int:
        """How many inputs an output depends on, its own among them."""
        return 1 + sum(self.dilations)

    def forward(
        self, h: Float[Tensor, "B t C"], context: Tensor | None = None, start: int = 0, past: Past | None = None
    ) -> Float[Tensor, "B t S"]:
        """Skips of steps start, start + 1, ...; with a past, its rings move on by as many (`Past.step` for one)."""
        said = self.said(context)  # (B, F, L * 2C)
        found = []
        for i, (d, gates) in enumerate(zip(self.dilations, self.gates, strict=True)):
            earlier = F.pad(h, (0, 0, d, 0))[:, : h.shape[1]] if past is None else past.before(i, start, h)
            a = gates(torch.cat([earlier, h], dim=2))  # (B, t, 2C)
            if said is not None:
                a = a + self._held(said[..., i * a.shape[2] : (i + 1) * a.shape[2]], start, h.shape[1])
            filtered, gate = a.chunk(2, dim=2)
            z = torch.tanh(filtered) * torch.sigmoid(gate)
            found.append(z)
            if i < len(self.out):
                h = h + self.out[i](z)
        return self.skips(torch.cat(found, dim=2))

    def said(self, context: Tensor | None) -> Tensor | None:
        """What the condition adds to the gates of all layers, (B, F, L * 2C)."""
        if self.context is None or context is None:
            return None
        return self.context(context if context.dim() == 3 else context.unsqueeze(1))

    def _held(self, frames: Tensor, start: int, length: int) -> Tensor:
        """Frames (B, F, ...) as they stand at steps start .. start + length - 1; a single one as it is."""
        if frames.shape[1] == 1:
            return frames
        at = torch.arange(start, start + length, device=frames.device) // self.hold
        return frames[:, at.clamp(max=frames.shape[1] - 1)]

    def empty_past(self, n: int, context: Tensor | None = None) -> Past:
        """What is before the first step of n sequences under a condition."""
        return Past(self, n, context)


class Past:
    """For each layer the last d inputs, and its weights as a step needs them; gradients do not pass.

    `rings` is (sum of d, n, C): from row `first[i]` on it has the d inputs of layer i, that of time t in row t mod d.

    Args:
        stack: of the layers, whose weights stay as they are meanwhile.
        n: sequences.
        context: the condition, (n, W) or (n, F, W).
    """

    @torch.no_grad()
    def __init__(self, stack: DilatedStack, n: int, context: Tensor | None) -> None:
        c, weight = stack.channels, stack.skips.weight
        self.stack, self.said = stack, stack.said(context)
        self.dilations = torch.tensor(stack.dilations, device=weight.device)
        self.first = self.dilations.cumsum(0) - self.dilations
        self.rings = weight.new_zeros(sum(stack.dilations), n, c)
        # a gate is (1 + tanh(a / 2)) / 2: its weights are halved, and those of z, which is kept as tanh (1 + tanh)
        self.half = torch.cat([weight.new_ones(c), weight.new_full((c,), 0.5)])
        both = torch.stack([layer.weight for layer in stack.gates]).transpose(1, 2) * self.half  # (L, 2C, 2C)
        self.earlier, self.now = both[:, :c].contiguous(), both[:, c:].contiguous().unbind()
        self.out = [(0.5 * layer.weight.T).contiguous() for layer in stack.out]
        self.skips = (0.5 * stack.skips.weight.T).contiguous()
        self._make_room(n)

    def _make_room(self, n: int) -> None:
        """Where a step of n sequences computes: the inputs and gates of all layers, and z, side by side."""
        stack, c, like = self.stack, self.stack.channels, self.rings
        depth = len(stack.dilations)
        self.inputs, self.gates = like.new_zeros(depth, n, c), like.new_zeros(depth, n, 2 * c)
        self.z = like.new_zeros(n, depth * c)
        self.layers = list(
            zip(self.inputs, self.gates, self.gates[..., :c], self.gates[..., c:], self.z.split(c, dim=1), self.now,
                strict=True)
        )  # fmt: skip
        self.frame = self.block = -1  # none yet

    def rows(self, index: Tensor) -> Past:
        """The past of some of the sequences."""
        chosen = copy.copy(self)
        chosen.rings = self.rings[:, index]
        chosen.said = None if self.said is None else self.said[index]
        chosen._make_room(chosen.rings.shape[1])
        return chosen

    def before(self, layer: int, start: int, h: Tensor) -> Tensor:
        """The inputs d earlier than h (n, t, C), which begins at `start`; h is put in their place."""
        d, t = self.stack.dilations[layer], h.shape[1]
        ring = self.rings[int(self.first[layer]) :][:d]  # (d, n, C)
        slots = (start + torch.arange(d, device=h.device)) % d  # from the oldest on
        both = torch.cat([ring[slots].transpose(0, 1), h], dim=1)
        last = (start + t - d + torch.arange(d, device=h.device)) % d
        ring[last] = both[:, t:].detach().transpose(0, 1)
        return both[:, :t]

    @torch.no_grad()
    def step(self, start: int, h: Tensor) -> Tensor:
        """The skips (n, S) of the one step `start` from its input (n, C)."""
        slots = self._slots(start)
        torch.baddbmm(self._told(start), self.rings.index_select(0, slots), self.earlier, out=self.gates)
        self.inputs[0] = h
        for i, (mine, gates, filtered, gate, z, now) in enumerate(self.layers):
            gates.addmm_(mine, now).tanh_()
            torch.addcmul(filtered, filtered, gate, out=z)
            if i < len(self.out):
                torch.addmm(mine, z, self.out[i], out=self.layers[i + 1][0])
        self.rings.index_copy_(0, slots, self.inputs)
        return torch.addmm(self.stack.skips.bias, self.z, self.skips)

    def _slots(self, start: int) -> Tensor:
        """The rows of the rings that have the inputs of d steps before `start`, (L,); found for many steps at once."""
        if start // STEPS != self.block:
            self.block = start // STEPS
            times = torch.arange(self.block * STEPS, (self.block + 1) * STEPS, device=self.first.device)
            self.ahead = (times[:, None] % self.dilations + self.first).unbind()
        return self.ahead[start % STEPS]

    def _told(self, start: int) -> Tensor:
        """What biases and condition give the gates of a step, (L, n or 1, 2C)."""
        frame = 0 if self.said is None else min(start // self.stack.hold, self.said.shape[1] - 1)
        if frame != self.frame:
            self.frame, depth = frame, len(self.stack.dilations)
            told = torch.stack([layer.bias for layer in self.stack.gates]).unsqueeze(1)  # (L, 1, 2C)
            if self.said is not None:
                told = told + self.said[:, frame].unflatten(1, (depth, -1)).transpose(0, 1)
            self.told = told * self.half
        return self.told
