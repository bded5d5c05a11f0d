"""Diffusion training: polymode's U-Net against diffusers' of the same size, by the step and by the loss reached.

Both see the same images, loss (eps on the linear schedule), optimiser and noise. `step` alternates single training
steps; `time to loss` trains each for the same seconds in alternating turns, with the validation loss taken on fixed
noise between turns and outside the clock, and compares the time each needs to the worse of their best losses.

    python -m benchmarks.diffusion
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import polymode as pm
from benchmarks._side_by_side import alternate, measurement, ratios, save
from polymode.parts.nn.unet import UNet
from polymode.parts.processes.gaussian import Steps

BATCH, SIDE, TURN, TURNS = 32, 32, 10.0, 9
Network = Callable[[Tensor, Tensor], Tensor]


def images(n: int) -> Tensor:
    """MNIST digits padded to 32x32 and scaled to [-1, 1]; drawn rectangles where it is not found."""
    try:
        x = pm.data.load("mnist").train.x[:n].float() / 127.5 - 1
        return F.pad(x, (2, 2, 2, 2), value=-1.0)
    except pm.PolymodeError:
        corners = torch.randint(4, 28, (n, 2, 2, 1, 1), generator=torch.Generator().manual_seed(0))
        at = torch.arange(SIDE)
        (top, bottom), (left, right) = (corners[:, i].sort(1).values.unbind(1) for i in (0, 1))
        inside = (at.view(-1, 1) >= top) & (at.view(-1, 1) <= bottom) & (at >= left) & (at <= right)
        return (2.0 * inside - 1).view(n, 1, SIDE, SIDE)


class Learner:
    """A network, its optimiser and its seconds of training."""

    def __init__(self, net: nn.Module, call: Network, x: Tensor, valid: Tensor) -> None:
        self.net, self.call, self.x = net, call, x
        self.bar = Steps(1000, "linear").alpha_bar.float()
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
        self.generator = torch.Generator().manual_seed(0)
        self.seconds, self.curve = 0.0, []
        g = torch.Generator().manual_seed(1)
        self.held_out = (
            valid,
            torch.randint(1, 1001, (len(valid),), generator=g),
            torch.randn(valid.shape, generator=g),
        )

    def loss(self, x: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        bar = self.bar[k].view(-1, 1, 1, 1)
        return F.mse_loss(self.call(bar.sqrt() * x + (1 - bar).sqrt() * eps, k / 1000), eps)

    def step(self) -> None:
        x = self.x[torch.randint(len(self.x), (BATCH,), generator=self.generator)]
        k = torch.randint(1, 1001, (BATCH,), generator=self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(x, k, torch.randn(x.shape, generator=self.generator)).backward()
        self.optimizer.step()

    def turn(self) -> None:
        start = time.perf_counter()
        while time.perf_counter() - start < TURN:
            self.step()
        self.seconds += time.perf_counter() - start
        with torch.no_grad():
            parts = [self.loss(*rows) for rows in zip(*(v.split(64) for v in self.held_out), strict=True)]
        self.curve.append((self.seconds, float(torch.stack(parts).mean())))

    def time_to(self, loss: float) -> float:
        """Seconds until the validation loss was at most `loss`, linear between turns."""
        before = (0.0, 1.0)  # an output of zero has a loss of one
        for now in self.curve:
            if now[1] <= loss:
                return before[0] + (now[0] - before[0]) * (before[1] - loss) / (before[1] - now[1])
            before = now
        return before[0]


def learners() -> dict[str, Learner]:
    from diffusers import UNet2DModel

    x = images(20_256)
    x, valid = x[:20_000], x[20_000:]
    torch.manual_seed(0)
    ours = UNet(1, widths=(32, 64, 96))
    theirs = UNet2DModel(
        sample_size=SIDE, in_channels=1, out_channels=1, block_out_channels=(16, 32, 64), layers_per_block=1,
        norm_num_groups=8, attention_head_dim=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return {
        "polymode": Learner(ours, ours, x, valid),
        "diffusers": Learner(theirs, lambda xt, t: theirs(xt, 1000 * t).sample, x, valid),
    }


def main() -> None:
    torch.set_num_threads(2)
    both = learners()
    sizes = {name: sum(p.numel() for p in one.net.parameters()) for name, one in both.items()}
    protocol = f"batch {BATCH} of 1x32x32, {sizes['polymode']} and {sizes['diffusers']} parameters, 2 threads"
    seconds = alternate({name: one.step for name, one in both.items()}, rounds=9)
    median, least, most = ratios(seconds, "polymode")["diffusers"]
    print(f"a step of diffusers takes {median:.2f} times as long (rounds {least:.2f} to {most:.2f}); {protocol}")
    entries = [
        measurement("bench_diffusion", "ddpm", "training step time, diffusers / polymode", median, protocol,
                    n=9, least=least, most=most)
    ]  # fmt: skip
    both = learners()
    for _ in range(TURNS):
        for one in both.values():
            one.turn()
    goal = max(min(loss for _, loss in one.curve) for one in both.values())
    taken = {name: one.time_to(goal) for name, one in both.items()}
    share = taken["polymode"] / taken["diffusers"]
    print(f"to a validation loss of {goal:.4f}: {taken}, polymode / diffusers {share:.2f}")
    entries.append(
        measurement("bench_diffusion", "ddpm", "time to equal validation loss, polymode / diffusers", share,
                    f"eps loss on fixed noise, goal {goal:.4f}, AdamW 1e-3; {protocol}", data="mnist",
                    n=len(both["polymode"].held_out[0]), curves={name: one.curve for name, one in both.items()})
    )  # fmt: skip
    save("bench_diffusion", entries)


if __name__ == "__main__":
    main()
