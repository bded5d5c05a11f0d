"""Which function loads which named set: every name of the index, its module and its function.

The index is data and imports nothing; this table is where names become functions, imported when one is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from polymode.core.errors import require_choice
from polymode.data.dataset import DataSet

_TOYS, _SETS = "polymode.data.toys:load_toy", "polymode.data.sets"

LOADERS: dict[str, str] = {
    **dict.fromkeys(("8gaussians", "25gaussians", "moons", "checkerboard", "pinwheel", "spirals"), _TOYS),
    "sprites": f"{_SETS}.sprites:sprites",
    "copy": f"{_SETS}.pairs:copy",
    "reverse": f"{_SETS}.pairs:reverse",
    "dates": f"{_SETS}.pairs:dates",
    "grammar_translation": f"{_SETS}.grammar:grammar_translation",
    "scene_dialogues": f"{_SETS}.scenes:scene_dialogues",
    "scene_captions": f"{_SETS}.scenes:scene_captions",
    "expressions": f"{_SETS}.expressions:expressions",
    "digits": f"{_SETS}.pictures:digits",
    "mnist": f"{_SETS}.pictures:mnist",
    "mnist_binarized": f"{_SETS}.pictures:mnist_binarized",
    "mnist_tinted": f"{_SETS}.tinted:mnist_tinted",
    "mnist_dynamic": f"{_SETS}.pictures:mnist_dynamic",
    "fashion_mnist": f"{_SETS}.pictures:fashion_mnist",
    "cifar10": f"{_SETS}.pictures:cifar10",
    "orl_faces": f"{_SETS}.pictures:orl_faces",
    "emoji": f"{_SETS}.pictures:emoji",
    "emoji_keywords": f"{_SETS}.pictures:emoji_keywords",
    "emoji_vendors": f"{_SETS}.translation:emoji_vendors",
    "emoji_lines": f"{_SETS}.translation:emoji_lines",
    "emoji_styles": f"{_SETS}.translation:emoji_styles",
    "adult": f"{_SETS}.tables:adult",
    "california_housing": f"{_SETS}.tables:california_housing",
    "wine_quality": f"{_SETS}.tables:wine_quality",
    "asia": f"{_SETS}.networks:asia",
    "tinyshakespeare": f"{_SETS}.sequences:tinyshakespeare",
    "kjv_bible": f"{_SETS}.sequences:kjv_bible",
    "qm9_smiles": f"{_SETS}.sequences:molecules",
    "zinc_smiles": f"{_SETS}.sequences:molecules",
    "protein_pf00014": f"{_SETS}.sequences:protein",
    "vglc_levels": f"{_SETS}.sequences:vglc_levels",
    "jsb_chorales": f"{_SETS}.series:jsb_chorales",
    "ts_google_stock": f"{_SETS}.series:google_stock",
    "ts_etth1": f"{_SETS}.series:etth1",
    "ts_exchange_rate": f"{_SETS}.series:exchange_rate",
    "ts_ecg200": f"{_SETS}.series:ecg200",
    "ts_ecg5000": f"{_SETS}.series:ecg5000",
    "fsdd": f"{_SETS}.sounds:fsdd",
    "speech_prompts": f"{_SETS}.sounds:speech_prompts",
}


def loader_of(name: str) -> Callable[..., DataSet]:
    """The function that loads a set; it takes the name, and the set's options by keyword."""
    require_choice("data set", name, LOADERS)
    module, function = LOADERS[name].split(":")
    loader: Callable[..., DataSet] = getattr(importlib.import_module(module), function)
    return loader
