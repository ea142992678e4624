"""The language that an engine's texts are in, for the models to which it makes a difference (XLM's, not XLM-R's)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xlm.errors import InputError


@dataclass(frozen=True)
class Language:
    """A language's code, and its row in the model's language table; None: no such thing."""

    name: str | None
    number: int | None


def languages_of(model: Any, tokenizer: Any) -> tuple[str, ...]:
    """The languages that may be named; none where all are read alike."""
    if "lang" not in tokenizer.TEXT_OPTIONS and not model.spec.num_languages:
        return ()
    return tuple(sorted(getattr(model.config, "lang2id", None) or ()))


def speak(model: Any, tokenizer: Any, name: str | None, of: str) -> Language:
    """Have ``tokenizer`` split words by the rules of language ``name``; what else ``model`` needs to read it.

    Raises:
        InputError: a language that the model ``of`` that name does not know, or one although it reads all alike.
    """
    known: dict[str, int] = getattr(model.config, "lang2id", None) or {}
    rules, table = "lang" in tokenizer.TEXT_OPTIONS, model.spec.num_languages
    if name is None:
        if rules:
            tokenizer.lang = None
        return Language(None, None)
    if not rules and not table:
        raise InputError(f"lang is {name!r}: {of} reads all languages alike and has no place for one: leave lang out")
    if (table or known) and name not in known:
        raise InputError(f"lang is {name!r}: {of} knows {', '.join(sorted(known)) or 'no language by name'}")
    if rules:
        tokenizer.lang = name
    return Language(name, known[name] if table else None)
