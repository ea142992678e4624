"""The SentencePiece model file: bounds checked before anything else reads it, and its ids moved to fairseq's order.

A model file is a protocol buffer: field 1, repeated, holds the pieces (1 text, 2 score, 3 type), field 2 the training
options, field 3 the normaliser (2 the compiled character map). The pieces begin ``<unk> <s> </s>``; XLM-R's ids begin
``<s> <pad> </s> <unk>``. :func:`fairseq_order` exchanges the first three pieces for those four, so that SentencePiece
itself returns XLM-R's ids, special tokens included, and no id is touched in Python.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xlm.errors import CheckpointError

MAX_BYTES = 1 << 30
MAX_PIECES = 4_000_000
MAX_PIECE_BYTES = 65_536
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2


@dataclass(frozen=True)
class ModelFile:
    """A checked model file: where its pieces lie, their scores and kinds, and what normalises the text."""

    data: bytes
    starts: NDArray[np.int64]
    text_lengths: NDArray[np.int64]
    scores: NDArray[np.float32]
    kinds: NDArray[np.uint8]
    head: int  # where the first piece begins
    charsmap: bytes
    model_type: int
    escape_whitespaces: bool
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool

    @property
    def count(self) -> int:
        return len(self.starts)

    def piece(self, index: int) -> str:
        begin = int(self.starts[index])
        return self.data[begin : begin + int(self.text_lengths[index])].decode("utf-8", "replace")

    def pieces(self) -> list[str]:
        data = self.data
        begins = self.starts.tolist()
        ends = (self.starts + self.text_lengths).tolist()
        return [data[begin:end].decode("utf-8", "replace") for begin, end in zip(begins, ends, strict=True)]


def _varint(data: bytes, at: int, name: str) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise CheckpointError(f"{name}: not a SentencePiece model: a number is cut off or too long at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes, name: str) -> Iterable[tuple[int, int, int, int]]:
    """``(field, wire type, begin, end)`` of every field of a message; the value of a varint is in ``begin``."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, name)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at, name)
            yield tag >> 3, 0, value, at
            continue
        if wire == 2:
            size, at = _varint(data, at, name)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise CheckpointError(f"{name}: not a SentencePiece model: wire type {wire} at byte {at}")
        if at + size > len(data):
            raise CheckpointError(
                f"{name}: truncated: a field of {size:,} bytes at byte {at:,} ends after byte {len(data):,}"
            )
        yield tag >> 3, wire, at, at + size
        at += size


def _odd_piece(data: bytes, begin: int, end: int, name: str) -> tuple[int, int, float, int]:
    """``(start of text, length of text, score, kind)`` of a piece whose fields are not in the usual order."""
    text, score, kind = (begin, begin), 0.0, NORMAL
    message = data[begin:end]
    for field, wire, low, high in _fields(message, name):
        if field == 1 and wire == 2:
            text = (begin + low, begin + high)
        elif field == 2 and wire == 5:
            score = struct.unpack("<f", message[low:high])[0]
        elif field == 3 and wire == 0:
            kind = low
    return text[0], text[1] - text[0], score, kind


def parse(data: bytes, name: str) -> ModelFile:
    """Check ``data`` and find its pieces. Raises ``CheckpointError`` naming the file and the limit that it breaks."""
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"{name}: {len(data):,} bytes: a vocabulary may have {MAX_BYTES:,}")
    if data[:8] == b"version " or data[:1] in (b"<", b"{"):
        raise CheckpointError(
            f"{name}: not a SentencePiece model but text (a Git-LFS pointer or a web page?): {data[:40]!r}"
        )
    begins: list[int] = []
    ends: list[int] = []
    at, size, head = 0, len(data), -1
    rest: list[tuple[int, int, int, int]] = []
    while at < size:
        if data[at] == 0x0A:
            head = at if head < 0 else head
            # Nearly all pieces are short: one byte of length, one look each.
            while at + 1 < size and data[at] == 0x0A and (length := data[at + 1]) < 128 and at + 2 + length <= size:
                begins.append(at + 2)
                at += 2 + length
                ends.append(at)
            if at >= size or data[at] != 0x0A:
                continue
            length, at = _varint(data, at + 1, name)
            if length > MAX_PIECE_BYTES or at + length > size:
                raise CheckpointError(
                    f"{name}: piece {len(begins):,} at byte {at:,} claims {length:,} bytes: at most"
                    f" {min(MAX_PIECE_BYTES, size - at):,} are possible"
                )
            begins.append(at)
            at += length
            ends.append(at)
            continue
        tag, after = _varint(data, at, name)
        length, after = _varint(data, after, name)
        if tag & 7 != 2 or after + length > size:
            raise CheckpointError(f"{name}: not a SentencePiece model, or truncated: field {tag >> 3} at byte {at:,}")
        rest.append((tag >> 3, 2, after, after + length))
        at = after + length
    if not 3 < len(begins) <= MAX_PIECES:
        raise CheckpointError(f"{name}: {len(begins):,} pieces: between 4 and {MAX_PIECES:,} are possible")
    starts, lengths, scores, kinds = _columns(data, begins, ends, name)
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise CheckpointError(f"{name}: piece {bad:,} has the score {scores[bad]}: scores must be finite")
    charsmap, flags, model_type = b"", {3: 1, 4: 1, 5: 1}, UNIGRAM
    for field, _, low, high in rest:
        message = data[low:high]
        if field == 2:
            for inner, wire, begin, _ in _fields(message, name):
                if inner == 3 and wire == 0:
                    model_type = begin
        elif field == 3:
            for inner, wire, begin, end in _fields(message, name):
                if inner == 2 and wire == 2:
                    charsmap = message[begin:end]
                elif inner in flags and wire == 0:
                    flags[inner] = begin
    return ModelFile(
        data, starts, lengths, scores, kinds, head, charsmap, model_type, bool(flags[5]), bool(flags[3]), bool(flags[4])
    )


