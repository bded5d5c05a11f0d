"""How well models learned: likelihood, sample metrics, diagnostics, the report.

The package is also the function `polymode.evaluate(model, data)`, as `polymode.models` is.
"""

import sys
from types import ModuleType
from typing import Any

from polymode.evaluate.diagnostics.collapse import Collapse, CollapseDetector, collapse_watcher
from polymode.evaluate.diagnostics.dilution import Diluted
from polymode.evaluate.diagnostics.sweep import Sweep, sweep_option
from polymode.evaluate.evaluator import Evaluator, evaluate
from polymode.evaluate.features import FeatureSpace, features_for
from polymode.evaluate.joint import Difference
from polymode.evaluate.leaderboard import Leaderboard
from polymode.evaluate.likelihood import log_likelihood
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.metrics import METRICS, Metric
from polymode.evaluate.noise import Noise
from polymode.evaluate.paired import Pair, compare_pair
from polymode.evaluate.report import Report, Row, better_than_floor

__all__ = [
    "METRICS", "Collapse", "CollapseDetector", "Difference", "Diluted", "Evaluator", "FeatureSpace", "Leaderboard",
    "Measurement", "Metric", "Noise", "Pair", "Report", "Row", "Sweep", "better_than_floor", "collapse_watcher",
    "compare_pair", "evaluate", "features_for", "log_likelihood", "sweep_option",
]  # fmt: skip


class _Evaluate(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Report:
        """`evaluator.evaluate`."""
        return evaluate(*args, **options)


sys.modules[__name__].__class__ = _Evaluate
