"""GPT-2's weights as the Hugging Face hub has them: a folder with config.json, model.safetensors and a tokenizer.

    here                           there, with or without "transformer." before it
    embedding, positions           wte, wpe                                            (the head is wte, too)
    transformer.blocks.I           h.I
      norm_1, norm_2                 ln_1, ln_2
      attention.qkv, attention.out   attn.c_attn, attn.c_proj                          weights transposed
      up, down                       mlp.c_fc, mlp.c_proj                              weights transposed
    transformer.norm               ln_f

`load_gpt2` and `save_gpt2` hold the two directions, `_names` the table. The logits are the same on both sides; a
sequence there has to begin with what `GPT2` reads before the first symbol ("<|endoftext|>"), as the model here does.
Pickles (pytorch_model.bin) are never read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymode.core import checkpoint
from polymode.core.errors import CheckpointError, DataError, PolymodeError
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec, Tokens
from polymode.core.spelling import ByteLevel, code_of
from polymode.data import tokenizer

CONFIG, WEIGHTS = "config.json", "model.safetensors"
GET_THEM = "GPT-2's weights are not shipped, get them with: hf download openai-community/gpt2 --local-dir gpt2"
#: what the architecture says, as their configuration spells it; another value is another function
FIXED: dict[str, Any] = {
    "model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False, "tie_word_embeddings": True, "add_cross_attention": False,
}  # fmt: skip
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
_PARTS = {
    "norm_1": "ln_1", "norm_2": "ln_2", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
    "up": "mlp.c_fc", "down": "mlp.c_proj",
}  # fmt: skip


def load_gpt2(folder: str | Path, *, spec: Spec | None = None) -> GenerativeModel:
    """The `GPT2` in a folder of the hub's layout, in evaluation mode, with its vocabulary and merges in its spec.

    Args:
        folder: config.json, model.safetensors, and vocab.json with merges.txt or tokenizer.json; without these the
            symbols have no spelling.
        spec: of the data it is to be trained further on, read with vocabulary=folder; None for windows of GPT-2's own
            length.

    Raises:
        CheckpointError: no such folder, files that are missing or damaged, or another architecture than GPT-2's.
        DataError: a tokenizer or data of another vocabulary.
    """
    folder = Path(folder).expanduser()
    config, tensors = _read_config(folder), _read_weights(folder)
    try:
        layers, levels, context = config["n_layer"], config["vocab_size"], config["n_positions"]
        arguments = {"width": config["n_embd"], "layers": layers, "heads": config["n_head"], "context": context}
    except KeyError as error:
        raise CheckpointError(f"{folder / CONFIG} says no {error}; restore it") from None
    own = _spec_of(folder, levels, context)
    if spec is not None:
        _check_data(spec, own, folder)
    start = config.get("bos_token_id")
    start = start if start is not None and start < levels else levels - 1
    model = checkpoint.create("gpt2", spec or own, **arguments, start=start, dropout=config.get("resid_pdrop", 0.0))
    try:
        model.load_state_dict(_renamed(tensors, layers, folder / WEIGHTS))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder / WEIGHTS} does not fit {CONFIG}: {reason}") from None
    return model.eval()


def save_gpt2(model: GenerativeModel, folder: str | Path) -> Path:
    """Write a `GPT2` so that ``transformers.GPT2LMHeadModel.from_pretrained(folder)`` reads it; returns the folder.

    A byte-level code goes to vocab.json and merges.txt; other vocabularies have no form there and are left out.

    Raises:
        PolymodeError: a model that is not a `GPT2`, or a folder that holds a run of polymode.
        CheckpointError: the folder can't be written.
    """
    from safetensors.torch import save_file

    folder = Path(folder).expanduser()
    if checkpoint.name_of(type(model)) != "gpt2":
        raise PolymodeError(f"a {type(model).__name__} came, and only a GPT2 has the layout of GPT-2's files")
    if is_run(folder):
        raise PolymodeError(f"{folder} holds a run of polymode, whose files would be lost; give another folder")
    state: dict[str, Tensor] = model.state_dict()
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("transformer.blocks."))
    tensors = {
        f"transformer.{theirs}": (state[ours].T if transposed else state[ours]).detach().cpu().contiguous().clone()
        for ours, theirs, transposed in _names(layers)
    }
    net: Any = model
    (context, width), dropout = net.positions.weight.shape, net.dropout.p
    config = FIXED | {
        "architectures": ["GPT2LMHeadModel"], "vocab_size": model.spec.levels, "n_positions": context,
        "n_ctx": context, "n_embd": width, "n_layer": layers,
        "n_head": net.transformer.blocks[0].attention.heads, "n_inner": None, "resid_pdrop": dropout,
        "embd_pdrop": dropout, "attn_pdrop": dropout, "bos_token_id": net.start,
        "eos_token_id": net.start, "dtype": str(model.dtype).removeprefix("torch."),
    }  # fmt: skip
    text = json.dumps(config, indent=1)
    if (code := code_of(model.spec)) is not None:
        tokenizer.write(code, folder)
    checkpoint.write_atomically(folder / WEIGHTS, lambda p: save_file(tensors, p, metadata={"format": "pt"}))
    checkpoint.write_atomically(folder / CONFIG, lambda p: p.write_text(text, encoding="utf-8"))
    return folder


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run of polymode, not a model of the hub's layout."""
    return (folder / CONFIG).is_file() and "format" in _json(folder / CONFIG)


