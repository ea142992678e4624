"""Files to Parquet parts: every row once, whatever is killed, shared or run again."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xlm
from xlm.checkpoints.files import save_safetensors
from xlm.errors import DataError, InputError, MissingExtraError, OutputError
from xlm.inference.bulk import Embedder, all_parts, embed_files, parse_shard
from xlm.inference.fingerprint import fingerprint

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def engine() -> Any:
    return xlm.load()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two files of texts in several scripts, three bad rows among them."""
    folder = tmp_path / "texts"
    folder.mkdir()
    words = ["hello", "bonjour", "مرحبا", "你好", "สวัสดี"]
    rows = [json.dumps({"text": f"{words[n % 5]} {n}", "id": n}, ensure_ascii=False) for n in range(23)]
    rows[7], rows[9], rows[11] = "{broken", json.dumps({"id": 9}), json.dumps({"text": "long " * 600})
    (folder / "a.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    (folder / "b.txt").write_text("\n".join(f"line {n}" for n in range(12)) + "\n", "utf-8")
    return folder


def read(output: Path) -> dict[tuple[str, int], np.ndarray]:
    found = {}
    for part in all_parts(output):
        for row in pq.read_table(output / part.file).to_pylist():
            assert (row["source"], row["row"]) not in found
            found[Path(row["source"]).name, row["row"]] = np.array(row["embedding"], np.float32)
    return found


def bad_rows(output: Path) -> list[str]:
    lines = [line for path in output.glob("bad-*.jsonl") for line in path.read_text("utf-8").splitlines()]
    return sorted(json.loads(line)["where"].rsplit(":", 1)[1] for line in lines)


def test_every_row_once_over_shards(engine: Any, source: Path, tmp_path: Path) -> None:
    whole = embed_files(engine, source, tmp_path / "whole", rows_a_part=5)
    assert (whole.rows, whole.bad) == (20 + 12, 3)
    for index in range(3):
        embed_files(engine, source, tmp_path / "shared", rows_a_part=5, shard=(index, 3))
    one, many = read(tmp_path / "whole"), read(tmp_path / "shared")
    assert one.keys() == many.keys() and len(one) == 32
    for key in one:
        np.testing.assert_allclose(one[key], many[key], atol=2e-6)
    wanted = engine.embed(["你好 3", "line 11"])
    np.testing.assert_allclose([one["a.jsonl", 4], one["b.txt", 12]], wanted, atol=2e-6)
    assert bad_rows(tmp_path / "whole") == bad_rows(tmp_path / "shared") == ["10", "12", "8"]


def test_run_again_it_goes_on(engine: Any, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"

    class Killed(Exception):
        pass

    def kill(part: Any) -> None:
        if part.file == "part-00000-000002.parquet":
            raise Killed

    with pytest.raises(Killed):
        embed_files(engine, source, output, rows_a_part=5, on_part=kill)
    again = embed_files(engine, source, output, rows_a_part=5)
    assert (again.kept, again.written) == (3, 5) and again.rows == 32
    (output / "part-00001-000000.parquet").write_bytes(b"cut off")
    mended = embed_files(engine, source, output, rows_a_part=5)
    assert (mended.kept, mended.written) == (7, 1)
    assert len(read(output)) == 32
    # Killed between a part and the manifest that names it: its bad rows are named once.
    (output / "manifest-0-of-1.json").unlink()
    assert embed_files(engine, source, output, rows_a_part=5).written == 8
    assert bad_rows(output) == ["10", "12", "8"]


def test_rows_are_lines_of_the_file(engine: Any, tmp_path: Path) -> None:
    """Blank lines are no rows, and a row of CSV may have several lines: a row is found again by its line all the same."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("one\n\n\nfour\n\nsix\n", "utf-8")
    (folder / "b.csv").write_text('text\n"two\nlines"\n\nfive\n', "utf-8")
    (folder / "c.jsonl").write_text('\n{"text": "two"}\n\n{"text": "four"}\n', "utf-8")
    pq.write_table(importlib.import_module("pyarrow").table({"text": ["one", "two", "three"]}), folder / "d.parquet")
    embed_files(engine, folder, tmp_path / "out", rows_a_part=2, keep_text=True)
    tables = [pq.read_table(tmp_path / "out" / part.file).to_pylist() for part in all_parts(tmp_path / "out")]
    found = [(Path(row["source"]).suffix, row["row"], row["text"]) for rows in tables for row in rows]
    wanted = {".txt": [(1, "one"), (4, "four"), (6, "six")], ".csv": [(2, "two\nlines"), (5, "five")]}
    wanted |= {".jsonl": [(2, "two"), (4, "four")], ".parquet": [(1, "one"), (2, "two"), (3, "three")]}
    assert found == [(suffix, *row) for suffix, rows in wanted.items() for row in rows]


def test_changed_content_of_the_same_size_is_noticed(engine: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "texts.txt", tmp_path / "out"
    source.write_text("good\nfine\n", "utf-8")
    embed_files(engine, source, output, rows_a_part=1)
    os.utime(source, ns=(1, 1))  # the same content, copied anew
    assert embed_files(engine, source, output, rows_a_part=1).kept == 2
    source.write_text("evil\nfine\n", "utf-8")
    os.utime(source, ns=(1, 1))
    with pytest.raises(OutputError, match=r"other settings \(files\)"):
        embed_files(engine, source, output, rows_a_part=1)
    source.write_text("good\nfine\n", "utf-8")
    part = output / "part-00000-000001.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    mended = embed_files(engine, source, output, rows_a_part=1)
    assert (mended.kept, mended.written) == (1, 1) and len(read(output)) == 2


def test_a_run_goes_on_with_the_same_model_and_language_alone(
    source: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    embed_files(xlm.load(folder), source, tmp_path / "out", truncate=True)
    (folder / "README.md").write_text("a card")
    assert embed_files(xlm.load(folder), source, tmp_path / "out", truncate=True).kept == 2
    shutil.rmtree(folder)
    shutil.copytree(tiny_model, folder)  # the same files, later
    assert embed_files(xlm.load(folder), source, tmp_path / "out", truncate=True).kept == 2
    engine = xlm.load(folder)
    monkeypatch.setattr(type(engine), "lang", property(lambda self: "de"))
    with pytest.raises(OutputError, match=r"other settings \(lang\)"):
        embed_files(engine, source, tmp_path / "out", truncate=True)
    monkeypatch.undo()
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)  # trained further under the same name
    with pytest.raises(OutputError, match=r"other settings \(fingerprint\)"):
        embed_files(xlm.load(folder), source, tmp_path / "out", truncate=True)


def test_large_files_of_weights_are_told_apart_by_blocks(tmp_path: Path) -> None:
    values, found = np.zeros(3_000_000, np.float32), set()
    for last in (0.0, 1.0):
        values[::7] = last
        save_safetensors(tmp_path, {"w": values})
        found.add(fingerprint(tmp_path))
    save_safetensors(tmp_path, {"w": values})
    assert len(found) == 2 and fingerprint(tmp_path) in found


def test_other_settings_are_refused(engine: Any, source: Path, tmp_path: Path) -> None:
    embed_files(engine, source, tmp_path / "out", rows_a_part=50)
    with pytest.raises(OutputError, match=r"other settings \(rows_a_part\)"):
        embed_files(engine, source, tmp_path / "out", rows_a_part=5)


def test_bad_arguments(engine: Any, tmp_path: Path) -> None:
    for text in ("", "1", "2/2", "a/b", "-1/2"):
        with pytest.raises(InputError, match="must be i/n"):
            parse_shard(text)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file there"):
        embed_files(engine, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="nosuch: no such file or folder"):
        embed_files(engine, tmp_path / "nosuch", tmp_path / "out")
    for output in (tmp_path / "empty" / "out", tmp_path / "empty"):
        with pytest.raises(InputError, match=r"output is '.*empty.*in the folder of texts"):
            embed_files(engine, tmp_path / "empty", output)


def test_the_class_for_ray_adds_a_column(engine: Any) -> None:
    batch = {"text": np.array(["hello", "مرحبا"], object), "id": np.array([1, 2])}
    found = Embedder()(batch)
    np.testing.assert_allclose(found["embedding"], engine.embed(["hello", "مرحبا"]), atol=1e-6)
    assert found["id"] is batch["id"]


@pytest.mark.slow
def test_on_a_local_ray_cluster(engine: Any) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        data = ray.data.from_items([{"text": f"text {n}"} for n in range(50)])
        rows = data.map_batches(Embedder, concurrency=1, batch_size=16).take_all()
    finally:
        ray.shutdown()
    assert len(rows) == 50
    found = {row["text"]: row["embedding"] for row in rows}
    np.testing.assert_allclose(found["text 7"], engine.embed(["text 7"])[0], atol=1e-5)


def test_command_line(engine: Any, source: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    from xlm.cli import main

    given = ["embed", "--input", str(source), "--output", str(tmp_path / "out"), "--rows", "5", "--json"]
    for shard in ("0/2", "1/2"):
        assert main([*given, "--shard", shard]) == 0
    done = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert sum(one["rows"] for one in done) == 32 and len(read(tmp_path / "out")) == 32
    assert main(["embed", "--input", str(source)]) == 1
    assert b"--output must name a folder" in capsysbinary.readouterr().err
    assert main([*given, "text"]) == 1
    assert b"give one or the other" in capsysbinary.readouterr().err


def test_long_texts_are_read_in_windows(engine: Any, source: Path, tmp_path: Path) -> None:
    done = embed_files(engine, source, tmp_path / "out", long="windows", pooling="max")
    assert (done.rows, done.bad) == (33, 2)
    wanted = engine.embed(["long " * 600], "max", long="windows")[0]
    np.testing.assert_allclose(read(tmp_path / "out")["a.jsonl", 12], wanted, atol=2e-6)


def test_cut_texts_are_marked_and_counted(
    engine: Any, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from xlm.cli import main

    done = embed_files(engine, source, tmp_path / "out", rows_a_part=5, truncate=True)
    assert (done.rows, done.bad, done.truncated) == (33, 2, 1)
    rows = [
        row for part in all_parts(tmp_path / "out") for row in pq.read_table(tmp_path / "out" / part.file).to_pylist()
    ]
    assert [(Path(row["source"]).name, row["row"]) for row in rows if row["truncated"]] == [("a.jsonl", 12)]
    assert "truncated" not in pq.read_table(_one_part(engine, source, tmp_path / "whole")).column_names
    assert main(["embed", "--input", str(source), "-o", str(tmp_path / "cli"), "--truncate"]) == 0
    assert "2 bad rows, 1 texts cut" in " ".join(capsys.readouterr().out.split())


def _one_part(engine: Any, source: Path, output: Path) -> Path:
    embed_files(engine, source, output)
    return output / next(all_parts(output)).file


def test_files_at_a_url(engine: Any, source: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.put(str(source), "/bucket/texts", recursive=True)
    try:
        embed_files(engine, source, tmp_path / "here", rows_a_part=5)
        for index in range(2):
            embed_files(engine, "memory://bucket/texts", tmp_path / "there", rows_a_part=5, shard=(index, 2))
        here, there = read(tmp_path / "here"), read(tmp_path / "there")
        assert here.keys() == there.keys()
        for key in here:
            np.testing.assert_allclose(here[key], there[key], atol=2e-6)
        bad = [
            json.loads(line)["where"]
            for path in (tmp_path / "there").glob("bad-*")
            for line in path.read_text("utf-8").splitlines()
        ]
        assert sorted(bad) == [f"memory:///bucket/texts/a.jsonl:{n}" for n in (10, 12, 8)]
        one = embed_files(engine, "memory://bucket/texts/b.txt", tmp_path / "one")
        assert one.rows == 12
        with pytest.raises(DataError, match=r"memory://bucket/none: no file there"):
            embed_files(engine, "memory://bucket/none", tmp_path / "none")
    finally:
        store.rm("/bucket", recursive=True)


def test_unknown_and_missing_stores_are_named(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"nosuch://x: .*nosuch"):
        embed_files(engine, "nosuch://x", tmp_path / "out")
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # it may be known already
    with pytest.raises(MissingExtraError, match="s3fs"):
        embed_files(engine, "s3://bucket/texts", tmp_path / "out")


@pytest.mark.slow
def test_files_of_an_s3_bucket(engine: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    server = pytest.importorskip(
        "moto.server", reason="pip install moto[server]: an S3 of this machine"
    ).ThreadedMotoServer
    for name, value in {"ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv("AWS_" + name, value)
    running = server(port=0)
    running.start()
    try:
        _, port = running.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        import s3fs

        store = s3fs.S3FileSystem(skip_instance_cache=True)
        store.mkdir("bucket")
        store.put(str(source), "bucket/texts", recursive=True)
        done = embed_files(engine, "s3://bucket/texts", tmp_path / "out", rows_a_part=5)
        again = embed_files(engine, "s3://bucket/texts", tmp_path / "out", rows_a_part=5)
    finally:
        running.stop()
    assert (done.rows, done.bad, done.written) == (32, 3, 8) and (again.written, again.kept) == (0, 8)
    embed_files(engine, source, tmp_path / "here", rows_a_part=5)
    here, there = read(tmp_path / "here"), read(tmp_path / "out")
    for key in here:
        np.testing.assert_allclose(here[key], there[key], atol=2e-6)


def test_the_class_for_ray_loads_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("xlm.inference.engine.load", lambda *names, **options: asked.append((names, options)))
    Embedder("folder", device="cuda:1", lang="fr", pooling="cls")
    Embedder("folder", "bfloat16")
    assert asked[0] == (("folder",), {"dtype": None, "device": "cuda:1", "lang": "fr"})  # int8 where the folder is
    assert asked[1] == (("folder",), {"dtype": "bfloat16", "device": None, "lang": None})
