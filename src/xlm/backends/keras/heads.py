"""What stands on top of the encoder. Heads take (b, s, h) states and know nothing of the layers below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from xlm.backends.keras.losses import wide
from xlm.backends.keras.ops import Table, Tensor, activation, dense, dropout, eager, layer_norm, linear, norm, sizes
from xlm.errors import ConfigError, InputError


def over_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of rows (rows, features) over an array of more axes."""
    shape = sizes(x)
    out = function(tf.reshape(x, (-1, shape[-1])))
    return tf.reshape(out, (*shape[:-1], out.shape[-1]))


class Pooler(keras.layers.Layer):
    """``tanh(dense(first token))``."""

    def __init__(self, hidden: int, dtype: Any) -> None:
        super().__init__(name="pooler", dtype=dtype)
        with keras.name_scope(self.name):
            self.dense = dense(hidden, hidden, "dense", dtype)
        self.built = True

    def forward(self, states: Tensor) -> Tensor:
        """(b, s, h) -> (b, h)."""
        return tf.tanh(linear(self.dense, states[:, 0]))


class Decoder(keras.layers.Layer):
    """Scores of the vocabulary, where they are not tied to the word table: weight (vocab, h)."""

    def __init__(self, vocab: int, hidden: int, dtype: Any) -> None:
        super().__init__(name="decoder", dtype=dtype)
        self.weight = self.add_weight(shape=(vocab, hidden), initializer="zeros", name="weight")
        self.built = True


class LMHead(keras.layers.Layer):
    """Dense, gelu, norm, and scores by the word table (XLM-R and XL)."""

    def __init__(self, hidden: int, vocab: int, eps: float, tied: bool, dtype: Any) -> None:
        super().__init__(name="lm_head", dtype=dtype)
        with keras.name_scope(self.name):
            self.dense = dense(hidden, hidden, "dense", dtype)
            self.layer_norm = layer_norm(hidden, eps, "layer_norm", dtype)
            self.decoder = None if tied else Decoder(vocab, hidden, dtype)
            self.bias = self.add_weight(shape=(vocab,), initializer="zeros", name="bias")
        self.built = True

    def forward(self, states: Tensor, words: Table) -> Tensor:
        """(..., h) -> (..., vocab); ``words`` is the table that the scores are tied to."""
        return over_rows(lambda rows: score(self.features(rows), words, self.decoder, self.bias), states)

    def features(self, rows: Tensor) -> Tensor:
        """The states that the table scores: (rows, h) -> (rows, h)."""
        return norm(self.layer_norm, tf.nn.gelu(linear(self.dense, rows)))


def score(rows: Tensor, words: Table, decoder: Decoder | None, bias: Any) -> Tensor:
    """Rows (rows, h) times the decoder, or the word table where there is none: (rows, vocab)."""
    weight = tf.cast((words if decoder is None else decoder).weight.value, rows.dtype)
    return tf.nn.bias_add(tf.matmul(rows, weight, transpose_b=True), tf.cast(bias.value, rows.dtype))


class XLMHead(keras.layers.Layer):
    """The word table with a bias, or an adaptive softmax (Grave et al. 2017) with weights of its own (XLM)."""

    published = {"bias": "decoder.bias"}

    def __init__(self, config: Any, dtype: Any) -> None:
        super().__init__(name="pred_layer", dtype=dtype)
        self.adaptive = bool(config.asm)
        with keras.name_scope(self.name):
            if self.adaptive:
                self.decoder: Any = AdaptiveSoftmax(config, dtype)
            else:
                tied = config.tie_word_embeddings
                self.decoder = None if tied else Decoder(config.vocab_size, config.emb_dim, dtype)
                self.bias = self.add_weight(shape=(config.vocab_size,), initializer="zeros", name="bias")
        self.built = True

    def forward(self, states: Tensor, words: Table) -> Tensor:
        """(..., h) -> (..., vocab): logits, or log-probabilities with the adaptive softmax."""
        if self.adaptive:
            return over_rows(self.decoder.forward, states)
        return over_rows(lambda rows: score(rows, words, self.decoder, self.bias), states)


