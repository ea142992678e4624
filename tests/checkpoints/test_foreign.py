"""fairseq, original XLM, TensorFlow and Flax files: made here as those programs make them, read, converted, written."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from xlm.checkpoints import io
from xlm.checkpoints.expected import expected_shapes
from xlm.checkpoints.files import open_checkpoint, save_safetensors
from xlm.checkpoints.published import PREFIX, to_theirs
from xlm.errors import CheckpointError, InputError, OutputError
from xlm.families.registry import FAMILIES, family_of
from xlm.tokenizers import proto

torch = pytest.importorskip("torch")

SIZES = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
SIZES |= {"max_position_embeddings": 18, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


def config_for(model_type: str, architecture: str, **changes):
    sizes = {"vocab_size": 30, "emb_dim": 8, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 16}
    return FAMILIES[model_type].config_class(
        architectures=[architecture], **{**(sizes if model_type == "xlm" else SIZES), **changes}
    )


def weights_for(config, seed=0) -> dict[str, np.ndarray]:
    """Published name -> random tensor, of every tensor of the model; the token types are zero."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in expected_shapes(config).items():
        value = rng.standard_normal(shape).astype(np.float32)
        out[to_theirs(family_of(config), name)] = value * 0 if "token_type" in name else value
    return out


def save(folder: Path, config, weights) -> Path:
    folder.mkdir(exist_ok=True)
    save_safetensors(folder, weights)
    (folder / "config.json").write_text(config.to_json_string())
    return folder


# Published -> fairseq, spelled out here a second time and by hand, so that the table is held against something.
def fairseq_name(name: str) -> str:
    for old, new in (
        ("roberta.embeddings.word_embeddings", "encoder.sentence_encoder.embed_tokens"),
        ("roberta.embeddings.position_embeddings", "encoder.sentence_encoder.embed_positions"),
        ("roberta.embeddings.LayerNorm", "encoder.sentence_encoder.layernorm_embedding"),
        ("roberta.encoder.LayerNorm", "encoder.sentence_encoder.layer_norm"),
        ("roberta.encoder.layer.", "encoder.sentence_encoder.layers."),
        ("attention.self.query", "self_attn.q_proj"),
        ("attention.self.key", "self_attn.k_proj"),
        ("attention.self.value", "self_attn.v_proj"),
        ("attention.output.dense", "self_attn.out_proj"),
        ("attention.output.LayerNorm", "self_attn_layer_norm"),
        ("attention.self_attn_layer_norm", "self_attn_layer_norm"),
        ("intermediate.dense", "fc1"),
        ("output.dense", "fc2"),
        ("output.LayerNorm", "final_layer_norm"),
        ("lm_head", "encoder.lm_head"),
    ):
        name = name.replace(old, new)
    if ".layers." in name:
        name = name.replace(".LayerNorm.", ".final_layer_norm.")
    return name


def fairseq_state(weights, tied=True) -> dict[str, torch.Tensor]:
    state = {
        fairseq_name(name): torch.from_numpy(value)
        for name, value in weights.items()
        if "token_type" not in name and not name.startswith("classifier")
    }
    table = state["encoder.sentence_encoder.embed_tokens.weight"]
    state["encoder.lm_head.weight"] = table if tied else table.clone()
    state["encoder.sentence_encoder.version"] = torch.tensor([3.0])
    return state


def save_pt(folder: Path, state, **more) -> Path:
    folder.mkdir(exist_ok=True)
    args = argparse.Namespace(arch="roberta_base", encoder_attention_heads=2, dropout=0.2, activation_fn="gelu")
    torch.save({"args": args, "model": state, "extra_state": {"epoch": 3}, **more}, folder / "model.pt")
    return folder


def as_decoder(state):
    return {name.replace("encoder.", "decoder.", 1): value for name, value in state.items()}


def old_norms(state):
    swaps = (("self_attn_layer_norm", "layer_norms.0"), ("final_layer_norm", "layer_norms.1"))
    swaps += (("layernorm_embedding", "emb_layer_norm"),)
    out = {}
    for name, value in state.items():
        for new, old in swaps:
            name = name.replace(new, old)
        out[name] = value
    return out


