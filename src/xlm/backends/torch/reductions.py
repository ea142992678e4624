"""What is wanted of states and logits, made where they are: a GPU's host then reads vectors and candidates, not all of them.

On the CPU they are those of :mod:`xlm.tasks`, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xlm.backends.torch.transfer import host_tensor, upload
from xlm.errors import InputError
from xlm.tasks.fill import top
from xlm.tasks.retrieve import POOLINGS, pool


def pool_rows(states_TH: Tensor, lengths: Sequence[int], pooling: str) -> Tensor:
    """One vector (n, hidden) float32 for each of n sequences whose states lie end to end: `xlm.tasks.retrieve.pool`.

    Raises:
        InputError: an unknown pooling.
    """
    if states_TH.device.type == "cpu":
        return torch.from_numpy(pool(states_TH.float().numpy(), lengths, pooling))
    return reduce_rows(states_TH, upload(host_tensor(lengths), states_TH.device), pooling)


def reduce_rows(states_TH: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """The same on any device, ``lengths`` (n,) beside the states; no length is 0.

    Every sequence is summed by itself in its own order, in float32: no neighbour, and no race of threads, changes a bit.
    """
    if pooling not in POOLINGS:
        raise InputError(f"pooling is {pooling!r}: it must be one of {', '.join(POOLINGS)}")
    if pooling == "cls":
        return states_TH.index_select(0, lengths.cumsum(0) - lengths).float()
    # unsafe: not whether the lengths add up, for which the host would wait
    return torch.segment_reduce(states_TH.float(), pooling, lengths=lengths, axis=0, unsafe=True)


def top_tokens(logits_NV: Tensor, count: int, limit: int) -> tuple[Tensor, Tensor]:
    """Ids and probabilities (n, count) of the largest logits below the id ``limit``: `xlm.tasks.fill.top`.

    Largest first, the lower id first among equals; the softmax runs over all columns in float64. On a GPU a row with NaN has
    probabilities that are NaN.

    Raises:
        InputError: on the CPU, a logit is not a number.
    """
    if logits_NV.device.type == "cpu":
        ids, probabilities = top(logits_NV.float().numpy(), count, limit)
        return torch.from_numpy(ids), torch.from_numpy(probabilities)
    return largest_tokens(logits_NV, count, limit)


def largest_tokens(logits_NV: Tensor, count: int, limit: int) -> tuple[Tensor, Tensor]:
    """The same on any device."""
    logits_NV = logits_NV.float()
    bits = logits_NV[:, :limit].contiguous().view(torch.int32)
    # Integers in the order of the floats, and behind each its id: no two are equal.
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    last = ordered.shape[1] - 1
    keys = (ordered << 32) + (last - torch.arange(last + 1, device=bits.device))
    chosen = last - (torch.topk(keys, min(count, last + 1), dim=1).values & 0xFFFFFFFF)
    wide = logits_NV.double()
    return chosen, (wide.gather(1, chosen) - wide.logsumexp(1, keepdim=True)).exp()
