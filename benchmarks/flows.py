"""Flows against zuko, nflows and normflows: training steps, log-likelihoods and samples of the same arithmetic.

64 dimensions, 5 layers with networks of 128x128 (relu), batch 512, float32, 2 threads, no compilation, and the same
fused AdamW for all: affine couplings of half of the dimensions (RealNVP), masked affine maps (MAF), and
rational-quadratic splines of 8 bins by couplings and by masked maps (NSF). Ours is the whole model behind its public
doors (standardisation, checks, permutations); the peers are bare flows. normflows' spline couplings have residual
networks only, of which one block is one layer of 128 more; its masked flows are left out, as their density, and not
their sampling, takes D passes. Rounds alternate.

    python -m benchmarks.flows ["realnvp" | "maf" | "nsf by coupling" | "nsf by autoregressive maps"]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import polymode as pm
from benchmarks._side_by_side import alternate, measurement, ratios, save
from polymode.core import spec as specs

DIMS, LAYERS, HIDDEN, BATCH, BINS = 64, 5, (128, 128), 512, 8
#: rounds, and those of the samplers that take seconds a call
ROUNDS, SLOW_ROUNDS, THREADS = 9, 3, 2
#: flow -> (our model, its options, steps a round: training, log-likelihoods, sampling)
FLOWS: dict[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    "realnvp": ("realnvp", {}, (20, 20, 20)),
    "maf": ("maf", {}, (20, 20, 1)),
    "nsf by coupling": ("nsf", {"by": "coupling"}, (3, 5, 5)),
    "nsf by autoregressive maps": ("nsf", {"by": "autoregressive"}, (2, 4, 1)),
}


class Contender:
    """One library's flow: its modules, its log-likelihood with gradients, and its sampler."""

    def __init__(self, flow: nn.Module, nats: Callable[[Tensor], Tensor], density: Any, sample: Any) -> None:
        self.nats, self.density, self.sample = nats, density, sample
        self.optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

    def train(self, x: Tensor, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            self.nats(x).mean().neg().backward()
            self.optimizer.step()

    def score(self, x: Tensor, steps: int) -> None:
        with torch.no_grad():
            for _ in range(steps):
                self.density(x)

    def draw(self, x: Tensor, steps: int) -> None:
        with torch.no_grad():
            for _ in range(steps):
                self.sample(len(x))


def polymode(kind: str) -> Contender:
    name, options, _ = FLOWS[kind]
    model = pm.create(name, specs.vector(DIMS), seed=0, layers=LAYERS, hidden=HIDDEN, **options).eval()
    g = torch.Generator().manual_seed(0)
    return Contender(
        model, lambda x: -model.loss(x, generator=g).per_example, model.log_prob, lambda n: model.sample(n, generator=g)
    )


def zuko(kind: str) -> Contender:
    import zuko

    options: dict[str, Any] = {"transforms": LAYERS, "hidden_features": HIDDEN}
    if kind == "realnvp":
        flow = zuko.flows.RealNVP(DIMS, **options)
    elif kind == "maf":
        flow = zuko.flows.MAF(DIMS, **options)
    else:
        passes = 2 if kind == "nsf by coupling" else None
        flow = zuko.flows.NSF(DIMS, bins=BINS, passes=passes, **options)
    return Contender(flow, *2 * (lambda x: flow().log_prob(x),), lambda n: flow().sample((n,)))


def nflows(kind: str) -> Contender:
    from nflows import transforms as t
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.nn.nets import MLP

    class Net(nn.Module):
        def __init__(self, ins: int, outs: int) -> None:
            super().__init__()
            self.mlp = MLP([ins], [outs], list(HIDDEN), activation=torch.relu)

        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return self.mlp(x)

    masked = {"features": DIMS, "hidden_features": HIDDEN[0], "num_blocks": 1, "use_residual_blocks": False}
    spline = {"num_bins": BINS, "tails": "linear", "tail_bound": 5.0}
    make = {
        "realnvp": lambda mask: t.AffineCouplingTransform(mask, Net),
        "maf": lambda mask: t.MaskedAffineAutoregressiveTransform(**masked),
        "nsf by coupling": lambda mask: t.PiecewiseRationalQuadraticCouplingTransform(mask, Net, **spline),
        "nsf by autoregressive maps": lambda mask: t.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            **masked, **spline
        ),
    }[kind]
    sign = torch.ones(DIMS)
    sign[: DIMS // 2] = -1
    steps = []
    for i in range(LAYERS):
        steps.append(make(sign if i % 2 else -sign))
        if kind in ("maf", "nsf by autoregressive maps"):
            steps.append(t.ReversePermutation(DIMS))
    flow = Flow(t.CompositeTransform(steps), StandardNormal([DIMS]))
    return Contender(flow, flow.log_prob, flow.log_prob, flow.sample)


def normflows(kind: str) -> Contender:
    import normflows as nf

    steps: list[nn.Module] = []
    for _ in range(LAYERS):
        if kind == "realnvp":
            net = nf.nets.MLP([DIMS // 2, *HIDDEN, DIMS], init_zeros=True)
            steps += [nf.flows.AffineCouplingBlock(net), nf.flows.Permute(DIMS, mode="swap")]
        else:
            spline = nf.flows.CoupledRationalQuadraticSpline(DIMS, 1, HIDDEN[0], num_bins=BINS, tail_bound=5.0)
            steps += [spline, nf.flows.Permute(DIMS, mode="swap")]
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(DIMS, trainable=False), steps)
    return Contender(flow, flow.log_prob, flow.log_prob, flow.sample)


class Products:
    """What every library has to multiply in a pass of an affine flow."""

    def __init__(self, kind: str) -> None:
        ins = DIMS // 2 if kind == "realnvp" else DIMS
        sizes = (ins, *HIDDEN, 2 * (DIMS - ins or DIMS))
        if kind == "realnvp":  # the inverse of masked maps takes other products
            self.draw = self.score
        self.weights = [torch.randn(b, a) / a**0.5 for a, b in pairwise(sizes)]

    def forward(self, x: Tensor) -> list[Tensor]:
        hidden = [x[:, : self.weights[0].shape[1]]]
        for w in self.weights:
            hidden.append(hidden[-1] @ w.T)
        return hidden

    def train(self, x: Tensor, steps: int) -> None:
        """Forwards, and to the gradients of weights and of inputs."""
        for _ in range(steps * LAYERS):
            *hidden, gradient = self.forward(x)
            for w, h in zip(reversed(self.weights), reversed(hidden), strict=True):
                _, gradient = gradient.T @ h, gradient @ w

    def score(self, x: Tensor, steps: int) -> None:
        for _ in range(steps * LAYERS):
            self.forward(x)


def main(kinds: list[str]) -> None:
    torch.set_num_threads(THREADS)
    x = torch.randn(BATCH, DIMS, generator=torch.Generator().manual_seed(0))
    entries = []
    for kind in kinds:
        name, _, steps = FLOWS[kind]
        makers = (
            (polymode, zuko, nflows, normflows) if kind in ("realnvp", "nsf by coupling") else (polymode, zuko, nflows)
        )
        contenders: dict[str, Any] = {make.__name__: make(kind) for make in makers}
        if kind in ("realnvp", "maf"):
            contenders["bare products"] = Products(kind)
        protocol = f"{kind}, D {DIMS}, {LAYERS} layers, 128x128, batch {BATCH}, float32, {THREADS} threads, AdamW"
        for metric, verb, count in zip(
            ("training step", "log_prob", "sampling"), ("train", "score", "draw"), steps, strict=True
        ):
            work = {
                n: lambda c=c, v=verb, k=count: getattr(c, v)(x, k) for n, c in contenders.items() if hasattr(c, verb)
            }
            seconds = alternate(work, rounds=SLOW_ROUNDS if count == 1 else ROUNDS)
            for peer, (median, least, most) in ratios(seconds, "polymode").items():
                print(f"{kind}, {metric}: {peer} takes {median:.2f} times as long (rounds {least:.2f} to {most:.2f})")
                entries.append(
                    measurement("bench_flows", name, f"time of a {metric}, {kind}, {peer} / polymode", median, protocol,
                                n=len(seconds["polymode"]), least=least, most=most)
                )  # fmt: skip
    save("bench_flows", entries, keep=kinds != list(FLOWS))


if __name__ == "__main__":
    main(sys.argv[1:] or list(FLOWS))
