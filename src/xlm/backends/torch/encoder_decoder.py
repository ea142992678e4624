"""An encoder that reads a text and a decoder that writes another: translation, and any text-to-text task.

    source ids ─▶ encoder ─▶ states ───────────────┐
                                                   ▼
    target ids ─▶ decoder: causal self-attention ─ cross-attention ─ feed-forward ─▶ language-model head ─▶ next ids

Both sides are this library's models of any family; what makes one a decoder is data in its :class:`EncoderSpec`.
"""

from __future__ import annotations

import logging
import os
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from xlm.backends.torch import losses
from xlm.backends.torch.headed import LMHeadModel, flat
from xlm.backends.torch.models import MODELS
from xlm.backends.torch.pretrained import PreTrainedModel
from xlm.backends.torch.seq2seq import TranslationMixin
from xlm.backends.torch.trunk import Call, TrunkModel
from xlm.batches.batch import Batch
from xlm.errors import InputError
from xlm.families.auto import AutoConfig
from xlm.families.encoder_decoder import EncoderDecoderConfig
from xlm.families.registry import family_of
from xlm.outputs import BaseModelOutput, Seq2SeqLMOutput

_TABLES = ("word", "position", "language", "token_type")
_log = logging.getLogger("xlm")


class EncoderDecoderModel(PreTrainedModel, TranslationMixin):
    """An encoder-decoder of two models; see :class:`xlm.EncoderDecoderConfig`.

    Attributes:
        encoder: a family's model without a head.
        decoder: a family's language model, causal and with cross-attention.

    Raises:
        ConfigError: the config is none of an encoder-decoder.
    """

    config_class = EncoderDecoderConfig
    base_model_prefix: ClassVar[str] = "encoder_decoder"
    config: EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig, encoder: Any = None, decoder: Any = None) -> None:
        super().__init__(config)
        self.encoder: TrunkModel = _trunk(config.encoder) if encoder is None else encoder
        self.decoder: LMHeadModel = _writer(config.decoder)(config.decoder) if decoder is None else decoder
        # The parts read the configs that are saved, so that what is set later reaches both.
        self.encoder.config = config.encoder
        self.decoder.config = self.decoder.roberta.config = config.decoder
        self.tie_weights()

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: str | os.PathLike[str],
        decoder_pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        share_embeddings: bool = True,
        **kwargs: Any,
    ) -> Self:
        """An encoder-decoder whose sides begin as pretrained models; the cross-attention is new.

        Args:
            encoder_pretrained_model_name_or_path: a folder or hub name, with a language-model head or without.
            decoder_pretrained_model_name_or_path: of the decoder; ``None``: the encoder's.
            share_embeddings: make the tables of both one, the encoder's.
            kwargs: of :class:`xlm.EncoderDecoderConfig`; ``encoder_*`` and ``decoder_*`` that it does not know are fields
                of that side's config.

        Raises:
            CheckpointError: no such checkpoint, or one that is damaged.
            ConfigError: the sides do not fit together.
        """
        paths = {"encoder": encoder_pretrained_model_name_or_path}
        paths["decoder"] = decoder_pretrained_model_name_or_path or paths["encoder"]
        own: dict[str, dict[str, Any]] = {"encoder": {}, "decoder": {}}
        for key in [k for k in kwargs if k not in EncoderDecoderConfig.fields()]:
            side, _, field = key.partition("_")
            if side in own and field:
                own[side][field] = kwargs.pop(key)
        sides = {side: AutoConfig.from_pretrained(path, **own[side]) for side, path in paths.items()}
        config = EncoderDecoderConfig(**sides, share_embeddings=share_embeddings, **kwargs)
        with _silent():
            trunk = _trunk_class(config.encoder).from_pretrained(
                paths["encoder"], config=config.encoder, **_without_pooler(config.encoder)
            )
            writer = _writer(config.decoder).from_pretrained(paths["decoder"], config=config.decoder)
        return cls(config, trunk, writer).eval()

    # -- computing ----------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        langs: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_langs: Tensor | None = None,
        labels: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Scores of the next target tokens, and with ``labels`` their loss.

        Args:
            input_ids: (b, s) source ids; or ``inputs_embeds`` (b, s, h), or ``encoder_outputs``, states (b, s, h) first.
            attention_mask: (b, s), 1 = a token. ``None``: all, for families that infer no padding; else what is no padding.
            langs, decoder_langs: (b, s) and (b, t) language ids, for families with language embeddings.
            decoder_input_ids: (b, t) target ids from the start token on; or ``decoder_inputs_embeds`` (b, t, h).
                ``None`` with ``labels``: the labels shifted right behind ``config.decoder_start_token_id``.
            labels: (b, t), ``-100`` where nothing is asked; compared in place with the logits (b, t, vocab).
            past_key_values: of an earlier call with ``use_cache``; the target's ids are then the new ones alone.

        Returns:
            :class:`xlm.outputs.Seq2SeqLMOutput`, or a tuple with ``return_dict=False``.

        Raises:
            InputError: no target, ids outside their tables, masks or languages of another shape.
        """
        options: dict[str, Any] = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        attention_mask = self._source_mask(input_ids, attention_mask)
        if encoder_outputs is None:
            r = self.encoder.run(Call(input_ids, attention_mask, inputs_embeds=inputs_embeds, langs=langs, **options))
            encoder_outputs = BaseModelOutput(r.states, r.hidden_states, r.attentions)
        elif not isinstance(encoder_outputs, dict):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        states = encoder_outputs[0]
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.shifted(labels)
            if decoder_attention_mask is None:
                decoder_attention_mask = (decoder_input_ids != self.config.pad_token_id).long()
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            raise InputError("give decoder_input_ids, decoder_inputs_embeds or labels: there is no target")
        call = Call(
            decoder_input_ids,
            decoder_attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            langs=decoder_langs,
            encoder_hidden_states=states,
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **options,
        )
        d = self.decoder.roberta.run(call)
        logits = self.lm_logits(d.states)
        loss = None if labels is None else losses.cross_entropy(logits, labels)
        rest = (d.caches, d.hidden_states, d.attentions, d.cross_attentions)
        read = (states, encoder_outputs.get("hidden_states"), encoder_outputs.get("attentions"))
        if not (self.config.use_return_dict if return_dict is None else return_dict):
            return flat(loss, logits, *rest, *read)
        return Seq2SeqLMOutput(loss, logits, *rest, *read)

    def _source_mask(self, ids: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """The mask of source tokens that both sides need, inferred where the encoder's family infers it."""
        if mask is None and ids is not None and self.encoder.spec.lengths_make_mask:
            return (ids != self.encoder.spec.pad_id).long()
        return mask

    def shifted(self, labels: Tensor) -> Tensor:
        """Decoder inputs (b, t) of labels (b, t): the start token, then the labels without the last."""
        start = self.config.decoder_start_token_id
        if start is None:
            raise InputError("labels: the config has no decoder_start_token_id to begin targets with")
        ids = torch.cat([labels.new_full((labels.shape[0], 1), start), labels[:, :-1]], dim=1)
        return ids.masked_fill(ids == losses.IGNORED, self.config.pad_token_id or 0)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """:meth:`shifted` under the name that collators of other libraries call."""
        return self.shifted(labels)

    def states(self, batch: Batch, rows: Tensor | None = None, causal: bool | None = None) -> Tensor:
        """The encoder's last hidden states of a batch: see ``TrunkModel.states``."""
        return self.encoder.states(batch, rows, causal)

    def encode_packed(self, batch: Batch) -> Tensor:
        """Source states (tokens, hidden) of a packed batch."""
        return self.encoder.states(batch)

    def decode_packed(self, batch: Batch, source_states: Tensor, source: Batch, rows: Tensor | None = None) -> Tensor:
        """Target states (tokens, hidden) before the vocabulary projection, without padding on either side.

        Args:
            batch: packed decoder inputs, each beginning with its start token.
            source_states: (source tokens, hidden) of :meth:`encode_packed`.
            source: the packed batch they are of; its i-th sequence is what the i-th target reads.
            rows: indices (n,) of the states wanted; ``None``: all.

        Raises:
            InputError: padded batches, not as many sources as targets, or an empty sequence.
        """
        return self.decoder.roberta.states(batch, rows, source=(source_states, source))

    @property
    def lm_head(self) -> Any:
        """The decoder's head."""
        return self.decoder.lm_head

    def lm_logits(self, rows: Tensor) -> Tensor:
        """The head on chosen states: (..., hidden) -> (..., vocab)."""
        return self.decoder.lm_logits(rows)

    def can_generate(self) -> bool:
        return True

    # -- parts --------------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, PreTrainedModel]:
        return {"encoder.": self.encoder, "decoder.": self.decoder}

    def get_encoder(self) -> TrunkModel:
        """The encoder."""
        return self.encoder

    def get_decoder(self) -> LMHeadModel:
        """The decoder."""
        return self.decoder

    @property
    def encoder_host(self) -> Any:
        return self.encoder

    def _init_module(self, name: str, module: nn.Module) -> None:
        for prefix, part in self.parts().items():
            if name.startswith(prefix):
                part._init_module(name.removeprefix(prefix), module)

    def shared_names(self) -> dict[str, str]:
        """The decoder's names of shared tables -> the encoder's, under which they are saved."""
        if not self.config.share_embeddings:
            return {}
        return {
            f"decoder.roberta.embeddings.{table}_embeddings.weight": f"encoder.embeddings.{table}_embeddings.weight"
            for table in _TABLES
            if hasattr(self.encoder.embeddings, f"{table}_embeddings")
        }

    def copies(self) -> dict[str, str]:
        own = {f"decoder.{one}": f"decoder.{two}" for one, two in self.decoder.copies().items()}
        return self.shared_names() | own

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        if self.config.share_embeddings:
            ours, theirs = self.encoder.embeddings, self.decoder.roberta.embeddings
            for name in [f"{table}_embeddings" for table in _TABLES]:
                if hasattr(ours, name):
                    getattr(theirs, name).weight = getattr(ours, name).weight
        self.decoder.tie_weights()

    def unshare_embeddings(self) -> None:
        """Give the decoder tables of its own, equal to the encoder's: ``transformers`` reads files of such models only."""
        self.config.share_embeddings = False
        for name in [f"{table}_embeddings" for table in _TABLES]:
            if hasattr(self.decoder.roberta.embeddings, name):
                table = getattr(self.decoder.roberta.embeddings, name)
                table.weight = nn.Parameter(table.weight.detach().clone(), table.weight.requires_grad)
        self.decoder.tie_weights()

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the encoder's word table; a shared decoder's follows."""
        for part in (self.encoder, self.decoder) if self.config.share_embeddings else (self.encoder,):
            part.set_input_embeddings(value)
        self.spec = self.decoder.spec
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.decoder.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = False
    ) -> nn.Embedding:
        """Give both word tables and the head another number of rows; see ``PreTrainedModel.resize_token_embeddings``."""
        for part in (self.decoder, self.encoder):
            table = part.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.spec = self.decoder.spec
        self.tie_weights()
        return table

    def prune_heads(self, heads_to_prune: dict[int, list[int]]) -> None:
        """Heads are pruned on one side: ``model.encoder.prune_heads`` or ``model.decoder.prune_heads``."""
        raise InputError("prune_heads: call it on model.encoder or model.decoder")

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Recompute layers of both sides in the backward pass; see ``PreTrainedModel.gradient_checkpointing_enable``."""
        for part in self.parts().values():
            part.gradient_checkpointing_enable(*args, **kwargs)

    def gradient_checkpointing_disable(self) -> None:
        for part in self.parts().values():
            part.gradient_checkpointing_disable()


def _trunk_class(config: Any) -> Any:
    return MODELS[f"{family_of(config).class_prefix}Model"]


def _without_pooler(config: Any) -> dict[str, Any]:
    return {"add_pooling_layer": False} if family_of(config).pooler else {}


def _trunk(config: Any) -> Any:
    return _trunk_class(config)(config, **_without_pooler(config))


def _writer(config: Any) -> Any:
    family = family_of(config)
    return MODELS[family.class_prefix + family.language_model]


class _silent:
    """New cross-attention is what :meth:`EncoderDecoderModel.from_encoder_decoder_pretrained` is for: no warning of it."""

    def __enter__(self) -> None:
        _log.addFilter(self.heard)

    def __exit__(self, *error: object) -> None:
        _log.removeFilter(self.heard)

    @staticmethod
    def heard(record: logging.LogRecord) -> bool:
        report = record.args[0] if isinstance(record.args, tuple) and record.args else None
        new = getattr(report, "initialised", None)
        return not new or not all(".crossattention." in name or name.startswith("lm_head.") for name in new)
