"""Continuing text: greedy search, sampling and beam search over any model with a language modelling head.

The loop knows two things of a model: ``prepare_inputs_for_generation`` and its forward. A model that returns
``past_key_values`` is fed new tokens only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xlm.errors import InputError


class GenerationMixin:
    """Gives a model :meth:`generate`."""

    @torch.no_grad()
    def generate(self, input_ids: Tensor | None = None, inputs: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Continue each row of ``input_ids`` (b, s); returns (b * num_return_sequences, length).

        Args:
            max_new_tokens, max_length, min_length: lengths in tokens; ``max_length`` counts the prompt.
            do_sample: sample instead of taking the best; ``temperature``, ``top_k``, ``top_p`` shape the distribution.
            num_beams, length_penalty, early_stopping, num_return_sequences: beam search.
            eos_token_id (an id or a list), pad_token_id, repetition_penalty, no_repeat_ngram_size, use_cache.
            attention_mask: (b, s); prompts of different length are padded on the left.
            Unset values come from the model's config; further arguments go to the model.

        Raises:
            InputError: no prompt, or an impossible option.
        """
        from xlm.backends.torch.decoding import Options, beam_search, decode

        ids = inputs if input_ids is None else input_ids
        options, model_kwargs = Options.of(self.config, kwargs)  # type: ignore[attr-defined]
        if ids is None:
            if options.bos is None:
                raise InputError("input_ids: give a prompt; the config has no bos_token_id to begin with")
            ids = torch.full((1, 1), options.bos, device=self.device)  # type: ignore[attr-defined]
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise InputError(
                f"input_ids of shape {tuple(ids.shape)}: a prompt is (batch, tokens) with at least one token"
            )
        options.check(ids)
        training = self.training  # type: ignore[attr-defined]
        self.eval()  # type: ignore[attr-defined]
        try:
            search = beam_search if options.num_beams > 1 else decode
            return search(self, ids, options, model_kwargs)
        finally:
            self.train(training)  # type: ignore[attr-defined]
