"""Training for translation: what it learns, that it resumes to the bit, and which input it refuses."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import xlm
from torchrun import finetuned
from xlm.assets import bundled_folder
from xlm.backends.torch import seq2seq
from xlm.errors import ConfigError, DataError, InputError
from xlm.tasks.translate import Sentences
from xlm.tokenizers.train import train_sentencepiece
from xlm.training import finetune_loop, translate
from xlm.training.finetune import finetune
from xlm.training.finetune_recipe import load_finetune
from xlm.training.translate_data import read_corpora
from xlm.training.translate_recipe import Weights, make_translate
from xlm.training.translate_steps import Batches, passes
from xlm.training.translate_trainer import Translator, forbidding, foreign_tokens
from xlm.training.translate_trainer import translate as translated

RECIPES = [
    path
    for path in sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
    if yaml.safe_load(path.read_text("utf-8")).get("task") == "translate"
]
ENGLISH = "the sun moon sea dog cat house tree is was big small old red runs sleeps".split()
FRENCH = "le soleil lune mer chien chat maison arbre est fut grand petit vieux rouge court dort".split()
FAST: dict[str, Any] = {
    "batch_tokens": 200,
    "optimizer": {"learning_rate": 3e-3, "clip": 1.0},
    "schedule": {"steps": 6, "warmup": 0.2, "decay": "linear"},
    "precision": "fp32",
    "quiet": True,
}


def sentence(rng: random.Random) -> list[int]:
    return [rng.randrange(len(ENGLISH)) for _ in range(rng.randint(2, 5))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Word-for-word pairs, monolingual halves, and an XLM with two languages that has learnt nothing."""
    folder, rng = tmp_path_factory.mktemp("translate"), random.Random(0)
    rows = [sentence(rng) for _ in range(260)]
    pairs = [(" ".join(ENGLISH[i] for i in row), " ".join(FRENCH[i] for i in row)) for row in rows]

    def write(name: str, lines: list[str]) -> None:
        (folder / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")

    write("en-fr.train.tsv", ["\t".join(pair) for pair in pairs[:200]])
    write("en-fr.dev.tsv", ["\t".join(pair) for pair in pairs[200:210]])
    write("en.txt", [pair[0] for pair in pairs[:100]])
    write("fr.txt", [pair[1] for pair in pairs[100:200]])
    train_sentencepiece({"en": folder / "en.txt", "fr": folder / "fr.txt"}, 56, folder / "xlm", 0.5)
    tokenizer = xlm.XLMRobertaTokenizer.from_pretrained(folder / "xlm")
    torch.manual_seed(0)
    config = xlm.XLMConfig(
        vocab_size=len(tokenizer), emb_dim=32, n_layers=1, n_heads=2, max_position_embeddings=40,
        dropout=0.1, attention_dropout=0.0, n_langs=2, lang2id={"en": 0, "fr": 1}, id2lang={0: "en", 1: "fr"},
        bos_index=0, eos_index=2, pad_index=1, unk_index=3, mask_index=len(tokenizer) - 1,
    )  # fmt: skip
    xlm.XLMWithLMHeadModel(config).save_pretrained(folder / "xlm")
    return folder


def supervised(data: Path, **more: Any) -> dict[str, Any]:
    return {"train": str(data / "en-fr.train.tsv"), "eval": str(data / "en-fr.dev.tsv"), **FAST, **more}


def unsupervised(data: Path, **more: Any) -> dict[str, Any]:
    texts = [f"en={data / 'en.txt'}", f"fr={data / 'fr.txt'}"]
    return {"text": texts, "eval_text": texts, "data": {"eval_limit": 4}, **FAST, **more}


def test_learns_word_for_word_translation(data: Path, tmp_path: Path) -> None:
    options = supervised(data, schedule={"steps": 24, "warmup": 0.1, "decay": "linear"}, evaluate=24)
    options["optimizer"] = {"learning_rate": 1e-2, "clip": 1.0}
    outcome = finetune("translate", data / "xlm", **options, output=tmp_path / "run")
    records = [
        line for line in (tmp_path / "run/metrics.jsonl").read_text("utf-8").splitlines() if "loss_mt_en-fr" in line
    ]
    losses = [float(line.split('"loss_mt_en-fr": ')[1].split(",")[0]) for line in records]
    assert outcome.finished and losses[-1] < losses[0] - 0.5
    model = xlm.EncoderDecoderModel.from_pretrained(outcome.model)
    assert model.config.directions == [["en", "fr"], ["fr", "en"]]
    assert "engine.translate" in (outcome.model / "README.md").read_text("utf-8")


@pytest.mark.parametrize("kind", ["supervised", "unsupervised"])
def test_resume_is_exact(kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (supervised if kind == "supervised" else unsupervised)(data, evaluate=2)
    whole = finetune("translate", data / "xlm", **options, output=tmp_path / "whole")

    class Interrupted(finetune_loop.Signals):
        """Asks to stop after the third look."""

        looks = 0

        @property
        def asked(self) -> str | None:
            type(self).looks += 1
            return "SIGTERM" if type(self).looks > 3 else None

        @asked.setter
        def asked(self, value: str | None) -> None:
            assert value is None or value in signal.Signals.__members__

    with monkeypatch.context() as patch:
        patch.setattr(finetune_loop, "Signals", Interrupted)
        part = finetune("translate", data / "xlm", **options, output=tmp_path / "parts")
    assert not part.finished and 0 < part.step < whole.step
    rest = finetune("translate", data / "xlm", **options, output=tmp_path / "parts", resume=True)
    assert rest.finished and rest.step == whole.step and rest.scores == whole.scores
    assert part.step % 2 == 0  # a step with an evaluation, which is caught up
    assert [scored(tmp_path / name) for name in ("whole", "parts")] == [scored(tmp_path / "whole")] * 2
    want, got = (xlm.EncoderDecoderModel.from_pretrained(one.model) for one in (whole, rest))
    for name, parameter in want.named_parameters():
        assert torch.equal(parameter, got.get_parameter(name)), name


def scored(run: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    return [line for line in lines if line["kind"] == "valid"]


def test_another_recipe_cannot_go_on(data: Path, tmp_path: Path) -> None:
    options = supervised(data, max_minutes=1e-9)
    assert not finetune("translate", data / "xlm", **options, output=tmp_path).finished
    with pytest.raises(ConfigError, match="batch_tokens was 200, is 100"):
        finetune("translate", data / "xlm", **options | {"batch_tokens": 100}, output=tmp_path)


def worker(data: Path, options: dict[str, Any]) -> Translator:
    recipe = make_translate({"model": str(data / "xlm"), **{k: v for k, v in options.items() if k != "quiet"}})
    model, folder = translate.make_model(recipe)
    sentences = Sentences(xlm.AutoTokenizer.from_pretrained(folder), model.config, 40)
    return Translator(recipe, model, sentences, read_corpora(recipe, sentences, None), translate.Processes())


def test_the_packed_loss_is_the_documented_forward_s(data: Path) -> None:
    made = worker(data, supervised(data, dropout=0.0))
    (one,) = made._passes(made.jobs[0], 0)
    model = made.model.eval()

    def padded(flat: np.ndarray, lengths: list[int], fill: int) -> torch.Tensor:
        rows = np.split(flat, np.cumsum(lengths)[:-1])
        return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], True, fill)

    source = padded(one.source.ids, one.source.lengths, 1)
    target = padded(one.target.ids, one.target.lengths, 1)
    labels = padded(one.wanted, one.target.lengths, -100)
    assert source[:, 0].eq(2).all() and target[:, 0].eq(2).all()  # </s> begins, as in XLM
    loss = model(
        source,
        (source != 1).long(),
        torch.zeros_like(source),
        target,
        (target != 1).long(),
        torch.ones_like(target),
        labels,
    ).loss
    result = made._backward(one, 1.0)
    assert result.loss / result.count == pytest.approx(float(loss.detach()), rel=1e-4)


def test_back_translation_reads_what_the_model_writes_without_gradient(data: Path) -> None:
    made = worker(data, unsupervised(data))
    assert [job.kind for job in made.jobs] == ["ae", "ae", "bt", "bt"]
    job = next(job for job in made.jobs if str(job) == "bt_en-fr-en")
    (one,) = made._passes(job, 0)
    assert made.model.training and all(p.grad is None for p in made.parameters)
    assert one.source.language == 1 and one.target.language == 0
    texts = [ids for ids, _ in made._sources[job]]
    chosen = [texts[index] for index in made._batches[job](0).tolist()]
    written = translated(made.model, made.sentences, chosen, "en", "fr", 1.3, 5, num_beams=1)
    want = sorted(made.sentences.row(ids, 2).tolist() for ids in written)
    assert sorted(row.tolist() for row in np.split(one.source.ids, np.cumsum(one.source.lengths)[:-1])) == want


def test_every_epoch_visits_every_sentence_once() -> None:
    sizes = np.random.default_rng(0).integers(3, 20, 100).tolist()
    batches = Batches(sizes, 60, 1, "ae_en")
    epoch = [batches(number) for number in range(batches.in_first_epoch())]
    assert sorted(np.concatenate(epoch).tolist()) == list(range(100))
    assert all(sum(sizes[i] for i in batch) <= 60 for batch in epoch)
    again = Batches(sizes, 60, 1, "ae_en")
    late = batches.in_first_epoch() + 3
    assert again(late).tolist() == batches(late).tolist()  # by number alone, whatever was asked before


def test_passes_shift_targets_and_keep_pairs() -> None:
    rows = [np.array([2, 7, 2]), np.array([2, 5, 6, 2]), np.array([2, 8, 9, 4, 2])]
    found = passes(rows, rows[::-1], 0, 1, 10)
    assert [sum(one.source.lengths) + sum(one.target.lengths) + len(one.target.lengths) for one in found] == [8, 8, 8]
    assert [one.target.ids.tolist() for one in found] == [[2, 8, 9, 4], [2, 5, 6], [2, 7]]
    assert [one.wanted.tolist() for one in found] == [[8, 9, 4, 2], [5, 6, 2], [7, 2]]
    assert [one.source.ids.tolist() for one in found] == [row.tolist() for row in rows]


@pytest.mark.parametrize(
    ("course", "number", "factor"),
    [
        ("0:1,100:0.1,300:0", 0, 1.0),
        ("0:1,100:0.1,300:0", 50, 0.55),
        ("0:1,100:0.1,300:0", 200, 0.05),
        ("0:1,5:0", 9, 0.0),
    ],
)
def test_the_weight_of_denoising_falls(course: str, number: int, factor: float) -> None:
    assert Weights(ae=course).at("ae", number) == pytest.approx(factor)


def test_jobs_without_weight_are_left_out(data: Path) -> None:
    made = worker(data, unsupervised(data, weights={"ae": "0:1,1:0"}))
    first, _ = made.step(0, 0.0)
    second, _ = made.step(1, 0.1)
    assert {name for name in first if "ae" in name} and not {name for name in second if "ae" in name}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": None}, ConfigError, "model is missing"),
        ({"train": "pairs.tsv"}, ConfigError, "does not say its two languages"),
        ({"steps": {"mt": ["en-de"]}}, ConfigError, "steps.mt: en-de has no file in train"),
        ({"steps": {"bt": ["en-fr-de"]}}, ConfigError, "must return to its own language"),
        ({"weights": {"ae": "1:x"}}, ConfigError, "weights.ae is '1:x'"),
        ({"weights": {"mt": 0.0}}, ConfigError, "all steps of the first round have weight 0"),
        ({"noise": {"dropout": 1.5}}, ConfigError, "noise.dropout is 1.5"),
        ({"epochs": 3}, ConfigError, "epochs = 3 is not a known field"),
        ({"schedule": {"steps": 5, "minutes": 1.0}}, ConfigError, "exactly one must be given"),
        (
            {"schedule": {"steps": 5, "warmup": 3, "hold": 0.5}},
            ConfigError,
            "warmup = 3.0 and hold = 0.5 exceed the run",
        ),
        ({"weights": {"mt": -1.0}}, ConfigError, "weights.mt is -1.0: it must not be negative"),
    ],
)
def test_impossible_recipes_are_refused(data: Path, change: dict[str, Any], error: type, message: str) -> None:
    values = {"model": str(data / "xlm"), "train": str(data / "en-fr.train.tsv"), **change}
    with pytest.raises(error, match=message):
        make_translate(values)


