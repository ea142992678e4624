"""Continuing text: greedy search, sampling and beam search, each in one compiled loop.

Models that look left only keep a cache and compute each token once. Others see the whole row anew at every step; where the
config names a token to be filled in at the end (XLM), that token answers, else the last one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from xlm.backends.flax.beams import Beams, beam_search
from xlm.backends.flax.compiling import compiled
from xlm.backends.flax.encoder import empty_cache
from xlm.backends.flax.ops import floats, integers, traced
from xlm.backends.flax.outputs import FlaxBeamSearchOutput, FlaxSampleOutput
from xlm.backends.flax.trunk import Call
from xlm.errors import InputError
from xlm.families.search import check_banned, check_options, ids_of

_OFFERED = """
max_length max_new_tokens do_sample temperature top_k top_p num_beams num_return_sequences length_penalty early_stopping
eos_token_id pad_token_id min_length min_new_tokens repetition_penalty no_repeat_ngram_size bad_words_ids suppress_tokens
forced_eos_token_id prng_key params
""".split()


@dataclass(frozen=True)
class Options:
    """What shapes a search; hashable, since each is compiled on its own."""

    max_length: int
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    eos: tuple[int, ...] = ()
    pad: int = 0
    filled: int | None = None
    """The token that stands for the next one, where the model answers in its place."""
    language: int | None = None
    cached: bool = False
    min_length: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    banned: tuple[tuple[int, ...], ...] = ()
    """Sequences that may not come; those of one token, never."""
    forced: tuple[int, ...] = ()
    """What stands in the last place of a row of the greatest length."""
    beams: Beams = field(default_factory=Beams)

    def check(self, prompt: int, longest: int) -> None:
        """Refuse impossible values."""
        if self.max_length <= prompt:
            raise InputError(
                f"max_length={self.max_length}: the prompt has {prompt} tokens; raise it or give max_new_tokens"
            )
        if self.max_length > longest:
            raise InputError(f"max_length={self.max_length}: the model has positions for {longest} tokens")
        if self.temperature <= 0:
            raise InputError(f"temperature={self.temperature}: must be above 0; for the best token use do_sample=False")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p={self.top_p}: must be above 0 and at most 1")
        self.beams.check(self.do_sample)

    def shape(self, scores: Array, rows: Array, at: Array) -> Array:
        """Apply penalties and bans to scores (b, vocab) of place ``at`` of rows (b, max_length)."""
        batch, total = rows.shape
        each, past = jnp.arange(batch)[:, None], jnp.arange(total) < at
        if self.repetition_penalty != 1.0:
            seen = jnp.zeros(scores.shape, bool).at[each, rows].max(past)
            less = jnp.where(scores < 0, scores * self.repetition_penalty, scores / self.repetition_penalty)
            scores = jnp.where(seen, less, scores)
        size = self.no_repeat_ngram_size
        if 0 < size <= total:
            last = lax.dynamic_slice_in_dim(rows, jnp.maximum(at - size + 1, 0), size - 1, axis=1)
            width = total - size + 1
            same = past[None, size - 1 :] & (at >= size)
            for place in range(size - 1):
                same = same & (rows[:, place : place + width] == last[:, place : place + 1])
            least = jnp.broadcast_to(jnp.where(same, -jnp.inf, jnp.inf), (batch, width))
            scores = scores.at[each, rows[:, size - 1 :]].min(least)
        for *prefix, token in self.banned:
            first = jnp.maximum(at - len(prefix), 0)
            last = lax.dynamic_slice_in_dim(rows, first, min(len(prefix), total), axis=1)
            known = last.shape[1] == len(prefix)
            hit = (last == jnp.asarray(prefix, rows.dtype)).all(1) & (at >= len(prefix)) if known else False
            scores = scores.at[:, token].min(jnp.where(hit, -jnp.inf, jnp.inf))
        if self.eos and self.min_length:
            ends = scores.at[:, jnp.asarray(self.eos)].set(-jnp.inf)
            scores = jnp.where(at < self.min_length, ends, scores)
        if self.forced:
            only = jnp.full_like(scores, -jnp.inf).at[:, jnp.asarray(self.forced)].set(0.0)
            scores = jnp.where(at == total - 1, only, scores)
        return scores

    def choose(self, logits: Array, key: Array) -> Array:
        """The next token of each row from its scores (b, vocab)."""
        if not self.do_sample:
            return logits.argmax(-1)
        scores = logits.astype(jnp.float32) / self.temperature
        if self.top_k:
            least = lax.top_k(scores, min(self.top_k, scores.shape[-1]))[0][:, -1:]
            scores = jnp.where(scores < least, -jnp.inf, scores)
        if self.top_p < 1.0:
            order = jnp.sort(scores, axis=-1)[:, ::-1]
            before = jnp.cumsum(jax.nn.softmax(order), axis=-1) - jax.nn.softmax(order)
            least = jnp.where(before < self.top_p, order, jnp.inf).min(-1, keepdims=True)
            scores = jnp.where(scores < least, -jnp.inf, scores)
        return jax.random.categorical(key, scores)


class GenerationMixin:
    """Gives a model :meth:`generate` and the two methods that the reference's own loops call."""

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model has a head that can continue text."""
        return True

    def generate(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_beams: int | None = None,
        num_return_sequences: int | None = None,
        length_penalty: float | None = None,
        early_stopping: bool | str | None = None,
        eos_token_id: int | list[int] | None = None,
        pad_token_id: int | None = None,
        min_length: int | None = None,
        min_new_tokens: int | None = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        bad_words_ids: list[list[int]] | None = None,
        suppress_tokens: list[int] | None = None,
        forced_eos_token_id: int | list[int] | None = None,
        prng_key: Any = None,
        params: Any = None,
        **others: Any,
    ) -> FlaxSampleOutput | FlaxBeamSearchOutput:
        """Continue each row of ``input_ids`` (b, s).

        Args:
            input_ids: prompts of one length; shorter ones are padded on the left, which ``attention_mask`` (b, s) says;
                without one, padding in the prompt is hidden, unless its id is that of an end.
            max_length, max_new_tokens: the longest row; ``max_length`` counts the prompt.
            do_sample: sample instead of taking the best; ``temperature``, ``top_k``, ``top_p`` shape the distribution and
                ``prng_key`` draws (seed 0 unless given).
            num_beams, num_return_sequences, length_penalty, early_stopping: beam search, above one beam.
            eos_token_id, pad_token_id: where a row ends, and what fills it then.
            min_length, min_new_tokens: tokens before the end of the text may come; ``min_length`` counts the prompt.
            repetition_penalty, no_repeat_ngram_size, bad_words_ids (lists of ids), suppress_tokens: what is less likely, or
                may not come.
            forced_eos_token_id: the id (or ids) that a row of the greatest length ends with.
            params: nested or stacked parameters instead of the model's own.
            Unset values come from the model's config.

        Returns:
            ``sequences`` (b, max_length): the prompts and what continues them; of beam search the best
            ``num_return_sequences`` of each prompt, and their ``scores``: summed log-probabilities over
            length ** ``length_penalty``.

        Raises:
            ArgumentError: an argument that the search does not know.
            InputError: no prompt, or an impossible option.
        """
        model: Any = self
        config, spec = model.config, model.spec
        check_options(config, others, _OFFERED, ("token_type_ids",))
        ids = integers("input_ids", input_ids, spec.vocab_size, "the vocabulary")
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise InputError(
                f"input_ids of shape {tuple(ids.shape)}: a prompt is (batch, tokens) with at least one token"
            )

        def chosen(value: Any, name: str, default: Any) -> Any:
            found = getattr(config, name, None) if value is None else value
            return default if found is None else found

        eos = ids_of(chosen(eos_token_id, "eos_token_id", None))
        padding = chosen(pad_token_id, "pad_token_id", None)
        words = chosen(bad_words_ids, "bad_words_ids", None)
        suppressed = chosen(suppress_tokens, "suppress_tokens", None)
        forced = chosen(forced_eos_token_id, "forced_eos_token_id", None)
        check_banned(words, suppressed, forced, spec.vocab_size)
        least = chosen(min_length, "min_length", 0) if min_new_tokens is None else ids.shape[1] + min_new_tokens
        length = chosen(max_length, "max_length", 20) if max_new_tokens is None else ids.shape[1] + max_new_tokens
        options = Options(
            max_length=length,
            do_sample=bool(chosen(do_sample, "do_sample", False)),
            temperature=float(chosen(temperature, "temperature", 1.0)),
            top_k=int(chosen(top_k, "top_k", 0)),
            top_p=float(chosen(top_p, "top_p", 1.0)),
            eos=eos,
            pad=padding if padding is not None else next(iter(eos), 0),
            filled=config.mask_token_id if model.net_class.fills else None,
            language=config.lang_id if model.net_class.fills and spec.num_languages else None,
            cached=spec.is_decoder,
            min_length=int(least),
            repetition_penalty=float(chosen(repetition_penalty, "repetition_penalty", 1.0)),
            no_repeat_ngram_size=int(chosen(no_repeat_ngram_size, "no_repeat_ngram_size", 0)),
            banned=tuple(
                [tuple(word) for word in words or () if tuple(word) not in [(end,) for end in eos]]
                + [(token,) for token in ids_of(suppressed)]
            ),
            forced=ids_of(forced),
            beams=Beams(
                width=int(chosen(num_beams, "num_beams", 1)),
                returned=int(chosen(num_return_sequences, "num_return_sequences", 1)),
                length_penalty=float(chosen(length_penalty, "length_penalty", 1.0)),
                early_stopping=chosen(early_stopping, "early_stopping", False),
            ),
        )
        options.check(ids.shape[1], spec.max_tokens - (options.filled is not None))
        if attention_mask is None and padding not in (None, *eos) and not traced(ids) and bool((ids == padding).any()):
            attention_mask = (ids != padding).astype(jnp.int32)
        mask = None if attention_mask is None else floats("attention_mask", attention_mask, 0, 1)
        if mask is not None and tuple(mask.shape) != tuple(ids.shape):
            raise InputError(
                f"attention_mask of shape {tuple(mask.shape)}: must be {tuple(ids.shape)} like the prompts"
            )
        if mask is not None and spec.causal_only and not traced(mask) and not bool((mask == 1).all()):
            raise InputError("attention_mask: a causal model attends to padding too; give prompts of one length")
        call = Call(input_ids=ids, attention_mask=mask, dtype=model.dtype)
        if options.beams.width > 1:
            return FlaxBeamSearchOutput(*_search(model.dtype, model.graph, options, model._stacked(params), call))
        key = jax.random.key(0) if prng_key is None else prng_key
        return FlaxSampleOutput(_generate(model.dtype, model.graph, options, model._stacked(params), call, key))

    def prepare_inputs_for_generation(
        self, input_ids: Array, max_length: int, attention_mask: Array | None = None
    ) -> dict[str, Any]:
        """What a loop of one's own passes to the first call: an empty cache, a mask of all its places, positions."""
        model: Any = self
        batch, length = input_ids.shape
        given = jnp.ones((batch, length), jnp.int32) if attention_mask is None else jnp.asarray(attention_mask)
        mask = jnp.ones((batch, max_length), jnp.int32).at[:, :length].set(given.astype(jnp.int32))
        return {
            "past_key_values": model.init_cache(batch, max_length),
            "attention_mask": mask,
            "position_ids": _positions(model.spec, given),
        }

    def update_inputs_for_generation(self, model_outputs: Any, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the loop passes to the next call, with one new token a row."""
        return {
            **model_kwargs,
            "past_key_values": model_outputs.past_key_values,
            "position_ids": model_kwargs["position_ids"][:, -1:] + 1,
        }


def _positions(spec: Any, mask: Array) -> Array:
    """Positions (b, s) of prompts that are padded on the left: only real tokens count."""
    real = (mask > 0).astype(jnp.int32)
    return jnp.clip(real.cumsum(-1) - 1, 0) * real + spec.position_offset - (1 - real) * (spec.position_offset > 0)


@partial(compiled, constants=2)
def _generate(graph: Any, options: Options, params: Any, call: Call, key: Array) -> Array:
    net = nnx.merge(graph, params)
    ids = call.input_ids
    assert ids is not None
    batch, prompt = ids.shape
    total = options.max_length
    rows = jnp.full((batch, total), options.pad, ids.dtype).at[:, :prompt].set(ids)
    step = _cached(net, call, options) if options.cached else _whole(net, call, options)

    def unfinished(carry: Any) -> Array:
        at, _, done, _, _ = carry
        return (at < total) & ~done.all()

    def advance(carry: Any) -> Any:
        at, rows, done, key, cache = carry
        key, draw = jax.random.split(key)
        logits, cache = step(rows, at, cache)
        chosen = options.choose(options.shape(logits.astype(jnp.float32), rows, at), draw)
        token = jnp.where(done, options.pad, chosen.astype(rows.dtype))
        if options.eos:
            done = done | (token[:, None] == jnp.asarray(options.eos)[None]).any(-1)
        return at + 1, lax.dynamic_update_slice(rows, token[:, None], (0, at)), done, key, cache

    cache = _prefill(net, call, options) if options.cached else None
    state = (jnp.int32(prompt), rows, jnp.zeros(batch, bool), key, cache)
    return lax.while_loop(unfinished, advance, state)[1]


@partial(compiled, constants=2)
def _search(graph: Any, options: Options, params: Any, call: Call) -> tuple[Array, Array]:
    net, width, ids = nnx.merge(graph, params), options.beams.width, call.input_ids
    assert ids is not None
    batch, prompt = ids.shape
    rows = jnp.full((batch, options.max_length), options.pad, ids.dtype).at[:, :prompt].set(ids)
    mask = call.attention_mask
    wide = replace(
        call,
        input_ids=jnp.repeat(ids, width, 0),
        attention_mask=None if mask is None else jnp.repeat(mask, width, 0),
    )
    cache = None
    if options.cached:  # prompts are read once, then shared by their beams
        cache = {k: v if v.ndim == 0 else jnp.repeat(v, width, 1) for k, v in _prefill(net, call, options).items()}
    step = _cached(net, wide, options) if options.cached else _whole(net, wide, options)
    return beam_search(step, rows, prompt, cache, options.eos, options.beams, options.shape)


def _prompt_mask(call: Call, total: int) -> Array:
    """(b, total): the prompt's mask, and ones for what follows."""
    assert call.input_ids is not None
    batch, prompt = call.input_ids.shape
    mask = jnp.ones((batch, total), jnp.float32)
    return mask if call.attention_mask is None else mask.at[:, :prompt].set(call.attention_mask.astype(jnp.float32))


def _prefill(net: Any, call: Call, options: Options) -> Any:
    """The cache of the prompt without its last token, which the first step computes."""
    spec, ids = net.roberta.spec, call.input_ids
    assert ids is not None
    cache = empty_cache(spec, ids.shape[0], options.max_length, call.dtype)
    if ids.shape[1] == 1:
        return cache
    mask = _prompt_mask(call, options.max_length)
    places = _positions(spec, mask)[:, : ids.shape[1] - 1]
    first = replace(call, input_ids=ids[:, :-1], attention_mask=mask, position_ids=places, past_key_values=cache)
    return net.states(first).cache


def _cached(net: Any, call: Call, options: Options) -> Any:
    spec, mask = net.roberta.spec, _prompt_mask(call, options.max_length)
    places = _positions(spec, mask)

    def step(rows: Array, at: Array, cache: Any) -> tuple[Array, Any]:
        token = lax.dynamic_slice_in_dim(rows, at - 1, 1, axis=1)
        place = lax.dynamic_slice_in_dim(places, at - 1, 1, axis=1)
        one = replace(call, input_ids=token, attention_mask=mask, position_ids=place, past_key_values=cache)
        r = net.states(one)
        return net.score(r.states[:, -1]), r.cache

    return step


def _whole(net: Any, call: Call, options: Options) -> Any:
    """Every step sees the row so far; what lies behind it is hidden, or padding where the model counts tokens."""
    total = options.max_length + (options.filled is not None)
    mask = _prompt_mask(call, total)
    batch = mask.shape[0]

    def step(rows: Array, at: Array, cache: Any) -> tuple[Array, Any]:
        wide = jnp.full((batch, total), options.pad, rows.dtype).at[:, : rows.shape[1]].set(rows)
        asked = at - 1
        if options.filled is not None:
            wide = lax.dynamic_update_slice(wide, jnp.full((batch, 1), options.filled, rows.dtype), (0, at))
            asked = at
        seen = mask * (jnp.arange(total)[None] <= asked)
        langs = None if options.language is None else jnp.full_like(wide, options.language)
        places = _positions(net.roberta.spec, seen)
        states = net.states(replace(call, input_ids=wide, attention_mask=seen, langs=langs, position_ids=places)).states
        return net.score(lax.dynamic_slice_in_dim(states, asked, 1, axis=1)[:, 0]), cache

    return step
