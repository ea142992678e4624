"""Models for other runtimes: ONNX (float32, float16, int8), OpenVINO, torch.export.

Every export is opened again and compared with the model on padded batches of several shapes before it comes to its place; what
differs too much is not written. Weights lie in one file beside the graph, of any size. The reference answers are taken
first and the model let go before the exported one is opened, so that the two are never in memory together; an ONNX file of
more than 2 GB is opened a layer at a time (:mod:`xlm.inference.layered`).
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xlm.assets import BUNDLED
from xlm.atomic import make_folder, need_space
from xlm.checkpoints.beside import copy_beside, names_beside
from xlm.errors import CheckpointError, ConfigError, InputError, MissingExtraError, OutputError
from xlm.folders import need_new, new_folder
from xlm.hub import resolve
from xlm.inference.layered import LayerStates, run_layer_by_layer
from xlm.inference.loading import load_documented

FORMATS = ("onnx", "openvino", "torch-export")
DTYPES = ("float32", "float16", "int8")
_LEAST_COSINE = {"float32": 0.999999, "float16": 0.9995, "int8": 0.98}
_WHOLE = 2_000_000_000
"""Bytes of weights above which an ONNX file is compared layer by layer: a runtime needs up to three times as many."""
_LARGEST_DIFFERENCE = 2e-3  # of a float32 export, relative to the largest value
_EXTRAS = {"onnx": "export", "onnxruntime": "export", "onnxscript": "export", "openvino": "openvino"}


@dataclass(frozen=True)
class Exported:
    """What was written and how near it is to the model.

    Attributes:
        folder: where.
        file: the graph's file in it.
        bytes: of all files of the model.
        cosine: the least cosine between an exported output of a text and the model's, over texts and outputs.
        difference: the largest absolute difference, divided by the largest value of that output.
        inputs, outputs: the names in the graph.
        layers: where it was compared layer by layer: the least cosine of a token's states after every layer.
    """

    folder: str
    file: str
    format: str
    dtype: str
    bytes: int
    cosine: float
    difference: float
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class Wrapped(nn.Module):
    """A documented model with what a graph can have: tensors in, tensors out, by position."""

    def __init__(self, model: Any, names: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names, self.outputs = model, names, outputs

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The wanted outputs."""
        found = self.model(**dict(zip(self.names, given, strict=True)), return_dict=True)
        return tuple(getattr(found, name) for name in self.outputs)


def export(
    path_or_name: str | Path | None,
    out: str | Path,
    format: str = "onnx",
    dtype: str = "float32",
    opset: int = 20,
) -> Exported:
    """Export a model to ``out``, with its config and tokenizer, after comparing the result with the model.

    Args:
        path_or_name: a folder, a name on the hub, or None: the bundled model.
        out: a folder that does not exist or is empty.
        format: ``onnx``, ``openvino`` or ``torch-export``.
        dtype: ``float32``, ``float16`` or (ONNX only) ``int8``: matrices by channel, activations as they come.
        opset: the version of ONNX's operators.

    Raises:
        ConfigError: an unknown format or dtype, or two that do not go together.
        MissingExtraError: the runtime is not installed.
        OutputError: ``out`` holds files already or cannot be written.
        CheckpointError: not a checkpoint, or the exported model differs from it; nothing was written.
    """
    _check(format, dtype)
    out = Path(out)
    need_new(out)
    make_folder(out.parent, "out")
    folder = Path(resolve(BUNDLED if path_or_name is None else path_or_name))
    model = load_documented(folder, torch.float16 if dtype == "float16" else torch.float32)
    names_beside(folder)  # what may not be copied is told before anything is computed
    if model.config.is_composition:
        raise InputError(f"{folder} is an encoder-decoder, whose search no graph holds: export models of one side")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    need_space(out.parent, 2 * size, size)
    cases = [_example(model, batch, length) for batch, length in ((2, 8), (1, 5), (3, 17))]
    names = tuple(cases[0])
    outputs = _outputs(model, cases[0])
    wrapped = Wrapped(model, names, outputs).eval()
    own = LayerStates(model)
    in_layers = format == "onnx" and size > _WHOLE
    with torch.inference_mode(), own.watched() if in_layers else nullcontext():
        wanted = [
            [value.float().numpy() for value in wrapped(*(torch.from_numpy(v) for v in case.values()))]
            for case in cases
        ]
    try:
        with new_folder(out) as temporary:
            program = _trace(wrapped, cases[0])
            file, opened = _WRITERS[format](program, wrapped, temporary, dtype, opset)
            states, layers = own.states, ()
            del program, wrapped, model, own  # the exported one comes into memory now
            gc.collect()
            if in_layers:
                answers, cosines = run_layer_by_layer(temporary / file, cases, outputs, states)
                layers = tuple(cosines)
            else:
                run = opened()
                answers = [run(case) for case in cases]
            cosine, difference = _compare(cases, wanted, answers)
            _judge(out, format, dtype, cosine, difference, layers)
            written = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
            shutil.copyfile(folder / "config.json", temporary / "config.json")
            copy_beside(folder, temporary, skip=os.listdir(temporary))
            report = Exported(str(out), file, format, dtype, written, cosine, difference, names, outputs, layers)
            (temporary / "export.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n", "utf-8")
    except OSError as error:
        if isinstance(error, CheckpointError | OutputError):
            raise
        raise OutputError(f"out={str(out)!r}: {error.strerror or error}; nothing was written") from error
    return report


