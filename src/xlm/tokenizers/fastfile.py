"""``tokenizer.json``: the one file of the compiled tokenizers, read into a SentencePiece model and written from one."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlm.errors import CheckpointError
from xlm.jsonfile import read_json
from xlm.tokenizers import proto
from xlm.tokenizers.added import AddedToken, listed_tokens
from xlm.tokenizers.jsonfiles import read_head
from xlm.tokenizers.unigram import Unigram

_HEAD = ["<s>", "<pad>", "</s>", "<unk>"]


@dataclass(slots=True)
class Parts:
    """A file's added tokens by id, its pipeline apart from the vocabulary, and the model (empty where not asked for)."""

    added: dict[int, AddedToken]
    pipeline: dict[str, Any]
    splits_whitespace: bool
    model: bytes = field(default=b"", repr=False)


def _steps(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        return []
    inner = value.get("normalizers") or value.get("pretokenizers")
    return [step for part in inner for step in _steps(part)] if isinstance(inner, list) else [value]


def _is_piece(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], int | float)
        and not isinstance(entry[1], bool)
    )


def read(path: Path, with_model: bool) -> Parts:
    """Raises ``CheckpointError`` when the file is not XLM-R's: another kind of model, or other first tokens."""
    content = read_json(path) if with_model else read_head(path)
    model = content.get("model") if isinstance(content, dict) else None
    if (
        not isinstance(model, dict)
        or model.get("type", "Unigram") != "Unigram"
        or not isinstance(model.get("vocab"), list)
    ):
        raise CheckpointError(f"{path}: its model is not Unigram: XLM-R's tokenizer cannot read it")
    added = listed_tokens(content.get("added_tokens"), path)
    before = _steps(content.get("pre_tokenizer"))
    pipeline = {key: value for key, value in content.items() if key not in ("model", "added_tokens")}
    parts = Parts(added, pipeline, any(step.get("type") == "WhitespaceSplit" for step in before))
    if not with_model:
        return parts
    vocab = model["vocab"]
    for number, entry in enumerate(vocab):
        if not _is_piece(entry):
            raise CheckpointError(f"{path}: vocab[{number}] is {str(entry)[:80]}: a piece and its score are needed")
    if [entry[0] for entry in vocab[:4]] != _HEAD or model.get("unk_id") != 3:
        raise CheckpointError(
            f"{path}: its vocabulary begins with {[e[0] for e in vocab[:4]]}: XLM-R's begins with {_HEAD}"
        )
    end = len(vocab) - 1 if vocab[-1][0] == "<mask>" else len(vocab)
    charsmap = b""
    for step in _steps(content.get("normalizer")):
        if step.get("type") == "Precompiled":
            try:
                charsmap = base64.b64decode(step["precompiled_charsmap"] or b"", validate=True)
            except (binascii.Error, TypeError, KeyError) as error:
                raise CheckpointError(f"{path}: its character map is not base64: {error}") from error
    parts.model = proto.build(((str(piece), float(score)) for piece, score in vocab[4:end]), charsmap)
    return parts


def text_of(engine: Unigram, added: dict[int, AddedToken], pipeline: dict[str, Any] | None, ids: dict[str, int]) -> str:
    """What the reference writes; ``pipeline`` is what a file that was read said, ``ids`` those of cls and sep."""
    scores = engine.model.scores.tolist()
    vocab: list[list[Any]] = [[token, 0.0] for token in _HEAD]
    vocab.extend([piece, score] for piece, score in zip(engine.model.pieces()[3:], scores[3:], strict=True))
    vocab.append(["<mask>", 0.0])
    content = {"version": "1.0", **_pipeline(engine, ids), **(pipeline or {}), "truncation": None, "padding": None}
    content["added_tokens"] = [
        {"id": index, **{name: getattr(token, name) for name in ("content", "single_word", "lstrip", "rstrip")},
         "normalized": token.normalized, "special": token.special}
        for index, token in sorted(added.items())
    ]  # fmt: skip
    content["model"] = {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False}
    order = (
        "version",
        "truncation",
        "padding",
        "added_tokens",
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
        "model",
    )
    return json.dumps({key: content[key] for key in order if key in content}, ensure_ascii=False)


def _pipeline(engine: Unigram, ids: dict[str, int]) -> dict[str, Any]:
    space = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True, "prepend_scheme": "always"}
    steps: list[dict[str, Any]] = [
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    ]
    if engine.model.charsmap:
        charsmap = base64.b64encode(engine.model.charsmap).decode("ascii")
        steps.insert(0, {"type": "Precompiled", "precompiled_charsmap": charsmap})
    special = [{"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>")]
    sequence = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    single = [special[0], sequence[0], special[1]]
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": space,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, special[1], sequence[1], special[1]],
            "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]} for token, index in ids.items()},
        },
        "decoder": space,
    }