def fused(state):
    out = dict(state)
    for layer in range(2):
        base = f"encoder.sentence_encoder.layers.{layer}.self_attn."
        for kind in ("weight", "bias"):
            out[f"{base}in_proj_{kind}"] = torch.cat([out.pop(f"{base}{part}_proj.{kind}") for part in "qkv"])
    return out


def with_buffers(state):
    extra = {"encoder.sentence_encoder.embed_positions._float_tensor": torch.zeros(1)}
    return {**{n: v for n, v in state.items() if not n.endswith(".version")}, **extra}


LAYOUTS = {
    "today": lambda s: s,
    "decoder root": as_decoder,
    "old norms": old_norms,
    "fused": fused,
    "no version": with_buffers,
    "all of 2019": lambda s: as_decoder(old_norms(fused(with_buffers(s)))),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model_type", ["xlm-roberta", "xlm-roberta-xl"])
def test_every_fairseq_layout(tmp_path, layout, model_type):
    prefix = FAMILIES[model_type].class_prefix
    config = config_for(model_type, prefix + "ForMaskedLM")
    weights = weights_for(config)
    folder = save_pt(tmp_path / "in", LAYOUTS[layout](fairseq_state(weights)))
    facts = io.inspect(folder)
    assert facts["fits"], facts["report"]
    assert (facts["family"], facts["format"], facts["architecture"]) == (model_type, "fairseq", prefix + "ForMaskedLM")
    assert not io.convert(folder, tmp_path / "out")
    back = open_checkpoint(tmp_path / "out")
    assert set(back) == set(weights)
    assert all((back[name] == value).all() for name, value in weights.items())
    written = json.loads((tmp_path / "out/config.json").read_text())
    for key, value in {**SIZES, "hidden_dropout_prob": 0.2, "model_type": model_type}.items():
        assert written[key] == value


def test_fairseq_settings_in_cfg_and_untied_table(tmp_path):
    config = config_for("xlm-roberta", "XLMRobertaForMaskedLM")
    state = fairseq_state(weights_for(config), tied=False)
    cfg = {"model": argparse.Namespace(encoder_attention_heads=4, dropout=0.0), "task": {"x": None}}
    folder = save_pt(tmp_path, state, cfg=cfg) / "model.pt"
    torch.save({"args": None, "cfg": cfg, "model": state}, folder)
    opened = io.open_model(tmp_path)  # equal values count as tied
    assert opened.config.num_attention_heads == 4 and opened.config.tie_word_embeddings and not opened.report
    state["encoder.lm_head.weight"] += 1
    torch.save({"cfg": cfg, "model": state}, folder)
    opened = io.open_model(tmp_path)
    assert not opened.config.tie_word_embeddings and not opened.report
    torch.save({"cfg": {"model": {"encoder_attention_heads": 3}}, "model": state}, folder)
    with pytest.raises(CheckpointError, match="encoder_attention_heads=3 for a width of 8"):
        io.open_model(tmp_path)


def test_fairseq_heads_and_what_is_left_over(tmp_path):
    config = config_for("xlm-roberta", "XLMRobertaForMaskedLM")
    state = fairseq_state(weights_for(config))
    for head, labels in (("mnli", 3), ("other", 2)):
        for part, rows in (("dense", 8), ("out_proj", labels)):
            state[f"classification_heads.{head}.{part}.weight"] = torch.randn(rows, 8)
            state[f"classification_heads.{head}.{part}.bias"] = torch.randn(rows)
    opened = io.open_model(save_pt(tmp_path, state))
    assert opened.config.architectures == ["XLMRobertaForSequenceClassification"] and opened.config.num_labels == 3
    assert "classification_heads.other" in opened.report.unexpected and not opened.report.missing
    assert (
        opened.tensors["classifier.out_proj.bias"].read() == state["classification_heads.mnli.out_proj.bias"].numpy()
    ).all()
    del state["encoder.sentence_encoder.layers.0.fc1.weight"]
    with pytest.raises(CheckpointError, match=r"lacks 'sentence_encoder.layers.0.fc1.weight'"):
        io.open_model(save_pt(tmp_path, state))


@pytest.mark.parametrize("model_type", ["xlm-roberta", "xlm-roberta-xl"])
def test_what_we_write_for_fairseq(tmp_path, model_type):
    config = config_for(model_type, FAMILIES[model_type].class_prefix + "ForMaskedLM")
    weights = weights_for(config)
    source = save(tmp_path / "in", config, weights)
    io.convert(source, tmp_path / "out", to="fairseq")
    with torch.serialization.safe_globals([argparse.Namespace]):
        written = torch.load(tmp_path / "out/model.pt", weights_only=True)
    expected = fairseq_state(weights)
    assert set(written["model"]) == set(expected)
    assert all(torch.equal(written["model"][name], value) for name, value in expected.items())
    table, head = (written["model"][f"encoder.{n}.weight"] for n in ("sentence_encoder.embed_tokens", "lm_head"))
    assert table.data_ptr() == head.data_ptr() and table.data_ptr() % 64 == 0
    args = written["args"]
    assert args.encoder_normalize_before == (model_type == "xlm-roberta-xl") == (not args.layernorm_embedding)
    assert args.max_positions == 16 and args.encoder_attention_heads == 2
    assert "optimizer_history" in written and "train_iterator" in written["extra_state"]
    # And back again: the same tensors under the same names.
    io.convert(tmp_path / "out", tmp_path / "again")
    again = open_checkpoint(tmp_path / "again")
    assert set(again) == set(weights) and all((again[n] == v).all() for n, v in weights.items())


def test_token_types_are_folded_into_positions_for_fairseq(tmp_path):
    config = config_for("xlm-roberta", "XLMRobertaForMaskedLM")
    weights = weights_for(config)
    types, positions = (f"roberta.embeddings.{n}_embeddings.weight" for n in ("token_type", "position"))
    weights[types] = np.full((1, 8), 0.5, np.float32)
    io.convert(save(tmp_path / "in", config, weights), tmp_path / "out", to="fairseq")
    back = io.open_model(tmp_path / "out").tensors
    assert np.allclose(back[positions].read(), weights[positions] + 0.5) and not back[types].read().any()
    with pytest.raises(InputError, match="xlm models have no fairseq layout"):
        xlm = config_for("xlm", "XLMModel")
        io.convert(save(tmp_path / "xlm", xlm, weights_for(xlm)), tmp_path / "no", to="fairseq")
    relative = config_for("xlm-roberta", "XLMRobertaForMaskedLM", position_embedding_type="relative_key")
    with pytest.raises(CheckpointError, match="absolute positions"):
        io.convert(save(tmp_path / "rel", relative, weights_for(relative)), tmp_path / "no", to="fairseq")


def original_file(folder: Path, prefix="", **changes) -> dict[str, np.ndarray]:
    config = config_for("xlm", "XLMWithLMHeadModel", n_langs=2)
    weights = weights_for(config)
    state = {prefix + name.removeprefix("transformer."): torch.from_numpy(value) for name, value in weights.items()}
    words = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10))]
    words += ["the", "hou@@", "se", *(f"w{i}" for i in range(13))]
    params = {
        "emb_dim": 8,
        "n_layers": 2,
        "n_heads": 2,
        "n_words": 30,
        "n_langs": 2,
        "dropout": 0.1,
        "gelu_activation": True,
    }
    params |= {"lang2id": {"de": 0, "en": 1}, "id2lang": {0: "de", 1: "en"}, "dump_path": "/secret/place", "asm": False}
    params |= {
        "pred_probs": torch.randn(3),
        "counts": np.arange(4),
        "attention_dropout": 0.1,
        "sinusoidal_embeddings": False,
    }
    value = {"model": state, "params": params, "dico_id2word": dict(enumerate(words)), "epoch": 3}
    value |= {"dico_word2id": {w: i for i, w in enumerate(words)}, "dico_counts": dict.fromkeys(words, 7)}
    folder.mkdir(exist_ok=True)
    torch.save({**value, **changes}, folder / "mlm.pth")
    (folder / "codes_xlm").write_text("h o 3\nho u 2\n")
    return weights


