"""The engine's face: what goes in, what comes out in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import xlm
from xlm.inference import engine as engine_module

TEXTS = ["hello world", "Где школа?", "", "学校在哪里？ 我今天很累。", "a", "Leo nimechoka sana."]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> xlm.Engine:
    return xlm.load(tiny_model)


def reference(engine: xlm.Engine, ids: list[int]) -> np.ndarray:
    """One sequence alone, through the documented class."""
    with torch.no_grad():
        return engine.model.roberta(torch.tensor([ids])).last_hidden_state[0].numpy()


def test_encode_equals_the_model_one_text_at_a_time_in_input_order(engine: xlm.Engine) -> None:
    found = engine.encode(TEXTS)
    for text, states in zip(TEXTS, found, strict=True):
        expected = reference(engine, engine.tokenizer(text)["input_ids"])
        assert states.dtype == np.float32
        assert states.shape == expected.shape
        np.testing.assert_allclose(states, expected, atol=2e-5)


def test_encode_takes_pairs_and_ids_beside_texts(engine: xlm.Engine) -> None:
    pair = ("hello world", "Где школа?")
    ids = [5, 6, 7]
    found = engine.encode(["a", pair, ids, np.array(ids)])
    pair_ids = engine.tokenizer(*pair)["input_ids"]
    assert [len(states) for states in found] == [len(engine.tokenizer("a")["input_ids"]), len(pair_ids), 3, 3]
    np.testing.assert_allclose(found[1], reference(engine, pair_ids), atol=2e-5)
    np.testing.assert_allclose(found[2], reference(engine, ids), atol=2e-5)
    np.testing.assert_array_equal(found[2], found[3])


@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=12), budget=st.integers(1, 200))
def test_any_lengths_and_any_budget_give_the_same_states(
    tiny_model: Path, engine: xlm.Engine, lengths: list[int], budget: int
) -> None:
    rng = np.random.default_rng(sum(lengths))
    rows = [rng.integers(4, 600, size=length).tolist() for length in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "TOKENS_A_PACK", budget)
        found = engine.encode(rows)
    for row, states in zip(rows, found, strict=True):
        np.testing.assert_allclose(states, reference(engine, row), atol=5e-5)


def test_empty_batches_have_empty_shapes(engine: xlm.Engine) -> None:
    assert engine.encode([]) == []
    assert engine.embed([]).shape == (0, engine.hidden_size)
    assert engine.embed([]).dtype == np.float32
    assert engine.fill_mask([]) == []


def test_the_empty_text_is_its_special_tokens(engine: xlm.Engine) -> None:
    (states,) = engine.encode([""])
    np.testing.assert_allclose(states, reference(engine, [0, 2]), atol=2e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_embed_pools_the_states(engine: xlm.Engine, pooling) -> None:
    states = engine.encode(TEXTS)
    expected = {"mean": lambda s: s.mean(0), "cls": lambda s: s[0], "max": lambda s: s.max(0)}[pooling]
    raw = engine.embed(TEXTS, pooling, normalize=False)
    np.testing.assert_allclose(raw, [expected(part) for part in states], atol=2e-5)
    unit = engine.embed(TEXTS, pooling)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)


def test_fill_mask_equals_the_head_on_the_whole_text(engine: xlm.Engine) -> None:
    texts = ["Paris is the <mask> of France.", "short <mask>", "<mask> and <mask>, мы <mask>"]
    answers = engine.fill_mask(texts, top_k=3)
    assert [answer["text"] for answer in answers] == texts
    assert [len(answer["masks"]) for answer in answers] == [1, 1, 3]
    for text, answer in zip(texts, answers, strict=True):
        ids = torch.tensor([engine.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            shares = engine.model(ids).logits[0].softmax(-1)
        rows = (ids[0] == engine.tokenizer.mask_token_id).nonzero()[:, 0].tolist()
        for row, guesses in zip(rows, answer["masks"], strict=True):
            best = shares[row].topk(3)
            assert [guess["id"] for guess in guesses] == best.indices.tolist()
            assert [guess["probability"] for guess in guesses] == pytest.approx(best.values.tolist(), rel=1e-3)
            tokens = engine.tokenizer.convert_ids_to_tokens(best.indices.tolist())
            assert [guess["token"] for guess in guesses] == tokens


def test_a_candidates_text_has_its_own_mask_filled_and_the_others_left(engine: xlm.Engine) -> None:
    (answer,) = engine.fill_mask(["a <mask> b <mask> c"], top_k=1)
    assert all(guesses[0]["text"].count("<mask>") == 1 for guesses in answer["masks"])


def test_a_text_longer_than_the_model_is_refused_with_counts_or_cut(engine: xlm.Engine) -> None:
    text = "hello " * 200
    tokens = len(engine.tokenizer(text)["input_ids"])
    assert engine.max_tokens == 64
    with pytest.raises(xlm.InputError, match=rf"inputs\[1\]: {tokens} tokens .* limit is 64: .*truncate=True"):
        engine.encode(["a", text])
    with pytest.raises(xlm.InputError, match=r"inputs\[0\]: 65 tokens"):
        engine.encode([[5] * 65])
    assert [len(states) for states in engine.encode([text, [5] * 65], truncate=True)] == [64, 64]
    with pytest.raises(xlm.InputError, match=r"texts\[0\]: \d+ tokens"):
        engine.embed([text])
    assert engine.embed([text], truncate=True).shape == (1, engine.hidden_size)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("hello", "inputs is of type str: a list of texts"),
        (None, "inputs is of type NoneType"),
        (["a", 5], r"inputs\[1\] is of type int"),
        (["a", None], r"inputs\[1\] is of type NoneType"),
        ([[]], r"inputs\[0\] is empty"),
        ([[5, 700000]], r"inputs\[0\]\[1\] is 700000: ids must lie between 0 and"),
        ([[5, -1]], r"inputs\[0\]\[1\] is -1"),
        ([[1.5]], r"inputs\[0\]\[0\] is 1.5 \(of type float\): an id is an integer"),
        ([[True]], r"inputs\[0\]\[0\] is True"),
        ([("a", "b", "c")], r"inputs\[0\]\[0\] is 'a'"),
        ([b"bytes"], r"inputs\[0\] is of type bytes"),
    ],
)
def test_bad_inputs_are_named(engine: xlm.Engine, inputs, message: str) -> None:
    with pytest.raises(xlm.InputError, match=message):
        engine.encode(inputs)


@pytest.mark.parametrize("top_k", [0, -1, 2.5, True, "5"])
def test_bad_top_k_is_refused(engine: xlm.Engine, top_k) -> None:
    with pytest.raises(xlm.InputError, match="top_k is"):
        engine.fill_mask(["a <mask>"], top_k=top_k)


def test_no_mask_and_unknown_pooling_are_refused(engine: xlm.Engine) -> None:
    with pytest.raises(xlm.InputError, match=r"texts\[1\]: no <mask> in 'plain'"):
        engine.fill_mask(["a <mask>", "plain"])
    with pytest.raises(xlm.InputError, match="pooling is 'sum'"):
        engine.embed(["a"], "sum")  # type: ignore[arg-type]


def test_after_an_error_the_next_call_gives_the_same_bits(engine: xlm.Engine) -> None:
    before = engine.embed(TEXTS)
    with pytest.raises(xlm.InputError):
        engine.encode([[-5]])
    np.testing.assert_array_equal(engine.embed(TEXTS), before)


def test_bfloat16_is_close(tiny_model: Path, engine: xlm.Engine) -> None:
    half = xlm.load(tiny_model, dtype="bfloat16")
    assert next(half.model.parameters()).dtype == torch.bfloat16
    cosines = (half.embed(TEXTS) * engine.embed(TEXTS)).sum(axis=1)
    assert half.embed(TEXTS).dtype == np.float32
    assert cosines.min() > 0.99


def test_int8_is_near(tiny_model: Path, engine: xlm.Engine) -> None:
    small = xlm.load(tiny_model, dtype="int8", device="cpu")
    cosines = (small.embed(TEXTS) * engine.embed(TEXTS)).sum(axis=1)
    assert cosines.min() > 0.98
    (answer,) = small.fill_mask(["hello <mask>"])
    assert len(answer["masks"][0]) == 5


def test_a_model_without_a_head_embeds_but_does_not_fill(tiny_model: Path, engine: xlm.Engine, tmp_path: Path) -> None:
    xlm.AutoModel.from_pretrained(engine.name).save_pretrained(tmp_path)
    engine.tokenizer.save_pretrained(tmp_path)
    bare = xlm.load(tmp_path)
    np.testing.assert_allclose(bare.embed(TEXTS), engine.embed(TEXTS), atol=1e-6)
    with pytest.raises(xlm.InputError, match="XLMRobertaModel: fill_mask needs a language-model head"):
        bare.fill_mask(["a <mask>"])


def test_unknown_dtype_and_device_are_named(tiny_model: Path) -> None:
    with pytest.raises(xlm.ConfigError, match="dtype is 'float99': it must be one of float32, bfloat16, float16, int8"):
        xlm.load(tiny_model, dtype="float99")
    with pytest.raises(xlm.ConfigError, match="device is 'toaster': not usable here"):
        xlm.load(tiny_model, device="toaster")


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(xlm.CheckpointError, match=r"config\.json"):
        xlm.load(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    config = xlm.XLMRobertaConfig.from_pretrained(tiny_model)
    config.vocab_size = 300
    xlm.XLMRobertaForMaskedLM(config).save_pretrained(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes((tiny_model / "sentencepiece.bpe.model").read_bytes())
    with pytest.raises(xlm.CheckpointError, match=r"tokenizer has \d+ ids, the model's table 300 rows"):
        xlm.load(tmp_path)


def test_count_tokens(engine: xlm.Engine) -> None:
    assert engine.count_tokens(["", [5, 6]]) == [2, 2]
