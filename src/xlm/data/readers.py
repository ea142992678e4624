"""Text files as lines: plain or compressed, streamed, with the file, line and byte of whatever cannot be read.

A line ends at ``\\n`` and nowhere else (U+2028, a lone CR and other separators are text), one ``\\r`` before it is dropped,
a byte-order mark at the start of the file is dropped, and the last line needs no line end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from xlm.data.compressed import DAMAGED, open_bytes
from xlm.errors import DataError

__all__ = ["decode_lines", "find_files", "open_bytes", "read_lines", "read_pairs", "read_texts"]

_BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
"""How UTF-16 begins. Read on, the letters of English would pass for UTF-8, with a NUL beside each."""


def decode_lines(
    stream: Iterable[bytes],
    name: str,
    skipped: Callable[[DataError, bytes], None] | None = None,
    replaced: Callable[[DataError], None] | None = None,
) -> Iterator[tuple[int, str]]:
    """Yield ``(line number from 1, text)`` of a binary stream; ``name`` is what errors call it.

    Raises ``DataError`` beginning ``name:line`` with the byte's offset for invalid UTF-8, and for damaged gzip data. With
    ``skipped``, lines of invalid UTF-8 are left out and handed to it instead; with ``replaced`` they are read with U+FFFD
    for what is invalid, and it hears of each. UTF-16 is an error in any case.
    """
    number, offset = 0, 0
    try:
        for raw in stream:
            number += 1
            if number == 1 and raw.startswith(UTF16):
                raise DataError(f"{name}:1: UTF-16, by its byte-order mark: save the text as UTF-8")
            skip = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
            try:
                line = raw[skip:].decode("utf-8")
            except UnicodeDecodeError as error:
                at = skip + error.start
                fault = DataError(
                    f"{name}:{number}: invalid UTF-8: byte 0x{raw[at]:02x} at byte {at} of the line, "
                    f"byte {offset + at} of the text ({error.reason})"
                )
                if skipped is not None:
                    skipped(fault, raw)
                    offset += len(raw)
                    continue
                if replaced is None:
                    raise fault from error
                replaced(fault)
                line = raw[skip:].decode("utf-8", "replace")
            offset += len(raw)
            yield number, line.removesuffix("\n").removesuffix("\r")
    except DAMAGED as error:
        kind = "gzip" if name.endswith(".gz") else "compressed"
        raise DataError(f"{name}:{number + 1}: damaged {kind} data: {error}") from error
    except OSError as error:
        raise DataError(f"{name}:{number + 1}: cannot be read: {error.strerror or error}") from error


def read_lines(path: Path, replaced: Callable[[DataError], None] | None = None) -> Iterator[tuple[int, str]]:
    """``decode_lines`` of a file, empty lines included."""
    with open_bytes(path) as stream:
        yield from decode_lines(stream, str(path), replaced=replaced)


def read_texts(path: Path) -> Iterator[str]:
    """The file's lines that are not blank, stripped of surrounding white space."""
    for _, line in read_lines(path):
        if text := line.strip():
            yield text


def read_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """The pairs of a two-column TSV file. Blank lines and pairs with an empty side are skipped.

    Raises ``DataError`` naming ``file:line`` when a line has another number of columns than two.
    """
    for number, line in read_lines(path):
        if not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) != 2:
            raise DataError(
                f"{path}:{number}: {len(columns)} columns where a pair needs exactly 2, separated by one tab"
            )
        left, right = columns[0].strip(), columns[1].strip()
        if left and right:
            yield left, right


def find_files(pattern: str, placeholder: str = "{language}") -> dict[str, Path]:
    """The files of ``pattern`` by the text that stands for ``{language}``, sorted.

    Raises ``DataError`` when the pattern has no placeholder or its folder does not exist.
    """
    if pattern.count(placeholder) != 1:
        raise DataError(f"{pattern}: the pattern needs the placeholder {placeholder} exactly once")
    head, _, tail = Path(pattern).name.partition(placeholder)
    folder = Path(pattern).parent
    if placeholder in str(folder):
        raise DataError(f"{pattern}: {placeholder} must stand in the file's name, not in its folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name
        if path.is_file() and name.startswith(head) and name.endswith(tail) and len(name) > len(head) + len(tail):
            found[name[len(head) : len(name) - len(tail)]] = path
    return found
