"""The calling convention of XLM-RoBERTa and XLM-RoBERTa-XL in Flax: one for all heads, arguments as documented."""

from __future__ import annotations

from typing import Any

from xlm.backends.flax.generation import GenerationMixin
from xlm.backends.flax.pretrained import FlaxPreTrainedModel


class RobertaModel(FlaxPreTrainedModel):
    """Abstract: the documented ``__call__``."""

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
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
    ) -> Any:
        """The answer of the class to token ids (b, s), for multiple choice (b, choices, s).

        Args:
            input_ids: integers; or ``inputs_embeds`` (b, s, h).
            attention_mask: (b, k) or (b, q, k), 1 = visible; ``None``: everything is.
            token_type_ids, position_ids: (b, s).
            head_mask: (heads,) or (layers, heads), factors of attention weights.
            encoder_hidden_states, encoder_attention_mask: (b, k, h) and its mask, for decoders with cross-attention.
            params: nested or stacked parameters instead of the model's own.
            dropout_rng: a key, needed with ``train=True``, which switches dropout on.
            past_key_values: the cache of ``init_cache`` or of the call before, of decoders; the mask covers the new
                tokens or all places of the cache.
            segment_ids: (b, s) of packed rows: sequences count from 1, 0 is padding. Not for heads that read one token.
            labels, start_positions, end_positions: what the head is compared with; the answer then has a ``loss``.

        Returns:
            the class's output of :mod:`xlm.backends.flax.outputs`, or a tuple with ``return_dict=False``.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "head_mask": head_mask,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "segment_ids": segment_ids,
            "labels": labels,
            "start_positions": start_positions,
            "end_positions": end_positions,
        }
        return self.call(params, given, dropout_rng, train, return_dict)


class RobertaCausalLM(GenerationMixin, RobertaModel):
    """Abstract: a left-to-right language model."""
