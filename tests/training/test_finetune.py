"""Fine-tuning of every task from files to a folder that the engine answers with; resume, adapters, alarms, bad input."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
import toytasks
import xlm
from xlm.errors import CheckpointError, ConfigError, DataError, InputError
from xlm.tasks.answer import Answer
from xlm.tasks.base import Item
from xlm.tasks.choose import Choose
from xlm.tasks.classify import Classify
from xlm.tasks.embed import Embed
from xlm.tasks.examples import ChoiceExample, Gold, PairExample, QuestionExample, TaggedExample, TextExample
from xlm.tasks.language import Fill, Generate
from xlm.tasks.rerank import Rerank
from xlm.tasks.tag import Tag
from xlm.training import finetune_alarms as alarms
from xlm.training.finetune import finetune
from xlm.training.finetune import run as finetune_run
from xlm.training.finetune_best import best_folder, keep_best
from xlm.training.finetune_data import prepare
from xlm.training.finetune_loss import Head
from xlm.training.finetune_recipe import load_finetune, make_recipe, model_path
from xlm.training.finetune_steps import Plan, by_tokens, packed
from xlm.training.recipe import changed_values

pytestmark = pytest.mark.filterwarnings("ignore")
FAST: dict[str, Any] = {"learning_rate": 5e-3, "batch": 16, "precision": "fp32", "quiet": True, "log": 2, "threads": 1}


@pytest.fixture(autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return toytasks.checkpoint(tmp_path / "base")


def files(folder: Path, task: str, count: int = 96) -> dict[str, str]:
    train = toytasks.write(folder / f"{task}.train.jsonl", toytasks.rows(task, count, 1))
    held_out = toytasks.write(folder / f"{task}.dev.jsonl", toytasks.rows(task, 24, 2))
    return {"train": str(train), "eval": str(held_out)}


# task -> the least score that a model must reach which learnt the toy's rule, far from chance
REACHED = {"classify": 0.95, "tag": 0.95, "answer": 90.0, "choose": 0.95, "rerank": 0.9, "embed": 0.2}


@pytest.mark.parametrize("task", toytasks.TASKS)
def test_every_task_is_learnt_and_answers(task: str, base: Path, tmp_path: Path) -> None:
    epochs = {"answer": 14, "choose": 10, "rerank": 10, "tag": 6}.get(task, 5)
    options = FAST if task in REACHED else {**FAST, "batch": 2}
    outcome = finetune(task, base, **files(tmp_path, task), output=tmp_path / "run", epochs=epochs, **options)
    assert outcome.finished and outcome.model is not None
    if task in REACHED:
        assert outcome.scores[make_metric(task)] >= REACHED[task], outcome
    else:
        lines = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
        losses = [row["loss"] for row in map(json.loads, lines) if row["kind"] == "valid"]
        assert len(losses) == epochs and outcome.scores["loss"] == min(losses) < losses[0] - 0.3
    card = (outcome.model / "README.md").read_text("utf-8")
    assert f"fine-tuned: {task}" in card and "Not filled in" not in card
    assert json.loads((outcome.model / "scores.json").read_text("utf-8")) == outcome.scores
    engine = xlm.load(outcome.model)
    if task == "classify":
        found = engine.classify(["the film was good .", "the film was sad ."])
        assert [one["labels"][0]["label"] for one in found] == ["pos", "neg"]
        assert sum(label["probability"] for label in found[0]["labels"]) == pytest.approx(1.0)
    elif task == "tag":
        text = "  Ana was\tin Oslo."
        spans = engine.tag([text])[0]["spans"]
        assert [(span["text"], span["label"]) for span in spans] == [("Ana", "PER"), ("Oslo", "LOC")]
        assert all(text[span["start"] : span["end"]] == span["text"] for span in spans)
        assert engine.tag_words([["Ben", "", "was"], []]) == [["B-PER", "O", "O"], []]
    elif task == "answer":
        context = "Dora was in Lima . the film was nice ."
        best = engine.answer(["Where is Dora ?"], [context])[0]["answers"][0]
        assert best["text"] == "Lima" and context[best["start"] : best["end"]] == "Lima"
    elif task == "choose":
        assert engine.choose(["the film was"], [["sad", "nice"]])[0]["best"] == 1
    elif task == "rerank":
        found = engine.rerank("Where is Ana ?", ["Ben .", "Ana was in Rome"])
        assert found[0]["index"] == 1 and found[0]["score"] > found[1]["score"]
    elif task == "embed":
        assert engine.embed(["Where is Ana ?"]).shape == (1, 16)
        assert not any("pooler" in name for name in engine.model.state_dict())
    elif task == "fill":
        assert len(engine.fill_mask(["Ana was <mask> Rome"])[0]["masks"][0]) == 5
    else:
        first = engine.generate(["Ana was"], max_new_tokens=4)
        assert first == engine.generate(["Ana was"], max_new_tokens=4) and first[0]["text"] == "Ana was"


def make_metric(task: str) -> str:
    return {"tag": "f1", "answer": "f1", "rerank": "mrr"}.get(task, "accuracy")


@pytest.mark.parametrize("family", ["xlm", "xlm-roberta-xl"])
@pytest.mark.parametrize("task", ["classify", "tag", "choose", "answer"])
def test_other_families_run_the_same(task: str, family: str, tmp_path: Path) -> None:
    folder = toytasks.checkpoint(tmp_path / "other", family)
    outcome = finetune(task, folder, **files(tmp_path, task, 32), output=tmp_path / "run", epochs=1, **FAST)
    assert outcome.finished and make_metric(task) in outcome.scores
    xlm.load(outcome.model)


def test_packed_training_scores_as_the_documented_class(base: Path, tmp_path: Path) -> None:
    """The head on packed rows gives the logits of the documented forward on padded ones."""
    outcome = finetune("classify", base, **files(tmp_path, "classify"), output=tmp_path / "run", epochs=1, **FAST)
    model = xlm.AutoModelForSequenceClassification.from_pretrained(outcome.model).eval()
    tokenizer = xlm.AutoTokenizer.from_pretrained(outcome.model)
    texts = ["the film was good .", "Ana", "the film was sad and Ben saw the film ."]
    with torch.no_grad():
        want = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    for row, answer in zip(want, xlm.load(outcome.model).classify(texts), strict=True):
        for label in answer["labels"]:
            assert label["probability"] == pytest.approx(float(row[model.config.label2id[label["label"]]]), abs=1e-5)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_resume_is_exact(kind: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xlm.training import finetune_loop as module

    given = files(tmp_path, "classify")
    options = {**FAST, "epochs": 3, "dropout": 0.1, "tuning": {"kind": kind}, "evaluations": 2.0}
    whole = finetune("classify", base, **given, output=tmp_path / "whole", **options)

    class Interrupted(module.Signals):
        """Asks to stop after the seventh look."""

        looks = 0

        @property
        def asked(self) -> str | None:
            type(self).looks += 1
            return "SIGTERM" if type(self).looks > 14 else None

        @asked.setter
        def asked(self, value: str | None) -> None:
            assert value is None or value in signal.Signals.__members__

    with monkeypatch.context() as patch:
        patch.setattr(module, "Signals", Interrupted)
        part = finetune("classify", base, **given, output=tmp_path / "parts", **options)
    assert not part.finished and 0 < part.step < whole.step
    rest = finetune("classify", base, **given, output=tmp_path / "parts", resume=True, **options)
    assert rest.finished and rest.scores == whole.scores and rest.step == whole.step
    want = xlm.AutoModelForSequenceClassification.from_pretrained(whole.model)
    got = xlm.AutoModelForSequenceClassification.from_pretrained(rest.model)
    for name, parameter in want.named_parameters():
        assert torch.equal(parameter, got.get_parameter(name)), name


def test_a_stopped_run_has_no_model_and_says_so(base: Path, tmp_path: Path) -> None:
    """Loading the outcome of a stopped run must not silently load something else."""
    given = {**files(tmp_path, "classify"), "output": tmp_path / "run", "max_minutes": 1e-9, **FAST}
    stopped = finetune("classify", base, **given)
    assert not stopped.finished and stopped.record()["model"] is None
    reason = (
        r"no model: it was stopped at step 1 of 18 \(max_minutes = 1e-09 is reached\) and saved in .*run: the same call"
    )
    with pytest.raises(CheckpointError, match=reason):
        xlm.load(stopped.model)
    assert finetune("classify", base, **{**given, "max_minutes": None}).model.is_dir()


def test_a_changed_recipe_is_not_resumed(base: Path, tmp_path: Path) -> None:
    given = files(tmp_path, "classify")
    stopped = finetune("classify", base, **given, output=tmp_path / "run", max_minutes=1e-6, **FAST)
    assert not stopped.finished
    with pytest.raises(ConfigError, match=r"batch was 16, is 8.*--fresh"):
        finetune("classify", base, **given, output=tmp_path / "run", **{**FAST, "batch": 8})
    assert finetune("classify", base, **given, output=tmp_path / "run", resume=False, **{**FAST, "batch": 8}).finished


def test_adapters_interchange_with_peft(base: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    outcome = finetune(
        "classify", base, **files(tmp_path, "classify"), output=tmp_path / "run", tuning={"kind": "lora"}, **FAST
    )
    assert outcome.model is not None
    tokenizer = xlm.AutoTokenizer.from_pretrained(outcome.model)
    ids = tokenizer(["the film was good .", "Ana was sad"], padding=True, return_tensors="pt")
    merged = xlm.AutoModelForSequenceClassification.from_pretrained(outcome.model).eval()
    plain = xlm.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    theirs = peft.PeftModel.from_pretrained(plain, outcome.model / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(**ids).logits, merged(**ids).logits, rtol=1e-4, atol=1e-5)
    # And back: what peft saves is read here.
    from xlm.backends.torch.lora import load_adapter, merge_lora

    theirs.save_pretrained(tmp_path / "theirs")
    ours = xlm.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2).eval()
    load_adapter(ours, tmp_path / "theirs")
    merge_lora(ours)
    with torch.no_grad():
        torch.testing.assert_close(ours(**ids).logits, merged(**ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"target_modules": ["query", "key", "dense"]}])
def test_an_adapter_that_peft_made_is_read(options: dict[str, Any], base: Path, tmp_path: Path) -> None:
    """Of its own ranks, scales and targets, never seen here before."""
    peft = pytest.importorskip("peft")
    from xlm.backends.torch.lora import load_adapter

    torch.manual_seed(1)
    chosen = {"r": 3, "lora_alpha": 7, "target_modules": ["query", "value"], **options}
    config = peft.LoraConfig(task_type="SEQ_CLS", init_lora_weights=False, **chosen)
    plain = xlm.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    theirs = peft.get_peft_model(plain, config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = xlm.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2).eval()
    ids = xlm.AutoTokenizer.from_pretrained(base)(["the film was good ."], return_tensors="pt")
    with torch.no_grad():
        before = ours(**ids).logits
        load_adapter(ours, tmp_path / "theirs")
        assert not torch.allclose(before, ours(**ids).logits, atol=1e-3)
        torch.testing.assert_close(ours(**ids).logits, theirs(**ids).logits, rtol=1e-4, atol=1e-5)


def test_frozen_and_layers_below_stay(base: Path, tmp_path: Path) -> None:
    before = xlm.AutoModel.from_pretrained(base, add_pooling_layer=False)
    for tuning, moved in (({"kind": "frozen"}, ()), ({"frozen_layers": 1}, ("encoder.layer.1.",))):
        outcome = finetune(
            "classify",
            base,
            **files(tmp_path, "classify", 32),
            output=tmp_path / tuning.get("kind", "low"),
            tuning=tuning,
            epochs=1,
            **FAST,
        )
        after = xlm.AutoModelForSequenceClassification.from_pretrained(outcome.model).roberta
        for name, parameter in before.named_parameters():
            same = torch.equal(parameter, after.get_parameter(name))
            assert same != name.startswith(moved) if moved else same, name


def test_layers_learn_at_their_own_rates(base: Path) -> None:
    from xlm.training.finetune_model import build_optimizer

    model = xlm.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    recipe = make_recipe({"task": "classify", "train": "x", "tuning": {"layer_decay": 0.5, "head_rate": 3.0}})
    factors = {}
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in build_optimizer(model, recipe, 1e-3).param_groups:
        for parameter in group["params"]:
            factors[names[parameter]] = group["rate"]
    assert factors["classifier.dense.weight"] == 3.0
    assert factors["roberta.encoder.layer.1.output.dense.weight"] == 0.5
    assert factors["roberta.encoder.layer.0.output.dense.weight"] == 0.25
    assert factors["roberta.embeddings.word_embeddings.weight"] == 0.125
    assert set(factors) == set(names.values())


def test_early_stopping_keeps_the_best(base: Path, tmp_path: Path) -> None:
    given = files(tmp_path, "classify")
    outcome = finetune(
        "classify", base, **given, output=tmp_path / "run", epochs=60, patience=2, evaluations=3.0, **FAST
    )
    assert outcome.finished and outcome.epochs < 60
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert outcome.scores["accuracy"] == max(r["accuracy"] for r in records if r["kind"] == "valid")


def test_a_metric_is_checked_before_anything_is_learnt(base: Path, tmp_path: Path) -> None:
    values = {**files(tmp_path, "classify", 8), "task": "classify", "model": str(base), "output": str(tmp_path / "run")}
    with pytest.raises(ConfigError, match="metric is 'bleu': it must be one of accuracy, macro_f1, mcc"):
        finetune_run(make_recipe({**values, "metric": "bleu"}), check=True, quiet=True)


PROBABLE = [{"label": "a", "probability": 0.9}, {"label": "b", "probability": 0.1}]


@pytest.mark.parametrize(
    ("task", "example", "answer"),
    [
        (Classify(("a", "b")), TextExample("x", label="a"), PROBABLE),
        (Classify(("a", "b"), "multi"), TextExample("x", label=("a",)), PROBABLE),
        (Classify((), "regression"), TextExample("x", label=1.0), 0.5),
        (Tag(("O", "B-PER")), TaggedExample(("x",), ("B-PER",)), [("O", 1.0)]),
        (Tag(("NOUN", "VERB")), TaggedExample(("x",), ("NOUN",)), [("VERB", 1.0)]),
        (Answer(), QuestionExample("q", "x y", (Gold("x", 0),)), [{"text": "x"}]),
        (Choose(), ChoiceExample("p", ("x", "y"), 0), {"best": 0, "probabilities": [0.9, 0.1]}),
        (Embed("mean", 0.05), None, 1),
        (Rerank(), PairExample("q", "right", ("wrong",)), [0.9, 0.1]),
        (Fill(), None, (1.0, 2.0, 3.0)),
        (Generate(), None, (1.0, 2.0, 3.0)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_names_of_scores_are_known_beforehand(task: Any, example: Any, answer: Any) -> None:
    assert set(task.evaluate([example] * 2, [answer] * 2)) == set(task.scores)
    assert task.metric in task.scores


def test_the_weights_of_every_best_are_kept_until_a_checkpoint_knows_of_a_better(tmp_path: Path) -> None:
    class Model:
        def save_pretrained(self, folder: Path) -> None:
            (folder / "weights").write_text("w", "utf-8")

    for step, saved, left in ((2, None, {2}), (4, 2, {2, 4}), (6, 2, {2, 6}), (8, 6, {6, 8})):
        keep_best(tmp_path, Model(), step, saved)
        assert set((tmp_path / "best").iterdir()) == {best_folder(tmp_path, number) for number in left}
    assert (best_folder(tmp_path, 8) / "weights").is_file()


def test_every_language_is_scored_by_itself(base: Path, tmp_path: Path) -> None:
    rows = [{**row, "lang": lang} for lang in ("en", "fr") for row in toytasks.rows("classify", 16)]
    train, held_out = tmp_path / "train.jsonl", tmp_path / "eval.jsonl"
    train.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    held_out.write_text("\n".join(map(json.dumps, rows[:18])), "utf-8")
    outcome = finetune("classify", base, train=train, eval=held_out, output=tmp_path / "run", epochs=1, **FAST)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    (found,) = [line["languages"] for line in lines if line["kind"] == "languages"]
    total = (found["en"]["accuracy"] * 16 + found["fr"]["accuracy"] * 2) / 18
    assert outcome.scores["accuracy"] == pytest.approx(total) and set(found["fr"]) == set(outcome.scores)
    card = (outcome.model / "README.md").read_text("utf-8")
    assert "| language | accuracy | macro_f1 | mcc |" in card and f"| fr | {found['fr']['accuracy']:.4f} |" in card
    assert f"| all | {outcome.scores['accuracy']:.4f} |" in card


def test_tags_that_training_never_saw_are_said(base: Path, tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("a O\nb B-PER\n\nc O\n", "utf-8")
    (tmp_path / "eval.conll").write_text("a B-LOC\nb I-LOC\nc B-LOC\n\nc B-PER\n", "utf-8")
    recipe = make_recipe({"task": "tag", "train": str(tmp_path / "train.conll"), "eval": str(tmp_path / "eval.conll")})
    data = prepare(recipe, xlm.AutoTokenizer.from_pretrained(base), 64, None)
    assert data.held_out is not None and data.held_out.notes == [
        "tags that no training example has, which can only be missed: B-LOC (2 words), I-LOC (1 words)"
    ]


def test_a_run_stopped_at_an_evaluation_is_scored_when_it_goes_on(base: Path, tmp_path: Path) -> None:
    given = {**files(tmp_path, "classify", 16), "output": tmp_path / "run", "epochs": 2, **FAST}
    for step in (1, 2):
        stopped = finetune("classify", base, **given, max_minutes=1e-9)
        assert not stopped.finished and stopped.step == step
    outcome = finetune("classify", base, **given, metric="macro_f1")  # what chooses may change
    lines = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [row["step"] for row in map(json.loads, lines) if row["kind"] == "valid"] == [1, 2]
    assert outcome.finished and outcome.step == 2 and "macro_f1" in outcome.scores


def test_a_recipe_may_move_with_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "models" / "xlm").mkdir(parents=True)
    text = "task: classify\nmodel: models/xlm\ntrain: train.jsonl\n"
    (tmp_path / "a" / "recipe.yaml").write_text(text, "utf-8")
    before = make_recipe(load_finetune(tmp_path / "a" / "recipe.yaml"))
    (tmp_path / "a").rename(tmp_path / "b")
    after = make_recipe(load_finetune(tmp_path / "b" / "recipe.yaml"))
    assert changed_values(json.loads(json.dumps(dataclasses.asdict(before))), after) == []
    found = str(tmp_path / "b" / "models" / "xlm")
    assert model_path(after.base, "models/xlm") == found and model_path(after.base, "./models/xlm") == found
    assert model_path(after.base, "FacebookAI/xlm-roberta-base") == "FacebookAI/xlm-roberta-base"
    assert model_path(after.base, "~/models") == str(Path.home() / "models")
    assert model_path(after.base, "models/other") == "models/other"  # from the current folder, as others are


def test_scores_do_not_depend_on_neighbours_without_a_language() -> None:
    """A row whose language the model does not know takes nothing from those whose it knows."""
    torch.manual_seed(0)
    config = xlm.XLMConfig(**tiny.options("xlm"), lang2id={"en": 0, "de": 1}, num_labels=2)
    model = tiny.stir(xlm.XLMForSequenceClassification(config)).eval()
    head = Head(Classify(("a", "b")), model, torch.device("cpu"))
    rng = np.random.default_rng(0)
    items = [Item(n, (np.concatenate([[1], rng.integers(5, 30, 4 + n), [1]]),), 0) for n in range(4)]
    languages = [1, None, 0, None]
    together = head.scores(items, 1000, languages)
    alone = [head.scores([item], 1000, languages)[0] for item in items]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    without = head.scores([items[0]], 1000, [None] * 4)[0]
    assert not np.allclose(without, together[0], atol=1e-4)
    passes = head.passes(items, 1000, languages)
    assert [[item.example for item in one] for one in passes] == [[0, 2], [1, 3]]
    assert by_tokens(items, 1000) == [items]
    with pytest.raises(InputError, match="with and without a language embedding"):
        packed(items, languages)


def _items(targets: list[Any], rows: int = 1) -> list[Item]:
    rng = np.random.default_rng(0)
    return [
        Item(n, tuple(rng.integers(5, 30, 4 + (3 * n + k) % 5) for k in range(rows)), target)
        for n, target in enumerate(targets)
    ]


def test_a_gpu_of_bf16_compares_texts_in_fp32() -> None:
    head = Head(
        Embed(temperature=0.05), tiny.stir(xlm.XLMRobertaModel(tiny.config(tiny.MODELS[1]))), torch.device("cpu")
    )
    batch = head.pack(_items([None] * 4, rows=3))
    states = torch.randn(len(batch.ids), 16, generator=torch.Generator().manual_seed(0))
    found = []
    for low in (False, True):
        leaf = states.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss, right = head._contrast(leaf, batch)
        loss.backward()
        found.append((loss.detach(), right, leaf.grad))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


class _Called(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_ends_of_answers_compete_within_their_row_and_no_size_is_read_back() -> None:
    head = Head(Answer(), tiny.stir(xlm.XLMRobertaModel(tiny.config(tiny.MODELS[1]))), torch.device("cpu"))
    batch = head.pack(_items([(1, 2), (0, 3), (2, 2)]))
    scores = torch.randn(len(batch.ids), 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with _Called() as called:
        loss, right = head._ends(scores, batch)
        loss.backward()
    # A GPU's host waits for operations whose result has a size that it does not know.
    assert not called.names & {"masked_scatter", "masked_select", "nonzero", "_local_scalar_dense"}
    plain, hits = torch.zeros(()), 0
    for item, row in zip(batch.items, batch.split(np.arange(len(batch.ids))), strict=True):
        mine = scores[torch.from_numpy(row)]
        losses = [torch.nn.functional.cross_entropy(mine[:, side], torch.tensor(item.target[side])) for side in (0, 1)]
        plain = plain + sum(losses) / 2
        hits += mine.argmax(0).tolist() == list(item.target)
    (wanted,) = torch.autograd.grad(plain, scores)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(scores.grad, wanted)
    assert int(right) == hits


def test_every_epoch_visits_every_item_once() -> None:
    items = [Item(n, (np.zeros(3 + n % 7, np.int64),)) for n in range(50)]
    plan = Plan(items, 8, 2.0, seed=3)
    assert plan.steps == 14
    for epoch in (0, 1):
        seen = [item.example for step in range(7) for item in plan.step(7 * epoch + step)]
        assert sorted(seen) == list(range(50))
    assert [i.example for i in plan.step(2)] == [i.example for i in Plan(items, 8, 2.0, seed=3).step(2)]
    assert [i.example for i in plan.step(2)] != [i.example for i in plan.step(9)]


# -- what can be wrong ------------------------------------------------------------------------------------------------


def test_data_that_look_wrong_are_said() -> None:
    assert alarms.alike(("no", "yes", "No", "Yes ", "maybe")) is not None
    assert "'No' and 'no', 'Yes ' and 'yes' differ" in str(alarms.alike(("no", "yes", "No", "Yes ", "maybe")))
    assert alarms.alike(("A", "B", "ab")) is None
    names = [TextExample("x", None, str(number)) for number in range(30)]
    assert "30 labels in 30 training examples, 30 of them once" in str(alarms.rare(Classify.of(names), names))
    assert alarms.rare(Classify.of(names), names * 2) is None and alarms.rare(Choose(), names) is None
    asked = [TextExample(f"x {number}", None, "a") for number in range(40)]
    moved = [TextExample("x 1", None, "b", id="7"), *(TextExample("y", None, "a") for _ in range(9))]
    assert "overlap: 1 of 10 examples of the evaluation set" in str(alarms.overlap(asked, moved))
    assert alarms.overlap(asked, moved[1:]) is None and alarms.overlap(asked, [TextExample("x 1", "y", "a")]) is None
    assert alarms.unknown({"am": 0.44, "en": 0.01, "all": 0.2}) == (
        "unknown: of the training tokens 44% in am are unknown to the model's vocabulary: it cannot read them"
    )
    assert alarms.unknown({"?": 0.05}) is None and "tokens 20% are" in str(alarms.unknown({"?": 0.2}))


def test_alarms(base: Path, tmp_path: Path) -> None:
    given = files(tmp_path, "classify")
    # A rate of almost nothing learns nothing: the loss stays at log 2.
    stuck = finetune("classify", base, **given, output=tmp_path / "stuck", epochs=12, **{**FAST, "learning_rate": 1e-9})
    assert any(alarm.startswith("stuck: the loss is 0.69") for alarm in stuck.alarms)
    # The evaluation file means the opposite by its labels.
    rows = toytasks.rows("classify", 48, 2)
    for row in rows:
        row["label"] = {"pos": "neg", "neg": "pos"}[row["label"]]
    given["eval"] = str(toytasks.write(tmp_path / "swapped.jsonl", rows))
    swapped = finetune("classify", base, **given, output=tmp_path / "swapped", epochs=5, **FAST)
    assert any(alarm.startswith("labels: ") for alarm in swapped.alarms)
    short = {**FAST, "data": {"max_tokens": 8}, "epochs": 1, "on_alarm": "stop"}
    long = [{"text": "the film was good and Ana saw the film in Rome .", "label": str(n % 2)} for n in range(8)]
    train = toytasks.write(tmp_path / "long.jsonl", long)
    with pytest.raises(ConfigError, match="truncated: 100%"):
        finetune("classify", base, train=str(train), output=tmp_path / "short", **short)


def test_shifted_tags_are_noticed() -> None:
    words = ("Ana", "was", "in", "Rome", ".")
    tags = ("B-PER", "O", "O", "B-LOC", "O")
    examples = [TaggedExample(words, tags)] * 20
    task = Tag.of(examples)
    right = [[(tag, 1.0) for tag in tags]] * 20
    moved = [[(tag, 1.0) for tag in ("O", *tags[:-1])]] * 20
    assert alarms.relabelled(task, examples, right) is None
    assert "shifted" in (alarms.relabelled(task, examples, moved) or "")


def test_bad_data_and_recipes(base: Path, tmp_path: Path) -> None:
    def go(rows: list[dict[str, Any]], held_out: list[dict[str, Any]] | None = None, **fields: Any) -> None:
        train = toytasks.write(tmp_path / "t.jsonl", rows)
        given = {} if held_out is None else {"eval": str(toytasks.write(tmp_path / "e.jsonl", held_out))}
        finetune(
            fields.pop("task", "classify"), base, train=str(train), output=tmp_path / "run", **given, **FAST, **fields
        )

    good = toytasks.rows("classify", 8)
    with pytest.raises(DataError, match=r"eval: .*e\.jsonl:1: label is 'meh': it must be one of neg, pos"):
        go(good, [{"text": "x", "label": "meh"}])
    with pytest.raises(DataError, match=r"eval: .*not one example"):
        go(good, [])
    with pytest.raises(DataError, match=r"no column for text: looked for .* there are body, label"):
        go([{"body": "x", "label": "a"}])
    with pytest.raises(DataError, match=r"t\.jsonl: no column 'missing' \(for text\)"):
        go(good, data={"columns": {"text": "missing"}})
    with pytest.raises(DataError, match=r"t\.jsonl:2: the row has no label"):
        go([good[0], {"text": "x", "label": None}])
    with pytest.raises(InputError, match="at least two classes"):
        go([{"text": "x", "label": "a"}] * 3)
    with pytest.raises(ConfigError, match=r"task is 'walk': it must be one of classify, .*, translate"):
        finetune("walk", base, train="x")
    with pytest.raises(ConfigError, match=r"epoch = 3 is not a known field.*did you mean 'epochs'"):
        finetune("classify", base, train="x", epoch=3)
    with pytest.raises(ConfigError, match="frozen_layers = 9: the model has 2 layers"):
        go(good, tuning={"frozen_layers": 9})
    with pytest.raises(ConfigError, match="no linear layer's name ends so"):
        go(good, tuning={"kind": "lora", "lora": {"targets": ["querry"]}})
    with pytest.raises(ConfigError, match="metric is 'accuracy': nothing is scored without eval"):
        go(good, metric="accuracy")
    with pytest.raises(ConfigError, match="patience is 2: stopping early needs eval"):
        go(good, patience=2)


def test_a_trained_head_must_have_the_labels_of_the_data(base: Path, tmp_path: Path) -> None:
    first = finetune("classify", base, **files(tmp_path, "classify", 32), output=tmp_path / "a", epochs=1, **FAST)
    rows = [{"text": "the film", "label": str(number % 3)} for number in range(9)]
    train = toytasks.write(tmp_path / "three.jsonl", rows)
    with pytest.raises(ConfigError, match=r"its head has 2 labels \(neg, pos\), the data 3 \(0, 1, 2\)"):
        finetune("classify", first.model, train=str(train), output=tmp_path / "b", **FAST)


def test_bad_rows_are_quarantined(base: Path, tmp_path: Path) -> None:
    rows = [*toytasks.rows("classify", 30), {"text": "", "label": "pos"}]
    train = toytasks.write(tmp_path / "t.jsonl", rows)
    finetune("classify", base, train=str(train), output=tmp_path / "run", epochs=1, data={"max_bad": 0.1}, **FAST)
    bad = json.loads((tmp_path / "run" / "quarantine-train.jsonl").read_text("utf-8"))
    assert bad["where"].endswith("t.jsonl:31") and "text is ''" in bad["reason"]


def test_regression_and_multi_label(base: Path, tmp_path: Path) -> None:
    words = [*toytasks.GOOD, *toytasks.BAD]
    rows = [{"text": f"the film was {w} .", "label": float(w in toytasks.GOOD)} for w in words * 12]
    train = str(toytasks.write(tmp_path / "r.jsonl", rows))
    outcome = finetune("classify", base, train=train, eval=train, output=tmp_path / "r", epochs=8, **FAST)
    assert outcome.scores["spearman"] > 0.8
    high, low = (
        one["value"] for one in xlm.load(outcome.model).classify(["the film was nice .", "the film was sad ."])
    )
    assert high > low
    rows = [{"text": r["text"], "label": ["film", "good" if r["label"] else "bad"]} for r in rows]
    train = str(toytasks.write(tmp_path / "m.jsonl", rows))
    outcome = finetune("classify", base, train=train, eval=train, output=tmp_path / "m", epochs=10, **FAST)
    assert outcome.scores["micro_f1"] > 0.7  # "film" alone, which is always there, gives 0.67


@pytest.mark.slow
def test_our_models_inside_transformers_trainer(base: Path, tmp_path: Path) -> None:
    """The five lines of the guide: our model, our tokenizer, their Trainer."""
    transformers = pytest.importorskip("transformers")
    model = xlm.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    tokenizer = xlm.AutoTokenizer.from_pretrained(base)
    rows = [
        {**tokenizer(row["text"]), "labels": int(row["label"] == "pos")} for row in toytasks.rows("classify", 96, 1)
    ]
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=20, per_device_train_batch_size=16, learning_rate=5e-3, report_to=[],
        use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    pad = transformers.DataCollatorWithPadding(tokenizer)
    trainer = transformers.Trainer(model, arguments, data_collator=pad, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    predicted = trainer.predict(rows).predictions.argmax(-1)
    assert sum(int(p) == row["labels"] for p, row in zip(predicted, rows, strict=True)) / len(rows) > 0.9
