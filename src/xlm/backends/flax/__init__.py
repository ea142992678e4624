"""The Flax backend: one encoder for all families in Flax NNX, and the documented classes on top of it."""
