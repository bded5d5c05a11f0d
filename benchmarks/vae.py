"""VAE training: polymode's trainer against pythae's with the same networks, and against a bare loop.

All see the same images in batches of 100 with Adam at 1e-3; a round is some epochs, rounds alternate, and ratios are of
medians. Each is in a process of its own, as a trainer of ours changes what its process's allocator does. Perceptrons
are pythae's own, which are the same layers; the convolutions are polymode's on both sides, in PyTorch's own layout on
pythae's, as its users write them. pythae writes its model to disk at the end of a round and so does polymode.

Then pythae trains for `LONG` epochs and polymode for half of the time that took, and both are scored by the ELBO of the
same test rows: each with its own defaults (rates of 1e-4 and 2e-3), and at rates found by trying, pythae's best of
1e-4, 1e-3, 2e-3 and 4e-3 and that of polymode for so short a time.

    python -m benchmarks.vae
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

import polymode as pm
from benchmarks._side_by_side import alternate, apart, measurement, ratios, save
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split

IMAGES, TEST, BATCH, LATENT, LONG, THREADS = 20_000, 5000, 100, 10, 20, 2
SPEC = specs.image(1, 28, 28, levels=2)
#: of a round: networks of the model, images, epochs
ROUNDS: dict[str, tuple[dict[str, Any], int, int]] = {
    "784-512-10": ({"network": "mlp", "hidden": (512,)}, IMAGES, 3),
    "convolutions of 16, 32 and 64 channels": ({"network": "conv", "hidden": (16, 32, 64)}, 5000, 2),
}

#: rates of pythae and of polymode
RATES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "as they come": ({}, {}),
    "pythae at 1e-3": ({"learning_rate": 1e-3}, {"learning_rate": 4e-3}),
    "pythae at its best, 2e-3": ({"learning_rate": 2e-3}, {"learning_rate": 4e-3}),
}


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Binary 28x28 images, to learn from and to test with: MNIST binarised where it is found, else noise."""
    try:
        data = pm.data.load("mnist_binarized")
        return data.train.x[:IMAGES], data.test.x[:TEST]
    except pm.PolymodeError:
        g = torch.Generator().manual_seed(0)
        x = torch.randint(2, (IMAGES + TEST, 1, 28, 28), generator=g).to(torch.uint8)
        return x[:IMAGES], x[IMAGES:]


def polymode_model(network: dict[str, Any]) -> pm.VAE:
    model = pm.create("vae", SPEC, seed=0, latent_dims=LATENT, **network)
    assert isinstance(model, pm.VAE)
    return model


def polymode_round(x: torch.Tensor, network: dict[str, Any], folder: Path, **training: Any) -> pm.VAE:
    """Our trainer as a user calls it, with checkpoints, log and model card."""
    model = polymode_model(network)
    data = DataSet("images", SPEC, Split(x), Split(x[:1000]), Split(x[:1000]))
    pm.fit(model, data, batch_size=BATCH, out=folder / "ours", validate_every=0, **training)
    return model


def bare_round(x: torch.Tensor, network: dict[str, Any], epochs: int) -> None:
    """The same arithmetic without a trainer."""
    model = polymode_model(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    g = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=g).split(BATCH):
            optimizer.zero_grad(set_to_none=True)
            model.loss(x[rows], generator=g).value.backward()
            optimizer.step()


