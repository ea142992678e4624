"""Every head of every family in every framework: outputs, gradients and files equal to the PyTorch backend's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import frameworks
import tiny
import xlm
from xlm.checkpoints.published import to_theirs
from xlm.errors import OutputError

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.skipif(not frameworks.FRAMEWORKS, reason="needs another framework beside PyTorch"),
]
BOTH = pytest.mark.parametrize("framework", frameworks.FRAMEWORKS, ids=lambda f: f.name)
# Each head compiles for seconds: the quick run takes one language model a family, and a classifier.
QUICK = {head.name for head in tiny.ONE_A_FAMILY} | {"XLMRobertaForSequenceClassification"}
EVERY = pytest.mark.parametrize(
    ("framework", "head"),
    [
        pytest.param(
            framework, head, id=f"{framework.name}-{head}", marks=[pytest.mark.slow] * (head.name not in QUICK)
        )
        for framework, head in frameworks.PAIRS
    ],
)
TOLERANCE = 1e-5


def close(have: Any, want: Any, where: str, tolerance: float = TOLERANCE) -> None:
    """Compare nested outputs."""
    if isinstance(want, tuple | list):
        assert len(have) == len(want), where
        for number, (one, two) in enumerate(zip(have, want, strict=True)):
            close(one, two, f"{where}.{number}", tolerance)
        return
    want = want.detach().numpy() if isinstance(want, torch.Tensor) else np.asarray(want)
    assert have.shape == want.shape, where
    np.testing.assert_allclose(have, want, rtol=tolerance, atol=tolerance, err_msg=where)


def inputs(head: tiny.Head) -> dict[str, torch.Tensor]:
    """A padded batch with all that a family takes: mask, languages, labels."""
    ids = tiny.ids(head)
    mask = torch.ones_like(ids)
    ids[-1, ..., 5:], mask[-1, ..., 5:] = tiny.pad_id(head.family), 0
    given = {"input_ids": ids, "attention_mask": mask, **tiny.labels(head, ids)}
    if head.family == "xlm":
        given["langs"] = ids % 2
    return given


def arrays(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in given.items()}


@EVERY
def test_outputs_gradients_and_files_are_the_same(
    framework: frameworks.Framework, head: tiny.Head, tmp_path: Path
) -> None:
    model = tiny.model(head)
    model.save_pretrained(tmp_path / "torch")
    other = framework.load(head, tmp_path / "torch")
    given: dict[str, Any] = {**inputs(head), "output_hidden_states": True, "output_attentions": True}
    want = model(**given)
    (want["loss"] if "loss" in want else (want[0] ** 2).sum()).backward()
    have, gradients = framework.gradients(other, arrays(given))
    assert [name for name in have if name != "past_key_values"] == [n for n in want if n != "past_key_values"]
    for name in have:
        close(have[name], want[name], name)
    base = head.kind == "model"
    wanted = {to_theirs(model.family, n, base): p for n, p in model.named_parameters()}
    assert gradients.keys() == wanted.keys()
    scale = max(float(p.grad.abs().max()) for p in wanted.values() if p.grad is not None)
    for name, p in wanted.items():
        grad = torch.zeros_like(p) if p.grad is None else p.grad
        close(gradients[name] / scale, grad / scale, name)
    # What any of them saves, the others load, bit for bit.
    for name, tensor in framework.tensors(other).items():
        np.testing.assert_array_equal(tensor, wanted[name].detach().numpy(), err_msg=name)
    other.save_pretrained(tmp_path / "other")
    back = head.cls.from_pretrained(tmp_path / "other")
    for (name, one), two in zip(back.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one, two), name
    back.config.name_or_path = model.config.name_or_path
    assert back.config == model.config


@pytest.mark.parametrize(
    ("framework", "head"), [(framework, head) for framework, head in frameworks.PAIRS if head.kind == "beam"]
)
def test_beams(framework: frameworks.Framework, head: tiny.Head, tmp_path: Path) -> None:
    model = tiny.model(head)
    model.save_pretrained(tmp_path)
    other = framework.load(head, tmp_path)
    given = {k: v for k, v in inputs(head).items() if "positions" not in k}
    given |= {"cls_index": torch.tensor([0, 3, 1]), "p_mask": 1.0 - given["attention_mask"].float()}
    want, have = model(**given), framework.run(other, arrays(given))
    assert list(have) == list(want)
    for name in have:
        close(have[name], want[name], name)
    spans = {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([4, 2, 3])}
    given |= {**spans, "is_impossible": torch.tensor([0, 1, 0])}
    close(framework.run(other, arrays(given))["loss"], model(**given).loss, "loss")


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("XLMModel", {"gelu_activation": False}),
    "causal": ("XLMModel", {"causal": True}),
    "sinusoidal": ("XLMModel", {"sinusoidal_embeddings": True}),
    "one language": ("XLMModel", {"n_langs": 1}),
    "untied": ("XLMWithLMHeadModel", {"tie_word_embeddings": False}),
    "adaptive": ("XLMWithLMHeadModel", {"asm": True, "asm_cutoffs": [10, 20], "asm_div_value": 2.0}),
    "summary": ("XLMForSequenceClassification", {"summary_type": "mean", "summary_activation": "tanh"}),
    "untied R": ("XLMRobertaForMaskedLM", {"tie_word_embeddings": False}),
    "decoder": ("XLMRobertaModel", {"is_decoder": True}),
    "relative": ("XLMRobertaModel", {"position_embedding_type": "relative_key"}),
    "relative both": ("XLMRobertaXLModel", {"position_embedding_type": "relative_key_query"}),
    "chunked": ("XLMRobertaModel", {"chunk_size_feed_forward": 7}),
    "silu": ("XLMRobertaXLModel", {"hidden_act": "silu"}),
    "regression": ("XLMRobertaForSequenceClassification", {"num_labels": 1}),
    "many labels": ("XLMRobertaXLForSequenceClassification", {"problem_type": "multi_label_classification"}),
}


@BOTH
@pytest.mark.parametrize(
    "variant",
    [v if v in ("untied", "relative") else pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS],
)
def test_what_configs_change(framework: frameworks.Framework, variant: str, tmp_path: Path) -> None:
    name, options = VARIANTS[variant]
    head = next(head for head in tiny.HEADS if head.name == name)
    model = tiny.model(head, **options)
    model.save_pretrained(tmp_path)
    other = framework.load(head, tmp_path)
    given = inputs(head)
    if options.get("n_langs") == 1:
        given["langs"] = torch.zeros_like(given["langs"])
    if head.kind == "classify" and head.family != "xlm":
        shape = (3, tiny.LABELS) if "problem_type" in options else (3,)
        given["labels"] = torch.rand(shape, generator=torch.Generator().manual_seed(0)).round()
    want, have = model(**given), framework.run(other, arrays(given))
    for key in have:
        if key != "past_key_values":
            close(have[key], want[key], key)
    tensors = framework.tensors(other)
    other.save_pretrained(tmp_path / "other")
    again = framework.tensors(framework.load(head, tmp_path / "other"))
    assert tensors.keys() == again.keys()
    assert all(np.array_equal(tensors[key], again[key]) for key in tensors)


@BOTH
@pytest.mark.parametrize("head", tiny.MODELS[1:], ids=str)
def test_what_a_call_may_add(framework: frameworks.Framework, head: tiny.Head, tmp_path: Path) -> None:
    """Head masks, 3-D masks, token types, positions, embeddings, another model's states."""
    model = tiny.model(head, is_decoder=True, add_cross_attention=True)
    model.save_pretrained(tmp_path)
    other = framework.load(head, tmp_path)
    draw = torch.Generator().manual_seed(3)
    given = {
        "inputs_embeds": torch.randn(3, 7, tiny.HIDDEN, generator=draw),
        "attention_mask": torch.rand(3, 7, 7, generator=draw).round() + torch.eye(7).clamp(max=1) > 0,
        "position_ids": torch.arange(8, 1, -1).expand(3, 7),
        "token_type_ids": torch.zeros(3, 7, dtype=torch.long),
        "head_mask": torch.tensor([[0.5, 1.0], [1.0, 0.0]]),
        "encoder_hidden_states": torch.randn(3, 4, tiny.HIDDEN, generator=draw),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]),
        "output_attentions": True,
    }
    want, have = model(**given), framework.run(other, arrays(given))
    assert "cross_attentions" in have
    for key in have:
        close(have[key], want[key], key)