@pytest.mark.parametrize("prefix", ["", "module."])
def test_original_xlm(tmp_path, prefix):
    weights = original_file(tmp_path / "in", prefix)
    facts = io.inspect(tmp_path / "in")
    assert facts["family"] == "xlm" and facts["languages"] == ["de", "en"] and facts["fits"], facts
    assert not io.convert(tmp_path / "in/mlm.pth", tmp_path / "out")
    back = open_checkpoint(tmp_path / "out")
    assert set(back) == set(weights) and all((back[n] == v).all() for n, v in weights.items())
    vocabulary = json.loads((tmp_path / "out/vocab.json").read_text())
    assert [vocabulary[w] for w in ("<s>", "<special1>", "the</w>", "hou", "se</w>")] == [0, 5, 14, 15, 16]
    assert (tmp_path / "out/merges.txt").read_text() == "h o 3\nho u 2\n"
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vocab_size"] == 30 and config["lang2id"] == {"de": 0, "en": 1} and "dump_path" not in config
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text())["do_lowercase_and_remove_accent"] is True


def test_original_xlm_that_contradicts_itself(tmp_path):
    original_file(tmp_path, params={"emb_dim": 16, "n_heads": 2})
    with pytest.raises(CheckpointError, match="params say emb_dim=16, its word table has 8"):
        io.open_model(tmp_path)
    original_file(tmp_path, dico_id2word={0: "other"})
    with pytest.raises(CheckpointError, match="contradict each other"):
        io.open_model(tmp_path)
    original_file(tmp_path, model={"layer_norm15.0.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match="decoders of translation models"):
        io.open_model(tmp_path)


def tf_path(name: str) -> str:
    """A published PyTorch name as TensorFlow spells it."""
    head, _, leaf = name.rpartition(".")
    if "LayerNorm" in head or "layer_norm" in head:
        leaf = {"weight": "gamma", "bias": "beta"}[leaf]
    elif name.endswith(("position_embeddings.weight", "token_type_embeddings.weight", "lang_embeddings.weight")):
        leaf = "embeddings"
    elif leaf == "weight" and not name.endswith(("word_embeddings.weight", "transformer.embeddings.weight")):
        leaf = "kernel"
    parts = (head.replace("layer.", "layer_._") if "layer." in head else head).split(".")
    for place in range(len(parts) - 1, 0, -1):
        if parts[place].isdigit():
            parts[place - 1 : place + 1] = [f"{parts[place - 1]}_._{parts[place]}"]
    return "/".join([*parts, leaf]) + ":0"


@pytest.mark.parametrize(("model_type", "architecture"), [("xlm-roberta", "ForMaskedLM"), ("xlm", "WithLMHeadModel")])
def test_tensorflow(tmp_path, model_type, architecture):
    h5py = pytest.importorskip("h5py")
    config = config_for(model_type, FAMILIES[model_type].class_prefix + architecture)
    weights = weights_for(config)
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        file.attrs["layer_names"] = ["roberta", "lm_head", "dropout_36"]
        file.create_group("dropout_36")
        for name, value in weights.items():
            path = tf_path(name)
            group = f"{path.split('/')[0]}/tf_model_for_masked_lm/{path}"
            file[group] = value.T if path.endswith("kernel:0") else value
        copy = (
            "lm_head/tf_model_for_masked_lm/lm_head/weight:0"
            if model_type != "xlm"
            else "p/m/pred_layer_._proj/weight:0"
        )
        file[copy] = np.zeros((30, 8), np.float32)
    (tmp_path / "config.json").write_text(config.to_json_string())
    io.convert(tmp_path, tmp_path / "out")
    back = open_checkpoint(tmp_path / "out")
    assert set(back) == set(weights) and all((back[n] == v).all() for n, v in weights.items())
    # The same tensors in TensorFlow's safetensors.
    tensors = {tf_path(n): v.T if tf_path(n).endswith("kernel:0") else v for n, v in weights.items()}
    save_safetensors(tmp_path / "model.safetensors", tensors, {"format": "tf"})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == "tensorflow" and all((checkpoint[n] == v).all() for n, v in weights.items())


def test_hdf5_that_leads_elsewhere(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "tf_model.h5"
    for spoil in (
        lambda f: f.__setitem__("a", h5py.ExternalLink("/etc/passwd", "/x")),
        lambda f: f.__setitem__("a", h5py.SoftLink("/x")),
        lambda f: f.create_dataset("a/b/c:0", (4,), "u1", external=[("/etc/passwd", 0, 4)]),
        lambda f: f.create_dataset("a/b/c:0", data=[b"text"]),
        lambda f: None,
    ):
        with h5py.File(path, "w") as file:
            spoil(file)
        with pytest.raises(CheckpointError, match=r"refused|not numbers|no weights"):
            open_checkpoint(path)
    raw = b"\x89HDF\r\n\x1a\n" + b"\0" * 90
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="damaged or truncated HDF5"):
        open_checkpoint(path)


def flax_tree(weights):
    tree: dict = {}
    for name, value in weights.items():
        *path, leaf = name.split(".")
        if leaf == "weight":
            norm = "LayerNorm" in name or "layer_norm" in name
            leaf = "embedding" if "embeddings" in name and not norm else "scale" if norm else "kernel"
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value.T if leaf == "kernel" else value
    return tree


def pack(value, chunked=False) -> bytes:
    import msgpack

    def default(item):
        raw = msgpack.packb((item.shape, item.dtype.name, item.tobytes()), use_bin_type=True)
        return msgpack.ExtType(1, raw)

    return msgpack.packb(value, default=default, strict_types=True)


def test_flax(tmp_path):
    pytest.importorskip("msgpack")
    config = config_for("xlm-roberta", "XLMRobertaForMaskedLM")
    weights = weights_for(config)
    weights["roberta.encoder.layer.0.output.dense.bias"] = weights["roberta.encoder.layer.0.output.dense.bias"].astype(
        ml_dtypes.bfloat16
    )
    tree = flax_tree(weights)
    table = tree["roberta"]["embeddings"]["word_embeddings"]["embedding"].reshape(-1)
    tree["roberta"]["embeddings"]["word_embeddings"]["embedding"] = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 30, "1": 8},
        "chunks": {"0": table[:100], "1": table[100:]},
    }
    raw = pack(tree)
    (tmp_path / "flax_model.msgpack").write_bytes(raw)
    (tmp_path / "config.json").write_text(config.to_json_string())
    io.convert(tmp_path, tmp_path / "out")
    back = open_checkpoint(tmp_path / "out")
    assert set(back) == set(weights) and all((back[n] == v).all() for n, v in weights.items())
    for cut in range(1, len(raw), len(raw) // 50):
        (tmp_path / "flax_model.msgpack").write_bytes(raw[:cut])
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path)
    for bad in (
        raw + b"\0",
        b"\xdf\xff\xff\xff\xff",
        b"\x81" * 100,
        b"\xc1",
        b"\x80",
        pack({"a": 1}),
        b"\xc7\x05\x07abcde",
    ):
        (tmp_path / "flax_model.msgpack").write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"flax_model.msgpack"):
            open_checkpoint(tmp_path)


