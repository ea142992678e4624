"""Texts longer than the model: windows, and chunks that know their text."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toytasks
import xlm
from xlm.assets import bundled_folder
from xlm.cli import main
from xlm.errors import InputError
from xlm.inference.long import _chunks
from xlm.tasks.retrieve import normalized

SENTENCES = [
    "The weather in the mountains changes quickly. ",
    "هل تعرف أين المدرسة؟ ",
    "今天天气很好。我们去山上走走吧！",
    "मौसम अच्छा है। चलो बाहर चलते हैं। ",
    "วันนี้อากาศดี ",
    "Der Zug fährt um acht Uhr ab (das sagt man).\n",
]
LONG = "".join(SENTENCES[n % len(SENTENCES)] for n in range(120))


@pytest.fixture(scope="module")
def engine() -> Any:
    return xlm.load()


def test_a_text_that_fits_has_its_usual_vector(engine: Any) -> None:
    short = [sentence.strip() for sentence in SENTENCES]
    for pooling in ("mean", "max", "cls"):
        together = engine.embed([short[0], LONG, *short[1:]], pooling, long="windows")
        np.testing.assert_allclose(np.delete(together, 1, 0), engine.embed(short, pooling), atol=2e-6)


def test_windows_are_what_they_say(engine: Any) -> None:
    """Against a plain reading: every window run alone, each token's states from the window chosen for it."""
    ids = engine.tokenizer(LONG, add_special_tokens=False, verbose=False)["input_ids"]
    size, overlap = engine.max_tokens - 2, 40
    assert len(ids) > 3 * size
    starts = [0]
    while starts[-1] + size < len(ids):
        starts.append(starts[-1] + size - overlap)
    runs = engine.encode([engine.tokenizer.build_inputs_with_special_tokens(ids[s : s + size]) for s in starts])
    kept = [runs[0][0]]
    for token in range(len(ids)):
        room = [min(token - s, min(s + size, len(ids)) - 1 - token) for s in starts]
        inside = [r if s <= token < s + size else -1 for r, s in zip(room, starts, strict=True)]
        # At the ends of the text nothing is missing on the outer side.
        own = 0 if token < starts[1] else len(starts) - 1 if token >= starts[-2] + size else int(np.argmax(inside))
        kept.append(runs[own][1 + token - starts[own]])
    kept.append(runs[-1][-1])
    found = engine.embed([LONG], "mean", normalize=False, long="windows", overlap=overlap)[0]
    np.testing.assert_allclose(found, np.mean(kept, 0), atol=3e-2 * np.abs(found).max())
    cosine = float(found @ np.mean(kept, 0) / np.linalg.norm(found) / np.linalg.norm(np.mean(kept, 0)))
    assert cosine > 0.9999
    cls = engine.embed([LONG], "cls", normalize=False, long="windows", overlap=overlap)[0]
    np.testing.assert_allclose(cls, np.mean([run[0] for run in runs], 0), atol=1e-5)
    most = engine.embed([LONG], "max", normalize=False, long="windows", overlap=overlap)[0]
    assert (most >= np.max(kept, 0) - 0.1 * np.abs(most).max()).mean() > 0.99


def test_every_token_is_read_once(engine: Any) -> None:
    ids = engine.tokenizer(LONG, add_special_tokens=False, verbose=False)["input_ids"]
    for overlap in (0, 1, 17, 64, engine.max_tokens - 3):
        read: list[int] = []
        for window in engine._cut(ids, 0, overlap):
            assert len(window.ids) <= engine.max_tokens
            read += window.ids[window.start : window.end]
        assert read == engine.tokenizer.build_inputs_with_special_tokens(ids)


def test_a_chunk_is_the_mean_of_its_tokens_in_their_text(engine: Any) -> None:
    text = "".join(SENTENCES)
    states = engine.encode([text])[0]
    places = engine.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    chunks = engine.embed_chunks([text], tokens=16, normalize=False)[0]
    assert len(chunks) > 3
    for chunk in chunks:
        assert chunk["text"] == text[chunk["start"] : chunk["end"]] and chunk["text"] == chunk["text"].strip()
        own = [n for n, (a, b) in enumerate(places) if b > a and chunk["start"] <= b - 1 < chunk["end"]]
        np.testing.assert_allclose(chunk["vector"], states[own].mean(0), atol=1e-5)
    # All characters but white space are in exactly one chunk, in order.
    assert "".join("".join(chunk["text"].split()) for chunk in chunks) == "".join(text.split())
    alone = engine.embed([chunks[1]["text"]], normalize=False)[0]
    assert np.abs(alone - chunks[1]["vector"]).max() > 1e-3  # its neighbours are heard


