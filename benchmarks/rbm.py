"""RBM training: persistent contrastive divergence here against scikit-learn's BernoulliRBM, same sizes, same chains.

All see 10,000 binary 28x28 images in batches of 100 with 256 hidden units, 100 chains and one sweep a step. A round
is `EPOCHS` epochs; rounds alternate in one process and go on from the round before, so that after the last round all
have seen the same number of images; the pseudo-likelihood of each is then computed by one function, in float64.
scikit-learn runs in float64, which is what it gives a user of plain numpy arrays, and in float32. Both are plain SGD:
its rate is the best of 0.03, 0.1 and 0.3 for it, ours the model's default. The trainer starts afresh in each round,
so it is in the times and not in the likelihoods. Then Gibbs sweeps of 100 chains of both, and annealed importance
sampling of 100 chains over 10,000 temperatures, which has no peer there.

    python -m benchmarks.rbm
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import polymode as pm
from benchmarks._side_by_side import alternate, measurement, ratios, save
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split
from polymode.models.boltzmann.rbm import RBM

IMAGES, BATCH, HIDDEN, EPOCHS, ROUNDS, RATE = 10_000, 100, 256, 1, 10, 0.1
SWEEPS, TEMPERATURES = 100, 10_000


def images() -> tuple[torch.Tensor, torch.Tensor, str]:
    """Training and held-out binary images and their name: MNIST binarised where it is found, otherwise noise."""
    try:
        data = pm.data.load("mnist_binarized")
        return data.train.x[:IMAGES], data.test.x[:1000], "mnist_binarized"
    except pm.PolymodeError:
        x = torch.rand(IMAGES + 1000, 1, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.13
        return x[:IMAGES].to(torch.uint8), x[IMAGES:].to(torch.uint8), "noise"


class BareLoop:
    """The model's own phase with a fused optimiser and no trainer."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.g = x, torch.Generator().manual_seed(0)
        self.model: RBM = pm.create("rbm", specs.image(1, 28, 28, levels=2), seed=0, hidden=HIDDEN, chains=BATCH)
        self.model.prepare(x[:BATCH], None, self.g)
        (self.phase,) = self.model.phases()
        rate = self.model.defaults.learning_rate
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, fused=True)

    def __call__(self) -> None:
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(self.x), generator=self.g).split(BATCH):
                self.optimizer.zero_grad(set_to_none=True)
                self.phase.loss(self.x[rows], None, self.g).value.backward()
                self.optimizer.step()


class Peer:
    """scikit-learn's machine, batch by batch; checking a batch is about a hundredth of its step."""

    def __init__(self, x: torch.Tensor, dtype: type) -> None:
        from sklearn.neural_network import BernoulliRBM

        self.x = x.flatten(1).numpy().astype(dtype)
        self.machine = BernoulliRBM(HIDDEN, learning_rate=RATE, batch_size=BATCH, random_state=0)

    def __call__(self) -> None:
        for _ in range(EPOCHS):
            for start in range(0, len(self.x), BATCH):
                self.machine.partial_fit(self.x[start : start + BATCH])

    def as_ours(self) -> RBM:
        """Our machine with its weights; biases are those of centred units, here around 1/2 everywhere."""
        model: RBM = pm.create("rbm", specs.image(1, 28, 28, levels=2), hidden=HIDDEN).double()
        machine = self.machine
        w, b, c = (
            torch.from_numpy(np.ascontiguousarray(value)).double()
            for value in (machine.components_, machine.intercept_visible_, machine.intercept_hidden_)
        )
        with torch.no_grad():
            for p, value in zip(model.parameters(), (w, b + w.sum(0) / 2, c + w.sum(1) / 2), strict=True):
                p.copy_(value)
        return model


def trainer_round(x: torch.Tensor, held_out: torch.Tensor) -> None:
    """Our trainer as a user calls it."""
    model = pm.create("rbm", specs.image(1, 28, 28, levels=2), seed=0, hidden=HIDDEN, chains=BATCH)
    data = DataSet("images", model.spec, Split(x), Split(held_out), Split(held_out))
    pm.fit(model, data, epochs=EPOCHS, batch_size=BATCH)


