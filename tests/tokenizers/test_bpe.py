"""Byte-pair encoding three ways (short words, long words, thousands of words at once) against the rule written plainly."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from xlm.tokenizers import XLMTokenizer, moses, xlm_ids
from xlm.tokenizers.bpe import BPE, END
from xlm.tokenizers.bpe_batch import BatchBPE, PairTable


def plainly(word: str, ranks: dict[tuple[str, ...], int]) -> list[str]:
    """The pair of the lowest rank, everywhere from left to right, until none has a rank."""
    symbols = [*word[:-1], word[-1] + END]
    while True:
        pairs = {pair for pair in pairwise(symbols) if pair in ranks}
        if not pairs:
            return symbols
        best = min(pairs, key=lambda pair: ranks[pair])
        merged: list[str] = []
        for symbol in symbols:
            # A symbol that was merged just now is no part of another merge in the same turn.
            if merged and (merged[-1], symbol) == best:
                merged[-1:] = ["".join(best)]
            else:
                merged.append(symbol)
        symbols = merged


def vocabulary(draw: random.Random) -> tuple[list[tuple[str, ...]], dict[str, int], list[str]]:
    """Merges in any order, of pairs that are no pieces too; the ids of most pieces; words."""
    letters = "abcé漢😀"[: draw.randint(1, 6)]
    pieces = [*letters, *(letter + END for letter in letters)]
    merges: list[tuple[str, ...]] = []
    for _ in range(draw.randint(0, 25)):
        pair = (draw.choice(pieces), draw.choice(pieces))
        if not pair[0].endswith(END) and pair not in merges:
            merges.append(pair)
            pieces.append("".join(pair))
    draw.shuffle(merges)
    known = {piece: at for at, piece in enumerate(dict.fromkeys(pieces)) if draw.random() < 0.9}
    words = ["".join(draw.choices(letters + "x", k=draw.randint(1, 20))) for _ in range(30)]
    return merges, known, [*words, "a" * 15, letters[-1], "𐀀"]


@pytest.mark.parametrize("seed", range(40))
def test_every_way_follows_the_rule(seed: int) -> None:
    merges, known, words = vocabulary(random.Random(seed))
    bpe = BPE(merges)
    expected = [plainly(word, bpe.ranks) for word in words]
    for word, pieces in zip(words, expected, strict=True):
        assert bpe._short([*word[:-1], word[-1] + END]) == pieces == bpe._long([*word[:-1], word[-1] + END])
    # Words of no letters have no ids, at either end and between.
    joined = "\n".join(["", *words, "", ""])
    batch = BatchBPE(bpe.ranks, known, unknown=99)
    ids, ends = batch(np.frombuffer(joined.encode("utf-32-le"), np.uint32))
    found = [list(ids[low:high]) for low, high in pairwise(ends)]
    assert found == [[], *([known.get(piece, 99) for piece in pieces] for pieces in expected), [], []]


def test_no_words_at_all() -> None:
    ids, ends = BatchBPE({}, {"a": 1}, 0)(np.zeros(0, np.uint32))
    assert ids == () and ends.tolist() == [0, 0]


def test_pairs_are_found_and_others_are_not() -> None:
    draw = np.random.default_rng(0)
    keys = np.unique(draw.integers(0, 300, (5_000, 2)), axis=0).astype(np.int32)
    there, absent = keys[::2], keys[1::2]
    values = np.arange(len(there), dtype=np.int32)
    table = PairTable(there[:, 0], there[:, 1], values)
    assert (table(there[:, 0], there[:, 1]) == values).all()
    assert (table(absent[:, 0], absent[:, 1]) == np.iinfo(np.int32).max).all()


@pytest.mark.parametrize("lang", ["en", "fr", "de", "ko"])
def test_words_of_many_chunks_are_those_of_each(lang: str) -> None:
    draw = random.Random(1)
    splitter = moses.tokenizer(lang)
    parts = [*"abzÀé15٣,.'`-漢한न", "mr.", "...", "'s", "u.s.", "1,5"]
    drawn = {"".join(draw.choices(parts, k=draw.randint(1, 6))) for _ in range(3_000)}
    chunks = [chunk + draw.choice(["", " a", " 1"]) * (chunk[-1] == ".") for chunk in sorted(drawn)]
    chunks += ["(", "%", "漢", ".", "'", ","]
    text, counts = splitter.words_of_chunks(chunks)
    words = iter(text.split("\n"))
    for number, chunk in enumerate(chunks):
        assert [next(words) for _ in range(counts.get(number, 1))] == splitter.chunk_words(chunk), chunk
    assert next(words, None) is None


def texts(number: int) -> list[str]:
    draw = random.Random(number)
    parts = ["the", "Größe", "l'été", "Mr. X", "3,5 %", "«no»", "नमस्ते", "漢字", "a.b", "ﬁ", "end. the", "<special1>"]
    return [" ".join(draw.choices(parts, k=draw.randint(0, 30))) + str(draw.random()) for _ in range(150)]


@pytest.mark.parametrize("accents", [True, False])
def test_a_batch_is_its_texts_one_by_one(accents: bool, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    one, many = (
        XLMTokenizer(files["vocab"], files["merges"], do_lowercase_and_remove_accent=accents) for _ in range(2)
    )
    given = texts(0)
    expected = [one(text)["input_ids"] for text in given]
    assert not one._batches
    monkeypatch.setattr(xlm_ids, "_WORTH", 0)
    assert many(given)["input_ids"] == expected and many._batches
    # A token added later is one at once; it is cut out before anything is split.
    for tokenizer in (one, many):
        tokenizer.add_tokens(["größe", "Größe"])
    assert many(given)["input_ids"] == [one(text)["input_ids"] for text in given] != expected


def test_what_is_remembered_is_bounded(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlm_ids, "_REMEMBERED", 500)
    monkeypatch.setattr(xlm_ids, "_WORTH", 0)
    tokenizer, fresh = (XLMTokenizer(files["vocab"], files["merges"]) for _ in range(2))
    for number in range(6):
        found = tokenizer([f"w{number}x{word}" for word in range(2_000)])["input_ids"]
        assert found[7] == fresh(f"w{number}x7")["input_ids"]
        for memo in tokenizer._memos.values():
            assert len(memo) + len(memo._old) <= 4 * 500


def test_threads_may_share_a_tokenizer(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlm_ids, "_WORTH", 0)
    monkeypatch.setattr(xlm_ids, "_REMEMBERED", 200)
    shared = XLMTokenizer(files["vocab"], files["merges"])
    batches = [texts(number) for number in range(8)]
    expected = [XLMTokenizer(files["vocab"], files["merges"])(batch)["input_ids"] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: shared(batch)["input_ids"], batches * 3))
    assert found == expected * 3
