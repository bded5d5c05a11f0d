"""The curse of dimension, measured: how far classical densities and a flow are from a known truth as D grows.

    x_1 ~ f(. - 0),   x_d | x_{d-1} ~ f(. - sin(1.5 x_{d-1})),   f = 1/2 N(-0.9, 0.4^2) + 1/2 N(0.9, 0.4^2)

a chain of two bumps a dimension, 2^D modes in all, each dimension correlated with the one before; its density is exact.
Every model gets the same rows; what is measured is KL(truth || model) in nats a datum on fresh rows, as the mean of
log p_true - log p_model with the standard error of that mean. `python -m benchmarks.curse_of_dimension` writes
docs/curse-of-dimension.md and docs/curse-of-dimension.png, in under five minutes on one core.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor

import polymode as pm
from polymode.core import rng
from polymode.core.spec import vector
from polymode.data.dataset import DataSet, Split

DIMS = (1, 2, 4, 8, 16, 32)
TRAIN, VALID, TEST = 4000, 500, 4000
#: bumps of a conditional: where, and how wide
BUMP, WIDTH = 0.9, 0.4
#: name in the table, model, its options
MODELS = (
    ("histogram", "histogram", {}), ("kde", "kde", {}), ("gaussian", "gaussian", {}), ("gmm", "gmm", {}),
    ("ppca", "ppca", {}), ("nsf", "nsf", {"by": "autoregressive", "layers": 2, "hidden": (64,)}),
)  # fmt: skip
#: of the flow
STEPS, LEARNING_RATE = 400, 5e-3
#: the least that the picture shows; below it a measurement is all error
LEAST_SHOWN = 5e-4
DOCS = Path(__file__).parents[1] / "docs"


def draw(n: int, d: int, generator: torch.Generator) -> Tensor:
    """n rows of d dimensions, (n, d) float64."""
    x = torch.zeros(n, d, dtype=torch.float64)
    before = torch.zeros(n, dtype=torch.float64)
    for j in range(d):
        side = 2.0 * torch.randint(2, (n,), generator=generator) - 1
        x[:, j] = torch.sin(1.5 * before) + BUMP * side + WIDTH * rng.randn((n,), generator, x)
        before = x[:, j]
    return x


def log_density(x: Tensor) -> Tensor:
    """The exact log-density of rows, (n,)."""
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    centre = torch.sin(1.5 * before)
    bumps = [-0.5 * ((x - centre - side * BUMP) / WIDTH) ** 2 for side in (-1, 1)]
    return (torch.logaddexp(*bumps) - math.log(2 * WIDTH * math.sqrt(2 * math.pi))).sum(1)


def measure(d: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """(KL, its standard error) of each model in d dimensions."""
    g = rng.generator(seed + d)
    train, valid, test = (draw(n, d, g) for n in (TRAIN, VALID, TEST))
    spec = vector(d, loc=tuple(train.mean(0).tolist()), scale=tuple(train.std(0).tolist()))
    data = DataSet(f"chain {d}", spec, *(Split(x.float()) for x in (train, valid, test)))
    truth, found = log_density(test), {}
    for name, model, options in MODELS:
        made = pm.create(model, spec, seed=seed, **options)
        pm.fit(made, data, steps=STEPS, learning_rate=LEARNING_RATE, seed=seed, device="cpu")
        gap = truth - made.double().log_prob(test)
        found[name] = (float(gap.mean()), float(gap.std()) / math.sqrt(TEST))
    return found


def crossing(found: dict[int, dict[str, tuple[float, float]]]) -> str:
    """Where the kernel density falls behind the flow by more than two standard errors, in words."""
    behind = []
    for d in DIMS:
        (kde, kde_error), (flow, flow_error) = found[d]["kde"], found[d]["nsf"]
        if kde - flow > 2 * math.hypot(kde_error, flow_error):
            behind.append(d)
    level = [d for d in DIMS if d not in behind]
    if not level or not behind or max(level) > min(behind):
        return "The two do not cross once in these dimensions."
    last = DIMS[-1]
    worse = [d for d in DIMS if found[d]["kde"][0] > found[d]["histogram"][0]]
    floor = f" At D = {min(worse)} it has fallen behind even histograms of single columns." if worse else ""
    return (
        f"Up to D = {max(level)} the kernel density is as near to the truth as the flow, or nearer; from "
        f"D = {min(behind)} on it is behind, and at D = {last} it is {found[last]['kde'][0]:.1f} nats away where the "
        f"flow is {found[last]['nsf'][0]:.1f}.{floor}"
    )


def picture(found: dict[int, dict[str, tuple[float, float]]], path: Path) -> None:
    """KL a dimension against D, with bars of two standard errors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.2))
    for name, _, _ in MODELS:
        means = [max(found[d][name][0] / d, LEAST_SHOWN) for d in DIMS]
        errors = [2 * found[d][name][1] / d for d in DIMS]
        dashes = "--" if name == "ppca" else "-"  # it lies upon the Gaussian
        axes.errorbar(DIMS, means, errors, fmt="o" + dashes, markersize=4, linewidth=1.4, capsize=2, label=name)
    axes.set_ylim(LEAST_SHOWN / 2, 1.0)
    axes.set(xscale="log", yscale="log", xlabel="dimensions D", ylabel="KL(truth || model), nats a dimension")
    axes.set_xticks(DIMS, [str(d) for d in DIMS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": "polymode"})
    pyplot.close(figure)


def page(found: dict[int, dict[str, tuple[float, float]]], seconds: float) -> str:
    """The page, whose numbers are those found."""
    names = [name for name, _, _ in MODELS]
    rows = [
        f"| {d} | " + " | ".join(f"{found[d][n][0]:.3f} ± {found[d][n][1]:.3f}" for n in names) + " |" for d in DIMS
    ]
    return f"""# The curse of dimension

Written by `python -m benchmarks.curse_of_dimension`, numbers and all ({seconds:.0f} s of one core).

A histogram of two columns with 20 bins each has 400 cells; of ten columns it has more cells than there are grains of
sand, and almost all of them are empty whatever the data. What a density estimate can do instead is to assume something:
that columns are independent (`histogram` here: one a column), that nearby points are alike (`kde`), that everything is
Gaussian (`gaussian`), that it is Gaussian in few directions (`ppca`) or in few lumps (`gmm`), or that a smooth map
takes it to a Gaussian (`nsf`). Which assumption costs what can be measured where the truth is known.

The truth is a chain: each column has two bumps, about a curve of the column before,

    x_d | x_(d-1) ~ 1/2 N(s - 0.9, 0.4^2) + 1/2 N(s + 0.9, 0.4^2),   s = sin(1.5 x_(d-1)),

so that there are 2^D modes and every column depends on another. Each model sees the same {TRAIN:,} rows (and {VALID}
validation rows, which choose the bandwidth and the flow's best weights); the table is KL(truth || model) in nats a
datum, on {TEST:,} fresh rows, with the standard error of the mean. 0 is perfect, and a difference of one nat means that
the truth finds its own data e times as likely.

| D | {" | ".join(names)} |
|---|{"---|" * len(names)}
{chr(10).join(rows)}

![KL a dimension against D](curse-of-dimension.png)

{crossing(found)}

The kernel density's loss grows faster than D. Its bandwidth has to widen with D to find any rows nearby: the mean
square error of the best one falls only as N^(-4 / (D + 4)), so that to be as good at D = 8 as at D = 2 with 4,000 rows
it would need their square. A mixture of 16 lumps goes the same way, with 2^D modes to cover. The losses of `histogram`,
`gaussian` and `ppca` grow in proportion to D, a constant a dimension, which is what they assume wrongly of each
conditional; no more rows would mend it. The flow learns the conditionals, and what it loses a dimension is what
{TRAIN:,} rows and {STEPS} steps leave unlearned.

What to take from it: with a few columns a kernel density or a mixture is hard to beat; with more, take a model that
learns the dependence, and always look at the histogram's number first, which is what independence alone would give.
"""


def main() -> None:
    torch.set_num_threads(1)
    begun, found = time.process_time(), {}
    for d in DIMS:
        found[d] = measure(d)
        print(d, json.dumps({k: [round(v, 3) for v in pair] for k, pair in found[d].items()}), flush=True)
    picture(found, DOCS / "curse-of-dimension.png")
    (DOCS / "curse-of-dimension.md").write_text(page(found, time.process_time() - begun), encoding="utf-8")


if __name__ == "__main__":
    main()
