"""Models of tables under one protocol: train on synthetic rows of Adult, test on the official real ones.

Every model learns the rows given the class for the same time on one thread, and draws as many rows as are taken of the
training split, with the classes of the test split's own frequencies. One learner, its three fits and its intervals are
those of `evaluate.metrics.tstr`, which also gives what real rows and SMOTE reach; the fidelity of columns and pairs is
`evaluate.metrics.table_fidelity`. `vae` has the mixed heads that a TVAE has, `wgan_gp` is a plain critic's model of
one-hots as in CTGAN without its mode-specific normalisation; CTGAN and TVAE themselves are not run here.

    python -m benchmarks.tables [minutes a model]
"""

from __future__ import annotations

import sys
from typing import Any

import torch

import polymode as pm
from benchmarks._side_by_side import measurement, save
from polymode.evaluate import Evaluator

#: models, with what `fit` is told beside the time
MODELS: dict[str, dict[str, Any]] = {
    "tab_ddpm": {}, "ddpm": {"batch_size": 512}, "vae": {"batch_size": 512}, "wgan_gp": {"batch_size": 512},
    "made": {"batch_size": 512}, "chow_liu": {},
}  # fmt: skip
MINUTES, ROWS = 3.0, 10_000
METRICS = ["tstr", "table_fidelity"]


def measured(name: str, minutes: float, data: Any, evaluator: Evaluator) -> list[dict[str, Any]]:
    """The rows of one model: its own, and beside the first those of real rows and SMOTE."""
    model = pm.create(name, data.spec, data.condition_spec, seed=0)
    if not isinstance(model, pm.FitsDirectly):
        pm.fit(model, data, minutes=minutes, seed=0, validate_every=0, **MODELS[name])
    else:
        pm.fit(model, data, seed=0)
    found = evaluator.measure(evaluator.compare(model, {}, scored=False))
    return [
        measurement("bench_tables", name, m.metric, m.value, m.protocol, kind="sample metric", data=data.name,
                    split="test", n=m.n, std_error=None if m.low != m.low else (m.high - m.low) / 3.92,
                    minutes=minutes)
        for m in found
    ]  # fmt: skip


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    torch.set_num_threads(1)
    data = pm.data.load("adult", labels="income")
    evaluator = Evaluator(data, n=ROWS, seed=0, limit=2000, metrics=METRICS, ceiling=False)
    entries = []
    for name in MODELS:
        rows = measured(name, minutes, data, evaluator)
        for row in rows:
            print(f"{name:10s} {row['metric']:28s} {row['value']:.4f} +- {row['std_error'] or 0:.4f}")
        entries += rows
        save("bench_tables", entries)


if __name__ == "__main__":
    main()
