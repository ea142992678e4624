"""The command line: what it prints where, how it fails, and that asking for help stays cheap."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import xlm
from xlm.cli import COMMANDS, main


class Result:
    """What one command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run the command line in this process, with the given bytes on stdin."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: str | Path, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        code = main([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return call


def run_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_help_lists_every_command_and_loads_no_framework() -> None:
    done = run_process(
        "import sys; from xlm.cli import main; code = main(['--help'])\n"
        "heavy = [m for m in ('torch', 'jax', 'tensorflow', 'transformers', 'matplotlib') if m in sys.modules]\n"
        "assert not heavy, heavy\nassert code == 0"
    )
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(run, name: str) -> None:
    result = run(name, "--help")
    assert result.code == 0
    assert "Usage: xlm " + name in result.out


def test_version(run) -> None:
    assert run("version").out.strip() == run("--version").out.strip() == xlm.__version__


def test_wrong_usage_is_exit_code_2(run) -> None:
    result = run("fill-maks")
    assert (result.code, result.out) == (2, "")
    assert "Did you mean 'fill-mask'?" in result.err
    assert run("fill-mask", "--top-k", "many", "a <mask>").code == 2


def test_fill_mask_prints_the_engines_answers_as_json(run, tiny_model: Path) -> None:
    texts = ["Paris is the <mask> of <mask>.", "我不<mask>她是谁。"]
    result = run("fill-mask", *texts, "-m", tiny_model, "-k", "3", "--json")
    assert result.code == 0, result.err
    assert result.records == xlm.load(tiny_model).fill_mask(texts, top_k=3)


def test_fill_mask_reads_stdin_and_files_line_by_line(run, tiny_model: Path, tmp_path: Path) -> None:
    lines = "\ufeffa <mask>\r\nلكل شخص <mask>\nlast <mask>".encode()
    file = tmp_path / "lines.txt"
    file.write_bytes(lines)
    piped = run("fill-mask", "-m", tiny_model, "--json", "--batch-invariant", stdin=lines)
    read = run("fill-mask", "-m", tiny_model, "--json", "--batch-invariant", "--file", file)
    assert [record["text"] for record in piped.records] == ["a <mask>", "لكل شخص <mask>", "last <mask>"]
    assert piped.records == read.records


def test_fill_mask_tables_align_in_every_script(run, tiny_model: Path) -> None:
    from rich.cells import cell_len

    texts = ["我不<mask>她是谁。", "ทุกคนมี<mask>ในการศึกษา", "لكل شخص <mask> في التعليم."]
    result = run("fill-mask", *texts, "-m", tiny_model, "-k", "4")
    assert result.code == 0, result.err
    blocks = [block.splitlines() for block in result.out.strip("\n").split("\n\n")]
    assert len(blocks) == len(texts)
    for text, block in zip(texts, blocks, strict=True):
        assert text in block[0]
        rows = [line for line in block if "%" in line]
        assert len(rows) == 4
        assert len({cell_len(line[: line.index("%")]) for line in rows}) == 1


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (
            b"ok <mask>\nbad \xff <mask>\n",
            "stdin:2: invalid UTF-8: byte 0xff at byte 4 of the line, byte 14 of the text",
        ),
        (b"ok <mask>\n\n", "stdin:2: the text is empty"),
        (b"ok <mask>\nnone\n", "stdin:2: no <mask> in 'none'"),
        (b"ok <mask>\n" + b"long " * 200 + b"<mask>\n", "stdin:2: "),
    ],
)
def test_bad_lines_are_named_after_the_good_ones_are_answered(
    run, tiny_model: Path, stdin: bytes, message: str
) -> None:
    result = run("fill-mask", "-m", tiny_model, "--json", stdin=stdin)
    assert result.code == 1
    assert [record["text"] for record in result.records] == ["ok <mask>"]
    assert result.err.startswith(f"xlm: {message}")
    assert result.err.count("\n") == 1


