"""What the engine computes is what the documented classes compute, in every dtype, family, language, length and company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import xlm
from xlm.assets import bundled_folder
from xlm.inference import engine as engine_module
from xlm.inference.quantize import bundled_texts

FAMILIES = {
    "xlm-r": (xlm.XLMRobertaForMaskedLM, xlm.XLMRobertaConfig),
    "xl": (xlm.XLMRobertaXLForMaskedLM, xlm.XLMRobertaXLConfig),
    "xlm": (xlm.XLMWithLMHeadModel, xlm.XLMConfig),
}
SMALL = {
    "vocab_size": 640,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
XLM_SMALL = {"vocab_size": 640, "emb_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


@pytest.fixture(scope="module")
def documented() -> xlm.XLMRobertaForMaskedLM:
    return xlm.AutoModelForMaskedLM.from_pretrained(bundled_folder())


@pytest.mark.parametrize(("dtype", "least"), [("float32", None), ("bfloat16", 0.9995), ("int8", 0.999)])
def test_real_text_of_every_language_of_the_bundled_model(dtype: str, least: float | None, documented) -> None:
    engine = xlm.load(dtype=dtype)
    for language, texts in bundled_texts().items():
        for ids, states in zip(engine.ids(texts), engine.encode(texts), strict=True):
            with torch.no_grad():
                wanted = documented.roberta(torch.tensor([ids])).last_hidden_state[0].numpy()
            if least is None:
                np.testing.assert_allclose(states, wanted, atol=2e-5)
            else:
                assert cosine(states, wanted) >= least, (language, ids)


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path):
    """A documented model, and an engine on the same weights."""
    cls, config = FAMILIES[request.param]
    torch.manual_seed(0)
    sizes = XLM_SMALL if request.param == "xlm" else {**SMALL, "max_position_embeddings": 66}
    made = cls(config(**sizes, pad_token_id=1) if request.param != "xlm" else config(**sizes)).eval()
    folder = tmp_path_factory.mktemp(request.param)
    made.save_pretrained(folder)
    xlm.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    if request.param == "xlm":  # the words do not matter here: rows of ids go in
        for file in ("tokenizer.json", "tokenizer_config.json", "sentencepiece.bpe.model"):
            (folder / file).unlink(missing_ok=True)
        (folder / "vocab.json").write_text('{"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3, "<special1>": 5, "a</w>": 6}')
        (folder / "merges.txt").write_text("#version: 0.2\n")
    return made, folder


def alone(made, row: list[int]) -> np.ndarray:
    with torch.no_grad():
        return made.base_model(torch.tensor([row])).last_hidden_state[0].numpy()


@pytest.mark.parametrize(("dtype", "least"), [("float32", None), ("bfloat16", 0.9995), ("int8", 0.999)])
def test_every_family_packed_lengths_from_one_to_the_longest(model, dtype: str, least: float | None) -> None:
    made, folder = model
    engine = xlm.load(folder, dtype=dtype)
    rng = np.random.default_rng(0)
    rows = [
        rng.integers(6, 600, size=n).tolist() for n in (*range(1, engine.max_tokens + 1), 1, 7, 7, engine.max_tokens)
    ]
    rows += rows[:3]
    rng.shuffle(rows)
    for row, states in zip(rows, engine.encode(rows), strict=True):
        if least is None:
            np.testing.assert_allclose(states, alone(made, row), atol=2e-5)
        else:
            assert cosine(states, alone(made, row)) >= least, len(row)


@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=10), budget=st.integers(1, 300), seed=st.integers(0, 99)
)
@settings(max_examples=25)
def test_batch_invariant_to_the_last_bit(tiny_model: Path, lengths: list[int], budget: int, seed: int) -> None:
    engine = invariant(tiny_model)
    rng = np.random.default_rng(seed)
    rows = [rng.integers(4, 600, size=length).tolist() for length in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "TOKENS_A_PACK", budget)
        together = engine.encode(rows)
    for row, states in zip(rows, together, strict=True):
        np.testing.assert_array_equal(states, engine.encode([row])[0])


_ENGINES: dict[Path, xlm.Engine] = {}


def invariant(folder: Path) -> xlm.Engine:
    if folder not in _ENGINES:
        _ENGINES[folder] = xlm.load(folder, batch_invariant=True)
    return _ENGINES[folder]


def test_batch_invariant_answers_are_those_of_the_plain_engine(tiny_model: Path) -> None:
    texts = ["hello world <mask>", "Где <mask>?", "学校在哪里 <mask>"]
    wanted = xlm.load(tiny_model).fill_mask(texts, top_k=2)
    for one, other in zip(invariant(tiny_model).fill_mask(texts, top_k=2), wanted, strict=True):
        assert [g["id"] for g in one["masks"][0]] == [g["id"] for g in other["masks"][0]]


HEADS = {
    "classify": ("ForSequenceClassification", lambda engine, texts: engine.classify(texts)),
    "tag": ("ForTokenClassification", lambda engine, texts: engine.tag(texts)),
    "answer": ("ForQuestionAnswering", lambda engine, texts: engine.answer(["who?"] * len(texts), texts)),
    "choose": ("ForMultipleChoice", lambda engine, texts: engine.choose(texts, [["a b", "c"]] * len(texts))),
    "fill_mask": ("ForMaskedLM", lambda engine, texts: engine.fill_mask([text + "<mask>" for text in texts])),
    "embed": ("Model", lambda engine, texts: engine.embed(texts).tolist()),
}


@pytest.mark.parametrize("head", list(HEADS))
def test_batch_invariant_answers_to_the_last_bit(head: str, tiny_model: Path, tmp_path: Path) -> None:
    ending, ask = HEADS[head]
    torch.manual_seed(0)
    sizes = {**SMALL, "hidden_size": 256, "num_hidden_layers": 1, "max_position_embeddings": 66}
    config = xlm.XLMRobertaConfig(**sizes, num_labels=1 if head == "choose" else 7, initializer_range=0.2)
    getattr(xlm, f"XLMRoberta{ending}")(config).save_pretrained(tmp_path)
    xlm.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    engine = xlm.load(tmp_path, batch_invariant=True)
    texts = ["hello world " * (1 + n % 4) + str(n) for n in range(11)]
    together = ask(engine, texts)
    assert together == [ask(engine, [text])[0] for text in texts]


def test_batch_invariance_is_not_promised_for_translation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.inference.loading.AutoConfig.from_pretrained", lambda folder: Composition())
    with pytest.raises(xlm.ConfigError, match="batch_invariant=True: not for translation"):
        xlm.load(tmp_path, device="cpu", batch_invariant=True)


class Composition:
    """Of an encoder-decoder's config what loading asks first."""

    is_composition, quantization_config = True, None


