"""A reader of pickles that cannot run code: it has no import, no attribute access and no call but those in one table.

Of the pickle machine's instructions only those that build plain data are here. A global name becomes a :class:`Global`, an
inert label; an instruction that would call it looks its name up in the caller's table of makers and refuses what is not
there. Classes of programs whose settings are worth reading but whose code is not (argparse's Namespace, fairseq's meters)
become :class:`Plain`, a bag of the values they held.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlm.errors import CheckpointError

_MAX_DEPTH_OF_MARKS = 10_000
_MAX_PLAIN = 1_000_000
_MAX_STEPS = 10_000_000
"""Instructions, each of which may make an object of a hundred bytes; the files of the original XLM with 200,000 words have
less than half."""
_COPIES, _COPIES_A_BYTE = 1_000_000, 4
"""Elements and bytes that calls may copy: a pickle needs no more than it has, as nothing is copied twice in it."""
_NUMPY_KINDS = {"b", "i", "u", "f", "c", "S", "U"}


@dataclass(frozen=True)
class Global:
    """A name that the pickle asked for; nothing was imported."""

    name: str


class Plain:
    """What an object of a foreign class held, without the class."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.values: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Plain({self.kind}, {list(self.values)[:5]})"


class Array:
    """A NumPy array on its way: its state follows the instruction that makes it."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None


Maker = Callable[..., Any]


def _dtype(code: Any, *_: Any) -> np.dtype:
    text = code.decode("ascii") if isinstance(code, bytes) else code
    if not isinstance(text, str) or len(text) > 8 or np.dtype(text).kind not in _NUMPY_KINDS:
        raise ValueError(f"the NumPy type {code!r} is not plain numbers or text")
    return np.dtype(text)


def _scalar(dtype: np.dtype, raw: Any) -> Any:
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, dtype, 1)[0].item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "ascii", "utf-8"):
        raise ValueError(f"the encoding {encoding!r}")
    return text.encode(encoding)


def _bytes(value: Any = b"", encoding: str = "latin1") -> bytes:
    # Not `bytes(value)`: a number would reserve that much memory.
    if isinstance(value, list):
        return bytes(value)
    return value if isinstance(value, bytes) else _encode(value, encoding)


def _array_state(state: Any) -> np.ndarray:
    _, shape, dtype, fortran, raw = state
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(dtype, np.dtype) or not isinstance(raw, bytes):
        raise ValueError("a NumPy array of objects")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


# What may be called by a pickle, in every kind of file.
MAKERS: dict[str, Maker] = {
    "collections.OrderedDict": lambda items=(): OrderedDict(items),
    "builtins.set": lambda items=(): list(items),
    "builtins.frozenset": lambda items=(): list(items),
    "builtins.complex": lambda real=0.0, imag=0.0: complex(real, imag),
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.long": lambda value=0, *_: value if isinstance(value, int) else int(str(value)[:4000].rstrip("L")),
    "_codecs.encode": _encode,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: Array() for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}
MAKERS |= {name.replace("builtins.", "__builtin__."): make for name, make in MAKERS.items() if "builtins" in name}
# Modules whose objects are kept as plain bags of values.
PLAIN_MODULES = ("argparse", "fairseq", "omegaconf", "src", "pathlib", "enum", "apex", "torch.optim")
_EMPTY_DICT_OF = ("collections.defaultdict",)


class Reader:
    """Reads pickles from a buffer, one after the other.

    Args:
        data: the buffer.
        start: where the first begins.
        makers: what may be called, beside :data:`MAKERS`.
        persistent: what a reference to something outside the pickle stands for.
        file: the name in messages.
        limit: bytes of all pickles together.
    """

    def __init__(
        self,
        data: Any,
        start: int = 0,
        makers: Mapping[str, Maker] | None = None,
        persistent: Callable[[Any], Any] | None = None,
        file: str = "pickle",
        limit: int = 1 << 62,
    ) -> None:
        self.data = data
        self.at = self.start = start
        self.end, self.limit = min(len(data), start + limit), limit
        self.steps = self.copied = 0
        self.makers = {**MAKERS, **(makers or {})}
        self.persistent = persistent
        self.file = file

    def load(self) -> Any:
        """The value, after which ``at`` is the byte behind the pickle.

        Raises:
            CheckpointError: the pickle is damaged, or asks for something that is not on the list; names it.
        """
        try:
            return self._run()
        except CheckpointError:
            raise
        except RecursionError as error:
            raise CheckpointError(f"{self.file}: the pickle is nested too deeply") from error
        except MemoryError as error:
            raise CheckpointError(f"{self.file}: the pickle asks for more memory than there is") from error
        except Exception as error:  # whatever else a hostile pickle provokes is a fault of the file
            raise CheckpointError(
                f"{self.file}: damaged pickle at byte {self.at}: {type(error).__name__}: {error}"
            ) from error

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _take(self, count: int) -> bytes:
        end = self.at + count
        if count < 0 or end > self.end:
            if end <= len(self.data):
                raise CheckpointError(
                    f"{self.file}: the pickle has more than the limit of {self.limit:,} bytes: refused"
                )
            raise CheckpointError(f"{self.file}: the pickle is truncated: {count} bytes wanted at byte {self.at}")
        raw = bytes(self.data[self.at : end])
        self.at = end
        return raw

    def _number(self, form: str) -> int:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> bytes:
        end = self.data.find(b"\n", self.at, self.end)
        if end < 0:
            raise CheckpointError(f"{self.file}: the pickle is truncated in a line at byte {self.at}")
        raw = bytes(self.data[self.at : end])
        self.at = end + 1
        return raw

    def _text(self, length: int) -> str:
        return self._take(length).decode("utf-8", "surrogatepass")

    # -- calls --------------------------------------------------------------------------------------------------------

    def _copy(self, *values: Any) -> None:
        """Charge what a call may copy of its arguments: one in the memo is named in a few bytes, again and again."""
        self.copied += sum(len(value) for value in values if isinstance(value, str | bytes | list | tuple | Mapping))
        limit = _COPIES + _COPIES_A_BYTE * (self.at - self.start)
        if self.copied > limit:
            raise CheckpointError(
                f"{self.file}: the calls of the pickle copy more than {limit:,} elements within {self.at - self.start:,} "
                "bytes, more than it can hold: refused"
            )

    def _refuse(self, name: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file}: the pickle asks for {name!r}, which is not needed to hold tensors and plain data and could run "
            "code: refused"
        )

    def _global(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        plain = module.split(".")[0] in PLAIN_MODULES or module.startswith(PLAIN_MODULES[-1])
        if full in self.makers or full in _EMPTY_DICT_OF or plain or full in ("numpy.ndarray", "__builtin__.dict"):
            return Global(full)
        raise self._refuse(full)

    def _call(self, what: Any, args: Any) -> Any:
        if not isinstance(what, Global):
            raise self._refuse(f"a call of {type(what).__name__}")
        self._copy(args, *args)
        if what.name in self.makers:
            return self.makers[what.name](*args)
        if what.name in _EMPTY_DICT_OF:
            return {}
        made = Plain(what.name)
        made.values = {"args": list(args)} if args else {}
        return made

    def _build(self, made: Any, state: Any) -> Any:
        if isinstance(made, Array):
            self._copy(*state)
            made.value = _array_state(state)
        elif isinstance(made, Plain):
            for part in state if isinstance(state, tuple) else (state,):
                self._copy(part)
                if isinstance(part, Mapping):
                    made.values.update(part)
        elif not isinstance(made, np.dtype | OrderedDict | dict):
            raise self._refuse(f"state for a {type(made).__name__}")
        return made

    # -- the machine --------------------------------------------------------------------------------------------------

    def _run(self) -> Any:
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        while True:
            op = self._take(1)
            self.steps += 1
            if self.steps > _MAX_STEPS:
                raise CheckpointError(f"{self.file}: the pickle has more than the limit of {_MAX_STEPS:,} instructions")
            if op in _CONSTANTS:
                stack.append(_CONSTANTS[op])
            elif op in b"BC\x8e\x96":  # bytes
                form = {b"C": "<B", b"B": "<I"}.get(op, "<Q")
                stack.append(self._take(self._number(form)))
            elif op in b"X\x8c\x8d":
                stack.append(self._text(self._number({b"\x8c": "<B", b"X": "<I"}.get(op, "<Q"))))
            elif op in b"TU":
                stack.append(self._take(self._number("<I" if op == b"T" else "<B")).decode("latin-1"))
            elif op in _NUMBERS:
                stack.append(self._number(_NUMBERS[op]))
            elif op in b"\x8a\x8b":
                stack.append(
                    int.from_bytes(self._take(self._number("<B" if op == b"\x8a" else "<I")), "little", signed=True)
                )
            elif op in b"ILFSV":
                stack.append(_from_line(op, self._line()))
            elif op in b"hjg":
                stack.append(memo[int(self._line()) if op == b"g" else self._number("<B" if op == b"h" else "<I")])
            elif op in b"qrp":
                memo[int(self._line()) if op == b"p" else self._number("<B" if op == b"q" else "<I")] = stack[-1]
            elif op == b"\x94":
                memo[len(memo)] = stack[-1]
            elif op == b"(":
                if len(marks) > _MAX_DEPTH_OF_MARKS:
                    raise CheckpointError(
                        f"{self.file}: the pickle is nested more than {_MAX_DEPTH_OF_MARKS} levels deep"
                    )
                marks.append(stack)
                stack = []
            elif op in _COLLECTORS:
                items, stack = stack, marks.pop()
                _COLLECTORS[op](stack, items)
            elif op in b"]})":
                stack.append([] if op == b"]" else {} if op == b"}" else ())
            elif op in b"\x85\x86\x87":
                count = op[0] - 0x84
                stack[-count:] = [tuple(stack[-count:])]
            elif op == b"a":
                item = stack.pop()
                _append(stack[-1], [item])
            elif op == b"s":
                value, key = stack.pop(), stack.pop()
                _put(stack[-1], [key, value])
            elif op == b"c":
                stack.append(self._global(self._line().decode(), self._line().decode()))
            elif op == b"\x93":
                name, module = stack.pop(), stack.pop()
                stack.append(self._global(str(module), str(name)))
            elif op in b"R\x81":
                args, what = stack.pop(), stack.pop()
                stack.append(self._call(what, args))
            elif op == b"\x92":
                options, args, what = stack.pop(), stack.pop(), stack.pop()
                stack.append(self._call(what, args if not options else (*args, options)))
            elif op == b"b":
                state = stack.pop()
                stack[-1] = self._build(stack[-1], state)
            elif op == b"Q" and self.persistent is not None:
                stack.append(self.persistent(stack.pop()))
            elif op in b"\x80\x95":
                self._take(1 if op == b"\x80" else 8)
            elif op in b"02":
                stack.pop() if op == b"0" else stack.append(stack[-1])
            elif op == b"1":
                stack = marks.pop()
            elif op == b".":
                return stack.pop()
            else:
                raise self._refuse(f"instruction {op!r}")


_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}


def _from_line(op: bytes, line: bytes) -> Any:
    if op == b"F":
        return float(line)
    if op == b"V":
        return line.decode("raw-unicode-escape")
    if op == b"S":
        return line.strip(b"'\"").decode("latin-1")
    if op == b"I" and line in (b"00", b"01"):
        return line == b"01"
    return int(line.rstrip(b"L"))


def _append(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise ValueError(f"items for a {type(target).__name__}")
    target.extend(items)


def _put(target: Any, items: list[Any]) -> None:
    if isinstance(target, Plain):  # a foreign class that is a dictionary too
        target.values.update(zip(map(str, items[::2]), items[1::2], strict=True))
    elif isinstance(target, dict):
        target.update(zip(items[::2], items[1::2], strict=True))
    else:
        raise ValueError(f"entries for a {type(target).__name__}")


_COLLECTORS: dict[bytes, Callable[[list[Any], list[Any]], None]] = {
    b"t": lambda stack, items: stack.append(tuple(items)),
    b"l": lambda stack, items: stack.append(items),
    b"d": lambda stack, items: stack.append(dict(zip(items[::2], items[1::2], strict=True))),
    b"e": lambda stack, items: _append(stack[-1], items),
    b"u": lambda stack, items: _put(stack[-1], items),
    b"\x8f": lambda stack, items: stack.append(items),
    b"\x90": lambda stack, items: _append(stack[-1], items),
    b"\x91": lambda stack, items: stack.append(items),
}


def plain(value: Any) -> Any:
    """The value as dictionaries, lists, text and numbers; arrays and tensors are left as they are.

    Raises:
        CheckpointError: more than 50 levels or a million values, which small pickles can pretend by naming one list often.
    """
    left = [_MAX_PLAIN]

    def walk(item: Any, depth: int) -> Any:
        left[0] -= 1
        if depth > 50 or left[0] < 0:
            raise CheckpointError(f"the pickled settings have more than 50 levels or {_MAX_PLAIN} values: refused")
        if isinstance(item, Array):
            return item.value
        if isinstance(item, Plain):
            values = item.values
            inner = next((key for key in ("_content", "_val") if key in values), None)
            if item.kind.startswith("omegaconf") and inner is not None:
                return walk(values[inner], depth + 1)
            item = values
        if isinstance(item, Mapping):
            return {key: walk(entry, depth + 1) for key, entry in item.items()}
        if isinstance(item, list | tuple):
            return [walk(entry, depth + 1) for entry in item]
        return item

    return walk(value, 0)
