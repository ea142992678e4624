"""The contract every tokenizer keeps: one engine for calls, pairs, truncation, padding and rows, whatever cuts the text."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

from xlm.errors import ArgumentError, InputError
from xlm.tokenizers.added import AddedToken
from xlm.tokenizers.assemble import Assembly
from xlm.tokenizers.decoding import Decoding
from xlm.tokenizers.encoding import BatchEncoding
from xlm.tokenizers.options import VERY_LARGE, Options, resolve
from xlm.tokenizers.persist import Persistence
from xlm.tokenizers.rows import Template
from xlm.tokenizers.special import logger

# The documented order of a call's options; anything else goes to the subclass (``lang`` of XLM) or is refused.
_ORDER = """
add_special_tokens padding truncation max_length stride is_split_into_words pad_to_multiple_of return_tensors
return_token_type_ids return_attention_mask return_overflowing_tokens return_special_tokens_mask return_offsets_mapping
return_length verbose
""".split()
_ENCODE_ORDER = [*_ORDER[:5], "return_tensors"]
_OLD = ("truncation_strategy", "pad_to_max_length")


class Tokenizer(Assembly, Decoding, Persistence):
    """Abstract: a subclass says how a text becomes tokens (:meth:`_content`, :meth:`_details`), its ids and its files.

    ``FAST`` chooses, where the reference's two classes of a model differ, the behaviour of its compiled one.
    ``max_characters`` (None: any number) is the most that one text may have in a call: ``InputError`` for a longer one.
    """

    TEMPLATE: ClassVar[Template]
    TEXT_OPTIONS: ClassVar[tuple[str, ...]] = ()
    model_input_names: list[str] = ["input_ids", "token_type_ids", "attention_mask"]
    padding_side: str = "right"
    truncation_side: str = "right"

    def __init__(self, **options: Any) -> None:
        self.init_kwargs = copy.deepcopy(options)
        self.name_or_path = str(options.pop("name_or_path", ""))
        self.verbose = bool(options.pop("verbose", True))
        longest = options.pop("model_max_length", options.pop("max_len", None))
        self.model_max_length = VERY_LARGE if longest is None else longest
        for side in ("padding_side", "truncation_side"):
            value = options.pop(side, getattr(self, side))
            if value not in ("left", "right"):
                raise InputError(f"{side} is {value!r}: it must be 'left' or 'right'")
            setattr(self, side, value)
        self.model_input_names = options.pop("model_input_names", self.model_input_names)
        self.clean_up_tokenization_spaces = options.pop("clean_up_tokenization_spaces", True)
        self.split_special_tokens = options.pop("split_special_tokens", False)
        self.max_characters: int | None = options.pop("max_characters", None)
        self.chat_template = options.pop("chat_template", None)
        decoder = options.pop("added_tokens_decoder", None) or {}
        self._init_special({name: options[name] for name in self.SPECIAL_TOKENS_ATTRIBUTES if name in options})
        for index, token in sorted((int(index), AddedToken.of(token)) for index, token in decoder.items()):
            self._put(index, token)
        self._add_init_tokens()

    def _add_init_tokens(self) -> None:
        missing = [token for token in self.all_special_tokens_extended if str(token) not in self._encoder]
        if missing:
            self.add_tokens(missing, special_tokens=True)

    # ---- sizes -----------------------------------------------------------------------------------------------------
    @property
    def is_fast(self) -> bool:
        return self.FAST

    def __len__(self) -> int:
        """Ids in all, added tokens included."""
        return max([self.vocab_size - 1, *self._decoder]) + 1 if self.FAST else len(self.get_vocab())

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return self.TEMPLATE.added(pair)

    @property
    def max_len_single_sentence(self) -> int:
        return self.model_max_length - self.num_special_tokens_to_add(False)

    @property
    def max_len_sentences_pair(self) -> int:
        return self.model_max_length - self.num_special_tokens_to_add(True)

    def __repr__(self) -> str:
        added = "".join(f"\t{index}: {token!r},\n" for index, token in self.added_tokens_decoder.items())
        return (
            f"{type(self).__name__}(name_or_path='{self.name_or_path}', vocab_size={self.vocab_size},"
            f" model_max_length={self.model_max_length}, is_fast={self.is_fast}, padding_side='{self.padding_side}',"
            f" truncation_side='{self.truncation_side}', special_tokens={self.special_tokens_map},"
            f" clean_up_tokenization_spaces={self.clean_up_tokenization_spaces}), "
            f" added_tokens_decoder={{\n{added}}}"
        )

    # ---- calls -----------------------------------------------------------------------------------------------------
    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        *positional: Any,
        **options: Any,
    ) -> BatchEncoding:
        """A text, a list of texts, a list of words or of lists of words (``is_split_into_words``), each alone or in pairs.

        Options may follow by position, in the documented order: ``add_special_tokens``, ``padding``, ``truncation``, ...
        """
        options = _named(positional, options)
        if text is None and text_target is None:
            raise InputError("text and text_target are both None: one of them is needed")
        inputs = None if text is None else self._call(text, text_pair, dict(options))
        if text_target is None:
            assert inputs is not None
            return inputs
        targets = self._call(text_target, text_pair_target, dict(options))
        if inputs is None:
            return targets
        inputs["labels"] = targets["input_ids"]
        return inputs

    def _call(self, text: Any, pair: Any, options: dict[str, Any]) -> BatchEncoding:
        words = options.get("is_split_into_words", False)
        for name, value in (("text", text), ("text_pair", pair)):
            if value is not None and not _is_text(value):
                raise InputError(
                    f"{name} is {type(value).__name__}: a str, a list of str, or for split input a list of lists of str"
                )
        nested = isinstance(text, list | tuple)
        batched = nested and (not words or (len(text) > 0 and isinstance(text[0], list | tuple)))
        if not batched:
            return self.encode_plus(text, pair, **options)
        if isinstance(pair, str):
            raise TypeError("text is a list, text_pair a str: a list of the same length is needed")
        if pair is not None and len(pair) != len(text):
            raise InputError(f"batch length of text is {len(text)}, of text_pair {len(pair)}: they must be equal")
        return self.batch_encode_plus(text if pair is None else list(zip(text, pair, strict=True)), **options)

    def encode_plus(self, text: Any, text_pair: Any = None, *positional: Any, **options: Any) -> BatchEncoding:
        """One text or pair. Besides strings, tokens and ids are taken as they are."""
        settings, rest = self._options(_named(positional, options))
        return self._encode([(text, text_pair if not self.FAST or text_pair else None)], settings, rest, single=True)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, *positional: Any, **options: Any) -> BatchEncoding:
        """A list of texts, or of pairs."""
        if not isinstance(batch_text_or_text_pairs, list | tuple):
            raise TypeError(f"a list or tuple is needed, not {type(batch_text_or_text_pairs).__name__}")
        settings, rest = self._options(_named(positional, options))
        if self._plain_batch(settings) and set(map(type, batch_text_or_text_pairs)) == {str}:
            texts = list(batch_text_or_text_pairs)
            self._check_sizes(texts)
            finished = self._in_pieces(texts, self._spanned if settings.offsets_mapping else self._finished, rest)
            if finished is not None:
                return self._plain_rows(*finished, texts, settings, rest)
        items: list[tuple[Any, Any]] = []
        for item in batch_text_or_text_pairs:
            alone = not isinstance(item, list | tuple)
            if not alone and settings.is_split_into_words:
                alone = len(item) == 0 or not isinstance(item[0], list | tuple)
            elif not alone and (len(item) != 2 or (item and isinstance(item[0], int))):
                alone = True
            items.append((item, None) if alone else (item[0], item[1]))
        return self._encode(items, settings, rest, single=False)

    def encode(self, text: Any, text_pair: Any = None, *positional: Any, **options: Any) -> Any:
        """The ids of one text or pair."""
        return self.encode_plus(text, text_pair, **_named(positional, options, _ENCODE_ORDER))["input_ids"]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text as strings."""
        if self.FAST:
            return self.encode_plus(text, pair, add_special_tokens=add_special_tokens, **options).tokens()
        known = {name: options[name] for name in (*self.TEXT_OPTIONS, "split_special_tokens") if name in options}
        unknown = set(options) - set(known) - {"is_split_into_words"}
        if unknown:
            logger.warning("tokenize does not know %s", ", ".join(sorted(unknown)))
        self._check_sizes([text])
        return self._details([text], **known)[0].tokens

    def _options(self, given: dict[str, Any]) -> tuple[Options, dict[str, Any]]:
        given = dict(given)
        old = {name: given.pop(name) for name in _OLD if name in given}
        padding, truncation, length = resolve(
            given.pop("padding", False), given.pop("truncation", None), given.pop("max_length", None),
            given.get("pad_to_multiple_of"), self.model_max_length, old,
        )  # fmt: skip
        asked = given.pop("return_token_type_ids", None)
        mask = given.pop("return_attention_mask", None)
        settings = Options(
            padding=padding,
            truncation=truncation,
            max_length=length,
            stride=given.pop("stride", 0),
            add_special_tokens=given.pop("add_special_tokens", True),
            is_split_into_words=given.pop("is_split_into_words", False),
            pad_to_multiple_of=given.pop("pad_to_multiple_of", None),
            return_tensors=given.pop("return_tensors", None),
            token_type_ids="token_type_ids" in self.model_input_names if asked is None else bool(asked),
            attention_mask="attention_mask" in self.model_input_names if mask is None else bool(mask),
            overflowing_tokens=given.pop("return_overflowing_tokens", False),
            special_tokens_mask=given.pop("return_special_tokens_mask", False),
            offsets_mapping=given.pop("return_offsets_mapping", False),
            length=given.pop("return_length", False),
            asked_token_type_ids=asked,
            verbose=given.pop("verbose", True),
        )
        given.pop("return_dict", None)
        known = {name: given.pop(name) for name in (*self.TEXT_OPTIONS, "split_special_tokens") if name in given}
        if given and self.FAST:
            raise TypeError(f"{type(self).__name__} does not know the argument {', '.join(sorted(given))}")
        if given:
            logger.warning("%s does not know %s: ignored", type(self).__name__, ", ".join(sorted(given)))
        if settings.padding != "do_not_pad" and self._special["pad_token"] is None:
            raise InputError("padding was asked for, but the tokenizer has no pad_token: set tokenizer.pad_token")
        return settings, known


def _named(positional: tuple[Any, ...], options: dict[str, Any], order: Sequence[str] = _ORDER) -> dict[str, Any]:
    """Options by name, those given by position included."""
    if not positional:
        return options
    if len(positional) > len(order):
        raise ArgumentError(f"{len(positional)} options by position: at most {len(order)} ({', '.join(order)})")
    named = dict(zip(order, positional, strict=False))
    if double := sorted(named.keys() & options.keys()):
        raise ArgumentError(f"{double[0]}: is given twice, by position and by name")
    return named | options


def _is_text(value: Any) -> bool:
    if isinstance(value, str):
        return True
    if not isinstance(value, list | tuple):
        return False
    if not value or isinstance(value[0], str):
        return True
    return isinstance(value[0], list | tuple) and (not value[0] or isinstance(value[0][0], str))
