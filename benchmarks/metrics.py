"""FID, KID and PRDC on 10,000 x 10,000 rows of 2048 features against torch-fidelity, clean-fid and prdc.

All see the same single-precision features, rectified and correlated as Inception's are, and 2 threads; rounds
alternate. Peers are installed without their dependencies (torch-fidelity drags torchvision in); tests/golden shows that
the numbers are equal.

    pip install --no-deps torch-fidelity clean-fid prdc
    python -m benchmarks.metrics
"""

from __future__ import annotations

import contextlib
import io
import resource
import sys
from types import ModuleType

import numpy as np
import torch

from benchmarks._peers import clean_fid_distance, torch_fidelity
from benchmarks._side_by_side import alternate, measurement, ratios, save
from polymode.evaluate.metrics.frechet import frechet
from polymode.evaluate.metrics.kid import kid_by_subsets
from polymode.evaluate.metrics.prdc import prdc

ROWS, DIMS, THREADS, SUBSETS, SIZE, SEED = 10_000, 2048, 2, 100, 1000, 2020


def features() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(DIMS, DIMS, generator=g) / DIMS**0.5
    x, y = (torch.relu(torch.randn(ROWS, DIMS, generator=g) @ mix + shift) for shift in (0.3, 0.32))
    return x, y


def main() -> None:
    torch.set_num_threads(THREADS)
    with torch_fidelity() as peer:
        measure(peer)


def measure(peer: dict[str, ModuleType]) -> None:
    x, y = features()
    distance = clean_fid_distance()
    draws = np.random.RandomState(SEED)
    rows = [[draws.choice(ROWS, SIZE, replace=False) for _ in "xy"] for _ in range(SUBSETS)]
    of_x, of_y = (torch.tensor(np.array([pair[i] for pair in rows])) for i in (0, 1))
    values: dict[str, float] = {}

    def keep(name: str, value: float) -> None:
        values[name] = value

    def their_fid() -> None:
        statistics = [peer["fid"].fid_features_to_statistics(v) for v in (x, y)]
        keep("torch-fidelity", peer["fid"].fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"])

    def clean() -> None:
        statistics = [v for f in (x.numpy(), y.numpy()) for v in (f.mean(0), np.cov(f, rowvar=False))]
        keep("clean-fid", float(distance(*statistics)))

    def their_kid() -> None:
        found = peer["kid"].kid_features_to_metric(
            x, y, kid_subsets=SUBSETS, kid_subset_size=SIZE, rng_seed=SEED, verbose=False
        )
        keep("torch-fidelity kid", found["kernel_inception_distance_mean"])

    def their_prdc() -> None:
        import prdc as package

        with contextlib.redirect_stdout(io.StringIO()):
            keep("prdc", float(package.compute_prdc(x.numpy(), y.numpy(), nearest_k=5)["density"]))

    before = _peak()
    keep("polymode prdc", float(prdc(x, y).dense.mean()))
    memory = _peak() - before
    contests = {
        "Frechet distance": (
            {"polymode": lambda: keep("polymode", frechet(x, y)), "torch-fidelity": their_fid, "clean-fid": clean}, 3),
        "PRDC": ({"polymode": lambda: prdc(x, y), "prdc": their_prdc}, 2),
        "KID": (
            {"polymode": lambda: keep("polymode kid", kid_by_subsets(x, y, of_real=of_x, of_samples=of_y)[0]),
             "torch-fidelity": their_kid}, 3),
    }  # fmt: skip
    protocol = f"{ROWS} x {ROWS} x {DIMS} features, float32, {THREADS} threads"
    entries = []
    for metric, (work, rounds) in contests.items():
        for name, (median, least, most) in ratios(alternate(work, rounds=rounds), "polymode").items():
            print(f"{metric}: {name} takes {median:.2f} times as long (rounds {least:.2f} to {most:.2f})", flush=True)
            entries.append(
                measurement("bench_metrics", "-", f"time of {metric}, {name} / polymode", median, protocol, n=rounds,
                            least=least, most=most)
            )  # fmt: skip
    print({k: f"{v:.9g}" for k, v in values.items()}, f"PRDC: {memory:.0f} MiB above the features")
    entries.append(measurement("bench_metrics", "-", "peak memory of PRDC above its features, MiB", memory, protocol))
    save("bench_metrics", entries)


def _peak() -> float:
    """The most memory this process has held, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


if __name__ == "__main__":
    main()
