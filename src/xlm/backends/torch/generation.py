"""Continuing text: greedy search, sampling and beam search over any model with a language modelling head.

The loop knows two things of a model: ``prepare_inputs_for_generation`` and its forward. A model that returns
``past_key_values`` is fed new tokens only.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from xlm.errors import InputError


class GenerationMixin:
    """Gives a model :meth:`generate`."""

    generates_with: ClassVar[tuple[str, ...]] = ("attention_mask", "token_type_ids")
    """Arguments of the model that :meth:`generate` takes. Tokenizers give token types, which no prompt needs: not used."""

    @torch.no_grad()
    def generate(self, input_ids: Tensor | None = None, inputs: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Continue each row of ``input_ids`` (b, s); returns (b * num_return_sequences, length).

        Args:
            max_new_tokens, max_length, min_length: lengths in tokens; ``max_length`` counts the prompt.
            do_sample: sample instead of taking the best; ``temperature``, ``top_k``, ``top_p`` shape the distribution.
            num_beams, length_penalty, early_stopping, num_return_sequences: beam search.
            min_new_tokens: tokens before the end of the text may come; wins over ``min_length``.
            eos_token_id (an id or a list), pad_token_id, repetition_penalty, no_repeat_ngram_size, use_cache.
            bad_words_ids: lists of ids that may not come; suppress_tokens: ids that may not come;
                forced_eos_token_id: the id (or ids) that a row of the greatest length ends with.
            attention_mask: (b, s); prompts of different length are padded on the left. Without one, padding in the prompt
                is hidden, unless its id is that of an end.
            langs: (b, s) of XLM's prompts, whose last one goes on; encoder_hidden_states, encoder_attention_mask: what
                decoders with cross-attention read.
            Unset values come from the model's config.

        Raises:
            ArgumentError: an argument that neither the search nor the model knows.
            InputError: no prompt, or an impossible option.
        """
        from xlm.backends.torch.decoding import Options, beam_search, decode

        ids = inputs if input_ids is None else input_ids
        options, model_kwargs = Options.of(self.config, kwargs, self.generates_with)  # type: ignore[attr-defined]
        if ids is None:
            if options.bos is None:
                raise InputError("input_ids: give a prompt; the config has no bos_token_id to begin with")
            ids = torch.full((1, 1), options.bos, device=self.device)  # type: ignore[attr-defined]
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise InputError(
                f"input_ids of shape {tuple(ids.shape)}: a prompt is (batch, tokens) with at least one token"
            )
        options.check(ids, self.spec.vocab_size)  # type: ignore[attr-defined]
        if model_kwargs.get("attention_mask") is None and options.pad not in (None, *options.eos):
            seen = ids != options.pad
            if not bool(seen.all()):
                model_kwargs["attention_mask"] = seen.long()
        training = self.training  # type: ignore[attr-defined]
        self.eval()  # type: ignore[attr-defined]
        try:
            search = beam_search if options.num_beams > 1 else decode
            return search(self, ids, options, model_kwargs)
        finally:
            self.train(training)  # type: ignore[attr-defined]