def _check(format: str, dtype: str) -> None:
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}: it must be one of {', '.join(FORMATS)}")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}: it must be one of {', '.join(DTYPES)}")
    if dtype == "int8" and format != "onnx":
        raise ConfigError(f"dtype is 'int8', format {format!r}: int8 is exported to onnx only")
    if format == "onnx":
        _need("onnx", "onnxscript", "onnxruntime")
    elif format == "openvino":
        _need("openvino")


def _need(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtraError("this export", package, _EXTRAS[package]) from error


def _example(model: Any, batch: int, length: int) -> dict[str, NDArray[np.int64]]:
    """A padded batch in the model's shape, the last row shorter."""
    config = model.config
    choices = (2,) if type(model).__name__.endswith("ForMultipleChoice") else ()
    rng = np.random.default_rng(batch * 1000 + length)
    ids = rng.integers(5, config.vocab_size - 1, (batch, *choices, length))
    mask = np.ones_like(ids)
    if batch > 1:
        ids[-1, ..., -2:], mask[-1, ..., -2:] = config.pad_token_id, 0
    found = {"input_ids": ids, "attention_mask": mask}
    if model.spec.num_languages:
        found["langs"] = np.broadcast_to(np.arange(length) % model.spec.num_languages, ids.shape).copy()
    return found


def _outputs(model: Any, case: dict[str, NDArray[np.int64]]) -> tuple[str, ...]:
    with torch.inference_mode():
        found = model(**{name: torch.from_numpy(value) for name, value in case.items()}, return_dict=True)
    return tuple(name for name, value in found.items() if isinstance(value, Tensor))


def _trace(wrapped: Wrapped, case: dict[str, NDArray[np.int64]]) -> torch.export.ExportedProgram:
    """The graph, free in batch and length."""
    longest = wrapped.model.spec.max_tokens
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2, max=longest)
    shapes = tuple({0: batch, value.ndim - 1: length} for value in case.values())
    given = tuple(torch.from_numpy(value) for value in case.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(wrapped, given, dynamic_shapes=(shapes,))


Runner = Callable[[dict[str, NDArray[np.int64]]], list[NDArray[Any]]]


def _write_onnx(
    program: Any, wrapped: Wrapped, folder: Path, dtype: str, opset: int
) -> tuple[str, Callable[[], Runner]]:
    path = folder / "model.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of operators of packages that are not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = torch.onnx.export(
            program,
            input_names=list(wrapped.names),
            output_names=list(wrapped.outputs),
            opset_version=opset,
            verbose=False,
            dynamo=True,
        )
    assert converted is not None
    converted.save(str(path), external_data=True)
    if dtype == "int8":
        _quantize(path)

    names, outputs = wrapped.names, wrapped.outputs
    return path.name, lambda: _onnx_runner(path, names, outputs)


def _onnx_runner(path: Path, names: tuple[str, ...], outputs: tuple[str, ...]) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {node.name for node in session.get_inputs()}
    assert given == set(names), given
    return lambda values: [np.asarray(found) for found in session.run(list(outputs), dict(values))]


