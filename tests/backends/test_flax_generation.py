"""Continuing text in Flax gives what the PyTorch backend gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
import jax
import torch

import frameworks
import tiny
import xlm

FLAX = next(f for f in frameworks.FRAMEWORKS if f.name == "flax")
BY_NAME = {head.name: head for head in tiny.HEADS}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "decoder": ("XLMRobertaForCausalLM", {}),
    "XL decoder": ("XLMRobertaXLForCausalLM", {}),
    "two directions": ("XLMRobertaForCausalLM", {"is_decoder": False}),
    "XLM": ("XLMWithLMHeadModel", {"mask_token_id": 5, "lang_id": 1}),
    "XLM causal": ("XLMWithLMHeadModel", {"mask_token_id": 5, "lang_id": 1, "causal": True}),
}


@pytest.mark.parametrize(
    "which", [m if m in ("decoder", "XLM") else pytest.param(m, marks=pytest.mark.slow) for m in MODELS]
)
def test_greedy_search(which: str, tmp_path: Path) -> None:
    name, options = MODELS[which]
    head = BY_NAME[name]
    model = tiny.model(head, **options)
    model.save_pretrained(tmp_path)
    other = FLAX.load(head, tmp_path)
    ids = tiny.ids(head, length=4)
    want = model.generate(ids, max_new_tokens=6, eos_token_id=99, do_sample=False)
    have = other.generate(ids.numpy(), max_new_tokens=6, eos_token_id=99).sequences
    np.testing.assert_array_equal(have, want.numpy())


BEAMS: list[tuple[str, dict[str, Any]]] = [
    ("decoder", {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": [7, 11, 13, 17, 20, 21, 30]}),
    ("decoder", {"num_beams": 4, "length_penalty": 0.3, "early_stopping": True, "eos_token_id": list(range(20, 40))}),
    ("decoder", {"num_beams": 2, "num_return_sequences": 2, "length_penalty": 2.0, "eos_token_id": []}),
    (
        "decoder",
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never", "eos_token_id": list(range(20, 40))},
    ),
    ("two directions", {"num_beams": 3, "eos_token_id": list(range(5, 25))}),
    ("XLM", {"num_beams": 3, "num_return_sequences": 3, "eos_token_id": list(range(5, 25))}),
]


@pytest.mark.parametrize("case", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, len(BEAMS)))])
def test_beam_search(case: int, tmp_path: Path) -> None:
    which, options = BEAMS[case]
    name, changed = MODELS[which]
    head = BY_NAME[name]
    model = tiny.model(head, **changed)
    model.save_pretrained(tmp_path)
    other = FLAX.load(head, tmp_path)
    ids = tiny.ids(head, length=4)
    extra: dict[str, Any] = {"pad_token_id": 1, "max_new_tokens": 6}
    if which == "decoder":
        ids[1, :2] = 1
        extra["attention_mask"] = (ids != 1).int()
    want = model.generate(ids, do_sample=False, **extra, **options).numpy()
    extra = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in extra.items()}
    found = other.generate(ids.numpy(), **extra, **options)
    have = np.asarray(found.sequences)
    np.testing.assert_array_equal(have[:, : want.shape[1]], want)
    assert (have[:, want.shape[1] :] == 1).all()
    scores = np.asarray(found.scores).reshape(len(ids), -1)
    assert np.isfinite(scores).all() and (np.diff(scores) <= 0).all()


@pytest.mark.slow
def test_prompts_padded_on_the_left_and_ends(tmp_path: Path) -> None:
    head = BY_NAME["XLMRobertaForCausalLM"]
    model = tiny.model(head)
    model.save_pretrained(tmp_path)
    other = FLAX.load(head, tmp_path)
    ids = tiny.ids(head, length=4)
    ids[1, :2], mask = 1, torch.ones_like(ids)
    mask[1, :2] = 0
    free = other.generate(ids.numpy(), attention_mask=mask.numpy(), max_new_tokens=6, eos_token_id=99).sequences
    want = model.generate(ids, attention_mask=mask, max_new_tokens=6, eos_token_id=99, do_sample=False)
    np.testing.assert_array_equal(free, want.numpy())
    short = other.generate(ids.numpy()[1:, 2:], max_new_tokens=6, eos_token_id=99).sequences
    np.testing.assert_array_equal(free[1, 2:], short[0])
    end = int(free[0, 5])  # the second new token of the first row
    ended = other.generate(ids.numpy(), attention_mask=mask.numpy(), max_new_tokens=6, eos_token_id=end).sequences
    np.testing.assert_array_equal(ended[0, :6], free[0, :6])
    assert set(np.asarray(ended[0, 6:]).tolist()) <= {1} or end in np.asarray(free[0, 4:5])


def test_the_references_own_loop(tmp_path: Path) -> None:
    """Its ``prepare`` and ``update`` methods; there positions begin at 0 instead of after the padding id."""
    head = BY_NAME["XLMRobertaForCausalLM"]
    tiny.model(head).save_pretrained(tmp_path)
    model = FLAX.load(head, tmp_path)
    ids = tiny.ids(head, length=4).numpy()
    want = model.generate(ids, max_new_tokens=3, eos_token_id=99).sequences
    kwargs, tokens = model.prepare_inputs_for_generation(ids, 7), ids
    rows = [ids]
    for _ in range(3):
        output = model(tokens, **kwargs)
        tokens = np.asarray(output.logits[:, -1].argmax(-1))[:, None]
        rows.append(tokens)
        kwargs = model.update_inputs_for_generation(output, kwargs)
    np.testing.assert_array_equal(np.concatenate(rows, 1), want)


@pytest.mark.slow
def test_sampling_draws_by_its_key(tmp_path: Path) -> None:
    model = xlm.FlaxXLMRobertaForCausalLM(tiny.config(BY_NAME["XLMRobertaForCausalLM"]))
    ids = np.repeat(tiny.ids(BY_NAME["XLMRobertaForCausalLM"], 1, 3).numpy(), 8, 0)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": True, "eos_token_id": 99}
    one = model.generate(ids, prng_key=jax.random.key(0), **options).sequences
    np.testing.assert_array_equal(one, model.generate(ids, prng_key=jax.random.key(0), **options).sequences)
    assert not np.array_equal(one, model.generate(ids, prng_key=jax.random.key(1), **options).sequences)
    assert len(np.unique(one, axis=0)) > 1
    greedy = model.generate(ids, max_new_tokens=8, eos_token_id=99).sequences
    np.testing.assert_array_equal(model.generate(ids, top_k=1, **options).sequences, greedy)
    np.testing.assert_array_equal(model.generate(ids, top_p=1e-6, **options).sequences, greedy)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_length": 3}, "max_length=3: the prompt has 4 tokens"),
        ({"max_length": 21}, "max_length=21: the model has positions for 20 tokens"),
        ({"do_sample": True, "temperature": 0.0}, "temperature=0.0: must be above 0"),
        ({"do_sample": True, "top_p": 1.5}, "top_p=1.5"),
        ({"num_beams": 0}, "num_beams=0, num_return_sequences=1: at least 1"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences=3: at most num_beams=2"),
        ({"num_beams": 2, "do_sample": True}, "num_beams=2: Flax models sample without beams"),
        ({"num_beams": 2, "early_stopping": "sometimes"}, "early_stopping='sometimes'"),
        ({"attention_mask": np.ones((3, 3))}, r"attention_mask of shape \(3, 3\)"),
    ],
)
def test_impossible_options(given: dict[str, Any], message: str) -> None:
    model = xlm.FlaxXLMRobertaForCausalLM(tiny.config(BY_NAME["XLMRobertaForCausalLM"]))
    with pytest.raises(xlm.InputError, match=message):
        model.generate(tiny.ids(BY_NAME["XLMRobertaForCausalLM"], length=4).numpy(), **given)


def test_what_cannot_generate_says_so() -> None:
    assert xlm.FlaxXLMRobertaForCausalLM.can_generate() and xlm.FlaxXLMWithLMHeadModel.can_generate()
    assert not xlm.FlaxXLMRobertaForMaskedLM.can_generate() and not xlm.FlaxXLMModel.can_generate()


def test_xlm_continues_padded_prompts_as_it_does_alone(tmp_path: Path) -> None:
    name, options = MODELS["XLM"]
    model = tiny.model(BY_NAME[name], **options)
    model.save_pretrained(tmp_path)
    other = FLAX.load(BY_NAME[name], tmp_path)
    ids = tiny.ids(BY_NAME[name], batch=2, length=5)
    ids[1, :2], mask = tiny.pad_id("xlm"), torch.ones_like(ids)
    mask[1, :2] = 0
    want = model.generate(ids, attention_mask=mask, max_new_tokens=5, eos_token_id=99, do_sample=False)
    have = other.generate(ids.numpy(), attention_mask=mask.numpy(), max_new_tokens=5, eos_token_id=99).sequences
    np.testing.assert_array_equal(have, want.numpy())
    causal = xlm.FlaxXLMWithLMHeadModel(tiny.config(BY_NAME[name], mask_token_id=5, causal=True))
    with pytest.raises(xlm.InputError, match="attention_mask: a causal model attends to padding too"):
        causal.generate(ids.numpy(), attention_mask=mask.numpy(), max_new_tokens=5)