def pythae_round(x: torch.Tensor, network: dict[str, Any], folder: Path, epochs: int, **rate: float) -> Any:
    """pythae's trainer."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    model = VAE(config, *(_convolutions(network["hidden"]) if network["network"] == "conv" else ()))
    training = BaseTrainerConfig(
        output_dir=str(folder / "pythae"), per_device_train_batch_size=BATCH, num_epochs=epochs, **rate
    )
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        BaseTrainer(model, BaseDataset(x.float(), torch.zeros(len(x))), training_config=training).train()
    return model


def _convolutions(channels: tuple[int, ...]) -> tuple[Any, Any]:
    """polymode's networks as pythae's encoder and decoder."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    from polymode.parts.nn.pyramid import ImageDecoder, ImageEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = ImageEncoder(SPEC.shape, 2 * LATENT, channels)

        def forward(self, x: torch.Tensor) -> Any:
            mean, log_variance = self.net(2 * x.flatten(1) - 1).chunk(2, 1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Plain(ImageDecoder):
        """Without a layout of its own."""

        def forward(self, z: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
            y = self.stem(z).view(len(z), -1, *self.sizes[0])
            for block, up, (h, w) in zip(self.blocks, self.ups, self.sizes[1:], strict=True):
                y = up(self.act(block(y, None)))[:, :, :h, :w]
            return self.last(self.act(y)).flatten(1)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = Plain(LATENT, SPEC.shape, 1, channels)

        def forward(self, z: torch.Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z).view(-1, *SPEC.shape).sigmoid())

    torch.manual_seed(0)
    # that ours lie in memory as processors like it is part of what is compared
    return tuple(net.to(memory_format=torch.contiguous_format) for net in (Encoder(), Decoder()))


def half_the_time(
    x: torch.Tensor, test: torch.Tensor, folder: Path, theirs: dict[str, Any], ours: dict[str, Any]
) -> tuple[float, float, float]:
    """(seconds that pythae took, its test ELBO, that of polymode after half of them), nats."""
    network = ROUNDS["784-512-10"][0]
    start = time.perf_counter()
    model = pythae_round(x, network, folder, LONG, **theirs).eval()
    seconds = time.perf_counter() - start
    half = polymode_round(x, network, folder / "half", minutes=seconds / 120, **ours)
    with torch.no_grad():
        bound = float(model({"data": test.float()}).loss)
    return seconds, -bound, float(half.elbo(test, seed=0).mean())


def main() -> None:
    logging.disable(logging.INFO)
    x, test = images()
    entries = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        like = {"ema": 0.0, "schedule": "constant", "learning_rate": 1e-3}
        for what, (network, n, epochs) in ROUNDS.items():
            work = {
                "polymode": partial(polymode_round, x[:n], network, folder, epochs=epochs, **like),
                "bare loop": partial(bare_round, x[:n], network, epochs),
                "pythae": partial(pythae_round, x[:n], network, folder, epochs, learning_rate=1e-3),
            }
            with apart(work, threads=THREADS) as turns:
                seconds = alternate(turns, rounds=7)
            protocol = (
                f"{epochs} epochs of {n:,} binary images, batch {BATCH}, {what}, {THREADS} threads, a process each"
            )
            for peer, (median, least, most) in ratios(seconds, "polymode").items():
                print(f"{what}: {peer} takes {median:.2f} times as long as polymode (rounds {least:.2f} to {most:.2f})")
                metric = f"vae training time, {peer} / polymode, {what}"
                entries.append(
                    measurement("bench_vae", "vae", metric, median, protocol, n=7, least=least, most=most)
                )  # fmt: skip
        for what, (theirs, ours) in RATES.items():
            found = [half_the_time(x, test, folder / f"{what}{i}", theirs, ours) for i in range(3)]
            for seconds, reached, nats in found:
                print(f"{what}: pythae {reached:.2f} nats in {seconds:.0f} s, polymode {nats:.2f} in half of it")
            gains = sorted(nats - reached for _, reached, nats in found)
            protocol = f"{TEST:,} test rows; pythae {LONG} epochs of {IMAGES:,}, polymode half of its time; {what}"
            metric = f"ELBO above pythae's after half its time, nats, {what}"
            entries.append(
                measurement("bench_vae", "vae", metric, gains[1], protocol, n=3, kind="difference", least=gains[0],
                            most=gains[2])
            )  # fmt: skip
    save("bench_vae", entries)


if __name__ == "__main__":
    main()
