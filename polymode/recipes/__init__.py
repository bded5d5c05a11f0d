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


_NADE_PAPER = "arXiv:1605.02226, table 2"
_PIXELS = "arXiv:1606.05328, table 4"
_NANOGPT = "nanoGPT README, the same size, context and steps"

_RNN_NADE = "arXiv:1206.6392, table 1"

RECIPES: tuple[Recipe, ...] = (
    # images of bits
    Recipe("fvsbn_mnist", "fvsbn", "mnist_binarized", _bits(98.0, 97.45, _NADE_PAPER), cost="1 min, one core",
           training={"epochs": 8, "batch_size": 200, "learning_rate": 5e-3}),
    Recipe("nade_mnist", "nade", "mnist_binarized", _bits(89.5, 88.33, _NADE_PAPER), cost="40 min, one core",
           training={"minutes": 40}),
    Recipe("made_mnist", "made", "mnist_binarized", _bits(88.5, 86.64, "arXiv:1502.03509, table 6"),
           cost="20 min, one core", training={"minutes": 20}),
    Recipe("pixelcnn_mnist", "pixelcnn", "mnist_binarized", _bits(82.5, 81.30, _PIXELS),
           settings={"width": 24, "layers": 5}, training={"minutes": 20, "batch_size": 8, "warmup": 50},
           cost="20 min, one core"),
    Recipe("pixelrnn_mnist", "pixelrnn", "mnist_binarized", _bits(83.0, 79.20, "arXiv:1601.06759, table 4"),
           settings={"width": 32, "layers": 2}, training={"minutes": 20, "learning_rate": 5e-3, "warmup": 50},
           cost="20 min, one core"),
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
    ), settings={"layers": 11}, training={"minutes": 25, "batch_size": 2, "learning_rate": 3e-3, "validate_every": 0},
        cost="25 min, one core"),
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
)  # fmt: skip


def find(name: str) -> Recipe:
    """The recipe of a name, or an error that names the nearest."""
    from polymode.core.errors import PolymodeError, nearest

    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    names = [recipe.name for recipe in RECIPES]
    raise PolymodeError(f"there is no recipe {name!r}{nearest(name, names) or '; recipes are: ' + ', '.join(names)}")
