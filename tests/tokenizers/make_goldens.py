"""Record what transformers 4.37.2 answers to every case of ``cases.py``.

Run it in an environment of its own, from the root of the repository:

    pip install transformers==4.37.2 'tokenizers<0.16' sentencepiece sacremoses protobuf 'numpy<2'
    python -m tests.tokenizers.make_goldens          # the answers
    python -m tests.tokenizers.make_goldens --vocabularies FILE...   # first: the small vocabularies, from UTF-8 text

It writes ``goldens.json.gz`` (the answers), ``spm.model.gz`` and ``bpe.json.gz`` (the vocabularies) beside itself.
"""

from __future__ import annotations

import collections
import gzip
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.tokenizers.cases import cases, run

HERE = Path(__file__).parent
# Given by name: the reference keeps tokens added to one tokenizer in the default list of the next.
SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", *(f"<special{n}>" for n in range(10)))


def write(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, 9, mtime=0))


def learn(words: collections.Counter[str], count: int) -> list[tuple[str, str]]:
    """Byte-pair merges, the plain way."""
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        for word, symbols in split.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for symbols in split.values():
            index = 0
            while index < len(symbols) - 1:
                if (symbols[index], symbols[index + 1]) == best:
                    symbols[index : index + 2] = ["".join(best)]
                index += 1
    return merges


def vocabularies(files: list[str]) -> None:
    import sentencepiece

    lines = [line for name in files for line in Path(name).read_text("utf-8").splitlines() if line.strip()][:6000]
    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=f"{folder}/m",
            vocab_size=2400,
            character_coverage=0.985,
            minloglevel=2,
        )
        # The map of characters is large and SentencePiece carries it: it is put back by ``unpack``.
        write(
            HERE / "spm.model.gz",
            b"".join(f for number, f in fields(Path(f"{folder}/m.model").read_bytes()) if number != 3),
        )
    words = collections.Counter(word for line in lines for word in line.lower().split())
    merges = learn(collections.Counter(dict(words.most_common(3000))), 600)
    symbols = sorted({symbol for word in words for symbol in [*word, word[-1] + "</w>"]} - {"<", ">"})[:1500]
    tokens = list(SPECIAL)
    tokens += [t for t in dict.fromkeys([*map("".join, merges), *symbols]) if t not in tokens]
    text = "".join(f"{a} {b} {600 - n}\n" for n, (a, b) in enumerate(merges))
    write(HERE / "bpe.json.gz", json.dumps({"vocab": {t: i for i, t in enumerate(tokens)}, "merges": text}).encode())


def main() -> None:
    from transformers import AddedToken, XLMRobertaTokenizer, XLMRobertaTokenizerFast, XLMTokenizer
    from transformers.utils import logging

    logging.set_verbosity(50)
    answers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = unpack(Path(folder))
        makers = {
            "slow": lambda: XLMRobertaTokenizer(files["model"]),
            "fast": lambda: XLMRobertaTokenizerFast(files["model"]),
            "xlm": lambda: XLMTokenizer(files["vocab"], files["merges"], additional_special_tokens=list(SPECIAL[4:])),
        }
        for kind, make in makers.items():
            answers[kind] = [run(make, AddedToken, case) for case in cases(kind)]
    write(HERE / "goldens.json.gz", json.dumps(answers, ensure_ascii=False).encode())
    print({kind: len(found) for kind, found in answers.items()})


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """``(number, the whole field)`` of a message that has length-delimited fields alone."""
    at = 0
    while at < len(message):
        start, number = at, message[at] >> 3
        size, shift, at = 0, 0, at + 1
        while True:
            byte = message[at]
            size, shift, at = size | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                break
        at += size
        yield number, message[start:at]


def normalizer() -> bytes:
    """SentencePiece's own ``nmt_nfkc`` as field 3 of a model."""
    from sentencepiece import SentencePieceNormalizer

    spec = SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_normalizer_spec()
    size, head = len(spec), b""
    while size >= 128:
        head, size = head + bytes([size & 127 | 128]), size >> 7
    return b"\x1a" + head + bytes([size]) + spec


def unpack(folder: Path) -> dict[str, str]:
    """The small vocabularies as the files they are."""
    bpe = json.loads(gzip.decompress((HERE / "bpe.json.gz").read_bytes()))
    files = {
        "model": folder / "sentencepiece.bpe.model",
        "vocab": folder / "vocab.json",
        "merges": folder / "merges.txt",
    }
    files["model"].write_bytes(gzip.decompress((HERE / "spm.model.gz").read_bytes()) + normalizer())
    files["vocab"].write_text(json.dumps(bpe["vocab"]), "utf-8")
    files["merges"].write_text(bpe["merges"], "utf-8")
    return {name: str(path) for name, path in files.items()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--vocabularies"]:
        vocabularies(sys.argv[2:])
    else:
        main()