def _columns(
    data: bytes, begins: list[int], ends: list[int], name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.uint8]]:
    """Text, score and kind of every piece: read as columns where the fields lie in the usual order, one by one elsewhere."""
    raw = np.frombuffer(data, np.uint8)
    begin, end = np.asarray(begins, np.int64), np.asarray(ends, np.int64)
    width = end - begin
    padded = np.concatenate([raw, np.zeros(16, np.uint8)])
    length = padded[begin + 1].astype(np.int64)
    usual = (padded[begin] == 0x0A) & (length < 128) & (width >= length + 7)
    score_at = begin + 2 + np.where(usual, length, 0)
    usual &= padded[score_at] == 0x15
    bits = sum(padded[score_at + 1 + byte].astype(np.uint32) << np.uint32(8 * byte) for byte in range(4))
    scores = np.asarray(bits, np.uint32).view(np.float32).copy()
    after = score_at + 5
    plain = width == length + 7
    typed = (width == length + 9) & (padded[after] == 0x18)
    kinds = np.where(plain, NORMAL, padded[after + 1]).astype(np.uint8)
    usual &= plain | typed
    starts = begin + 2
    for index in np.flatnonzero(~usual).tolist():
        starts[index], length[index], scores[index], kinds[index] = _odd_piece(data, begins[index], ends[index], name)
    return starts, length, scores, kinds


def _number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _block(field: int, payload: bytes) -> bytes:
    return _number(field << 3 | 2) + _number(len(payload)) + payload


def _piece(text: str, score: float, kind: int) -> bytes:
    body = _block(1, text.encode("utf-8", "replace")) + b"\x15" + struct.pack("<f", score)
    return _block(1, body + (b"\x18" + _number(kind) if kind != NORMAL else b""))


_SPECIAL = _piece("<s>", 0, CONTROL) + _piece("<pad>", 0, CONTROL) + _piece("</s>", 0, CONTROL)
# Trainer options 40 to 43 are the ids of unk, bos, eos and pad.
_IDS = _block(
    2, b"".join(_number(field << 3) + _number(value) for field, value in ((40, 3), (41, 0), (42, 2), (43, 1)))
)
_IDENTITY = _block(3, _block(1, b"identity") + _block(2, b"") + b"\x18\x00\x20\x00\x28\x01")


def fairseq_order(model: ModelFile, identity: bool = False) -> bytes:
    """The same model with XLM-R's ids; with ``identity``, without any normalisation and without a space put in front."""
    # The fourth piece begins at its tag; tags and lengths before it belong to the three pieces that go.
    fourth = int(model.starts[3])
    fourth -= 2
    fourth -= 1 + len(_number(_width_at(model, 3)))
    body = model.data[: model.head] + _SPECIAL + _piece("<unk>", 0, UNKNOWN) + model.data[fourth:] + _IDS
    return body + _IDENTITY if identity else body


def _width_at(model: ModelFile, index: int) -> int:
    """Bytes of piece ``index``, read back from the length in front of it."""
    begin = int(model.starts[index]) - 2
    for size in (1, 2, 3):
        width, after = _varint(model.data, begin - size, "model")
        if after == begin and model.data[begin - size - 1] == 0x0A:
            return width
    raise CheckpointError("piece 3 of the SentencePiece model has no length")


def build(pieces: Iterable[tuple[str, float]], charsmap: bytes) -> bytes:
    """A unigram model file in SentencePiece's own order from ``(text, score)`` pairs that follow the special tokens."""
    body = [_piece("<unk>", 0, UNKNOWN), _piece("<s>", 0, CONTROL), _piece("</s>", 0, CONTROL)]
    body.extend(_piece(text, score, NORMAL) for text, score in pieces)
    body.append(_block(2, b"\x18" + _number(UNIGRAM)))
    body.append(_block(3, _block(1, b"precompiled") + _block(2, charsmap)))
    return b"".join(body)


def select(model: ModelFile, keep: NDArray[np.bool_]) -> bytes:
    """The same model file with the pieces of ``keep`` (pieces,) alone; the size in its training options says so too."""
    data, out, index = model.data, bytearray(), 0
    at = 0
    for field, _, low, high in _fields(data, "model"):
        if field == 1:
            if keep[index]:
                out += data[at:high]
            index += 1
        elif field == 2:
            out += _block(2, _with_size(data[low:high], int(keep.sum())))
        else:
            out += data[at:high]
        at = high
    return bytes(out)


def _with_size(options: bytes, size: int) -> bytes:
    """Training options with another vocabulary size (field 4)."""
    out, at = bytearray(), 0
    for field, wire, _, high in _fields(options, "model"):
        out += _number(4 << 3) + _number(size) if field == 4 and wire == 0 else options[at:high]
        at = high
    return bytes(out)
