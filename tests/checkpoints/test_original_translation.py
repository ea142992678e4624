"""Translation models of the original XLM: files as its training writes them, read, computed, written again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import xlm
from xlm import CheckpointError, EncoderDecoderModel, InputError
from xlm.checkpoints import io

ROWS, WIDTH, LAYERS, HEADS, PLACES = 32, 8, 2, 2, 12
WORDS = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10)), "the", "hou@@", "se"]
WORDS += [f"w{i}" for i in range(ROWS - len(WORDS))]


def state(decoder: bool, seed: int) -> dict[str, torch.Tensor]:
    """The state dict of one of the original's models, in the order of its modules."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    out = {"position_embeddings.weight": noise(PLACES, WIDTH), "lang_embeddings.weight": noise(2, WIDTH)}
    out |= {"embeddings.weight": noise(ROWS, WIDTH)}
    out |= {"layer_norm_emb.weight": 1 + noise(WIDTH), "layer_norm_emb.bias": noise(WIDTH)}
    for block in ("attentions", *(["encoder_attn"] if decoder else [])):
        for layer in range(LAYERS):
            for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
                out[f"{block}.{layer}.{part}.weight"] = noise(WIDTH, WIDTH)
                out[f"{block}.{layer}.{part}.bias"] = noise(WIDTH)
    for norm in ("layer_norm1", "layer_norm2", *(["layer_norm15"] if decoder else [])):
        for layer in range(LAYERS):
            out |= {f"{norm}.{layer}.weight": 1 + noise(WIDTH), f"{norm}.{layer}.bias": noise(WIDTH)}
    for layer in range(LAYERS):
        out |= {f"ffns.{layer}.lin1.weight": noise(4 * WIDTH, WIDTH), f"ffns.{layer}.lin1.bias": noise(4 * WIDTH)}
        out |= {f"ffns.{layer}.lin2.weight": noise(WIDTH, 4 * WIDTH), f"ffns.{layer}.lin2.bias": noise(WIDTH)}
    return out | {"pred_layer.proj.weight": out["embeddings.weight"], "pred_layer.proj.bias": noise(ROWS)}


def settings() -> dict[str, Any]:
    names = {"de": 0, "en": 1}
    out: dict[str, Any] = {"emb_dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "n_words": ROWS, "n_langs": 2}
    out |= {"dropout": 0.1, "attention_dropout": 0.1, "gelu_activation": True, "sinusoidal_embeddings": False}
    out |= {"lang2id": names, "id2lang": {row: name for name, row in names.items()}, "asm": False, "eos_index": 1}
    out |= {"encoder_only": False, "ae_steps": ["de", "en"], "mt_steps": [("de", "en")]}
    return out | {"bt_steps": [("en", "de", "en"), ("de", "en", "de")], "dump_path": "/secret", "counts": torch.ones(3)}


def write(folder: Path, prefix: str = "", **changes: Any) -> dict[str, dict[str, torch.Tensor]]:
    sides = {"encoder": state(False, 0), "decoder": state(True, 1)}
    folder.mkdir(exist_ok=True)
    value = {name: {prefix + k: v for k, v in side.items()} for name, side in sides.items()} | {"params": settings()}
    value |= {"dico_id2word": dict(enumerate(WORDS)), "dico_word2id": {w: i for i, w in enumerate(WORDS)}}
    value |= {"dico_counts": dict.fromkeys(WORDS, 1), "epoch": 3, "best_metrics": {}}
    torch.save({**value, **changes}, folder / "best-valid_de-en_mt_bleu.pth")
    (folder / "codes").write_text("h o 3\nho u 2\n")
    return sides


def attend(p: dict[str, torch.Tensor], name: str, x: torch.Tensor, kv: torch.Tensor, causal: bool) -> torch.Tensor:
    """Multi-head attention of one sequence as the original computes it: queries scaled, then products."""
    q, k, v = (
        F.linear(t, p[f"{name}.{m}.weight"], p[f"{name}.{m}.bias"])
        for t, m in zip((x, kv, kv), ("q_lin", "k_lin", "v_lin"), strict=True)
    )
    split = [t.view(len(t), HEADS, -1).transpose(0, 1) for t in (q / math.sqrt(WIDTH / HEADS), k, v)]
    scores = split[0] @ split[1].transpose(1, 2)
    if causal:
        scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -math.inf)
    out = (scores.softmax(-1) @ split[2]).transpose(0, 1).reshape(len(x), -1)
    return F.linear(out, p[f"{name}.out_lin.weight"], p[f"{name}.out_lin.bias"])


