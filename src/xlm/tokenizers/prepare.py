"""Rows from ids: what the two references return, and the calls that start from ids (``prepare_for_model``, ``pad``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from xlm.errors import InputError
from xlm.tokenizers.encoding import BatchEncoding, Encoding
from xlm.tokenizers.options import Options, TruncationStrategy, resolve
from xlm.tokenizers.rows import Template, pad_rows, padded_length
from xlm.tokenizers.special import SpecialTokens
from xlm.tokenizers.truncate import Plan, slow_plan

Source = Callable[[], list[Encoding]] | None
Sides = list[tuple[list[int], list[int] | None]]


class Preparation(SpecialTokens):
    """Builds rows. Mixed into :class:`xlm.tokenizers.base.Tokenizer`."""

    if TYPE_CHECKING:
        TEMPLATE: Template
        model_input_names: list[str]
        model_max_length: Any
        padding_side: str
        truncation_side: str

        def _special_ids(self) -> dict[str, int]: ...
        def _row_specials(self) -> dict[str, tuple[str, int]]: ...
        def _plan(self, first: int, second: int | None, options: Options) -> Plan: ...
        def _options(self, given: dict[str, Any]) -> tuple[Options, dict[str, Any]]: ...
        def _fill(self) -> dict[str, Any]: ...
        def _finish(self, data: dict[str, list[Any]], options: Options) -> None: ...
        def _warn_length(self, length: int, options: Options) -> None: ...

    # ---- parts of a row --------------------------------------------------------------------------------------------
    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Ids with the special tokens of the model around them."""
        return self.TEMPLATE.assemble(self._special_ids(), token_ids_0, token_ids_1, True)

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        return self.TEMPLATE.types(len(token_ids_0), None if token_ids_1 is None else len(token_ids_1), True)

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for special tokens, 0 for others."""
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise InputError("token_ids_1 was given with already_has_special_tokens: such a row is one list")
            special = set(self.all_special_ids)
            return [int(index in special) for index in token_ids_0]
        if self.FAST:
            raise AssertionError(
                "this class builds masks from finished rows only: pass already_has_special_tokens=True"
            )
        return self.TEMPLATE.special_mask(len(token_ids_0), None if token_ids_1 is None else len(token_ids_1), True)

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: Any = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """``(ids, pair_ids, overflowing)`` after removing that many tokens."""
        _, strategy, _ = resolve(False, truncation_strategy, 1, None, 1, {})
        second = None if pair_ids is None else len(pair_ids)
        plan = slow_plan(len(ids), second, num_tokens_to_remove, strategy, stride, self.truncation_side)
        source = (ids, pair_ids or [])[plan.side]
        rest = None if pair_ids is None or plan.second is None else pair_ids[slice(*plan.second)]
        return ids[slice(*plan.first)], rest, source[slice(*plan.overflow)]

    # ---- rows as the reference's Python classes return them -----------------------------------------------------------
    def _slow_row(self, first: list[int], second: list[int] | None, plan: Plan, options: Options) -> dict[str, Any]:
        if options.asked_token_type_ids and not options.add_special_tokens:
            raise InputError("return_token_type_ids needs add_special_tokens: without them token types are not defined")
        longest = options.truncation is TruncationStrategy.LONGEST_FIRST
        if options.overflowing_tokens and longest and second is not None:
            raise InputError(
                "return_overflowing_tokens is not possible for pairs with 'longest_first': use 'only_first'"
            )
        special = options.add_special_tokens
        row: dict[str, Any] = {}
        if options.overflowing_tokens:
            total = len(first) + len(second or []) + (self.TEMPLATE.added(second is not None) if special else 0)
            row["overflowing_tokens"] = (first, second or [])[plan.side][slice(*plan.overflow)]
            row["num_truncated_tokens"] = total - (options.max_length or total)
        a = first[slice(*plan.first)]
        b = None if second is None or plan.second is None else second[slice(*plan.second)]
        size = None if b is None else len(b)
        row["input_ids"] = self.TEMPLATE.assemble(self._special_ids(), a, b, special)
        if options.token_type_ids:
            row["token_type_ids"] = self.TEMPLATE.types(len(a), size, special)
        if options.special_tokens_mask:
            row["special_tokens_mask"] = self.TEMPLATE.special_mask(len(a), size, special)
        self._warn_length(len(row["input_ids"]), options)
        return row

    def _slow_rows(
        self, sides: Sides, plans: list[Plan], options: Options, single: bool, source: Source
    ) -> BatchEncoding:
        rows = [self._slow_row(a, b, plan, options) for (a, b), plan in zip(sides, plans, strict=True)]
        data: dict[str, Any] = {key: [row[key] for row in rows] for key in (rows[0] if rows else {"input_ids": []})}
        if options.length and not single:
            data["length"] = [len(row) for row in data["input_ids"]]
        if options.attention_mask:
            data["attention_mask"] = [[1] * len(row) for row in data["input_ids"]]
        self._finish(data, options)
        if options.offsets_mapping and source is not None:
            made = source()
            data["offset_mapping"] = [row.offsets for row in made]
        if options.length and single:
            data["length"] = [len(data["input_ids"][0])]
        if single and options.return_tensors is None:
            data = {key: value[0] for key, value in data.items()}
        return BatchEncoding(data, source, options.return_tensors, fast=False)

    # ---- rows as the reference's compiled classes return them ---------------------------------------------------------
    def _fast_rows(
        self, sides: Sides, plans: list[Plan], options: Options, single: bool, source: Source
    ) -> BatchEncoding:
        special, template = options.add_special_tokens, self.TEMPLATE
        special_ids = {name: index for name, (_, index) in self._row_specials().items()}
        data: dict[str, Any] = {"input_ids": []}
        ids, types, masks, samples = data["input_ids"], [], [], []
        for number, ((first, second), plan) in enumerate(zip(sides, plans, strict=True)):
            windows = [(plan.first, plan.second), *(plan.windows if options.overflowing_tokens else [])]
            for one, two in windows:
                a = first[slice(*one)]
                b = None if second is None or two is None else second[slice(*two)]
                size = None if b is None else len(b)
                ids.append(template.assemble(special_ids, a, b, special))
                if options.token_type_ids:
                    types.append(template.types(len(a), size, special))
                if options.special_tokens_mask:
                    masks.append(template.special_mask(len(a), size, special))
                samples.append(number)
        if options.token_type_ids:
            data["token_type_ids"] = types
        if options.attention_mask:
            data["attention_mask"] = [[1] * len(row) for row in ids]
        if options.special_tokens_mask:
            data["special_tokens_mask"] = masks
        self._finish(data, options)
        if options.offsets_mapping and source is not None:
            data["offset_mapping"] = [row.offsets for row in source()]
        if options.length:
            data["length"] = [len(row) for row in data["input_ids"]]
        if options.overflowing_tokens:
            data["overflow_to_sample_mapping"] = samples
        for row in data["input_ids"]:
            self._warn_length(len(row), options)
        if single and options.return_tensors is None and not options.overflowing_tokens:
            data = {key: value[0] if value and isinstance(value[0], list) else value for key, value in data.items()}
        return BatchEncoding(data, source, options.return_tensors)

    # ---- from ids ----------------------------------------------------------------------------------------------------
    def prepare_for_model(
        self, ids: list[int], pair_ids: list[int] | None = None, prepend_batch_axis: bool = False, **options: Any
    ) -> BatchEncoding:
        """A row from ids that have no special tokens yet."""
        settings, _ = self._options(options)
        added = self.TEMPLATE.added(pair_ids is not None) if settings.add_special_tokens else 0
        second = None if pair_ids is None else len(pair_ids)
        limit = settings.max_length if settings.truncation is not TruncationStrategy.DO_NOT_TRUNCATE else None
        remove = len(ids) + (second or 0) + added - limit if limit else 0
        plan = slow_plan(len(ids), second, remove, settings.truncation, settings.stride, self.truncation_side)
        row = self._slow_row(list(ids), None if pair_ids is None else list(pair_ids), plan, settings)
        if settings.attention_mask:
            row["attention_mask"] = [1] * len(row["input_ids"])
        batch = {key: [value] for key, value in row.items()}
        self._finish(batch, settings)
        row = {key: value[0] for key, value in batch.items()}
        if settings.length:
            row["length"] = len(row["input_ids"])
        return BatchEncoding(row, None, settings.return_tensors, prepend_batch_axis, fast=False)

    def pad(
        self,
        encoded_inputs: Any,
        padding: Any = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad one encoding, a mapping of lists of rows, or a list of encodings. Tensors are taken and given back."""
        inputs: Any = _columns(encoded_inputs)
        name = self.model_input_names[0]
        if name not in inputs:
            raise InputError(f"encoded_inputs has {', '.join(map(str, inputs))}, but not {name}")
        data: dict[str, Any] = {key: _plain(inputs[key]) for key in inputs}
        first = _first(inputs[name])
        if return_tensors is None and first is not None and hasattr(first, "shape"):
            kind = type(first).__module__.partition(".")[0]
            return_tensors = {"torch": "pt", "numpy": "np", "tensorflow": "tf", "jax": "jax", "jaxlib": "jax"}.get(kind)
        required = data[name]
        if required is None or len(required) == 0:
            if return_attention_mask:
                data["attention_mask"] = []
            return BatchEncoding(data, fast=False)
        single = not isinstance(required[0], list | tuple)
        if single:
            data = {key: [value] for key, value in data.items()}
        elif any(len(value) != len(required) for value in data.values()):
            sizes = {key: len(value) for key, value in data.items()}
            raise AssertionError(f"rows per key differ: {sizes}")
        strategy, _, length = resolve(padding, None, max_length, None, self.model_max_length, {})
        wants_mask = (
            "attention_mask" in self.model_input_names if return_attention_mask is None else return_attention_mask
        )
        if wants_mask and "attention_mask" not in data:
            data["attention_mask"] = [[1] * len(row) for row in data[name]]
        options = Options(padding=strategy, max_length=length, pad_to_multiple_of=pad_to_multiple_of)
        fill = {key: value for key, value in self._fill().items() if key != "offset_mapping"}
        if not wants_mask:
            fill.pop("attention_mask")
        fill[name] = fill.pop("input_ids")
        data = {key: list(value) if isinstance(value, list | tuple) else value for key, value in data.items()}
        pad_rows(data, fill, padded_length(data[name], options), self.padding_side)
        if single:
            data = {key: value[0] for key, value in data.items()}
        return BatchEncoding(data, None, return_tensors, fast=False)


def _columns(given: Any) -> Any:
    if isinstance(given, list | tuple) and given and isinstance(given[0], Mapping):
        return {key: [example[key] for example in given] for key in given[0]}
    return given


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _first(value: Any) -> Any:
    """The first row if it is an array, otherwise the first number."""
    if hasattr(value, "shape"):
        return value
    for item in value or ():
        if hasattr(item, "shape"):
            return item
        if isinstance(item, list | tuple):
            return _first(item) if item else None
        return item
    return None
