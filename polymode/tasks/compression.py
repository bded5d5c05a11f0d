"""Lossless compression: data as code words of about the length that a model's likelihood gives them.

Shannon 1948: a datum of probability p takes -log2 p bits. Two methods, found from what a model can do:

    autoregressive   log p(x) = sum_d log p(x_d | x_<d): values one after the other by range coding, at the exact nats;
                     a model that `DrawsInOrder`
    bits-back        Gaussian codes with a standard normal prior, at the negative ELBO (`tasks.bits_back`); a model that
                     `HasPosterior` and `DecodesInOrder`

Both sides walk over the data in the same steps with the same rows beside each other, so that they see the same
probabilities to the last bit. That is promised for one kind of machine and one version of torch, on the CPU in one
thread: the archive names them, others are warned about, and a decoded datum that is not the one that was compressed is
never given back: the archive holds a checksum of the data. The data are restored in the model's data space
(uint8 pixels, token ids, category indices), to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from polymode import catalogue
from polymode.core import checkpoint
from polymode.core.capabilities import DecodesInOrder, DrawsInOrder, HasPosterior, require
from polymode.core.errors import CapabilityError, DataError, PolymodeError, require_choice
from polymode.core.model import GenerativeModel
from polymode.tasks import archive as archives
from polymode.tasks import bits_back
from polymode.tasks.coding import RangeReader, RangeWriter, need_constriction

Method = Literal["auto", "autoregressive", "bits-back"]
METHODS = ("auto", "autoregressive", "bits-back")
#: rows that are walked over side by side
BATCH = 512


@dataclass(frozen=True)
class Compressed:
    """An archive and what it cost.

    Args:
        archive: its bytes.
        method: "autoregressive" or "bits-back".
        rows: how many data.
        values: how many values of theirs were coded.
        code_bits: of the code words, those of `first_bits` among them.
        first_bits: of the words that bits-back began with, which could carry something else.
    """

    archive: bytes
    method: str
    rows: int
    values: int
    code_bits: int
    first_bits: int

    @property
    def net_bits(self) -> int:
        """Bits that the data took."""
        return self.code_bits - self.first_bits


def method_for(model: GenerativeModel, method: Method = "auto") -> str:
    """Which method a model compresses by.

    Raises:
        CapabilityError: none, or not the one that was asked for.
    """
    require_choice("method", method, METHODS)
    if method == "autoregressive":
        require(model, DrawsInOrder, "order of drawing that values can be coded in")
    ordered = isinstance(model, DrawsInOrder)
    if ordered and method != "bits-back":
        return "autoregressive"
    if isinstance(model, HasPosterior) and isinstance(model, DecodesInOrder) and model.has_closed_kl:
        return "bits-back"
    name = f"{type(model).__name__} on {model.spec}"
    wanted = (
        "bits-back needs a Gaussian posterior over codes with a standard normal prior, and data of finitely many values"
        if method == "bits-back" or isinstance(model, HasPosterior)
        else "expected every conditional of a datum's values (made, pixelcnn, gpt, gru, ...), or a vae, and data of "
        "finitely many values: levels, bits, tokens, categories"
    )
    raise CapabilityError(f"{name} can't compress: {wanted}{'; take method=autoregressive' if ordered else ''}")


def fingerprint(model: GenerativeModel) -> str:
    """A sha256 over what a model is: name, arguments, data, weights."""
    about = {
        "model": checkpoint.name_of(type(model)), "arguments": model.arguments, "spec": model.spec.to_dict(),
        "condition": None if model.condition_spec is None else model.condition_spec.to_dict(),
        "dtype": str(model.dtype), "weights": checkpoint.digest(model.state_dict()),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def compress(
    model: GenerativeModel,
    x: Tensor,
    *,
    method: Method = "auto",
    sizes: Tensor | None = None,
    seed: int = 0,
    check: bool = True,
) -> bytes:
    """Data (N, *shape) as an archive that `decompress` makes data of again; see `compressed`.

    >>> import polymode as pm
    >>> data = pm.data.load("digits")
    >>> model = pm.fit(pm.create("histogram", data.spec), data).model
    >>> archive = compress(model, data.test.x)
    >>> torch.equal(decompress(model, archive), data.test.x)
    True
    """
    return compressed(model, x, method=method, sizes=sizes, seed=seed, check=check).archive


def compressed(
    model: GenerativeModel,
    x: Tensor,
    *,
    method: Method = "auto",
    sizes: Int[Tensor, " N"] | None = None,
    seed: int = 0,
    check: bool = True,
    facts: dict[str, Any] | None = None,
) -> Compressed:
    """An archive with what it cost.

    Args:
        x: (N, *shape) data.
        method: "auto" finds it.
        sizes: how many values of each row, from its beginning, are data; the others must be 0, and cost nothing.
        seed: of the bits that bits-back begins with.
        check: decode the archive at once and compare, which takes as long again.
        facts: what else the header is to say.

    Raises:
        PolymodeError: a model that can't compress, is conditioned or not on the CPU; data that are not of its spec.
    """
    _check_model(model)
    chosen, spec = method_for(model, method), model.spec
    x = spec.check(x).detach().cpu().to(spec.dtype)
    live, short = _live(x, sizes)
    header: dict[str, Any] = {
        "model": checkpoint.name_of(type(model)), "fingerprint": fingerprint(model), "spec": str(spec),
        "rows": len(x), "short": short, "method": chosen, "data": _digest(x), **_here(), **(facts or {}),
    }  # fmt: skip
    with _one_thread():
        if chosen == "autoregressive":
            told = list(_told(model, x, live))
            words, first = np.concatenate([t.words for t in told]), 0
            header |= {"chunks": [[len(t.x), len(t.words)] for t in told]}
        else:
            words, chunks, dims = bits_back.encode(model, x, live, seed=seed)
            first = len(bits_back.first_words(seed, dims, bits_back.BITS))
            header |= {"chunks": chunks, "codes": dims, "bins": bits_back.BITS, "seed": seed}
    whole = archives.pack(header, words.astype("<u4").tobytes())
    if check and not torch.equal(decompress(model, whole), x):
        raise PolymodeError("what was compressed did not come back the same; this is a fault, please report it")
    values = x.numel() if live is None else int(live.sum())
    return Compressed(whole, chosen, len(x), values, 32 * len(words), 32 * first)


def decompress(model: GenerativeModel, archive: bytes, *, name: str = "the archive") -> Tensor:
    """The data (N, *shape) of an archive, on the CPU, and nothing but them.

    Warns where versions or the machine are others than those that compressed.

    Raises:
        DataError: no archive, a damaged one, one of another model, or one whose data can't be had here.
    """
    header, code = archives.unpack(archive, name=name)
    for sentence in differences(header):
        warnings.warn(sentence, stacklevel=2)
    return decoded(model, header, code, name=name)


def decoded(model: GenerativeModel, header: dict[str, Any], code: bytes, *, name: str = "the archive") -> Tensor:
    """The data of an unpacked archive; see `decompress`."""
    check_model(model, header, name=name)
    spec, words = model.spec, np.frombuffer(code, dtype="<u4").astype(np.uint32)
    shape = (header["rows"], spec.num_dims)
    live = None
    if header["short"]:
        live = torch.ones(shape, dtype=torch.bool)
        for row, size in header["short"].items():
            live[int(row), size:] = False
    with _one_thread():
        if header["method"] == "autoregressive":
            x = _walked(model, words, header["chunks"], live)
            left = True
        else:
            x, rest = bits_back.decode(model, words, live, header["chunks"], dims=header["codes"], bits=header["bins"])
            left = np.array_equal(rest, bits_back.first_words(header["seed"], header["codes"], header["bins"]))
    x = x.to(spec.dtype).view(-1, *spec.shape)
    if _digest(x) != header["data"] or not left:
        others = "; ".join(differences(header)) or "no version differs, so the arithmetic of the machine must"
        raise DataError(
            f"{name} is whole, but the model's probabilities here are not those that it was compressed by, so its data "
            f"can't be had ({others}); decompress it with what compressed it"
        )
    return x


def check_model(model: GenerativeModel, header: dict[str, Any], *, name: str = "the archive") -> None:
    """Raise DataError unless an archive is of this model."""
    _check_model(model)
    if (own := fingerprint(model)) != header["fingerprint"]:
        raise DataError(
            f"{name} was compressed by the {header['model']} {header['fingerprint'][:12]} for {header['spec']}, and "
            f"this is the {checkpoint.name_of(type(model))} {own[:12]} for {model.spec}; give the one that wrote it"
        )


def differences(header: dict[str, Any]) -> list[str]:
    """What is otherwise here than where an archive was written, in sentences, of what arithmetic may depend on."""
    here = _here()
    return [
        f"the archive was written with {key} {header[key]}, and here is {here[key]}"
        for key in ("torch", "constriction", "machine")
        if header[key] != here[key]
    ]


def nats_in_order(model: Any, x: Tensor, sizes: Int[Tensor, " N"] | None = None) -> float:
    """-log p of the first values of all rows, as the walk that codes them has it before probabilities are quantised."""
    return sum(told.nats for told in _told(model, x, _live(x, sizes)[0]))


def _told(model: Any, x: Tensor, live: Bool[Tensor, "N D"] | None) -> Iterator[RangeWriter]:
    """An autoregressive model's code words, batch by batch."""
    for rows in torch.arange(len(x)).split(BATCH):
        told = RangeWriter(x[rows].flatten(1).long(), None if live is None else live[rows])
        model.draw_in_order(len(rows), told)
        yield told


