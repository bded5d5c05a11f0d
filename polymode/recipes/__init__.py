"""Which model, on which data, at what cost, to which number: the table that `polymode reproduce` runs.

Pure data that imports nothing heavy. A recipe is what `polymode fit` would be told, what is measured, the number that
it has to reach and the one that its paper reports. What was obtained is in results/<recipe>.json, one file a recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

#: what a likelihood is given in: nats a datum, nats a symbol, bits a symbol (a dimension of the datum)
Unit = Literal["nats", "nats/symbol", "bits/symbol"]


@dataclass(frozen=True)
class Measure:
    """One thing that is measured of a run.

    Args:
        metric: "likelihood", or the name of a metric as `polymode evaluate --metric` takes it.
        row: the metric's row, where it has several; the first where not said.
        unit: of a likelihood.
        split: of a likelihood, measured on all of its rows.
        n: samples of a metric.
        options: of sampling.
        num_samples: importance samples of a bound; None for the model's default.
        aim: the number that has to be reached; None for one that stands beside.
        better: which side of it.
        published: what the source reports, on its own protocol.
        source: of that number.
    """

    metric: str = "likelihood"
    row: str = ""
    unit: Unit = "nats"
    split: Literal["valid", "test"] = "test"
    n: int = 1000
    options: dict[str, Any] = field(default_factory=dict)
    num_samples: int | None = None
    aim: float | None = None
    better: Literal["lower", "higher"] = "lower"
    published: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Recipe:
    """A training and what is measured of it.

    Args:
        name: also of its file in results/ and its folder in runs/recipes/.
        model, settings: what `create` takes.
        data, reading: what `data.load` takes.
        training: what `fit` takes.
        condition: as `polymode fit --condition`.
        cost: about how long, on what.
    """

    name: str
    model: str
    data: str
    measures: tuple[Measure, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    reading: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    condition: Literal["auto", "none", "label"] = "auto"
    cost: str = ""


def _bits(aim: float | None, published: float | None, source: str) -> tuple[Measure, ...]:
    """Test nats of binarised images."""
    return (Measure(aim=aim, published=published, source=source), Measure(split="valid"))


def _characters(aim: float | None, published: float | None = None, source: str = "") -> tuple[Measure, ...]:
    """Nats a character, the validation text first, as the published numbers are."""
    return (
        Measure(unit="nats/symbol", split="valid", aim=aim, published=published, source=source),
        Measure(unit="nats/symbol"),
        Measure("perplexity"),
    )


def _pairs(aim: float, row: str = "exact match") -> tuple[Measure, ...]:
    """Targets of 1,000 sources, the likeliest of each."""
    return tuple(
        Measure("pairs", name, options={"temperature": 0.0}, aim=aim if name == row else None, better="higher")
        for name in ("exact match", "ROUGE-1")
    )


def _frames(aim: float, published: float, source: str) -> tuple[Measure, ...]:
    """Nats a frame of whole pieces."""
    return (Measure("frame_nll", aim=aim, published=published, source=source),)


def _bound(split: Literal["valid", "test"] = "test", samples: int = 1000, **told: Any) -> Measure:
    """Nats of the importance-weighted bound."""
    return Measure(split=split, num_samples=samples, **told)


def _disentangled() -> tuple[Measure, ...]:
    """How far dimensions of the code stand for the factors that the pictures were drawn from."""
    return tuple(Measure("disentanglement", row, better="higher") for row in ("MIG", "FactorVAE score", "SAP"))


def _enlarged(aim: float | None = None) -> tuple[Measure, ...]:
    """Pictures of 32 pixels from 16, beside bicubic enlargement, and as such that shrink back."""
    return (
        Measure("resolution", "PSNR over bicubic", aim=aim, better="higher"),
        Measure("resolution", "PSNR", better="higher"),
        Measure("resolution", "SSIM over bicubic", better="higher"),
        Measure("resolution", "consistency", options={"project": True}, aim=40.0, better="higher"),
    )


_NADE_PAPER = "arXiv:1605.02226, table 2"
_PIXELS = "arXiv:1606.05328, table 4"
_NANOGPT = "nanoGPT README, the same size, context and steps"

_RNN_NADE = "arXiv:1206.6392, table 1"
_IWAE = "arXiv:1509.00519, table 1"
_CODE: dict[str, Any] = {"latent_dims": 10, "hidden": (128,)}
_SPRITES: dict[str, Any] = {"steps": 900, "batch_size": 64, "learning_rate": 4e-3}
_ASIA = (
    ("asia", "tub"), ("smoke", "lung"), ("smoke", "bronc"), ("tub", "either"), ("lung", "either"), ("either", "xray"),
    ("either", "dysp"), ("bronc", "dysp"),
)  # fmt: skip


def _toys(model: str, aims: dict[str, float], settings: dict[str, dict[str, Any]], **told: Any) -> tuple[Recipe, ...]:
    """Nats from two-dimensional densities that are known."""
    return tuple(
        Recipe(f"{model}_{toy}", model, toy, (Measure("density_kl", aim=aim), Measure()),
               settings=settings.get(toy, {}), **told)
        for toy, aim in aims.items()
    )  # fmt: skip


def _tables(models: dict[str, dict[str, Any]]) -> tuple[Recipe, ...]:
    """Several densities of tables of numbers, under one protocol."""
    return tuple(
        Recipe(f"{model}_{table}", model, data, (Measure(num_samples=16),), reading=reading, training=training,
               condition="none", cost="1 min, one core")
        for table, data, reading in _NUMBERS for model, training in models.items()
    )  # fmt: skip


#: name, set and how it is read: the columns that are numbers
_NUMBERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("wine", "wine_quality", {}), ("housing", "california_housing", {"missing": "drop"}),
)  # fmt: skip
_FLOW: dict[str, Any] = {"steps": 1500, "learning_rate": 2e-3}

RECIPES: tuple[Recipe, ...] = (
    # images of bits
    Recipe("fvsbn_mnist", "fvsbn", "mnist_binarized", _bits(98.0, 97.45, _NADE_PAPER), cost="1 min, one core",
           training={"epochs": 8, "batch_size": 200, "learning_rate": 5e-3}),
    Recipe("nade_mnist", "nade", "mnist_binarized", _bits(89.5, 88.33, _NADE_PAPER), cost="40 min, one core",
           training={"epochs": 15}),
    Recipe("made_mnist", "made", "mnist_binarized", _bits(88.5, 86.64, "arXiv:1502.03509, table 6"),
           settings={"hidden": (8000,)}, cost="20 min, one core",
           training={"epochs": 12, "batch_size": 200, "learning_rate": 1e-3, "ema": 0.995}),
    Recipe("pixelcnn_mnist", "pixelcnn", "mnist_binarized", _bits(82.5, 81.30, _PIXELS),
           settings={"width": 24, "layers": 5}, training={"steps": 20_000, "batch_size": 8, "warmup": 50},
           cost="30 min, one core"),
    Recipe("pixelrnn_mnist", "pixelrnn", "mnist_binarized", _bits(83.0, 79.20, "arXiv:1601.06759, table 4"),
           settings={"width": 32, "layers": 2}, training={"steps": 9000, "learning_rate": 5e-3, "warmup": 50},
           cost="30 min, one core"),
    # texts
    Recipe("ngram_shakespeare", "ngram", "tinyshakespeare", _characters(None), cost="10 s, one core"),
    Recipe("gru_shakespeare", "gru", "tinyshakespeare", _characters(1.75), cost="5 min, one core",
           training={"minutes": 5}),
    Recipe("gpt_shakespeare", "gpt", "tinyshakespeare", _characters(1.85, 1.88, _NANOGPT), cost="11 min, one core",
           training={"steps": 2000}),
    Recipe("bert_shakespeare", "bert", "tinyshakespeare", (
        Measure("masked"),
        Measure("words", "known words of 3 letters or less", aim=0.95, better="higher", n=500,
                options={"method": "mask_predict", "steps": 32, "temperature": 0.7}),
    ), settings={"layers": 3}, reading={"length": 32}, training={"minutes": 8}, cost="8 min, one core"),
    # sound: FLAC writes the same 8-bit codes of the test clips in 4.99 bits a sample
    Recipe("wavenet_fsdd", "wavenet", "fsdd", (
        Measure(unit="bits/symbol", aim=4.99), Measure("recognised", n=300, aim=0.5, better="higher"),
    ), settings={"layers": 11}, training={"steps": 8000, "batch_size": 2, "learning_rate": 3e-3, "validate_every": 0},
        cost="30 min, one core"),
    # music
    Recipe("rnn_nade_chorales", "rnn_nade", "jsb_chorales", (
        *_frames(6.5, 5.56, _RNN_NADE), Measure("music"),
    ), reading={"whole": True}, training={"steps": 330}, cost="1 min, one core"),
    Recipe("rnn_chorales", "rnn_nade", "jsb_chorales", _frames(8.5, 8.71, f"{_RNN_NADE}, RNN"),
           settings={"emission": "independent"}, reading={"whole": True},
           training={"steps": 400, "learning_rate": 3e-3}, cost="1 min, one core"),
    Recipe("rnn_nade_voices", "rnn_nade", "jsb_chorales", (
        Measure("frame_nll"), Measure("music", "voice crossing"), Measure("music", "one note a voice"),
    ), reading={"whole": True, "voices": True}, training={"steps": 400}, cost="2 min, one core"),
    # pairs of a source and a target
    Recipe("copy", "transformer", "copy", _pairs(1.0), training={"minutes": 2}, cost="2 min, one core"),
    Recipe("reverse", "transformer", "reverse", _pairs(0.99), training={"minutes": 2}, cost="2 min, one core"),
    Recipe("dates", "transformer", "dates", _pairs(0.95), training={"minutes": 2}, cost="2 min, one core"),
    Recipe("grammar_translation", "transformer", "grammar_translation", _pairs(0.95), training={"minutes": 2},
           cost="2 min, one core"),
    Recipe("scene_captions", "transformer", "scene_captions", _pairs(0.7, "ROUGE-1"), settings={"copy": True},
           training={"minutes": 3}, cost="3 min, one core"),
    Recipe("scene_dialogues", "transformer", "scene_dialogues", _pairs(0.85), settings={"copy": True},
           training={"minutes": 8}, cost="8 min, one core"),
    # codes: images of bits
    Recipe("vae_mnist", "vae", "mnist_binarized", (_bound(aim=89.0), _bound(samples=1)),
           settings={"latent_dims": 50, "hidden": (500, 500), "activation": "tanh"},
           training={"epochs": 60}, cost="8 min, one core"),
    Recipe("vamp_mnist", "vae", "mnist_binarized", (
        _bound(aim=89.0, published=85.57, source="arXiv:1705.07120, table 1"), _bound(samples=1),
    ), settings={"latent_dims": 40, "hidden": (300, 300), "prior": "vamp", "prior_size": 200},
        training={"epochs": 60, "batch_size": 200, "learning_rate": 2e-3}, cost="15 min, one core"),
    Recipe("iwae_mnist", "vae", "mnist_binarized", (_bound(aim=87.5), _bound(samples=1)),
           settings={"latent_dims": 50, "hidden": (200, 200), "activation": "tanh", "num_samples": 50},
           training={"epochs": 20}, cost="60 min, one core"),
    Recipe("vae_mnist_dynamic", "vae", "mnist_dynamic", (
        _bound(aim=87.5, published=86.76, source=f"{_IWAE}, 1 layer, k = 1"), _bound(samples=1),
    ), settings={"latent_dims": 50, "hidden": (500, 500), "activation": "tanh"}, training={"epochs": 100},
        cost="12 min, one core"),
    Recipe("iaf_mnist_dynamic", "vae", "mnist_dynamic", (_bound(), _bound(samples=1)),
           settings={"latent_dims": 50, "hidden": (500, 500), "activation": "tanh", "posterior": "iaf"},
           training={"epochs": 100}, cost="25 min, one core"),
    Recipe("ladder_mnist", "ladder", "mnist_binarized", (_bound(), _bound(samples=1)),
           settings={"latent_dims": (64, 32), "hidden": (512, 256), "anneal": 20_000, "free_bits": 0.5},
           training={"epochs": 120, "batch_size": 100, "learning_rate": 1e-3}, cost="35 min, one core"),
    Recipe("vdvae_mnist", "vdvae", "mnist_binarized", (_bound(samples=50, aim=85.0), _bound(samples=1)),
           settings={"blocks": (2, 6), "halvings": 2, "width": 64, "middle": 16, "latent_dims": 4, "anneal": 2000,
                     "free_bits": 0.1},
           training={"epochs": 12, "batch_size": 64, "learning_rate": 3e-3}, cost="40 min, one core"),
    Recipe("pixelvae_mnist", "pixelvae", "mnist_binarized", (
        _bound(samples=50, aim=85.0, published=79.02, source="arXiv:1611.05013"), _bound(samples=1),
    ), settings={"latent_dims": 32, "width": 24, "layers": 3, "anneal": 3000},
        training={"epochs": 4, "batch_size": 16}, cost="40 min, one core"),
    # codes: what they stand for
    Recipe("vae_sprites", "vae", "sprites", _disentangled(), settings=_CODE, training=_SPRITES, cost="2 min, one core"),
    Recipe("beta_vae_sprites", "vae", "sprites", _disentangled(), settings=_CODE | {"beta": 4.0}, training=_SPRITES,
           cost="2 min, one core"),
    Recipe("beta_tcvae_sprites", "beta_tcvae", "sprites", _disentangled(),
           settings=_CODE | {"beta": 6.0, "data_rows": 6912}, training=_SPRITES, cost="2 min, one core"),
    Recipe("factor_vae_sprites", "factor_vae", "sprites", _disentangled(), settings=_CODE | {"gamma": 30.0},
           training=_SPRITES, cost="2 min, one core"),
    # codes: of sequences, and of symbols
    Recipe("dmm_chorales", "dmm", "jsb_chorales", (
        *_frames(7.2, 6.93, "arXiv:1609.09869"), Measure("frame_nll", "frame NLL, FIVO-16"),
    ), settings={"charge_silence": False, "anneal": 800}, reading={"whole": True},
        training={"steps": 2400, "learning_rate": 5e-3, "batch_size": 20}, cost="6 min, one core"),
    Recipe("sequence_vae_shakespeare", "sequence_vae", "tinyshakespeare", _characters(None),
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
    # pictures given pictures
    Recipe("pix2pix_emoji", "pix2pix", "emoji_lines", (
        Measure("translation", "L1 over copying", n=190, aim=0.7), Measure("translation", "L1", n=190),
        Measure("translation", "gap over copying", n=190),
    ), settings={"widths": (16, 32, 64), "channels": 24},
        training={"steps": 4000, "batch_size": 16, "learning_rate": 1e-3, "validate_every": 0},
        cost="10 min, one core"),
    # the same emoji is nearest by chance in one of 190
    Recipe("cyclegan_emoji", "cyclegan", "emoji_vendors", (
        Measure("translation", "own nearest", n=190, aim=3 / 190, better="higher"),
        Measure("translation", "cycle L1", n=190, aim=0.1), Measure("translation", "gap over copying", n=190),
        Measure("translation", "L1 over copying", n=190),
    ), settings={"width": 16, "blocks": 3, "channels": 24, "halvings": 1, "cycle_weight": 3.0},
        training={"steps": 2400, "batch_size": 8, "learning_rate": 1e-3, "validate_every": 0},
        cost="15 min, one core"),
    Recipe("srresnet_cifar", "srgan", "cifar10", _enlarged(aim=0.5), reading={"shrink": 2},
           settings={"width": 24, "blocks": 3, "adversarial_weight": 0.0},
           training={"steps": 5000, "batch_size": 16, "learning_rate": 2e-3, "validate_every": 0},
           cost="10 min, one core"),
    Recipe("srgan_cifar", "srgan", "cifar10", _enlarged(), reading={"shrink": 2},
           settings={"width": 24, "blocks": 3, "channels": 16},
           training={"steps": 5000, "batch_size": 16, "learning_rate": 1e-3, "validate_every": 0},
           cost="10 min, one core"),
    Recipe("stargan_emoji", "stargan", "emoji_styles", (
        Measure("recognised", n=500, aim=0.8, better="higher"), Measure("kid", n=500),
    ), settings={"width": 16, "blocks": 3, "channels": 24, "critic_steps": 2},
        training={"steps": 3000, "batch_size": 8, "learning_rate": 1e-3, "validate_every": 0},
        cost="15 min, one core"),
    # few labels
    Recipe("m2_digits", "m2", "digits", (
        Measure("labels", "accuracy gain", aim=0.05, better="higher"),
        Measure("labels", "accuracy", better="higher"),
        Measure("labels", "accuracy, supervised only", better="higher"),
    ), settings={"hidden": (128,), "latent_dims": 3, "levels_as": "logistic", "components": 1},
        reading={"labelled": 50},
        training={"steps": 3000, "batch_size": 32, "learning_rate": 3e-3, "validate_every": 0},
        cost="1 min, one core"),
    # flows and classical densities
    *_toys("nsf", {"moons": 0.05, "pinwheel": 0.05, "8gaussians": 0.05, "checkerboard": 0.1},
           {"checkerboard": {"bound": 3.0, "bins": 16}}, training={"steps": 1500}, cost="1 min, one core"),
    *_toys("ffjord", {"moons": 0.05, "pinwheel": 0.05, "8gaussians": 0.05, "checkerboard": 0.1}, {},
           training={"steps": 1500, "learning_rate": 1e-2}, cost="5 min, one core"),
    *_tables({"gaussian": {}, "gmm": {}, "kde": {}, "realnvp": _FLOW, "maf": _FLOW, "nsf": _FLOW}),
    *(Recipe(f"{model}_digits", model, "digits", (Measure(unit="bits/symbol", num_samples=1, aim=aim),),
             training={"steps": 2000}, condition="none", cost="3 min, one core")
      for model, aim in (("nice", None), ("realnvp", 5.0), ("glow", None))),
    Recipe("hmm_shakespeare", "hmm", "tinyshakespeare", _characters(None), reading={"length": 128, "stride": 128},
           settings={"max_iterations": 15, "restarts": 2}, cost="1 min, one core"),
    Recipe("chow_liu_asia", "chow_liu", "asia", (Measure("density_kl"), Measure()), cost="1 s, one core"),
    Recipe("ppca_digits", "ppca", "digits", (Measure(unit="bits/symbol"),), condition="none", cost="1 s, one core"),
    # directed nets
    Recipe("sbn_mnist", "sbn", "mnist_binarized", (_bound(aim=100.0), _bound(samples=1)),
           settings={"hidden": (200, 200, 10)}, training={"epochs": 60, "learning_rate": 5e-3},
           cost="20 min, one core"),
    Recipe("helmholtz_mnist", "sbn", "mnist_binarized", (_bound(), _bound(samples=1)),
           settings={"hidden": (200, 200, 10), "estimator": "wake_sleep"}, training={"epochs": 60},
           cost="20 min, one core"),
    Recipe("darn_mnist", "darn", "mnist_binarized", (
        _bound(aim=90.0, published=84.13, source="arXiv:1310.8499"), _bound(samples=1),
    ), settings={"free_nats": 20.0}, training={"epochs": 60, "learning_rate": 3e-3}, cost="15 min, one core"),
    Recipe("bayes_net_asia", "bayes_net", "asia", (Measure("density_kl", aim=0.01), Measure()),
           settings={"edges": _ASIA}, training={"steps": 1500}, cost="20 s, one core"),
)  # fmt: skip


def find(name: str) -> Recipe:
    """The recipe of a name, or an error that names the nearest."""
    from polymode.core.errors import PolymodeError, nearest

    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    names = [recipe.name for recipe in RECIPES]
    raise PolymodeError(f"there is no recipe {name!r}{nearest(name, names) or '; recipes are: ' + ', '.join(names)}")