@BOTH
def test_the_bundled_model(framework: frameworks.Framework) -> None:
    from xlm.assets import bundled_folder
    from xlm.errors import CheckpointError

    try:
        folder = bundled_folder()
    except CheckpointError as error:
        pytest.skip(str(error))
    import xlm

    tokenizer = xlm.AutoTokenizer.from_pretrained(folder)
    texts = ["The capital of France is <mask>.", "Столица Франции — <mask>.", "ფრანგული", "法国的首都是<mask>。"]
    batch = tokenizer(texts, padding=True, return_tensors="np")
    head = next(head for head in tiny.HEADS if head.name == "XLMRobertaXLForMaskedLM")
    given = {name: np.asarray(batch[name]) for name in ("input_ids", "attention_mask")}
    have = framework.run(framework.load(head, folder), given)["logits"]
    with torch.no_grad():
        want = head.cls.from_pretrained(folder)(**{name: torch.from_numpy(value) for name, value in given.items()})
    real = given["attention_mask"] == 1
    np.testing.assert_allclose(have[real], want.logits.numpy()[real], atol=1e-4, rtol=1e-4)


@BOTH
@pytest.mark.parametrize("safe", [True, False])
def test_weights_and_config_change_together(
    framework: frameworks.Framework, safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that fails at its last file leaves the one before whole."""
    if framework.name == "keras" and not safe:
        pytest.importorskip("h5py")
    head = next(head for head in tiny.HEADS if head.name == "XLMRobertaForSequenceClassification")
    tiny.model(head).save_pretrained(tmp_path / "torch")
    model, folder = framework.load(head, tmp_path / "torch"), tmp_path / "saved"
    model.save_pretrained(folder, safe_serialization=safe)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model.config.temperature = 0.5
    real, done = os.fsync, []

    def full(handle: int) -> None:
        if done:
            raise OSError(28, "No space left on device")
        done.append(handle)
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr("xlm.atomic.os.fsync", full)
        with pytest.raises(OutputError, match=r"config\.json: cannot be written: the disk is full"):
            model.save_pretrained(folder, safe_serialization=safe)
    assert len(before) == 3 and {path.name: path.read_bytes() for path in folder.iterdir()} == before
    model.save_pretrained(folder, safe_serialization=safe)
    assert '"temperature": 0.5' in (folder / "config.json").read_text("utf-8")


@BOTH
@pytest.mark.parametrize(
    "name", ["XLMRobertaForCausalLM", pytest.param("XLMRobertaXLForCausalLM", marks=pytest.mark.slow)]
)
def test_embeddings_behind_a_cache_are_counted_as_the_reference_does(
    framework: frameworks.Framework, name: str, tmp_path: Path
) -> None:
    """From the first place, in every framework; with ``position_ids`` a step is the full pass."""
    head = next(head for head in tiny.HEADS if head.name == name)
    if not hasattr(xlm, framework.prefix + name):
        pytest.skip(f"{framework.name} has no {name}")
    model = tiny.model(head)
    model.save_pretrained(tmp_path)
    ids = tiny.ids(head)
    words = model.get_input_embeddings()(ids).detach()
    places = tiny.pad_id(head.family) + 1 + torch.arange(4, ids.shape[1])[None].expand(len(ids), -1)
    with torch.no_grad():
        full = model(ids).logits[:, 4:]
        step = {"inputs_embeds": words[:, 4:], "past_key_values": model(ids[:, :4], use_cache=True).past_key_values}
        first = model(**step).logits
        close(model(**step, position_ids=places).logits.numpy(), full, "torch")
    assert (first - full).abs().max() > 1e-3
    other = framework.load(head, tmp_path)
    if framework.name == "flax":
        past = other(ids[:, :4].numpy(), past_key_values=other.init_cache(*ids.shape)).past_key_values
    else:
        past = other(ids[:, :4].numpy(), use_cache=True).past_key_values
    step = {"inputs_embeds": words[:, 4:].numpy(), "past_key_values": past}
    close(np.asarray(other(**step).logits), first, framework.name)
    close(np.asarray(other(**step, position_ids=places.numpy()).logits), full, framework.name)