def pseudo_likelihood(model: RBM, x: torch.Tensor) -> float:
    """Mean nats an image."""
    return float(model.double().pseudo_log_likelihood(x).mean())


def sweeps(model: RBM) -> Callable[[], object]:
    """`SWEEPS` sweeps of `BATCH` chains of ours."""
    fields, g = model.fields(None), torch.Generator().manual_seed(0)

    @torch.no_grad()
    def work() -> None:
        model.walk(model.chain_state.to(model.dtype), fields, SWEEPS, g)

    return work


def peer_sweeps(peer: Peer) -> Callable[[], object]:
    """As many of scikit-learn's, from images."""

    def work() -> None:
        v = peer.x[:BATCH]
        for _ in range(SWEEPS):
            v = peer.machine.gibbs(v)

    return work


def annealing(model: RBM) -> float:
    """Seconds of annealed importance sampling of 100 chains."""
    start = time.perf_counter()
    model.log_partition(method="ais", temperatures=TEMPERATURES, chains=100, seed=0)
    return time.perf_counter() - start


def main() -> None:
    x, held_out, name = images()
    bare, double, single = BareLoop(x), Peer(x, np.float64), Peer(x, np.float32)
    work = {"polymode": bare, "polymode with trainer": lambda: trainer_round(x, held_out),
            "scikit-learn float64": double, "scikit-learn float32": single}  # fmt: skip
    seconds = alternate(work, rounds=ROUNDS - 1)
    protocol = f"{EPOCHS} epoch of {IMAGES} {name} images, batch {BATCH}, 784-{HIDDEN}, PCD-1, {BATCH} chains"
    entries: list[dict[str, Any]] = []
    for ours in ("polymode", "polymode with trainer"):
        for theirs, (median, least, most) in ratios(seconds, ours).items():
            if theirs.startswith("scikit"):
                print(f"{theirs} takes {median:.2f} times as long as {ours} (rounds {least:.2f} to {most:.2f})")
                entries.append(
                    measurement("bench_rbm", "rbm", f"rbm epoch time, {theirs} / {ours}", median, protocol,
                                data=name, n=len(seconds[ours]), least=least, most=most)
                )  # fmt: skip
    chains = {"polymode": sweeps(bare.model.eval()), "scikit-learn float64": peer_sweeps(double),
              "scikit-learn float32": peer_sweeps(single)}  # fmt: skip
    times = alternate(chains, rounds=5)
    for theirs, (median, least, most) in ratios(times, "polymode").items():
        if theirs.startswith("scikit"):
            print(f"{theirs} takes {median:.2f} times as long for a sweep (rounds {least:.2f} to {most:.2f})")
            entries.append(
                measurement("bench_rbm", "rbm", f"Gibbs sweep time, {theirs} / polymode", median,
                            f"{SWEEPS} sweeps of {BATCH} chains, 784-{HIDDEN}",
                            data=name, n=len(times["polymode"]), least=least, most=most)
            )  # fmt: skip
    seconds_annealing = annealing(bare.model)
    print(f"annealed importance sampling of 100 chains x {TEMPERATURES:,} temperatures: {seconds_annealing:.1f} s")
    entries.append(
        measurement("bench_rbm", "rbm", "AIS seconds", seconds_annealing,
                    f"100 chains x {TEMPERATURES:,} temperatures, 784-{HIDDEN}", data=name, n=1)
    )  # fmt: skip
    rows = held_out[:500]
    for who, model in {"polymode": bare.model, "scikit-learn float64": double.as_ours(),
                       "scikit-learn float32": single.as_ours()}.items():  # fmt: skip
        value = pseudo_likelihood(model, rows)
        print(f"pseudo-likelihood after {EPOCHS * ROUNDS} epochs, {who}: {value:.2f} nats")
        entries.append(
            measurement("bench_rbm", "rbm", f"pseudo-likelihood, {who}", value,
                        f"nats an image after {EPOCHS * ROUNDS} epochs, exact sum over pixels, {protocol}",
                        data=name, n=len(rows), kind="pseudo-likelihood", split="test")
        )  # fmt: skip
    save("bench_rbm", entries)


if __name__ == "__main__":
    main()
