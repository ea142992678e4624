"""Run an ONNX file a layer at a time, so that a model is compared which is too large to be in memory whole.

The nodes of the graph say to which layer they belong; those before the first layer and those after the last are parts of
their own. A part is written beside the graph as a small file that names its weights where they already lie, is opened, run on
all cases, and closed before the next; values that later parts need are handed on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xlm.errors import CheckpointError

Arrays = list[NDArray[Any]]
Cases = Sequence[dict[str, NDArray[np.int64]]]
_SCOPES = "pkg.torch.onnx.name_scopes"
_LAYER = re.compile(r"encoder\.layer\.(\d+)")


class LayerStates:
    """What the layers of a model answer.

    Attributes:
        states: for every call of the model, the states of its layers, float32.
    """

    def __init__(self, model: Any) -> None:
        self.states: list[Arrays] = []
        self._layers = model.encoder_host.encoder.layer

    @contextmanager
    def watched(self) -> Any:
        """Note the states of every call in this block."""

        def note(number: int) -> Any:
            def hook(_module: Any, _given: Any, found: Any) -> None:
                if number == 0:
                    self.states.append([])
                tensor = found if isinstance(found, torch.Tensor) else found[0]
                self.states[-1].append(tensor.float().numpy())

            return hook

        hooks = [layer.register_forward_hook(note(number)) for number, layer in enumerate(self._layers)]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()


def run_layer_by_layer(
    path: Path, cases: Cases, outputs: Sequence[str], states: Sequence[Arrays] = ()
) -> tuple[list[Arrays], list[float]]:
    """The outputs of an ONNX file for every case, and how near each layer comes to ``states``.

    Args:
        path: the graph; its weights may lie in a file beside it.
        cases: inputs by name.
        outputs: the names of the wanted outputs.
        states: for every case the states of the model's own layers, as `LayerStates` noted them.

    Returns:
        The outputs, and the least cosine of a token's states for every layer.

    Raises:
        CheckpointError: the graph says nothing of layers, or not of as many as the model has.
    """
    import onnx
    import onnxruntime

    model = onnx.load(str(path), load_external_data=False)
    parts = _parts(model.graph)
    if states and len(parts) != len(states[0]) + 2:
        raise CheckpointError(f"{path.name}: the graph has {len(parts) - 2} layers, the model {len(states[0])}")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    values: list[dict[str, NDArray[Any]]] = [dict(case) for case in cases]
    needed_after = _needed_after(parts, outputs)
    cosines: list[float] = []
    for number, nodes in enumerate(parts):
        if not nodes:
            continue
        made = {name for node in nodes for name in node.output if name}
        read = {name for node in nodes for name in _reads(node)} - made
        given = sorted(read - stored.keys())
        wanted = sorted(made & needed_after[number])
        piece = onnx.ModelProto()
        piece.CopyFrom(_shell(model))
        piece.graph.node.extend(nodes)
        piece.graph.initializer.extend(stored[name] for name in sorted(read & stored.keys()))
        for name in given:
            array = values[0][name]
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            shape: list[Any] = [f"{name}_{axis}" for axis in range(array.ndim)]
            piece.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
        piece.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
        file = path.with_name(f"{path.stem}.part.onnx")
        try:
            file.write_bytes(piece.SerializeToString())
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            for case in values:
                found = session.run(wanted, {name: case[name] for name in given})
                case.update(zip(wanted, (np.asarray(one) for one in found), strict=True))
            del session
        finally:
            file.unlink(missing_ok=True)
        if states and 1 <= number <= len(states[0]):
            own = [own[number - 1] for own in states]
            made_here = [[case[name] for name in wanted] for case in values]
            cosines.append(min(_nearest(a, b, case) for a, b, case in zip(made_here, own, cases, strict=True)))
        for case in values:
            for name in case.keys() - needed_after[number] - set(outputs):
                del case[name]
    return [[case[name] for name in outputs] for case in values], cosines


def _parts(graph: Any) -> list[list[Any]]:
    """The nodes before the layers, of every layer, and after, each in the graph's order."""
    own = [_layer_of(node) for node in graph.node]
    layers = 1 + max((layer for layer in own if layer is not None), default=-1)
    if not layers:
        raise CheckpointError("the graph's nodes do not say to which layer they belong")
    part_of: dict[str, int] = {}
    parts: list[list[Any]] = [[] for _ in range(layers + 2)]
    for node, layer in zip(graph.node, own, strict=True):
        # Not before anything that it reads; what belongs to no layer and follows the last one is the head's.
        place = max((part_of.get(name, 0) for name in _reads(node)), default=0)
        if layer is not None:
            place = max(place, layer + 1)
        elif place == layers:
            place += 1
        parts[place].append(node)
        part_of.update(dict.fromkeys(node.output, place))
    return parts


def _layer_of(node: Any) -> int | None:
    scopes = next((item.value for item in node.metadata_props if item.key == _SCOPES), "")
    found = _LAYER.search(scopes)
    return int(found[1]) if found else None


def _reads(node: Any) -> list[str]:
    """What a node reads, the graphs inside it included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            made = {name for inner in graph.node for name in inner.output} | {one.name for one in graph.initializer}
            names += [name for inner in graph.node for name in _reads(inner) if name not in made]
    return names


def _needed_after(parts: Sequence[Sequence[Any]], outputs: Sequence[str]) -> list[set[str]]:
    """For every part, the names that later parts read, or that are outputs."""
    needed, found = set(outputs), []
    for nodes in reversed(parts):
        found.append(set(needed))
        needed |= {name for node in nodes for name in _reads(node)}
    return found[::-1]


def _shell(model: Any) -> Any:
    """The model without its graph: versions and functions."""
    import onnx

    shell = onnx.ModelProto(ir_version=model.ir_version)
    shell.opset_import.extend(model.opset_import)
    shell.functions.extend(model.functions)
    shell.graph.name = model.graph.name
    return shell


def _nearest(made: Arrays, wanted: NDArray[Any], case: dict[str, NDArray[Any]]) -> float:
    """The least cosine over real tokens of the value that comes nearest to the wanted states."""
    width = wanted.shape[-1]
    mask = case["attention_mask"].reshape(-1).astype(bool)
    target = wanted.reshape(-1, width)
    mask = mask if len(mask) == len(target) else np.ones(len(target), bool)
    best = -1.0
    for array in made:
        if array.size != wanted.size or array.shape[-1] != width:
            continue
        x, y = array.reshape(-1, width)[mask].astype(np.float64), target[mask].astype(np.float64)
        lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        best = max(best, float(((x * y).sum(1) / np.maximum(lengths, 1e-30)).min()))
    return best