def forward(
    p: dict[str, torch.Tensor], ids: torch.Tensor, lang: int, source: torch.Tensor | None = None
) -> torch.Tensor:
    """The states of one sequence (tokens, width) as ``fwd`` of the original's TransformerModel computes them."""

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), p[f"{name}.weight"], p[f"{name}.bias"], eps=1e-12)

    x = p["embeddings.weight"][ids] + p["position_embeddings.weight"][: len(ids)] + p["lang_embeddings.weight"][lang]
    x = norm("layer_norm_emb", x)
    for i in range(LAYERS):
        x = norm(f"layer_norm1.{i}", x + attend(p, f"attentions.{i}", x, x, source is not None))
        if source is not None:
            x = norm(f"layer_norm15.{i}", x + attend(p, f"encoder_attn.{i}", x, source, False))
        inner = F.gelu(F.linear(x, p[f"ffns.{i}.lin1.weight"], p[f"ffns.{i}.lin1.bias"]))
        x = norm(f"layer_norm2.{i}", x + F.linear(inner, p[f"ffns.{i}.lin2.weight"], p[f"ffns.{i}.lin2.bias"]))
    return x


@pytest.mark.parametrize("prefix", ["", "module."])
def test_read_and_computed(tmp_path: Path, prefix: str) -> None:
    sides = write(tmp_path / "in", prefix)
    facts = io.inspect(tmp_path / "in")
    assert facts["family"] == "xlm" and facts["architecture"] == "EncoderDecoderModel"
    assert facts["languages"] == ["de", "en"] and facts["sizes"]["layers"] == 2 * LAYERS
    report = io.convert(tmp_path / "in", tmp_path / "out")
    assert report.unexpected == ["encoder.pred_layer.proj.bias"] and not report.missing and not report.mismatched
    model = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    assert model.config.directions == [["de", "en"], ["en", "de"]] and not model.config.share_embeddings
    assert "secret" not in (tmp_path / "out/config.json").read_text()
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text())["lang2id"] == {"de": 0, "en": 1}
    source, target = torch.tensor([1, 14, 15, 16, 20, 1]), torch.tensor([1, 22, 14, 17])
    states = forward(sides["encoder"], source, 0)
    p = sides["decoder"]
    want = F.linear(forward(p, target, 1, states), p["pred_layer.proj.weight"], p["pred_layer.proj.bias"])
    # Beside a longer source and target, so that padding is there too.
    ids = torch.stack([F.pad(source, (0, 2), value=2), torch.arange(14, 22)])
    wanted = torch.stack([F.pad(target, (0, 1), value=2), torch.arange(15, 20)])
    out = model(ids, langs=torch.zeros_like(ids), decoder_input_ids=wanted, decoder_langs=torch.ones_like(wanted))
    torch.testing.assert_close(out.encoder_last_hidden_state[0, :6], states, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.logits[0, :4], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [False, True])
