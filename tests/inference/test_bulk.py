"""Files to Parquet parts: every row once, whatever is killed, shared or run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xlm
from xlm.errors import DataError, InputError, OutputError
from xlm.inference.bulk import Embedder, all_parts, embed_files, parse_shard

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
    np.testing.assert_allclose([one["a.jsonl", 3], one["b.txt", 11]], wanted, atol=2e-6)
    bad = [json.loads(line) for line in (tmp_path / "whole" / "bad-0-of-1.jsonl").read_text("utf-8").splitlines()]
    assert sorted(row["where"].rsplit(":", 1)[1] for row in bad) == ["10", "12", "8"]


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


def test_other_settings_are_refused(engine: Any, source: Path, tmp_path: Path) -> None:
    embed_files(engine, source, tmp_path / "out", rows_a_part=50)
    with pytest.raises(OutputError, match=r"other settings \(rows_a_part\)"):
        embed_files(engine, source, tmp_path / "out", rows_a_part=5)


def test_bad_arguments(engine: Any, tmp_path: Path) -> None:
    for text in ("", "1", "2/2", "a/b", "-1/2"):
        with pytest.raises(InputError, match="must be i/n"):
            parse_shard(text)
    with pytest.raises(DataError, match="no file there"):
        embed_files(engine, tmp_path, tmp_path / "out")


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
