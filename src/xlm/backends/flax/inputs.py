"""From what a caller gives to a checked :class:`Call`: shapes always, values where they can be read (not under ``jit``)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from xlm.backends.flax import losses
from xlm.backends.flax.ops import floats, integers, traced
from xlm.backends.flax.trunk import Call
from xlm.errors import InputError
from xlm.families.spec import EncoderSpec

COMPARED = ("labels", "start_positions", "end_positions", "is_impossible", "cls_index", "p_mask")


def make_call(
    net: Any, spec: EncoderSpec, config: Any, given: dict[str, Any], *, train: bool, dtype: Any, remat: bool
) -> Call:
    """Check the arguments of a documented call.

    Args:
        net: the class of the module that answers; it says what the head takes.
        given: argument -> value, as the caller wrote them.

    Raises:
        InputError: names the argument, its value and the limit.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name in COMPARED:
        if name in given and name not in net.compares:
            raise InputError(f"{name}: not an argument of this class, which takes {', '.join(net.compares) or 'none'}")
    if "segment_ids" in given and not net.packs:
        raise InputError("segment_ids: this head reads one token a row, so a row can hold only one sequence")
    out: dict[str, Any] = {}
    shape = _source(net, spec, given, out)
    _rows(spec, given, out, shape)
    _masks(net, spec, given, out, shape)
    if "past_key_values" in given:
        _past(spec, given, out, shape)
    elif spec.position_kind == "absolute" and "position_ids" not in given:
        longest = shape[-1] if "segment_ids" not in given else _longest(given["segment_ids"])
        if longest > spec.max_tokens:
            raise InputError(
                f"{longest} tokens: the model has positions for {spec.max_tokens} "
                f"(max_position_embeddings={spec.max_positions})"
            )
    _compared(net, spec, config, given, out, shape)
    if train:
        if "dropout_rng" not in given:
            raise InputError("train=True: give dropout_rng=jax.random.key(...), the source of dropout's randomness")
        out["dropout_rng"] = given["dropout_rng"]
    for name in ("output_attentions", "output_hidden_states"):
        out[name] = bool(given.get(name, getattr(config, name)))
    return Call(**out, dtype=jnp.dtype(dtype), remat=remat)


def _source(net: Any, spec: EncoderSpec, given: dict[str, Any], out: dict[str, Any]) -> tuple[int, ...]:
    """The shape of the tokens: (b, s), with choices (b, choices, s)."""
    if ("input_ids" in given) == ("inputs_embeds" in given):
        raise InputError("give either input_ids or inputs_embeds" + (", not both" if "input_ids" in given else ""))
    axes = "batch, choices, sequence" if net.choices else "batch, sequence"
    if "input_ids" in given:
        ids = integers("input_ids", given["input_ids"], spec.vocab_size, "the vocabulary")
        if ids.ndim != 2 + net.choices:
            raise InputError(f"input_ids of shape {tuple(ids.shape)}: must be ({axes})")
        out["input_ids"] = ids
        return tuple(ids.shape)
    embeds = floats("inputs_embeds", given["inputs_embeds"])
    if embeds.ndim != 3 + net.choices or embeds.shape[-1] != spec.hidden_size:
        raise InputError(f"inputs_embeds of shape {tuple(embeds.shape)}: must be ({axes}, {spec.hidden_size})")
    # Choices are flattened with their last axis as it is.
    out["inputs_embeds"] = embeds
    return tuple(embeds.shape[:-1])


