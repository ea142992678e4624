"""xlm corpus build on Slurm and Ray makes the corpus that it makes here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("zstandard")

import slurm
from xlm.data.corpora.build import Built, build_corpus, prepare
from xlm.data.corpora.cluster import on_ray, on_slurm
from xlm.data.corpora.executors import executor_named
from xlm.data.corpora.options import Cleaning, CorpusOptions, parse_sources
from xlm.data.corpora.run import Stage
from xlm.errors import ConfigError, DataError

WORDS = "the capital of France is a city hello world Paris river mountain of many old trees and stones".split()
SLURM = {"partition": "cpu", "time": "1:00:00", "account": "me"}


def lines(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(6, 14))) + f" {seed} {n}" for n in range(count)]


@pytest.fixture
def options(tmp_path: Path, tiny_model: Path) -> CorpusOptions:
    """Three shards of two languages, with texts that are equal and nearly equal across files."""
    shared = lines(40, 0)
    (tmp_path / "en.txt").write_text("\n".join([*lines(220, 1), *shared]))
    (tmp_path / "sw.txt").write_text("\n".join([*shared, *(f"{line} more" for line in lines(30, 1)), *lines(200, 2)]))
    sources = parse_sources([str(tmp_path / "en.txt"), str(tmp_path / "sw.txt")])
    cleaning = Cleaning(dedup="near")
    return CorpusOptions(sources, tmp_path / "out", tiny_model, held_out=0.1, shard_bytes=12_000, cleaning=cleaning)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    state = slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{tmp_path / 'slurm' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    return state


def content(built: Built) -> Any:
    """Every file of the stores by its hash, and all counts."""
    folder = built.folder / built.about["data"]
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    assert len(files) > 8
    return files, {name: built.about[name] for name in ("key", "parts", "documents", "rows", "bad_rows")}


def here(options: CorpusOptions) -> Built:
    return build_corpus(dataclasses.replace(options, out=options.out.with_name("here")))


@pytest.mark.slow
def test_slurm_makes_the_same_corpus(options: CorpusOptions, cluster: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    built = build_corpus(options, executor=on_slurm(SLURM, 5, 0.2), tell=lambda *state: told.append(state))
    assert content(built) == content(here(options))
    counts = built.about["documents"]["text"].values()
    assert sum(of.get("duplicate", 0) for of in counts) == 40
    assert sum(of.get("near duplicate", 0) for of in counts) > 0
    jobs = [json.loads(path.read_text()) for path in sorted(cluster.glob("*.ended"), key=lambda p: int(p.stem))]
    assert [job["directives"]["job-name"] for job in jobs] == [
        "xlm-clean", "xlm-exact-signatures", "xlm-exact-duplicates", "xlm-near-signatures", "xlm-near-buckets",
        "xlm-near-clusters", "xlm-tokens",
    ]  # fmt: skip
    assert jobs[4]["directives"]["array"] == "0-13%5" and jobs[4]["directives"]["account"] == "me"
    assert "qos" not in jobs[0]["directives"] and ("near buckets", 14, 14) in told
    assert build_corpus(options, executor=on_slurm(SLURM)).existed


@pytest.mark.slow
def test_what_fails_on_a_node_is_said_where_the_build_was_started(options: CorpusOptions, cluster: Path) -> None:
    source = Path(options.sources[0].path)
    text = source.read_bytes()
    source.write_bytes(b"\xff\n" + text)
    strict = dataclasses.replace(options, bad_rows=0, cleaning=Cleaning())
    with pytest.raises(DataError, match=r"en\.txt:1: invalid UTF-8.*bad_rows allows 0"):
        build_corpus(strict, executor=on_slurm(SLURM, every=0.2))
    source.write_bytes(text)
    built = build_corpus(strict, executor=on_slurm(SLURM, every=0.2))
    assert content(built) == content(here(strict))


@pytest.mark.slow
def test_a_build_that_was_stopped_waits_for_the_job_that_it_submitted(
    options: CorpusOptions, cluster: Path, tmp_path: Path
) -> None:
    files = [source.path for source in options.sources]
    command = [sys.executable, "-m", "xlm", "corpus", "build", *files, "-o", str(options.out), "--held-out", "0.1"]
    command += ["--tokenizer", str(options.tokenizer), "--shard-size", "12000", "--executor", "slurm"]
    command += ["--cluster", "partition=cpu", "--cluster", "time=1:00:00"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(options.out.glob(".work-*/slurm/clean.json")) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    plain = dataclasses.replace(options, cleaning=Cleaning())
    built = build_corpus(plain, executor=on_slurm(SLURM, every=0.2))
    assert content(built) == content(here(plain))
    assert len(list(cluster.iterdir())) == 2  # one for each of the two stages


def test_slurm_says_what_it_lacks(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, message in (
        ({}, "executor slurm needs partition, like partition=cpu"),
        ({"partition": "cpu"}, "needs time"),
        (SLURM | {"array": "0-3"}, "array is set by the build"),
    ):
        with pytest.raises(ConfigError, match=message), on_slurm(settings):
            """Never entered."""
    (tmp_path / "slurm" / "bin" / "sbatch").write_text("#!/bin/sh\nexit 3\n")
    with (
        on_slurm(SLURM) as run,
        pytest.raises(ConfigError, match=r"stage 'near clusters' cannot be submitted.*status 3"),
    ):
        run(Stage("near clusters", [], 1, tmp_path), lambda *state: None)
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_ARRAY_TASK_ID", "1")
        with pytest.raises(ConfigError, match="a task of a job array"), on_slurm(SLURM):
            """Never entered."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no sbatch and no squeue on PATH"), on_slurm(SLURM):
        """Never entered."""