def _walked(
    model: Any, words: np.ndarray, chunks: list[list[int]], live: Bool[Tensor, "N D"] | None
) -> Int[Tensor, "N D"]:
    """The data of an autoregressive model's code words."""
    found, at, start = [], 0, 0
    for n, size in chunks:
        beside = None if live is None else live[start : start + n]
        told = RangeReader(words[at : at + size], n, model.spec.num_dims, beside)
        model.draw_in_order(n, told)
        found.append(told.x)
        at, start = at + size, start + n
    return torch.cat(found)


def _check_model(model: GenerativeModel) -> None:
    if model.condition_spec is not None:
        raise CapabilityError(
            f"this {type(model).__name__} is conditioned on {' and '.join(model.condition_spec.kinds)}, which an "
            "archive does not hold; train one with --condition none"
        )
    if model.device.type != "cpu":
        raise PolymodeError(
            f"the model is on {model.device}, and only the CPU promises the same probabilities twice; use model.cpu()"
        )


def _live(x: Tensor, sizes: Tensor | None) -> tuple[Bool[Tensor, "N D"] | None, dict[str, int]]:
    """(which values are data, None for all; the sizes of rows that are not full)."""
    if sizes is None:
        return None, {}
    d = x[0].numel()
    if sizes.shape != (len(x),) or sizes.min() < 0 or sizes.max() > d:
        raise PolymodeError(f"sizes has shape {tuple(sizes.shape)}, expected {len(x)} numbers from 0 to {d}")
    live = torch.arange(d) < sizes.unsqueeze(1)
    if (x.flatten(1) * ~live != 0).any():
        raise DataError("values beyond the size of their row are not 0; put 0 there, or leave sizes out")
    short = (sizes < d).nonzero()[:, 0].tolist()
    return (live if short else None), {str(row): int(sizes[row]) for row in short}


def _digest(x: Tensor) -> str:
    """A sha256 over data: dtype, shape and bytes."""
    return checkpoint.digest({"x": x})


def _here() -> dict[str, str]:
    """Versions and machine, as far as the last bit of a probability may depend on them."""
    from importlib.metadata import version

    need_constriction()
    return {
        "polymode": catalogue.VERSION, "torch": torch.__version__, "constriction": version("constriction"),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }  # fmt: skip


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are split over threads, and rounded accordingly."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
