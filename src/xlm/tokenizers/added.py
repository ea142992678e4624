"""Tokens that stand outside the vocabulary's own segmentation: special tokens and those a user adds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xlm.errors import CheckpointError


class AddedToken:
    """A token cut out of the text before the vocabulary sees it.

    ``lstrip`` and ``rstrip`` take the white space on that side along, ``single_word`` matches whole words only,
    ``normalized`` (default: unless ``special``) also matches text that becomes the token by normalisation. Two are equal
    when their contents are.
    """

    __slots__ = ("_normalized", "content", "lstrip", "rstrip", "single_word", "special")
    FIELDS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")

    def __init__(
        self,
        content: str = "",
        single_word: bool = False,
        lstrip: bool = False,
        rstrip: bool = False,
        special: bool = False,
        normalized: bool | None = None,
    ) -> None:
        self.content = content
        self.single_word, self.lstrip, self.rstrip, self.special = single_word, lstrip, rstrip, special
        self._normalized = normalized

    @property
    def normalized(self) -> bool:
        """As given, otherwise the opposite of ``special``."""
        return not self.special if self._normalized is None else self._normalized

    @normalized.setter
    def normalized(self, value: bool | None) -> None:
        self._normalized = value

    def __str__(self) -> str:
        return self.content

    def __repr__(self) -> str:
        flags = ", ".join(
            f"{n}={getattr(self, n)}" for n in ("rstrip", "lstrip", "single_word", "normalized", "special")
        )
        return f'AddedToken("{self.content}", {flags})'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AddedToken) and other.content == self.content

    def __hash__(self) -> int:
        return hash(self.content)

    def __getstate__(self) -> dict[str, Any]:
        return self.to_dict()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.FIELDS}

    @classmethod
    def of(cls, value: Any, **flags: Any) -> AddedToken:
        """From a string, a mapping as the files hold it, or another library's token of the same attributes."""
        if isinstance(value, AddedToken):
            return value
        if isinstance(value, str):
            return cls(value, **flags)
        if isinstance(value, Mapping):
            known = {name: value[name] for name in cls.FIELDS if name in value}
            return cls(**{**flags, **known})
        if all(hasattr(value, name) for name in cls.FIELDS):
            return cls(**{name: getattr(value, name) for name in cls.FIELDS})
        raise TypeError(f"token {value!r} is {type(value).__name__}: a str or an AddedToken is needed")


def stored_token(value: Any, where: str, **flags: Any) -> AddedToken:
    """A token as a file holds it: a text, or a mapping of a content and flags.

    Raises:
        CheckpointError: it is neither; ``where`` names the file and the place.
    """
    if isinstance(value, Mapping) and not (
        isinstance(value.get("content"), str)
        and all(value.get(name) in (True, False, None) for name in AddedToken.FIELDS[1:])
    ):
        raise CheckpointError(f"{where} is {str(value)[:200]}: a token has a content, which is text, and flags")
    if not isinstance(value, str | Mapping | AddedToken):
        raise CheckpointError(f"{where} is {str(value)[:200]}: a token is text, or a mapping with its content")
    return AddedToken.of(value, **flags)


def numbered_tokens(value: Any, where: str) -> dict[int, AddedToken]:
    """Tokens by id, as ``added_tokens_decoder`` holds them.

    Raises:
        CheckpointError: no mapping of ids to tokens.
    """
    if not isinstance(value, Mapping) or not all(str(index).isdecimal() and len(str(index)) < 10 for index in value):
        raise CheckpointError(f"{where} is {str(value)[:200]}: a mapping of ids to tokens is needed")
    return {int(index): stored_token(token, f"{where}[{index}]") for index, token in value.items()}


