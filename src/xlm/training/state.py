"""Checkpoints of a run: complete folders ``checkpoints/step-N``, found, verified, written and pruned.

A folder holds ``model/`` (``save_pretrained`` and the tokenizer: usable as it is) and ``optimizer.pt`` (tensors only, by
parameter name), or, of a model that is cut over processes, both in ``shards/``; ``state.json`` (the data's cursor and
counters) and ``manifest.json`` with every file's sha256. No generator state is stored: all randomness is keyed by seed
and step.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xlm.errors import CheckpointError, OutputError
from xlm.folders import atomic_folder, remove_folder, verify_folder
from xlm.hub import TOKENIZER_FILES
from xlm.training.runtime import Processes
from xlm.training.sharding import SHARDS, fill, is_cut, load_shards, plain_class, save_shards
from xlm.training.steps import Cursor

FORMAT = 1


@dataclass
class Progress:
    """What a run has done so far."""

    cursor: Cursor = dataclasses.field(default_factory=Cursor)
    tokens: int = 0
    seconds: float = 0.0
    world: int = 1  # processes that computed it


def checkpoint_folders(output: Path) -> list[Path]:
    """Complete checkpoints, oldest first. Temporary folders of interrupted saves do not count."""
    found = []
    for path in (output / "checkpoints").glob("step-*"):
        if (match := re.fullmatch(r"step-(\d+)", path.name)) and path.is_dir():
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def save_checkpoint(
    output: Path,
    model: Any,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    tokenizer: Path | None,
    keep: int,
    group: Processes | None = None,
) -> Path:
    """Write ``checkpoints/step-N`` at once or not at all, then remove all but the newest ``keep``.

    All processes of ``group`` call it (None: the caller is alone); a model that is cut over them is written by all.
    """
    group = group or Processes()
    folder = output / "checkpoints" / f"step-{progress.cursor.step}"
    cut = any(is_cut(parameter) for parameter in model.parameters())
    if not cut and not group.first:
        return folder
    with ExitStack() as stack:
        temporary, problem = None, None
        if group.first:
            try:
                temporary = stack.enter_context(atomic_folder(folder))
            except OSError as error:
                problem = error
        if cut:
            shared = group.share(str(temporary or ""))  # the others must hear of a failure, or they wait
            if shared:
                save_shards(Path(shared), model, optimizer)
            else:
                problem = problem or OutputError(f"{folder}: the first process cannot write there")
        if problem is not None:
            raise problem
        if temporary is not None:
            if not cut:
                save_model(temporary / "model", model, tokenizer)
                torch.save(optimizer_tensors(model, optimizer), temporary / "optimizer.pt")
            state = {"format": FORMAT, "torch": torch.__version__, **dataclasses.asdict(progress)}
            (temporary / "state.json").write_text(json.dumps(state, indent=1), "utf-8")
    if not group.first:
        return folder
    for old in checkpoint_folders(output)[:-keep]:
        remove_folder(old)
    for leftover in folder.parent.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    return folder


def save_model(folder: Path, model: Any, tokenizer: Path | None) -> None:
    """``save_pretrained`` and, beside it, the tokenizer's files."""
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES if tokenizer else ():
        if tokenizer and (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)


def load_checkpoint(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> Progress:
    """Verify ``folder`` and restore model, optimizer and progress from it, bit for bit.

    Raises ``CheckpointError`` for a damaged checkpoint.
    """
    try:
        verify_folder(folder)
        state = json.loads((folder / "state.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        older = [path.name for path in checkpoint_folders(folder.parent.parent) if path != folder]
        advice = (
            f"; remove the folder to go on from {older[-1]}"
            if older
            else "; there is no other checkpoint: --fresh begins anew"
        )
        raise CheckpointError(f"{error}{advice}") from error
    if (folder / SHARDS).is_dir():
        load_shards(folder, model, optimizer)
    else:
        loaded = plain_class(model).from_pretrained(folder / "model")
        source = dict(loaded.named_parameters())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                fill(parameter, source[name])
        restore_optimizer(model, optimizer, torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True))
    return Progress(Cursor(**state["cursor"]), state["tokens"], state["seconds"], state.get("world", 1))


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    """The optimizer's state by parameter name."""
    return {name: dict(optimizer.state[p]) for name, p in model.named_parameters() if p in optimizer.state}


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, dict[str, torch.Tensor]]
) -> None:
    """The inverse of ``optimizer_tensors``."""
    parameters = dict(model.named_parameters())
    for name, state in tensors.items():
        if name not in parameters:
            raise CheckpointError(f"optimizer.pt: state of {name!r}, a parameter the model does not have")
        parameter = parameters[name]
        restored: dict[str, Any] = {}
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                restored[key] = torch.empty_like(parameter.detach())
                fill(restored[key], value)
            else:
                restored[key] = value.to(parameter.device) if isinstance(value, torch.Tensor) else value
        optimizer.state[parameter] = restored
