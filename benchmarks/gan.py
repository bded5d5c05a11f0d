"""Adversarial training: ours through its public door against a plain loop, and modulated convolutions in two forms.

Training: the DCGAN of `polymode.models.gan.dcgan` on 32x32 colour images in batches of 64, by `pm.fit`, against the
usual loop over `nn.Sequential`s of the same layers: two passes of the discriminator for data and samples, binary
cross-entropy, the generator's step through the discriminator on the same samples, `torch.optim.Adam`. Each in a
process of its own, as our trainer sets its process's allocator.
Modulated convolution: forward and backward of `parts.nn.modulated.modulated_conv` against a grouped convolution with a
kernel for each row, which is how its authors wrote it; each on maps in the memory format that it is faster with.
With 2 threads; rounds alternate, and ratios are of medians.

    python -m benchmarks.gan
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import polymode as pm
from benchmarks._side_by_side import alternate, apart, measurement, ratios, save
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split
from polymode.parts.nn.modulated import modulated_conv

SPEC, IMAGES, BATCH, STEPS, THREADS = specs.image(3, 32, 32), 2048, 64, 80, 2
LATENT = 100
TRAINING_ROUNDS, CONV_ROUNDS, CONV_CALLS = 5, 7, 3
#: batch, channels in and out, side: the sizes of a StyleGAN2 of 32x32 images, and one of more channels
MAPS = ((32, 32, 32, 32), (32, 64, 64, 16), (32, 128, 128, 8), (32, 128, 128, 16))


def images() -> Tensor:
    return torch.randint(256, (IMAGES, *SPEC.shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def ours() -> None:
    """Training as a user calls it."""
    x = images()
    data = DataSet("noise", SPEC, Split(x), Split(x[:BATCH]), Split(x[:BATCH]))
    model = pm.create("dcgan", SPEC, seed=0, latent_dims=LATENT)
    pm.fit(model, data, steps=STEPS, batch_size=BATCH, seed=0, validate_every=0)


def generator() -> nn.Sequential:
    """The layers of `parts.nn.dcgan.ConvGenerator` for 32x32 images."""
    layers: list[nn.Module] = [nn.Linear(LATENT, 128 * 16), nn.Unflatten(1, (128, 4, 4))]
    for a, b in ((128, 64), (64, 32), (32, 3)):
        layers += [nn.GroupNorm(8, a), nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1)]
    return nn.Sequential(*layers, nn.Tanh())


def discriminator() -> nn.Sequential:
    """The layers of `parts.nn.dcgan.ConvDiscriminator` for 32x32 images, and the last one."""
    layers: list[nn.Module] = []
    for a, b in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 1))


def plain() -> None:
    """The usual loop over the same layers."""
    player, judge = generator(), discriminator()
    optimizers = [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (player, judge)]
    x, g = images(), torch.Generator().manual_seed(0)
    one, zero = torch.ones(BATCH), torch.zeros(BATCH)
    for _ in range(STEPS):
        y = x[torch.randint(len(x), (BATCH,), generator=g)].float() / 127.5 - 1
        fake = player(torch.randn(BATCH, LATENT, generator=g))
        judge.zero_grad()
        F.binary_cross_entropy_with_logits(judge(y).squeeze(1), one).backward()
        F.binary_cross_entropy_with_logits(judge(fake.detach()).squeeze(1), zero).backward()
        optimizers[1].step()
        player.zero_grad()
        F.binary_cross_entropy_with_logits(judge(fake).squeeze(1), one).backward()
        optimizers[0].step()


def grouped_conv(x: Tensor, weight: Tensor, style: Tensor) -> Tensor:
    """Modulated and demodulated kernels of every row, as groups of one convolution."""
    b, c, height, width = x.shape
    w = weight * style[:, None, :, None, None]  # (B, D, C, K, K)
    w = w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    y = F.conv2d(x.reshape(1, b * c, height, width), w.flatten(0, 1), padding=weight.shape[2] // 2, groups=b)
    return y.view(b, -1, height, width)


def convolved(form: object, x: Tensor, weight: Tensor, style: Tensor) -> None:
    for _ in range(CONV_CALLS):
        y = form(x, weight, style)  # type: ignore[operator]
        torch.autograd.grad(y.sum(), (x, weight, style))


def main() -> None:
    torch.set_num_threads(THREADS)
    with apart({"polymode": ours, "plain loop": plain}, threads=THREADS) as turns:
        seconds = alternate(turns, rounds=TRAINING_ROUNDS)
    ((name, (median, least, most)),) = ratios(seconds, "polymode").items()
    rate = STEPS * BATCH / sorted(seconds["polymode"])[len(seconds["polymode"]) // 2]
    print(f"dcgan training: {name} takes {median:.2f} times as long (rounds {least:.2f} to {most:.2f})")
    print(f"dcgan training: {rate:.0f} images/s")
    protocol = f"32x32x3, batch {BATCH}, {STEPS} steps a round, float32, {THREADS} threads"
    entries = [
        measurement("bench_gan", "dcgan", f"training time, {name} / polymode", median, protocol, n=TRAINING_ROUNDS,
                    least=least, most=most)
    ]  # fmt: skip
    for b, c, d, side in MAPS:
        g = torch.Generator().manual_seed(0)
        maps, style = torch.randn(b, c, side, side, generator=g), torch.randn(b, c, generator=g)
        weight = torch.randn(d, c, 3, 3, generator=g)
        last = maps.contiguous(memory_format=torch.channels_last)  # as the networks of `parts.nn.style` have them
        for t in (maps, last, weight, style):
            t.requires_grad_()
        forms = {"polymode": (modulated_conv, last), "grouped": (grouped_conv, maps)}
        work = {
            name: lambda form=form, x=x, weight=weight, style=style: convolved(form, x, weight, style)
            for name, (form, x) in forms.items()
        }
        ((name, (median, least, most)),) = ratios(alternate(work, rounds=CONV_ROUNDS), "polymode").items()
        what = f"modulated convolution {c} to {d} channels, {side}x{side}, batch {b}"
        print(f"{what}: {name} takes {median:.2f} times as long (rounds {least:.2f} to {most:.2f})")
        entries.append(
            measurement("bench_gan", "stylegan2", f"{what}: forward and backward, {name} / polymode", median, protocol,
                        n=CONV_ROUNDS, least=least, most=most)
        )  # fmt: skip
    save("bench_gan", entries)


if __name__ == "__main__":
    main()
