"""Labels of words to labels of tokens, and predictions of tokens back to words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from xlm.errors import InputError

IGNORED = -100
Policy = Literal["first", "last", "all"]
T = TypeVar("T")


def _carriers(word_ids: Sequence[int | None], tokens: Sequence[str] | None) -> dict[int, list[int]]:
    """Places of the tokens of every word; a lone ``▁`` stands for its word only if the word has no other token."""
    places: dict[int, list[int]] = {}
    for place, word in enumerate(word_ids):
        if word is not None:
            places.setdefault(word, []).append(place)
    if tokens is not None:
        for word, of in places.items():
            full = [place for place in of if tokens[place] != "▁"]
            places[word] = full or of
    return places


def align_labels(
    word_ids: Sequence[int | None],
    labels: Sequence[int],
    policy: Policy = "first",
    tokens: Sequence[str] | None = None,
    ignored: int = IGNORED,
) -> list[int]:
    """One label a token: that of its word on the tokens ``policy`` names, ``ignored`` elsewhere.

    ``word_ids`` are a row's (``encoding.word_ids()`` of a call with ``is_split_into_words=True``). With ``tokens`` a lone
    ``▁`` carries no label unless it is all its word has. Words without a token (empty ones) lose their label; words that
    were cut off have none. Raises ``InputError`` when a word has no label.
    """
    if policy not in ("first", "last", "all"):
        raise InputError(f"policy is {policy!r}: it must be 'first', 'last' or 'all'")
    row = [ignored] * len(word_ids)
    for word, places in _carriers(word_ids, tokens).items():
        if not 0 <= word < len(labels):
            raise InputError(f"word {word} has no label: labels has {len(labels)} entries")
        for place in {"first": places[:1], "last": places[-1:], "all": places}[policy]:
            row[place] = labels[word]
    return row


def word_predictions(
    word_ids: Sequence[int | None],
    predictions: Sequence[T],
    words: int,
    missing: T,
    policy: Literal["first", "last"] = "first",
    tokens: Sequence[str] | None = None,
) -> list[T]:
    """One prediction a word, from its first or last token; ``missing`` for words without any (empty, or cut off)."""
    if policy not in ("first", "last"):
        raise InputError(f"policy is {policy!r}: it must be 'first' or 'last'")
    if len(predictions) != len(word_ids):
        raise InputError(f"predictions has {len(predictions)} entries, word_ids {len(word_ids)}: they must be equal")
    found = [missing] * words
    for word, places in _carriers(word_ids, tokens).items():
        if 0 <= word < words:
            found[word] = predictions[places[0 if policy == "first" else -1]]
    return found
