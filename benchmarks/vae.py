"""VAE training: polymode's trainer against pythae's with the same perceptrons, and against a bare loop.

All see the same images in batches of 100 with Adam at 1e-3; a round is `EPOCHS` epochs, rounds alternate, and ratios
are of medians. pythae writes its model to disk at the end of a round and so does polymode.

    python -m benchmarks.vae
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from pathlib import Path

import torch

import polymode as pm
from benchmarks._side_by_side import alternate, write_results
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split

IMAGES, BATCH, EPOCHS, HIDDEN, LATENT = 20_000, 100, 3, 512, 10


def images() -> torch.Tensor:
    """Binary 28x28 images: MNIST binarised where it is found, otherwise noise of the same size."""
    try:
        return pm.data.load("mnist_binarized").train.x[:IMAGES]
    except pm.PolymodeError:
        return torch.randint(2, (IMAGES, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def polymode_model() -> pm.GenerativeModel:
    spec = specs.image(1, 28, 28, levels=2)
    return pm.create("vae", spec, seed=0, latent_dims=LATENT, hidden=(HIDDEN,))


def polymode_round(x: torch.Tensor, folder: Path) -> None:
    """Our trainer as a user calls it, with checkpoints, log and model card."""
    model = polymode_model()
    split = Split(x)
    data = DataSet("images", model.spec, split, Split(x[:1000]), Split(x[:1000]))
    pm.fit(model, data, epochs=EPOCHS, batch_size=BATCH, out=folder / "ours", ema=0.0, schedule="constant",
           validate_every=0)  # fmt: skip


def bare_round(x: torch.Tensor) -> None:
    """The same arithmetic without a trainer."""
    model = polymode_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    g = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x), generator=g)
        for rows in order.split(BATCH):
            optimizer.zero_grad(set_to_none=True)
            model.loss(x[rows], generator=g).value.backward()
            optimizer.step()


def pythae_round(x: torch.Tensor, folder: Path) -> None:
    """pythae's trainer with its default perceptrons, which are the same layers."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce"))
    config = BaseTrainerConfig(output_dir=str(folder / "pythae"), per_device_train_batch_size=BATCH,
                               num_epochs=EPOCHS, learning_rate=1e-3)  # fmt: skip
    data = BaseDataset(x.float(), torch.zeros(len(x)))
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        BaseTrainer(model, data, training_config=config).train()


def main() -> None:
    logging.disable(logging.INFO)
    x = images()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = alternate(
            {
                "polymode": lambda: polymode_round(x, folder),
                "bare loop": lambda: bare_round(x),
                "pythae": lambda: pythae_round(x, folder),
            },
            rounds=5,
        )
    protocol = f"{EPOCHS} epochs of {IMAGES} binary images, batch {BATCH}, 784-{HIDDEN}-{LATENT}"
    write_results("bench_vae", "vae training time", seconds, ours="polymode", protocol=protocol)


if __name__ == "__main__":
    main()
