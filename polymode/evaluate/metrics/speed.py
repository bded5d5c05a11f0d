"""How fast samples come, and how large the model is.

Samples a second are wall-clock time of one call that drew the n samples of the report, on this machine: a number to
compare models of one report by, and nothing else.
"""

from __future__ import annotations

import math

from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    assert c.model is not None
    n = len(c.samples)
    # parameters and what else is saved with them: a model that keeps rows is as large as its rows
    size = sum(t.numel() * t.element_size() for t in c.model.state_dict().values()) / 2**20
    device = f"on {c.model.device.type}"
    none = (math.nan, math.nan)
    return [
        Measurement("samples/s", n / max(c.seconds, 1e-9), *none, n, "higher", f"one call for all, {device}"),
        Measurement("parameters", c.model.num_parameters, *none, 0, None, "learned by gradient"),
        Measurement("size", size, *none, 0, None, "MiB on disk, buffers included"),
    ]
