"""Diffusion at 32x32: training and sampling beside diffusers' U-Net, training beside denoising-diffusion-pytorch's.

All see the same images, loss (eps on the linear schedule), optimiser and noise. `step` alternates single training
steps of networks of one size. `time to loss` trains ours and diffusers' for the same seconds in alternating turns, with
the validation loss taken on fixed noise between turns and outside the clock, and compares the time each needs to the
worse of their best losses. `sampling` then draws from both as they were left: 50 steps of DDIM by diffusers' own
scheduler, and few steps of DPM-Solver++ through our model, with the KID of each against test images.

    python -m benchmarks.diffusion
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import polymode as pm
from benchmarks._peers import without_torchvision
from benchmarks._side_by_side import alternate, measurement, ratios, save
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split
from polymode.evaluate import Evaluator
from polymode.evaluate.comparison import Comparison
from polymode.parts.processes.gaussian import Steps

BATCH, SIDE, TURN, TURNS, STEP_ROUNDS = 32, 32, 10.0, 9, 25
#: of sampling
DDIM_STEPS, FEW_STEPS, DRAWN = 50, 12, 500
Network = Callable[[Tensor, Tensor], Tensor]


def images() -> DataSet:
    """MNIST digits padded to 32x32."""
    data = pm.data.load("mnist")

    def padded(split: Split, n: int) -> Split:
        assert split.condition is not None
        return Split(F.pad(split.x[:n], (2, 2, 2, 2)), split.condition[:n])

    splits = padded(data.train, 20_000), padded(data.valid, 256), padded(data.test, DRAWN)
    return DataSet("mnist at 32x32", specs.image(1, SIDE, SIDE), *splits, data.condition_spec, source=data.source)


def scaled(split: Split) -> Tensor:
    """Levels as numbers from -1 to 1."""
    return split.x.float() / 127.5 - 1


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


def learners(data: DataSet) -> tuple[pm.DDPM, dict[str, Learner]]:
    """Our model, and each network of about its size."""
    from diffusers import UNet2DModel

    with without_torchvision("denoising_diffusion_pytorch"):
        from denoising_diffusion_pytorch import Unet
    x, valid = scaled(data.train), scaled(data.valid)
    torch.manual_seed(0)
    model = pm.create("ddpm", data.spec, seed=0, prediction="eps", schedule="linear", widths=(32, 64, 96))
    theirs = UNet2DModel(
        sample_size=SIDE, in_channels=1, out_channels=1, block_out_channels=(16, 32, 64), layers_per_block=1,
        norm_num_groups=8, attention_head_dim=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    lucid = Unet(dim=16, dim_mults=(1, 2, 4), channels=1)
    return model, {
        "polymode": Learner(model.network, lambda xt, t: model.network(xt, t, None).view_as(xt), x, valid),
        "diffusers": Learner(theirs, lambda xt, t: theirs(xt, 1000 * t).sample, x, valid),
        "denoising-diffusion-pytorch": Learner(lucid, lambda xt, t: lucid(xt, 1000 * t), x, valid),
    }


@torch.no_grad()
def ddim(net: nn.Module, n: int) -> Tensor:
    """Levels (n, 1, 32, 32) drawn by diffusers' own scheduler."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=True)
    scheduler.set_timesteps(DDIM_STEPS)
    x = torch.randn(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t).sample, t, x).prev_sample
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def sampling(model: pm.DDPM, theirs: nn.Module, data: DataSet, protocol: str) -> list[dict[str, Any]]:
    """Samples of both as training left them: the time of an image, and KID."""
    draw = {
        "polymode": lambda n: model.sample(n, seed=0, sampler="dpmpp_2m", steps=FEW_STEPS),
        "diffusers": lambda n: ddim(theirs, n),
    }
    seconds = alternate({name: lambda d=d: d(64) for name, d in draw.items()}, rounds=5)
    median, least, most = ratios(seconds, "polymode")["diffusers"]
    how = f"64 at a time, {FEW_STEPS} steps of DPM-Solver++(2M) against {DDIM_STEPS} of DDIM; {protocol}"
    print(f"an image of diffusers takes {median:.2f} times as long (rounds {least:.2f} to {most:.2f})")
    entries = [
        measurement("bench_diffusion", "ddpm", "time of an image, diffusers / polymode", median, how, data="mnist", n=5,
                    least=least, most=most)
    ]  # fmt: skip
    evaluator = Evaluator(data, n=DRAWN, seed=0, metrics=["kid"], ceiling=False)
    for name, one in draw.items():
        samples = one(DRAWN)
        (found,) = evaluator.measure(Comparison(evaluator.reference, samples))
        print(f"{name}: {found.metric} {found.value:.3f} ({found.low:.3f} to {found.high:.3f})")
        entries.append(
            measurement("bench_diffusion", "ddpm", f"KID, {name}", found.value, f"{found.protocol}; {how}",
                        data="mnist", n=found.n, kind="sample metric", features=found.features, low=found.low,
                        high=found.high)
        )  # fmt: skip
    return entries


def main() -> None:
    torch.set_num_threads(2)
    data = images()
    _, contenders = learners(data)
    sizes = {name: sum(p.numel() for p in one.net.parameters()) for name, one in contenders.items()}
    protocol = f"batch {BATCH} of 1x32x32, {' and '.join(map(str, sizes.values()))} parameters, 2 threads"
    seconds = alternate({name: one.step for name, one in contenders.items()}, rounds=STEP_ROUNDS)
    entries = []
    for name, (median, least, most) in ratios(seconds, "polymode").items():
        print(f"a step of {name} takes {median:.2f} times as long (rounds {least:.2f} to {most:.2f}); {protocol}")
        entries.append(
            measurement("bench_diffusion", "ddpm", f"training step time, {name} / polymode", median, protocol,
                        n=STEP_ROUNDS, least=least, most=most)
        )  # fmt: skip
    model, contenders = learners(data)
    both = {name: contenders[name] for name in ("polymode", "diffusers")}
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
    entries += sampling(model.eval(), both["diffusers"].net.eval(), data, protocol)
    save("bench_diffusion", entries)


if __name__ == "__main__":
    main()
