"""xlm trim: what needs only kept pieces stays as it was, bit by bit, in every family; all or nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import xlm
from xlm.checkpoints.io import open_model
from xlm.checkpoints.trim import same_weights, trim
from xlm.errors import CheckpointError, InputError, OutputError
from xlm.inference.trimming import prove
from xlm.tokenizers import proto
from xlm.tokenizers.bpe import BPE, END
from xlm.tokenizers.trim import merges_of, needed, open_vocabulary

TEXTS = {
    "en": ["the capital of France is Paris", "hello world", "a river and a mountain"],
    "sw": ["mji mkuu wa Ufaransa ni Paris", "habari dunia", "mto na mlima"],
    "hi": ["फ्रांस की राजधानी पेरिस है", "नमस्ते दुनिया"],
    "zh": ["法国的首都是巴黎", "你好世界"],
}
FAMILIES = ("xlm-roberta", "xlm-roberta-xl", "xlm")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    """A masked language model of every family with tokenizer files of every kind."""
    pytest.importorskip("tokenizers")
    root = tmp_path_factory.mktemp("models")
    files = {}
    for language, lines in TEXTS.items():
        files[language] = root / f"{language}.txt"
        files[language].write_text("\n".join(lines * 5), "utf-8")
    bpe = {language: path for language, path in files.items() if language != "zh"}  # its words need another package
    xlm.train_bpe(bpe, 170, root / "bpe", min_frequency=1)
    torch.manual_seed(0)
    unigram = xlm.XLMRobertaTokenizerFast(tiny_model / "sentencepiece.bpe.model")
    found = {}
    for family, cls, config in (
        ("xlm-roberta", xlm.XLMRobertaForMaskedLM, xlm.XLMRobertaConfig),
        ("xlm-roberta-xl", xlm.XLMRobertaXLForMaskedLM, xlm.XLMRobertaXLConfig),
    ):
        found[family] = root / family
        # Three rows more than tokens, as some published tables have.
        made = cls(config(vocab_size=len(unigram) + 3, max_position_embeddings=66, initializer_range=0.3, **SIZES))
        torch.nn.init.normal_(made.lm_head.bias)
        made.save_pretrained(root / family)
        unigram.save_pretrained(root / family)
    pairs = xlm.XLMTokenizer.from_pretrained(root / "bpe")
    config = xlm.XLMConfig(
        vocab_size=len(pairs), emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=64, n_langs=3,
        lang2id=pairs.lang2id, id2lang=pairs.id2lang, embed_init_std=0.3, init_std=0.3,
    )  # fmt: skip
    found["xlm"] = root / "xlm"
    xlm.XLMWithLMHeadModel(config).save_pretrained(root / "xlm")
    pairs.save_pretrained(root / "xlm")
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_of_kept_texts_are_the_same_in_every_bit(family: str, models: dict[str, Path], tmp_path: Path) -> None:
    kept = {language: TEXTS[language] for language in ("en", "sw")}
    report = trim(models[family], tmp_path / "out", texts=kept, coverage=1.0)
    assert report.vocabulary[1] < report.vocabulary[0] and report.bytes[1] < report.bytes[0]
    assert report.languages["sw"].kept_tokens == 1.0 and same_weights(report)
    proof = prove(report, kept)
    assert proof.texts >= 4 and proof.offered == 6
    assert proof.weights_equal and proof.pieces_equal and proof.states_equal
    assert proof.logits_difference is not None and proof.logits_difference < 1e-5
    assert not open_model(tmp_path / "out").report
    # In the library's own classes, with labels, and from the masked token's place.
    before, after = (xlm.load(str(folder)) for folder in (models[family], tmp_path / "out"))
    text = "hello" + before.tokenizer.mask_token
    answers = [engine.fill_mask([text], top_k=3)[0]["masks"][0] for engine in (before, after)]
    assert len(answers[1]) == 3 and after.tokenizer.unk_token_id not in after.tokenizer("habari dunia")["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_opens_what_is_written(family: str, models: dict[str, Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    report = trim(models[family], tmp_path / "out", texts={"en": TEXTS["en"]}, coverage=1.0)
    theirs, config = (
        kind.from_pretrained(tmp_path / "out") for kind in (transformers.AutoTokenizer, transformers.AutoConfig)
    )
    ours = xlm.AutoTokenizer.from_pretrained(tmp_path / "out")
    old = xlm.AutoTokenizer.from_pretrained(models[family])
    assert config.vocab_size == len(report.ids) == len(ours)
    for line in TEXTS["en"]:
        ids = ours(line)["input_ids"]
        assert theirs(line)["input_ids"] == ids
        assert [report.ids[index] for index in ids] == old(line)["input_ids"]
    made = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert made.get_input_embeddings().weight.shape[0] == len(report.ids)
    assert ours.mask_token_id == theirs.mask_token_id and ours.pad_token_id == theirs.pad_token_id
    assert report.ids[ours.mask_token_id] == old.mask_token_id


def test_both_tokenizer_files_are_cut_alike(models: dict[str, Path], tmp_path: Path) -> None:
    trim(models["xlm-roberta"], tmp_path / "out", texts={"hi": TEXTS["hi"]}, coverage=1.0)
    slow = xlm.XLMRobertaTokenizer(tmp_path / "out" / "sentencepiece.bpe.model")
    fast = xlm.XLMRobertaTokenizerFast(tokenizer_file=tmp_path / "out" / "tokenizer.json")
    assert slow.get_vocab() == fast.get_vocab()
    for line in (*TEXTS["hi"], *TEXTS["zh"], "नमस्ते world <mask>"):
        assert slow(line)["input_ids"] == fast(line)["input_ids"]
    content = json.loads((tmp_path / "out" / "tokenizer.json").read_text("utf-8"))
    assert {token["content"]: token["id"] for token in content["added_tokens"]}["<mask>"] == len(slow) - 1


def test_single_characters_of_the_scripts_stay(models: dict[str, Path], tmp_path: Path) -> None:
    report = trim(models["xlm-roberta"], tmp_path / "out", texts={"en": TEXTS["en"][:1]}, coverage=1.0)
    assert report.scripts == ["Latin"]
    tokenizer = xlm.AutoTokenizer.from_pretrained(tmp_path / "out")
    unknown = tokenizer.unk_token_id
    # Words that were not counted can be spelled; a script that was not asked for cannot.
    assert unknown not in tokenizer("mlima dunia")["input_ids"] and unknown in tokenizer("法国")["input_ids"]


def test_coverage_takes_the_commonest_pieces() -> None:
    counts = np.array([0, 5, 90, 4, 1])
    assert needed(counts, 0.9).tolist() == [2] and needed(counts, 0.95).tolist() == [2, 1]
    assert needed(counts, 1.0).tolist() == [2, 1, 3, 4] and needed(np.zeros(3, int), 1.0).tolist() == []


def test_pieces_can_be_named_and_counts_given(models: dict[str, Path], tmp_path: Path) -> None:
    vocabulary = open_vocabulary(models["xlm-roberta"])
    piece = vocabulary.tokens[40]
    report = trim(models["xlm-roberta"], tmp_path / "named", keep_pieces=[piece])
    assert 40 in report.ids and len(report.ids) == len(vocabulary.fixed | {40})
    counts = np.zeros(len(vocabulary.tokens), np.int64)
    counts[[50, 60]] = 7
    counted = trim(models["xlm-roberta"], tmp_path / "counted", counts={"xx": counts})
    assert {50, 60} <= set(counted.ids) and counted.languages["xx"].pieces == 2
    with pytest.raises(InputError, match="1 of 2 are not in the vocabulary: 'nonsense-piece'"):
        trim(models["xlm-roberta"], tmp_path / "x", keep_pieces=[piece, "nonsense-piece"])


def test_added_tokens_and_heads_stay(models: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = xlm.XLMRobertaTokenizerFast.from_pretrained(models["xlm-roberta"])
    tokenizer.add_tokens(["[ONE]", "[TWO]"])
    config = xlm.XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=66, num_labels=5, **SIZES)
    made = xlm.XLMRobertaForSequenceClassification(config)
    folder = tmp_path / "classifier"
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "modules.json").write_text("[]")
    report = trim(folder, tmp_path / "out", texts={"en": TEXTS["en"]}, coverage=1.0)
    cut = xlm.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert cut.convert_ids_to_tokens(cut("hello [TWO]")["input_ids"])[-2] == "[TWO]"
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file() and (tmp_path / "out" / "modules.json").is_file()
    after = xlm.XLMRobertaForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        for line in (*TEXTS["en"], "hello [ONE] world"):
            old, new = (torch.tensor([t(line)["input_ids"]]) for t in (tokenizer, cut))
            assert [report.ids[index] for index in new[0].tolist()] == old[0].tolist()
            assert torch.equal(made.eval()(old).logits, after(new).logits)


def test_what_cannot_be_is_named_and_leaves_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    source, texts = models["xlm-roberta"], {"en": TEXTS["en"]}
    with pytest.raises(InputError, match="nothing says what to keep"):
        trim(source, tmp_path / "out")
    with pytest.raises(InputError, match=r"coverage is 1\.5"):
        trim(source, tmp_path / "out", texts=texts, coverage=1.5)
    with pytest.raises(InputError, match="texts of 'en' are empty"):
        trim(source, tmp_path / "out", texts={"en": []})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(OutputError, match="is there already"):
        trim(source, tmp_path / "full", texts=texts)
    with pytest.raises(CheckpointError):
        trim(tmp_path / "none", tmp_path / "out", texts=texts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_a_failure_on_the_way_leaves_nothing(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xlm.checkpoints.trim.copy_beside", full)
    with pytest.raises(OSError, match="No space left"):
        trim(models["xlm-roberta"], tmp_path / "out", texts={"en": TEXTS["en"]})
    assert list(tmp_path.iterdir()) == []


def test_adaptive_softmax_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    config = xlm.XLMConfig(
        vocab_size=170, emb_dim=16, n_layers=1, n_heads=2, asm=True, asm_cutoffs=[20, 60], asm_div_value=4
    )
    xlm.XLMWithLMHeadModel(config).save_pretrained(tmp_path / "asm")
    xlm.XLMTokenizer.from_pretrained(models["xlm"]).save_pretrained(tmp_path / "asm")
    with pytest.raises(CheckpointError, match="asm=True"):
        trim(tmp_path / "asm", tmp_path / "out", texts={"en": TEXTS["en"]})


# ---- the two theorems ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def cut_unigram(models: dict[str, Path]) -> Callable[[set[int]], Any]:
    vocabulary: Any = open_vocabulary(models["xlm-roberta"])
    base = vocabulary.tokenizer.engine.size

    def cut(kept: set[int]) -> Any:
        import sentencepiece

        chosen = kept | vocabulary.fixed
        keep = np.array([True] * 3 + [index in chosen for index in range(4, base)])
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(proto.select(vocabulary.model, keep))
        return processor

    return cut


@given(
    words=st.lists(st.text("aefhilmnoprstuwy Pdckgvjb,!3", max_size=12), max_size=5),
    dropped=st.sets(st.integers(4, 638), max_size=600),
)
@settings(max_examples=150)
def test_unigram_segmentations_of_kept_pieces_stay(
    words: list[str], dropped: set[int], models: dict[str, Path], cut_unigram: Callable[[set[int]], Any]
) -> None:
    vocabulary: Any = open_vocabulary(models["xlm-roberta"])
    before = vocabulary.tokenizer.sp_model
    text = " ".join(words)
    pieces = before.encode(text, out_type=str)
    ids = {index + 1 for index in before.encode(text)}
    after = cut_unigram((set(range(4, len(vocabulary.tokens))) - dropped) | ids)
    assert after.encode(text, out_type=str) == pieces


@given(
    word=st.text("abc", min_size=1, max_size=14),
    pairs=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=25),
    extra=st.sets(st.integers(0, 40), max_size=10),
)
def test_bpe_words_of_kept_pieces_stay(word: str, pairs: list[tuple[int, int]], extra: set[int]) -> None:
    symbols = ["a", "b", "c", "a" + END, "b" + END, "c" + END]
    merges: list[tuple[str, ...]] = []
    for left, right in pairs:
        first, second = symbols[left % len(symbols)], symbols[right % len(symbols)]
        if END not in first and (first, second) not in merges:
            merges.append((first, second))
            symbols.append(first + second)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    pieces = BPE(merges)(word)
    kept = [*pieces, *(symbols[index % len(symbols)] for index in extra)]
    wanted = {pair for piece in kept for pair in merges_of(piece, ranks)}
    assert BPE([pair for pair in merges if pair in wanted])(word) == pieces


# ---- the command -----------------------------------------------------------------------------------------------------
def test_the_command_proves_what_it_did(
    models: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from xlm.cli import main

    for language, lines in TEXTS.items():
        (tmp_path / f"{language}.txt").write_text("\n".join(lines), "utf-8")
    base = ["trim", str(models["xlm-roberta"]), "-t", str(tmp_path / "{language}.txt")]
    assert main([base[0], base[1], str(tmp_path / "one"), *base[2:], "-l", "en,sw", "--coverage", "1", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert (
        set(answer["languages"]) == {"en", "sw"} and answer["proof"]["states_equal"] and answer["proof"]["texts"] >= 4
    )
    assert main([base[0], base[1], str(tmp_path / "two"), *base[2:]]) == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "hidden states the same in every bit" in shown and "Devanagari, Han, Latin" in shown
    assert main([base[0], base[1], str(tmp_path / "three"), *base[2:], "-l", "fr"]) == 1
    assert "no file among --texts is in it" in capfd.readouterr().err
    assert main([base[0], base[1], str(tmp_path / "three"), "-l", "fr"]) == 1
    assert "pieces are chosen by counting" in capfd.readouterr().err


def test_counts_come_from_a_built_corpus(
    models: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("datatrove")
    from xlm.cli import main

    (tmp_path / "sw.txt").write_text("\n".join(TEXTS["sw"]), "utf-8")
    model, corpus = str(models["xlm-roberta"]), str(tmp_path / "corpus")
    assert (
        main(["corpus", "build", str(tmp_path / "sw.txt"), "-o", corpus, "--tokenizer", model, "--workers", "1"]) == 0
    )
    assert main(["trim", model, str(tmp_path / "out"), "--corpus", corpus, "--coverage", "1"]) == 0
    tokenizer = xlm.AutoTokenizer.from_pretrained(tmp_path / "out")
    old = xlm.AutoTokenizer.from_pretrained(models["xlm-roberta"])
    for line in TEXTS["sw"]:
        assert tokenizer.tokenize(line) == old.tokenize(line)
    capfd.readouterr()
