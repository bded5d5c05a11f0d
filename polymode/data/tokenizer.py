"""Byte-level codes of texts: learned from the user's own text, or read from files in GPT-2's layout.

`learn` merges, again and again, the pair of symbols that stands side by side most often within words (Sennrich, Haddow
and Birch 2016, arXiv:1508.07909, algorithm 1), beginning with the 256 bytes (Radford et al. 2019, section 2.2); the
last symbol is "<|endoftext|>". The same text gives the same code. `read` and `write` are the files:

    vocab.json and merges.txt    {name: id}, and the merges, one a line under "#version: 0.2"
    tokenizer.json               both in one, with the special symbols
    config.json                  of a polymode run: its spec holds the code, or the characters

`core.spelling` is the code itself. Learning takes about a second a million characters, reading a text as long.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polymode.core.errors import DataError
from polymode.core.spec import Spec, Tokens
from polymode.core.spelling import END_OF_TEXT, PRINTABLE, ByteLevel, code_of, pieces
from polymode.data.assemble import need

VOCABULARY, MERGES, TOKENIZER, RUN = "vocab.json", "merges.txt", "tokenizer.json", "config.json"
#: the 256 bytes and the end of a text
FEWEST = 257


def learn(text: str, size: int) -> ByteLevel:
    """A code of `size` symbols, fewer where the text has no more pairs to merge.

    Args:
        text: what it is learned from; "<|endoftext|>" in it parts texts.
        size: 256 bytes, the merged symbols and the end of a text.

    Raises:
        DataError: less than 257 symbols.
        MissingPackageError: `tokenizers` is not installed.
    """
    if size < FEWEST:
        raise DataError(f"a byte-level code of {size} symbols was asked for, expected at least {FEWEST}: 256 bytes and "
                        f"{END_OF_TEXT}")  # fmt: skip
    tokenizers = need("tokenizers", "tokenizers", "text", "learning a byte-level code")
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size - 1, initial_alphabet=sorted(PRINTABLE.values()), show_progress=False
    )
    trained.train_from_iterator((piece for part in text.split(END_OF_TEXT) for piece in pieces(part)), trainer)
    model = json.loads(trained.to_str())["model"]
    symbols = sorted(model["vocab"], key=model["vocab"].get)
    return ByteLevel((*symbols, END_OF_TEXT), _lines(model["merges"]), (END_OF_TEXT,))


def read(path: str | Path) -> ByteLevel | tuple[str, ...]:
    """The code in a folder, or in a tokenizer.json; of a run on characters these.

    Raises:
        DataError: no such files, damaged ones, or a code that is not byte-level.
    """
    path = Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    names = (VOCABULARY, TOKENIZER, RUN) if path.is_dir() else (path.name,)
    found = next((name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise DataError(f"{path} holds no {VOCABULARY} with {MERGES}, no {TOKENIZER} and is no run with a code; give "
                        "a folder or a file that does")  # fmt: skip
    try:
        saved = json.loads((folder / found).read_text(encoding="utf-8"))
        if found == VOCABULARY:
            lines = (folder / MERGES).read_text(encoding="utf-8").split("\n")
            # a line that begins with # is a merge of # but for the first
            merges = [line for i, line in enumerate(lines) if line and not (i == 0 and line.startswith("#version"))]
            special = [END_OF_TEXT] if END_OF_TEXT in saved else []
            return _code(saved, _lines(merges), special)
        if found == RUN:
            spec = Spec.from_dict(saved["spec"])
            if (code := code_of(spec)) is not None:
                return code
            symbols = spec.support.symbols if isinstance(spec.support, Tokens) else ()
            if not symbols or any(len(s) != 1 for s in symbols):
                raise DataError(f"{path} is a run on other data than texts in characters or a code; give one on texts")
            return symbols
        _check_byte_level(saved, folder / found)
        added = {token["content"]: token["id"] for token in saved["added_tokens"]}
        return _code(saved["model"]["vocab"] | added, _lines(saved["model"]["merges"]), list(added))
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / found} is damaged or not a code ({error!r}); restore it") from None


def write(code: ByteLevel, folder: str | Path) -> Path:
    """vocab.json and merges.txt in a folder, for GPT-2's tokenizer of any library."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ids = {s: i for i, s in enumerate(code.symbols)}
    (folder / VOCABULARY).write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (folder / MERGES).write_text(f"#version: 0.2\n{code.merges}\n", encoding="utf-8")
    return folder


def _code(ids: dict[str, int], merges: str, special: list[str]) -> ByteLevel:
    symbols = sorted(ids, key=ids.__getitem__)
    if [ids[s] for s in symbols] != list(range(len(symbols))):
        raise DataError(f"the {len(symbols)} symbols of a code have ids other than 0 to {len(symbols) - 1}; give a "
                        "code without gaps")  # fmt: skip
    return ByteLevel(tuple(symbols), merges, tuple(special))


def _lines(merges: list[Any]) -> str:
    """Merges as text, from pairs or from lines as older files have them."""
    return "\n".join(m if isinstance(m, str) else " ".join(m) for m in merges)


def _check_byte_level(saved: dict[str, Any], path: Path) -> None:
    """Only a code that reads a text as GPT-2 does can be taken over: no normaliser, no other words."""
    words = saved["pre_tokenizer"] or {}
    kinds = saved["model"]["type"], words.get("type"), words.get("add_prefix_space"), words.get("use_regex", True)
    if kinds != ("BPE", "ByteLevel", False, True) or saved.get("normalizer") is not None:
        raise DataError(f"{path} holds a code of another kind than GPT-2's byte-level BPE; give one of that kind")