def test_unusable_text_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the sun\nthe moon\n", "utf-8")
    (tmp_path / "b.txt").write_text("le soleil\n", "utf-8")

    def check(**files: Any) -> None:
        options = {k: v for k, v in supervised(data).items() if k not in ("train", "eval", "quiet")}
        recipe = make_translate({"model": str(data / "xlm"), "output": str(tmp_path / "run"), **options, **files})
        translate.run(recipe, check=True, quiet=True)

    with pytest.raises(DataError, match=r"a.txt has 2 lines, .*b.txt has 1"):
        check(train=f"en-fr={tmp_path / 'a.txt'} ||| {tmp_path / 'b.txt'}")
    with pytest.raises(InputError, match=r"train: language 'xx'.*en, fr"):
        check(train=f"en-xx={data / 'en-fr.train.tsv'}")
    (tmp_path / "long.txt").write_text("the sun is big and the moon is small\n" * 3, "utf-8")
    with pytest.raises(DataError, match=r"no row is left: 0 are empty, 3 longer than data.max_tokens = 4"):
        check(text=[f"en={tmp_path / 'long.txt'}", f"fr={data / 'fr.txt'}"], data={"max_tokens": 4})
    with pytest.raises(DataError, match=r"eval en-fr: .*row \d+ has \d+ tokens.*limit 4"):
        check(
            train=f"en-fr={tmp_path / 'a.txt'} ||| {tmp_path / 'a.txt'}",
            eval=str(data / "en-fr.dev.tsv"),
            data={"max_tokens": 4},
        )
    with pytest.raises(ConfigError, match="metric is 'blue': it must be one of bleu, bleu_en-fr, bleu_fr-en"):
        check(train=str(data / "en-fr.train.tsv"), eval=str(data / "en-fr.dev.tsv"), metric="blue")
    with pytest.raises(ConfigError, match="metric is 'bleu': nothing is scored without eval or eval_text"):
        check(train=str(data / "en-fr.train.tsv"), metric="bleu")
    (tmp_path / "empty.txt").write_text("\n \n", "utf-8")
    with pytest.raises(DataError, match="not one line with text"):
        check(text=[f"en={tmp_path / 'empty.txt'}", f"fr={data / 'fr.txt'}"])


