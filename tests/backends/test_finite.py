"""Weights that are not numbers are loaded with a warning that names them, or refused where asked."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
import toytasks
import xlm


def test_nan_weights_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = xlm.XLMRobertaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = xlm.XLMRobertaModel(config)
    with torch.no_grad():
        model.encoder.layer[0].intermediate.dense.bias[3] = torch.nan
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="xlm"):
        xlm.XLMRobertaModel.from_pretrained(tmp_path)
    assert "encoder.layer.0.intermediate.dense.bias" in caplog.text
    with pytest.raises(xlm.CheckpointError, match=r"encoder\.layer\.0\.intermediate\.dense\.bias"):
        xlm.XLMRobertaModel.from_pretrained(tmp_path, strict_finite=True)


def test_an_engine_names_what_it_reads_and_answers_no_vectors_that_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = toytasks.checkpoint(tmp_path / "good")
    state = xlm.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        state.get_parameter("encoder.layer.0.attention.self.query.weight")[0, 0] = torch.nan
    state.save_pretrained(folder)
    with caplog.at_level(logging.WARNING, logger="xlm"):
        engine = xlm.load(folder)
    assert "encoder.layer.0.attention.self.query.weight" in caplog.text
    for call in (engine.embed, engine.encode, engine.embed_all):
        with pytest.raises(xlm.CheckpointError, match="not finite"):
            call(["the film was good ."])
    with pytest.raises(xlm.CheckpointError, match=r"encoder\.layer\.0\.attention\.self\.query\.weight"):
        xlm.load(folder, strict_finite=True)


def test_a_word_table_that_stays_on_the_disk_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    folder = toytasks.checkpoint(tmp_path / "good")
    state = xlm.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        state.get_input_embeddings().weight[-1, -1] = torch.inf
    state.save_pretrained(folder)
    assert np.isfinite(xlm.load(folder).embed(["the film was good ."])).all()  # another row
    with pytest.raises(xlm.CheckpointError, match="word_embeddings"):
        xlm.load(folder, strict_finite=True)


def test_large_finite_values_are_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = toytasks.checkpoint(tmp_path / "good")
    state = xlm.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        state.get_parameter("encoder.layer.0.attention.self.query.weight").fill_(3e38)  # whose sum overflows
    state.save_pretrained(folder)
    with caplog.at_level(logging.WARNING, logger="xlm"):
        xlm.load(folder, strict_finite=True)
    assert "NaN" not in caplog.text


@pytest.mark.parametrize("head", tiny.MODELS, ids=str)
def test_embeddings_that_are_not_finite_are_refused_where_asked(head: tiny.Head) -> None:
    model = tiny.model(head)
    embeds = torch.randn(3, 5, tiny.HIDDEN)
    want = model(inputs_embeds=embeds).last_hidden_state
    embeds[1, 2, 0] = torch.nan
    found = model(inputs_embeds=embeds).last_hidden_state
    torch.testing.assert_close(found[::2], want[::2])  # the other rows are as they were
    model.config.check_finite = True
    with pytest.raises(xlm.InputError, match=r"inputs_embeds\[1\]: NaN or infinite values \(1 of 3 rows\)"):
        model(inputs_embeds=embeds)
    torch.testing.assert_close(model(inputs_embeds=embeds[::2]).last_hidden_state, want[::2])
