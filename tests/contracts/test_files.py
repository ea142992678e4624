"""Saving and loading: both ways between a model and its files, between heads and encoders, and what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
import xlm
from xlm import CheckpointError, ConfigError, InputError, OutputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
EVERY = pytest.mark.parametrize("head", tiny.HEADS, ids=str)
MASKED = tiny.ONE_A_FAMILY
CLASSIFY = [head for head in tiny.HEADS if head.kind == "classify"]


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    theirs = dict(b.named_parameters())
    assert theirs.keys() == dict(a.named_parameters()).keys()
    for name, p in a.named_parameters():
        assert torch.equal(p, theirs[name]), name


def edit(folder: Path, change: Any) -> None:
    """Rewrite the weights of a folder."""
    state = load_file(folder / "model.safetensors")
    save_file(change(state) or state, folder / "model.safetensors", {"format": "pt"})


@EVERY
@pytest.mark.parametrize("size", ["5GB", "3KB"])
def test_there_and_back(head: tiny.Head, size: int | str, tmp_path: Path) -> None:
    model = tiny.model(head)
    model.save_pretrained(tmp_path, max_shard_size=size)
    shards = sorted(path.name for path in tmp_path.glob("model*.safetensors"))
    assert (shards == ["model.safetensors"]) == (size == "5GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == (size != "5GB")
    assert (tmp_path / "config.json").exists() and (tmp_path / "README.md").exists()
    loaded, report = head.cls.from_pretrained(tmp_path, output_loading_info=True)
    same_weights(model, loaded)
    assert not any(report.values()) and not loaded.training
    assert torch.equal(tiny.scores(loaded(tiny.ids(head))), tiny.scores(model(tiny.ids(head))))
    assert loaded.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    if head.kind in ("masked", "causal"):
        assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


@EVERY
def test_saving_again_leaves_no_stale_shards(head: tiny.Head, tmp_path: Path) -> None:
    model = tiny.model(head)
    model.save_pretrained(tmp_path, max_shard_size=3000)
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    again = head.cls.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path, max_shard_size=4000)  # over the very files that it is mapped from
    same_weights(model, head.cls.from_pretrained(tmp_path))


@EVERY
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.float64])
def test_dtypes(head: tiny.Head, dtype: Any, tmp_path: Path) -> None:
    model = tiny.model(head)
    model.save_pretrained(tmp_path)
    small = head.cls.from_pretrained(tmp_path, dtype=dtype)
    assert {p.dtype for p in small.parameters()} == {getattr(torch, dtype) if isinstance(dtype, str) else dtype}
    same_weights(small, model.to(small.dtype))
    small.save_pretrained(tmp_path)
    assert head.cls.from_pretrained(tmp_path).dtype == torch.float32
    kept = head.cls.from_pretrained(tmp_path, torch_dtype="auto")
    assert kept.dtype == small.dtype and str(kept.config.torch_dtype) in str(small.dtype)


@pytest.mark.parametrize("head", CLASSIFY, ids=str)
def test_an_encoders_file_fills_a_head_and_back(head: tiny.Head, tmp_path: Path) -> None:
    base_head = next(other for other in tiny.MODELS if other.family == head.family)
    base = tiny.model(base_head)
    base.save_pretrained(tmp_path / "base")
    with_head, report = head.cls.from_pretrained(tmp_path / "base", num_labels=5, output_loading_info=True)
    assert report["missing_keys"] and all(
        name.startswith(("classifier.", "sequence_summary.")) for name in report["missing_keys"]
    )
    assert not report["mismatched_keys"]
    assert tiny.scores(with_head(tiny.ids(head))).shape == (3, 5)
    for name, p in with_head.base_model.named_parameters():
        assert torch.equal(p, base.get_parameter(name))
    with_head.save_pretrained(tmp_path / "head")
    back = base_head.cls.from_pretrained(tmp_path / "head")
    for name, p in back.named_parameters():
        if not name.startswith("pooler."):
            assert torch.equal(p, base.get_parameter(name))


@pytest.mark.parametrize("head", CLASSIFY, ids=str)
def test_labels(head: tiny.Head, tmp_path: Path) -> None:
    model = tiny.model(head)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"of another shape"):
        head.cls.from_pretrained(tmp_path, num_labels=4)
    fresh, report = head.cls.from_pretrained(
        tmp_path, num_labels=4, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert fresh.config.num_labels == 4 and tiny.scores(fresh(tiny.ids(head))).shape == (3, 4)
    assert {(found[0], wanted[0]) for _, found, wanted in report["mismatched_keys"]} == {(3, 4)}
    names = {0: "no", 1: "perhaps", 2: "yes"}
    named = head.cls.from_pretrained(tmp_path, id2label=names, label2id={v: k for k, v in names.items()})
    named.save_pretrained(tmp_path)
    assert head.cls.from_pretrained(tmp_path).config.id2label == names


@EVERY
def test_config_options_override_the_file(head: tiny.Head, tmp_path: Path) -> None:
    tiny.model(head).save_pretrained(tmp_path)
    key = "dropout" if head.family == "xlm" else "hidden_dropout_prob"
    model = head.cls.from_pretrained(tmp_path, **{key: 0.25, "output_hidden_states": True})
    assert getattr(model.config, key) == 0.25 and len(model(tiny.ids(head)).hidden_states) == 3
    config = head.cls.config_class.from_pretrained(tmp_path, output_attentions=True)
    assert "attentions" in head.cls.from_pretrained(tmp_path, config=config)(tiny.ids(head))


@EVERY
def test_placement(head: tiny.Head, tmp_path: Path) -> None:
    tiny.model(head).save_pretrained(tmp_path)
    for place in ("cpu", {"": "cpu"}, "auto"):
        assert head.cls.from_pretrained(tmp_path, device_map=place).device.type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="a model is placed on one device"):
        head.cls.from_pretrained(tmp_path, device_map={"a": "cpu", "b": "cuda:0"})


@EVERY
def test_a_state_dict_may_be_given_instead_of_files(head: tiny.Head, tmp_path: Path) -> None:
    model = tiny.model(head)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    same_weights(model, head.cls.from_pretrained(tmp_path, state_dict=state))
    zeroed = {name: torch.zeros_like(p) for name, p in model.state_dict().items()}
    model.save_pretrained(tmp_path / "zero", state_dict=zeroed)
    assert all(bool((p == 0).all()) for p in head.cls.from_pretrained(tmp_path / "zero").parameters())


@pytest.mark.parametrize("head", tiny.MODELS, ids=str)
def test_pruned_models_come_back_pruned(head: tiny.Head, tmp_path: Path) -> None:
    model = tiny.model(head)
    model.prune_heads({1: [0]})
    model.save_pretrained(tmp_path)
    loaded = head.cls.from_pretrained(tmp_path)
    same_weights(model, loaded)
    assert loaded.config.pruned_heads == {1: [0]}
    assert torch.equal(loaded(tiny.ids(head))[0], model(tiny.ids(head))[0])


@pytest.mark.parametrize("head", tiny.LM_HEADS, ids=str)
def test_tied_copies_in_a_file(head: tiny.Head, tmp_path: Path) -> None:
    model = tiny.model(head)
    model.save_pretrained(tmp_path)
    words, decoder = (
        ("transformer.embeddings.weight", "pred_layer.proj.weight")
        if head.family == "xlm"
        else ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight")
    )
    assert words in load_file(tmp_path / "model.safetensors") and decoder not in load_file(
        tmp_path / "model.safetensors"
    )
    edit(tmp_path, lambda state: {**state, decoder: state[words].clone()})
    same_weights(model, head.cls.from_pretrained(tmp_path))
    # Copies that disagree: the decoder's wins, as it does in the references, which load it last.
    edit(tmp_path, lambda state: {**state, decoder: state[words] + 1})
    loaded = head.cls.from_pretrained(tmp_path)
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight + 1)
    # Untied, both are read.
    loaded = head.cls.from_pretrained(tmp_path, tie_word_embeddings=False)
    assert torch.equal(loaded.get_input_embeddings().weight + 1, loaded.get_output_embeddings().weight)
    loaded.save_pretrained(tmp_path / "untied")
    assert decoder in load_file(tmp_path / "untied" / "model.safetensors")
    same_weights(loaded, head.cls.from_pretrained(tmp_path / "untied"))


@pytest.mark.parametrize("head", MASKED[1:], ids=str)
def test_either_name_of_the_tied_bias(head: tiny.Head, tmp_path: Path) -> None:
    model = tiny.model(head)
    model.save_pretrained(tmp_path)

    def rename(state: dict[str, Any]) -> None:
        state["lm_head.decoder.bias"] = state.pop("lm_head.bias")

    edit(tmp_path, rename)
    same_weights(model, head.cls.from_pretrained(tmp_path))


@pytest.mark.parametrize("head", MASKED, ids=str)
def test_old_names_and_buffers(head: tiny.Head, tmp_path: Path) -> None:
    model = tiny.model(head)
    model.save_pretrained(tmp_path)

    def age(state: dict[str, Any]) -> dict[str, Any]:
        old = {}
        for name, value in state.items():
            if "LayerNorm" in name or "layer_norm" in name:
                name = name.removesuffix("weight") + "gamma" if name.endswith("weight") else name
                name = name.removesuffix("bias") + "beta" if name.endswith("bias") else name
            old[name] = value
        base = "transformer" if head.family == "xlm" else "roberta.embeddings"
        old[f"{base}.position_ids"] = torch.arange(20)[None]
        if head.family != "xlm":
            old[f"{base}.token_type_ids"] = torch.zeros(1, 20, dtype=torch.long)
        return old

    edit(tmp_path, age)
    loaded, report = head.cls.from_pretrained(tmp_path, output_loading_info=True)
    same_weights(model, loaded)
    assert not any(report.values())


@EVERY
def test_one_report_of_everything_that_does_not_fit(head: tiny.Head, tmp_path: Path) -> None:
    model = tiny.model(head)
    model.save_pretrained(tmp_path)
    prefix = "transformer." if head.family == "xlm" else "roberta."
    prefix = "" if head.kind == "model" else prefix
    query = "attentions.0.q_lin.bias" if head.family == "xlm" else "encoder.layer.0.attention.self.query.bias"
    words = "position_embeddings.weight" if head.family == "xlm" else "embeddings.position_embeddings.weight"

    def damage(state: dict[str, Any]) -> None:
        del state[prefix + query]
        state[prefix + words] = torch.zeros(4, tiny.HIDDEN)
        state["nobody.knows.this"] = torch.zeros(2)

    edit(tmp_path, damage)
    with pytest.raises(CheckpointError) as caught:
        head.cls.from_pretrained(tmp_path)
    text = str(caught.value)
    assert str(tmp_path) in text and "1 missing" in text and "query.bias" in text
    assert "(4, 16)" in text and "16)" in text and "nobody.knows.this" in text


@pytest.mark.parametrize("head", MASKED, ids=str)
def test_nan_weights(head: tiny.Head, tmp_path: Path) -> None:
    model = tiny.model(head)
    with torch.no_grad():
        model.get_input_embeddings().weight[7, 3] = float("nan")
    model.save_pretrained(tmp_path)
    assert bool(torch.isnan(head.cls.from_pretrained(tmp_path).get_input_embeddings().weight).any())
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in \S*embeddings\.weight"):
        head.cls.from_pretrained(tmp_path, strict_finite=True)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    cls = xlm.XLMRobertaModel
    with pytest.raises(CheckpointError, match=r"config\.json"):
        cls.from_pretrained(tmp_path)
    tiny.model(tiny.MODELS[1]).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"no weights found"):
        cls.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "elsewhere").read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        cls.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(CheckpointError, match="LFS"):
        cls.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": ')
    with pytest.raises(ConfigError, match=r"config\.json: not JSON"):
        cls.from_pretrained(tmp_path)


def test_an_index_that_lies(tmp_path: Path) -> None:
    head = tiny.MODELS[1]
    tiny.model(head).save_pretrained(tmp_path, max_shard_size=3000)
    index = tmp_path / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    for shard in ("../model.safetensors", "/etc/passwd", "absent.safetensors"):
        bad = json.loads(json.dumps(good))
        bad["weight_map"][next(iter(bad["weight_map"]))] = shard
        index.write_text(json.dumps(bad))
        with pytest.raises(CheckpointError, match=r"index\.json"):
            head.cls.from_pretrained(tmp_path)


def test_saving_where_nothing_can_be_saved(tmp_path: Path) -> None:
    model = tiny.model(tiny.MODELS[1])
    (tmp_path / "file").write_text("here first")
    with pytest.raises(OutputError, match=r"save_directory=.*file"):
        model.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "here first"
    with pytest.raises(InputError, match="safe_serialization=False"):
        model.save_pretrained(tmp_path / "new", safe_serialization=False)
    with pytest.raises(InputError, match="max_shard_size='many'"):
        model.save_pretrained(tmp_path / "new", max_shard_size="many")


def test_a_callable_activation_cannot_be_written(tmp_path: Path) -> None:
    model = tiny.model(tiny.MODELS[1], hidden_act=torch.nn.functional.silu)
    with pytest.raises(ConfigError, match="hidden_act is the callable silu"):
        model.save_pretrained(tmp_path / "new")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    tiny.model(tiny.MODELS[1]).save_pretrained(tmp_path / "new", is_main_process=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("head", [*CLASSIFY, *MASKED], ids=str)
def test_auto_classes(head: tiny.Head, tmp_path: Path) -> None:
    model = tiny.model(head)
    model.save_pretrained(tmp_path)
    task = "SequenceClassification" if head.kind == "classify" else "MaskedLM"
    auto = getattr(xlm, f"AutoModelFor{task}")
    assert type(auto.from_pretrained(tmp_path)) is head.cls
    assert type(auto.from_config(model.config)) is head.cls
    assert type(xlm.AutoConfig.from_pretrained(tmp_path)) is head.cls.config_class
    assert (
        type(xlm.AutoModel.from_pretrained(tmp_path)).__name__
        == head.cls.__name__.split("For")[0].removesuffix("WithLMHeadModel").removesuffix("Model") + "Model"
    )
    with pytest.raises(ConfigError, match="from_pretrained"):
        auto(model.config)
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**data, "model_type": "bert"}))
    with pytest.raises(ConfigError, match="model_type='bert'"):
        xlm.AutoModel.from_pretrained(tmp_path)


def test_a_config_without_a_type_is_told_by_its_name(tmp_path: Path) -> None:
    for head in tiny.MODELS:
        folder = tmp_path / f"my-{head.family}-base"
        tiny.model(head).save_pretrained(folder)
        data = json.loads((folder / "config.json").read_text())
        del data["model_type"]
        (folder / "config.json").write_text(json.dumps(data))
        assert type(xlm.AutoConfig.from_pretrained(folder)) is head.cls.config_class
        nameless = tmp_path / "other"
        shutil.copytree(folder, nameless, dirs_exist_ok=True)
        with pytest.raises(ConfigError, match="model_type=None"):
            xlm.AutoConfig.from_pretrained(nameless)
        assert type(head.cls.config_class.from_pretrained(nameless)) is head.cls.config_class


def test_unknown_config_keys_survive(tmp_path: Path) -> None:
    config = xlm.XLMRobertaConfig(**tiny.options("xlm-roberta"), our_own_key={"a": [1, 2]})
    config.save_pretrained(tmp_path)
    loaded = xlm.XLMRobertaConfig.from_pretrained(tmp_path)
    assert loaded.our_own_key == {"a": [1, 2]}
    loaded.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["our_own_key"] == {"a": [1, 2]}


def test_files_are_read_lazily_and_cast_one_by_one(tmp_path: Path) -> None:
    head = MASKED[1]
    model = tiny.model(head)
    model.save_pretrained(tmp_path, max_shard_size=3000)
    loaded = head.cls.from_pretrained(tmp_path, dtype="bfloat16")
    want = model.get_input_embeddings().weight.detach().to(torch.bfloat16)
    assert torch.equal(loaded.get_input_embeddings().weight, want)
    loaded.train()
    loaded.get_input_embeddings().weight.data.add_(1.0)  # weights that came from a map can be trained
    np.testing.assert_array_equal(
        head.cls.from_pretrained(tmp_path).get_input_embeddings().weight.detach().numpy(),
        model.get_input_embeddings().weight.detach().numpy(),
    )
    fp32 = head.cls.from_pretrained(tmp_path)
    fp32.get_input_embeddings().weight.data.add_(1.0)
    same_weights(model, head.cls.from_pretrained(tmp_path))