def test_columns_may_be_called_as_the_languages(data: Path, tmp_path: Path) -> None:
    lines = [f'{{"fr": "{FRENCH[i]} {FRENCH[1]}", "en": "{ENGLISH[i]} {ENGLISH[1]}"}}\n' for i in range(8)]
    (tmp_path / "en-fr.jsonl").write_text("".join(lines), "utf-8")
    made = worker(data, {"train": str(tmp_path / "en-fr.jsonl"), **FAST})
    ids, _ = made._sources[made.jobs[0]][1]
    assert made.sentences.text(ids) == "sun sun"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid_and_train_at_toy_scale(path: Path, data: Path, tmp_path: Path) -> None:
    values = load_finetune(path)
    recipe = make_translate(values)
    known = sorted({language for job in recipe.jobs() for language in job.languages})
    toy = dict(zip(known, ("en", "fr"), strict=True))
    steps = {
        kind: ["-".join(toy[one] for one in text.split("-")) for text in texts]
        for kind, texts in values["steps"].items()
    }
    values |= {"model": str(data / "xlm"), "output": str(tmp_path), "steps": steps, "threads": 1, "batch_tokens": 100}
    values |= {"schedule": {"steps": 2}, "evaluate": 2, "data": {"eval_limit": 4}, "eval": str(data / "en-fr.dev.tsv")}
    if recipe.train:
        values["train"] = str(data / "en-fr.train.tsv")
    if recipe.text:
        values["text"] = {"en": data / "en.txt", "fr": data / "fr.txt"}
    outcome = translate.run(make_translate(values), quiet=True)
    assert outcome.finished and outcome.step == 2 and set(outcome.scores) == {"bleu", "bleu_en-fr", "bleu_fr-en"}


