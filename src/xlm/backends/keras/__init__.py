"""The TensorFlow backend: one Keras encoder for all families, and the documented ``TF…`` classes on top of it."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # before the first import of keras, which reads it once

import keras

from xlm.errors import ConfigError

if keras.backend.backend() != "tensorflow":
    raise ConfigError(
        f"KERAS_BACKEND={keras.backend.backend()!r}: the TF classes need 'tensorflow'; set it before keras is imported"
    )