def test_a_task_that_ends_without_a_word_is_an_error(tmp_path: Path) -> None:
    stage = Stage("tokens", [], 3, tmp_path)
    assert stage.run(1) is None and stage.left() == [0, 2]
    with pytest.raises(
        DataError, match=r"stage 'tokens': 2 of 3 tasks ended without a reason, the first is task 0 .job 7"
    ):
        stage.settle("job 7")

    def broken(data: Any, rank: int, world: int) -> None:
        raise ZeroDivisionError("of zero")

    failing = Stage("tokens", [broken], 3, tmp_path)
    with pytest.raises(ZeroDivisionError):
        failing.run_and_report(2)
    with pytest.raises(DataError, match="stage 'tokens', task 2: ZeroDivisionError: of zero"):
        stage.settle("job 7")
    stage.forget_failures()
    with pytest.raises(DataError, match="without a reason"):
        stage.settle("job 7")


def test_executors_are_named(options: CorpusOptions) -> None:
    with pytest.raises(ConfigError, match="executor is 'k8s': it must be local, slurm or ray"):
        executor_named("k8s")
    with pytest.raises(ConfigError, match="executor local takes no settings, not partition"):
        executor_named("local", {"partition": "cpu"})
    with pytest.raises(ConfigError, match="executor ray takes address, cpus, memory, not time"), on_ray({"time": "1"}):
        """Never entered."""
    with pytest.raises(ConfigError, match="cpus is '0'"), on_ray({"cpus": "0"}):
        """Never entered."""
    with executor_named("local", workers=1) as run:
        assert prepare(options).work.is_dir() and callable(run)


def test_ray_says_that_no_cluster_is_there() -> None:
    pytest.importorskip("ray")
    message = r"no Ray cluster at address '127.0.0.1:1' .*refused.*ray start --head"
    with pytest.raises(ConfigError, match=message), on_ray({"address": "127.0.0.1:1"}):
        """Never entered."""


@pytest.mark.slow
def test_ray_makes_the_same_corpus(options: CorpusOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(ConfigError, match="no node has them; the largest has 2 CPUs"), on_ray({"cpus": "64"}):
            """Never entered."""
        built = build_corpus(options, executor=on_ray({"memory": "1"}, every=0.5))
        assert content(built) == content(here(options)) and ray.is_initialized()
        source = Path(options.sources[0].path)
        source.write_bytes(b"\xff\n" + source.read_bytes())
        strict = dataclasses.replace(options, out=options.out.with_name("strict"), bad_rows=0, cleaning=Cleaning())
        with pytest.raises(DataError, match=r"en\.txt:1: invalid UTF-8"):
            build_corpus(strict, executor=on_ray({"memory": "1"}))
    finally:
        ray.shutdown()
