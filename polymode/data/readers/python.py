"""Python source as single statements: every statement of the files that is short enough, as `ast.unparse` writes it.

    if mask is None:
        return x

Simple statements and whole blocks alike, those within other blocks on their own too; without comments and docstrings,
quotes, spaces and line breaks always the same. Symbols are characters; that of id 0 is the empty string, which fills
the rest. Formatting is that of the running Python and changes a little from one version to the next.
"""

from __future__ import annotations

import ast
from pathlib import Path

from polymode.core.errors import DataError
from polymode.data.assemble import check_positive, random_rows
from polymode.data.dataset import DataSet, Split
from polymode.data.readers.smiles import encode
from polymode.data.readers.text import read_utf8


def read(
    path: Path,
    *,
    seed: int = 0,
    strict: bool = False,
    length: int = 64,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """A .py file, or a folder of them, each distinct statement once.

    Args:
        path: the file or folder, UTF-8.
        seed: of the random split.
        strict: refuse a file that is no Python, instead of leaving it out with a note.
        length: most characters of a statement; longer ones are left out with a note.
        valid_fraction, test_fraction: of the random split.
    """
    check_positive(length=length)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.py") if p.is_file())
    found, unread = dict[str, None](), list[str]()
    for file in files:
        try:
            found |= dict.fromkeys(statements(read_utf8(file)))
        except (SyntaxError, ValueError) as error:
            if strict or len(files) == 1:
                raise DataError(f"{file} is no Python that this version reads ({error}); leave it out") from None
            unread.append(file.name)
    kept = [text for text in found if len(text) <= length]
    if not kept:
        raise DataError(f"{path} holds no statement of at most {length} characters in .py files; give a larger length")
    x, spec = encode(kept, length)
    rows = random_rows(len(x), valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed, name=str(path))
    notes = [
        f"{len(kept):,} distinct statements of {len(files)} files; {len(found) - len(kept):,} longer ones left out"
    ]
    if unread:
        notes.append(f"{len(unread)} files are no Python that this version reads and were left out: {unread[0]}, ...")
    return DataSet(path.stem, spec, *(Split(x[r]) for r in rows), source=str(path), notes=tuple(notes))


def statements(source: str) -> list[str]:
    """Every statement of a source text, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.stmt)]