def test_cross_attention_may_begin_as_self_attention(data: Path) -> None:
    values = {"model": str(data / "xlm"), "train": str(data / "en-fr.train.tsv")}
    for kind in ("new", "self"):
        model, _ = translate.make_model(make_translate({**values, "cross_attention": kind}))
        layer = model.decoder.roberta.encoder.layer[0]
        query, own = (
            layer.crossattention.get_parameter("self.query.weight"),
            layer.attention.get_parameter("self.query.weight"),
        )
        assert torch.equal(query, own) == (kind == "self") and query is not own


def test_an_encoder_decoder_goes_on_as_it_was_trained(data: Path, tmp_path: Path) -> None:
    values = {"model": str(data / "xlm"), "train": str(data / "en-fr.train.tsv")}
    model, _ = translate.make_model(make_translate(values))
    model.save_pretrained(tmp_path / "pair")
    values["model"] = str(tmp_path / "pair")
    for share in (None, True):
        again, _ = translate.make_model(make_translate({**values, "share_embeddings": share}))
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, again.get_parameter(name)), name
    for change, message in (
        ({"share_embeddings": False}, "share_embeddings is False: .* for which it is True"),
        ({"cross_attention": "self"}, "cross_attention is 'self': .* whose trained cross-attention"),
        ({"decoder": str(data / "xlm")}, "encoder-decoder already, which has its own"),
    ):
        with pytest.raises(ConfigError, match=message):
            translate.make_model(make_translate({**values, **change}))


