"""The PyTorch backend: one encoder for all families, and the documented classes on top of it."""
