"""The special tokens of a tokenizer: seven named ones and a list, readable as strings, as ids and as added tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from xlm.errors import InputError
from xlm.tokenizers.added import AddedToken, Splitter, table

logger = logging.getLogger("xlm")

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def _token_property(name: str) -> property:
    def read(self: SpecialTokens) -> str | None:
        value = self._special[name]
        if value is None and self.verbose:
            logger.error("%s was read, but it is not set yet", name)
        return None if value is None else str(value)

    def write(self: SpecialTokens, value: str | AddedToken | None) -> None:
        if value is not None and not isinstance(value, str):
            value = AddedToken.of(value)
        self._special[name] = value

    return property(read, write, doc=f"The {name.replace('_', ' ')} as a string.")


def _id_property(name: str) -> property:
    def read(self: SpecialTokens) -> Any:
        value = self._special[name]
        return None if value is None else self.convert_tokens_to_ids(str(value))

    def write(self: SpecialTokens, value: int | None) -> None:
        self._special[name] = None if value is None else self.convert_ids_to_tokens(value)

    return property(read, write, doc=f"The id of the {name.replace('_', ' ')}.")


class SpecialTokens:
    """Attributes of special tokens, and the tokens added to the vocabulary. The base of every tokenizer."""

    SPECIAL_TOKENS_ATTRIBUTES = (*NAMED, "additional_special_tokens")
    FAST = False
    verbose = True

    bos_token, eos_token, unk_token = map(_token_property, NAMED[:3])
    sep_token, pad_token, cls_token, mask_token = map(_token_property, NAMED[3:])
    bos_token_id, eos_token_id, unk_token_id = map(_id_property, NAMED[:3])
    sep_token_id, pad_token_id, cls_token_id, mask_token_id = map(_id_property, NAMED[3:])

    def _init_special(self, given: Mapping[str, Any]) -> None:
        self._special: dict[str, str | AddedToken | None] = dict.fromkeys(NAMED)
        self._additional: list[str | AddedToken] = []
        self._pad_token_type_id = 0
        self._decoder: dict[int, AddedToken] = {}
        self._encoder: dict[str, int] = {}
        self._splitters: dict[str, Splitter] = {}
        for name, value in given.items():
            if value is None:
                continue
            if name == "additional_special_tokens":
                self.additional_special_tokens = value
            elif isinstance(value, str | AddedToken | Mapping) or hasattr(value, "content"):
                setattr(self, name, value if isinstance(value, str) else AddedToken.of(value))
            else:
                raise TypeError(f"{name} is {value!r}: a str or an AddedToken is needed, not {type(value).__name__}")

    # What the subclasses give.
    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        raise NotImplementedError

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        raise NotImplementedError

    def get_vocab(self) -> dict[str, int]:
        raise NotImplementedError

    def _base_id(self, token: str) -> int | None:
        """The id of a token of the base vocabulary, None for others."""
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def additional_special_tokens(self) -> list[str]:
        return [str(token) for token in self._additional]

    @additional_special_tokens.setter
    def additional_special_tokens(self, value: Sequence[Any] | None) -> None:
        if isinstance(value, str) or (value is not None and not isinstance(value, Sequence)):
            raise InputError(f"additional_special_tokens is {value!r}: a list of str or AddedToken is needed")
        self._additional = [token if isinstance(token, str) else AddedToken.of(token) for token in value or ()]

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        return self.convert_tokens_to_ids(self.additional_special_tokens)

    @additional_special_tokens_ids.setter
    def additional_special_tokens_ids(self, values: Sequence[int]) -> None:
        self._additional = [self.convert_ids_to_tokens(value) for value in values]

    @property
    def pad_token_type_id(self) -> int:
        return self._pad_token_type_id

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        return {
            name: [str(v) for v in value] if isinstance(value, list) else str(value)
            for name, value in self.special_tokens_map_extended.items()
        }

    @property
    def special_tokens_map_extended(self) -> dict[str, Any]:
        named: dict[str, Any] = {name: value for name, value in self._special.items() if value}
        return {**named, "additional_special_tokens": list(self._additional)} if self._additional else named

    @property
    def all_special_tokens_extended(self) -> list[str | AddedToken]:
        seen: dict[str, str | AddedToken] = {}
        for value in self.special_tokens_map_extended.values():
            for token in value if isinstance(value, list) else [value]:
                seen.setdefault(str(token), token)
        return list(seen.values())

    @property
    def all_special_tokens(self) -> list[str]:
        return [str(token) for token in self.all_special_tokens_extended]

    @property
    def all_special_ids(self) -> list[int]:
        return self.convert_tokens_to_ids(self.all_special_tokens)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return dict(sorted(self._decoder.items()))

    @added_tokens_decoder.setter
    def added_tokens_decoder(self, value: Mapping[int, str | AddedToken]) -> None:
        for index, token in value.items():
            if not isinstance(index, int) or not isinstance(token, str | AddedToken):
                raise ValueError(
                    f"added_tokens_decoder holds {index!r}: {token!r}: ids and str or AddedToken are needed"
                )
            self._put(index, AddedToken.of(token))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        return {token.content: index for index, token in sorted(self._decoder.items())}

    def get_added_vocab(self) -> dict[str, int]:
        """Content to id of every added token, those that the base vocabulary holds too included."""
        return self.added_tokens_encoder if self.FAST else dict(self._encoder)

    def _put(self, index: int, token: AddedToken) -> None:
        self._decoder[index] = token
        self._encoder[token.content] = index
        self._splitters.clear()

    def _splitter(self, which: str = "all", special: bool = True) -> Splitter:
        """``all`` added tokens, or those to find in the ``raw`` or in the ``normalized`` text; ``special`` ones or not."""
        key = f"{which} {special}"
        if key not in self._splitters:
            keep = [
                token
                for token in self._decoder.values()
                if (which == "all" or token.normalized is (which == "normalized")) and (special or not token.special)
            ]
            self._splitters[key] = Splitter(table(self._decoder, keep), self.FAST)
        return self._splitters[key]

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_additional_special_tokens: bool = True
    ) -> int:
        """Set special tokens by name and add those that the vocabulary lacks; returns how many it lacked."""
        added: list[AddedToken] = []
        for name, value in special_tokens_dict.items():
            if name not in self.SPECIAL_TOKENS_ATTRIBUTES:
                raise AssertionError(
                    f"{name} is not a special token: one of {', '.join(self.SPECIAL_TOKENS_ATTRIBUTES)} is"
                )
            if name == "additional_special_tokens":
                if not isinstance(value, list | tuple):
                    raise AssertionError(
                        f"additional_special_tokens is {value!r}: a list of str or AddedToken is needed"
                    )
                tokens = [AddedToken.of(token, special=True, normalized=False) for token in value]
                if not replace_additional_special_tokens:
                    tokens = [token for token in tokens if str(token) not in self.additional_special_tokens]
                    self._additional.extend(tokens)
                elif tokens:
                    self._additional = list(tokens)
                added.extend(tokens)
                continue
            if not isinstance(value, str | AddedToken) and not hasattr(value, "content"):
                raise ValueError(f"{name} is {value!r}: a str or an AddedToken is needed")
            token = AddedToken.of(value, special=True, normalized=False)
            setattr(self, name, token)
            if token not in added:
                added.append(token)
        return self.add_tokens(added, special_tokens=True)

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add a token or several; returns how many the vocabulary lacked."""
        if not new_tokens:
            return 0
        listed = new_tokens if isinstance(new_tokens, list | tuple) else [new_tokens]
        return self._add_fast(listed, special_tokens) if self.FAST else self._add_slow(listed, special_tokens)

    def sanitize_special_tokens(self) -> int:
        return self.add_tokens(self.all_special_tokens_extended, special_tokens=True)

    def _next_id(self) -> int:
        return max([self.vocab_size - 1, *self._decoder]) + 1

    def _add_slow(self, tokens: Sequence[Any], special: bool) -> int:
        count = 0
        size = len(self) if any(str(t) not in self._encoder for t in tokens) else 0
        for given in tokens:
            if not isinstance(given, str | AddedToken) and not hasattr(given, "content"):
                raise TypeError(f"token {given!r} is {type(given).__name__}: a str or an AddedToken is needed")
            if not str(given):
                continue
            if isinstance(given, str):
                if given in self._encoder:
                    continue
                is_special = special or given in self.all_special_tokens
                token = AddedToken(given, special=is_special, normalized=not is_special)
            else:
                token = AddedToken.of(given)
                if special:
                    token.special, token.normalized = True, token.normalized
            if not token.special and token.normalized and getattr(self, "do_lower_case", False):
                token.content = token.content.lower()
            index = self._encoder.get(token.content)
            index = self._base_id(token.content) if index is None else index
            if index is None:
                index = size + count
                count += 1
            if token.special and token.content not in self.all_special_tokens:
                self._additional.append(token)
            self._put(index, token)
        return count

    def _add_fast(self, tokens: Sequence[Any], special: bool) -> int:
        count = 0
        for given in tokens:
            token = AddedToken.of(given, special=special)
            if special:
                token.special = True
            if not token.content or token in self._decoder.values():
                continue
            index = self._base_id(token.content)
            self._put(self._next_id() if index is None else index, token)
            count += 1
        return count
