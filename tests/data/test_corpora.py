"""xlm corpus build: nothing is lost, whatever is wrong is named, and being killed changes nothing."""

from __future__ import annotations

import bz2
import dataclasses
import errno
import gzip
import hashlib
import json
import lzma
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("datatrove")
pyarrow = pytest.importorskip("pyarrow")
zstandard = pytest.importorskip("zstandard")

from killed import killed  # noqa: E402
from xlm import atomic  # noqa: E402
from xlm.data.compressed import open_bytes  # noqa: E402
from xlm.data.corpora import run as runner  # noqa: E402
from xlm.data.corpora.build import (  # noqa: E402
    build_corpus,
    describe,
    open_corpus_folder,
    verify_corpus,
)
from xlm.data.corpora.languages import canonical, open_identifier, speaks_against  # noqa: E402
from xlm.data.corpora.options import Cleaning, CorpusOptions, parse_sources  # noqa: E402
from xlm.data.corpora.rows import BadRow, Row, read_rows  # noqa: E402
from xlm.data.store import Shards, build_store, is_held_out  # noqa: E402
from xlm.data.vocabulary import Vocabulary, load_vocabulary  # noqa: E402
from xlm.errors import ConfigError, DataError, OutputError  # noqa: E402
from xlm.locks import folder_lock  # noqa: E402

WORDS = "the capital of France is a city hello world Paris river mountain of many old trees and stones".split()


def lines(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(4, 12))) + f" {seed} {n}" for n in range(count)]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path) -> Callable[..., CorpusOptions]:
    """``make("en=a.txt", ...)`` gives options; paths are relative to the test's folder."""

    def of(*specs: str, **more: Any) -> CorpusOptions:
        placed = [
            f"{language}={tmp_path / name}" if (language := spec.partition("=")[0]) != spec else str(tmp_path / spec)
            for spec in specs
            for name in [spec.partition("=")[2]]
        ]
        cleaning = Cleaning(**{f.name: more.pop(f.name) for f in dataclasses.fields(Cleaning) if f.name in more})
        values = {"out": tmp_path / "out", "tokenizer": tiny_model, "cleaning": cleaning, **more}
        return CorpusOptions(sources=parse_sources(placed), **values)

    return of


def rows(path: Path, format: str = "txt", **more: Any) -> list[Row | BadRow]:
    sources = parse_sources([f"en={path}"], format=format)
    return list(read_rows(sources[0], CorpusOptions(sources, Path("out"), Path("tokenizer"), **more)))


def texts(found: list[Row | BadRow]) -> list[Any]:
    return [row.texts[0] if isinstance(row, Row) else row.reason for row in found]