def test_written_as_the_original_and_back(tmp_path: Path, share: bool) -> None:
    sides = write(tmp_path / "in")
    if share:
        for name in (
            "embeddings.weight",
            "position_embeddings.weight",
            "lang_embeddings.weight",
            "pred_layer.proj.weight",
        ):
            sides["decoder"][name] = sides["encoder"][name]
        write(tmp_path / "in", encoder=sides["encoder"], decoder=sides["decoder"])
    assert io.convert(tmp_path / "in", tmp_path / "ours").unexpected == ["encoder.pred_layer.proj.bias"]
    assert json.loads((tmp_path / "ours/config.json").read_text())["share_embeddings"] is share
    io.convert(tmp_path / "ours", tmp_path / "theirs", to="xlm")
    back = torch.load(tmp_path / "theirs/model.pth", weights_only=True)
    sides["encoder"]["pred_layer.proj.bias"] = torch.zeros(ROWS)  # an encoder's head is not ours to keep
    for name, side in sides.items():
        assert {k: tuple(v.shape) for k, v in back[name].items()} == {k: tuple(v.shape) for k, v in side.items()}
        assert all(torch.equal(back[name][k], v) for k, v in side.items())
    assert back["dico_id2word"] == dict(enumerate(WORDS)) and set(back["dico_counts"]) == set(WORDS)
    kept = {k: v for k, v in settings().items() if k not in ("dump_path", "counts", "ae_steps", "mt_steps", "bt_steps")}
    assert {k: back["params"][k] for k in kept} == kept
    assert (tmp_path / "theirs/codes").read_text() == "h o 3\nho u 2\n"
    io.convert(tmp_path / "theirs", tmp_path / "again")
    one, two = (EncoderDecoderModel.from_pretrained(tmp_path / name) for name in ("ours", "again"))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert one.config.directions == two.config.directions


def test_a_language_model_is_written_too(tmp_path: Path) -> None:
    side = state(False, 0)
    folder = tmp_path / "in"
    write(folder)
    (folder / "best-valid_de-en_mt_bleu.pth").unlink()
    value = {"model": side, "params": settings(), "dico_word2id": {w: i for i, w in enumerate(WORDS)}}
    torch.save(value, folder / "mlm.pth")
    io.convert(folder, tmp_path / "ours")
    io.convert(tmp_path / "ours", tmp_path / "theirs", to="xlm")
    back = torch.load(tmp_path / "theirs/model.pth", weights_only=True)["model"]
    assert set(back) == set(side) and all(torch.equal(back[k], v) for k, v in side.items())


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    whole = state(True, 1)
    write(tmp_path, encoder=whole)
    with pytest.raises(CheckpointError, match=r"its 'encoder' holds 'encoder_attn.0.q_lin.weight'"):
        io.open_model(tmp_path)
    write(tmp_path, decoder={**whole, "memories.4.keys": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"memories.4.keys.*product-key memories"):
        io.open_model(tmp_path)
    del whole["layer_norm15.1.bias"]
    write(tmp_path, decoder={**whole, "odd.weight": torch.ones(2)})
    facts = io.inspect(tmp_path)
    assert facts["report"]["missing"] == ["decoder.roberta.encoder.layer.1.crossattention.output.LayerNorm.bias"]
    assert "decoder.transformer.odd.weight" in facts["report"]["unexpected"]
    with pytest.raises(CheckpointError, match="LayerNorm"):
        io.convert(tmp_path, tmp_path / "out")


def test_other_families_have_no_such_layout(tmp_path: Path) -> None:
    config = xlm.XLMRobertaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    EncoderDecoderModel(xlm.EncoderDecoderConfig(config, config)).save_pretrained(tmp_path / "in")
    assert io.inspect(tmp_path / "in")["fits"]
    io.convert(tmp_path / "in", tmp_path / "half", dtype="float16")
    half = EncoderDecoderModel.from_pretrained(tmp_path / "half", dtype="auto")
    assert half.dtype == torch.float16 and half.config.share_embeddings
    with pytest.raises(InputError, match="xlm-roberta models have no layout of the original XLM"):
        io.convert(tmp_path / "in", tmp_path / "out", to="xlm")
    with pytest.raises(InputError, match="this is an encoder-decoder"):
        io.convert(tmp_path / "in", tmp_path / "out", to="fairseq")
