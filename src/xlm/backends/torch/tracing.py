"""Whether code runs to compute, or for a compiler, tracer or CUDA graph that writes down what would be computed."""

from __future__ import annotations

import torch


def in_graph() -> bool:
    """Whether a compiler, a tracer or a CUDA graph is looking: then no check may read a tensor's values."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
