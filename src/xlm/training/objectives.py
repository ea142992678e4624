"""The losses of a step, and their gradients: each function runs forward and backward for one micro-batch.

``H`` hidden, ``V`` vocabulary, ``N`` tokens of the micro-batch, ``M`` masked tokens. Logits exist only for masked
tokens, and for at most ``chunk`` of those at a time, so nothing of the shape (N, V) is ever held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlm.backends.torch.transfer import host_tensor, upload
from xlm.batches.batch import Batch
from xlm.batches.packing import sequence_ids
from xlm.families.spec import EncoderSpec
from xlm.training.fused import linear_cross_entropy
from xlm.training.steps import MicroBatch

LOGIT_ELEMENTS = 1 << 26  # logits held at a time on a CPU: 256 MiB in fp32
_GPU_LOGIT_ELEMENTS = 1 << 29


@dataclass(frozen=True)
class Result:
    """``loss`` and ``correct`` are sums over ``count`` predictions: numbers, or tensors of one number, which are read when the
    work of a step has been handed to the device."""

    loss: Tensor | float
    correct: Tensor | int
    count: int


def to_batch(micro: MicroBatch, spec: EncoderSpec) -> Batch:
    """The micro-batch's rows as the encoder's packed input, on the host: the model checks them there and takes them over."""
    positions = None if micro.position_ids is None else micro.position_ids + spec.position_offset

    def tensor(array: Any) -> Tensor | None:
        return None if array is None else torch.from_numpy(array)

    return Batch.packed(
        tensor(micro.ids),
        micro.lengths,
        position_ids=tensor(positions),
        languages=tensor(micro.languages) if spec.num_languages else None,
    )


def gpu_logits(memory: float) -> int:
    """How many logits a GPU of ``memory`` bytes holds at a time: for large products, in a twentieth of its memory.

    Of the whole memory, not of what is free: how a loss is cut, and so its rounding, is the same in every run.
    """
    return min(_GPU_LOGIT_ELEMENTS, int(memory) >> 7)


def _held_logits(device: torch.device) -> int:
    if device.type != "cuda":
        return LOGIT_ELEMENTS
    return gpu_logits(torch.cuda.get_device_properties(device).total_memory)


def masked_loss(model: Any, rows_MH: Tensor, micro: MicroBatch, scale: float) -> tuple[Tensor, Result]:
    """Cross-entropy of the masked tokens, back-propagated through the head into its ``.grad``, times ``scale``.

    ``rows_MH`` are the states at ``micro.positions``. The head runs chunk by chunk, forward and backward, from a leaf that
    stands for them. What remains to be back-propagated through the encoder is the returned scalar, whose gradient is the
    leaf's: the same numbers as one big backward, without its memory.
    """
    device = rows_MH.device
    targets = upload(torch.from_numpy(micro.targets), device)
    leaf_MH = rows_MH.detach().requires_grad_()
    vocabulary = int(model.config.vocab_size)
    decoder = model.get_output_embeddings()
    if isinstance(decoder, nn.Linear) and hasattr(model.lm_head, "features"):
        features_MH = model.lm_head.features(leaf_MH)
        if torch.is_autocast_enabled(device.type):
            features_MH = features_MH.to(torch.get_autocast_dtype(device.type))
        size = max(_held_logits(device) // vocabulary, 1)
        with torch.autocast(device.type, enabled=False):
            loss, correct, gradient_MH = linear_cross_entropy(
                features_MH.detach(), targets, decoder.weight, decoder.bias, scale, size
            )
        if features_MH is not leaf_MH:
            features_MH.backward(gradient_MH)
            assert leaf_MH.grad is not None
            gradient_MH = leaf_MH.grad
    else:  # autograd keeps several copies of a chunk's logits
        size = max(LOGIT_ELEMENTS // vocabulary, 1)
        loss, correct = _chunked_loss(model, leaf_MH, targets, scale, size)
        assert leaf_MH.grad is not None
        gradient_MH = leaf_MH.grad
    result = Result(loss, correct, len(micro.targets))
    return (rows_MH.float() * gradient_MH.float()).sum(), result


def _chunked_loss(model: Any, leaf_MH: Tensor, targets: Tensor, scale: float, size: int) -> tuple[Tensor, Tensor]:
    """For heads that are more than one matrix (adaptive softmax): loss and hits; gradients by autograd, chunk by chunk."""
    loss = torch.zeros((), device=leaf_MH.device)
    correct = torch.zeros((), dtype=torch.int64, device=leaf_MH.device)
    for chunk_CH, wanted in zip(leaf_MH.split(size), targets.split(size), strict=True):
        logits_CV = model.lm_logits(chunk_CH.float()).float()
        part = functional.cross_entropy(logits_CV, wanted, reduction="sum")
        correct += (logits_CV.detach().argmax(-1) == wanted).sum()
        loss += part.detach()
        (part * scale).backward()
    return loss, correct


def mean_pool(states_NH: Tensor, lengths: list[int]) -> Tensor:
    """The mean state of every row, special tokens included: (rows, H), in fp32."""
    rows = upload(torch.from_numpy(sequence_ids(lengths)), states_NH.device)
    total = torch.zeros(len(lengths), states_NH.shape[1], device=states_NH.device, dtype=torch.float32)
    total = total.index_add(0, rows, states_NH.float())
    return total / upload(host_tensor(lengths, torch.float32), states_NH.device)[:, None]


def contrastive_loss(states_NH: Tensor, micro: MicroBatch, temperature: float) -> tuple[Tensor, Result]:
    """Symmetric InfoNCE of the micro-batch's pairs, the sum over pairs; ``correct`` counts translations ranked first.

    In fp32, under autocast too: a temperature of 0.05 makes an error of bf16's in a cosine twenty times as large.
    """
    assert micro.pairs
    device = states_NH.device
    with torch.autocast(device.type, enabled=False):
        pooled = functional.normalize(mean_pool(states_NH, micro.lengths), dim=-1)
        texts = pooled[upload(torch.from_numpy(micro.pairs.texts), device)]
        translations = pooled[upload(torch.from_numpy(micro.pairs.translations), device)]
        similarity = texts @ translations.T / temperature
        similarity = similarity.masked_fill(upload(torch.from_numpy(micro.pairs.duplicates), device), float("-inf"))
        wanted = torch.arange(len(texts), device=device)
        loss = 0.5 * sum(functional.cross_entropy(s, wanted, reduction="sum") for s in (similarity, similarity.T))
    assert isinstance(loss, Tensor)
    correct = (similarity.detach().argmax(-1) == wanted).sum()
    return loss, Result(loss.detach(), correct, len(texts))
