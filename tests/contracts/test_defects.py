"""Defects of the reference that are mended here; each has a line in ``docs/defects.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from xlm import InputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
XLM_LM = tiny.ONE_A_FAMILY[0]
ADAPTIVE: dict[str, Any] = {"asm": True, "asm_cutoffs": [10, 20], "asm_div_value": 2.0}


@pytest.mark.parametrize("tied", [True, False])
def test_adaptive_softmax_works_on_sequences(tied: bool, tmp_path: Path) -> None:
    # The reference ties a weight that an adaptive softmax does not have, and its forward fails on (b, s, h) states.
    model, ids = tiny.model(XLM_LM, **ADAPTIVE, tie_word_embeddings=tied), tiny.ids(XLM_LM)
    names = [name for name, _ in model.named_parameters() if name.startswith("lm_head")]
    assert names == [
        "lm_head.decoder.head.weight",
        "lm_head.decoder.head.bias",
        *(f"lm_head.decoder.tail.{i}.{j}.weight" for i in (0, 1) for j in (0, 1)),
    ]
    logits = model(ids).logits
    assert logits.shape == (3, 7, tiny.VOCAB)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(3, 7))  # log-probabilities
    labels = ids.clone()
    labels[:, 2] = -100
    loss = model(ids, labels=labels).loss
    states = model.roberta(ids)[0]
    counted = labels != -100
    torch.testing.assert_close(loss, model.lm_head.decoder(states[counted], labels[counted]).loss)
    loss.backward()
    assert all(p.grad is not None for p in model.lm_head.parameters())
    model.save_pretrained(tmp_path)
    assert torch.equal(XLM_LM.cls.from_pretrained(tmp_path)(ids).logits, logits)
    # The reference's files of such models carry the weight that does not exist.
    state = load_file(tmp_path / "model.safetensors")
    spurious = {**state, "pred_layer.proj.weight": state["transformer.embeddings.weight"].clone()}
    save_file(spurious, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = XLM_LM.cls.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, logits)
    with pytest.raises(InputError, match="an adaptive softmax cannot be resized"):
        model.resize_token_embeddings(50)
    assert model.generate(ids, max_new_tokens=2).shape == (3, 9)


def test_loss_after_resizing_the_vocabulary() -> None:
    # The reference's head keeps the old number of words and its loss raises.
    model, ids = tiny.model(XLM_LM), tiny.ids(XLM_LM)
    model.resize_token_embeddings(tiny.VOCAB + 3)
    output = model(ids, labels=torch.full_like(ids, tiny.VOCAB + 2))
    assert output.logits.shape[-1] == tiny.VOCAB + 3 and bool(torch.isfinite(output.loss))


def test_sinusoidal_positions() -> None:
    # The reference writes into a table that requires gradients and raises.
    model = tiny.MODELS[0].cls(tiny.config(tiny.MODELS[0], sinusoidal_embeddings=True))
    table = model.embeddings.position_embeddings.weight
    assert not table.requires_grad
    for position in (0, 1, 7, 19):
        for column in range(tiny.HIDDEN):
            angle = torch.tensor(position / 10000 ** (2 * (column // 2) / tiny.HIDDEN), dtype=torch.float64)
            want = angle.cos() if column % 2 else angle.sin()
            assert float(table[position, column]) == pytest.approx(float(want), abs=1e-6)
    assert table[0].tolist() == [0.0, 1.0] * (tiny.HIDDEN // 2)
    model(tiny.ids(tiny.MODELS[0]))[0].sum().backward()


def test_sinusoidal_positions_come_from_the_file_or_the_formula(tmp_path: Path) -> None:
    head = tiny.MODELS[0]
    model = tiny.model(head, sinusoidal_embeddings=True)
    model.save_pretrained(tmp_path)
    loaded = head.cls.from_pretrained(tmp_path)
    assert torch.equal(loaded.embeddings.position_embeddings.weight, model.embeddings.position_embeddings.weight)
    assert not loaded.embeddings.position_embeddings.weight.requires_grad


@pytest.mark.parametrize("head", tiny.MODELS[1:], ids=str)
def test_cross_attentions_are_never_caches(head: tiny.Head) -> None:
    # Without encoder states the reference returns pieces of the cache as cross-attention weights.
    model, ids = tiny.model(head, is_decoder=True, add_cross_attention=True), tiny.ids(head)
    output = model(ids, output_attentions=True)
    assert not output.cross_attentions
    assert [tuple(weights.shape) for weights in output.attentions] == [(3, 2, 7, 7)] * 2
    assert [len(layer) for layer in output.past_key_values] == [2, 2]
    context = torch.randn(3, 4, tiny.HIDDEN)
    output = model(ids, encoder_hidden_states=context, output_attentions=True)
    assert [tuple(weights.shape) for weights in output.cross_attentions] == [(3, 2, 7, 4)] * 2


@pytest.mark.parametrize("head", [head for head in tiny.HEADS if head.kind == "beam"], ids=str)
def test_impossible_answers_may_be_whole_numbers(head: tiny.Head) -> None:
    # The reference takes floats only.
    model, ids = tiny.model(head), tiny.ids(head)
    labels = {**tiny.labels(head, ids), "cls_index": torch.tensor([0, 0, 1])}
    losses = [
        model(ids, **labels, is_impossible=torch.tensor([0, 1, 0], dtype=dtype)).loss
        for dtype in (torch.float32, torch.int64, torch.bool)
    ]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("head", tiny.MODELS, ids=str)
def test_every_family_recomputes_activations(head: tiny.Head) -> None:
    # The reference refuses to for XLM and XL.
    model = tiny.model(head).train()
    model.gradient_checkpointing_enable()
    model(tiny.ids(head))[0].sum().backward()


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_of_several_cached_tokens(kind: str) -> None:
    # The reference's distances assume one new token a step.
    head = tiny.MODELS[1]
    model, ids = tiny.model(head, is_decoder=True, position_embedding_type=kind), tiny.ids(head)
    first = model(ids[:, :3])
    rest = model(ids[:, 3:], past_key_values=first.past_key_values)[0]
    torch.testing.assert_close(rest, model(ids)[0][:, 3:], rtol=1e-5, atol=1e-5)
