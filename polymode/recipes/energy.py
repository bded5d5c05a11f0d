"""Recipes of energies and Boltzmann machines."""

from __future__ import annotations

from typing import Any

from polymode.recipes.base import Measure, Recipe, frames

#: of perceptrons on the plane
_PLANE: dict[str, Any] = {"steps": 2500, "learning_rate": 3e-3}
#: silence behind pieces is not learned, as in published likelihoods
_SOUNDING: dict[str, Any] = {"charge_silence": False}

RECIPES: tuple[Recipe, ...] = (
    # energy-based models
    *(Recipe(f"ebm_{toy}", "ebm", toy, (Measure("density_kl", aim=0.1), Measure()), settings={"penalty": 1e-4},
             training=_PLANE, cost="1 min, one core")
      for toy in ("8gaussians", "moons", "checkerboard")),
    Recipe("nce_8gaussians", "nce", "8gaussians", (Measure("density_kl", aim=0.1), Measure()), training=_PLANE,
           cost="1 min, one core"),
    Recipe("short_run_8gaussians", "short_run", "8gaussians",
           (Measure("modes", aim=8, better="higher"), Measure("modes", row="high quality", aim=0.95, better="higher")),
           settings={"penalty": 1e-3}, training={"steps": 400, "learning_rate": 3e-3}, cost="1 min, one core"),
    Recipe("jem_digits", "jem", "digits", (Measure("labels", aim=0.95, better="higher"),), settings={"chain_steps": 2},
           training={"steps": 300, "learning_rate": 3e-3, "batch_size": 100}, cost="20 s, one core"),
    # restricted Boltzmann machines
    Recipe("rbm_mnist", "rbm", "mnist_binarized", (
        Measure(aim=91.0, published=86.34, source="Salakhutdinov and Murray 2008 (CD-25)"),
    ), settings={"hidden": 500}, training={"epochs": 300, "validate_every": 0}, cost="50 min, one core"),
    # deep ones
    Recipe("dbn_mnist", "dbn", "mnist_binarized", (
        Measure(num_samples=100, aim=89.0, published=84.55, source="Murray and Salakhutdinov 2009, two layers"),
        Measure(num_samples=1),
    ), settings={"hidden": (500, 1000)}, training={"epochs": 240, "validate_every": 0}, cost="40 min, one core"),
    Recipe("dbm_mnist", "dbm", "mnist_binarized", (
        Measure(num_samples=100, aim=89.0, published=84.62, source="Salakhutdinov and Hinton 2009, two layers"),
        Measure(num_samples=1),
    ), settings={"hidden": (500, 500), "mean_field_rounds": 5, "pretrain": "lowest", "shares": (6, 1)},
        training={"epochs": 140, "validate_every": 0}, cost="15 min, one core"),
    # what layers that saw no label are worth to a classifier of a hundred
    *(Recipe(f"dbn_{name}", "dbn", data, (
        Measure("pretraining", "pretraining gain", aim=0.0, better="higher"),
        Measure("pretraining", "accuracy, pretrained", better="higher"),
        Measure("pretraining", "accuracy, random start", better="higher"),
    ), settings={"hidden": (width,) * 3}, reading=reading, training={"steps": steps, "validate_every": 0},
        condition="none", cost=cost)
      for name, data, reading, width, steps, cost in (
          ("digits", "digits", {}, 200, 2400, "1 min, one core"),
          ("mnist_labels", "mnist", {"levels": 2}, 300, 9000, "3 min, one core"),
      )),
    # pictures and their keywords, each found by the other, in multiples of the prior
    *(Recipe(f"{model}_emoji", model, "emoji_keywords", (
        Measure("retrieval", "retrieval of conditions", aim=2.0, better="higher"),
        Measure("retrieval", "retrieval of data", aim=2.0, better="higher"),
    ), settings=settings, training={"steps": steps, "learning_rate": 0.1, "validate_every": 0}, cost="1 min, one core")
      for model, settings, steps in (("multimodal_rbm", {"hidden": 128}, 500), ("multimodal_dbm", {}, 2000))),
    Recipe("grbm_8gaussians", "grbm", "8gaussians", (Measure("density_kl"), Measure()),
           settings={"hidden": 16, "chains": 500, "k": 3},
           training={"steps": 4000, "batch_size": 500, "learning_rate": 0.03}, cost="1 min, one core"),
    Recipe("discriminative_rbm_digits", "discriminative_rbm", "digits", (
        Measure("labels", "accuracy gain", aim=0.01, better="higher"),
        Measure("labels", "accuracy", better="higher"),
        Measure("labels", "accuracy, supervised only", better="higher"),
    ), settings={"hidden": 200, "alpha": 1.0}, reading={"labelled": 100},
        training={"steps": 1500, "batch_size": 50, "validate_every": 0}, cost="1 min, one core"),
    # Boltzmann machines of images: of filters, and on the grid of pixels
    Recipe("conv_rbm_digits", "conv_rbm", "digits", (Measure(),), settings={"filters": 24, "padding": 2},
           training={"steps": 3000, "validate_every": 0}, condition="none", cost="4 min, one core"),
    Recipe("cdbn_digits", "cdbn", "digits", (Measure(),),
           training={"steps": 4000, "validate_every": 0}, condition="none", cost="4 min, one core"),
    Recipe("structured_boltzmann_digits", "structured_boltzmann", "digits", (Measure(),), settings={"form": "free"},
           training={"steps": 2000, "validate_every": 0}, condition="none", cost="3 min, one core"),
    Recipe("conv_rbm_mnist", "conv_rbm", "mnist_binarized", (Measure(),), settings={"filters": 24, "kernel": 7},
           training={"epochs": 5, "validate_every": 0}, cost="30 min, one core"),
    # Boltzmann machines over series
    Recipe("rnn_rbm_chorales", "rnn_rbm", "jsb_chorales", frames(7.5, 6.27, "arXiv:1206.6392"),
           settings=_SOUNDING, reading={"whole": True}, training={"steps": 800, "learning_rate": 6e-3},
           cost="5 min, one core"),
    Recipe("rtrbm_chorales", "rtrbm", "jsb_chorales", frames(7.5, 6.35, "arXiv:1206.6392"),
           settings=_SOUNDING, reading={"whole": True}, training={"steps": 400, "learning_rate": 3e-2},
           cost="4 min, one core"),
    Recipe("trbm_chorales", "trbm", "jsb_chorales", (Measure("frame_nll"),), settings=_SOUNDING,
           reading={"whole": True}, training={"steps": 400, "learning_rate": 3e-2}, cost="6 min, one core"),
    Recipe("temporal_crbm_chorales", "temporal_crbm", "jsb_chorales", (Measure("frame_nll"),), settings=_SOUNDING,
           reading={"whole": True}, training={"steps": 400, "learning_rate": 2e-2}, cost="4 min, one core"),
)  # fmt: skip
