"""Sampling with what each layer still needs against reading everything again for each symbol.

wavenet: 9 layers, 32 channels, 256 levels, one waveform or 16 at once, and a wide one of 10 layers, 64 channels and 256
skip channels; pixelcnn: 6 gated layers of 32 channels, 16 binary images of 28x28. The naive loop reads all that is
before with the same network. It is timed on steps spread evenly over the datum, whose mean stands for all, as it would
take minutes; that it draws the same symbols is asserted first. Rounds alternate. Time is the processor's, of one
thread, so that other work on the machine counts little. Names of contests may be given, for those alone.

    python -m benchmarks.sampling [wavenet-2000 wavenet-8000 wavenet-8000x16 wide-wavenet-8000 pixelcnn peer]

"peer" is the same pixelcnn against the GatedPixelCNN of pytorch-generative, whose sampler runs the whole network once a
pixel: those runs are timed, without the draws. It wants a checkout of github.com/EugenHotaj/pytorch-generative on
PYTHONPATH (and torchvision).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

import polymode as pm
from benchmarks._side_by_side import measurement, save
from polymode.core import rng
from polymode.core import spec as specs
from polymode.parts.samplers.autoregressive import draw

ROUNDS, TIMED = 3, 20
Step = Callable[[Tensor, int, torch.Generator], None]


def wavenet(length: int, n: int = 1, **sizes: int) -> tuple[pm.WaveNet, Step, int]:
    model = pm.create("wavenet", specs.Spec("waveform", (length,), specs.Levels(256)), seed=0, **sizes).eval()

    def step(x: Tensor, t: int, g: torch.Generator) -> None:
        inputs = torch.cat([torch.full((len(x), 1), 256), x[:, :t].long()], 1)
        x[:, t] = draw(model.run(inputs, 0, None, None)[0][:, -1], g).to(x.dtype)

    return model, step, n


def pixelcnn() -> tuple[pm.PixelCNN, Step, int]:
    model = pm.create("pixelcnn", specs.image(1, 28, 28, levels=2), seed=0).eval()

    def step(x: Tensor, t: int, g: torch.Generator) -> None:
        params = model.params(x).view(len(x), 784, -1)[:, t]
        x.view(len(x), -1)[:, t] = model.one.sample(params, g)[:, 0]

    return model, step, 16


def ratio(model: pm.WaveNet | pm.PixelCNN, step: Step, n: int) -> list[float]:
    """How many times as long the naive loop takes, by round."""
    d = model.spec.num_dims
    found = []
    with torch.no_grad():
        for turn in range(ROUNDS + 1):
            begun = time.process_time()
            cached = model.sample(n, seed=0)
            quick, x, g = time.process_time() - begun, cached.clone(), rng.generator(0)
            if turn == 0:  # the first steps are the same draws
                x.zero_()
                for t in range(TIMED):
                    step(x, t, g)
                assert torch.equal(x.flatten(1)[:, :TIMED], cached.flatten(1)[:, :TIMED])
                continue
            begun = time.process_time()
            for i in range(TIMED):
                step(x, (2 * i + 1) * d // (2 * TIMED), g)
            found.append((time.process_time() - begun) / TIMED * d / quick)
    return sorted(found)


def peer() -> list[float]:
    """How many times as long pytorch-generative takes to draw 16 images with a network of the same size, by round."""
    from pytorch_generative.models import GatedPixelCNN

    ours = pixelcnn()[0]
    theirs = GatedPixelCNN(in_channels=1, out_channels=1, n_gated=6, gated_channels=32, head_channels=32).eval()
    images, found = torch.zeros(16, 1, 28, 28), []
    with torch.no_grad():
        for turn in range(ROUNDS + 1):
            begun = time.process_time()
            ours.sample(16, seed=turn)
            quick, begun = time.process_time() - begun, time.process_time()
            for _ in range(TIMED):
                theirs(images)
            if turn:
                found.append((time.process_time() - begun) / TIMED * 784 / quick)
    return sorted(found)


def main() -> None:
    torch.set_num_threads(1)
    contests = {
        "wavenet-2000": ("wavenet, 2000 samples", lambda: wavenet(2000)),
        "wavenet-8000": ("wavenet, 8000 samples", lambda: wavenet(8000)),
        "wavenet-8000x16": ("wavenet, 16 times 8000 samples", lambda: wavenet(8000, 16)),
        "wide-wavenet-8000": (
            "wide wavenet, 8000 samples", lambda: wavenet(8000, layers=10, channels=64, skip=256)
        ),
        "pixelcnn": ("pixelcnn, 16 images of 28x28", pixelcnn),
    }  # fmt: skip
    asked = sys.argv[1:] or list(contests)
    entries = []
    if "peer" in asked:
        asked.remove("peer")
        each = peer()
        what = "16 images of 28x28, pytorch-generative / pixelcnn"
        print(f"{what}: {each[len(each) // 2]:.0f} times as long ({each[0]:.0f} to {each[-1]:.0f})", flush=True)
        entries.append(
            measurement("bench_sampling", "pixelcnn", f"time of {what}", each[len(each) // 2],
                        f"float32, processor time of one thread, 6 gated layers of 32 channels, binary; {TIMED} of "
                        "their 784 passes timed",
                        n=ROUNDS, least=each[0], most=each[-1])
        )  # fmt: skip
    for name in asked:
        what, contest = contests[name]
        each = ratio(*contest())
        middle = each[len(each) // 2]
        print(f"{what}: the naive loop takes {middle:.0f} times as long ({each[0]:.0f} to {each[-1]:.0f})", flush=True)
        entries.append(
            measurement("bench_sampling", what.split(",")[0], f"time of {what}, naive loop / cached", middle,
                        f"float32, processor time of one thread, {TIMED} steps of the naive loop timed",
                        n=ROUNDS, least=each[0], most=each[-1])
        )  # fmt: skip
    save("bench_sampling", entries, keep=True)


if __name__ == "__main__":
    main()
