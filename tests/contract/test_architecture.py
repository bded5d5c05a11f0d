"""The house stands as drawn: imports go one way, the catalogue is true, importing is cheap."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from polymode import catalogue
from polymode.core.model import GenerativeModel

PACKAGE = Path(__file__).parents[2] / "polymode"
#: what a place may import of ours, by prefix; a place is the longest prefix that matches
ALLOWED: dict[str, tuple[str, ...]] = {
    "catalogue": ("core.errors",),
    "core": ("catalogue", "core"),
    "parts": ("core", "parts"),
    "parts.samplers": ("core", "parts.samplers", "parts.processes", "parts.solvers"),
    "models": ("catalogue",),
    **{f"models.{row.family}": ("core", "parts", f"models.{row.family}") for row in catalogue.MODELS},
    "models.composite": ("catalogue", "core", "parts", "models"),
    "data": ("core", "data"),
    "train": ("catalogue", "core", "data.dataset", "train"),
    "evaluate": ("catalogue", "core", "parts", "data.dataset", "data.store", "evaluate"),
    "tasks": ("catalogue", "core", "parts", "data.dataset", "evaluate", "tasks"),
    "interop": ("core", "data", "tasks", "interop"),
    "recipes": ("core.errors", "recipes"),
    "sklearn": ("catalogue", "core", "data.dataset", "train"),
    "app.service": ("catalogue", "core", "data", "train", "evaluate", "tasks", "interop", "recipes", "app.service"),
    "__main__": ("app.cli",),
    "app.cli": ("catalogue", "core.errors", "app.service", "app.cli", "app.study", "app.studio"),
    "app.studio": ("core.errors", "app.service", "app.study.server", "app.studio"),
    "app.study": ("core.errors", "app.service", "app.study"),
}
#: packages that are heavy or optional: imported inside the function that needs them
LAZY = {"accelerate", "sklearn", "scipy", "matplotlib", "PIL", "pandas", "pyarrow", "soundfile", "datasets",
        "huggingface_hub", "tensorboard", "safetensors", "tokenizers", "transformers", "typer.testing", "starlette",
        "uvicorn", "constriction", "zstandard"}  # fmt: skip


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("name", "tree"), [pytest.param(n, t, id=n) for n, t in modules()])
def test_imports_go_one_way(name: str, tree: ast.Module):
    place = max((p for p in ALLOWED if f"{name}.".startswith(f"{p}.")), key=len, default=None)
    assert place is not None or name == "app", f"no rule for {name}: add it to the design first"
    for target in imported(tree):
        ours, _, rest = target.partition(".")
        if ours == "polymode" and rest:
            allowed = any(f"{rest}.".startswith(f"{p}.") or f"{p}.".startswith(f"{rest}.") for p in ALLOWED[place])
            assert allowed, f"polymode.{name} imports polymode.{rest}, against the arrows"


@pytest.mark.parametrize(("name", "tree"), [pytest.param(n, t, id=n) for n, t in modules()])
def test_heavy_packages_are_imported_where_they_are_used(name: str, tree: ast.Module):
    for node in () if name == "sklearn" else tree.body:  # a module that is a package's face may import that package
        for target in imported(node) if isinstance(node, ast.Import | ast.ImportFrom) else ():
            assert target.split(".")[0] not in LAZY, f"polymode.{name} imports {target} at the top"


@pytest.mark.parametrize("row", catalogue.MODELS, ids=lambda row: row.name)
def test_a_row_is_true(row: catalogue.Row):
    cls = catalogue.load(row)
    assert issubclass(cls, GenerativeModel)
    assert catalogue.row_of(cls) is row
    assert f"models.{row.family}." in row.path
    module = inspect.getmodule(cls)
    assert module is not None
    assert module.__doc__
    assert str(row.year) in module.__doc__, f"the docstring of {row.name} should name its paper of {row.year}"
    parameters = list(inspect.signature(cls.__init__).parameters.values())[3:]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters), "options are keyword-only after spec and condition_spec"


def test_every_model_file_has_a_row():
    files = {
        "polymode." + ".".join(p.relative_to(PACKAGE).with_suffix("").parts)
        for p in (PACKAGE / "models").rglob("*.py")
        if not p.name.startswith("_")
    }
    assert files == {row.path.partition(":")[0] for row in catalogue.MODELS}


def test_names_of_models_are_public():
    import polymode

    for row in catalogue.MODELS:
        assert getattr(polymode, row.path.partition(":")[2]) is catalogue.load(row)
    assert [r.name for r in polymode.models(kind="tokens")] == [r.name for r in catalogue.select(kind="tokens")]
    assert set(polymode.__all__) <= set(dir(polymode))
    for name in polymode.__all__:
        assert getattr(polymode, name) is not None


def test_importing_polymode_imports_nothing_heavy():
    code = (
        "import sys, polymode; polymode.models(kind='image');"
        "print([m for m in ('torch', 'numpy', 'sklearn', 'accelerate', 'rich') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_parts_can_be_imported_one_by_one():
    for name, _ in modules():
        importlib.import_module(f"polymode.{name}")