class AdaptiveSoftmax(keras.layers.Layer):
    """Frequent words and clusters of rarer ones, each cluster with a narrower projection."""

    def __init__(self, config: Any, dtype: Any) -> None:
        super().__init__(name="decoder", dtype=dtype)
        hidden, self.cutoffs = config.emb_dim, [*config.asm_cutoffs, config.vocab_size]
        clusters = len(self.cutoffs) - 1
        with keras.name_scope(self.name):
            self.head = dense(hidden, self.cutoffs[0] + clusters, "head", dtype)
            self.tail = []
            for i in range(clusters):
                narrow, words = int(hidden // config.asm_div_value ** (i + 1)), self.cutoffs[i + 1] - self.cutoffs[i]
                down = dense(hidden, narrow, f"tail_{i}_0", dtype, bias=False)
                self.tail.append([down, dense(narrow, words, f"tail_{i}_1", dtype, bias=False)])
        self.built = True

    def forward(self, rows: Tensor) -> Tensor:
        """(rows, h) -> log-probabilities (rows, vocab)."""
        head = tf.nn.log_softmax(wide(linear(self.head, rows)))
        first = self.cutoffs[0]
        parts = [head[:, :first]]
        for i, (down, up) in enumerate(self.tail):
            own = tf.nn.log_softmax(wide(linear(up, linear(down, rows))))
            parts.append(own + head[:, first + i : first + i + 1])
        return tf.cast(tf.concat(parts, axis=1), rows.dtype)


class ClassificationHead(keras.layers.Layer):
    """Dense, tanh and projection of the first token, with dropout before each (XLM-R and XL)."""

    def __init__(self, hidden: int, labels: int, rate: float, dtype: Any) -> None:
        super().__init__(name="classifier", dtype=dtype)
        with keras.name_scope(self.name):
            self.dense = dense(hidden, hidden, "dense", dtype)
            self.dropout = keras.layers.Dropout(rate, dtype=dtype)
            self.out_proj = dense(hidden, labels, "out_proj", dtype)
        self.built = True

    def forward(self, states: Tensor, training: bool) -> Tensor:
        """(b, s, h) -> (b, labels)."""
        x = tf.tanh(linear(self.dense, dropout(self.dropout, states[:, 0], training)))
        return linear(self.out_proj, dropout(self.dropout, x, training))


class SequenceSummary(keras.layers.Layer):
    """One vector a sequence, by the ``summary_*`` keys of an XLM config."""

    def __init__(self, config: Any, dtype: Any) -> None:
        super().__init__(name="sequence_summary", dtype=dtype)
        self.kind = config.summary_type
        if self.kind == "attn":
            raise ConfigError("summary_type='attn': must be one of first, last, mean, cls_index")
        self.summary = None
        if config.summary_use_proj:
            to_labels = config.summary_proj_to_labels and config.num_labels > 0
            with keras.name_scope(self.name):
                width = config.num_labels if to_labels else config.emb_dim
                self.summary = dense(config.emb_dim, width, "summary", dtype)
        name = getattr(config, "summary_activation", None)
        self.act = activation(name) if name else tf.identity
        first, last = (getattr(config, f"summary_{place}_dropout", 0.0) or 0.0 for place in ("first", "last"))
        self.first_dropout = keras.layers.Dropout(first, dtype=dtype)
        self.last_dropout = keras.layers.Dropout(last, dtype=dtype)
        self.built = True

    def forward(self, states: Tensor, training: bool, cls_index: Tensor | None = None) -> Tensor:
        """(b, s, h) -> (b, h or labels); ``cls_index`` (b,) chooses tokens where ``summary_type`` says so."""
        if self.kind == "first":
            x = states[:, 0]
        elif self.kind == "mean":
            x = tf.reduce_mean(states, axis=1)
        elif self.kind == "last" or cls_index is None:
            x = states[:, -1]
        else:
            x = take_token(states, cls_index)
        x = dropout(self.first_dropout, x, training)
        x = x if self.summary is None else linear(self.summary, x)
        return dropout(self.last_dropout, self.act(x), training)


def take_token(states: Tensor, index: Tensor) -> Tensor:
    """The state (b, h) of one token a sequence: (b,) indices."""
    index = tf.reshape(index, (-1,))
    if eager(index) and bool(tf.reduce_any((index < 0) | (index >= states.shape[1]))):
        raise InputError(f"token index {index.numpy().tolist()}: must be from 0 to {states.shape[1] - 1}")
    return tf.gather(states, index, axis=1, batch_dims=1)