@pytest.mark.parametrize("top_k", [0, -1, True, 1.5])
def test_documents_are_not_dropped_by_a_bad_top_k(top_k, tiny_model: Path, tmp_path: Path) -> None:
    config = xlm.XLMRobertaConfig(**SMALL, max_position_embeddings=66, num_labels=1)
    xlm.XLMRobertaForSequenceClassification(config).save_pretrained(tmp_path)
    xlm.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    engine = xlm.load(tmp_path)
    assert len(engine.rerank("a", ["b", "c"], top_k=1)) == 1
    with pytest.raises(xlm.InputError, match=r"top_k is .* at least 1"):
        engine.rerank("a", ["b", "c"], top_k=top_k)


def test_one_token_too_long_and_compile_without_a_gpu_are_refused(tiny_model: Path) -> None:
    with pytest.raises(xlm.ConfigError, match="compile=True with device 'cpu': it needs a GPU"):
        xlm.load(tiny_model, device="cpu", compile=True)


@pytest.mark.slow
def test_a_hundred_thousand_inputs_come_back_in_order(tiny_model: Path) -> None:
    engine = xlm.load(tiny_model)
    rng = np.random.default_rng(0)
    kinds = [rng.integers(4, 600, size=n).tolist() for n in rng.integers(1, 12, 50)]
    chosen = rng.integers(0, len(kinds), 100_000)
    vectors = engine.embed([kinds[i] for i in chosen])
    np.testing.assert_allclose(vectors, engine.embed(kinds)[chosen], atol=1e-5)
