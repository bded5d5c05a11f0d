"""What a learned model is good for: verbs on capabilities, asked with isinstance."""

from polymode.tasks.anomaly import Detection, Scores, anomaly_scores, detect, ood_auroc
from polymode.tasks.forensics import CrossMatrix, Detector, cross_generator_matrix
from polymode.tasks.training_sets import one_class, perturbed

__all__ = [
    "CrossMatrix", "Detection", "Detector", "Scores", "anomaly_scores", "cross_generator_matrix", "detect", "one_class",
    "ood_auroc", "perturbed",
]  # fmt: skip
