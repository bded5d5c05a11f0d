"""Tables of .csv and .parquet files, through pandas."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from polymode.core.errors import DataError
from polymode.data import frames
from polymode.data.assemble import need
from polymode.data.dataset import DataSet
from polymode.data.frames import ColumnType

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = (",", ";", "\t", "|")


def read(
    path: Path,
    *,
    seed: int = 0,
    columns: Mapping[str, ColumnType] | None = None,
    missing: Literal["model", "drop", "mean"] = "model",
    labels: str | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """A .csv (comma, semicolon, tab or bar; first line = names) or .parquet file, a datum a row.

    Args:
        path: the file.
        seed: of the random split.
        columns: types that are not to be inferred: numeric, integer, real, categorical or drop, by column.
        missing: numbers that are missing are modelled ("model"), their rows dropped ("drop"), or replaced by the
            training mean ("mean").
        labels: a column that becomes the condition and leaves the data.
        valid_fraction, test_fraction: of the random split.
    """
    return frames.dataset(
        read_frame(path), name=path.stem, source=str(path), seed=seed, columns=columns, missing=missing, labels=labels,
        valid_fraction=valid_fraction, test_fraction=test_fraction,
    )  # fmt: skip


def read_frame(path: Path, *, header: bool = True) -> pd.DataFrame:
    """The file as a frame; the cells of a .csv are text, as written."""
    pd = need("pandas", "pandas", "tables", f"reading {path.name}")
    if path.suffix.lower() == ".parquet":
        need("pyarrow", "pyarrow", "tables", f"reading {path.name}")
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
            raise DataError(f"{path} is not a readable parquet file ({_first_line(error)}); write it again") from None
    try:
        with warnings.catch_warnings():
            # pandas only warns when every row is longer than the header, and drops the rest
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path, sep=separator(path), dtype="str", na_filter=False, skipinitialspace=True, index_col=False,
                header=0 if header else None, encoding="utf-8-sig",
            )  # fmt: skip
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it, for example with "
            "iconv -f latin1 -t utf-8"
        ) from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty; give a file with a line of names and a row a datum") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise DataError(f"{path} has rows of different lengths ({_first_line(error)}); mend those rows") from None
    if len(frame) and (frame.iloc[:, -1] == "").any():
        _refuse_short_rows(path, len(frame.columns))
    return frame


def _refuse_short_rows(path: Path, width: int) -> None:
    """pandas fills short rows up in silence, so where last cells are empty the separators are counted."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=separator(path), skipinitialspace=True)
        short = next((reader.line_num for cells in reader if 0 < len(cells) < width), None)
    if short is not None:
        raise DataError(f"{path} has rows of different lengths: line {short} has fewer cells than {width}; mend it")


def separator(path: Path) -> str:
    """The separator that is most frequent in the first line."""
    with path.open("rb") as stream:
        line = stream.readline().decode("utf-8", errors="replace")
    return max(SEPARATORS, key=line.count)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
