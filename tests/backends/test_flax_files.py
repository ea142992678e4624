"""Files of Flax models: one safetensors file for all frameworks, and the msgpack files of old."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("jax")
import jax
import jax.numpy as jnp
import torch
from flax import serialization

import frameworks
import tiny
import xlm
from xlm.checkpoints.checkpoint import Stored
from xlm.checkpoints.foreign import msgpack_out
from xlm.checkpoints.foreign.msgpack import open_msgpack

assert frameworks.FRAMEWORKS
BY_NAME = {head.name: head for head in tiny.HEADS}
IDS = tiny.ids(BY_NAME["XLMRobertaModel"]).numpy()
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
ONE_A_FAMILY = [head.name for head in tiny.ONE_A_FAMILY]


def flax(name: str, config: dict[str, Any] | None = None, **options: Any) -> Any:
    head = BY_NAME[name]
    return getattr(xlm, "Flax" + name)(tiny.config(head, **(config or {})), **options)


def same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_msgpack_is_flaxs_own(name: str, tmp_path: Path) -> None:
    model = flax(name)
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "flax_model.msgpack"]
    # Flax reads ours, and we read Flax's.
    same(serialization.msgpack_restore((tmp_path / "flax_model.msgpack").read_bytes()), model.params)
    (tmp_path / "flax_model.msgpack").write_bytes(serialization.to_bytes(model.params))
    same(type(model).from_pretrained(tmp_path).params, model.params)
    # So does the PyTorch backend.
    loaded = BY_NAME[name].cls.from_pretrained(tmp_path, from_flax=True)
    for slot, stored in model.slots.published(model.stacked):
        assert np.array_equal(stored.read(), loaded.state_dict()[slot.ours].numpy()), slot.ours


def test_large_arrays_go_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(msgpack_out, "_PIECE", 100)
    array = np.arange(7 * 300, dtype=np.float32).reshape(7, 300)
    tree = {"a": {"kernel": Stored.of(array), "bias": Stored.of(np.float32([1, 2]).astype(ml_dtypes.bfloat16))}}
    path = msgpack_out.save_msgpack(tmp_path / "flax_model.msgpack", tree)
    restored = serialization.msgpack_restore(path.read_bytes())
    np.testing.assert_array_equal(restored["a"]["kernel"], array)
    assert restored["a"]["bias"].dtype == ml_dtypes.bfloat16
    opened = open_msgpack(path)
    np.testing.assert_array_equal(opened.read("a.weight"), array.T)
    with pytest.raises(xlm.InputError, match="tree: /a is a int, not a tensor"):
        msgpack_out.save_msgpack(path, {"a": 3})
    np.testing.assert_array_equal(open_msgpack(path).read("a.weight"), array.T)


def test_bfloat16_files(tmp_path: Path) -> None:
    model = flax("XLMRobertaForMaskedLM")
    model.save_pretrained(tmp_path / "low", params=model.to_bf16(model.params))
    assert json.loads((tmp_path / "low/config.json").read_text())["torch_dtype"] == "bfloat16"
    kept = type(model).from_pretrained(tmp_path / "low", param_dtype="auto")
    assert {leaf.dtype for leaf in jax.tree.leaves(kept.params)} == {jnp.dtype(jnp.bfloat16)}
    wide = type(model).from_pretrained(tmp_path / "low")
    same(wide.params, model.to_fp32(model.to_bf16(model.params)))
    other = xlm.XLMRobertaForMaskedLM.from_pretrained(tmp_path / "low", dtype="auto")
    assert other.dtype == torch.bfloat16
    np.testing.assert_array_equal(
        other.roberta.embeddings.word_embeddings.weight.float().detach().numpy(),
        wide.params["roberta"]["embeddings"]["word_embeddings"]["embedding"],
    )
    other.save_pretrained(tmp_path / "torch")
    same(type(model).from_pretrained(tmp_path / "torch", param_dtype="auto").params, kept.params)


def test_transformers_opens_what_we_write(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = flax("XLMRobertaForMaskedLM")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["XLMRobertaForMaskedLM"]
    theirs = transformers.XLMRobertaForMaskedLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        want = theirs(torch.from_numpy(IDS)).logits.numpy()
    np.testing.assert_allclose(model(IDS).logits, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("safe", [True, False])
def test_heads_come_and_go(safe: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # The reference loses the encoder on the way between a model and a model with a head.
    base, tagger = flax("XLMRobertaModel"), flax("XLMRobertaForTokenClassification", seed=1)
    base.save_pretrained(tmp_path / "base", safe_serialization=safe)
    tagger.save_pretrained(tmp_path / "tagger", safe_serialization=safe)
    with caplog.at_level("WARNING", logger="xlm"):
        loaded, info = type(tagger).from_pretrained(tmp_path / "base", num_labels=5, output_loading_info=True, seed=2)
    assert info["missing_keys"] == ["classifier.bias", "classifier.weight"] and "newly initialised" in caplog.text
    same(loaded.params["roberta"]["encoder"], base.params["encoder"])
    assert loaded.params["classifier"]["kernel"].shape == (tiny.HIDDEN, 5)
    back = type(base).from_pretrained(tmp_path / "tagger")
    same(back.params["encoder"], tagger.params["roberta"]["encoder"])


def test_a_wrong_shape_is_named_and_may_be_passed_over(tmp_path: Path) -> None:
    model = flax("XLMRobertaForTokenClassification")
    model.save_pretrained(tmp_path)
    with pytest.raises(xlm.CheckpointError, match=r"classifier.weight  file \(3, 16\)  model \(4, 16\)"):
        type(model).from_pretrained(tmp_path, num_labels=4)
    loaded = type(model).from_pretrained(tmp_path, num_labels=4, ignore_mismatched_sizes=True)
    assert loaded.params["classifier"]["kernel"].shape == (16, 4)
    same(loaded.params["roberta"], model.params["roberta"])


def test_a_missing_layer_is_an_error(tmp_path: Path) -> None:
    flax("XLMRobertaModel").save_pretrained(tmp_path)
    with pytest.raises(xlm.CheckpointError, match=r"encoder.layer.2.attention"):
        xlm.FlaxXLMRobertaModel.from_pretrained(tmp_path, num_hidden_layers=3)


def test_not_a_number_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = flax("XLMRobertaModel")
    params = model.params
    params["encoder"]["layer"]["1"]["output"]["dense"]["bias"] *= jnp.nan
    model.save_pretrained(tmp_path, params=params)
    with caplog.at_level("WARNING", logger="xlm"):
        xlm.FlaxXLMRobertaModel.from_pretrained(tmp_path)
    assert "NaN or infinite values in roberta.encoder.layer.1.output.dense.bias" in caplog.text
    with pytest.raises(xlm.CheckpointError, match=r"layer.1.output.dense.bias"):
        xlm.FlaxXLMRobertaModel.from_pretrained(tmp_path, strict_finite=True)


def test_auto_classes_and_parameters_apart(tmp_path: Path) -> None:
    for name, auto in (
        ("XLMWithLMHeadModel", "ForMaskedLM"),
        ("XLMRobertaXLForQuestionAnswering", "ForQuestionAnswering"),
    ):
        flax(name).save_pretrained(tmp_path / name)
        model, params = getattr(xlm, "FlaxAutoModel" + auto).from_pretrained(tmp_path / name, _do_init=False)
        assert type(model).__name__ == "Flax" + name
        assert np.isfinite(model(IDS, params=params)[0]).all()
    with pytest.raises(xlm.ConfigError, match="from_pretrained"):
        xlm.FlaxAutoModel()


def test_an_empty_encoder(tmp_path: Path) -> None:
    model = flax("XLMRobertaModel", {"num_hidden_layers": 0})
    model.save_pretrained(tmp_path)
    loaded = xlm.FlaxXLMRobertaModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded(IDS)[0], model(IDS)[0])
    assert len(model(IDS, output_hidden_states=True).hidden_states) == 1


def test_files_of_an_earlier_save_do_not_stay_in_force(tmp_path: Path) -> None:
    old, new = flax("XLMRobertaModel"), flax("XLMRobertaModel", seed=1)
    for size in ("5GB", "10KB"):
        old.save_pretrained(tmp_path, max_shard_size=size)
        new.save_pretrained(tmp_path, safe_serialization=False)
        assert not list(tmp_path.glob("*.safetensors*"))
    same(type(new).from_pretrained(tmp_path).params, new.params)


def test_an_encoder_becomes_a_decoder_that_looks_across(tmp_path: Path) -> None:
    flax("XLMRobertaModel").save_pretrained(tmp_path)
    cls, decoder = xlm.FlaxXLMRobertaForCausalLM, {"is_decoder": True, "add_cross_attention": True}
    model, info = cls.from_pretrained(tmp_path, **decoder, output_loading_info=True)
    assert "roberta.encoder.layer.1.crossattention.self.query.weight" in info["missing_keys"]
    assert model.params["roberta"]["encoder"]["layer"]["1"]["crossattention"]["self"]["query"]["kernel"].any()
    with pytest.raises(xlm.ArgumentError, match="num_labels=5: neither an option of from_pretrained nor an argument"):
        cls.from_pretrained(tmp_path, config=model.config, num_labels=5, colour="red")