def listed_tokens(value: Any, path: Any) -> dict[int, AddedToken]:
    """Tokens by id, as ``tokenizer.json`` lists them; none where it lists none.

    Raises:
        CheckpointError: no list of tokens with their ids.
    """
    where = f"{path}: added_tokens"
    if not isinstance(value or [], list):
        raise CheckpointError(f"{where} is {str(value)[:200]}: a list of tokens is needed")
    for number, token in enumerate(value or []):
        index = token.get("id") if isinstance(token, Mapping) else None
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise CheckpointError(f"{where}[{number}] is {str(token)[:200]}: a token with an id is needed")
    return {token["id"]: stored_token(token, f"{where}[{n}]") for n, token in enumerate(value or [])}


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch ``start:end`` of a text: an added token with its id, or (``token_id`` None) text to segment."""

    start: int
    end: int
    token_id: int | None = None


class Splitter:
    """Cuts added tokens out of a text, the longest first wherever several begin.

    ``fast`` follows the reference's compiled tokenizer (a stripped space belongs to the token), otherwise its Python one
    (a stripped space belongs to nobody, ``single_word`` looks for a space rather than the edge of a word).
    """

    def __init__(self, tokens: Mapping[str, tuple[int, AddedToken]], fast: bool) -> None:
        self._tokens = dict(tokens)
        self._fast = fast
        longest_first = sorted((t for t in self._tokens if t), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        firsts = {token[0] for token in longest_first}
        # One character search rules out nearly every text before the alternation is tried.
        self._only_first = firsts.pop() if len(firsts) == 1 else None

    def may_split(self, text: str) -> bool:
        if self._pattern is None or (self._only_first is not None and self._only_first not in text):
            return False
        return self._pattern.search(text) is not None

    def among(self, texts: list[str], joined: str) -> list[int]:
        """Places of the texts that may be split; ``joined`` holds all of them, so that one look rules out nearly all."""
        if self._pattern is None or (self._only_first is not None and self._only_first not in joined):
            return []
        return [number for number, text in enumerate(texts) if self.may_split(text)]

    def split(self, text: str) -> list[Segment]:
        if not text:
            return []
        if not self.may_split(text) or self._pattern is None:
            return [Segment(0, len(text))]
        return self._split_fast(text) if self._fast else self._split_slow(text)

    def _split_fast(self, text: str) -> list[Segment]:
        segments: list[Segment] = []
        done = 0
        assert self._pattern is not None
        for match in self._pattern.finditer(text):
            start, end = match.span()
            token_id, token = self._tokens[match.group()]
            if token.single_word:
                before, after = text[start - 1 : start], text[end : end + 1]
                if re.match(r"\w", before) or re.match(r"\w", after):
                    continue
            if token.lstrip:
                start = max(done, len(text[:start].rstrip()))
            if token.rstrip:
                end = len(text) - len(text[end:].lstrip())
            if done < start:
                segments.append(Segment(done, start))
            segments.append(Segment(start, end, token_id))
            done = end
        if done < len(text):
            segments.append(Segment(done, len(text)))
        return segments

    def _split_slow(self, text: str) -> list[Segment]:
        assert self._pattern is not None
        parts: list[tuple[int, int, AddedToken | None]] = []
        done = 0
        for match in self._pattern.finditer(text):
            if done < match.start():
                parts.append((done, match.start(), None))
            parts.append((match.start(), match.end(), self._tokens[match.group()][1]))
            done = match.end()
        if done < len(text):
            parts.append((done, len(text), None))
        bounds = [[start, end] for start, end, _ in parts]
        gone = [False] * len(parts)
        for index, (start, end, token) in enumerate(parts):
            if token is None:
                continue
            left = text[slice(*bounds[index - 1])] if index else ""
            right = text[slice(*bounds[index + 1])] if index + 1 < len(parts) else ""
            if token.rstrip and right:
                bounds[index + 1][0] += len(right) - len(right.lstrip())
            if token.lstrip and left:
                bounds[index - 1][1] -= len(left) - len(left.rstrip())
            if token.single_word and left and left[-1] != " ":
                bounds[index - 1][1], gone[index] = end, True
            elif token.single_word and right and right[0] != " ":
                bounds[index + 1][0], gone[index] = start, True
        segments: list[Segment] = []
        for index, (_, _, token) in enumerate(parts):
            start, end = bounds[index]
            if gone[index] or start >= end:
                continue
            # A token that took in a neighbour is text now, as in the reference.
            known = self._tokens.get(text[start:end])
            segments.append(Segment(start, end, known[0] if known and token is not None else None))
        return segments


def table(decoder: Mapping[int, AddedToken], keep: Iterable[AddedToken]) -> dict[str, tuple[int, AddedToken]]:
    """``content -> (id, token)`` of the tokens to keep."""
    chosen = {token.content for token in keep}
    return {t.content: (i, t) for i, t in decoder.items() if t.content and t.content in chosen}
