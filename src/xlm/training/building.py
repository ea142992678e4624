"""A recipe's parts: its token stores and its model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xlm.backends.torch.auto import AutoModelForCausalLM, AutoModelForMaskedLM
from xlm.data.corpora.build import open_corpus_folder
from xlm.data.corpus import open_stores
from xlm.data.random import torch_seed
from xlm.data.store import Part, TokenStore
from xlm.data.vocabulary import Vocabulary
from xlm.errors import ConfigError
from xlm.families.auto import AutoConfig
from xlm.families.registry import family_of
from xlm.training.init import initialize
from xlm.training.recipe import Recipe

Stores = dict[str, TokenStore]


@dataclass(frozen=True)
class Corpus:
    """Stores by language: what is trained on, and what is held out."""

    texts: Stores
    pairs: Stores
    valid: Stores
    held_out: Stores

    def languages(self, pivot: str) -> list[str]:
        """All languages that are trained on; ``pivot`` is the other side of every pair."""
        return sorted({*self.texts, *self.pairs, *([pivot] if self.pairs else [])})

    def fingerprints(self) -> dict[str, str]:
        """What the texts and pairs of every language are known by: a digest of their token counts."""
        return {
            f"{kind}/{language}": hashlib.sha256(store.counts.tobytes()).hexdigest()[:16]
            for kind, stores in (("text", self.texts), ("pairs", self.pairs))
            for language, store in stores.items()
        }

    def __str__(self) -> str:
        tokens = sum(len(store.tokens) for store in self.texts.values())
        pairs = sum(len(store) // 2 for store in self.pairs.values())
        return f"{tokens:,} tokens of text in {len(self.texts)} languages, {pairs:,} pairs in {len(self.pairs)}"


def open_corpus(recipe: Recipe, vocabulary: Vocabulary, output: Path, tell: Callable[[str], None]) -> Corpus:
    """Open or build all token stores of a recipe."""
    data, objectives = recipe.data, recipe.objectives
    if data.corpus:
        return _built_corpus(recipe, vocabulary)
    cache = recipe.path(data.cache) if data.cache else output / "tokens"

    def stores(pattern: str | None, part: Part, required: bool, wanted: object = True) -> Stores:
        if not pattern or not wanted:
            return {}
        held_out = data.held_out if part != "text" else 0.0
        return open_stores(
            str(recipe.path(pattern)),
            data.languages,
            vocabulary,
            cache,
            part,
            limit=data.limit,
            held_out=held_out,
            pivot=data.pivot,
            required=required,
            tell=tell,
        )

    return Corpus(
        texts=stores(data.text, "text", True, objectives.mlm or objectives.clm),
        pairs=stores(data.pairs, "pairs", False, objectives.tlm or objectives.contrastive),
        valid=stores(data.valid, "text", False),
        held_out=stores(data.pairs, "held-out pairs", False, data.held_out),
    )


def _built_corpus(recipe: Recipe, vocabulary: Vocabulary) -> Corpus:
    """The stores of ``data.corpus``, those that the objectives need.

    Raises ``ConfigError`` for languages that it does not have, and for what only files of text can be asked for.
    """
    data, objectives = recipe.data, recipe.objectives
    given = [name for name in ("text", "pairs", "valid", "limit", "held_out", "cache") if getattr(data, name)]
    if given:
        raise ConfigError(
            f"data.{given[0]} does not go with data.corpus: the corpus was built with all of that decided"
        )
    parts = open_corpus_folder(recipe.path(data.corpus or ""), vocabulary.fingerprint)
    wanted = data.languages

    def chosen(part: str, needed: object = True, required: bool = False) -> Stores:
        stores = {name: store for name, store in parts.get(part, {}).items() if len(store)} if needed else {}
        missing = [name for name in wanted or [] if name not in stores]
        if needed and required and (missing or not stores):
            known = ", ".join(stores) or "none"
            raise ConfigError(f"data.corpus {data.corpus}: no {part} in {', '.join(missing) or 'it'}; it has: {known}")
        return stores if wanted is None else {name: stores[name] for name in wanted if name in stores}

    return Corpus(
        texts=chosen("text", objectives.mlm or objectives.clm, required=True),
        pairs=chosen("pairs", objectives.tlm or objectives.contrastive, required=wanted is None),
        valid=chosen("valid"),
        held_out=chosen("held-out"),
    )


def language_ids(recipe: Recipe, names: Sequence[str]) -> dict[str, int]:
    """The ids of languages: those that the recipe's model or config knows, or else ``names`` numbered.

    Raises ``ConfigError`` for a language that a model with ids of its own has none for.
    """
    where, known = "model.config.lang2id", recipe.model.config.get("lang2id")
    if recipe.model.path:
        config: Any = AutoConfig.from_pretrained(recipe.path(recipe.model.path))
        told_apart = family_of(config).spec(config).num_languages  # a model without language embeddings reads any
        where, known = "model.path: lang2id", config.lang2id if told_apart else None
    if not known:
        return {name: i for i, name in enumerate(names)}
    if missing := [name for name in names if name not in known]:
        raise ConfigError(f"{where}: no id for {', '.join(missing)}; it has {', '.join(map(str, known))}")
    return {name: int(known[name]) for name in names}


def make_model(
    recipe: Recipe,
    vocabulary: Vocabulary,
    corpus: Corpus,
    languages: Mapping[str, int],
    probabilities: dict[str, float],
    fresh: bool,
) -> Any:
    """The recipe's model on the CPU: new (initialised if ``fresh``; otherwise a checkpoint will fill it) or from a folder.

    Raises ``ConfigError`` when vocabulary, lengths or objectives do not fit it.
    """
    torch.manual_seed(torch_seed(recipe.seed, "init"))
    only_causal = recipe.objectives.only_causal
    auto = AutoModelForCausalLM if only_causal else AutoModelForMaskedLM
    if recipe.model.path:
        model = auto.from_pretrained(recipe.path(recipe.model.path))
        rows = model.config.vocab_size
        if rows < vocabulary.size:
            raise ConfigError(
                f"model.path: vocab_size is {rows}, the tokenizer has {vocabulary.size} tokens: at least as many are needed"
            )
    else:
        family = family_of(recipe.model.family)
        given = recipe.model.config
        special = {"pad": vocabulary.pad_id, "bos": vocabulary.bos_id, "eos": vocabulary.eos_id}
        values: dict[str, Any] = {"vocab_size": vocabulary.size}
        values |= {key: special[kind] for key, kind in family.special_ids.items()}
        if family.languages:
            values |= family.languages(given.get("lang2id") or languages)
        if only_causal:
            values[family.causal_switch] = True
        model = auto.from_config(family.config_class(**values | given))
        if fresh:
            initialize(
                model,
                recipe.init,
                text=corpus.texts,
                pairs=corpus.pairs,
                probabilities=probabilities,
                seed=recipe.seed,
            )
    longest = max(phase.length for phase in recipe.batch.phases)
    if longest > model.spec.max_tokens:
        raise ConfigError(
            f"batch.phases: length {longest}, but the model has positions for {model.spec.max_tokens} tokens"
        )
    causal = bool(model.spec.is_decoder or model.spec.causal_only)
    if causal != only_causal:
        what = "sees the past only" if causal else "sees both sides"
        raise ConfigError(
            f"objectives: the model {what}: clm alone needs a causal model, mlm, tlm and contrastive the other kind"
        )
    return model
