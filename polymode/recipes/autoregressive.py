"""Recipes of autoregressive and sequence models."""

from __future__ import annotations

from polymode.recipes.base import Measure, Recipe, characters, frames

_NADE_PAPER = "arXiv:1605.02226, table 2"
_PIXELS = "arXiv:1606.05328, table 4"
_NANOGPT = "nanoGPT README, the same size, context and steps"
_RNN_NADE = "arXiv:1206.6392, table 1"


def _bits(aim: float | None, published: float | None, source: str) -> tuple[Measure, ...]:
    """Test nats of binarised images."""
    return (Measure(aim=aim, published=published, source=source), Measure(split="valid"))


def _pairs(aim: float, row: str = "exact match") -> tuple[Measure, ...]:
    """Targets of 1,000 sources, the likeliest of each."""
    return tuple(
        Measure("pairs", name, options={"temperature": 0.0}, aim=aim if name == row else None, better="higher")
        for name in ("exact match", "ROUGE-1")
    )


RECIPES: tuple[Recipe, ...] = (
    # images of bits
    Recipe("fvsbn_mnist", "fvsbn", "mnist_binarized", _bits(98.0, 97.45, _NADE_PAPER), cost="1 min, one core",
           training={"epochs": 8, "batch_size": 200, "learning_rate": 5e-3}),
    Recipe("nade_mnist", "nade", "mnist_binarized", _bits(89.5, 88.33, _NADE_PAPER), cost="50 min, one core",
           training={"epochs": 15}),
    Recipe("made_mnist", "made", "mnist_binarized", _bits(88.5, 86.64, "arXiv:1502.03509, table 6"),
           settings={"hidden": (8000,)}, cost="20 min, one core",
           training={"epochs": 12, "batch_size": 200, "learning_rate": 1e-3, "ema": 0.995}),
    Recipe("pixelcnn_mnist", "pixelcnn", "mnist_binarized", _bits(82.5, 81.30, _PIXELS),
           settings={"width": 24, "layers": 5}, training={"steps": 20_000, "batch_size": 8, "warmup": 50},
           cost="30 min, one core"),
    Recipe("pixelrnn_mnist", "pixelrnn", "mnist_binarized", _bits(83.0, 79.20, "arXiv:1601.06759, table 4"),
           settings={"width": 32, "layers": 2}, training={"steps": 9000, "learning_rate": 5e-3, "warmup": 50},
           cost="60 min, one core"),
    # texts
    Recipe("ngram_shakespeare", "ngram", "tinyshakespeare", characters(None), cost="10 s, one core"),
    Recipe("gru_shakespeare", "gru", "tinyshakespeare", characters(1.75), cost="5 min, one core",
           training={"minutes": 5}),
    Recipe("gpt_shakespeare", "gpt", "tinyshakespeare", characters(1.85, 1.88, _NANOGPT), cost="11 min, one core",
           training={"steps": 2000}),
    Recipe("bert_shakespeare", "bert", "tinyshakespeare", (
        Measure("masked"),
        Measure("words", "known words of 3 letters or less", aim=0.95, better="higher", n=500,
                options={"method": "mask_predict", "steps": 64, "temperature": 0.5}),
    ), settings={"layers": 3}, reading={"length": 32}, training={"steps": 2600}, cost="7 min, one core"),
    # sound: FLAC writes the same 8-bit codes of the test clips in 4.99 bits a sample
    Recipe("wavenet_fsdd", "wavenet", "fsdd", (
        Measure(unit="bits/symbol", aim=4.99), Measure("recognised", n=300, aim=0.5, better="higher"),
    ), settings={"layers": 11}, training={"steps": 8000, "batch_size": 2, "learning_rate": 3e-3, "validate_every": 0},
        cost="30 min, one core"),
    # music
    Recipe("rnn_nade_chorales", "rnn_nade", "jsb_chorales", (
        *frames(6.5, 5.56, _RNN_NADE), Measure("music"),
    ), reading={"whole": True}, training={"steps": 330}, cost="1 min, one core"),
    Recipe("rnn_chorales", "rnn_nade", "jsb_chorales", frames(8.5, 8.71, f"{_RNN_NADE}, RNN"),
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
    Recipe("scene_dialogues", "transformer", "scene_dialogues", _pairs(0.85), settings={"copy": True, "layers": 3},
           training={"steps": 9000, "learning_rate": 1e-3}, cost="15 min, one core"),
)  # fmt: skip
