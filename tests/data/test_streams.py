"""Files to stores to endless rows: nothing is lost, everything is a function of seed and position."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.data.corpus import open_stores
from xlm.data.random import keyed
from xlm.data.readers import find_files, read_lines, read_pairs
from xlm.data.sampling import LanguageOrder, language_probabilities, quotas
from xlm.data.store import build_store, is_held_out
from xlm.data.streams import BlockStream, PairStream
from xlm.data.vocabulary import LineEncoder, Vocabulary
from xlm.errors import ConfigError, DataError, OutputError


def letters(lines: list[str]) -> list[list[int]]:
    """A vocabulary of bytes: id = byte + 5."""
    return [[byte + 5 for byte in line.encode()] for line in lines]


VOCABULARY = Vocabulary(letters, 262, 0, 2, 1, 261, (0, 1, 2, 3, 261), "bytes")


def test_lines_end_at_newlines_only_and_marks_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\u2028half\n\nlone\rreturn\nlast".encode())
    assert [line for _, line in read_lines(path)] == ["one", "two\u2028half", "", "lone\rreturn", "last"]
    packed = tmp_path / "a.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_lines(packed)) == list(read_lines(path))


def test_invalid_utf8_names_file_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\nb\xffad\n")
    with pytest.raises(
        DataError, match=r"a\.txt:2: invalid UTF-8: byte 0xff at byte 1 of the line, byte 6 of the text"
    ):
        list(read_lines(path))


def test_truncated_gzip_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"text\n" * 1000)[:-20])
    with pytest.raises(DataError, match="damaged gzip"):
        list(read_lines(path))


def test_pairs_need_two_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\n\nc\t\nd\te\tf\n", "utf-8")
    with pytest.raises(DataError, match=r"a\.tsv:4: 3 columns"):
        list(read_pairs(path))


def test_files_are_found_by_language(tmp_path: Path) -> None:
    for name in ("x.en.txt", "x.sw.txt", "y.fr.txt"):
        (tmp_path / name).touch()
    assert list(find_files(str(tmp_path / "x.{language}.txt"))) == ["en", "sw"]
    with pytest.raises(DataError, match="placeholder"):
        find_files(str(tmp_path / "x.txt"))
    with pytest.raises(DataError, match="no such folder"):
        find_files(str(tmp_path / "none" / "{language}.txt"))


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 10**9), min_size=1), st.floats(0, 1))
def test_language_probabilities_follow_the_power_law(counts, alpha) -> None:
    p = language_probabilities(counts, alpha)
    assert sum(p.values()) == pytest.approx(1)
    first = next(iter(counts))
    for name, count in counts.items():
        assert p[name] / p[first] == pytest.approx((count / counts[first]) ** alpha, rel=1e-6)


def test_a_language_without_data_cannot_be_sampled() -> None:
    with pytest.raises(ConfigError, match="without data cannot be sampled: sw"):
        language_probabilities({"en": 3, "sw": 0}, 0.3)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=40), st.integers(64, 512))
def test_quotas_are_near_and_sum_to_the_cycle(weights, cycle) -> None:
    p = np.array(weights) / sum(weights)
    whole = quotas(p, cycle)
    assert whole.sum() == cycle and whole.min() >= 1


@given(st.integers(0, 3000), st.integers(0, 400))
def test_language_order_is_random_access_with_dense_ranks(start, count) -> None:
    def order() -> LanguageOrder:
        return LanguageOrder({"a": 0.7, "b": 0.2, "c": 0.1}, 3, "test", cycle=128)

    drawn = order().draw(0, start + count)
    assert order().draw(start, count) == drawn[start:]
    seen: Counter[int] = Counter()
    expected: dict[int, set[int]] = {}
    for language, rank in drawn:
        seen[language] += 1
        expected.setdefault(language, set()).add(rank)
    full = {language: set(range(seen[language])) for language in seen}
    # Ranks of whole cycles are dense; only the last, unfinished cycle may have gaps.
    if (start + count) % 128 == 0:
        assert expected == full


def test_keyed_generators_depend_on_every_part() -> None:
    draws = {keyed(*key).integers(2**62) for key in ((1, "a"), (1, "b"), (2, "a"), ("1", "a"), (1, "a", 0))}
    assert len(draws) == 5
    assert keyed(7, "x").integers(2**62) == keyed(7, "x").integers(2**62)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for language, count in (("en", 60), ("sw", 9)):
        lines = [f"{language} sentence number {i} " + "x" * (i % 7) for i in range(count)]
        (tmp_path / f"{language}.txt").write_text("\n".join(lines), "utf-8")
    pairs = [f"neno {i}\tword {i}" for i in range(300)]
    (tmp_path / "sw-en.tsv").write_text("\n".join(pairs), "utf-8")
    return tmp_path


def test_a_store_holds_the_text_and_is_found_again(corpus: Path) -> None:
    store = build_store(corpus / "en.txt", VOCABULARY, corpus / "cache", "text", languages=["en"])
    lines = [line for _, line in read_lines(corpus / "en.txt")]
    assert [bytes((store.sentence(i) - 5).tolist()).decode() for i in range(len(store))] == [x.strip() for x in lines]
    assert store.counts.sum() == len(store.tokens) and store.counts[2] == len(store)
    stamp = (store.folder / "store.json").stat().st_mtime_ns
    assert build_store(corpus / "en.txt", VOCABULARY, corpus / "cache", "text", languages=["en"]).folder == store.folder
    assert (store.folder / "store.json").stat().st_mtime_ns == stamp
    assert (
        build_store(corpus / "en.txt", VOCABULARY, corpus / "cache", "text", 5, languages=["en"]).folder != store.folder
    )
    (corpus / "en.txt").write_text("other", "utf-8")
    assert build_store(corpus / "en.txt", VOCABULARY, corpus / "cache", "text", languages=["en"]).folder != store.folder


def test_every_line_is_read_by_the_rules_of_its_language(corpus: Path) -> None:
    def spoken(language: str) -> LineEncoder:
        return lambda lines: [[5 + ord(language[0])] for _ in lines]

    vocabulary = replace(VOCABULARY, language_encoder=spoken)
    text = build_store(corpus / "sw.txt", vocabulary, corpus / "cache", "text", languages=["sw"])
    assert {int(text.sentence(i)[0]) for i in range(len(text))} == {5 + ord("s")}
    assert build_store(corpus / "sw.txt", vocabulary, corpus / "cache", "text", languages=["fr"]).folder != text.folder
    pairs = build_store(corpus / "sw-en.tsv", vocabulary, corpus / "cache", "pairs", languages=["sw", "en"])
    sides = [chr(int(pairs.sentence(i)[0]) - 5) for i in range(len(pairs))]
    assert sides == ["s", "e"] * 300


def test_a_failed_store_leaves_nothing(corpus: Path) -> None:
    (corpus / "bad.txt").write_bytes(b"good\n\xff\n")
    with pytest.raises(DataError, match=r"bad\.txt:2"):
        build_store(corpus / "bad.txt", VOCABULARY, corpus / "cache", "text", languages=["en"])
    assert list((corpus / "cache").iterdir()) == []
    (corpus / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        build_store(corpus / "en.txt", VOCABULARY, corpus / "file", "text", languages=["en"])


def test_held_out_pairs_are_disjoint_from_training_pairs(corpus: Path) -> None:
    path, cache = corpus / "sw-en.tsv", corpus / "cache"
    train = build_store(path, VOCABULARY, cache, "pairs", held_out=0.1, languages=["sw", "en"])
    kept = build_store(path, VOCABULARY, cache, "held-out pairs", held_out=0.1, languages=["sw", "en"])
    assert len(train) + len(kept) == 600 and 20 <= len(kept) <= 100
    assert all(is_held_out(bytes((kept.sentence(i) - 5).tolist()).decode(), 0.1) for i in range(1, len(kept), 2))


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.001, 0.0039, 0.01, 0.25, 1.0])
def test_any_share_can_be_held_out(share: float) -> None:
    texts = [f"sentence {n}" for n in range(40_000)]
    kept = [text for text in texts if is_held_out(text, share)]
    deviation = (len(texts) * share * (1 - share)) ** 0.5
    assert abs(len(kept) - len(texts) * share) <= 4 * deviation
    assert all(is_held_out(text, min(2 * share, 1.0)) for text in kept)


def test_what_a_whole_number_of_256ths_holds_out_is_what_it_always_was() -> None:
    import hashlib

    for text in (f"sentence {n}" for n in range(2000)):
        assert is_held_out(text, 13 / 256) == (hashlib.md5(text.encode()).digest()[0] < 13)


def test_missing_languages_are_named(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"no file for xh; there are files for: en, sw"):
        open_stores(str(corpus / "{language}.txt"), ["en", "xh"], VOCABULARY, corpus / "cache", "text")


@pytest.mark.parametrize("mode", ["stream", "complete"])
def test_rows_are_random_access_and_cover_each_epoch(corpus: Path, mode) -> None:
    stores = open_stores(str(corpus / "{language}.txt"), None, VOCABULARY, corpus / "cache", "text")

    def stream(seed: int = 1) -> BlockStream:
        return BlockStream(stores, {"en": 0.5, "sw": 0.5}, 64, 0, mode, seed)

    rows = stream().rows(0, 300)
    again = stream().rows(200, 100)
    assert all((a == b).all() and i == j for (i, a), (j, b) in zip(rows[200:], again, strict=True))
    assert any(len(a) != len(b) or (a != b).any() for (_, a), (_, b) in zip(rows, stream(2).rows(0, 300), strict=True))
    assert all(row[0] == 0 and len(row) <= 64 for _, row in rows)
    if mode == "stream":
        assert {len(row) for _, row in rows} == {64}
    else:
        # Whole sentences: every row ends with the end of a sentence, and every sentence of an epoch comes up once.
        assert all(row[-1] == 2 for _, row in rows)
        sw = b"".join(bytes((row[1:] - 5).astype(np.uint8).tolist()) for language, row in rows if language == 1)
        assert all(f"sw sentence number {i}".encode() in sw for i in range(9))


def test_pairs_of_one_language_are_of_similar_length_and_distinct(corpus: Path) -> None:
    stores = {"sw": build_store(corpus / "sw-en.tsv", VOCABULARY, corpus / "cache", "pairs", languages=["sw", "en"])}
    stream = PairStream(stores, {"sw": 1.0}, 1, "test")
    seen = []
    for draw in range(18):  # 300 pairs: 18 batches of 16 an epoch, pools of 8, 8 and 2
        batch = stream.batch_of_one_language(draw, 16, 8)
        assert len(batch) == 16
        lengths = [len(a) + len(b) for _, a, b in batch]
        assert max(lengths) - min(lengths) <= 4
        seen += [bytes(a.astype(np.uint8).tolist()) for _, a, _ in batch]
    assert len(set(seen)) == 18 * 16
    assert len(stream.batch_of_one_language(18, 16, 8)) == 16
    assert len(stream.batch_of_one_language(3, 999, 8)) == 300
    assert [p[1].tolist() for p in stream.pairs(5, 3)] == [p[1].tolist() for p in stream.pairs(0, 8)][5:]