def test_both_sides_have_one_vocabulary(data: Path) -> None:
    values = {"model": str(data / "xlm"), "train": str(data / "en-fr.train.tsv"), "decoder": str(bundled_folder())}
    with pytest.raises(ConfigError, match=r"has another vocabulary than .*xlm: '.*' is .*, there .*: both sides must"):
        translate.make_model(make_translate(values))


@pytest.fixture(scope="module")
def roberta(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An XLM-R, which has no language embeddings, with the vocabulary of ``data``."""
    folder = tmp_path_factory.mktemp("xlmr")
    tokenizer = xlm.XLMRobertaTokenizer.from_pretrained(data / "xlm")
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = xlm.XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=42, **sizes)
    xlm.XLMRobertaForMaskedLM(config).save_pretrained(folder)
    return folder


def test_a_decoder_without_language_embeddings_is_told_the_language(data: Path, roberta: Path) -> None:
    values = {"model": str(roberta), "train": str(data / "en-fr.train.tsv")}

    def made(**more: Any) -> Any:
        return translate.make_model(make_translate({**values, **more}))[0].config

    with pytest.raises(ConfigError, match="the steps write en, fr, but this decoder has no language embeddings"):
        made()
    config = made(start_tokens={"en": "▁the", "fr": 9})
    token = xlm.AutoTokenizer.from_pretrained(roberta).get_vocab()["▁the"]
    assert config.decoder_start_token_ids == {"en": token, "fr": 9}
    for given, message in (
        (
            {"en": "no such", "fr": 9},
            "start_tokens.en is 'no such': it must be a token of the vocabulary or an id below",
        ),
        ({"en": 9, "fr": 1000}, "start_tokens.fr is 1000: it must be a token of the vocabulary or an id below"),
        ({"en": 9, "fr": 9}, "start_tokens.fr is 9: another language begins with it already"),
        ({"en": 9}, "start_tokens: none for fr, which the steps write: there are those of en"),
    ):
        with pytest.raises(ConfigError, match=message):
            made(start_tokens=given)
    with pytest.raises(ConfigError, match="start_tokens: none for xx"):
        made(train=f"en-xx={data / 'en-fr.train.tsv'}", start_tokens={"en": 8, "fr": 9})
    with pytest.raises(ConfigError, match="start_tokens: the decoder has language embeddings"):
        made(model=str(data / "xlm"), start_tokens={"en": 8, "fr": 9})
    both = {"model": str(roberta), "start_tokens": {"en": 8, "fr": 9}}
    both = worker(data, supervised(data, **both, dropout=0.0))
    firsts = {job.written: both._passes(job, 0)[0].target.ids[0] for job in both.jobs}
    assert firsts == {"en": 8, "fr": 9}


def test_one_direction_is_scored_and_shown_alone(data: Path, roberta: Path, tmp_path: Path) -> None:
    options = supervised(data, schedule={"steps": 1}, steps={"mt": ["fr-en"]})
    options["data"] = {"eval_limit": 2}
    outcome = finetune("translate", roberta, **options, output=tmp_path / "run")
    assert set(outcome.scores) == {"bleu", "bleu_fr-en"}
    assert 'source="fr", target="en"' in (outcome.model / "README.md").read_text("utf-8")
    options = unsupervised(data, schedule={"steps": 1}, steps={"ae": ["en"]})
    outcome = finetune("translate", data / "xlm", **options, output=tmp_path / "ae")
    assert "engine.translate" not in (outcome.model / "README.md").read_text("utf-8")


def test_a_translation_can_be_read_again_and_is_as_long_as_its_own_text_says(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = worker(data, unsupervised(data, back={"factor": 3.0, "extra": 90, "temperature": 0.9}))
    endless = forbidding(made.model, np.array(made.sentences.tokenizer.all_special_ids))
    texts = [ids for ids, _ in made._sources[made.jobs[0]]][:6]
    asked: list[dict[str, Any]] = []
    write = seq2seq.write

    def watched(*arguments: Any, **options: Any) -> Any:
        asked.append(options)
        return write(*arguments, **options)

    monkeypatch.setattr(seq2seq, "write", watched)
    with endless:
        there = translated(made.model, made.sentences, texts, "en", "fr", 3.0, 90, num_beams=1)
        assert {len(made.sentences.row(ids, 2)) for ids in there} == {40}  # all positions
        back = translated(made.model, made.sentences, there, "fr", "en", num_beams=1)
        assert {len(ids) for ids in back} == {38}
        (one,) = made._passes(next(job for job in made.jobs if job.kind == "bt"), 0)
        assert max(one.source.lengths) == 40 and np.isfinite(float(made._backward(one, 1.0).loss))
        assert asked[-1]["do_sample"] and asked[-1]["top_k"] == 0  # of all tokens
        short = translated(made.model, made.sentences, texts, "en", "fr", 1.3, 5, num_beams=1)
    assert [len(ids) for ids in short] == [int(1.3 * (len(ids) + 2)) + 5 for ids in texts]


@pytest.mark.parametrize("path", [path for path in RECIPES if "-xlm-" in path.stem], ids=lambda path: path.stem)
def test_recipes_of_the_paper_warm_up_by_updates_as_xlm_does(path: Path) -> None:
    recipe = make_translate(load_finetune(path))
    assert recipe.schedule.warmup * len(recipe.jobs()) == 4000 and recipe.optimizer.eps == 1e-8


def test_new_weights_have_the_same_shapes_and_nothing_learnt(data: Path) -> None:
    values = {"model": str(data / "xlm"), "train": str(data / "en-fr.train.tsv")}
    old, _ = translate.make_model(make_translate(values))
    new, _ = translate.make_model(make_translate({**values, "pretrained": False}))
    pretrained = xlm.XLMWithLMHeadModel.from_pretrained(data / "xlm").get_input_embeddings().weight
    assert torch.equal(old.get_input_embeddings().weight, pretrained)
    assert not torch.equal(new.get_input_embeddings().weight, pretrained)
    assert {name: p.shape for name, p in old.named_parameters()} == {
        name: p.shape for name, p in new.named_parameters()
    }


def test_an_xlm_with_a_sentencepiece_vocabulary_opens_with_it(data: Path) -> None:
    """The fixture's folder holds what training a vocabulary and a model wrote, side by side."""
    assert type(xlm.AutoTokenizer.from_pretrained(data / "xlm")).__name__.startswith("XLMRobertaTokenizer")


def test_back_translations_keep_to_the_words_of_their_language(data: Path) -> None:
    made = worker(data, unsupervised(data, back={"own": 0.5}))
    foreign = set(made._foreign["fr"].tolist())
    assert 0 < len(foreign) < made.model.config.vocab_size
    job = next(job for job in made.jobs if str(job) == "bt_en-fr-en")
    bias = made.model.get_output_embeddings().bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias[sorted(foreign)] += 50.0  # what it would write if it were let
    (one,) = made._passes(job, 0)
    assert not foreign & set(one.source.ids.tolist())
    with torch.no_grad():
        bias[sorted(foreign)] -= 50.0
    assert torch.allclose(bias, before)


def test_foreign_tokens_are_those_that_another_language_has_more_of() -> None:
    texts = {"a": [np.array([4, 4, 5, 6])], "b": [np.array([5, 5, 5, 6])]}
    found = foreign_tokens(texts, 8, 0.5)
    assert found["a"].tolist() == [5] and found["b"].tolist() == [4]


def test_a_head_without_bias_cannot_be_kept_from_tokens() -> None:
    class Bare:
        def get_output_embeddings(self) -> torch.nn.Linear:
            return torch.nn.Linear(2, 5, bias=False)

    with pytest.raises(ConfigError, match=r"back\.own"), forbidding(Bare(), np.array([1])):
        raise AssertionError


@pytest.mark.slow
def test_two_processes_learn_to_translate_as_one(data: Path, tmp_path: Path) -> None:
    files = ["--train", str(data / "en-fr.train.tsv"), "--eval", str(data / "en-fr.dev.tsv")]
    arguments = ["--task", "translate", "--model", str(data / "xlm"), *files]
    options = [
        "batch_tokens=200",
        "schedule.steps=6",
        "precision=fp32",
        "dropout=0.0",
        "threads=1",
        "device=cpu",
        "log=1",
    ]
    one, _ = finetuned(1, arguments, tmp_path / "one", *options)
    two, told = finetuned(2, arguments, tmp_path / "two", *options)
    assert "on 2 x cpu" in told and one["step"] == two["step"] == 6
    want, got = (xlm.EncoderDecoderModel.from_pretrained(end["model"]) for end in (one, two))
    for name, parameter in want.named_parameters():
        torch.testing.assert_close(got.get_parameter(name), parameter, rtol=0, atol=2e-5, msg=name)