def _names(layers: int) -> list[tuple[str, str, bool]]:
    """(name here, name there, transposed) of every tensor."""
    found = [("embedding.weight", "wte.weight"), ("positions.weight", "wpe.weight")]
    for kind in ("weight", "bias"):
        found.append((f"transformer.norm.{kind}", f"ln_f.{kind}"))
        for i in range(layers):
            found += [(f"transformer.blocks.{i}.{a}.{kind}", f"h.{i}.{b}.{kind}") for a, b in _PARTS.items()]
    return [(ours, theirs, theirs.endswith(_TRANSPOSED)) for ours, theirs in found]


def _renamed(tensors: dict[str, Tensor], layers: int, path: Path) -> dict[str, Tensor]:
    """Their tensors under the names here; masks that were saved with them are left out."""
    found = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    names = _names(layers)
    if absent := [theirs for _, theirs, _ in names if theirs not in found]:
        raise CheckpointError(f"{path} holds no {', '.join(absent[:3])}; it is not GPT-2's, or damaged")
    if not torch.equal(found.get("lm_head.weight", found["wte.weight"]), found["wte.weight"]):
        raise CheckpointError(f"{path} has a head of its own, GPT-2's is its embedding; it can't be taken")
    return {ours: (found[theirs].T if turned else found[theirs]).float() for ours, theirs, turned in names}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, expected a configuration; restore it")
    return found


def _read_config(folder: Path) -> dict[str, Any]:
    """The configuration, if it is one of GPT-2's architecture."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; {GET_THEM}")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}; {GET_THEM}")
    config = _json(folder / CONFIG)
    if "format" in config:
        raise CheckpointError(f"{folder} is a run of polymode; read it with polymode.load")
    other = [f"{k}={config[k]!r}" for k, v in FIXED.items() if config.get(k, v) != v]
    if config.get("n_inner") not in (None, 4 * config.get("n_embd", 0)):
        other.append(f"n_inner={config['n_inner']}")
    if other:
        raise CheckpointError(f"{folder / CONFIG} says {', '.join(other)}, which is another architecture than GPT-2's")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    if not path.is_file():
        if (pickled := folder / "pytorch_model.bin").is_file():
            raise CheckpointError(
                f"{pickled} is a pickle, which may run any code when it is read, and is never loaded; get {WEIGHTS} "
                "instead: hf download openai-community/gpt2 --local-dir gpt2"
            )
        raise CheckpointError(f"{folder} has no {WEIGHTS}; {GET_THEM}")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); get it again") from None


def _spec_of(folder: Path, levels: int, context: int) -> Spec:
    """Windows of `context` symbols, spelled by the folder's code where it holds one."""
    if not any((folder / name).is_file() for name in (tokenizer.VOCABULARY, tokenizer.TOKENIZER)):
        return Spec("tokens", (context,), Tokens(levels))
    code = tokenizer.read(folder)
    assert isinstance(code, ByteLevel)  # only a run has characters of its own
    if len(code.symbols) != levels:
        raise DataError(
            f"the tokenizer in {folder} has {len(code.symbols)} symbols and the model {levels}; they belong to two "
            "models, get both from one"
        )
    return Spec("tokens", (context,), Tokens(levels, code.symbols), code.to_extra())


def _check_data(spec: Spec, own: Spec, folder: Path) -> None:
    mine, given = own.support, spec.support
    assert isinstance(mine, Tokens)
    same = isinstance(given, Tokens) and given.levels == mine.levels and given.symbols in (mine.symbols, ())
    if spec.kind != "tokens" or not same:
        raise DataError(
            f"the data are {spec} and the model in {folder} has {mine.levels} tokens of its own; read the data with "
            f"vocabulary={str(folder)!r}"
        )
    if spec.num_dims > own.num_dims:
        raise DataError(f"the data are {spec} and the model sees {own.num_dims} tokens; read them with length="
                        f"{own.num_dims} or less")  # fmt: skip
