"""The calling convention of XLM in Flax: one for all heads, XLM's argument order and then Flax's."""

from __future__ import annotations

from typing import Any

from xlm.backends.flax.generation import GenerationMixin
from xlm.backends.flax.pretrained import FlaxPreTrainedModel


class XLMModel(FlaxPreTrainedModel):
    """Abstract: the documented ``__call__``."""

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        langs: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        lengths: Any = None,
        head_mask: Any = None,
        params: Any = None,
        dropout_rng: Any = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        past_key_values: Any = None,
        *,
        inputs_embeds: Any = None,
        segment_ids: Any = None,
        labels: Any = None,
        start_positions: Any = None,
        end_positions: Any = None,
        is_impossible: Any = None,
        cls_index: Any = None,
        p_mask: Any = None,
    ) -> Any:
        """The answer of the class to token ids (b, s), for multiple choice (b, choices, s).

        Args:
            input_ids: integers; or ``inputs_embeds`` (b, s, h).
            attention_mask: (b, s), 1 = a token; padding's states are zero.
            langs: (b, s) language ids; ``None`` adds no language.
            token_type_ids: (b, s), looked up in the word table; ``None`` adds nothing.
            position_ids: (b, s).
            lengths: (b,) tokens of each sequence, used where there is no mask.
            head_mask: (heads,) or (layers, heads), factors of attention weights.
            params: nested or stacked parameters instead of the model's own.
            dropout_rng: a key, needed with ``train=True``, which switches dropout on.
            past_key_values: the cache of ``init_cache`` or of the call before, of models with ``causal=True``; give the
                new tokens only.
            segment_ids: (b, s) of packed rows: sequences count from 1, 0 is padding. Not for heads that read one token.
            labels, start_positions, end_positions: what the head is compared with; the answer then has a ``loss``.
            is_impossible, cls_index, p_mask: (b,), (b,), (b, s), of beam-searched answers; see
                :class:`xlm.XLMForQuestionAnswering`.

        Returns:
            the class's output of :mod:`xlm.backends.flax.outputs`, or a tuple with ``return_dict=False``.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "langs": langs,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "lengths": lengths,
            "head_mask": head_mask,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "segment_ids": segment_ids,
            "labels": labels,
            "start_positions": start_positions,
            "end_positions": end_positions,
            "is_impossible": is_impossible,
            "cls_index": cls_index,
            "p_mask": p_mask,
        }
        return self.call(params, given, dropout_rng, train, return_dict)


class XLMLMHeadModel(GenerationMixin, XLMModel):
    """Abstract: a language model that fills a mask token at the end, or with ``causal=True`` looks left only."""
