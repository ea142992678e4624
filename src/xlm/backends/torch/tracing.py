"""Whether code runs to compute, or for a compiler or tracer that writes down what would be computed."""

from __future__ import annotations

import torch


def in_graph() -> bool:
    """Whether a compiler or tracer is looking: then no check may read a tensor's values."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