def test_old_names_missing_names_and_copies(tmp_path):
    config = config_for("xlm-roberta", "XLMRobertaForMaskedLM")
    weights = weights_for(config)
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for n, v in weights.items()
    }
    old["roberta.embeddings.position_ids"] = np.arange(18)[None]
    old["lm_head.decoder.weight"] = weights["roberta.embeddings.word_embeddings.weight"]
    folder = save(tmp_path / "a", config, old)
    assert io.inspect(folder)["fits"]
    old["lm_head.decoder.bias"] = weights["lm_head.bias"] + 1
    facts = io.inspect(save(folder, config, old))
    assert facts["report"]["conflicts"] == ["lm_head.decoder.bias differs from lm_head.bias; the former is used"]
    io.convert(folder, tmp_path / "b")
    assert np.allclose(open_checkpoint(tmp_path / "b")["lm_head.bias"], weights["lm_head.bias"] + 1)
    del old["roberta.encoder.layer.1.output.dense.weight"]
    old["roberta.embeddings.position_embeddings.weight"] = np.zeros((3, 8), np.float32)
    old["surprise"] = np.zeros(2)
    with pytest.raises(CheckpointError) as caught:
        io.convert(save(folder, config, old), tmp_path / "c")
    said = str(caught.value)
    assert (
        "1 missing from the file, 1 unexpected in the file, 1 of another shape" in said
        and "file (3, 8)  model (18, 8)" in said
    )
    assert not (tmp_path / "c").exists()


