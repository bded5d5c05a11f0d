"""RBM training: persistent contrastive divergence here against scikit-learn's and learnergy's machines of one size.

All see 10,000 binary 28x28 images in batches of 100 with 256 hidden units and one sweep a step, from 100 persistent
chains here and in scikit-learn, from the batch (CD-1) in learnergy. Each runs in a process of its own with two threads
and goes on from epoch to epoch; rounds alternate. scikit-learn runs in float64, which is what it gives a user of plain
numpy arrays, and in float32. All are plain SGD: the peers' rate is the best of 0.03, 0.1 and 0.3 for scikit-learn and
learnergy's default, ours the model's own. "bare products" multiplies what a step has to, and nothing else. Then Gibbs
sweeps of 100 chains, and annealed importance sampling of 100 chains over 10,000 temperatures, which has no peer there.
The likelihood on held-out images of each after nine epochs, ours by its trainer, has log Z from annealed importance
sampling that begins at the images' base rates.

    python -m benchmarks.rbm
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch

import polymode as pm
from benchmarks._side_by_side import alternate, apart, measurement, ratios, save
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split
from polymode.models.boltzmann.rbm import RBM
from polymode.train.memory import kept

IMAGES, BATCH, HIDDEN, EPOCHS, ROUNDS, RATE, THREADS = 10_000, 100, 256, 3, 7, 0.1, 2
SWEEPS, TEMPERATURES, LEARNED = 1000, 10_000, 9
SPEC = specs.image(1, 28, 28, levels=2)


@cache
def images() -> tuple[torch.Tensor, torch.Tensor, str]:
    """Training and held-out binary images and their name: MNIST binarised where it is found, otherwise noise."""
    try:
        data = pm.data.load("mnist_binarized")
        return data.train.x[:IMAGES], data.test.x[:1000], "mnist_binarized"
    except pm.PolymodeError:
        x = torch.rand(IMAGES + 1000, 1, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.13
        return x[:IMAGES].to(torch.uint8), x[IMAGES:].to(torch.uint8), "noise"


class BareLoop:
    """The model's own phase with a fused optimiser, and memory kept as the trainer keeps it."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.g = x, torch.Generator().manual_seed(0)
        self.model: RBM = pm.create("rbm", SPEC, seed=0, hidden=HIDDEN, chains=BATCH)
        self.model.prepare(x[:BATCH], None, self.g)
        (self.phase,) = self.model.phases()
        rate = self.model.defaults.learning_rate
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, fused=True)

    def __call__(self) -> None:
        with kept():
            for _ in range(EPOCHS):
                for rows in torch.randperm(len(self.x), generator=self.g).split(BATCH):
                    self.optimizer.zero_grad(set_to_none=True)
                    self.phase.loss(self.x.index_select(0, rows), None, self.g).value.backward()
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
        """Our machine with its weights."""
        machine = self.machine
        return translated(self.x, machine.components_, machine.intercept_visible_, machine.intercept_hidden_)


class Learnergy:
    """learnergy's machine, by its own `fit`."""

    def __init__(self, x: torch.Tensor) -> None:
        from learnergy.models.bernoulli import RBM as Machine

        logging.getLogger("learnergy").setLevel(logging.ERROR)
        self.x = x.flatten(1).float()
        self.machine = Machine(n_visible=self.x.shape[1], n_hidden=HIDDEN, steps=1, learning_rate=RATE)

    def __call__(self) -> None:
        rows = torch.utils.data.TensorDataset(self.x, torch.zeros(len(self.x)))
        self.machine.fit(rows, batch_size=BATCH, epochs=EPOCHS)

    def as_ours(self) -> RBM:
        """Our machine with its weights."""
        machine = self.machine
        return translated(self.x.numpy(), *(p.detach().numpy() for p in (machine.W.T, machine.a, machine.b)))


def translated(x: np.ndarray, weight: np.ndarray, visible: np.ndarray, hidden: np.ndarray) -> RBM:
    """Our machine, whose units are centred, with the energy -v b - h c - h W v of another."""
    model: RBM = pm.create("rbm", SPEC, hidden=HIDDEN).double()
    model.prepare(torch.from_numpy(x).view(-1, *SPEC.shape).to(torch.uint8), None, torch.Generator())
    w, b, c = (torch.from_numpy(np.ascontiguousarray(value)).double() for value in (weight, visible, hidden))
    with torch.no_grad():
        for p, value in zip(model.parameters(), (w, b + w.sum(0) / 2, c + w @ model.mean), strict=True):
            p.copy_(value)
    return model.eval()


