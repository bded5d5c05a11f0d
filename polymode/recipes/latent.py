"""Recipes of models with codes, few labels, directed nets and chains."""

from __future__ import annotations

from typing import Any

from polymode.recipes.base import Measure, Recipe, bound, characters, frames

_IWAE = "arXiv:1509.00519, table 1"
_CODE: dict[str, Any] = {"latent_dims": 10, "hidden": (128,)}
#: of 28x28 bits
_CONV: dict[str, Any] = {"network": "conv", "hidden": (16, 32, 64), "latent_dims": 32}
_CONV_TRAINING: dict[str, Any] = {"steps": 8000, "batch_size": 100, "learning_rate": 2e-3}
_SPRITES: dict[str, Any] = {"steps": 900, "batch_size": 64, "learning_rate": 4e-3}
_ASIA = (
    ("asia", "tub"), ("smoke", "lung"), ("smoke", "bronc"), ("tub", "either"), ("lung", "either"), ("either", "xray"),
    ("either", "dysp"), ("bronc", "dysp"),
)  # fmt: skip


def _disentangled() -> tuple[Measure, ...]:
    """How far dimensions of the code stand for the factors that the pictures were drawn from."""
    return tuple(Measure("disentanglement", row, better="higher") for row in ("MIG", "FactorVAE score", "SAP"))


