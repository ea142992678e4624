"""PyTorch's packed attention on the CPU, where it has no kernel: imported, a loop stands in for it in this process."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen


@varlen._varlen_attn.register_kernel("cpu")
def _by_loop(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, *rest: Any) -> Any:
    """What the kernel computes on a GPU, (tokens, heads, d), sequence by sequence."""
    causal, out = rest[1], torch.zeros_like(q)
    for start, end in itertools.pairwise(cu_q.tolist()):
        assert 0 < end - start <= max_q
        part = [t[start:end].transpose(0, 1)[None] for t in (q, k, v)]
        out[start:end] = F.scaled_dot_product_attention(*part, is_causal=causal)[0].transpose(0, 1)
    return out, q.new_zeros(q.shape[1], q.shape[0], dtype=torch.float), torch.zeros(2, dtype=torch.uint64)