def test_an_xl_that_its_config_calls_by_another_name(tmp_path):
    config = config_for("xlm-roberta-xl", "XLMRobertaXLForMaskedLM")
    folder = save(tmp_path, config, weights_for(config))
    data = json.loads((folder / "config.json").read_text())
    data["model_type"] = "xlm-roberta"
    (folder / "config.json").write_text(json.dumps(data))
    facts = io.inspect(folder)
    assert facts["family"] == "xlm-roberta-xl" and facts["fits"] and "config.json says" in facts["notes"][0]


def test_a_vocabulary_larger_than_the_word_table(tmp_path):
    config = config_for("xlm", "XLMModel")
    folder = save(tmp_path, config, weights_for(config))
    for size, said in (
        (30, []),
        (20, []),
        (31, ["vocab.json has 31 tokens, the word table 30 rows: ids above are out of range"]),
    ):
        (folder / "vocab.json").write_text(json.dumps({f"w{i}": i for i in range(size)}))
        assert io.inspect(folder)["notes"] == said
    (folder / "sentencepiece.bpe.model").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        io.inspect(folder)


def test_bad_folders_and_options(tmp_path):
    config = config_for("xlm-roberta", "XLMRobertaModel")
    folder = save(tmp_path / "a", config, weights_for(config))
    with pytest.raises(InputError, match="to='other'"):
        io.convert(folder, tmp_path / "b", to="other")
    with pytest.raises(InputError, match="dtype='int8'"):
        io.convert(folder, tmp_path / "b", dtype="int8")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        io.inspect(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    weights = {"bert.x": np.zeros(1)}
    save_safetensors(folder, weights)
    with pytest.raises(CheckpointError, match="model_type='bert': this library has xlm, xlm-roberta"):
        io.inspect(folder)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("xlm-roberta", "XLMRobertaForMaskedLM"),
        ("xlm-roberta-xl", "XLMRobertaXLModel"),
        ("xlm", "XLMForSequenceClassification"),
    ],
)
def test_transformers_opens_what_we_convert(tmp_path, model_type, architecture, dtype):
    transformers = pytest.importorskip("transformers")
    config = config_for(model_type, architecture)
    weights = {
        n.removeprefix("roberta.") if architecture.endswith("XLModel") else n: v for n, v in weights_for(config).items()
    }
    torch.save(
        {n: torch.from_numpy(v) for n, v in weights.items()}, save(tmp_path / "in", config, {}) / "pytorch_model.bin"
    )
    (tmp_path / "in/model.safetensors").unlink()
    io.convert(tmp_path / "in", tmp_path / "out", dtype=dtype, max_shard_size="2KB")
    model, info = getattr(transformers, architecture).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    state = model.state_dict()
    for name, value in weights.items():
        assert np.allclose(state[name].float().numpy(), value, atol=0.05 if dtype else 0), name
    assert io.inspect(tmp_path / "out")["fits"] and PREFIX


