"""Beam search in one compiled loop, over whatever scores the next tokens.

Shapes: B prompts, W beams of each, V tokens, C candidates looked at in a step, L places of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from xlm.errors import InputError

Step = Callable[[Array, Array, Any], tuple[Array, Any]]
"""Rows (B*W, L), the place to fill and a cache -> scores (B*W, V) of that place, and the cache."""
Shape = Callable[[Array, Array, Array], Array]
_NEVER = -1e9
"""The sum of log-probabilities of beams that do not exist yet."""


@dataclass(frozen=True)
class Beams:
    """What shapes the search; hashable, since each is compiled on its own."""

    width: int = 1
    returned: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False

    def check(self, do_sample: bool) -> None:
        """Refuse impossible values."""
        if self.width < 1 or self.returned < 1:
            raise InputError(f"num_beams={self.width}, num_return_sequences={self.returned}: at least 1")
        if self.returned > self.width:
            raise InputError(f"num_return_sequences={self.returned}: at most num_beams={self.width}")
        if self.width > 1 and do_sample:
            raise InputError(f"num_beams={self.width}: Flax models sample without beams; set do_sample=False")
        if self.early_stopping not in (False, True, "never"):
            raise InputError(f"early_stopping={self.early_stopping!r}: must be False, True or 'never'")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    at: Array
    rows: Array  # (B, W, L), padded behind `at`
    sums: Array  # (B, W), best first
    ended: Array  # (B, W, L)
    scores: Array  # (B, W) of the ended: best first, -inf where none is
    closed: Array  # (B,)
    cache: Any


def beam_search(
    step: Step, rows: Array, begun: int, cache: Any, eos: tuple[int, ...], beams: Beams, shape: Shape
) -> tuple[Any, Any]:
    """The best continuations by summed log-probability over length ** ``length_penalty``.

    Each step keeps the W best open rows of a prompt. Ended ones among its W best candidates compete for W places; a prompt is
    closed when these are taken by rows better than its best candidate or, with ``early_stopping``, taken at all.

    Args:
        rows: (B, L) prompts, padded behind ``begun``.
        cache: of B*W rows, along the second axis of its arrays; ``None`` where the model keeps none.
        shape: log-probabilities (B*W, V), rows (B*W, L) and the place to fill -> what counts instead of them.

    Returns:
        rows (B * returned, L) and their scores (B * returned,).
    """
    batch, total = rows.shape
    width, penalty = beams.width, beams.length_penalty
    ends = jnp.asarray(eos, rows.dtype)
    early, never = beams.early_stopping is True, beams.early_stopping == "never"

    def advance(state: _State) -> _State:
        flat = state.rows.reshape(-1, total)
        scores, cache = step(flat, state.at, state.cache)
        scores = shape(jax.nn.log_softmax(scores.astype(jnp.float32)), flat, state.at)
        sums = scores.reshape(batch, width, -1) + state.sums[..., None]
        vocabulary = sums.shape[-1]
        count = min(max(2, 1 + len(eos)) * width, width * vocabulary)
        values_BC, places_BC = lax.top_k(sums.reshape(batch, -1), count)
        beams_BC, tokens_BC = places_BC // vocabulary, (places_BC % vocabulary).astype(rows.dtype)
        hits_BC = (tokens_BC[..., None] == ends).any(-1)
        length = (state.at + 1 - begun).astype(jnp.float32) ** penalty
        # "never" hopes for the best length there may be: sums are negative, so with a positive penalty the longest.
        hoped = float(total - begun) ** penalty if never and penalty > 0 else length

        counted = hits_BC[:, :width] & ~state.closed[:, None]
        found = jnp.where(counted, values_BC[:, :width] / length, -jnp.inf)
        longer = _extend(state.rows, beams_BC[:, :width], tokens_BC[:, :width], state.at)
        ended, kept = _best(state.ended, state.scores, longer, found)
        closed = state.closed | (jnp.isfinite(kept).all(1) & (early | (kept.min(1) >= values_BC[:, 0] / hoped)))

        going, order = lax.top_k(jnp.where(hits_BC, -jnp.inf, values_BC), width)
        parents = jnp.take_along_axis(beams_BC, order, 1)
        new = _extend(state.rows, parents, jnp.take_along_axis(tokens_BC, order, 1), state.at)
        if cache is not None:
            at = (jnp.arange(batch)[:, None] * width + parents).reshape(-1)
            cache = {k: v if v.ndim == 0 else v[:, at] for k, v in cache.items()}
        return _State(state.at + 1, new, going, ended, kept, closed, cache)

    state = _State(
        jnp.int32(begun),
        jnp.repeat(rows[:, None], width, 1),
        jnp.full((batch, width), _NEVER).at[:, 0].set(0.0),
        jnp.repeat(rows[:, None], width, 1),
        jnp.full((batch, width), -jnp.inf),
        jnp.zeros(batch, bool),
        cache,
    )
    state = lax.while_loop(lambda s: (s.at < total) & ~s.closed.all(), advance, state)
    # What is still open at the end competes as it is.
    length = jnp.maximum(1, state.at - begun).astype(jnp.float32) ** penalty
    still = jnp.where(state.closed[:, None], -jnp.inf, state.sums / length)
    ended, scores = _best(state.ended, state.scores, state.rows, still)
    return ended[:, : beams.returned].reshape(-1, total), scores[:, : beams.returned].reshape(-1)


def _extend(rows: Array, parents: Array, tokens: Array, at: Array) -> Array:
    """Rows (B, n, L): those of ``parents`` (B, n) with ``tokens`` (B, n) at a place."""
    taken = jnp.take_along_axis(rows, parents[..., None], 1)
    return lax.dynamic_update_slice(taken, tokens[..., None], (0, 0, at))


def _best(rows: Array, scores: Array, others: Array, found: Array) -> tuple[Array, Array]:
    """The W best of two lists of W rows (B, W, L) with their scores (B, W); the first list wins ties."""
    best, order = lax.top_k(jnp.concatenate([scores, found], 1), scores.shape[1])
    return jnp.take_along_axis(jnp.concatenate([rows, others], 1), order[..., None], 1), best
