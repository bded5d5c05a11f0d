"""What a learned model is good for: verbs on capabilities, asked with isinstance."""

from polymode.tasks.anomaly import Detection, Scores, anomaly_scores, detect, ood_auroc
from polymode.tasks.classification import Classification, class_prior, classify
from polymode.tasks.completion import completions, known_part
from polymode.tasks.compression import Compressed, compress, compressed, decompress
from polymode.tasks.denoising import denoise, psnr
from polymode.tasks.forensics import CrossMatrix, Detector, cross_generator_matrix
from polymode.tasks.progressive import rate_distortion
from polymode.tasks.restoration import colourise, consistency, deblur, restore, upscale, vary
from polymode.tasks.seq2seq import translate
from polymode.tasks.training_sets import one_class, perturbed
from polymode.tasks.translation import there_and_back, translate_pictures

__all__ = [
    "Classification", "Compressed", "CrossMatrix", "Detection", "Detector", "Scores", "anomaly_scores", "class_prior",
    "classify", "colourise", "completions", "compress", "compressed", "consistency", "cross_generator_matrix",
    "deblur", "decompress", "denoise", "detect", "known_part", "one_class", "ood_auroc", "perturbed", "psnr",
    "rate_distortion", "restore", "there_and_back", "translate", "translate_pictures", "upscale", "vary",
]  # fmt: skip
