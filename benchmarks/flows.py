"""RealNVP against zuko, nflows and normflows: training steps, log-likelihoods and samples of the same arithmetic.

64 dimensions, 5 couplings of half of them, scale and shift from a perceptron of 128x128 (relu), batch 512, float32,
2 threads, no compilation, and the same fused AdamW for all. Ours is the whole model behind its public doors
(standardisation, checks, permutations); the peers are bare flows. Rounds alternate.

    python -m benchmarks.flows
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import polymode as pm
from benchmarks._side_by_side import alternate, measurement, ratios, save
from polymode.core import spec as specs

DIMS, LAYERS, HIDDEN, BATCH = 64, 5, (128, 128), 512
STEPS, ROUNDS, THREADS = 20, 15, 2


class Contender:
    """One library's flow: its modules, its log-likelihood with gradients, and its sampler."""

    def __init__(self, flow: nn.Module, nats: Callable[[Tensor], Tensor], density: Any, sample: Any) -> None:
        self.nats, self.density, self.sample = nats, density, sample
        self.optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

    def train(self, x: Tensor) -> None:
        for _ in range(STEPS):
            self.optimizer.zero_grad(set_to_none=True)
            self.nats(x).mean().neg().backward()
            self.optimizer.step()

    def score(self, x: Tensor) -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                self.density(x)

    def draw(self, x: Tensor) -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                self.sample(len(x))


def polymode() -> Contender:
    model = pm.create("realnvp", specs.vector(DIMS), seed=0, layers=LAYERS, hidden=HIDDEN).eval()
    g = torch.Generator().manual_seed(0)
    return Contender(
        model, lambda x: -model.loss(x, generator=g).per_example, model.log_prob, lambda n: model.sample(n, generator=g)
    )


def zuko() -> Contender:
    import zuko

    flow = zuko.flows.RealNVP(DIMS, transforms=LAYERS, hidden_features=HIDDEN)
    return Contender(flow, *2 * (lambda x: flow().log_prob(x),), lambda n: flow().sample((n,)))


def nflows() -> Contender:
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.nn.nets import MLP
    from nflows.transforms import AffineCouplingTransform, CompositeTransform

    class Net(nn.Module):
        def __init__(self, ins: int, outs: int) -> None:
            super().__init__()
            self.mlp = MLP([ins], [outs], list(HIDDEN), activation=torch.relu)

        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return self.mlp(x)

    sign = torch.ones(DIMS)
    sign[: DIMS // 2] = -1
    steps = [AffineCouplingTransform(sign if i % 2 else -sign, Net) for i in range(LAYERS)]
    flow = Flow(CompositeTransform(steps), StandardNormal([DIMS]))
    return Contender(flow, flow.log_prob, flow.log_prob, flow.sample)


def normflows() -> Contender:
    import normflows

    steps = []
    for _ in range(LAYERS):
        net = normflows.nets.MLP([DIMS // 2, *HIDDEN, DIMS], init_zeros=True)
        steps += [normflows.flows.AffineCouplingBlock(net), normflows.flows.Permute(DIMS, mode="swap")]
    flow = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(DIMS, trainable=False), steps)
    return Contender(flow, flow.log_prob, flow.log_prob, flow.sample)


def main() -> None:
    torch.set_num_threads(THREADS)
    x = torch.randn(BATCH, DIMS, generator=torch.Generator().manual_seed(0))
    contenders = {"polymode": polymode(), "zuko": zuko(), "nflows": nflows(), "normflows": normflows()}
    protocol = f"D {DIMS}, {LAYERS} affine couplings, MLP 128x128, batch {BATCH}, float32, {THREADS} threads, AdamW"
    entries = []
    for metric, verb in (("training step", "train"), ("log_prob", "score"), ("sampling", "draw")):
        work = {name: lambda c=c, verb=verb: getattr(c, verb)(x) for name, c in contenders.items()}
        seconds = alternate(work, rounds=ROUNDS)
        for name, (median, least, most) in ratios(seconds, "polymode").items():
            print(f"realnvp {metric}: {name} takes {median:.2f} times as long (rounds {least:.2f} to {most:.2f})")
            entries.append(
                measurement("bench_flows", "realnvp", f"time of a {metric}, {name} / polymode", median, protocol,
                            n=ROUNDS, least=least, most=most)
            )  # fmt: skip
    save("bench_flows", entries)


if __name__ == "__main__":
    main()
