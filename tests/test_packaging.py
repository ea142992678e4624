"""What is installed is what was pinned: exact versions, and no paths or indexes of a machine."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PINS = [
    line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line and not line.startswith("#")
]
EXTRAS = PROJECT["optional-dependencies"]
FRAMEWORKS = {"torch", "jax", "flax", "tensorflow", "keras"}


def name(requirement: str) -> str:
    """The normalised name of a requirement."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()  # type: ignore[index]


def test_every_pin_is_an_exact_public_version() -> None:
    for pin in PINS:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin), pin
    assert len({name(pin) for pin in PINS}) == len(PINS)


@pytest.mark.parametrize("extra", ["core", "torch", "train", "dev"])
def test_what_make_installs_is_pinned(extra: str) -> None:
    wanted = PROJECT["dependencies"] if extra == "core" else EXTRAS[extra]
    assert {name(requirement) for requirement in wanted} <= {name(pin) for pin in PINS}


def test_the_core_needs_no_framework_and_the_extras_are_all_there() -> None:
    assert not FRAMEWORKS & {name(requirement) for requirement in PROJECT["dependencies"]}
    assert {"torch", "jax", "tf", "train", "serve", "export", "eval", "dev"} <= set(EXTRAS)


def test_versions_agree() -> None:
    import xlm

    assert PROJECT["version"] == xlm.__version__


def test_the_package_is_typed_and_ci_can_be_run() -> None:
    assert (ROOT / "src" / "xlm" / "py.typed").is_file()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_doctor_knows_every_extra() -> None:
    from xlm.cli.doctor import EXTRAS as known

    assert set(known) == set(EXTRAS)
