"""Continuing text: greedy search, sampling and beam search over any model with a language modelling head.

The loops run on the host in NumPy and know two things of a model: ``prepare_inputs_for_generation`` and its call. A model
that returns ``past_key_values`` is fed new tokens only.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from xlm.errors import InputError
from xlm.families.config import PretrainedConfig
from xlm.families.search import banned, check_banned, check_options, ids_of

_NEVER = -np.inf
_OF_A_CALL = ("max_new_tokens", "min_new_tokens", "seed")
"""Options that no config holds."""


@dataclass
class Options:
    """What shapes a search; see :meth:`GenerationMixin.generate`."""

    max_length: int = 20
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    do_sample: bool = False
    num_beams: int = 1
    early_stopping: bool | str = False
    num_return_sequences: int = 1
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Any = None
    suppress_tokens: Any = None
    forced_eos_token_id: Any = None
    length_penalty: float = 1.0
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    eos_token_id: Any = None
    use_cache: bool = True
    seed: int | None = None

    @classmethod
    def of(
        cls, config: PretrainedConfig, kwargs: dict[str, Any], model: Collection[str]
    ) -> tuple[Options, dict[str, Any]]:
        """Options from a call, then the config, then defaults; and the arguments that are left for the model.

        Args:
            model: names of the model's own arguments.

        Raises:
            ArgumentError: an argument that is neither.
        """
        names = [option.name for option in fields(cls)]
        rest, chosen = check_options(config, kwargs, names, model), {}
        for name in names:
            value = kwargs.get(name)
            if value is None and name not in _OF_A_CALL:
                value = getattr(config, name, None)
            if value is not None:
                chosen[name] = value
        return cls(**chosen), rest

    @property
    def eos(self) -> list[int]:
        """Ids that end a text."""
        return list(ids_of(self.eos_token_id))

    @property
    def pad(self) -> int:
        """The id that fills rows which ended early."""
        return self.pad_token_id if self.pad_token_id is not None else next(iter(self.eos), 0)

    def check(self, prompt: int, vocabulary: int) -> None:
        """Resolve lengths against the prompt's and refuse impossible values."""
        if self.max_new_tokens is not None:
            self.max_length = prompt + self.max_new_tokens
        if self.min_new_tokens is not None:
            self.min_length = prompt + self.min_new_tokens
        if self.max_length <= prompt:
            raise InputError(
                f"max_length={self.max_length}: the prompt has {prompt} tokens; raise it or give max_new_tokens"
            )
        if self.num_beams < 1 or self.num_return_sequences < 1:
            raise InputError(
                f"num_beams={self.num_beams}, num_return_sequences={self.num_return_sequences}: at least 1"
            )
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise InputError(f"num_return_sequences={self.num_return_sequences}: at most num_beams={self.num_beams}")
        if self.num_beams > 1 and self.do_sample:
            raise InputError(f"num_beams={self.num_beams}: sampling inside beams is not offered here; do_sample=False")
        if self.early_stopping not in (False, True, "never"):
            raise InputError(f"early_stopping={self.early_stopping!r}: must be False, True or 'never'")
        if self.temperature <= 0:
            raise InputError(f"temperature={self.temperature}: must be above 0; for the best token use do_sample=False")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p={self.top_p}: must be above 0 and at most 1")
        check_banned(self.bad_words_ids, self.suppress_tokens, self.forced_eos_token_id, vocabulary)

    def shape(self, scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Apply penalties and bans to next-token scores (b, vocab)."""
        if self.repetition_penalty != 1.0:
            seen = np.take_along_axis(scores, ids, 1)
            less = np.where(seen < 0, seen * self.repetition_penalty, seen / self.repetition_penalty)
            np.put_along_axis(scores, ids, less, 1)
        if self.no_repeat_ngram_size or self.bad_words_ids:
            for row, sequence in enumerate(ids.tolist()):
                found = banned(sequence, self.no_repeat_ngram_size, self.bad_words_ids or (), self.eos)
                scores[row, found] = _NEVER
        scores[:, list(ids_of(self.suppress_tokens))] = _NEVER
        if ids.shape[1] < self.min_length:
            scores[:, [end for end in self.eos if end < scores.shape[1]]] = _NEVER
        if self.forced_eos_token_id is not None and ids.shape[1] == self.max_length - 1:
            scores[:] = _NEVER
            scores[:, list(ids_of(self.forced_eos_token_id))] = 0.0
        return scores

    def narrow(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities (b, vocab) after temperature, top-k and top-p."""
        scores = scores / self.temperature
        if self.top_k:
            least = np.sort(scores)[:, -min(self.top_k, scores.shape[1])]
            scores = np.where(scores < least[:, None], _NEVER, scores)
        p = np.exp(log_softmax(scores))
        if self.top_p < 1.0:
            order = np.argsort(-p)
            ordered = np.take_along_axis(p, order, 1)
            drop = np.cumsum(ordered, 1) - ordered >= self.top_p  # what lies before it is enough already
            np.put_along_axis(p, order, np.where(drop, 0.0, ordered), 1)
        return p / p.sum(1, keepdims=True)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    scores = scores - scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


class Steps:
    """Runs a model one step after the other and carries mask and cache."""

    def __init__(self, model: Any, rows: int, options: Options, kwargs: dict[str, Any]) -> None:
        self.model, mask = model, kwargs.pop("attention_mask", None)
        repeat = options.num_beams if options.num_beams > 1 else options.num_return_sequences
        mask = None if mask is None else np.asarray(mask)
        if mask is not None and mask.dtype.kind != "f":
            mask = mask.astype(np.int32)
        self.mask = None if mask is None else np.repeat(mask, repeat, 0)
        arrays = {k: np.asarray(v) for k, v in kwargs.items() if hasattr(v, "shape")}
        self.kwargs = {
            **kwargs,
            **{k: np.repeat(v, repeat, 0) if v.ndim and len(v) * repeat == rows else v for k, v in arrays.items()},
        }
        takes_cache = "use_cache" in inspect.signature(model.call).parameters
        self.cached = options.use_cache and takes_cache and bool(getattr(model.config, "is_decoder", False))
        self.past: Any = None

    def scores(self, ids: np.ndarray) -> np.ndarray:
        """Scores (b, vocab) of what follows ``ids`` (b, s)."""
        mask = self.mask
        if mask is not None and mask.shape[1] < ids.shape[1]:
            mask = np.pad(mask, ((0, 0), (0, ids.shape[1] - mask.shape[1])), constant_values=1)
        self.mask = mask
        inputs = self.model.prepare_inputs_for_generation(
            tf.convert_to_tensor(ids),
            past_key_values=self.past,
            attention_mask=None if mask is None else tf.convert_to_tensor(mask),
            **self.kwargs,
        )
        if self.cached:
            inputs["use_cache"] = True
        output = self.model(**inputs, return_dict=True, training=False)
        self.past = output.past_key_values if self.cached else None
        return tf.cast(output.logits[:, -1], tf.float32).numpy()

    def reorder(self, rows: np.ndarray) -> None:
        """Let row ``i`` continue what row ``rows[i]`` began."""
        if self.past is not None:
            self.past = keras.tree.map_structure(lambda t: tf.gather(t, rows), self.past)
        if self.mask is not None:
            self.mask = self.mask[rows]


class GenerationMixin:
    """Gives a model :meth:`generate`."""

    generates_with: ClassVar[tuple[str, ...]] = ("attention_mask", "token_type_ids")
    """Arguments of the model that :meth:`generate` takes. Tokenizers give token types, which no prompt needs: not used."""

    def generate(self, input_ids: Any = None, **kwargs: Any) -> tf.Tensor:
        """Continue each row of ``input_ids`` (b, s); returns int32 (b * num_return_sequences, length).

        Args:
            max_new_tokens, max_length, min_length: lengths in tokens; ``max_length`` counts the prompt.
            do_sample: sample instead of taking the best; ``temperature``, ``top_k``, ``top_p`` shape the distribution and
                ``seed`` makes it repeatable.
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
        options, rest = Options.of(self.config, kwargs, self.generates_with)  # type: ignore[attr-defined]
        if input_ids is None:
            if options.bos_token_id is None:
                raise InputError("input_ids: give a prompt; the config has no bos_token_id to begin with")
            input_ids = [[options.bos_token_id]]
        ids = np.asarray(input_ids, np.int32)
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise InputError(f"input_ids of shape {ids.shape}: a prompt is (batch, tokens) with at least one token")
        options.check(ids.shape[1], self.spec.vocab_size)  # type: ignore[attr-defined]
        if rest.get("attention_mask") is None and options.pad_token_id not in (None, *options.eos):
            seen = ids != options.pad_token_id
            if not seen.all():
                rest["attention_mask"] = seen.astype(np.int32)
        search = beam_search if options.num_beams > 1 else decode
        return tf.convert_to_tensor(search(self, ids, options, rest))


def decode(model: Any, ids: np.ndarray, options: Options, kwargs: dict[str, Any]) -> np.ndarray:
    """Greedy search or sampling."""
    ids = np.repeat(ids, options.num_return_sequences, 0)
    steps = Steps(model, len(ids), options, kwargs)
    draw = np.random.default_rng(options.seed)
    running = np.ones(len(ids), bool)
    while ids.shape[1] < options.max_length and running.any():
        scores = options.shape(steps.scores(ids), ids)
        if options.do_sample:
            reached = np.cumsum(options.narrow(scores.astype(np.float64)), 1)
            token = (reached < draw.random((len(ids), 1)) * reached[:, -1:]).sum(1)
        else:
            token = scores.argmax(1)
        token = np.where(running, token, options.pad).astype(np.int32)
        ids = np.concatenate([ids, token[:, None]], 1)
        running &= ~np.isin(token, options.eos)
    return ids


def beam_search(model: Any, ids: np.ndarray, options: Options, kwargs: dict[str, Any]) -> np.ndarray:
    """Beam search; scores are sums of log-probabilities over length ** length_penalty."""
    batch, prompt, width = len(ids), ids.shape[1], options.num_beams
    ids = np.repeat(ids, width, 0)
    steps = Steps(model, batch * width, options, kwargs)
    sums = np.where(np.arange(width) == 0, 0.0, -1e9) * np.ones((batch, 1))
    done: list[list[tuple[float, np.ndarray]]] = [[] for _ in range(batch)]
    closed = [False] * batch
    while ids.shape[1] < options.max_length and not all(closed):
        scores = options.shape(log_softmax(steps.scores(ids)), ids)
        vocab = scores.shape[1]
        total = (scores.reshape(batch, width, vocab) + sums[:, :, None]).reshape(batch, -1)
        count = min(max(2, 1 + len(options.eos)) * width, total.shape[1])
        length = ids.shape[1] + 1 - prompt
        rows, tokens = [], []
        for b in range(batch):
            best = np.argsort(-total[b], kind="stable")[:count]
            kept: list[float] = []
            for rank, place in enumerate(best.tolist()):
                beam, token = divmod(place, vocab)
                if token in options.eos:
                    if rank < width and not closed[b]:
                        ended = np.append(ids[b * width + beam], token)
                        _add(done[b], float(total[b, place]) / length**options.length_penalty, ended, width)
                elif len(kept) < width:
                    rows.append(b * width + beam)
                    tokens.append(token)
                    kept.append(float(total[b, place]))
            sums[b] = kept
            # "never" hopes for the best length there may be: sums are negative, so with a positive penalty the longest.
            never = options.early_stopping == "never"
            hoped = options.max_length - prompt if never and options.length_penalty > 0 else length
            hope = float(total[b, best[0]]) / hoped**options.length_penalty
            full = len(done[b]) == width and (options.early_stopping is True or done[b][-1][0] >= hope)
            closed[b] = closed[b] or full
        ids = np.concatenate([ids[rows], np.asarray(tokens, np.int32)[:, None]], 1)
        steps.reorder(np.asarray(rows))
    length = max(1, ids.shape[1] - prompt)
    for b in range(batch):
        for beam in range(0 if closed[b] else width):
            _add(done[b], float(sums[b, beam]) / length**options.length_penalty, ids[b * width + beam], width)
    found = [row for finished in done for _, row in finished[: options.num_return_sequences]]
    out = np.full((len(found), max(len(row) for row in found)), options.pad, np.int32)
    for i, row in enumerate(found):
        out[i, : len(row)] = row
    return out


def _add(finished: list[tuple[float, np.ndarray]], score: float, ids: np.ndarray, size: int) -> None:
    """Keep the best ``size`` finished sequences, best first."""
    finished.append((score, ids))
    finished.sort(key=lambda item: -item[0])
    del finished[size:]