# ---- reading ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_every_compression_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    text = "\n".join(lines(3000)).encode()
    pack = {
        "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
        ".zst": zstandard.ZstdCompressor().compress,
    }[suffix]  # fmt: skip
    # Two members or frames one after another are one file.
    half = text.index(b"\n", len(text) // 2) + 1
    path = write(tmp_path / f"a.txt{suffix}", pack(text[:half]) + pack(text[half:]))
    with open_bytes(path) as stream:
        assert stream.read() == text
    assert texts(rows(path)) == text.decode().split("\n")


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_cut_off_compression_is_an_error_with_its_line(suffix: str, tmp_path: Path) -> None:
    text = os.urandom(40_000).hex().encode()
    text = b"\n".join(text[i : i + 60] for i in range(0, len(text), 60))
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    data = pack.get(suffix, zstandard.ZstdCompressor().compress)(text)
    with pytest.raises(DataError, match=rf"a\.txt\{suffix}:\d+: "):
        rows(write(tmp_path / f"a.txt{suffix}", data[: len(data) // 2]))


def test_a_network_disk_that_stumbles_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xlm.data import compressed

    path, real, failures = write(tmp_path / "a.txt.gz", gzip.compress(b"text")), gzip.open, [errno.EIO, errno.ESTALE]

    def stumbling(*args: Any) -> Any:
        if failures:
            raise OSError(failures.pop(), "stumbles")
        return real(*args)

    monkeypatch.setattr(compressed.gzip, "open", stumbling)
    assert texts(rows(path)) == ["text"] and not failures
    failures += [errno.EIO] * 9
    with pytest.raises(DataError, match=r"a\.txt\.gz: cannot be opened: stumbles"):
        rows(path)


def test_line_ends_and_marks_are_as_defined(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffone\r\ntwo\u2028half\n\nlone\rreturn\nlast")
    assert texts(rows(path)) == ["one", "two\u2028half", "", "lone\rreturn", "last"]


def test_invalid_utf8_is_set_aside_or_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"fine\nb\xffad\nlast")
    strict = rows(path)
    assert isinstance(strict[1], BadRow) and strict[1].line == 2
    assert strict[1].reason == "invalid UTF-8: byte 0xff at byte 1 of the line (invalid start byte)"
    replaced = rows(path, errors="replace")[1]
    assert isinstance(replaced, Row) and replaced.texts == ("b\ufffdad",) and replaced.replaced


def test_utf16_is_said_rather_than_read_with_a_nul_beside_each_letter(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt:1: UTF-16, by its byte-order mark: save the text as UTF-8"):
        rows(write(tmp_path / "a.txt", "one\ntwo".encode("utf-16")))


def test_a_line_without_end_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.data.corpora.rows.MAX_BYTES", 1000)
    path = write(tmp_path / "a.txt", "short\n" + "x" * 5000 + "\nafter")
    assert texts(rows(path)) == ["short", "a line of 5,001 bytes: at most 1,000 are read", "after"]


def test_blank_lines_end_documents(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"one\ntwo\n\n\nthree\nb\xffd\n\nfour\n")
    found = rows(path, documents="block")
    assert texts(found)[::2] == ["one\ntwo", "four"] and isinstance(found[1], BadRow) and found[1].line == 6


def test_records_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    records = ['{"text": "fine"}', "{", '{"no": 1}', '{"text": 7}', "[1]", '{"text": "\\ud800"}', "", "[" * 100_000]
    found = rows(write(tmp_path / "a.jsonl", "\n".join(records)), "jsonl")
    assert texts(found)[0] == "fine" and texts(found)[6] == ""
    reasons = [row.reason for row in found if isinstance(row, BadRow)]
    starts = [
        "not JSON: ",
        "field 'text' is missing",
        "field 'text' is int",
        "a JSON list",
        "the text has a lone",
        "not JSON",
    ]
    assert all(reason.startswith(start) for reason, start in zip(reasons, starts, strict=True)), reasons


def test_parquet_rows_and_columns(tmp_path: Path) -> None:
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", None, "three"], "lang": ["en", "en", "sw"]}), path)
    found = rows(path, "parquet", language_field="lang")
    assert texts(found) == ["one", "field 'text' is NoneType, not text", "three"]
    assert isinstance(found[2], Row) and found[2].language == "sw" and found[2].line == 3
    with pytest.raises(DataError, match="no column other; there are text, lang"):
        rows(path, "parquet", text_field="other")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        rows(write(tmp_path / "b.parquet", b"nothing of the kind"), "parquet")


def test_inputs_say_their_language(tmp_path: Path) -> None:
    for name in ("sw.txt.gz", "zh-Hant-en.tsv", "x1.txt", "ur.tsv"):
        write(tmp_path / name, "")
    found = parse_sources(
        [f"{tmp_path}/sw.txt.gz", f"{tmp_path}/zh-Hant-en.tsv", f"fr={tmp_path}/x1.txt", f"{tmp_path}/ur.tsv"]
    )
    assert [(s.language, s.pivot, s.format) for s in found] == [
        ("sw", "", "txt"), ("zh-Hant", "en", "tsv"), ("fr", "", "txt"), ("ur", "en", "tsv"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="'x1' is no language code"):
        parse_sources([f"{tmp_path}/x1.txt"])
    with pytest.raises(DataError, match=r"none\.txt: no such file"):
        parse_sources(["en=none.txt"])
    with pytest.raises(ConfigError, match="given 2 times"):
        parse_sources([f"{tmp_path}/sw.txt.gz", f"sw={tmp_path}/sw.txt.gz"])
    assert [s.language for s in parse_sources([f"{tmp_path}/{{language}}.txt.gz"])] == ["sw"]


# ---- building --------------------------------------------------------------------------------------------------------
def test_stores_are_those_that_pretraining_would_build(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    write(tmp_path / "en.txt", "\n".join(lines(9000)))
    pairs = map("\t".join, zip(lines(500, 1), lines(500, 2), strict=True))
    write(tmp_path / "sw-en.tsv.gz", gzip.compress("\n".join(pairs).encode()))
    options = make("en.txt", "sw-en.tsv.gz", shard_bytes=100_000)
    told: list[tuple[str, int, int]] = []
    built = build_corpus(options, tell=lambda *state: told.append(state))
    stores = open_corpus_folder(built.folder)
    vocabulary = load_vocabulary(options.tokenizer)
    assert len(json.loads((stores["text"]["en"].folder / "store.json").read_text())["shards"]) > 3
    for part, language, path in (("text", "en", "en.txt"), ("pairs", "sw", "sw-en.tsv.gz")):
        ours = stores[part][language]
        theirs = build_store(
            tmp_path / path,
            vocabulary,
            tmp_path / "cache",
            "text" if part == "text" else "pairs",
            languages=[language, "en"] if part == "pairs" else [language],
        )
        assert len(ours.tokens) == len(theirs.tokens) and len(ours) == len(theirs)
        np.testing.assert_array_equal(ours.slice(0, len(ours.tokens)), theirs.slice(0, len(theirs.tokens)))
        np.testing.assert_array_equal(ours.offsets, theirs.offsets)
        np.testing.assert_array_equal(ours.counts, theirs.counts)
        for index in (0, 17, len(ours) - 1):
            np.testing.assert_array_equal(ours.sentence(index), theirs.sentence(index))
    assert built.about["parts"]["text"]["en"]["documents"] == 9000 and told[-1] == ("stores", 1, 1)
    assert not list(built.folder.glob(".work-*")) and not list(built.folder.glob("*.tmp"))
    # The same again is found, whatever the number of workers.
    again = build_corpus(options, workers=2)
    assert again.existed and again.about == built.about


def test_shards_read_like_one_array() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 99, size, dtype=np.uint16) for size in (5, 1, 7, 3)]
    whole, shards = np.concatenate(arrays), Shards(arrays, np.dtype(np.uint16))
    assert len(shards) == len(whole) and len(Shards([], np.dtype(np.uint16))[0:0]) == 0
    for start in range(len(whole) + 1):
        for stop in range(len(whole) + 3):
            np.testing.assert_array_equal(shards[start:stop], whole[start:stop])


def test_bad_rows_are_listed_with_file_line_and_reason(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    write(tmp_path / "en.jsonl", '{"text": "one"}\nnonsense\n{"text": "two"}\n{"text": 3}\n')
    write(tmp_path / "sw-en.tsv", "a\tb\nno tab\nc\td\n")
    options = make("en.jsonl", "sw-en.tsv")
    built = build_corpus(options)
    entries = [json.loads(line) for line in (built.folder / "quarantine.jsonl").read_text("utf-8").splitlines()]
    assert [(Path(e["file"]).name, e["line"], e["reason"].split(":")[0]) for e in entries] == [
        ("en.jsonl", 2, "not JSON"), ("en.jsonl", 4, "field 'text' is int, not text"),
        ("sw-en.tsv", 2, "1 columns where a pair needs exactly 2, separated by one tab"),
    ]  # fmt: skip
    assert built.about["bad_rows"] == 3 and built.about["rows"] == 4
    with pytest.raises(DataError, match=r"en\.jsonl:4: .*bad row 2 of the file, bad_rows allows 1"):
        build_corpus(dataclasses.replace(options, out=tmp_path / "strict", bad_rows=1))


def test_unknown_languages_of_records_are_set_aside(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    records = [{"text": f"text {i}", "lang": lang} for i, lang in enumerate(["en", "sw", "Klingon!", "fr", None])]
    write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, records)))
    options = make("auto=x.jsonl", language_field="lang", languages=("en", "sw"))
    about = build_corpus(options).about
    assert set(about["parts"]["text"]) == {"en", "sw"} and about["bad_rows"] == 2
    assert about["documents"]["text"]["fr"] == {"read": 1, "language not asked for": 1}


def test_documents_are_filtered_for_the_reasons_given(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    given = ["good words here", "x", "1 2 3 4 5 6 7 8 words", "!!! ... ???? a", "y" * 200, "", "mÃ¡s palabras acÃ¡"]
    write(tmp_path / "es.txt", "\n".join(given))
    write(tmp_path / "sw-en.tsv", "neno moja\tone word\nneno\ta very much longer sentence than the other\n\tempty\n")
    options = make(
        "es.txt", "sw-en.tsv", min_characters=2, max_characters=100, min_letters=0.5, max_digits=0.3, max_ratio=3.0,
        fix_unicode=True,
    )  # fmt: skip
    built = build_corpus(options)
    found = built.about["documents"]
    dropped = {"too short": 1, "many digits": 0, "few letters": 2, "too long": 1, "empty": 1}
    assert found["text"]["es"] == {"read": 6, "kept": 2, **{k: v for k, v in dropped.items() if v}}
    assert found["pairs"]["sw"] == {"read": 2, "kept": 1, "sides of unlike length": 1, "empty": 1}
    repaired = load_vocabulary(options.tokenizer).encode_lines(["más palabras acá"])[0]
    store = open_corpus_folder(built.folder)["text"]["es"]
    assert store.sentence(1).tolist() == list(repaired)
    page = (built.folder / "report.html").read_text("utf-8")
    assert "sides of unlike length" in page and "<script" not in page
    assert json.loads((built.folder / "report.json").read_text("utf-8"))["bad_rows"] == 0


def test_marks_count_as_letters() -> None:
    from xlm.data.corpora.steps import character_counts

    assert character_counts("नमस्ते") == (6, 0, 6)
    assert character_counts("a1 !\u00a0") == (1, 1, 3)


@pytest.mark.parametrize("shard_bytes", [1 << 20, 3000], ids=["one shard", "many shards"])
def test_exact_and_near_duplicates_go_once(
    shard_bytes: int, tmp_path: Path, make: Callable[..., CorpusOptions]
) -> None:
    rng = random.Random(5)
    vocabulary = [f"word{n}" for n in range(400)]
    fresh = [" ".join(rng.choices(vocabulary, k=40)) for _ in range(120)]
    near = [text.replace(text.split()[20], "changed", 1) for text in fresh[:30]]
    write(tmp_path / "en.txt", "\n".join([*fresh, *fresh[:50]]))
    write(tmp_path / "sw.txt", "\n".join([*near, *fresh[50:60], "neno moja tu"]))
    options = make("en.txt", "sw.txt", dedup="exact", shard_bytes=shard_bytes)
    exact = build_corpus(options).about
    documents = sum(entry["documents"] for entry in exact["parts"]["text"].values())
    assert documents == 120 + 30 + 1
    assert sum(entry.get("duplicate", 0) for entry in exact["documents"]["text"].values()) == 60
    about = build_corpus(dataclasses.replace(options, out=tmp_path / "near", cleaning=Cleaning(dedup="near"))).about
    gone = sum(entry.get("near duplicate", 0) for entry in about["documents"]["text"].values())
    # One changed word of 40 leaves 31 of 41 five-grams shared: MinHash finds most, not all of such pairs.
    assert 15 <= gone <= 30
    assert sum(entry["documents"] for entry in about["parts"]["text"].values()) == documents - gone
    assert all(
        entry["read"] == sum(n for k, n in entry.items() if k != "read")
        for entry in about["documents"]["text"].values()
    )


def test_no_duplicates_at_all(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    write(tmp_path / "en.txt", "\n".join(lines(50)))
    assert build_corpus(make("en.txt", dedup="near")).about["parts"]["text"]["en"]["documents"] == 50


def test_languages_are_identified_offline(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    german = "Die Hauptstadt von Frankreich ist eine sehr schöne und alte Stadt am Fluss."
    swahili = "Mji mkuu wa Ufaransa ni Paris, na watu wengi wanaishi huko kwa muda mrefu sana."
    write(tmp_path / "sw.txt", "\n".join([swahili, german, "Hallo"]))
    write(tmp_path / "crawl.txt", "\n".join([swahili + " Kweli.", german + " Wirklich.", "??? 123"]))
    about = build_corpus(make("sw.txt", "auto=crawl.txt", identify="langid")).about
    assert about["documents"]["text"]["sw"] == {"read": 3, "kept": 3, "another language": 1}
    assert about["parts"]["text"]["de"]["documents"] == 1
    assert about["documents"]["text"]["auto"]["language unclear"] == 1
    known = open_identifier("langid")
    assert known.guess(german)[0] == "de" and "sw" in known.languages and len(known.languages) > 90
    # A language that the model does not know is never judged.
    assert known.speaks_against(german, "sw", 0.5) and not known.speaks_against(german, "tlh", 0.5)
    with pytest.raises(ConfigError, match=r"neither 'langid' nor the file"):
        open_identifier(str(tmp_path / "none.bin"))
    with pytest.raises(ConfigError, match="not a fastText model"):
        open_identifier(str(write(tmp_path / "bad.bin", b"no model at all")))
    with pytest.raises(ConfigError, match="language auto needs"):
        make("auto=crawl.txt")


def test_language_codes_of_all_kinds_are_understood() -> None:
    assert [canonical(code) for code in ("swh_Latn", "swa", "sw", "sw-KE", "arb_Arab", "zho_Hans", "ceb_Latn")] == [
        "sw", "sw", "sw", "sw", "ar", "zh", "ceb",
    ]  # fmt: skip
    assert (
        speaks_against("deu_Latn", "sw")
        and not speaks_against("srp_Latn", "hr")
        and not speaks_against("swh_Latn", "sw")
    )


def test_held_out_documents_are_in_no_training_part(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    write(tmp_path / "en.txt", "\n".join(lines(400)))
    pairs = list(zip(lines(300, 1), lines(300, 2), strict=True))
    write(tmp_path / "sw-en.tsv", "\n".join(map("\t".join, pairs)))
    about = build_corpus(make("en.txt", "sw-en.tsv", held_out=0.1)).about
    kept, valid = about["parts"]["text"]["en"], about["parts"]["valid"]["en"]
    assert kept["documents"] + valid["documents"] == 400 and 15 < valid["documents"] < 80
    expected = sum(is_held_out(english, 0.1) for _, english in pairs)
    assert about["parts"]["held-out"]["sw"]["documents"] == expected > 0


def test_documents_of_several_lines_keep_their_bounds(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    write(tmp_path / "en.jsonl", "\n".join(json.dumps({"text": t}) for t in ("one\ntwo\n\nthree", "four", "five\nsix")))
    store = open_corpus_folder(build_corpus(make("en.jsonl")).folder)["text"]["en"]
    assert store.documents is not None
    assert store.documents.tolist() == [0, 3, 4, 6] and len(store) == 6


def test_tokenizers_that_go_by_language_are_told_it(tmp_path: Path) -> None:
    from xlm.data.corpora.ledger import Bin
    from xlm.data.corpora.tokens import TokenSink

    said: list[tuple[str, list[str]]] = []

    def encoder(language: str) -> Any:
        return lambda given: (said.append((language, list(given))), [[5] for _ in given])[1]

    sink = TokenSink(tmp_path, tmp_path, 0.0, "en")
    sink._vocabulary = Vocabulary(encoder("?"), 9, 0, 2, 1, 8, (0, 1, 2, 8), "fake", language_encoder=encoder)
    sink.begin(Bin("pairs", "sw", 0, ()))
    sink.add("a\nb")
    sink.add("c\nd")
    sink.finish()
    assert said == [("sw", ["a", "c"]), ("en", ["b", "d"])]


# ---- what goes wrong -------------------------------------------------------------------------------------------------
def test_another_corpus_is_not_overwritten_by_accident(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    write(tmp_path / "en.txt", "\n".join(lines(20)))
    options = make("en.txt")
    first = build_corpus(options).about
    other = dataclasses.replace(options, held_out=0.2)
    with pytest.raises(ConfigError, match=r"holds another corpus \(held_out was 0\.0, is 0\.2\)"):
        build_corpus(other)
    write(tmp_path / "en.txt", "\n".join(lines(21)))
    with pytest.raises(ConfigError, match="other inputs"):
        build_corpus(options)
    assert describe(options.out) == first
    replaced = build_corpus(other, overwrite=True).about
    assert replaced["key"] != first["key"] and [p.name for p in options.out.glob("data-*")] == [replaced["data"]]


def test_a_full_disk_is_said_before_and_leaves_the_old_corpus(
    tmp_path: Path, make: Callable[..., CorpusOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "en.txt", "\n".join(lines(300)))
    options = make("en.txt")
    before = build_corpus(options).about
    changed = dataclasses.replace(options, held_out=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(atomic.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100})())
        with pytest.raises(OutputError, match=r"[\d,]+ bytes are needed, 100 are free"):
            build_corpus(changed, overwrite=True)
    from xlm.data.corpora import tokens

    def full(*args: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device", str(options.out))

    with monkeypatch.context() as patch:
        patch.setattr(tokens.np, "savez", full)
        with pytest.raises(OutputError, match="No space left on device; finished tasks are kept"):
            build_corpus(changed, overwrite=True)
    assert describe(options.out) == before and verify_corpus(options.out) == before
    assert build_corpus(changed, overwrite=True).about["options"]["held_out"] == 0.1


def test_two_builds_of_one_folder_do_not_meet(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    write(tmp_path / "en.txt", "some text\n")
    options = make("en.txt")
    options.out.mkdir()
    with (
        folder_lock(options.out, ".building.lock"),
        pytest.raises(OutputError, match=f"process {os.getpid()} on .* writes into this folder now"),
    ):
        build_corpus(options)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    write(tmp_path / "en.txt", "some text\n")
    options = make("en.txt")
    write(options.out, "a file stands there")
    with pytest.raises(OutputError, match="is a file: a folder is needed"):
        build_corpus(options)


def test_damage_is_found(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    write(tmp_path / "en.txt", "\n".join(lines(50)))
    built = build_corpus(make("en.txt"))
    (shard,) = built.folder.glob("data-*/text/en/tokens-*.bin")
    whole = shard.read_bytes()
    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(DataError, match=r"tokens-00000\.bin: not as it was written"):
        verify_corpus(built.folder)
    shard.write_bytes(whole[:-2])
    with pytest.raises(DataError, match=r"tokens-00000\.bin: [\d,]+ bytes where [\d,]+ are expected"):
        open_corpus_folder(built.folder)
    shard.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        open_corpus_folder(built.folder)
    with pytest.raises(DataError, match="no finished corpus there"):
        open_corpus_folder(tmp_path)
    shard.write_bytes(whole)
    with pytest.raises(ConfigError, match="was built with another vocabulary"):
        open_corpus_folder(built.folder, "another")


def test_text_that_all_goes_is_an_error(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    write(tmp_path / "en.txt", "\n\n")
    with pytest.raises(DataError, match="no document is left"):
        build_corpus(make("en.txt"))


def test_a_worker_that_is_killed_is_an_error_naming_the_stage(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stage 'clean': a worker process was ended from outside"):
        runner.run_here(runner.Stage("clean", [killed], 2, tmp_path), 2, lambda *state: None)


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.glob("data-*/**/*") if path.is_file() and path.name != "store.json")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.slow
def test_a_build_killed_anywhere_goes_on_to_the_same_corpus(tmp_path: Path, make: Callable[..., CorpusOptions]) -> None:
    for number, language in enumerate(("en", "sw", "fr")):
        write(tmp_path / f"{language}.txt", "\n".join(lines(3000, number) + lines(500, 0)))
    options = make("en.txt", "sw.txt", "fr.txt", dedup="near", shard_bytes=40_000)
    whole = build_corpus(dataclasses.replace(options, out=tmp_path / "whole"))
    files = [str(tmp_path / f"{language}.txt") for language in ("en", "sw", "fr")]
    command = [sys.executable, "-m", "xlm", "corpus", "build", *files, "-o", str(options.out), "--workers", "2"]
    command += ["--tokenizer", str(options.tokenizer), "--dedup", "near", "--shard-size", "40000"]
    for finished in (0, 1, 4, 9, 16, 24):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while len(list(options.out.glob(".work-*/done/*"))) <= finished and process.poll() is None:
            time.sleep(0.02)
        process.kill()  # the workers must notice by themselves
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert digest(options.out) == digest(whole.folder)
    assert describe(options.out)["parts"] == whole.about["parts"]


def test_unfinished_stages_are_gone_on_with(
    tmp_path: Path, make: Callable[..., CorpusOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop after every single task: the corpus is the one of an undisturbed build."""
    for number, language in enumerate(("en", "sw")):
        write(tmp_path / f"{language}.txt", "\n".join(lines(300, number) + lines(50, 0)))
    options = make("en.txt", "sw.txt", dedup="near", shard_bytes=8_000)
    whole = build_corpus(dataclasses.replace(options, out=tmp_path / "whole"))
    real = atomic.write_text

    class Stop(Exception):
        """Stands for the power cut."""

    def stopping(path: Any, text: str) -> Path:
        written = real(path, text)
        if Path(path).parent.name == "done":
            raise Stop
        return written

    stops = 0
    monkeypatch.setattr(runner.atomic, "write_text", stopping)
    while True:
        try:
            built = build_corpus(options)
            break
        except Stop:
            stops += 1
    assert stops > 20 and digest(built.folder) == digest(whole.folder)


# ---- in training -----------------------------------------------------------------------------------------------------
def test_a_recipe_trains_from_a_corpus_as_from_its_files(tmp_path: Path, tiny_model: Path) -> None:
    yaml = pytest.importorskip("yaml")
    from xlm.training.pretrain import pretrain
    from xlm.training.recipe import load_recipe

    for name in ("en", "sw"):
        write(tmp_path / f"{name}.txt", "\n".join(lines(300, len(name))))
    options = CorpusOptions(
        parse_sources([str(tmp_path / "en.txt"), str(tmp_path / "sw.txt")]),
        tmp_path / "corpus",
        tiny_model,
        shard_bytes=5000,
    )
    build_corpus(options)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    recipe = {
        "tokenizer": str(tiny_model),
        "model": {"config": sizes | {"max_position_embeddings": 66}},
        "objectives": {"mlm": {}},
        "batch": {"tokens": 256, "phases": [{"length": 32}]},
        "schedule": {"steps": 3},
        "threads": 1,
    }
    losses = []
    for name, data in (("files", {"text": "{language}.txt"}), ("built", {"corpus": "corpus"})):
        write(tmp_path / f"{name}.yaml", yaml.safe_dump(recipe | {"data": data, "output": str(tmp_path / name)}))
        assert pretrain(load_recipe(tmp_path / f"{name}.yaml"), quiet=True).finished
        records = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([record["loss_mlm"] for record in records if record["kind"] == "train"])
    assert losses[0] == losses[1] != []
    for data, message in (
        ({"corpus": "corpus", "text": "x"}, "data.text does not go with data.corpus"),
        ({"corpus": "corpus", "languages": ["fr"]}, "no text in fr; it has: en, sw"),
        ({"corpus": "none"}, "no finished corpus there"),
    ):
        write(tmp_path / "bad.yaml", yaml.safe_dump(recipe | {"data": data, "output": str(tmp_path / "bad")}))
        with pytest.raises((ConfigError, DataError), match=message):
            pretrain(load_recipe(tmp_path / "bad.yaml"), quiet=True)


def test_xlm_trains_from_raw_text_with_its_own_vocabulary(tmp_path: Path) -> None:
    """From text to codes to shards to steps, all with XLM's tokenizer and the rules of each language."""
    pytest.importorskip("tokenizers")
    yaml = pytest.importorskip("yaml")
    import xlm
    from xlm.training.pretrain import pretrain
    from xlm.training.recipe import load_recipe

    for name in ("en", "fr"):
        write(tmp_path / f"{name}.txt", "\n".join(lines(200, len(name))))
    write(tmp_path / "fr-en.tsv", "\n".join(map("\t".join, zip(lines(80, 1), lines(80, 2), strict=True))))
    xlm.train_bpe({name: tmp_path / f"{name}.txt" for name in ("en", "fr")}, 120, tmp_path / "bpe")
    sources = parse_sources([str(tmp_path / name) for name in ("en.txt", "fr.txt", "fr-en.tsv")])
    built = build_corpus(CorpusOptions(sources, tmp_path / "corpus", tmp_path / "bpe"))
    tokenizer = xlm.XLMTokenizer.from_pretrained(tmp_path / "bpe")
    stores = open_corpus_folder(built.folder)
    first = lines(200, 2)[0]
    assert stores["text"]["fr"].sentence(0).tolist() == tokenizer(first, lang="fr")["input_ids"][1:-1]
    assert int(stores["text"]["fr"].slice(0, 50)[stores["text"]["fr"].offsets[1] - 1]) == tokenizer.sep_token_id
    recipe = {
        "tokenizer": "bpe",
        "data": {"corpus": "corpus", "first_token": "eos"},
        "model": {
            "family": "xlm",
            "config": {"emb_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64},
        },
        "objectives": {"mlm": {}, "tlm": {"reset_positions": True}},
        "batch": {"tokens": 256, "phases": [{"length": 48}]},
        "schedule": {"steps": 2},
        "threads": 1,
        "output": str(tmp_path / "run"),
    }
    write(tmp_path / "recipe.yaml", yaml.safe_dump(recipe))
    outcome = pretrain(load_recipe(tmp_path / "recipe.yaml"), quiet=True)
    assert outcome.finished and xlm.load(str(outcome.model)).fill_mask(["the <special1> of France"])
