"""What a learned model is good for: verbs on capabilities, asked with isinstance."""

from polymode.tasks.anomaly import Detection, Scores, anomaly_scores, detect, ood_auroc
from polymode.tasks.classification import Classification, class_prior, classify
from polymode.tasks.completion import completions, known_part
from polymode.tasks.denoising import denoise, psnr
from polymode.tasks.forensics import CrossMatrix, Detector, cross_generator_matrix
from polymode.tasks.seq2seq import translate
from polymode.tasks.training_sets import one_class, perturbed

__all__ = [
    "Classification", "CrossMatrix", "Detection", "Detector", "Scores", "anomaly_scores", "class_prior", "classify",
    "completions", "cross_generator_matrix",
    "denoise", "detect", "known_part", "one_class", "ood_auroc", "perturbed", "psnr", "translate",
]  # fmt: skip
