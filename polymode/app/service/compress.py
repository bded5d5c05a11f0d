"""Compress files by a run's model without loss, and restore them."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import runs
from polymode.app.service.schemas import CompressRequest, DecompressRequest
from polymode.core.errors import CheckpointError, DataError, PolymodeError

if TYPE_CHECKING:
    from torch import Tensor

#: draws of the bound that bits-back is held against
BOUND_SAMPLES = 16


def compress(request: CompressRequest) -> dict[str, Any]:
    """An archive of files, with its size beside the model's own nats and beside other compressors.

    Raises:
        PolymodeError: no run, a model that can't compress, sources that are not there or not of its data.
    """
    run, out = runs.read_run(request.run), Path(request.out).expanduser()
    if out.is_dir():
        raise PolymodeError(f"--out {out} is a folder, expected a file such as {out / 'archive.pm'}")

    import torch

    from polymode.app.service.building import load_model
    from polymode.core.checkpoint import write_atomically
    from polymode.data.restore import names_of, read
    from polymode.tasks.codecs import others
    from polymode.tasks.compression import compressed, method_for

    model = load_model(run.folder)
    method = method_for(model, request.method)
    pieces = read(request.sources, model.spec, request.reading.arguments())
    x = torch.cat([piece.x for piece in pieces])
    full = torch.tensor(model.spec.num_dims)
    sizes = torch.cat([full.expand(len(p.x)) if p.sizes is None else p.sizes for p in pieces])
    facts = {"run": os.path.relpath(run.folder, out.parent), "pieces": [piece.facts for piece in pieces]}
    begun = time.perf_counter()
    found = compressed(model, x, method=method, sizes=sizes, seed=request.seed, check=request.check, facts=facts)
    seconds = time.perf_counter() - begun
    write_atomically(out, lambda temporary: temporary.write_bytes(found.archive))
    raw = b"".join(piece.raw for piece in pieces if piece.raw is not None)
    # a text's own bytes are what others are given, and not windows of symbols that are filled up at their end
    whole = all(piece.raw is not None for piece in pieces)
    beside = others(x, model.spec, raw=raw if whole else None)
    own, kind = _model_bits(model, x, sizes, method)
    return {
        "run": str(run.folder), "model": run.model, "out": str(out), "what": str(model.spec), "method": method,
        "rows": found.rows, "values": found.values, "files": [n for p in pieces for n in names_of(p.facts)],
        "bytes": len(found.archive), "code_bytes": found.code_bits // 8, "first_bytes": found.first_bits // 8,
        "source_bytes": len(raw) if whole else None, "bits_per_value": found.net_bits / found.values,
        "model_bits_per_value": own / found.values, "kind": kind, "overhead": found.net_bits / own - 1,
        "archive_bits_per_value": 8 * len(found.archive) / found.values,
        "others": {n: {"bytes": -(-bits // 8), "bits_per_value": bits / found.values} for n, bits in beside.items()},
        "checked": request.check, "seconds": round(seconds, 3),
        "notes": list(dict.fromkeys(note for piece in pieces for note in piece.notes)),
    }  # fmt: skip


def decompress(request: DecompressRequest) -> dict[str, Any]:
    """The files of an archive; nothing is written unless all of them came back as they were.

    Raises:
        PolymodeError: no archive, a damaged one, one of another model, or files that are there already.
    """
    path, out = Path(request.archive).expanduser(), Path(request.out).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path}; give an archive that polymode compress wrote")

    from polymode.app.service.building import load_model
    from polymode.data.restore import targets_of, write
    from polymode.tasks.archive import unpack
    from polymode.tasks.compression import decoded, differences

    header, code = unpack(path.read_bytes(), name=str(path))
    if "pieces" not in header:
        raise DataError(f"{path} holds no files but data, of tasks.compression.compress; use its decompress")
    folder = path.parent / header["run"] if request.run is None else Path(request.run).expanduser()
    if request.run is None and not runs.is_run(folder):
        raise CheckpointError(
            f"{path} was compressed by the run {folder.name}, which is not at {folder}; give its folder with --run"
        )
    targets = targets_of(header["pieces"], out, force=request.force)
    model = load_model(runs.read_run(folder).folder)
    begun = time.perf_counter()
    x = decoded(model, header, code, name=str(path))
    seconds = time.perf_counter() - begun
    write(header["pieces"], x, model.spec, targets)
    return {
        "archive": str(path), "run": str(folder), "files": [str(file) for each in targets for file in each],
        "rows": len(x), "what": str(model.spec), "method": header["method"], "seconds": round(seconds, 3),
        "notes": differences(header),
    }  # fmt: skip


def _model_bits(model: Any, x: Tensor, sizes: Tensor, method: str) -> tuple[float, str]:
    """(bits that the model itself gives to the rows, their kind)."""
    from polymode.tasks.compression import nats_in_order

    if method == "bits-back":
        draws = sum(model.elbo(x, seed=seed).double() for seed in range(BOUND_SAMPLES))
        return -float(draws.sum()) / BOUND_SAMPLES / math.log(2), "lower bound"
    whole = sizes == model.spec.num_dims
    nats = sum(-float(model.log_prob(rows).double().sum()) for rows in x[whole].split(1024) if len(rows))
    if not bool(whole.all()):  # rows that end early: the sum of the conditionals up to there
        nats += nats_in_order(model, x[~whole], sizes[~whole])
    return nats / math.log(2), "exact"
