"""The model under every head: embeddings, encoder and pooler, and the one forward that everything runs.

The documented classes only name their arguments; what they mean is decided here, once, from the spec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xlm.backends.torch.crossing import Crossing, Source
from xlm.backends.torch.embeddings import Embeddings, check_ids
from xlm.backends.torch.encoder import Encoder, Trace
from xlm.backends.torch.heads import Pooler
from xlm.backends.torch.layout import Padded, Ragged, check_mask, cross_attention_bias, self_attention_bias
from xlm.backends.torch.ops import PLAIN
from xlm.backends.torch.pretrained import PreTrainedModel
from xlm.backends.torch.tracing import in_graph
from xlm.backends.torch.transfer import host_tensor, upload
from xlm.batches.batch import Batch, positions_after_padding, positions_after_padding_packed
from xlm.errors import InputError
from xlm.families.config import PretrainedConfig


@dataclass
class Call:
    """The arguments of one documented forward, of whichever family; absent ones are ``None``."""

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None
    head_mask: Tensor | None = None
    inputs_embeds: Tensor | None = None
    langs: Tensor | None = None
    lengths: Tensor | None = None
    cache: dict[Any, Any] | None = None
    encoder_hidden_states: Tensor | None = None
    encoder_attention_mask: Tensor | None = None
    past_key_values: Any = None
    use_cache: bool | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    return_dict: bool | None = None


@dataclass
class Result:
    """States of one forward as (b, s, h), and its trace in the shapes of the documentation."""

    states: Tensor
    trace: Trace
    caches: tuple[Any, ...] | None
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
    cross_attentions: tuple[Tensor, ...] | None


class TrunkModel(PreTrainedModel):
    """Abstract base of ``XLMModel``, ``XLMRobertaModel`` and ``XLMRobertaXLModel``."""

    def __init__(self, config: PretrainedConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(self.spec, PLAIN)
        if self.spec.sinusoidal:  # a formula, not something to learn
            self.embeddings.position_embeddings.weight.requires_grad_(False)
        self.encoder = Encoder(self.spec, PLAIN)
        self.pooler = Pooler(self.spec.hidden_size) if add_pooling_layer and self.family.pooler else None
        self.post_init()

    def states(
        self,
        batch: Batch,
        rows: Tensor | None = None,
        causal: bool | None = None,
        source: tuple[Tensor, Batch] | None = None,
    ) -> Tensor:
        """Last hidden states (tokens, hidden) of a batch, padded (rows b*s) or packed; with ``rows`` (n,) only those.

        ``causal`` makes a packed batch's tokens see the past only, or both sides; ``None``: as the model is made. A packed
        batch of a decoder reads with cross-attention a ``source``: states (tokens, hidden) and the packed batch they are of.
        """
        if source is not None:
            return self._decoded(batch, rows, *source)
        if not batch.is_packed:
            call = Call(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                token_type_ids=batch.token_type_ids,
                position_ids=batch.position_ids,
                langs=batch.languages,
            )
            states = self.run(call).states.reshape(-1, self.spec.hidden_size)
            return states if rows is None else states.index_select(0, rows)
        assert batch.lengths is not None
        made_so = self.spec.is_decoder or self.spec.causal_only
        layout = Ragged.of(batch.lengths, made_so if causal is None else causal)
        return self.encoder(self.embed(batch), layout, rows=rows)[0]

    def _decoded(self, batch: Batch, rows: Tensor | None, states_SH: Tensor, of: Batch) -> Tensor:
        if batch.lengths is None or of.lengths is None:
            raise InputError("source: packed batches are needed on both sides; give padded ones to the model's forward")
        if not self.spec.cross_attention:
            raise InputError(
                "source: the model has no cross-attention; set is_decoder=True and add_cross_attention=True"
            )
        if tuple(states_SH.shape) != (of.tokens, self.spec.hidden_size):
            raise InputError(
                f"source states of shape {tuple(states_SH.shape)}: must be {(of.tokens, self.spec.hidden_size)}"
            )
        crossing = Crossing.of(batch.lengths, of.lengths, states_SH.device)
        layout = Ragged.of(batch.lengths, causal=True)
        states = self.encoder(self.embed(batch), layout, source=Source(states_SH, crossing=crossing))[0]
        return states if rows is None else states.index_select(0, rows)

    def step(
        self, ids: Tensor, languages: Tensor | None, past: int, source: Source, caches: Any
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """States (b * new, hidden) of the next tokens (b, new) of targets without padding, and the caches grown by them.

        What a search calls again and again: the ids are the model's own, so nothing is checked. ``caches`` are the four
        tensors a layer of the step before, ``None`` at first; the last two, of the source, may be shared by several rows.
        """
        batch, new = ids.shape
        positions = self._positions(Call(ids), batch, new, past).reshape(-1)
        flat = None if languages is None else languages[:, None].expand(batch, new).reshape(-1)
        words = self.embeddings.word_embeddings(ids.reshape(-1))
        x = self.embeddings(words, positions, None, flat, None)
        bias = self_attention_bias(self.spec, None, batch, new, past, x.dtype, x.device) if new > 1 else None
        x, trace = self.encoder(x, Padded(batch, new, bias, None, past), source=source, caches=caches, keep=True)
        return x, trace.caches

    def embed(self, batch: Batch) -> Tensor:
        """The first states (tokens, hidden) of a packed batch.

        One on the host is checked there and goes to the model's GPU without a wait; one on the GPU is read back.
        """
        check_ids("input_ids", batch.ids, self.spec.vocab_size, "the vocabulary")
        positions = self._packed_positions(batch) if batch.position_ids is None else batch.position_ids
        ours = batch.position_ids is None and self._fit(max(batch.lengths or (), default=0))
        self._check_extra(None if ours else positions, batch.token_type_ids, batch.languages)
        device = self.device
        ids, places, types, languages = (
            None if rows is None else upload(rows, device)
            for rows in (batch.ids, positions, batch.token_type_ids, batch.languages)
        )
        assert places is not None
        return self.embeddings(self.embeddings.word_embeddings(ids), places, types, languages, None)

    def _packed_positions(self, batch: Batch) -> Tensor:
        assert batch.lengths is not None
        device = batch.ids.device
        if len(batch.lengths) == 1:
            starts = torch.zeros_like(batch.ids, dtype=torch.long)
        else:
            lengths = upload(host_tensor(batch.lengths), device)
            # The size is known: else the host would wait for the GPU to add it up.
            starts = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths, output_size=batch.tokens)
        if self.spec.positions_skip_padding:
            return positions_after_padding_packed(torch, batch.ids, starts, self.spec.pad_id)
        return torch.arange(batch.ids.shape[0], device=device) - starts

    def run(self, call: Call) -> Result:
        """One forward over a padded batch.

        Raises:
            InputError: both or neither of ids and embeddings, ids outside their tables, more tokens than positions,
                masks of a wrong shape, arguments that contradict each other; with ``config.check_finite`` embeddings with NaN
                or infinities, which else spoil their own row alone.
        """
        spec, config = self.spec, self.config
        ids, embeds = call.input_ids, call.inputs_embeds
        if (ids is None) == (embeds is None):
            raise InputError("give either input_ids or inputs_embeds" + (", not both" if ids is not None else ""))
        full = ids if ids is not None else embeds
        assert full is not None
        if full.ndim != (2 if embeds is None else 3):
            what = "input_ids" if embeds is None else "inputs_embeds"
            raise InputError(
                f"{what} of shape {tuple(full.shape)}: must be (batch, sequence{', hidden' * (embeds is not None)})"
            )
        if ids is not None:
            check_ids("input_ids", ids, spec.vocab_size, "the vocabulary")
        batch, total = full.shape[0], full.shape[1]
        weights = config.output_attentions if call.output_attentions is None else call.output_attentions
        hidden = config.output_hidden_states if call.output_hidden_states is None else call.output_hidden_states
        past, caches, keep = self._past(call, total)

        mask = call.attention_mask
        check_mask("attention_mask", mask)
        check_mask("encoder_attention_mask", call.encoder_attention_mask)
        if spec.lengths_make_mask and mask is None:
            mask = self._mask_of_lengths(call, batch, total)
        elif spec.lengths_make_mask and mask is not None and tuple(mask.shape) != (batch, total):
            raise InputError(f"attention_mask of shape {tuple(mask.shape)}: must be {(batch, total)} like the input")
        # With a cache XLM takes the whole sequence again and computes the new tokens; the others take new tokens only.
        whole = call.cache is not None
        new = total - past if whole else total
        words = embeds if ids is None else self.embeddings.word_embeddings(ids[:, total - new :])
        assert words is not None
        if embeds is not None:
            words = embeds[:, total - new :]
            if words.shape[-1] != spec.hidden_size:
                raise InputError(f"inputs_embeds of width {words.shape[-1]}: must be {spec.hidden_size}")
            if getattr(config, "check_finite", False) and not torch.compiler.is_compiling():
                _need_finite(embeds)
        positions = self._positions(call, batch, total, 0 if whole else past)
        types = self._rows("token_type_ids", call.token_type_ids, batch, total)
        languages = self._rows("langs", call.langs, batch, total)
        counted = call.position_ids is None and spec.position_kind == "absolute" and not torch.compiler.is_compiling()
        if counted and total > spec.max_tokens:
            raise InputError(
                f"{total} tokens: the model has positions for {spec.max_tokens} "
                f"(max_position_embeddings={spec.max_positions})"
            )
        ours = call.position_ids is None and self._fit(total if whole else past + total)
        self._check_extra(None if ours else positions, types, languages)
        positions, types, languages = (
            None if t is None else t[:, total - new :].reshape(-1) for t in (positions, types, languages)
        )
        row_mask = None
        if spec.zero_padding and mask is not None:
            row_mask = mask[:, total - new :].reshape(-1, 1)
        assert positions is not None
        x = self.embeddings(words.reshape(batch * new, spec.hidden_size), positions, types, languages, row_mask)
        bias = self_attention_bias(spec, mask, batch, new, past, x.dtype, x.device)
        layout = Padded(batch, new, bias, row_mask, past)
        x, trace = self.encoder(
            x,
            layout,
            head_mask=self._head_mask(call.head_mask, x.dtype),
            source=self._source(call, batch, new),
            caches=caches,
            keep=keep,
            hidden=bool(hidden),
            weights=bool(weights),
        )
        kept = self._keep(call, trace, past + new if whole else 0) if keep else None
        shape = (batch, new, spec.hidden_size)
        return Result(
            states=x.view(shape),
            trace=trace,
            caches=kept,
            hidden_states=tuple(h.view(shape) for h in trace.hidden_states) if hidden else None,
            attentions=tuple(trace.attentions) if weights else None,
            cross_attentions=tuple(trace.cross_attentions) if weights and spec.cross_attention else None,
        )

    # -- the parts of a call ------------------------------------------------------------------------------------------

    def _past(self, call: Call, total: int) -> tuple[int, Any, bool]:
        """Tokens in the past, each layer's keys and values, and whether to keep new ones."""
        if call.cache is not None:
            if "slen" not in call.cache:
                raise InputError("cache without the key 'slen': begin with {'slen': 0}")
            past = int(call.cache["slen"])
            if past >= total:
                raise InputError(f"cache of {past} tokens: the input must be the whole sequence, it has {total}")
            caches = [call.cache.get(i) for i in range(self.spec.num_layers)] if past else None
            return past, caches, True
        if not self.spec.is_decoder:
            return 0, None, False
        keep = getattr(self.config, "use_cache", True) if call.use_cache is None else call.use_cache
        if self.encoder.gradient_checkpointing and self.training:
            keep = False
        if call.past_key_values is None:
            return 0, None, bool(keep)
        if len(call.past_key_values) != self.spec.num_layers:
            raise InputError(
                f"past_key_values of {len(call.past_key_values)} layers: the model has {self.spec.num_layers}"
            )
        return call.past_key_values[0][0].shape[2], call.past_key_values, bool(keep)

    def _keep(self, call: Call, trace: Trace, length: int) -> tuple[Any, ...]:
        if call.cache is None:
            return tuple(trace.caches)
        call.cache.update(enumerate(trace.caches))
        call.cache["slen"] = length
        return ()

    def _mask_of_lengths(self, call: Call, batch: int, total: int) -> Tensor:
        source = call.input_ids if call.input_ids is not None else call.inputs_embeds
        assert source is not None
        lengths = call.lengths
        if lengths is None:
            if call.input_ids is None:
                return torch.ones(batch, total, dtype=torch.long, device=source.device)
            lengths = (call.input_ids != self.spec.pad_id).sum(dim=1)
        elif not in_graph():
            if tuple(lengths.shape) != (batch,):
                raise InputError(f"lengths of shape {tuple(lengths.shape)}: must be ({batch},)")
            if batch and (int(lengths.max()) > total or int(lengths.min()) < 0):
                raise InputError(f"lengths={lengths.tolist()}: must be from 0 to {total}")
        return (torch.arange(total, device=source.device)[None, :] < lengths.to(source.device)[:, None]).long()

    def _positions(self, call: Call, batch: int, total: int, past: int) -> Tensor:
        spec = self.spec
        if call.position_ids is not None:
            positions = self._rows("position_ids", call.position_ids, batch, total)
            assert positions is not None
            return positions
        if spec.positions_skip_padding and call.input_ids is not None:
            return positions_after_padding(torch, call.input_ids, spec.pad_id, past)
        source = call.input_ids if call.input_ids is not None else call.inputs_embeds
        assert source is not None
        # Where positions skip padding, the reference counts embeddings from the first place even with a past.
        first = spec.position_offset + (0 if spec.positions_skip_padding else past)
        places = torch.arange(first, first + total, device=source.device)
        return places[None].expand(batch, total)

    @staticmethod
    def _rows(name: str, value: Tensor | None, batch: int, total: int) -> Tensor | None:
        if value is None:
            return None
        if value.ndim == 1:
            value = value[None]
        if value.ndim != 2 or value.shape[0] not in (1, batch) or value.shape[1] != total:
            raise InputError(f"{name} of shape {tuple(value.shape)}: must be {(batch, total)} like the input")
        return value.expand(batch, total)

    def _fit(self, tokens: int) -> bool:
        """Whether positions that the model counts itself for so many tokens are in its table, without a look at them: the
        host would wait for a GPU. Never asked inside a compiled graph, which serves other numbers too."""
        return in_graph() or tokens <= self.spec.max_tokens

    def _check_extra(self, positions: Tensor | None, types: Tensor | None, languages: Tensor | None) -> None:
        spec = self.spec
        if positions is not None and spec.position_kind == "absolute":
            check_ids("position_ids", positions, spec.max_positions, f"the longest input has {spec.max_tokens} tokens")
        if types is not None:
            limit = spec.vocab_size if spec.token_types_from_words else spec.num_token_types
            check_ids(
                "token_type_ids",
                types,
                limit,
                "type_vocab_size" if not spec.token_types_from_words else "the vocabulary",
            )
        if languages is not None and spec.num_languages:
            check_ids("langs", languages, spec.num_languages, "n_langs")

    def _head_mask(self, mask: Tensor | None, dtype: torch.dtype) -> list[Tensor] | None:
        if mask is None:
            return None
        layers, heads = self.spec.num_layers, self.spec.num_heads
        if tuple(mask.shape) == (heads,):
            mask = mask[None].expand(layers, heads)
        if tuple(mask.shape[:2]) != (layers, heads):
            raise InputError(f"head_mask of shape {tuple(mask.shape)}: must be ({heads},) or ({layers}, {heads})")
        return [m.to(dtype).view(1, -1, 1, 1) for m in mask]

    def _source(self, call: Call, batch: int, queries: int) -> Source | None:
        states = call.encoder_hidden_states
        if states is None or not self.spec.is_decoder:
            return None
        if not self.spec.cross_attention:
            raise InputError("encoder_hidden_states: the model has no cross-attention; set add_cross_attention=True")
        if states.ndim != 3 or states.shape[0] != batch or states.shape[2] != self.spec.hidden_size:
            raise InputError(
                f"encoder_hidden_states of shape {tuple(states.shape)}: "
                f"must be ({batch}, tokens, {self.spec.hidden_size})"
            )
        bias = cross_attention_bias(call.encoder_attention_mask, batch, queries, states.shape[1], states.dtype)
        return Source(states.reshape(-1, states.shape[2]), states.shape[1], bias)


def _need_finite(embeds: Tensor) -> None:
    bad = (~embeds.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise InputError(f"inputs_embeds[{bad[0]}]: NaN or infinite values ({len(bad)} of {len(embeds)} rows)")
