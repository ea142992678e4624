"""What Flax models return: the records of :mod:`xlm.outputs` under their Flax names, as JAX pytrees.

They pass through ``jit``, ``grad`` and ``vmap``. A field that is ``None`` is no leaf.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import jax

from xlm import outputs


class _Replaceable:
    def replace(self, **changes: Any) -> Self:
        """A copy with other values in some fields."""
        return replace(self, **changes)  # type: ignore[type-var]


@dataclass
class FlaxBaseModelOutput(_Replaceable, outputs.BaseModelOutput):
    """``last_hidden_state`` (b, s, h); ``past_key_values``: the cache that was given, with the new tokens."""

    past_key_values: dict[str, Any] | None = None


@dataclass
class FlaxBaseModelOutputWithPoolingAndCrossAttentions(
    _Replaceable, outputs.BaseModelOutputWithPoolingAndCrossAttentions
):
    """``last_hidden_state`` (b, s, h) and ``pooler_output`` (b, h)."""

    past_key_values: Any = None


@dataclass
class FlaxCausalLMOutputWithCrossAttentions(_Replaceable, outputs.CausalLMOutputWithCrossAttentions):
    """``logits`` (b, s, vocab)."""

    past_key_values: Any = None


@dataclass
class FlaxMaskedLMOutput(_Replaceable, outputs.MaskedLMOutput):
    """``logits`` (b, s, vocab); ``past_key_values`` of causal models that were given a cache."""

    past_key_values: dict[str, Any] | None = None


@dataclass
class FlaxSequenceClassifierOutput(_Replaceable, outputs.SequenceClassifierOutput):
    """``logits`` (b, labels)."""


@dataclass
class FlaxTokenClassifierOutput(_Replaceable, outputs.TokenClassifierOutput):
    """``logits`` (b, s, labels)."""


@dataclass
class FlaxQuestionAnsweringModelOutput(_Replaceable, outputs.QuestionAnsweringModelOutput):
    """``start_logits`` and ``end_logits`` (b, s)."""


@dataclass
class FlaxMultipleChoiceModelOutput(_Replaceable, outputs.MultipleChoiceModelOutput):
    """``logits`` (b, choices); hidden states are flat: (b * choices, s, h)."""


@dataclass
class FlaxXLMForQuestionAnsweringOutput(_Replaceable, outputs.XLMForQuestionAnsweringOutput):
    """Beam-search answers of XLM; fields as in :class:`xlm.outputs.XLMForQuestionAnsweringOutput`."""


@dataclass
class FlaxSampleOutput(_Replaceable, outputs.ModelOutput):
    """``sequences`` (b, length): prompts and what continues them."""

    sequences: Any = None


@dataclass
class FlaxBeamSearchOutput(_Replaceable, outputs.ModelOutput):
    """``sequences`` (b * num_return_sequences, length), best first, and their ``scores``."""

    sequences: Any = None
    scores: Any = None


def _register(cls: type[Any]) -> None:
    names = tuple(f.name for f in fields(cls))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in names)

    def take_apart(output: Any) -> tuple[Any, None]:
        return [(key, getattr(output, name)) for key, name in zip(keys, names, strict=True)], None

    jax.tree_util.register_pytree_with_keys(cls, take_apart, lambda _, values: cls(*values))


for _cls in list(globals().values()):
    if isinstance(_cls, type) and issubclass(_cls, outputs.ModelOutput) and _cls.__module__ == __name__:
        _register(_cls)