def _rows(spec: EncoderSpec, given: dict[str, Any], out: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Ids that go with each token."""
    types = (
        (spec.vocab_size, "the vocabulary") if spec.token_types_from_words else (spec.num_token_types, "token types")
    )
    places = (spec.max_positions, f"the longest input has {spec.max_tokens} tokens")
    limits: dict[str, tuple[int | None, str]] = {
        "token_type_ids": types,
        "position_ids": places if spec.position_kind == "absolute" else (None, ""),
        "langs": (spec.num_languages or None, "n_langs"),
        "segment_ids": (2**31 - 1, "0 is padding, sequences count from 1"),
    }
    for name, (limit, owner) in limits.items():
        if name not in given:
            continue
        rows = integers(name, given[name], limit, owner)
        if rows.ndim == len(shape) - 1:
            rows = rows[None]
        if rows.ndim != len(shape) or rows.shape[0] not in (1, shape[0]) or tuple(rows.shape[1:]) != shape[1:]:
            raise InputError(f"{name} of shape {tuple(rows.shape)}: must be {shape} like the input")
        out[name] = jnp.broadcast_to(rows, shape)
    if "lengths" in given:
        lengths = integers("lengths", given["lengths"], shape[-1] + 1, "tokens of the input")
        if tuple(lengths.shape) != shape[:1]:
            raise InputError(f"lengths of shape {tuple(lengths.shape)}: must be ({shape[0]},)")
        out["lengths"] = lengths


def _masks(net: Any, spec: EncoderSpec, given: dict[str, Any], out: dict[str, Any], shape: tuple[int, ...]) -> None:
    for name in ("attention_mask", "encoder_attention_mask"):
        if name in given:
            out[name] = floats(name, given[name], 0, 1)
    mask = out.get("attention_mask")
    flat = net.choices or (spec.lengths_make_mask and "past_key_values" not in given)
    if mask is not None and flat and tuple(mask.shape) != shape:
        raise InputError(f"attention_mask of shape {tuple(mask.shape)}: must be {shape} like the input")
    for name in ("head_mask", "encoder_hidden_states"):
        if name in given:
            out[name] = floats(name, given[name])


def _past(spec: EncoderSpec, given: dict[str, Any], out: dict[str, Any], shape: tuple[int, ...]) -> None:
    cache, new = given["past_key_values"], shape[-1]
    if not (spec.is_decoder or spec.causal_only):
        raise InputError("past_key_values: the model sees later tokens too, so nothing can be cached")
    if "segment_ids" in given:
        raise InputError("segment_ids: not together with past_key_values")
    if not isinstance(cache, dict) or not {"cached_key", "cached_value", "cache_index"} <= cache.keys():
        raise InputError("past_key_values: must be what init_cache or an earlier call returned")
    if cache["cached_key"].shape[0] != spec.num_layers:
        raise InputError(f"past_key_values of {cache['cached_key'].shape[0]} layers: the model has {spec.num_layers}")
    for name in ("cached_key", "cached_value"):
        found, fixed = tuple(cache[name].shape), (spec.num_layers, shape[0], spec.num_heads, spec.head_size)
        if len(found) != 5 or (*found[:2], *found[3:]) != fixed:
            wanted = f"({fixed[0]}, {fixed[1]}, places, {fixed[2]}, {fixed[3]})"
            raise InputError(f"past_key_values: {name} of shape {found}: must be {wanted}")
    if not traced(cache["cache_index"]):
        past, places = int(cache["cache_index"]), cache["cached_key"].shape[2]
        if past + new > places:
            raise InputError(f"{new} tokens after {past} in the cache: init_cache made room for {places}")
    out["past_key_values"] = cache


def _longest(segments: Any) -> int:
    """Tokens of the longest sequence in packed rows; 0 while they are traced."""
    if traced(segments):
        return 0
    rows = np.asarray(segments)
    rows = rows[None] if rows.ndim == 1 else rows
    edges = np.concatenate([np.ones_like(rows[:, :1], bool), rows[:, 1:] != rows[:, :-1]], axis=1)
    starts = np.flatnonzero(edges)
    return int(np.diff(np.append(starts, rows.size)).max(initial=0))


def _compared(
    net: Any, spec: EncoderSpec, config: Any, given: dict[str, Any], out: dict[str, Any], shape: tuple[int, ...]
) -> None:
    if "labels" in given:
        labels = given["labels"]
        labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
        if net.label_kind == "problem":
            out["problem"] = losses.problem_of(config, labels)
            if out["problem"] != "single_label_classification":
                values = floats("labels", labels)
                if out["problem"] == "regression" and config.num_labels == 1:
                    values = _one_each("labels", values, shape[0])
                elif tuple(values.shape) != (shape[0], config.num_labels):
                    wanted = (shape[0], config.num_labels)
                    raise InputError(f"labels of shape {tuple(values.shape)}: must be {wanted}")
                out["labels"] = values
                return
        out["labels"] = _classes(net, spec, config, labels, shape)
    for name in ("start_positions", "end_positions", "cls_index"):
        if name in given:
            # Of extractive answers places outside the input have a meaning; of beams and of cls_index they have none.
            limit = (None, "") if net.clamps else (shape[-1], "tokens of the input")
            out[name] = integers(name, _one_each(name, given[name], shape[0]), *limit)
    if "is_impossible" in given:
        out["is_impossible"] = floats(
            "is_impossible", _one_each("is_impossible", given["is_impossible"], shape[0]), 0, 1
        )
    if "p_mask" in given:
        out["p_mask"] = floats("p_mask", given["p_mask"], 0, 1)
        if tuple(out["p_mask"].shape) != shape:
            raise InputError(f"p_mask of shape {tuple(out['p_mask'].shape)}: must be {shape} like the input")


def _one_each(name: str, value: Any, batch: int) -> Any:
    """One value a sequence, (b,) or (b, 1), as (b,)."""
    value = value if hasattr(value, "dtype") else np.asarray(value)
    if tuple(value.shape) not in ((batch,), (batch, 1)):
        raise InputError(f"{name} of shape {tuple(value.shape)}: must be ({batch},)")
    return value.reshape(batch)


def _classes(net: Any, spec: EncoderSpec, config: Any, labels: Any, shape: tuple[int, ...]) -> Array:
    """Class labels of the head: a class a token, a text or a choice; ``-100`` where nothing is asked."""
    counts = {"vocabulary": spec.vocab_size, "choices": shape[1]}
    classes: int = counts.get(net.label_kind) or config.num_labels
    wanted = shape if net.label_kind in ("vocabulary", "tokens") else shape[:1]
    if not traced(labels):
        host = np.asarray(labels)
        if host.dtype.kind not in "iu":
            raise InputError(f"labels of dtype {host.dtype}: classes are integers")
        bad = (host != losses.IGNORED) & ((host < 0) | (host >= classes))
        if bad.any():
            place = tuple(np.argwhere(bad)[0].tolist())
            raise InputError(f"labels{list(place)}={int(host[place])}: must be -100 or from 0 to {classes - 1}")
    if len(wanted) == 1:
        labels = _one_each("labels", labels, shape[0])
    if tuple(labels.shape) != wanted:
        raise InputError(f"labels of shape {tuple(labels.shape)}: must be {wanted}")
    return integers("labels", labels)
