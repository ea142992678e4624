"""What stands on top of the encoder. Heads take (b, s, h) states and know nothing of the layers below."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from xlm.backends.flax import losses
from xlm.backends.flax.ops import LayerNorm, Linear, activation, dropout, fork, gelu, parameter
from xlm.errors import ConfigError, InputError


class Pooler(nnx.Module):
    """``tanh(dense(first token))``."""

    def __init__(self, hidden: int) -> None:
        self.dense = Linear(hidden, hidden)

    def __call__(self, states: Array) -> Array:
        """(b, s, h) -> (b, h)."""
        return jnp.tanh(self.dense(states[:, 0]))


class LMHead(nnx.Module):
    """Dense, gelu, norm, and a decoder that is the word table or a matrix of its own (XLM-R and XL)."""

    def __init__(self, hidden: int, vocab: int, eps: float, tied: bool) -> None:
        self.dense = Linear(hidden, hidden)
        self.layer_norm = LayerNorm(hidden, eps)
        self.bias = parameter(vocab, axes=("vocab",))
        self.decoder = None if tied else Linear(hidden, vocab, bias=False, axes=(None, "vocab"))

    def __call__(self, x: Array, words: Array) -> Array:
        """(..., h) -> (..., vocab); ``words`` (vocab, h) is the word table."""
        x = self.layer_norm(gelu(self.dense(x)))
        y = x @ words.T.astype(x.dtype) if self.decoder is None else self.decoder(x)
        return y + self.bias[...].astype(x.dtype)


class Decoder(nnx.Module):
    """XLM's decoder: a bias, and a matrix where it is not the word table."""

    def __init__(self, hidden: int, vocab: int, tied: bool) -> None:
        self.bias = parameter(vocab, axes=("vocab",))
        self.kernel = None if tied else parameter(hidden, vocab, axes=(None, "vocab"))

    def __call__(self, x: Array, words: Array) -> Array:
        """(..., h) -> (..., vocab)."""
        kernel = words.T if self.kernel is None else self.kernel[...]
        return x @ kernel.astype(x.dtype) + self.bias[...].astype(x.dtype)


