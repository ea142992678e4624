"""``torch.compile`` without a graph break and ``torch.export`` with free batch and length.

The quick run takes one head a family; ``make test-all`` takes every head.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny

pytestmark = pytest.mark.filterwarnings("ignore")
ALL = [
    pytest.param(head, marks=() if head in tiny.ONE_A_FAMILY else pytest.mark.slow, id=str(head)) for head in tiny.HEADS
]

TRAINED = [
    pytest.param(h, marks=() if h is tiny.ONE_A_FAMILY[1] else pytest.mark.slow, id=str(h))
    for h in tiny.HEADS
    if h.kind != "model"
]


def inputs(head: tiny.Head, batch: int = 3, length: int = 7) -> dict[str, Any]:
    ids = tiny.ids(head, batch, length)
    mask = torch.ones_like(ids)
    mask[-1, ..., -2:] = 0
    return {"input_ids": ids, "attention_mask": mask, **({"langs": ids % 2} if head.family == "xlm" else {})}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("head", ALL)
def test_compile_in_one_graph(head: tiny.Head) -> None:
    # The `eager` backend traces as the others do and generates no code: what is tested is the graph.
    model = tiny.model(head)
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    given = inputs(head)
    torch.testing.assert_close(tiny.scores(compiled(**given)), tiny.scores(model(**given)), rtol=1e-5, atol=1e-5)
    larger = inputs(head, 5, 11)
    torch.testing.assert_close(tiny.scores(compiled(**larger)), tiny.scores(model(**larger)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", TRAINED)
def test_compile_forward_and_backward(head: tiny.Head) -> None:
    model, given = tiny.model(head), inputs(head)
    wanted = tiny.labels(head, given["input_ids"])
    torch.compile(model, backend="aot_eager", fullgraph=True)(**given, **wanted).loss.backward()
    compiled_gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model(**given, **wanted).loss.backward()
    for mine, want in zip(compiled_gradients, (p.grad for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(mine, want, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("head", tiny.ONE_A_FAMILY, ids=str)
def test_compile_to_machine_code(head: tiny.Head) -> None:
    model, given = tiny.model(head), inputs(head)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(tiny.scores(compiled(**given)), tiny.scores(model(**given)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ALL)
def test_export_with_free_batch_and_length(head: tiny.Head) -> None:
    model, given = tiny.model(head, return_dict=False), inputs(head)
    batch, length = torch.export.Dim("batch", min=2, max=16), torch.export.Dim("length", min=3, max=20)
    free = {0: batch, 2 if head.kind == "choose" else 1: length}
    program = torch.export.export(model, (), given, dynamic_shapes=dict.fromkeys(given, free), strict=False)
    for size in ((3, 7), (5, 11)):
        other = inputs(head, *size)
        want, have = model(**other), program.module()(**other)
        torch.testing.assert_close(have[0], want[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", ALL)
def test_trace(head: tiny.Head) -> None:
    model, given = tiny.model(head, torchscript=True), inputs(head)
    traced = torch.jit.trace(model, example_kwarg_inputs=given, check_trace=False, strict=False)
    for size in ((3, 7), (2, 9)):
        other = inputs(head, *size)
        torch.testing.assert_close(traced(**other)[0], model(**other)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", [head for head in tiny.HEADS if head.kind == "causal"][:1], ids=str)
def test_compile_a_cached_step(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    first = model(ids[:, :4])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    answer = compiled(ids[:, 4:5], past_key_values=first.past_key_values)
    torch.testing.assert_close(answer.logits[:, 0], model(ids, use_cache=False).logits[:, 4], rtol=1e-5, atol=1e-5)