def test_the_command_line(tmp_path, capfd):
    from xlm.cli import main

    config = config_for("xlm-roberta", "XLMRobertaForMaskedLM")
    folder = save(tmp_path / "a", config, weights_for(config))
    assert main(["inspect", str(folder)]) == 0
    out = capfd.readouterr().out
    assert "xlm-roberta" in out and "every tensor fits" in out
    assert main(["inspect", "--json", "--values", str(folder)]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["sizes"]["tokens"] == 16 and facts["dtypes"] == {"float32": facts["parameters"]}
    assert main(["convert", str(folder), str(tmp_path / "b"), "--to", "fairseq", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["files"] == ["model.pt"]
    assert main(["convert", str(tmp_path / "b"), str(tmp_path / "c")]) == 0
    assert "model.safetensors" in capfd.readouterr().out
    assert main(["inspect", str(tmp_path / "absent-folder")]) == 1
    assert main(["convert", str(folder)]) == 2


def test_no_file_of_another_model_stays_beside_a_converted_one(tmp_path):
    """Its tokenizer or pooling would be read with the new weights; a user's own files are nobody's business."""
    config = config_for("xlm-roberta", "XLMRobertaForMaskedLM")
    source, out = save(tmp_path / "in", config, weights_for(config)), tmp_path / "out"
    (source / "tokenizer_config.json").write_text('{"model_max_length": 16}')
    io.convert(source, out)
    (out / "notes.txt").write_text("mine")
    (out / "README.md").write_text("mine too")
    io.convert(source, out, dtype="float16")  # the same again
    other = save(tmp_path / "other", config, weights_for(config, 1))
    (out / "1_Pooling").mkdir()
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(OutputError, match=r"files of another model .*: 1_Pooling, tokenizer_config\.json: move them"):
        io.convert(other, out)
    with pytest.raises(OutputError, match=r"1_Pooling, config\.json, model\.safetensors, tokenizer_config\.json"):
        io.convert(other, out, to="fairseq")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    (out / "1_Pooling").rmdir()
    (out / "tokenizer_config.json").unlink()
    io.convert(other, out)
    assert (out / "notes.txt").read_text() == "mine" and (out / "README.md").read_text() == "mine too"
    io.convert(other, other, to="fairseq")  # beside itself it may lie
    assert (other / "model.pt").is_file()


PRIVATE = ("notes.txt", "secrets.json", "diary.md", "other.model", "credentials.codes", "LICENSES-of-mine")


def test_only_known_files_go_along(tmp_path):
    config = config_for("xlm-roberta", "XLMRobertaForMaskedLM")
    source, out = save(tmp_path / "in", config, weights_for(config)), tmp_path / "out"
    for name in (*PRIVATE, "README.md", "LICENSE", "tokenizer_config.json", "modules.json"):
        (source / name).write_text("{}")
    (source / "1_Pooling").mkdir()
    for name in ("config.json", "notes.txt"):
        (source / "1_Pooling" / name).write_text("{}")
    io.convert(source, out)
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert there == {
        *("model.safetensors", "config.json", "README.md", "LICENSE", "tokenizer_config.json", "modules.json"),
        "1_Pooling/config.json",
    }


@pytest.mark.parametrize("name", ["README.md", "sentencepiece.bpe.model", "1_Pooling/config.json"])
def test_links_out_of_the_folder_are_not_followed(tmp_path, name):
    config = config_for("xlm-roberta", "XLMRobertaForMaskedLM")
    source = save(tmp_path / "in", config, weights_for(config))
    (tmp_path / "private").write_text("mine")
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).symlink_to(tmp_path / "private")
    with pytest.raises(CheckpointError, match=rf"the file '{name}' is a link to .*private, outside its folder"):
        io.convert(source, tmp_path / "out")
    with pytest.raises(CheckpointError, match="outside its folder"):
        io.convert(source, tmp_path / "out", to="fairseq")
    assert not (tmp_path / "out").exists()


def test_other_layouts_write_their_weights_last(tmp_path, monkeypatch):
    """A process that is killed while it writes leaves a folder that no loader takes for a checkpoint."""
    config = config_for("xlm-roberta", "XLMRobertaForMaskedLM")
    source, out = save(tmp_path / "in", config, weights_for(config)), tmp_path / "out"
    words = [f"w{n}" for n in range(config.vocab_size - 6)]
    (source / "sentencepiece.bpe.model").write_bytes(proto.build(((word, -1.0) for word in words), b""))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("xlm.checkpoints.foreign.fairseq_out.save_torch", killed)
    with pytest.raises(KeyboardInterrupt):
        io.convert(source, out, to="fairseq")
    assert {path.name for path in out.iterdir()} == {"dict.txt", "sentencepiece.bpe.model"}
    with pytest.raises(CheckpointError, match="no weights found"):
        open_checkpoint(out)


def test_links_of_a_hub_cache_are_followed(tmp_path):
    config = config_for("xlm-roberta", "XLMRobertaForMaskedLM")
    (tmp_path / "models--a--b" / "snapshots").mkdir(parents=True)
    source = save(tmp_path / "models--a--b" / "snapshots" / "1", config, weights_for(config))
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    (blobs / "77").write_text("card")
    (source / "README.md").symlink_to("../../blobs/77")
    io.convert(source, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "card"


def test_sentencepiece_models_are_checked_before_they_are_parsed(tmp_path):
    config = config_for("xlm-roberta", "XLMRobertaForMaskedLM")
    source = save(tmp_path / "in", config, weights_for(config))
    (source / "sentencepiece.bpe.model").write_bytes(b"\x0a\xff\xff\xff\xff\x7f")  # a piece of 34 GB
    with pytest.raises(CheckpointError, match=r"sentencepiece\.bpe\.model: piece 0 .* claims"):
        io.inspect(source)
    with pytest.raises(CheckpointError, match=r"sentencepiece\.bpe\.model"):
        io.convert(source, tmp_path / "out", to="fairseq")
