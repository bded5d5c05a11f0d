"""Signatures of the package are shape-checked under test only."""

import os

import torch
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)
_hook = install_import_hook("polymode.core", "beartype.beartype")
_parts = install_import_hook("polymode.parts", "beartype.beartype")