def _quantize(path: Path) -> None:
    """Matrices to int8 by channel; activations are quantized when they are there."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Shapes that the exporter noted inside the graph stand in the quantizer's way, which transposes weights.
    graph = onnx.load(str(path), load_external_data=False)
    del graph.graph.value_info[:]
    _untie(graph.graph)
    onnx.save_model(graph, str(path))
    small = path.with_name("quantized.onnx")
    quantize_dynamic(
        path, small, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"],
        use_external_data_format=True, extra_options={"MatMulConstBOnly": True},
    )  # fmt: skip
    model = onnx.load(str(small))
    for old in [*path.parent.glob("model.onnx*"), *path.parent.glob("quantized.onnx*")]:
        old.unlink()
    onnx.save_model(
        model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location="model.onnx.data"
    )


def _untie(graph: Any) -> None:
    """Write ``Gemm`` with a table that others use too as a product with its transpose.

    The quantizer turns the tables of all ``Gemm`` round in place, and with them what the embedding of a tied head reads.
    """
    from onnx import helper

    uses = Counter(name for node in graph.node for name in node.input)
    shared = {tensor.name for tensor in graph.initializer if uses[tensor.name] > 1}
    nodes = []
    for node in graph.node:
        if node.op_type == "Gemm" and node.input[1] in shared:
            states, table, *bias = node.input
            turned, product = f"{node.name}_turned", node.output[0] if not bias else f"{node.name}_product"
            nodes.append(helper.make_node("Transpose", [table], [turned], perm=[1, 0], name=f"{node.name}_transpose"))
            nodes.append(helper.make_node("MatMul", [states, turned], [product], name=f"{node.name}_matmul"))
            if bias:
                nodes.append(helper.make_node("Add", [product, *bias], list(node.output), name=f"{node.name}_add"))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _write_openvino(
    program: Any, wrapped: Wrapped, folder: Path, dtype: str, opset: int
) -> tuple[str, Callable[[], Runner]]:
    import openvino  # pyright: ignore[reportMissingImports]

    model = openvino.convert_model(program)
    for port, name in zip(model.inputs, wrapped.names, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, wrapped.outputs, strict=True):
        port.get_tensor().set_names({name})
    path = folder / "openvino_model.xml"
    openvino.save_model(model, path, compress_to_fp16=dtype == "float16")
    outputs = wrapped.outputs

    def opened() -> Runner:
        compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda values: [np.asarray(compiled(dict(values))[name]) for name in outputs]

    return path.name, opened


def _write_torch(
    program: Any, wrapped: Wrapped, folder: Path, dtype: str, opset: int
) -> tuple[str, Callable[[], Runner]]:
    path = folder / "model.pt2"
    torch.export.save(program, path)

    def opened() -> Runner:
        loaded = torch.export.load(path).module()

        def run(values: dict[str, NDArray[np.int64]]) -> list[NDArray[Any]]:
            with torch.inference_mode():
                return [one.float().numpy() for one in loaded(*(torch.from_numpy(v) for v in values.values()))]

        return run

    return path.name, opened


_WRITERS: dict[str, Callable[..., tuple[str, Callable[[], Runner]]]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch-export": _write_torch,
}


def _compare(
    cases: list[dict[str, NDArray[np.int64]]], wanted: list[list[NDArray[Any]]], found: list[list[NDArray[Any]]]
) -> tuple[float, float]:
    """The least cosine of a vector and the largest relative difference; what stands on padding is left out.

    A vector is a token's states or scores, or a text's; where a token has one number, those of a text are its vector, and
    where a text (or a choice) has one, those of all together: of single numbers a cosine would tell the sign alone.
    """
    cosine, difference = 1.0, 0.0
    single: dict[int, list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    for case, mine, theirs in zip(cases, found, wanted, strict=True):
        mask = case["attention_mask"].astype(bool)
        for number, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            if a.shape != b.shape:
                raise CheckpointError(f"the exported model gives shape {a.shape}, the model {b.shape}")
            if not np.issubdtype(a.dtype, np.floating):  # places of the best scores, which are compared themselves
                continue
            real = np.isfinite(b)  # QA heads put -inf where no answer may be
            if a.shape[: mask.ndim] == mask.shape:
                real &= mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim))
            x, y = np.where(real, a, 0).astype(np.float64), np.where(real, b, 0).astype(np.float64)
            width = a.shape[-1] if a.ndim >= mask.ndim else 1
            x, y = x.reshape(-1, width), y.reshape(-1, width)
            if width == 1:
                single.setdefault(number, []).append((x, y))
            else:
                kept = real.reshape(-1, width).any(1)
                cosine = min(cosine, _cosine(x[kept], y[kept]))
            difference = max(difference, float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-6)))
    for pairs in single.values():
        x, y = (np.concatenate(side).T for side in zip(*pairs, strict=True))
        cosine = min(cosine, _cosine(x, y))
    return cosine, difference


def _cosine(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The least over rows."""
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return float(((x * y).sum(1) / np.maximum(lengths, 1e-30)).min())


def _judge(
    out: Path, format: str, dtype: str, cosine: float, difference: float, layers: tuple[float, ...] = ()
) -> None:
    least = _LEAST_COSINE[dtype]
    for number, value in enumerate(layers):
        if not value >= least:
            raise CheckpointError(
                f"out={str(out)!r}: the {format} export in {dtype} differs from the model from layer {number} on: least "
                f"cosine {value:.6f} (at least {least} is needed); nothing was written"
            )
    if not cosine >= least or (dtype == "float32" and not difference <= _LARGEST_DIFFERENCE):
        raise CheckpointError(
            f"out={str(out)!r}: the {format} export in {dtype} differs from the model: least cosine {cosine:.6f} "
            f"(at least {least} is needed), largest relative difference {difference:.1e}; nothing was written"
        )
