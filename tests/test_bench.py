"""`make bench`: every script is in its table with the arguments that it demands, and one that cannot run does not end it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tools import bench

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {path.stem: path.read_text("utf-8") for path in (ROOT / "benchmarks").glob("*.py")}
TABLE = bench.steps(Path("data"), Path("out"), Path("references"))


def test_every_script_is_in_the_table() -> None:
    assert TABLE.keys() == SCRIPTS.keys()


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_run_has_what_the_script_demands_and_nothing_that_it_does_not_know(name: str) -> None:
    demanded = set(re.findall(r'add_argument\("(--[\w-]+)"[^\n]*required=True', SCRIPTS[name]))
    known = set(re.findall(r'"(--[\w-]+)"', SCRIPTS[name]))
    for run in TABLE[name].runs:
        if run and run[0] == "-m":
            continue
        given = {str(part) for part in run if str(part).startswith("--")}
        assert demanded <= given <= known
    if re.search(r'add_argument\("command", choices', SCRIPTS[name]):
        assert all(run for run in TABLE[name].runs)


def test_what_cannot_run_is_said_and_what_fails_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], check: bool) -> SimpleNamespace:
        ran.append(command)
        return SimpleNamespace(returncode=3 if "mlm_step" in command[1] else 0)

    monkeypatch.setattr(bench, "_memory", lambda: 0)
    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(run=run))
    assert bench.main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().out
    assert f"== tasks: skipped: there is no {tmp_path / 'none' / 'classify'}" in told
    assert "== translation: skipped: there is no" in told and "recipes/xlm-mini.yaml)" in told
    assert "== big_models: skipped: 16 GB of memory are needed, 0 are free" in told
    assert "== mlm_step: failed with code 3" in told and told.splitlines()[-1].endswith("1 failed mlm_step")
    names = [Path(command[1]).stem for command in ran]
    assert names.count("mlm_step") == 1 and "tokenization" in names and "tasks" not in names


def test_one_is_run_by_its_name() -> None:
    command = [sys.executable, ROOT / "tools" / "bench.py", "nosuch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no benchmark nosuch: there are big_models," in done.stderr