def products(x: torch.Tensor) -> Callable[[], object]:
    """The five products of an epoch's steps: of data and of chains to hidden units, the way back, two gradients."""
    v, h, w = x[:BATCH].flatten(1).float(), torch.rand(BATCH, HIDDEN), torch.rand(HIDDEN, x[0].numel())

    def work() -> None:
        for _ in range(EPOCHS * len(x) // BATCH):
            v @ w.T, h @ w, v @ w.T, h.T @ v, h.T @ v

    return work


def trained(epochs: int) -> RBM:
    """A machine from our trainer as a user calls it."""
    x, held_out, _ = images()
    data = DataSet("images", SPEC, Split(x), Split(held_out), Split(held_out))
    model: RBM = pm.create("rbm", SPEC, seed=0, hidden=HIDDEN, chains=BATCH)
    pm.fit(model, data, epochs=epochs, batch_size=BATCH, validate_every=0)
    return model.eval()


def likelihood(model: RBM, x: torch.Tensor) -> tuple[float, float]:
    """Mean nats an image, and the standard error of log Z."""
    log_z, error = model.double().log_partition(method="ais", temperatures=TEMPERATURES, chains=100, seed=0)
    with torch.no_grad():
        return float(-model.free_energy(model.units.encode(x), model.fields(None)).mean()) - log_z, error


def sweeps(model: RBM) -> Callable[[], object]:
    """`SWEEPS` sweeps of `BATCH` chains of ours."""
    model.eval()
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


CONTENDERS: dict[str, Callable[[torch.Tensor], Callable[[], object]]] = {
    "polymode": BareLoop, "polymode with trainer": lambda x: lambda: trained(EPOCHS),
    "scikit-learn float64": lambda x: Peer(x, np.float64), "scikit-learn float32": lambda x: Peer(x, np.float32),
    "learnergy": Learnergy, "bare products": products,
}  # fmt: skip


@cache
def contender(name: str) -> Any:
    """One of them, made once in its process."""
    return CONTENDERS[name](images()[0])


@cache
def sweeper(name: str) -> Callable[[], object]:
    epoch(name)  # scikit-learn's does not sample before it has learned
    return sweeps(contender(name).model) if name == "polymode" else peer_sweeps(contender(name))


def epoch(name: str) -> None:
    contender(name)()


def sweep(name: str) -> None:
    sweeper(name)()


def main() -> None:
    torch.set_num_threads(THREADS)
    _, held_out, name = images()
    entries: list[dict[str, Any]] = []

    def tell(metric: str, value: float, how: str, **more: Any) -> None:
        span = f" (rounds {more['least']:.2f} to {more['most']:.2f})" if "least" in more else ""
        print(f"{metric}: {value:.2f}{span}", flush=True)
        entries.append(measurement("bench_rbm", "rbm", metric, value, how, data=name, **more))

    def compare(work: Callable[[str], None], names: Sequence[str], metric: str, how: str) -> None:
        """Everyone's times over ours, and over those of our trainer where it takes part."""
        with apart({who: partial(work, who) for who in names}, threads=THREADS) as turns:
            times = alternate(turns, rounds=ROUNDS)
        for ours in (who for who in names if who.startswith("polymode")):
            for theirs, (median, least, most) in ratios(times, ours).items():
                if not theirs.startswith("polymode"):
                    tell(f"{metric}, {theirs} / {ours}", median, how, n=ROUNDS, least=least, most=most)

    sizes = f"784-{HIDDEN}, {THREADS} threads"
    protocol = f"{EPOCHS} epochs of {IMAGES} {name} images, batch {BATCH}, one sweep a step, {sizes}"
    compare(epoch, list(CONTENDERS), "rbm epoch time", protocol)
    samplers = ("polymode", "scikit-learn float64", "scikit-learn float32")
    compare(sweep, samplers, "Gibbs sweep time", f"{SWEEPS} sweeps of {BATCH} chains, {sizes}")
    model, annealed = trained(LEARNED), f"100 chains x {TEMPERATURES:,} temperatures"
    tell("AIS seconds", annealing(model), f"{annealed}, {sizes}", n=1)
    found = {"polymode with trainer": model}
    for who in ("scikit-learn float64", "learnergy"):
        for _ in range(LEARNED // EPOCHS):
            epoch(who)
        found[who] = contender(who).as_ours()
    for who, machine in found.items():
        value, error = likelihood(machine, held_out)
        tell(f"log-likelihood, {who}", value, f"nats an image after {LEARNED} epochs, log Z by AIS, {annealed}, "
             f"standard error {error:.2f}; {protocol}", n=len(held_out), kind="estimate", split="test")  # fmt: skip
    save("bench_rbm", entries)


if __name__ == "__main__":
    main()