RECIPES: tuple[Recipe, ...] = (
    # codes: images of bits
    Recipe("vae_mnist", "vae", "mnist_binarized", (bound(aim=89.0), bound(samples=1)),
           settings={"latent_dims": 50, "hidden": (500, 500), "activation": "tanh"},
           training={"epochs": 60, "learning_rate": 1e-3}, cost="8 min, one core"),
    Recipe("vamp_mnist", "vae", "mnist_binarized", (
        bound(aim=89.0, published=85.57, source="arXiv:1705.07120, table 1"), bound(samples=1),
    ), settings={"latent_dims": 40, "hidden": (300, 300), "prior": "vamp", "prior_size": 200},
        training={"epochs": 60, "batch_size": 200, "learning_rate": 2e-3}, cost="15 min, one core"),
    Recipe("iwae_mnist", "vae", "mnist_binarized", (bound(samples=100, aim=87.5), bound(samples=1)),
           settings=_CONV | {"num_samples": 50, "elbo_steps": 32_000},
           training={"steps": 34_500, "batch_size": 25, "learning_rate": 1e-3, "ema": 0.999, "validate_every": 4000},
           cost="45 min, one core"),
    Recipe("conv_vae_mnist", "vae", "mnist_binarized", (bound(samples=100, aim=89.0), bound(samples=1)),
           settings=_CONV, training=_CONV_TRAINING, cost="12 min, one core"),
    Recipe("vae_mnist_dynamic", "vae", "mnist_dynamic", (
        bound(samples=100, aim=87.5, published=86.76, source=f"{_IWAE}, 1 layer of perceptrons, k = 1"),
        bound(samples=1),
    ), settings=_CONV, training=_CONV_TRAINING, condition="none", cost="12 min, one core"),
    Recipe("iaf_mnist_dynamic", "vae", "mnist_dynamic", (bound(samples=100, aim=87.5), bound(samples=1)),
           settings=_CONV | {"posterior": "iaf"}, training=_CONV_TRAINING, condition="none", cost="15 min, one core"),
    Recipe("ladder_mnist", "ladder", "mnist_binarized", (bound(), bound(samples=1)),
           settings={"latent_dims": (64, 32), "hidden": (512, 256), "anneal": 20_000, "free_bits": 0.5},
           training={"epochs": 120, "batch_size": 100, "learning_rate": 1e-3}, cost="35 min, one core"),
    Recipe("vdvae_mnist", "vdvae", "mnist_binarized", (bound(samples=50, aim=85.0), bound(samples=1)),
           settings={"blocks": (2, 6), "halvings": 2, "width": 64, "middle": 16, "latent_dims": 4, "anneal": 2000,
                     "free_bits": 0.1},
           training={"epochs": 12, "batch_size": 64, "learning_rate": 3e-3}, cost="40 min, one core"),
    Recipe("pixelvae_mnist", "pixelvae", "mnist_binarized", (
        bound(samples=5, aim=85.0, published=79.02, source="arXiv:1611.05013"), bound(samples=1),
    ), settings={"latent_dims": 32, "width": 24, "layers": 3, "anneal": 3000},
        training={"epochs": 4, "batch_size": 16}, cost="40 min, one core"),
    # codes: what they stand for
    Recipe("vae_sprites", "vae", "sprites", _disentangled(), settings=_CODE, training=_SPRITES, seeds=3,
           cost="2 min, one core"),
    Recipe("beta_vae_sprites", "vae", "sprites", _disentangled(), settings=_CODE | {"beta": 4.0}, training=_SPRITES,
           seeds=3, cost="2 min, one core"),
    Recipe("beta_tcvae_sprites", "beta_tcvae", "sprites", _disentangled(),
           settings=_CODE | {"beta": 6.0, "data_rows": 6912}, training=_SPRITES, cost="2 min, one core"),
    Recipe("factor_vae_sprites", "factor_vae", "sprites", _disentangled(), settings=_CODE | {"gamma": 30.0},
           training=_SPRITES, cost="2 min, one core"),
    # codes: of sequences, and of symbols
    Recipe("dmm_chorales", "dmm", "jsb_chorales", (
        *frames(7.2, 6.93, "arXiv:1609.09869"), Measure("frame_nll", "frame NLL, FIVO-16"),
    ), settings={"charge_silence": False, "anneal": 800}, reading={"whole": True},
        training={"steps": 2400, "learning_rate": 5e-3, "batch_size": 20}, cost="6 min, one core"),
    Recipe("sequence_vae_shakespeare", "sequence_vae", "tinyshakespeare", characters(None),
           settings={"free_bits": 0.2}, training={"minutes": 5}, cost="5 min, one core"),
    Recipe("vqvae_emoji", "vqvae", "emoji", (
        Measure("codebook", "codebook use", aim=0.8, better="higher"),
        Measure("codebook", "reconstruction PSNR", better="higher"),
        Measure(unit="bits/symbol"),
    ), settings={"prior_options": {"width": 96, "layers": 3, "dropout": 0.1}}, training={"steps": 8000},
        condition="none", cost="20 min, one core"),
    Recipe("vqvae2_emoji", "vqvae2", "emoji", (
        Measure("codebook", "codebook use (top)", aim=0.8, better="higher"),
        Measure("codebook", "codebook use (bottom)", aim=0.8, better="higher"),
        Measure(unit="bits/symbol"),
    ), settings={"prior_options": {"width": 64, "layers": 2, "dropout": 0.1},
                 "bottom_prior_options": {"width": 96, "dropout": 0.1}},
        training={"minutes": 20}, condition="none", cost="20 min, one core"),
    Recipe("mae_digits", "mae", "digits", (Measure(unit="bits/symbol"),),
           settings={"width": 64, "layers": 2, "decoder_width": 32, "decoder_layers": 1, "mask_ratio": 0.75,
                     "levels_as": "logistic", "components": 2},
           training={"steps": 1500, "learning_rate": 3e-3}, cost="1 min, one core"),
    # few labels
    Recipe("m2_digits", "m2", "digits", (
        Measure("labels", "accuracy gain", aim=0.05, better="higher"),
        Measure("labels", "accuracy", better="higher"),
        Measure("labels", "accuracy, supervised only", better="higher"),
    ), settings={"hidden": (128,), "latent_dims": 10, "levels_as": "logistic", "components": 1, "alpha": 30.0},
        reading={"labelled": 50}, seeds=5,
        training={"steps": 4000, "batch_size": 32, "learning_rate": 3e-3, "validate_every": 0},
        cost="30 s, one core"),
    # directed nets
    Recipe("sbn_mnist", "sbn", "mnist_binarized", (bound(aim=100.0), bound(samples=1)),
           settings={"hidden": (200, 200, 10)}, training={"epochs": 60, "learning_rate": 5e-3},
           cost="20 min, one core"),
    Recipe("helmholtz_mnist", "sbn", "mnist_binarized", (bound(), bound(samples=1)),
           settings={"hidden": (200, 200, 10), "estimator": "wake_sleep"}, training={"epochs": 60},
           cost="20 min, one core"),
    Recipe("darn_mnist", "darn", "mnist_binarized", (
        bound(aim=90.0, published=84.13, source="arXiv:1310.8499"), bound(samples=1),
    ), settings={"free_nats": 20.0}, training={"epochs": 60, "learning_rate": 3e-3}, cost="15 min, one core"),
    Recipe("bayes_net_asia", "bayes_net", "asia", (Measure("density_kl", aim=0.01), Measure()),
           settings={"edges": _ASIA}, training={"steps": 1500}, cost="20 s, one core"),
)  # fmt: skip
