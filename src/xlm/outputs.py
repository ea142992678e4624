"""What models return: ordered records that are dictionaries, tuples and objects at once. Framework-free.

Absent values (``None``) take no part in indexing, iteration and length; attributes of that name still exist.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NoReturn


class ModelOutput(OrderedDict[str, Any]):
    """Base of all outputs: ``output.logits``, ``output["logits"]`` and ``output[0]`` name the same value."""

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        first = next(iter(values), "")
        if isinstance(values.get(first), Iterator):  # (name, value) pairs, as TensorFlow rebuilds dictionaries
            values |= {first: None, **dict(values[first])}
            for name, value in values.items():
                super().__setattr__(name, value)
        for name, value in values.items():
            if value is not None:
                OrderedDict.__setitem__(self, name, value)

    def to_tuple(self) -> tuple[Any, ...]:
        """The values that are not ``None``, in order."""
        return tuple(OrderedDict.values(self))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return OrderedDict.__getitem__(self, key)
        return self.to_tuple()[key]

    def __setattr__(self, name: str, value: Any) -> None:
        if value is not None and name in self:
            OrderedDict.__setitem__(self, name, value)
        super().__setattr__(name, value)

    def __setitem__(self, key: str, value: Any) -> None:
        OrderedDict.__setitem__(self, key, value)
        super().__setattr__(key, value)

    def __iter__(self) -> Iterator[str]:
        return OrderedDict.__iter__(self)

    def _refuse(self, name: str) -> NoReturn:
        raise TypeError(f"{type(self).__name__} has no {name}(): its keys are fixed")

    def __delitem__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("__delitem__")

    def setdefault(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("setdefault")

    def pop(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("pop")

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("update")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, f.name) for f in fields(self))  # type: ignore[arg-type]


# In every class: (b, s, h) hidden states are the embeddings' output and one entry a layer; attentions are
# (b, heads, q, k), one entry a layer; losses are scalars.


@dataclass
class BaseModelOutput(ModelOutput):
    """``last_hidden_state`` (b, s, h)."""

    last_hidden_state: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass
class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """``last_hidden_state`` (b, s, h) and ``pooler_output`` (b, h)."""

    last_hidden_state: Any = None
    pooler_output: Any = None
    hidden_states: tuple[Any, ...] | None = None
    past_key_values: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None


@dataclass
class TFBaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """The same in TensorFlow's documented order: the caches stand before the hidden states."""

    last_hidden_state: Any = None
    pooler_output: Any = None
    past_key_values: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None


@dataclass
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """``logits`` (b, s, vocab); ``past_key_values`` holds keys and values (b, heads, s, d) a layer."""

    loss: Any = None
    logits: Any = None
    past_key_values: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None


@dataclass
class Seq2SeqLMOutput(ModelOutput):
    """``logits`` (b, t, vocab) of the decoder; ``encoder_last_hidden_state`` (b, s, h).

    ``past_key_values`` holds four tensors (b, heads, ., d) a layer: keys and values of the target so far and of the source.
    """

    loss: Any = None
    logits: Any = None
    past_key_values: tuple[Any, ...] | None = None
    decoder_hidden_states: tuple[Any, ...] | None = None
    decoder_attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    encoder_last_hidden_state: Any = None
    encoder_hidden_states: tuple[Any, ...] | None = None
    encoder_attentions: tuple[Any, ...] | None = None


@dataclass
class MaskedLMOutput(ModelOutput):
    """``logits`` (b, s, vocab)."""

    loss: Any = None
    logits: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass
class SequenceClassifierOutput(ModelOutput):
    """``logits`` (b, labels)."""

    loss: Any = None
    logits: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass
class TokenClassifierOutput(ModelOutput):
    """``logits`` (b, s, labels)."""

    loss: Any = None
    logits: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass
class QuestionAnsweringModelOutput(ModelOutput):
    """``start_logits`` and ``end_logits`` (b, s)."""

    loss: Any = None
    start_logits: Any = None
    end_logits: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass
class MultipleChoiceModelOutput(ModelOutput):
    """``logits`` (b, choices); hidden states are flat: (b * choices, s, h)."""

    loss: Any = None
    logits: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass
class XLMForQuestionAnsweringOutput(ModelOutput):
    """Beam-search answers of XLM.

    ``start_top_log_probs``/``start_top_index`` (b, start_n_top); ``end_top_log_probs``/``end_top_index``
    (b, start_n_top * end_n_top), entry ``end_rank * start_n_top + start_rank``; ``cls_logits`` (b,). As in the
    published implementation the two ``log_probs`` hold probabilities.
    """

    loss: Any = None
    start_top_log_probs: Any = None
    start_top_index: Any = None
    end_top_log_probs: Any = None
    end_top_index: Any = None
    cls_logits: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
