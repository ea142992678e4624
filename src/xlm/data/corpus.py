"""The token stores of a whole run: one per language and kind of file, opened or built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from xlm.data.readers import find_files
from xlm.data.store import Part, TokenStore, build_store
from xlm.data.vocabulary import Vocabulary
from xlm.errors import DataError

Progress = Callable[[str], None]


def open_stores(
    pattern: str,
    languages: list[str] | None,
    vocabulary: Vocabulary,
    cache: Path,
    part: Part,
    *,
    limit: int | None = None,
    held_out: float = 0.0,
    pivot: str = "en",
    required: bool = True,
    tell: Progress = lambda message: None,
) -> dict[str, TokenStore]:
    """Stores by language. ``languages`` None takes every file of the pattern; ``pivot`` is the other side of pairs.

    Raises ``DataError`` naming the languages without a file (unless not ``required``: then they are left out).
    """
    files = find_files(pattern)
    missing = [language for language in languages or [] if language not in files]
    if missing and required:
        known = ", ".join(files) or "none"
        raise DataError(f"{pattern}: no file for {', '.join(missing)}; there are files for: {known}")
    chosen = [language for language in (languages or files) if language in files]
    if not chosen:
        raise DataError(f"{pattern}: no file fits the pattern")
    stores: dict[str, TokenStore] = {}
    for language in chosen:
        tell(f"tokens of {language} ({part})")
        spoken = [language] if part == "text" else [language, pivot]
        stores[language] = build_store(files[language], vocabulary, cache, part, limit, held_out, languages=spoken)
    return stores


def sizes(stores: Mapping[str, TokenStore]) -> dict[str, int]:
    """Tokens by language."""
    return {language: len(store.tokens) for language, store in stores.items()}
