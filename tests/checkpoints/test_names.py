from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.checkpoints.names import Match, NameTable
from xlm.checkpoints.report import Report, fit, modern_name
from xlm.errors import CheckpointError, ConfigError

TABLE = """
# ours                                          theirs
roberta.embeddings.word_embeddings.weight       transformer.embeddings.weight
roberta.encoder.layer.{}.attention.self.query.{} transformer.attentions.{}.q_lin.{}
roberta.encoder.layer.{}.output.dense.weight    transformer.ffns.{}.kernel          T
lm_head.decoder.{}                              pred_layer.proj.{}
lm_head.decoder.{}                              old_head.{}                         old
"""


def test_both_directions():
    table = NameTable.parse(TABLE)
    assert len(table) == 5
    assert table.to_ours("transformer.attentions.11.q_lin.bias") == "roberta.encoder.layer.11.attention.self.query.bias"
    assert (
        table.to_theirs("roberta.encoder.layer.3.attention.self.query.weight")
        == "transformer.attentions.3.q_lin.weight"
    )
    assert table.ours("transformer.ffns.2.kernel") == Match("roberta.encoder.layer.2.output.dense.weight", True)
    assert table.to_ours("nothing.like.it") is None
    assert table.to_theirs("roberta.encoder.layer.3.4.attention.self.query.weight") is None


def test_old_names_are_read_and_never_written():
    table = NameTable.parse(TABLE)
    assert table.to_ours("old_head.bias") == table.to_ours("pred_layer.proj.bias") == "lm_head.decoder.bias"
    assert table.to_theirs("lm_head.decoder.bias") == "pred_layer.proj.bias"


def test_without_prefix():
    base = NameTable.parse(TABLE).without("roberta.", "transformer.")
    assert base.to_ours("embeddings.weight") == "embeddings.word_embeddings.weight"
    assert base.to_ours("pred_layer.proj.bias") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.{}  b.{}\na.weight  c.weight", "ambiguous"),
        ("a.{}  b.{}\nc.x  b.weight", "ambiguous"),
        ("a.{}  b", "placeholders"),
        ("a", "expected 'ours theirs'"),
        ("a b X", "expected 'ours theirs'"),
        ("a.l{} b.l{}", "exactly '{}'"),
        ("a..b  c", "exactly '{}'"),
    ],
)
def test_bad_tables_are_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        NameTable.parse(text)


@given(layer=st.integers(0, 99), leaf=st.sampled_from(["weight", "bias"]))
def test_round_trip(layer, leaf):
    table = NameTable.parse(TABLE)
    name = f"roberta.encoder.layer.{layer}.attention.self.query.{leaf}"
    theirs = table.to_theirs(name)
    assert theirs is not None and table.to_ours(theirs) == name


def test_modern_names():
    assert modern_name("roberta.embeddings.LayerNorm.gamma") == "roberta.embeddings.LayerNorm.weight"
    assert modern_name("LayerNorm.beta") == "LayerNorm.bias"
    assert modern_name("roberta.embeddings.position_ids") is None
    assert modern_name("gamma.weight") == "gamma.weight"


def test_fit_adds_and_removes_the_prefix():
    base = {"embeddings.LayerNorm.gamma": (4,), "embeddings.position_ids": (1, 8), "pooler.dense.bias": (4,)}
    pairs, report = fit(
        base, {"roberta.embeddings.LayerNorm.weight": (4,), "classifier.bias": (2,)}, new=["classifier."]
    )
    assert pairs == {"roberta.embeddings.LayerNorm.weight": "embeddings.LayerNorm.gamma"}
    assert report.initialised == ["classifier.bias"] and report.unexpected == ["pooler.dense.bias"]
    assert not report.missing
    report.raise_for()
    with pytest.raises(CheckpointError, match="unexpected in the file"):
        report.raise_for(strict=True)
    pairs, report = fit({"roberta.a": (1,), "lm_head.bias": (3,)}, {"a": (1,)}, optional=["lm_head."])
    assert pairs == {"a": "roberta.a"} and not report


def test_a_report_is_aligned_and_says_how_many_more():
    report = Report(
        missing=[f"layer.{i}" for i in range(25)], mismatched=[("a", (2,), (3,)), ("long.name", (1,), (1, 1))]
    )
    text = str(report)
    assert "25 missing from the file" in text and "and 15 more" in text
    assert text.count("  model (") == 2 and "a          file (2,)  model (3,)" in text
    with pytest.raises(CheckpointError, match="of another shape"):
        report.raise_for(ignore_missing=True)
    report.raise_for(ignore_missing=True, ignore_mismatched=True)
    assert str(Report()) == "checkpoint: every tensor fits"
    assert report.to_dict()["mismatched"] == [["a", [2], [3]], ["long.name", [1], [1, 1]]]
