"""Runs end to end: they learn, stop and go on without a bit's difference, and survive what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import xlm
from xlm.data.vocabulary import load_vocabulary
from xlm.errors import CheckpointError, ConfigError, OutputError
from xlm.folders import verify_folder
from xlm.training import pretrain as loop
from xlm.training import state, trainer
from xlm.training.building import language_ids, open_corpus
from xlm.training.evaluate import Validation
from xlm.training.output import run_lock
from xlm.training.pretrain import EXIT_STOPPED, pretrain
from xlm.training.recipe import load_recipe
from xlm.training.steps import StepBuilder
from xlm.training.trainer import NonFiniteLoss

Toy = Callable[..., Path]


def run(path: Path, *assignments: str, output: Path | None = None, resume: bool | None = None) -> loop.Outcome:
    return pretrain(load_recipe(path, assignments, output and str(output)), resume=resume, quiet=True)


def same_state(a: Path, b: Path) -> None:
    """Weights and optimizer states of two checkpoints are equal bit for bit."""
    left, right = (xlm.XLMRobertaForMaskedLM.from_pretrained(x / "model").state_dict() for x in (a, b))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    left, right = (torch.load(x / "optimizer.pt", weights_only=True) for x in (a, b))
    assert left.keys() == right.keys() and left
    for name in left:
        assert all(torch.equal(left[name][key], right[name][key]) for key in left[name]), name


def start(path: Path, output: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "xlm.cli", "pretrain", str(path), "-o", str(output), *arguments]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end and process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def test_a_run_learns_and_leaves_a_model_that_loads(toy: Toy, tmp_path: Path) -> None:
    path = toy(optimizer__learning_rate=1e-2)
    outcome = run(path, "schedule.steps=60", "every.evaluate=20")
    assert outcome.finished and outcome.model
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    train, valid = ([r for r in records if r["kind"] == kind] for kind in ("train", "valid"))
    assert train[-1]["loss_mlm"] < train[0]["loss_mlm"] - 1.5
    assert valid[-1]["loss"] < valid[0]["loss"] < 6.4 and len(valid) == 3
    assert 0 < outcome.retrieval["sw"] <= 1
    assert {"loss_mlm", "loss_tlm", "loss_contrastive", "loss_mlm_pairs", "tokens_per_second"} <= train[-1].keys()
    assert (tmp_path / "run" / "loss.png").stat().st_size > 1000
    model = xlm.XLMRobertaForMaskedLM.from_pretrained(outcome.model)
    assert model.config.vocab_size == len(xlm.XLMRobertaTokenizer.from_pretrained(outcome.model))
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 2


def test_kill_minus_nine_and_going_on_changes_no_bit(toy: Toy, tmp_path: Path) -> None:
    path = toy()
    run(path, "schedule.steps=30", output=tmp_path / "whole")
    process = start(path, tmp_path / "killed", "--set", "schedule.steps=30")
    try:
        wait_for(lambda: list((tmp_path / "killed" / "checkpoints").glob("step-*")), process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    checkpoints = state.checkpoint_folders(tmp_path / "killed")
    assert 0 < int(checkpoints[-1].name[5:]) < 30
    outcome = run(path, "schedule.steps=30", output=tmp_path / "killed", resume=True)
    assert outcome.finished
    same_state(tmp_path / "whole" / "checkpoints" / "step-30", tmp_path / "killed" / "checkpoints" / "step-30")
    last = [json.loads((tmp_path / x / "metrics.jsonl").read_text().splitlines()[-2]) for x in ("whole", "killed")]
    assert last[0]["loss_mlm"] == last[1]["loss_mlm"] and last[0]["tokens"] == last[1]["tokens"]


def test_sigterm_saves_and_has_its_own_exit_code(toy: Toy, tmp_path: Path) -> None:
    path, output = toy(), tmp_path / "run"
    process = start(path, output, "--set", "schedule.steps=100000", "--set", "every.checkpoint=0")
    try:
        wait_for(lambda: (output / "metrics.jsonl").exists() and (output / "metrics.jsonl").stat().st_size, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == EXIT_STOPPED
    assert len(state.checkpoint_folders(output)) == 1


def test_max_minutes_stops_and_the_next_run_goes_on(toy: Toy, tmp_path: Path) -> None:
    path = toy()
    outcome = run(path, "schedule.steps=6", "max_minutes=1e-9")
    assert not outcome.finished and outcome.step == 1
    assert run(path, "schedule.steps=6").finished
    run(path, "schedule.steps=6", output=tmp_path / "whole")
    same_state(tmp_path / "whole" / "checkpoints" / "step-6", tmp_path / "run" / "checkpoints" / "step-6")


def test_a_schedule_of_minutes_ends_on_time(toy: Toy) -> None:
    outcome = run(toy(schedule={"minutes": 0.03}))
    assert outcome.finished and 1.8 <= outcome.seconds < 6


def test_another_recipe_does_not_resume_and_fresh_sets_aside(toy: Toy, tmp_path: Path) -> None:
    path = toy()
    run(path, "schedule.steps=3")
    with pytest.raises(ConfigError, match=r"belongs to another recipe \(schedule.steps was 3, is 4\)"):
        run(path, "schedule.steps=4")
    outcome = run(path, "schedule.steps=4", resume=False)
    assert outcome.step == 4
    assert (tmp_path / "run" / "previous-1" / "checkpoints" / "step-3").is_dir()
    with pytest.raises(ConfigError, match="no checkpoint to resume"):
        run(path, output=tmp_path / "other", resume=True)


def test_a_damaged_checkpoint_is_reported_not_skipped(toy: Toy, tmp_path: Path) -> None:
    path = toy()
    run(path, "schedule.steps=6")
    weights = tmp_path / "run" / "checkpoints" / "step-6" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .* bytes.*remove the folder to go on from step-3"):
        run(path, "schedule.steps=6")


def test_a_second_writer_is_refused_at_once(toy: Toy, tmp_path: Path) -> None:
    with run_lock(tmp_path / "run"), pytest.raises(OutputError, match=rf"process {os.getpid()} on .* writes into"):
        run(toy())


def test_a_non_finite_loss_stops_before_the_update(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, calls = toy(), trainer.masked_loss, []

    def poisoned(model, states, micro, scale):
        calls.append(micro)
        return real(model, states * float("nan") if len(calls) > 12 else states, micro, scale)

    monkeypatch.setattr(trainer, "masked_loss", poisoned)
    with pytest.raises(NonFiniteLoss, match=r"step \d+: gradient is nan, .*stopped before the update.*languages"):
        run(path, "every.checkpoint=1")
    (dump,) = (tmp_path / "run").glob("nonfinite-step-*.json")
    assert json.loads(dump.read_text())["micro_batches"][0]["ids"]
    newest = state.checkpoint_folders(tmp_path / "run")[-1]
    model = xlm.XLMRobertaForMaskedLM.from_pretrained(newest / "model")
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_full_disk_is_survived_and_leaves_nothing(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, full = toy(), torch.save, []

    def save(value, target, *rest):
        if not full:
            full.append(True)
            target.write_bytes(b"half")
            raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")
        real(value, target, *rest)

    monkeypatch.setattr(state.torch, "save", save)
    assert run(path).finished and full
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step-6", "step-8"]
    monkeypatch.setattr(state.torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="could not be written; earlier ones are intact"):
        run(path, "seed=2", output=tmp_path / "second")
    assert list((tmp_path / "second" / "checkpoints").iterdir()) == []


def test_an_unwritable_output_folder_is_named(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"output=.*run. cannot be made"):
        run(toy(), output=tmp_path / "file" / "run")


def test_a_length_beyond_the_models_positions_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="length 65, but the model has positions for 64 tokens"):
        run(toy(batch__phases=[{"length": 65}]))


@pytest.mark.parametrize("family", ["xlm", "xlm-roberta-xl"])
def test_the_other_families_train_too(toy: Toy, family: str) -> None:
    config = {"emb_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64}
    if family != "xlm":
        config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    changes = {"model__config": config, "model__family": family, "objectives__tlm__reset_positions": True}
    outcome = run(toy(**changes, data__first_token="eos", masking__selection="xlm"), "schedule.steps=2")
    assert outcome.finished


def test_languages_have_the_ids_of_the_config(toy: Toy, tmp_path: Path) -> None:
    size = {"emb_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64}
    options = {"model__family": "xlm", "objectives": {"mlm": {}}, "optimizer__learning_rate": 1e-2}
    numbered = run(toy(**options, model__config=size), "schedule.steps=2", output=tmp_path / "numbered")
    config = xlm.XLMConfig.from_pretrained(numbered.model)
    assert (config.n_langs, config.lang2id, config.id2lang) == (2, {"en": 0, "sw": 1}, {"0": "en", "1": "sw"})

    ids = {"sw": 2, "fr": 1, "en": 0}
    path = toy(**options, model__config=size | {"lang2id": ids})
    given = run(path, "schedule.steps=1", output=tmp_path / "given")
    config = xlm.XLMConfig.from_pretrained(given.model)
    assert (config.n_langs, config.lang2id) == (3, ids)
    again = run(
        toy(**options, model__path=str(given.model), model__config={}), "schedule.steps=1", output=tmp_path / "on"
    )
    rows = [
        xlm.XLMModel.from_pretrained(one.model).get_parameter("embeddings.language_embeddings.weight")
        for one in (given, again)
    ]
    learnt = [not torch.allclose(a, b, rtol=1e-3) for a, b in zip(*rows, strict=True)]  # weight decay reaches all
    assert learnt == [True, False, True]

    del ids["fr"], ids["sw"]
    with pytest.raises(ConfigError, match=r"model.config.lang2id: no id for sw; it has en"):
        run(toy(**options, model__config=size | {"lang2id": ids}), output=tmp_path / "no")


def test_a_model_without_language_embeddings_goes_on_in_any_language(toy: Toy, tmp_path: Path) -> None:
    size = {"emb_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64, "use_lang_emb": False}
    options = {"model__family": "xlm", "objectives": {"mlm": {}}}
    ids = {"lang2id": {"en": 0, "sw": 1, "fr": 2}}
    first = run(toy(**options, model__config=size | ids), "schedule.steps=1", output=tmp_path / "first")
    config = json.loads((first.model / "config.json").read_text("utf-8"))
    (first.model / "config.json").write_text(json.dumps(config | {"lang2id": {"fr": 0, "de": 1}}), "utf-8")
    path = toy(**options, model__path=str(first.model), model__config={})
    assert run(path, "schedule.steps=1", output=tmp_path / "second").finished


def test_held_out_scores_of_a_causal_model_are_those_of_next_tokens(toy: Toy, tmp_path: Path) -> None:
    config = {"emb_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64}
    path = toy(objectives={"clm": {}}, model__family="xlm", model__config=config, optimizer__learning_rate=1e-2)
    outcome = run(path, "schedule.steps=60")
    for score in outcome.scores.values():  # what follows is learnt from the tokens before, no mask was ever seen
        assert score.loss < score.unigram_loss - 0.3 and score.predictions > 400


def test_held_out_pairs_are_read_in_their_languages(toy: Toy) -> None:
    builder, validation = validating(toy(model__family="xlm"))
    micro, texts, translations = validation._pairs["sw"]
    starts = np.cumsum([0, *micro.lengths])
    spoken = [set(micro.languages[a:b].tolist()) for a, b in pairwise(starts)]
    assert {tuple(spoken[i]) for i in texts} == {(builder.language_ids["sw"],)}
    assert {tuple(spoken[i]) for i in translations} == {(builder.language_ids["en"],)}


def validating(path: Path) -> tuple[StepBuilder, Validation]:
    recipe = load_recipe(path)
    vocabulary = load_vocabulary(recipe.path(recipe.tokenizer))
    corpus = open_corpus(recipe, vocabulary, path.parent / "run", lambda message: None)
    ids = language_ids(recipe, corpus.languages(recipe.data.pivot))
    builder = StepBuilder(recipe, vocabulary, corpus.texts, corpus.pairs, ids)
    return builder, Validation(builder, vocabulary, corpus.valid, corpus.texts, corpus.held_out)


def test_a_stopped_run_has_no_model_and_says_so(toy: Toy, tmp_path: Path) -> None:
    outcome = run(toy(objectives={"mlm": {}}), "schedule.steps=50", "max_minutes=1e-9")
    with pytest.raises(CheckpointError, match=r"no model: it was stopped at step 1 of 50 \(max_minutes .* goes on"):
        _ = outcome.model
    assert outcome.record()["model"] is None and not outcome.finished


def test_clm_trains_beside_mlm_and_tlm(toy: Toy, tmp_path: Path) -> None:
    config = {"emb_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64}
    path = toy(objectives={"mlm": {}, "clm": {}, "tlm": {}}, model__family="xlm", model__config=config)
    assert run(path, "schedule.steps=2", "every.log=1").finished
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert {"loss_mlm", "loss_clm", "loss_tlm"} <= record.keys()


@pytest.mark.filterwarnings("ignore:.*without is_decoder=True")
@pytest.mark.parametrize("family", ["xlm", "xlm-roberta"])
def test_causal_models_learn_the_next_token(toy: Toy, tmp_path: Path, family: str) -> None:
    config = {"emb_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64}
    changes = {"model__config": config} if family == "xlm" else {}
    path = toy(objectives={"clm": {}}, model__family=family, optimizer__learning_rate=1e-2, **changes)
    assert run(path, "schedule.steps=30", "gradient_checkpointing=true" if family != "xlm" else "seed=1").finished
    train = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [r["loss_clm"] for r in train if r["kind"] == "train"]
    assert losses[-1] < losses[0] - 1
    with pytest.raises(ConfigError, match="sees both sides"):
        run(path, "model.config.is_decoder=false", "model.config.causal=false", output=tmp_path / "other")


@pytest.mark.slow
def test_two_processes_compute_what_one_does(toy: Toy, tmp_path: Path) -> None:
    path = toy(model__config__hidden_dropout_prob=0.0, model__config__attention_probs_dropout_prob=0.0)
    changes = ["schedule.steps=4", "objectives.contrastive=null", "precision=fp32"]
    run(path, *changes, output=tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "xlm.cli"]
    command += ["pretrain", str(path), "-o", str(tmp_path / "two"), *(x for c in changes for x in ("--set", c))]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one, two = (
        xlm.XLMRobertaForMaskedLM.from_pretrained(tmp_path / name / "model").state_dict() for name in ("one", "two")
    )
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=2e-5, msg=name)
    records = [json.loads((tmp_path / x / "metrics.jsonl").read_text().splitlines()[-2]) for x in ("one", "two")]
    assert records[0]["loss_mlm"] == pytest.approx(records[1]["loss_mlm"], rel=1e-4)
    assert records[0]["tokens"] == records[1]["tokens"]


def processes(count: int, path: Path, output: Path, *changes: str) -> subprocess.CompletedProcess[str]:
    """``xlm pretrain`` under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += ["-m", "xlm.cli", "pretrain", str(path), "-o", str(output), *(x for c in changes for x in ("--set", c))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_cut_model_is_the_whole_one_and_goes_on_with_other_processes(toy: Toy, tmp_path: Path) -> None:
    """2 processes -> 1 -> 2, each resuming the other's checkpoint, reach what one process does at once."""
    path = toy(model__config__hidden_dropout_prob=0.0, model__config__attention_probs_dropout_prob=0.0)
    common = ["objectives.contrastive=null", "schedule.steps=6", "every.checkpoint=2", "every.evaluate=2"]
    common += [
        "precision=fp32",
        "objectives.tlm=null",
        "batch.tokens=480",
    ]  # of micro-batches an odd number: one process waits for the other
    run(path, *common, output=tmp_path / "one")
    cut, output = [*common, "parallel=shard"], tmp_path / "two"

    def stopped(count: int, *more: str) -> str:
        done = processes(count, path, output, *cut, *more)
        assert done.returncode == (EXIT_STOPPED if more else 0) or "stopped at step" in done.stderr, done.stderr
        return done.stderr

    stopped(2, "max_minutes=1e-9")
    assert (output / "checkpoints" / "step-1" / "shards").is_dir()
    assert run(path, *cut, "max_minutes=1e-9", output=output).step == 2
    assert (output / "checkpoints" / "step-2" / "model").is_dir()
    assert "resumed" in stopped(2)
    one, two = (
        xlm.XLMRobertaForMaskedLM.from_pretrained(tmp_path / name / "model").state_dict() for name in ("one", "two")
    )
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=5e-5, msg=name)
    assert json.loads((output / "model" / "config.json").read_text())["architectures"] == ["XLMRobertaForMaskedLM"]
    records = [json.loads((tmp_path / x / "metrics.jsonl").read_text().splitlines()[-1]) for x in ("one", "two")]
    assert records[0]["kind"] == "valid" and records[0]["loss"] == pytest.approx(records[1]["loss"], rel=1e-3)


@pytest.mark.slow
def test_when_a_process_dies_the_others_end_and_the_next_start_goes_on(toy: Toy, tmp_path: Path) -> None:
    path = toy(objectives={"mlm": {}}, schedule__steps=10**6, every__checkpoint=5)
    output = tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "xlm.cli", "pretrain", str(path), "-o", str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as started:
        deadline = time.monotonic() + 300
        while not list((output / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
            assert started.poll() is None
            time.sleep(0.5)
        children = subprocess.run(["pgrep", "-P", str(started.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(children[-1]), signal.SIGKILL)
        told = started.communicate(timeout=120)[1]
    assert started.returncode not in (0, EXIT_STOPPED)
    assert "SIGKILL" in told or "Signal 9" in told or "exitcode  : -9" in told
    verify_folder(state.checkpoint_folders(output)[-1])
    again = processes(2, path, output, "max_minutes=1e-9")
    assert "resumed from" in again.stderr and "stopped at step" in again.stderr
