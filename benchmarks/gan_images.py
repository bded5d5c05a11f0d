"""Every adversarial model of pictures at equal compute: KID and precision and recall of what each draws.

Each learns the 32x32 emoji for the same time on one thread with the defaults of its paper here, without labels but
for those whose paper has them (`LABELLED`, which draw under the labels of test rows); `stylegan2+ada` has
`augment="ada"`. Then as many samples as there are test rows, at most 1,000, seed 0, are held against them in the
features of a net of random weights with the intervals of `evaluate.metrics`: a classifier of 1,500 emoji takes blobs
of the right colours for emoji (precision .98 after 40 steps of StyleGAN2, where random features say .21). The row
"real" is training rows under the same metrics.

    python -m benchmarks.gan_images [minutes a model [set]]
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch

import polymode as pm
from benchmarks._side_by_side import measurement, save
from polymode.evaluate import Evaluator
from polymode.evaluate.measurement import Measurement

#: row -> model and its options
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {})
    for name in ("dcgan", "lsgan", "wgan", "wgan_gp", "dragan", "sngan", "pacgan", "improved_gan", "infogan", "acgan",
                 "sagan", "biggan", "stylegan", "stylegan2")
} | {"stylegan2+ada": ("stylegan2", {"augment": "ada"})}  # fmt: skip
LABELLED = ("acgan", "biggan")
METRICS = ["kid", "frechet", "prdc"]
FEATURES, ROWS = "random-conv", 1000
MINUTES, SET = 3.0, "emoji"


def measured(name: str, minutes: float, data: Any, evaluator: Evaluator) -> list[Measurement]:
    """The numbers of one model."""
    model_name, options = MODELS[name]
    condition = data.condition_spec if name in LABELLED else None
    model = pm.create(model_name, data.spec, condition, seed=0, **options)
    pm.fit(model, data, minutes=minutes, seed=0, validate_every=0)
    return evaluator.measure(evaluator.compare(model, {}, scored=False))


def entry(name: str, m: Measurement, data: Any, minutes: float) -> dict[str, Any]:
    protocol = f"{minutes:g} min a model, one thread; {m.protocol}"
    return measurement(
        "bench_gan_images", name, f"{m.metric}, {data.name}, {name}", m.value, protocol, kind="sample metric",
        data=data.name, split="test", n=m.n, features=m.features, low=m.low, high=m.high, minutes=minutes,
    )  # fmt: skip


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    data = pm.data.load(sys.argv[2] if len(sys.argv) > 2 else SET)
    torch.set_num_threads(1)
    evaluator = Evaluator(data, n=min(ROWS, len(data.test)), seed=0, metrics=METRICS, features=FEATURES)
    assert evaluator.ceiling is not None
    rows = {"real": list(evaluator.ceiling.measurements)}
    for name in ("real", *MODELS):
        if name in MODELS:
            rows[name] = measured(name, minutes, data, evaluator)
        # there is no Frechet distance of fewer rows than features
        found = [m for m in rows[name] if not math.isnan(m.value)]
        told = (f"{m.metric} {m.value:.3f} ({m.low:.3f} to {m.high:.3f})" for m in found)
        print(f"{name:14s} {'  '.join(told)}", flush=True)
        save("bench_gan_images", [entry(name, m, data, minutes) for m in found], keep=True)


if __name__ == "__main__":
    main()
