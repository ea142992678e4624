"""Models that no single process holds: parameters, gradients and optimizer state cut over the processes (FSDP2).

Every layer is gathered when it computes and let go after, forward and backward; the embeddings and the head, which the
step uses at both of its ends, stay gathered within it. Gradients are summed over the processes in fp32. Checkpoints are
`torch.distributed.checkpoint` folders, which any number of processes can read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xlm.errors import CheckpointError, OutputError

SHARDS = "shards"


def shard(model: Any, device: torch.device, bf16: bool) -> None:
    """Cut the model over all processes, in place. It computes in bf16 or fp32; what is kept and summed is fp32."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    low = torch.bfloat16 if bf16 else None
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
    for layer in model.base_model.encoder.layer:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if hasattr(module, "set_gradient_divide_factor"):
            module.set_gradient_divide_factor(1.0)  # a loss is already its share of the whole step's
            module.set_force_sum_reduction_for_comms(True)  # the one that gloo has too
    for name in ("states", "lm_logits"):
        register_fsdp_forward_method(model, name)


def plain_class(model: Any) -> Any:
    """The class that a model was made as, before it was cut."""
    if not any(is_cut(parameter) for parameter in model.parameters()):
        return type(model)
    from torch.distributed.fsdp import FSDPModule

    return next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))


def whole(tensor: Tensor) -> Tensor:
    """A tensor as one: gathered if it is cut, which all processes must ask for together."""
    return tensor.full_tensor() if is_cut(tensor) else tensor  # type: ignore[attr-defined]


def is_cut(tensor: Tensor) -> bool:
    """Whether a tensor is one process's part of a whole. Asked without the import, which takes a second."""
    return hasattr(tensor, "full_tensor")


def fill(parameter: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into a parameter, of which this process may hold a part."""
    if is_cut(parameter):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    parameter.copy_(value)


def whole_model(model: Any, first: bool) -> Any:
    """The model on the CPU of the first process, as an ordinary one; ``None`` on the others."""
    state = {}
    for name, tensor in model.state_dict().items():
        gathered = whole(tensor)
        if first:
            state[name] = gathered.detach().to("cpu", copy=True)
    if not first:
        return None
    with torch.device("meta"):
        plain = plain_class(model)(model.config)
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    return plain


def save_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write what this process holds of weights and optimizer; all processes call it together.

    Raises ``OutputError`` on all of them if one cannot write.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    _guarded(OutputError, folder, lambda: save(_state(model, optimizer), checkpoint_id=folder / SHARDS))


def load_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restore weights and optimizer, whole or cut, from a folder that any number of processes wrote."""
    from torch.distributed.checkpoint.state_dict_loader import load

    state = _state(model, optimizer, fresh=True)
    alone = not dist.is_initialized()
    _guarded(CheckpointError, folder, lambda: load(state, checkpoint_id=folder / SHARDS, no_dist=alone))
    for name, parameter in model.named_parameters():
        if name in state["optimizer"]:
            optimizer.state[parameter] = state["optimizer"][name]


def _guarded(error: type[Exception], folder: Path, call: Callable[[], Any]) -> None:
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        call()
    except CheckpointException as failure:  # a BaseException: it names each process's own failure
        reasons = "; ".join(f"process {rank}: {reason[0]}" for rank, reason in failure.failures.items())
        raise error(f"{folder}: {reasons}") from failure


def _state(model: nn.Module, optimizer: torch.optim.Optimizer, fresh: bool = False) -> dict[str, Any]:
    """Weights and, by the same names, the optimizer's tensors. ``fresh``: ones to be read into."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    learning = {id(p) for group in optimizer.param_groups for p in group["params"]}
    moments: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        if fresh and id(parameter) in learning:
            zero = {key: torch.zeros_like(parameter.detach()) for key in ("exp_avg", "exp_avg_sq")}
            moments[name] = {"step": torch.zeros((), device=parameter.device), **zero}
        elif parameter in optimizer.state:
            moments[name] = dict(optimizer.state[parameter])
    return {"model": weights, "optimizer": moments}