def test_bad_arguments_are_one_line_on_stderr(run, tiny_model: Path, tmp_path: Path) -> None:
    for arguments, message in [
        (("no mask", "-m", tiny_model), "argument 1: no <mask>"),
        (("a <mask>", " ", "-m", tiny_model), "argument 2: the text is empty"),
        (("a <mask>", "-m", tmp_path), "config.json"),
        (("a <mask>", "-m", tiny_model, "-k", "0"), "top_k is 0"),
        (("a <mask>", "-m", tiny_model, "--dtype", "int3"), "dtype is 'int3'"),
        (("a <mask>", "--file", tmp_path / "x"), "give one or the other"),
        (("--file", tmp_path / "absent", "-m", tiny_model), "absent: cannot be opened"),
        (("a \udcff <mask>", "-m", tiny_model), "argument 1: invalid UTF-8: byte 0xff"),
        (("\udcff <mask>", "-m", tiny_model), "argument 1: invalid UTF-8: byte 0xff"),
    ]:
        result = run("fill-mask", *arguments)
        assert (result.code, result.err.count("\n")) == (1, 1), result.err
        assert message in result.err
        assert "Traceback" not in result.err


def test_debug_shows_the_traceback(run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLM_DEBUG", "1")
    with pytest.raises(xlm.InputError):
        run("fill-mask", "no mask", "-m", tiny_model)


def test_embed_prints_json_writes_arrays_and_draws_a_matrix(run, tiny_model: Path, tmp_path: Path) -> None:
    texts = ["hello", "Где школа?"]
    expected = xlm.load(tiny_model).embed(texts)
    printed = run("embed", *texts, "-m", tiny_model, "--json")
    np.testing.assert_allclose([record["embedding"] for record in printed.records], expected, atol=1e-6)
    saved = run("embed", *texts, "-m", tiny_model, "-o", tmp_path / "vectors.npy")
    assert (saved.code, saved.out) == (0, "")
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-6)
    drawn = run("embed", *texts, "-m", tiny_model)
    assert f"{float(expected[0] @ expected[1]):.2f}" in drawn.out


def test_embed_into_a_folder_that_is_not_there_is_an_error(run, tiny_model: Path, tmp_path: Path) -> None:
    result = run("embed", "a", "-m", tiny_model, "-o", tmp_path / "absent" / "vectors.npy")
    assert result.code == 1
    assert "vectors.npy': it cannot be written, there is no folder" in result.err


def test_doctor_knows_the_machine(run) -> None:
    (facts,) = run("doctor", "--json").records
    assert facts["torch"]
    assert {"torch", "jax", "tf", "train", "dev"} <= set(facts["extras"])
    assert "bundled model" in run("doctor").out


def test_demo_shows_scripts_matrix_and_speed(
    run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlm.cli.demo.SECONDS", 0.05)
    result = run("demo", "-m", tiny_model, "-o", tmp_path)
    assert result.code == 0, result.err
    assert "16 languages, 8 scripts" in result.out
    assert "tokens a second" in result.out
    assert result.out.count("%") > 5 * 16
    picture = (tmp_path / "similarity.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


def test_demo_into_an_unwritable_folder_is_an_error(
    run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlm.cli.demo.SECONDS", 0.05)
    blocked = tmp_path / "file"
    blocked.write_text("here first")
    result = run("demo", "-m", tiny_model, "-o", blocked)
    assert result.code == 1
    assert "is a file: a folder is needed" in result.err
    assert blocked.read_text() == "here first"


def test_the_demos_sentences_are_complete() -> None:
    import tomllib

    from xlm.assets import DEMO_TEXTS

    texts = tomllib.loads(DEMO_TEXTS.read_text("utf-8"))
    assert len({entry["language"] for entry in texts["fill"]}) >= 12
    assert len({entry["script"] for entry in texts["fill"]}) >= 8
    assert all(entry["text"].count("<mask>") == 1 for entry in texts["fill"])
    assert all(set(entry) == {"english", "shown", *texts["codes"]} for entry in texts["same"])
    assert all(entry["shown"] in entry for entry in texts["same"])


def test_without_colour_when_stdout_is_no_terminal(run, tiny_model: Path) -> None:
    result = run("fill-mask", "a <mask>", "-m", tiny_model)
    assert "\x1b[" not in result.out