def test_chunks_of_texts_longer_than_the_model(engine: Any) -> None:
    chunks = engine.embed_chunks([LONG, "x", ""], tokens=48)
    assert [len(own) for own in chunks[1:]] == [1, 0]
    assert "".join("".join(chunk["text"].split()) for chunk in chunks[0]) == "".join(LONG.split())
    vectors = np.array([chunk["vector"] for chunk in chunks[0]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    counts = engine.count_tokens([chunk["text"] for chunk in chunks[0]])
    assert max(counts) <= 48 + 2 + 2  # a chunk cut out may be read as one token more


def test_own_spans(engine: Any) -> None:
    text = "One sentence. Another one. A third."
    spans = [(0, 13), (14, 26)]
    found = engine.embed_chunks([text], spans=[spans])[0]
    assert [(chunk["start"], chunk["end"]) for chunk in found] == spans
    for wrong, message in (
        ([(0, 99)], r"spans\[0\]\[0\] is \(0, 99\)"),
        ([(5, 5)], "hold a character"),
        ([(5, 9), (8, 12)], "begin at 9 or later"),
    ):
        with pytest.raises(InputError, match=message):
            engine.embed_chunks([text], spans=[wrong])
    with pytest.raises(InputError, match="there is no token in it"):
        engine.embed_chunks(["a          b"], spans=[[(4, 6)]])
    with pytest.raises(InputError, match="spans has 2 lists, texts 1"):
        engine.embed_chunks([text], spans=[spans, spans])


def test_bad_arguments(engine: Any) -> None:
    for call, message in (
        (lambda: engine.embed([LONG], long="cut"), "long is 'cut': it must be refuse or windows"),
        (lambda: engine.embed([LONG], long="windows", truncate=True), "either cut or read whole"),
        (
            lambda: engine.embed([LONG], long="windows", overlap=254),
            "overlap is 254: it must be an integer from 0 to 253",
        ),
        (lambda: engine.embed([[1, 2]], long="windows"), r"texts\[0\] is of type list: long inputs must be texts"),
        (lambda: engine.embed("text", long="windows"), "a list of texts is needed"),
        (lambda: engine.embed_chunks([LONG], tokens=0), "tokens is 0"),
        (lambda: engine.embed([LONG]), "the model's limit is 256"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert engine.embed([], long="windows").shape == (0, 256) and engine.embed_chunks([]) == []


@given(st.text(max_size=80), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_chunks_cover_any_text(text: str, tokens: int) -> None:
    places = _tokenizer()(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    chunks = _chunks(text, places, tokens)
    assert all(0 <= a < b <= len(text) for a, b in chunks)
    assert all(a[1] <= b[0] for a, b in pairwise(chunks))
    read = {at for a, b in places for at in range(a, b) if not text[at].isspace()}
    assert read <= {at for a, b in chunks for at in range(a, b)}


@cache
def _tokenizer() -> Any:
    return xlm.AutoTokenizer.from_pretrained(bundled_folder())


def test_command_line(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(LONG.replace("\n", " ") + "\nshort\n", "utf-8")
    assert main(["embed", "-f", str(path), "--json"]) == 1
    assert b"limit is 256" in capsysbinary.readouterr().err
    assert main(["embed", "-f", str(path), "--json", "--long", "windows"]) == 0
    rows = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    wanted = xlm.load().embed([row["text"] for row in rows], long="windows")
    np.testing.assert_allclose([row["embedding"] for row in rows], wanted, atol=1e-6)
    assert main(["embed", "-f", str(path), "--json", "--chunks", "64"]) == 0
    rows = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert len(rows[0]["chunks"]) > 5 and rows[1]["chunks"][0]["text"] == "short"
    assert normalized(np.array([rows[1]["chunks"][0]["vector"]])).shape == (1, 256)
    assert main(["embed", "text", "--chunks", "64"]) == 1
    assert b"--chunks is 64: it prints with --json" in capsysbinary.readouterr().err


def test_windows_fit_models_of_any_length(tmp_path: Path) -> None:
    base = toytasks.checkpoint(tmp_path / "base")
    for limit in (3, 4, 5, 30, 66, 70):
        config = xlm.AutoConfig.from_pretrained(base)
        config.max_position_embeddings = limit + 2
        folder = tmp_path / str(limit)
        xlm.XLMRobertaModel(config).save_pretrained(folder)
        xlm.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        small = xlm.load(folder)
        assert small.max_tokens == limit
        text, most = "the film was good " * 40, limit - 3
        assert np.isfinite(small.embed([text], long="windows")).all()
        assert sum(len(one["text"].split()) for one in small.embed_chunks([text], 16)[0]) == 160
        shared = min(64, (limit - 2) // 2)
        wanted = small.embed([text], long="windows", overlap=shared)
        np.testing.assert_array_equal(small.embed([text], long="windows"), wanted)
        with pytest.raises(InputError, match=rf"overlap is {most + 1}: it must be an integer from 0 to {most}"):
            small.embed([text], long="windows", overlap=most + 1)
