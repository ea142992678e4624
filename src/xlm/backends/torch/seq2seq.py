"""``generate`` of encoder-decoders: a source is read once, then its target written token by token, many at a time.

Keys and values of the source are computed once and held once a sentence, whatever the number of beams; what is finished
leaves the batch at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xlm.backends.torch.crossing import Source
from xlm.backends.torch.layout import additive
from xlm.backends.torch.search import Options, beam_search, greedy_search
from xlm.backends.torch.trunk import Call
from xlm.batches.packing import split_budget
from xlm.errors import InputError

FACTOR, EXTRA = 1.5, 10
"""Unless told otherwise a target has at most 1.5 times its source's tokens and 10, as in the original XLM."""
_ROWS, _ROWS_GPU = 2048, 65536
"""Source tokens times beams that are translated at once on a CPU, where the decoder's caches should stay small."""
_SCORES = 2**28
"""Scores of one step, of all hypotheses: 1 GB in float32, of which several copies exist at a time."""

Language = str | int


def batches(lengths: Sequence[int], device: torch.device, num_beams: int = 1, vocab_size: int = 1) -> list[list[int]]:
    """Which sources of so many tokens are best translated together, into a vocabulary: indices, the longest first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    beams = max(num_beams, 1)
    budget = max(1, (_ROWS if device.type == "cpu" else _ROWS_GPU) // beams)
    most = max(1, _SCORES // (beams * vocab_size))
    groups = (order[start:end] for start, end in split_budget([lengths[index] for index in order], budget))
    return [group[first : first + most] for group in groups for first in range(0, len(group), most)]


def write(
    model: Any,
    rows: Sequence[NDArray[np.int64]],
    source: Language | None,
    target: Language | None,
    most: Sequence[int],
    **options: Any,
) -> list[list[int]]:
    """What a model writes for sources of any lengths, whole rows of ids, at most ``most`` new tokens for each: rows of ids,
    the start token first. No row depends on the others, but for tokens that are drawn.

    Args:
        options: of :meth:`TranslationMixin.generate`.
    """
    device = next(model.parameters()).device
    ids = np.full((len(rows), max(map(len, rows))), model.config.pad_token_id, np.int64)
    # What stands in a row is a token, even if its id should be that of padding.
    mask = np.zeros(ids.shape, np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    given, real = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
    return model.generate(given, real, source, target, max_new_tokens=list(most), **options).tolist()


class Writer:
    """The decoder at work on a batch: hypotheses as rows, ``share`` consecutive ones of each source.

    Args:
        model: an encoder-decoder.
        states: (b, s, h) of the sources; ``mask`` (b, s) is 1 where they are.
        languages: (b,) rows of the decoder's language table, or ``None``.
    """

    def __init__(self, model: Any, states: Tensor, mask: Tensor | None, languages: Tensor | None) -> None:
        self.model, self.trunk = model, model.decoder.roberta
        rows = states.reshape(-1, states.shape[2])
        hidden = mask is not None and not bool(mask.all())
        bias = additive(mask[:, None, None, :], states.dtype) if mask is not None and hidden else None
        self.source = Source(rows, states.shape[1], bias)
        self.languages = languages
        self.caches: Any = None
        self.past, self.share = 0, 1

    def scores(self, ids: Tensor) -> Tensor:
        """Scores (rows, vocab), in float32, of what follows the new tokens ``ids`` (rows, new)."""
        languages = self.languages
        if languages is not None and self.share > 1:
            languages = languages.repeat_interleave(self.share)
        x, self.caches = self.trunk.step(ids, languages, self.past, self.source, self.caches)
        self.past += ids.shape[1]
        last = x.view(ids.shape[0], ids.shape[1], -1)[:, -1]
        return self.model.lm_logits(last).float()

    def keep(self, rows: Tensor, sources: Tensor | None) -> None:
        """Go on with these rows, an index each, and with these sources; ``None``: all of them."""
        own = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v, _, _ in self.caches]
        read = [layer[2:] for layer in self.caches]
        if sources is not None:
            read = [tuple(t.index_select(0, sources) for t in pair) for pair in read]
            bias = self.source.bias
            # The rows of the source are not read again: its keys and values are in the caches.
            self.source = Source(
                self.source.rows, self.source.length, None if bias is None else bias.index_select(0, sources)
            )
            self.languages = None if self.languages is None else self.languages.index_select(0, sources)
        self.caches = [(*one, *two) for one, two in zip(own, read, strict=True)]
        self.share = len(rows) // len(read[0][0]) if read else 1


class TranslationMixin:
    """Gives an encoder-decoder :meth:`generate`."""

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        langs: Tensor | Language | None = None,
        target_lang: Language | Sequence[Language] | None = None,
        *,
        decoder_langs: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Write a target for each source of ``input_ids`` (b, s): (b * num_return_sequences, length), the start token first.

        Args:
            attention_mask: (b, s), 1 = a token; ``None``: what is not padding.
            langs: the sources' language: a name, a row of the language table, or rows (b, s).
            target_lang: the targets' language, or one a source: a name or a row of the language table.
            decoder_langs: rows (b,) instead of ``target_lang``.
            decoder_input_ids: (b, t) how targets begin, instead of the config's start token.
            encoder_outputs: states (b, s, h) first, instead of reading the sources again.
            kwargs: ``max_new_tokens``, a number or one a source, or ``max_length``, which counts the start token (by default
                1.5 times the longest source's tokens and 10); ``min_length``, ``num_beams``, ``length_penalty``,
                ``early_stopping`` (``False``, ``True`` or ``"never"``), ``num_return_sequences``, ``do_sample``,
                ``temperature``, ``top_k``, ``top_p``, ``repetition_penalty``, ``no_repeat_ngram_size``, ``generator``,
                ``min_new_tokens``, ``bad_words_ids``, ``suppress_tokens``, ``forced_eos_token_id``,
                ``eos_token_id``, ``pad_token_id``. What is not given comes from the config.

        Raises:
            InputError: no source, an unknown language, an impossible option, or a target longer than the decoder.
        """
        model: Any = self
        each = kwargs.get("max_new_tokens")
        if isinstance(each, list | tuple):
            kwargs["max_new_tokens"] = max(each, default=1)
        options, _ = Options.of(model.config, kwargs)
        if isinstance(each, list | tuple) and options.forced_eos_token_id is not None:
            raise InputError("forced_eos_token_id: not together with one max_new_tokens a source")
        training = model.training
        model.eval()
        try:
            states, mask = self._read(input_ids, attention_mask, langs, encoder_outputs)
            ids, languages = self._begin(states, target_lang, decoder_langs, decoder_input_ids)
            self._lengths(options, kwargs, ids, states.shape[1])
            options.check(ids, model.decoder.spec.vocab_size)
            if options.do_sample and options.num_beams == 1 and options.num_return_sequences > 1:
                many = options.num_return_sequences
                states, ids = states.repeat_interleave(many, 0), ids.repeat_interleave(many, 0)
                mask, languages = (None if t is None else t.repeat_interleave(many, 0) for t in (mask, languages))
            limits = self._limits(each, ids, states.device) if isinstance(each, list | tuple) else None
            writer = Writer(model, states, mask, languages)
            search = beam_search if options.num_beams > 1 else greedy_search
            return search(writer, ids, options, limits).sequences
        finally:
            model.train(training)

    def _read(
        self, ids: Tensor | None, mask: Tensor | None, langs: Any, encoder_outputs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """States of the sources (b, s, h), and the mask of their tokens."""
        model: Any = self
        if encoder_outputs is not None:
            return encoder_outputs[0], mask
        if ids is None or ids.ndim != 2 or 0 in ids.shape:
            shape = None if ids is None else tuple(ids.shape)
            raise InputError(f"input_ids of shape {shape}: sources are (batch, tokens) with at least one token")
        if mask is None:
            mask = (ids != model.encoder.spec.pad_id).long()
        if langs is not None and not isinstance(langs, Tensor):
            row = model.config.source_side(langs).language
            langs = None if row is None else torch.full_like(ids, row)
        if langs is None and model.encoder.spec.num_languages:
            model.config.source_side(None)  # says which there are
        return model.encoder.run(Call(ids, mask, langs=langs)).states, mask

    def _begin(
        self, states: Tensor, target: Any, langs: Tensor | None, ids: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """First tokens (b, t) and languages (b,) of the targets."""
        model: Any = self
        batch, device = states.shape[0], states.device
        rows = langs.reshape(-1) if langs is not None else None
        if langs is not None and (langs.ndim > 2 or len(langs) != batch):
            raise InputError(f"decoder_langs of shape {tuple(langs.shape)}: must be ({batch},)")
        if langs is not None and langs.ndim == 2:
            rows = langs[:, 0]
        starts: list[int] = []
        if rows is None or ids is None:
            many = [target] * batch if target is None or isinstance(target, str | int) else list(target)
            if len(many) != batch:
                raise InputError(f"target_lang: {len(many)} languages for {batch} sources")
            if rows is not None:
                many = rows.tolist()
            sides = [model.config.target_side(one) for one in many]
            starts = [side.start for side in sides]
            if rows is None and sides and sides[0].language is not None:
                rows = torch.tensor([side.language for side in sides], device=device)
        if ids is None:
            ids = torch.tensor(starts, device=device)[:, None]
        if ids.ndim != 2 or ids.shape[0] != batch or not ids.shape[1]:
            raise InputError(f"decoder_input_ids of shape {tuple(ids.shape)}: must be ({batch}, at least 1)")
        return ids, rows if model.decoder.spec.num_languages else None

    @staticmethod
    def _limits(each: Sequence[int], ids: Tensor, device: torch.device) -> Tensor:
        """The longest each row may become."""
        if not each or len(ids) % len(each) or min(each) < 1:
            raise InputError(
                f"max_new_tokens: {len(each)} numbers for {len(ids)} rows: one of at least 1 a source is needed"
            )
        return (torch.tensor(each, device=device) + ids.shape[1]).repeat_interleave(len(ids) // len(each))

    def _lengths(self, options: Options, kwargs: dict[str, Any], ids: Tensor, source: int) -> None:
        """Settle how long targets may become, within the decoder's positions."""
        model: Any = self
        limit, told = model.decoder.spec.max_tokens, "max_new_tokens" in kwargs or "max_length" in kwargs
        if not told and model.config.max_length == 20:  # the base default, which says nothing of this model
            options.max_new_tokens = min(int(FACTOR * source) + EXTRA, limit - ids.shape[1])
        wanted = ids.shape[1] + options.max_new_tokens if options.max_new_tokens is not None else options.max_length
        # The last token is written but never read, so it needs no position.
        if wanted - 1 > limit:
            name = "max_length" if options.max_new_tokens is None else "max_new_tokens"
            raise InputError(
                f"{name}={getattr(options, name)}: with {ids.shape[1]} to begin with, the decoder has positions for "
                f"{limit} tokens"
            )
