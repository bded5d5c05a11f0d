"""CTGAN or TVAE of the package ctgan on rows of numbers and categories, for so many minutes of one thread.

The package is under the Business Source licence and brings what polymode does not ask for, so `benchmarks.tables` runs
this file with the interpreter of an environment of its own, which imports nothing of polymode:

    PYTHON benchmarks/_ctgan.py ctgan|tvae ROWS.npz MINUTES SAMPLES.npy

ROWS.npz has the cells (N, C), which of the columns are categories, and how many rows to draw.
"""

from __future__ import annotations

import sys
import time

import ctgan
import numpy as np
import pandas as pd
import torch


def main() -> None:
    name, source, minutes, target = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    told = np.load(source)
    table = pd.DataFrame(told["cells"], columns=[f"c{j}" for j in range(told["cells"].shape[1])])
    discrete = [f"c{j}" for j in np.flatnonzero(told["categories"])]
    table = table.astype(dict.fromkeys(discrete, int))
    kind = {"ctgan": ctgan.CTGAN, "tvae": ctgan.TVAE}[name]

    def fitted(epochs: int) -> tuple[ctgan.CTGAN | ctgan.TVAE, float]:
        """The model after so many epochs, and the seconds that it took, its transformation of columns included."""
        torch.manual_seed(0)
        np.random.seed(0)
        model, start = kind(epochs=epochs, enable_gpu=False), time.perf_counter()
        model.fit(table, discrete)
        return model, time.perf_counter() - start

    fitted(1)  # what is slow only once
    (_, one), (_, many) = fitted(1), fitted(11)
    epoch = (many - one) / 10
    if epoch <= 0:
        sys.exit(
            f"an epoch took {epoch:.2f} s by the difference of 11 and 1 of {name}: the machine is too busy to tell"
        )
    epochs = max(1, round((60 * minutes - (one - epoch)) / epoch))
    model, seconds = fitted(epochs)
    print(f"{name}: {epochs} epochs in {seconds:.0f} s")
    np.save(target, model.sample(int(told["draw"])).to_numpy(dtype=np.float64))


if __name__ == "__main__":
    main()
