"""A learned model against zlib, bzip2, xz, zstd, PNG, WebP and FLAC: how small, and how fast, on the same data.

Digits by a made, held-out Shakespeare by an n-gram model, MNIST with binary pixels by a made and by a vae (bits-back),
spoken digits as mu-law codes by an n-gram model: each trained here for the seconds that are said, none of them the best
there is, or a run that is given with its data. Others get what suits them best, as in `polymode compress`
(`tasks.codecs`); those that are not installed are left out with a word. Rates are of whole files, the header included,
and of code words alone, without what bits-back began with; the model itself is not counted: both sides have it.
Throughput is of data as bytes (a byte a value, an eighth of one for bits), the median of three rounds side by side.

    python -m benchmarks.compression [digits shakespeare mnist mnist-vae fsdd | RUN DATA]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

import polymode as pm
from benchmarks._side_by_side import alternate, measurement, save
from polymode.core.checkpoint import name_of
from polymode.core.model import GenerativeModel
from polymode.core.spelling import decode
from polymode.tasks.codecs import others, packers
from polymode.tasks.compression import compressed, decompress
from polymode.tasks.deflate import as_bytes

ROUNDS, ROWS = 3, 500


@dataclass(frozen=True)
class Contest:
    """A model and the rows that it never saw; `raw` are a text's own bytes."""

    name: str
    model: GenerativeModel
    x: Tensor
    trained: str
    raw: bytes | None = None


def trained(name: str, data: Any, x: Tensor, steps: int | None, raw: bytes | None = None, **sizes: Any) -> Contest:
    model = pm.create(name, data.spec, seed=0, **sizes)
    run = pm.fit(model, data, seed=0, **({} if steps is None else {"steps": steps}))
    return Contest(data.name, run.model.eval(), x, f"{steps} steps" if steps else "one pass", raw)


def shakespeare() -> Contest:
    data = pm.data.load("tinyshakespeare", stride=64)
    x = data.test.batch(slice(0, ROWS), torch.Generator())[0]
    return trained("ngram", data, x, None, decode(x.flatten(), data.spec).encode())


def mnist(name: str, steps: int, **sizes: Any) -> Contest:
    data = pm.data.load("mnist_binarized")
    return trained(name, data, data.test.x[:ROWS], steps, **sizes)


CONTESTS: dict[str, Callable[[], Contest]] = {
    "digits": lambda: trained("made", data := pm.data.load("digits"), data.test.x, 600),
    "shakespeare": shakespeare,
    "mnist": lambda: mnist("made", 300),
    "mnist-vae": lambda: mnist("vae", 1000, latent_dims=32, hidden=(256, 256)),
    "fsdd": lambda: trained("ngram", data := pm.data.load("fsdd"), data.test.x[:8], None, order=3),
}


def given(run: str, source: str) -> Contest:
    data = pm.data.load(source)
    return Contest(data.name, pm.load(run), data.test.batch(slice(0, ROWS), torch.Generator())[0], f"the run {run}")


def contend(contest: Contest) -> list[dict[str, Any]]:
    """Sizes and throughput of everyone, as a table and as measurements."""
    model, x, spec = contest.model, contest.x, contest.model.spec
    ours = compressed(model, x, check=False)
    assert torch.equal(decompress(model, ours.archive), x)
    plain = contest.raw or min((c.tobytes() for c in as_bytes(x, spec)), key=len)
    work: dict[str, Callable[[], object]] = {
        "compress": lambda: compressed(model, x, check=False), "decompress": lambda: decompress(model, ours.archive),
    }  # fmt: skip
    work |= {name: (lambda pack=pack: pack(plain)) for name, pack in packers().items()}
    speed = {name: len(plain) / 1e6 / sorted(t)[ROUNDS // 2] for name, t in alternate(work, rounds=ROUNDS).items()}
    sizes = {f"{ours.method}, whole file": 8 * len(ours.archive), f"{ours.method}, code words": ours.net_bits}
    rates = {name: bits / ours.values for name, bits in (sizes | others(x, spec, raw=contest.raw)).items()}
    who = f"{name_of(type(model))} after {contest.trained}"
    print(f"\n{contest.name}: {len(x)} rows of {spec}, {len(plain):,} bytes, by {who}", flush=True)
    for name, rate in rates.items():
        fast = f"{speed[name]:8.3f} MB/s" if name in speed else ""
        if name == f"{ours.method}, whole file":
            fast = f"{speed['compress']:8.3f} MB/s, back {speed['decompress']:.3f}"
        print(f"  {name:28} {rate:7.4f} bits a value  {fast}".rstrip())
    protocol = f"{who}, seed 0, one thread; test rows, {len(plain)} bytes"
    common = {"data": contest.name, "n": len(x)}
    entries = [
        measurement("bench_compression", name_of(type(model)), f"bits a value, {contest.name}, {name}", rate, protocol,
                    kind="exact", **common)
        for name, rate in rates.items()
    ]  # fmt: skip
    return entries + [
        measurement("bench_compression", name_of(type(model)), f"MB/s, {contest.name}, {name}", fast,
                    f"{protocol}; median of {ROUNDS} rounds", kind="throughput", **common)
        for name, fast in speed.items()
    ]  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    absent = [
        n
        for n, package in (("zstd", "zstandard"), ("PNG and WebP", "PIL"), ("FLAC", "soundfile"))
        if not find_spec(package)
    ]
    if absent:
        print(f"not installed, and so left out: {', '.join(absent)}")
    asked = sys.argv[1:] or list(CONTESTS)
    contests = [CONTESTS[name]() for name in asked] if set(asked) <= set(CONTESTS) else [given(*asked)]
    entries = [entry for contest in contests for entry in contend(contest)]
    save("bench_compression", entries, keep=True)


if __name__ == "__main__":
    main()
