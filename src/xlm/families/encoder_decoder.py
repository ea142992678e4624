"""Two models of this library as one: an encoder that reads a text and a decoder that writes another.

``config.json`` nests both configs, as the class of the same name in ``transformers`` does::

    {"model_type": "encoder-decoder", "encoder": {"model_type": ...}, "decoder": {"model_type": ..., "is_decoder": true}}

Which languages there are, and what says the target language, is data: rows of a table of language embeddings (XLM), or a
start token a language (families that have no such table).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from xlm.errors import ConfigError, InputError
from xlm.families.config import PretrainedConfig
from xlm.families.fields import BOOLEAN, TOKEN_ID, Rule
from xlm.families.registry import Family, family_of
from xlm.families.spec import EncoderSpec

_SHARED_SIZES = ("vocab_size", "hidden_size", "max_positions", "num_token_types", "num_languages")


@dataclass(frozen=True)
class Side:
    """How a text begins on one side of a translation.

    Attributes:
        start: id of the first token.
        language: row of the language table for every token; ``None``: the model has no such table.
    """

    start: int
    language: int | None


class EncoderDecoderConfig(PretrainedConfig):
    """Configuration of an encoder-decoder.

    Args:
        encoder, decoder: configs of any families, or what their ``config.json`` holds. Copies are kept: the encoder's sees
            both sides, the decoder's looks left only and attends to the encoder.
        share_embeddings: whether word, position, language and token type tables of both are one.
        encoder_start_token_id, decoder_start_token_id: the first token of a source and of a target; ``None``: what the
            family begins a sentence with, ``</s>`` for XLM and ``<s>`` for XLM-R.
        decoder_start_token_ids: language -> first token of a target, for families without language embeddings.
        directions: pairs of languages that the model was trained to translate, ``[["en", "de"], ...]``; ``None``: not said.
        pad_token_id, eos_token_id: of the decoder unless given.

    Raises:
        ConfigError: a side is missing or of no known family, widths differ, or tables of different sizes are to be shared.
    """

    model_type = "encoder-decoder"
    is_composition: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {
        "encoder": None,
        "decoder": None,
        "share_embeddings": True,
        "encoder_start_token_id": None,
        "decoder_start_token_ids": None,
        "directions": None,
    }
    base_overrides: ClassVar[dict[str, Any]] = {"is_encoder_decoder": True}
    rules: ClassVar[dict[str, Rule]] = {
        "share_embeddings": BOOLEAN,
        "encoder_start_token_id": TOKEN_ID,
        "decoder_start_token_id": TOKEN_ID,
        "decoder_start_token_ids": (
            "a mapping of languages to token ids, or None",
            lambda v: (
                v is None or (isinstance(v, Mapping) and bool(v) and all(type(i) is int and i >= 0 for i in v.values()))
            ),
        ),
        "directions": (
            "a list of pairs of languages, or None",
            lambda v: (
                v is None
                or (
                    isinstance(v, list | tuple)
                    and all(
                        isinstance(p, list | tuple) and len(p) == 2 and all(isinstance(n, str) for n in p) for p in v
                    )
                )
            ),
        ),
    }

    encoder: Any
    decoder: Any

    def __init__(self, encoder: Any = None, decoder: Any = None, **kwargs: Any) -> None:
        kwargs.pop("vocab_size", None)  # some programs write the decoder's here too
        encoder, decoder = _copied("encoder", encoder), _copied("decoder", decoder)
        for config, writes in ((encoder, False), (decoder, True)):
            setattr(config, family_of(config).causal_switch, False)
            config.is_decoder = config.add_cross_attention = writes
        super().__init__(encoder=encoder, decoder=decoder, **kwargs)

    def validate(self) -> None:
        super().validate()
        read, written = self.specs
        if read.hidden_size != written.hidden_size:
            raise ConfigError(
                f"encoder of width {read.hidden_size} and decoder of width {written.hidden_size}: they must be as wide"
            )
        if self.share_embeddings:
            for size in _SHARED_SIZES:
                one, two = getattr(read, size), getattr(written, size)
                if one != two:
                    raise ConfigError(
                        f"share_embeddings=True: {size} is {one} in the encoder and {two} in the decoder; make them equal "
                        "or give share_embeddings=False"
                    )
            ours, theirs = _rows(self.encoder), _rows(self.decoder)
            if read.num_languages and ours and theirs and ours != theirs:
                raise ConfigError(
                    f"share_embeddings=True: lang2id is {ours} in the encoder and {theirs} in the decoder; make them equal "
                    "or give share_embeddings=False"
                )
        self._fill(read, written)

    def _fill(self, read: EncoderSpec, written: EncoderSpec) -> None:
        """Set the special tokens that nobody set, and check those that are there."""
        if self.pad_token_id is None:
            self.pad_token_id = written.pad_id
        if self.eos_token_id is None:
            self.eos_token_id = special_id(self.decoder, "eos")
        if self.encoder_start_token_id is None:
            self.encoder_start_token_id = special_id(self.encoder, family_of(self.encoder).sentence_start)
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = special_id(self.decoder, family_of(self.decoder).sentence_start)
        starts = dict(self.decoder_start_token_ids or {})
        for name, value, rows in (
            ("encoder_start_token_id", self.encoder_start_token_id, read.vocab_size),
            ("decoder_start_token_id", self.decoder_start_token_id, written.vocab_size),
            *((f"decoder_start_token_ids[{lang!r}]", token, written.vocab_size) for lang, token in starts.items()),
        ):
            if value is not None and value >= rows:
                raise ConfigError(f"{name}={value}: must be below vocab_size={rows}")

    # -- the two sides ------------------------------------------------------------------------------------------------

    @property
    def specs(self) -> tuple[EncoderSpec, EncoderSpec]:
        """The architectures of encoder and decoder."""
        return family_of(self.encoder).spec(self.encoder), family_of(self.decoder).spec(self.decoder)

    @property
    def vocab_size(self) -> int:
        """Rows of the decoder's word table."""
        return family_of(self.decoder).spec(self.decoder).vocab_size

    @property
    def hidden_size(self) -> int:
        """The width of both."""
        return family_of(self.decoder).spec(self.decoder).hidden_size

    def get_text_config(self, decoder: bool = False, encoder: bool | None = None) -> Any:
        """The config of the decoder or the encoder, this one if neither is asked for."""
        if decoder:
            return self.decoder
        return self.encoder if encoder else self

    @classmethod
    def from_encoder_decoder_configs(cls, encoder_config: Any, decoder_config: Any, **kwargs: Any) -> Any:
        """A config of two others."""
        return cls(encoder=encoder_config, decoder=decoder_config, **kwargs)

    # -- languages ----------------------------------------------------------------------------------------------------

    @property
    def language_ids(self) -> tuple[dict[str, int], dict[str, int]]:
        """Language -> row of the encoder's and of the decoder's language table; empty where a side has no table, or rows
        without names. Sides that share a table share its names."""
        read, written = _rows(self.encoder), _rows(self.decoder)
        if self.share_embeddings:
            return read or written, written or read
        return read, written

    @property
    def languages(self) -> list[str]:
        """The languages that the model knows by name."""
        read, written = (sorted(ids, key=lambda name: ids[name]) for ids in self.language_ids)
        return list(dict.fromkeys([*written, *read])) or list(self.decoder_start_token_ids or {})

    def source_side(self, language: str | int | None = None) -> Side:
        """How a source text in ``language`` begins.

        Raises:
            InputError: an unknown language, or none where the model needs to be told.
        """
        assert self.encoder_start_token_id is not None
        return Side(self.encoder_start_token_id, self._row("source", language))

    def target_side(self, language: str | int | None = None) -> Side:
        """How a translation into ``language`` begins.

        Raises:
            InputError: an unknown language, or none where the model needs to be told.
        """
        starts = self.decoder_start_token_ids
        if starts:
            if language not in starts:
                raise InputError(f"target={language!r}: must be one of {', '.join(starts)}")
            return Side(starts[language], None)
        if self.decoder_start_token_id is None:
            raise InputError("decoder_start_token_id is None: set the token that targets begin with in the config")
        return Side(self.decoder_start_token_id, self._row("target", language))

    def check_direction(self, source: str | int | None, target: str | int | None) -> None:
        """Refuse to translate between languages that the model was not trained for, as far as the config says.

        Raises:
            InputError: names the directions there are.
        """
        if not self.directions:
            return
        names = [{row: name for name, row in ids.items()} for ids in self.language_ids]
        one, two = (of.get(n, n) if isinstance(n, int) else n for of, n in zip(names, (source, target), strict=True))
        for a, b in self.directions:
            if (one is None or a == one) and (two is None or b == two):
                return
        known = ", ".join(f"{a}-{b}" for a, b in self.directions)
        if one is None or any(a == one for a, _ in self.directions):
            raise InputError(f"target={two!r}: this model translates {known}")
        raise InputError(f"source={one!r}: this model translates {known}")

    def _row(self, argument: str, language: str | int | None) -> int | None:
        """The row of a side's language table for a name or a row; ``None`` where there is no table."""
        side = ("source", "target").index(argument)
        known, rows = self.language_ids[side], self.specs[side].num_languages
        if not rows:
            if isinstance(language, str) and self.languages and language not in self.languages:
                raise InputError(f"{argument}={language!r}: must be one of {', '.join(self.languages)}")
            return None
        said = (
            ", ".join(sorted(known, key=lambda name: known[name]))
            or f"the rows 0 to {rows - 1}, which have no names in this config"
        )
        if isinstance(language, str) and language in known:
            return known[language]
        if isinstance(language, int) and not isinstance(language, bool) and 0 <= language < rows:
            return language
        what = f"{argument} is missing" if language is None else f"{argument}={language!r}"
        raise InputError(f"{what}: must be one of {said}")

    # -- dictionaries and files ---------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        out = super().to_dict()
        return out | {side: getattr(self, side).to_dict() for side in ("encoder", "decoder")}

    def to_diff_dict(self) -> dict[str, Any]:
        out = super().to_diff_dict()
        sides = {side: getattr(self, side) for side in ("encoder", "decoder")}
        return out | {side: own.to_diff_dict() | {"model_type": own.model_type} for side, own in sides.items()}

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Make a config from plain data; without a word on shared embeddings in it there are none, as in files that
        ``transformers`` wrote."""
        return super().from_dict({"share_embeddings": False, **config_dict}, **kwargs)


def special_id(config: Any, kind: str) -> int | None:
    """The id of a config's special token of a kind: ``pad``, ``bos`` or ``eos``."""
    family: Family = family_of(config)
    for key, found in family.special_ids.items():
        value = getattr(config, key, None)
        if found == kind and value is not None:
            return value[0] if isinstance(value, list) else value
    return None


def _rows(config: Any) -> dict[str, int]:
    """Language -> row of a side's language table, as its config names them."""
    return dict(getattr(config, "lang2id", None) or {})


def _copied(side: str, given: Any) -> PretrainedConfig:
    if isinstance(given, PretrainedConfig) and not given.is_composition:
        return copy.deepcopy(given)
    if isinstance(given, Mapping):
        model_type = given.get("model_type")
        if not isinstance(model_type, str):
            raise ConfigError(f"{side}: its config has no model_type")
        return family_of(model_type).config_class.from_dict(dict(given))
    raise ConfigError(f"{side}={type(given).__name__}: a config of one of the families is needed")
