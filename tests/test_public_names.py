"""The front door: what `xlm` exports, that the stub says the same, and that importing it stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import xlm

STUB = Path(xlm.__file__).with_suffix(".pyi")
FRAMEWORKS = ("torch", "jax", "flax", "tensorflow", "keras", "transformers")
FRAMEWORK_FREE = ("families", "batches", "tokenizers", "tasks", "data", "checkpoints", "outputs", "hub", "cli")


def stub_names() -> dict[str, str]:
    """Name -> module, as the stub says."""
    imports = [node for node in ast.parse(STUB.read_text("utf-8")).body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: node.module or "" for node in imports for alias in node.names}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_stub_and_table_agree() -> None:
    assert stub_names() == xlm._MODULE_OF


@pytest.mark.parametrize("name", sorted(xlm._MODULE_OF))
def test_every_name_resolves(name: str) -> None:
    try:
        assert getattr(xlm, name) is not None
    except xlm.MissingExtraError as error:
        pytest.skip(str(error))
    assert name in dir(xlm)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        xlm.Nonsense  # noqa: B018


def test_import_is_quick_and_loads_no_framework() -> None:
    code = f"""
import sys, time
start = time.perf_counter()
import xlm
seconds = time.perf_counter() - start
loaded = [name for name in {(*FRAMEWORKS, "numpy")} if name in sys.modules]
assert not loaded, loaded
print(seconds)
"""
    assert min(float(run_python(code)) for _ in range(3)) < 0.2


def test_framework_free_packages_import_without_any_framework() -> None:
    code = f"""
import importlib, pkgutil, sys
for name in {FRAMEWORKS}:
    sys.modules[name] = None  # importing it now raises ImportError
import xlm
for package in {FRAMEWORK_FREE}:
    module = importlib.import_module("xlm." + package)
    for info in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
"""
    run_python(code)


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("torch", "XLMModel", "torch"), ("tensorflow", "TFXLMModel", "tf"), ("keras", "TFAutoModel", "tf")],
)
def test_missing_extra_is_named(package: str, name: str, extra: str) -> None:
    code = f"""
import sys
sys.modules["{package}"] = None
import xlm
try:
    xlm.{name}
except xlm.MissingExtraError as error:
    print(error)
"""
    said = run_python(code)
    assert f"xlm.{name}" in said and f"pip install 'xlm[{extra}]'" in said
