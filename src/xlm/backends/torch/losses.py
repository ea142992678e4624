"""The losses of the documented heads, over logits and labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xlm.backends.torch.tracing import in_graph
from xlm.errors import InputError
from xlm.families.config import PretrainedConfig

IGNORED = -100


def check_labels(labels: Tensor, classes: int, name: str = "labels") -> None:
    """Refuse class labels outside the logits before the kernel does, with a message that says where.

    Raises:
        InputError: a label is neither ``-100`` nor a class.
    """
    if in_graph() or type(labels) is not Tensor or labels.is_meta:
        return
    if labels.is_floating_point():
        raise InputError(f"{name} of dtype {labels.dtype}: classes are integers")
    bad = (labels != IGNORED) & ((labels < 0) | (labels >= classes))
    if bool(bad.any()):
        place = tuple(torch.nonzero(bad)[0].tolist())
        raise InputError(f"{name}{list(place)}={int(labels[place])}: must be -100 or from 0 to {classes - 1}")


def one_each(name: str, value: Tensor, batch: int) -> Tensor:
    """One value a sequence, (b,) or (b, 1), as (b,).

    Raises:
        InputError: another shape.
    """
    if tuple(value.shape) not in ((batch,), (batch, 1)):
        raise InputError(f"{name} of shape {tuple(value.shape)}: must be ({batch},)")
    return value.reshape(-1)


def places(name: str, value: Tensor, batch: int) -> Tensor:
    """The number of a token in each sequence, integers (b,) or (b, 1), as int64 (b,).

    Raises:
        InputError: another shape, or no integers.
    """
    if value.is_floating_point() or value.dtype == torch.bool:
        raise InputError(f"{name} of dtype {value.dtype}: places of tokens are integers")
    return one_each(name, value, batch).long()


def cross_entropy(logits: Tensor, labels: Tensor, name: str = "labels") -> Tensor:
    """Mean over labels that are not ``-100``; logits (..., classes), labels (...). NaN where all labels are ignored."""
    classes = logits.shape[-1]
    if tuple(labels.shape) != tuple(logits.shape[:-1]):
        raise InputError(f"{name} of shape {tuple(labels.shape)}: must be {tuple(logits.shape[:-1])}")
    labels = labels.to(logits.device)
    check_labels(labels, classes, name)
    return F.cross_entropy(logits.reshape(-1, classes), labels.reshape(-1).long(), ignore_index=IGNORED)


def shifted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Causal language modelling: the logits of token ``t`` answer for label ``t + 1``."""
    if tuple(labels.shape) != tuple(logits.shape[:-1]):
        raise InputError(f"labels of shape {tuple(labels.shape)}: must be {tuple(logits.shape[:-1])}")
    return cross_entropy(logits[:, :-1], labels[:, 1:])


def classification(logits: Tensor, labels: Tensor, config: PretrainedConfig, num_labels: int) -> Tensor:
    """Sequence classification or regression by ``config.problem_type``.

    Where it is unset it follows from the labels and stays set: one label is a regression, integers are classes,
    anything else is a multi-hot table.
    """
    labels = labels.to(logits.device)
    integers = not labels.is_floating_point() and labels.dtype != torch.bool
    if config.problem_type is None:
        if num_labels == 1:
            config.problem_type = "regression"
        else:
            config.problem_type = "single_label_classification" if integers else "multi_label_classification"
    batch = logits.shape[0]
    if config.problem_type == "single_label_classification":
        return cross_entropy(logits, one_each("labels", labels, batch))
    if config.problem_type == "regression" and num_labels == 1:
        return F.mse_loss(logits.squeeze(-1), one_each("labels", labels, batch).to(logits.dtype))
    if tuple(labels.shape) != tuple(logits.shape):
        what = "values" if config.problem_type == "regression" else "multi-label targets"
        raise InputError(f"labels of shape {tuple(labels.shape)}: {what} must be {tuple(logits.shape)}")
    if config.problem_type == "regression":
        return F.mse_loss(logits, labels.to(logits.dtype))
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def spans(start_logits: Tensor, end_logits: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Mean of the two cross-entropies of an answer's ends; places outside the input do not count.

    Positions (b,) or (b, 1): negative ones count as 0 and those at or past the length are ignored, as documented.
    """
    length = start_logits.shape[1]
    total = start_logits.new_zeros(())
    for logits, place, name in ((start_logits, start, "start_positions"), (end_logits, end, "end_positions")):
        place = places(name, place, logits.shape[0]).to(logits.device).clamp(0, length)
        total = total + F.cross_entropy(logits, place, ignore_index=length)
    return total / 2