class AdaptiveDecoder(nnx.Module):
    """An adaptive softmax (Grave et al. 2017) with weights of its own: clusters of words by frequency."""

    def __init__(self, hidden: int, cutoffs: tuple[int, ...], div_value: float) -> None:
        self.cutoffs = cutoffs
        self.head = Linear(hidden, cutoffs[0] + len(cutoffs) - 1)
        self.tail = nnx.Module()
        for number, (low, high) in enumerate(pairwise(cutoffs)):
            inner = int(hidden // div_value ** (number + 1))
            pair = nnx.Module()
            setattr(pair, "0", Linear(hidden, inner, bias=False))
            setattr(pair, "1", Linear(inner, high - low, bias=False))
            setattr(self.tail, str(number), pair)

    def __call__(self, x: Array, words: Array) -> Array:
        """(..., h) -> (..., vocab) log-probabilities."""
        del words
        first = self.cutoffs[0]
        head = jax.nn.log_softmax(self.head(x).astype(jnp.float32))
        parts = [head[..., :first]]
        for number in range(len(self.cutoffs) - 1):
            pair = getattr(self.tail, str(number))
            inner = getattr(pair, "1")(getattr(pair, "0")(x)).astype(jnp.float32)
            parts.append(jax.nn.log_softmax(inner) + head[..., first + number, None])
        return jnp.concatenate(parts, axis=-1).astype(x.dtype)


class XLMHead(nnx.Module):
    """A decoder alone (XLM)."""

    def __init__(self, config: Any) -> None:
        if config.asm:
            cutoffs = (*config.asm_cutoffs, config.vocab_size)
            self.decoder: nnx.Module = AdaptiveDecoder(config.emb_dim, cutoffs, config.asm_div_value)
        else:
            self.decoder = Decoder(config.emb_dim, config.vocab_size, config.tie_word_embeddings)

    def __call__(self, x: Array, words: Array) -> Array:
        """(..., h) -> (..., vocab): logits, or log-probabilities with the adaptive softmax."""
        return self.decoder(x, words)  # type: ignore[operator]


class ClassificationHead(nnx.Module):
    """Dense, tanh and projection of the first token, with dropout before each (XLM-R and XL)."""

    def __init__(self, hidden: int, labels: int, rate: float) -> None:
        self.dense = Linear(hidden, hidden)
        self.out_proj = Linear(hidden, labels)
        self.dropout = rate

    def __call__(self, states: Array, key: Array | None) -> Array:
        """(b, s, h) -> (b, labels)."""
        one, two = fork(key, 2)
        x = jnp.tanh(self.dense(dropout(states[:, 0], self.dropout, one)))
        return self.out_proj(dropout(x, self.dropout, two))


class SequenceSummary(nnx.Module):
    """One vector a sequence, by the ``summary_*`` keys of an XLM config."""

    def __init__(self, config: Any) -> None:
        self.kind = config.summary_type
        if self.kind == "attn":
            raise ConfigError("summary_type='attn': must be one of first, last, mean, cls_index")
        to_labels = config.summary_proj_to_labels and config.num_labels > 0
        width = config.num_labels if to_labels else config.emb_dim
        self.summary = Linear(config.emb_dim, width) if config.summary_use_proj else None
        name = getattr(config, "summary_activation", None)
        self.act = activation(name) if name else None
        self.first_dropout = float(getattr(config, "summary_first_dropout", 0.0) or 0.0)
        self.last_dropout = float(getattr(config, "summary_last_dropout", 0.0) or 0.0)

    def __call__(self, states: Array, key: Array | None, cls_index: Array | None = None) -> Array:
        """(b, s, h) -> (b, h or labels); ``cls_index`` (b,) chooses tokens where ``summary_type`` says so."""
        one, two = fork(key, 2)
        if self.kind == "first":
            x = states[:, 0]
        elif self.kind == "last":
            x = states[:, -1]
        elif self.kind == "mean":
            x = states.mean(axis=1)
        else:
            x = take_token(states, cls_index)
        x = dropout(x, self.first_dropout, one)
        x = x if self.summary is None else self.summary(x)
        return dropout(x if self.act is None else self.act(x), self.last_dropout, two)


def take_token(states: Array, index: Array | None) -> Array:
    """The state (b, h) of one token a sequence: (b,) indices, the last token where there are none."""
    if index is None:
        return states[:, -1]
    return jnp.take_along_axis(states, index.reshape(-1, 1, 1), axis=1)[:, 0]


def forbid(scores: Array, p_mask: Array | None) -> Array:
    """Push the scores of places where ``p_mask`` is 1 out of reach."""
    if p_mask is None:
        return scores
    far = 65500.0 if scores.dtype == jnp.float16 else 1e30
    p_mask = p_mask.astype(scores.dtype)
    return scores * (1 - p_mask) - far * p_mask


class StartLogits(nnx.Module):
    """Scores of an answer's first token."""

    def __init__(self, hidden: int) -> None:
        self.dense = Linear(hidden, 1)

    def __call__(self, states: Array, p_mask: Array | None) -> Array:
        """(b, s, h) -> (b, s)."""
        return forbid(self.dense(states)[..., 0], p_mask)


class EndLogits(nnx.Module):
    """Scores of an answer's last token, given its first."""

    def __init__(self, hidden: int, eps: float) -> None:
        self.dense_0 = Linear(2 * hidden, hidden)
        self.LayerNorm = LayerNorm(hidden, eps)
        self.dense_1 = Linear(hidden, 1)

    def __call__(self, states: Array, start: Array, p_mask: Array | None) -> Array:
        """States (..., s, h) and the start's state, broadcast to them -> (..., s)."""
        shape = jnp.broadcast_shapes(states.shape, start.shape)
        both = jnp.concatenate([jnp.broadcast_to(states, shape), jnp.broadcast_to(start, shape)], axis=-1)
        return forbid(self.dense_1(self.LayerNorm(jnp.tanh(self.dense_0(both))))[..., 0], p_mask)


class AnswerClass(nnx.Module):
    """Score of a question having no answer."""

    def __init__(self, hidden: int) -> None:
        self.dense_0 = Linear(2 * hidden, hidden)
        self.dense_1 = Linear(hidden, 1, bias=False)

    def __call__(self, start: Array, token: Array) -> Array:
        """(b, h) and (b, h) -> (b,)."""
        return self.dense_1(jnp.tanh(self.dense_0(jnp.concatenate([start, token], axis=-1))))[..., 0]


class BeamQAHead(nnx.Module):
    """The answer head of XLNet's paper (Yang et al. 2019) that XLM's question answering uses."""

    def __init__(self, config: Any) -> None:
        self.start_n_top, self.end_n_top = config.start_n_top, config.end_n_top
        self.start_logits = StartLogits(config.emb_dim)
        self.end_logits = EndLogits(config.emb_dim, config.layer_norm_eps)
        self.answer_class = AnswerClass(config.emb_dim)

    def loss(
        self,
        x: Array,
        start: Array,
        end: Array,
        cls_index: Array | None,
        is_impossible: Array | None,
        p_mask: Array | None,
    ) -> Array:
        """Training loss from gold positions (b,); ``is_impossible`` (b,) adds half its own loss."""
        state = take_token(x, start)
        total = (
            losses.cross_entropy(self.start_logits(x, p_mask), start)
            + losses.cross_entropy(self.end_logits(x, state[:, None], p_mask), end)
        ) / 2
        if cls_index is not None and is_impossible is not None:
            score = self.answer_class(state, take_token(x, cls_index)).astype(jnp.float32)
            wanted = is_impossible.reshape(-1).astype(jnp.float32)
            total = total + 0.5 * (jax.nn.softplus(score) - score * wanted).mean()
        return total

    def search(self, x: Array, cls_index: Array | None, p_mask: Array | None) -> tuple[Array, ...]:
        """Best starts and, for each, best ends; see :class:`xlm.outputs.XLMForQuestionAnsweringOutput`."""
        batch, length, _ = x.shape
        for key in ("start_n_top", "end_n_top"):
            if getattr(self, key) > length:
                raise InputError(f"{key}={getattr(self, key)}: the input has {length} tokens")
        start_p = jax.nn.softmax(self.start_logits(x, p_mask).astype(jnp.float32)).astype(x.dtype)
        start_top, start_index = jax.lax.top_k(start_p, self.start_n_top)
        starts = jnp.take_along_axis(x, start_index[..., None], axis=1)
        # (b, starts, s): the ends for each start.
        ends = self.end_logits(x[:, None], starts[:, :, None], None if p_mask is None else p_mask[:, None])
        end_p = jax.nn.softmax(ends.astype(jnp.float32)).astype(x.dtype)
        end_top, end_index = (
            t.swapaxes(1, 2).reshape(batch, self.start_n_top * self.end_n_top)
            for t in jax.lax.top_k(end_p, self.end_n_top)
        )
        cls = self.answer_class(jnp.einsum("bsh,bs->bh", x, start_p), take_token(x, cls_index))
        return start_top, start_index, end_top, end_index, cls
