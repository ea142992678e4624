"""The primitive operations that an encoder is built on.

Keras layers hold the weights; what is computed with them is plain TensorFlow on rows, without a Keras call for every
small step: tracing a deep model takes seconds less, and eager calls are quicker. Norms and softmax compute in float32
whatever the policy; layers that were quantized are called as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from xlm.errors import ConfigError

Tensor = Any

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": tf.nn.gelu,
    "gelu_new": lambda x: tf.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "relu": tf.nn.relu,
    "silu": tf.nn.silu,
    "swish": tf.nn.silu,
    "tanh": tf.tanh,
    "sigmoid": tf.sigmoid,
    "mish": lambda x: x * tf.tanh(tf.nn.softplus(x)),
    "linear": tf.identity,
    "identity": tf.identity,
}


def activation(act: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function of an activation's name; a callable is its own function.

    Raises:
        ConfigError: an unknown name.
    """
    if not isinstance(act, str):
        return act
    if act not in ACTIVATIONS:
        raise ConfigError(f"activation {act!r}: must be one of {', '.join(sorted(ACTIVATIONS))} or a callable")
    return ACTIVATIONS[act]


class Table(keras.layers.Layer):
    """Rows of numbers to look up. ``pad`` names a row that starts at zero and that looking up does not train."""

    def __init__(self, rows: int, width: int, name: str, dtype: Any, pad: int | None = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.pad = pad
        # Never cast as a whole: a half-precision policy casts the rows that were looked up.
        self.weight = self.add_weight(shape=(rows, width), initializer="zeros", name="weight", autocast=False)
        self.built = True

    def rows(self, ids: Tensor) -> Tensor:
        """The rows of integer ids, one axis more, in the type to compute in."""
        found = tf.cast(tf.gather(self.weight.value, ids), self.compute_dtype)
        return found if self.pad is None else tf.where((ids == self.pad)[..., None], tf.stop_gradient(found), found)


def dense(inputs: int, outputs: int, name: str, dtype: Any, bias: bool = True) -> keras.layers.Dense:
    """A linear layer whose weights exist already."""
    layer = keras.layers.Dense(outputs, use_bias=bias, kernel_initializer="zeros", name=name, dtype=dtype)
    layer.build((None, inputs))
    return layer


def layer_norm(width: int, eps: float, name: str, dtype: Any) -> keras.layers.LayerNormalization:
    """A layer normalisation whose weights exist already."""
    layer = keras.layers.LayerNormalization(epsilon=eps, name=name, dtype=dtype)
    layer.build((None, width))
    return layer


def linear(layer: keras.layers.Dense, x: Tensor) -> Tensor:
    """(rows, inputs) -> (rows, outputs)."""
    if layer.quantization_mode is not None:
        return layer(x)
    x = tf.matmul(x, tf.convert_to_tensor(layer.kernel))
    return x if layer.bias is None else tf.nn.bias_add(x, tf.convert_to_tensor(layer.bias))


def norm(layer: keras.layers.LayerNormalization, x: Tensor) -> Tensor:
    """Layer normalisation of the last axis, in float32 at least."""
    wide = x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
    mean, variance = tf.nn.moments(wide, -1, keepdims=True)
    variables: tuple[Any, Any] = (layer.gamma, layer.beta)
    gamma, beta = (tf.cast(variable.value, wide.dtype) for variable in variables)
    return tf.cast(tf.nn.batch_normalization(wide, mean, variance, beta, gamma, layer.epsilon), x.dtype)


def wide_type(dtype: Any) -> Any:
    """The type of scores and their biases: float32 at least."""
    return dtype if dtype == tf.float64 else tf.float32


def softmax(scores: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax of the last axis, in float32 at least: sums of long rows lose accuracy in half precision.

    ``bias``, of the wide type, is added there: beside the lowest float16 a low score is minus infinity.
    """
    wide = tf.cast(scores, wide_type(scores.dtype))
    return tf.cast(tf.nn.softmax(wide if bias is None else wide + bias), scores.dtype)


def dropout(layer: keras.layers.Dropout, x: Tensor, training: bool) -> Tensor:
    """The layer where it does anything."""
    return layer(x, training=True) if training and layer.rate else x


def sizes(x: Tensor) -> list[Any]:
    """The shape: numbers where they are known while tracing, scalar tensors where not."""
    dynamic = tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(x.shape)]


def eager(x: Any) -> bool:
    """Whether the values may be read: not inside a graph."""
    return tf.executing_eagerly() and isinstance(x, tf.Tensor)
