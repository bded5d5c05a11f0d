"""Models of tables under one protocol: train on synthetic rows of Adult, test on the official real ones.

Every model learns the rows given the class for the same time on one thread, and draws as many rows as are taken of the
training split, with the classes of the test split's own frequencies. One learner, its three fits and its intervals are
those of `evaluate.metrics.tstr`, which also gives what real rows and SMOTE reach; the fidelity of columns and pairs is
`evaluate.metrics.table_fidelity`. CTGAN and TVAE learn the class as one more column, by the package ctgan in an
environment of its own, whose interpreter is named (`_ctgan`); without it they are left out.

    python -m benchmarks.tables [minutes a model [PYTHON with ctgan [model ...]]]
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import polymode as pm
from benchmarks._side_by_side import measurement, save
from polymode.core.condition import label
from polymode.core.spec import Categorical, Columns
from polymode.evaluate import Evaluator
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.metrics import table_fidelity, tstr

#: models, with what `fit` is told beside the time
MODELS: dict[str, dict[str, Any]] = {
    "tab_ddpm": {}, "ddpm": {"batch_size": 512}, "vae": {"batch_size": 512}, "wgan_gp": {"batch_size": 512},
    "made": {"batch_size": 512}, "chow_liu": {},
}  # fmt: skip
#: of the package ctgan
PEERS = ("ctgan", "tvae")
MINUTES, ROWS = 3.0, 10_000
#: what is told of all rows alike
BASELINES = ("TRTR", "SMOTE")


def ours(name: str, minutes: float, data: Any, evaluator: Evaluator) -> Comparison:
    """Samples of one of our models."""
    model = pm.create(name, data.spec, data.condition_spec, seed=0)
    if not isinstance(model, pm.FitsDirectly):
        pm.fit(model, data, minutes=minutes, seed=0, validate_every=0, **MODELS[name])
    else:
        pm.fit(model, data, seed=0)
    return evaluator.compare(model, {}, scored=False)


def theirs(name: str, minutes: float, data: Any, evaluator: Evaluator, python: str) -> Comparison:
    """Samples of a model of ctgan, its class cut off again."""
    assert isinstance(data.spec.support, Columns)
    assert data.train.condition is not None
    kinds = [isinstance(column, Categorical) for column in data.spec.support.columns]
    cells = torch.cat([data.train.x.double(), data.train.condition.label.double().unsqueeze(1)], 1)
    with tempfile.TemporaryDirectory() as folder:
        rows, samples = Path(folder) / "rows.npz", Path(folder) / "samples.npy"
        np.savez(rows, cells=cells.numpy(), categories=[*kinds, True], draw=ROWS)
        script = Path(__file__).with_name("_ctgan.py")
        subprocess.run([python, script, name, rows, str(minutes), samples], check=True)
        made = torch.from_numpy(np.load(samples))
    return Comparison(evaluator.reference, made[:, :-1].to(data.train.x.dtype), condition=label(made[:, -1].long()))


def entries_of(name: str, compared: Comparison, minutes: float) -> list[dict[str, Any]]:
    """What is measured of one model, and of real rows and SMOTE."""
    entries = []
    for m in (*tstr.measure(compared), *table_fidelity.measure(compared)):
        metric = m.metric if m.metric.startswith(BASELINES) else f"{m.metric}, {name}"
        error = None if math.isnan(m.low) else (m.high - m.low) / 3.92
        entries.append(
            measurement("bench_tables", name, metric, m.value, f"{minutes:g} min a model, one thread; {m.protocol}",
                        kind="sample metric", data=compared.data.name, split="test", n=m.n, std_error=error,
                        minutes=minutes)
        )  # fmt: skip
    return entries


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    torch.set_num_threads(1)
    data = pm.data.load("adult", labels="income")
    evaluator = Evaluator(data, n=ROWS, seed=0, limit=2000, ceiling=False)
    python = sys.argv[2] if len(sys.argv) > 2 else ""
    for name in sys.argv[3:] or (*MODELS, *(PEERS if python else ())):
        if name in MODELS:
            compared = ours(name, minutes, data, evaluator)
        else:
            compared = theirs(name, minutes, data, evaluator, python)
        entries = entries_of(name, compared, minutes)
        for row in entries:
            print(f"{row['metric']:40s} {row['value']:.4f} +- {row['std_error'] or 0:.4f}", flush=True)
        save("bench_tables", entries, keep=True)


if __name__ == "__main__":
    main()
