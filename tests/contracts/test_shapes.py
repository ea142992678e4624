"""Shapes at the edges: no sequence at all, labels and places of the wrong shape, tables with other numbers of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import frameworks
import tiny
from xlm import InputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BY_KIND = {(head.family, head.kind): head for head in tiny.HEADS}
EVERY = pytest.mark.parametrize("head", tiny.HEADS, ids=str)
EACH = pytest.mark.parametrize("framework", frameworks.FRAMEWORKS, ids=lambda f: f.name)
ALL = pytest.mark.parametrize("framework", [frameworks.Torch(), *frameworks.FRAMEWORKS], ids=lambda f: f.name)


def other(framework: Any, head: tiny.Head, folder: Path, **more: Any) -> Any:
    """A framework's model with the weights of the tiny one."""
    model = tiny.model(head, **more)
    model.save_pretrained(folder)
    return framework.load(head, folder)


def call(framework: Any, model: Any, **given: Any) -> dict[str, Any]:
    """The outputs of one call as arrays."""
    return framework.run(model, {k: v.numpy() if torch.is_tensor(v) else v for k, v in given.items()})


@EVERY
def test_an_empty_batch(head: tiny.Head) -> None:
    variants: list[dict[str, Any]] = [{}]
    if head.name == "XLMWithLMHeadModel":
        variants.append({"asm": True, "asm_cutoffs": [10, 20], "asm_div_value": 2.0})
    for more in variants:
        model = tiny.model(head, **more)
        want = [v.shape for v in model(tiny.ids(head)).values() if torch.is_tensor(v)]
        have = [v.shape for v in model(tiny.ids(head)[:0]).values() if torch.is_tensor(v)]
        assert have == [torch.Size([0, *shape[1:]]) for shape in want]


@EACH
@pytest.mark.parametrize("head", [tiny.ONE_A_FAMILY[1], BY_KIND["xlm", "beam"]], ids=str)
def test_an_empty_batch_in_other_frameworks(framework: Any, head: tiny.Head, tmp_path: Path) -> None:
    if (framework, head) not in frameworks.PAIRS:
        pytest.skip("TensorFlow has no beam search over answers")
    model = other(framework, head, tmp_path)
    for value in call(framework, model, input_ids=tiny.ids(head)[:0]).values():
        assert np.shape(value)[0] == 0


@ALL
def test_positions_may_be_given_for_more_tokens_than_there_are(framework: Any, tmp_path: Path) -> None:
    head = tiny.MODELS[1]
    model = other(framework, head, tmp_path)
    ids = tiny.ids(head, batch=2, length=25)
    places = (torch.arange(25) % 13 + 2).expand(2, 25)
    want = tiny.model(head)(ids, position_ids=places)[0].detach().numpy()
    have = call(framework, model, input_ids=ids, position_ids=places)["last_hidden_state"]
    np.testing.assert_allclose(have, want, atol=1e-5)
    with pytest.raises(InputError, match=r"25 tokens: the model has positions for 20|longest input has 20 tokens"):
        call(framework, model, input_ids=ids)


WORDS, TAGS = torch.full((3, 7), 5), torch.zeros(3, 7, dtype=torch.long)
CLASSES, VALUES = torch.tensor([0, 1, 2]), torch.rand(3)
# A head, more of its config, labels that suit it, and those that do not.
WRONG: list[tuple[str, tuple[str, str], dict[str, Any], list[torch.Tensor], list[torch.Tensor]]] = [
    ("words", ("xlm-roberta", "masked"), {}, [WORDS], [WORDS.T, WORDS[:1], WORDS[..., None]]),
    ("XLM's words", ("xlm", "masked"), {}, [WORDS], [WORDS.T]),
    ("next words", ("xlm-roberta", "causal"), {}, [WORDS], [WORDS.T]),
    ("tags", ("xlm-roberta-xl", "tag"), {}, [TAGS], [TAGS.T]),
    ("classes", ("xlm-roberta", "classify"), {}, [CLASSES, CLASSES[:, None]], [CLASSES[:1], CLASSES[None]]),
    ("values", ("xlm-roberta", "classify"), {"num_labels": 1}, [VALUES, VALUES[:, None]], [VALUES[:1], VALUES[None]]),
    (
        "tables",
        ("xlm", "classify"),
        {"problem_type": "regression"},
        [torch.rand(3, 3)],
        [VALUES, torch.rand(3, 1), torch.rand(1, 3)],
    ),
    ("choices", ("xlm", "choose"), {}, [CLASSES, CLASSES[:, None]], [CLASSES[None], CLASSES[:2]]),
]


def check_labels(framework: Any, model: Any, head: tiny.Head, right: list[Any], wrong: list[Any]) -> None:
    losses = [call(framework, model, input_ids=tiny.ids(head), labels=labels)["loss"] for labels in right]
    assert all(np.isfinite(loss).all() for loss in losses)
    np.testing.assert_allclose(losses, losses[:1] * len(losses), rtol=1e-6)
    for labels in wrong:
        with pytest.raises(InputError, match=r"labels of shape \(.*\):.* must be \("):
            call(framework, model, input_ids=tiny.ids(head), labels=labels)


@pytest.mark.parametrize(("kind", "more", "right", "wrong"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_labels_of_another_shape(kind: Any, more: Any, right: Any, wrong: Any) -> None:
    head = BY_KIND[kind]
    check_labels(frameworks.Torch(), tiny.model(head, **more), head, right, wrong)


@EACH
@pytest.mark.parametrize(
    ("kind", "more", "right", "wrong"), [w[1:] for w in WRONG if w[0] in ("words", "classes", "values")]
)
def test_labels_of_another_shape_in_other_frameworks(
    framework: Any, kind: Any, more: Any, right: Any, wrong: Any, tmp_path: Path
) -> None:
    head = BY_KIND[kind]
    check_labels(framework, other(framework, head, tmp_path, **more), head, right, wrong)


def test_places_of_answers() -> None:
    head, beam = BY_KIND["xlm", "answer"], BY_KIND["xlm", "beam"]
    start, end = torch.tensor([1, 2, 0]), torch.tensor([4, 2, 3])
    for one in (head, beam):
        model, ids = tiny.model(one), tiny.ids(one)
        want = model(ids, start_positions=start, end_positions=end).loss
        for places in ((start.int(), end.int()), (start[:, None], end[:, None])):
            have = model(ids, start_positions=places[0], end_positions=places[1]).loss
            torch.testing.assert_close(have, want)
        for name, wrong, message in [
            ("start_positions", start[:2], r"start_positions of shape \(2,\): must be \(3,\)"),
            ("end_positions", end[None], r"end_positions of shape \(1, 3\): must be \(3,\)"),
            ("end_positions", end.float(), r"end_positions of dtype torch.float32: places of tokens are integers"),
        ]:
            with pytest.raises(InputError, match=message):
                model(ids, **{"start_positions": start, "end_positions": end, name: wrong})


def test_the_other_inputs_of_beams() -> None:
    head = BY_KIND["xlm", "beam"]
    model, ids = tiny.model(head), tiny.ids(head)
    mask = torch.zeros(3, 7)
    mask[:, 5:] = 1
    given = {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([4, 2, 3])}
    given |= {"cls_index": torch.tensor([0, 3, 1]), "is_impossible": torch.tensor([0.0, 1.0, 0.0]), "p_mask": mask}
    want = model(ids, **given).loss
    for name in ("is_impossible", "cls_index"):
        torch.testing.assert_close(model(ids, **{**given, name: given[name][:, None]}).loss, want)
    torch.testing.assert_close(
        model(ids, **{**given, "p_mask": mask.bool(), "cls_index": given["cls_index"].int()}).loss, want
    )
    found = model(ids, p_mask=mask.bool())
    assert torch.equal(found.start_top_index, model(ids, p_mask=mask).start_top_index)
    for name in ("is_impossible", "cls_index", "p_mask"):
        with pytest.raises(InputError, match=rf"{name} of shape \(2,.*must be \(3,"):
            model(ids, **{**given, name: given[name][:2]})


@EACH
def test_places_of_answers_in_other_frameworks(framework: Any, tmp_path: Path) -> None:
    head = BY_KIND["xlm-roberta", "answer"]
    model, ids = other(framework, head, tmp_path), tiny.ids(head)
    start, end = torch.tensor([1, 2, 0]), torch.tensor([4, 2, 3])
    losses = [
        call(framework, model, input_ids=ids, start_positions=one, end_positions=two)["loss"]
        for one, two in ((start, end), (start.int()[:, None], end.int()[:, None]))
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    for wrong in (start[:2], start[None]):
        with pytest.raises(InputError, match=r"start_positions of shape .*must be \(3,\)"):
            call(framework, model, input_ids=ids, start_positions=wrong, end_positions=end)
    with pytest.raises(InputError, match=r"start_positions of dtype .*float32"):
        call(framework, model, input_ids=ids, start_positions=start.float(), end_positions=end)


@ALL
def test_tags_with_a_mask_of_three_axes(framework: Any, tmp_path: Path) -> None:
    """Which tokens see which says nothing of padding: all labels count but those that are not asked for."""
    head = BY_KIND["xlm-roberta-xl", "tag"]
    model, ids = other(framework, head, tmp_path), tiny.ids(head)
    labels = tiny.labels(head, ids)["labels"]
    mask = torch.ones(3, 7, 7)
    mask[:, :, 5:] = 0
    found = call(framework, model, input_ids=ids, attention_mask=mask, labels=labels)
    logits = torch.from_numpy(np.array(found["logits"]))
    want = torch.nn.functional.cross_entropy(logits.reshape(-1, tiny.LABELS), labels.reshape(-1))
    np.testing.assert_allclose(found["loss"], want.numpy(), rtol=1e-5)


@pytest.mark.parametrize("rows", [tiny.VOCAB + 6, tiny.VOCAB - 5])
@pytest.mark.parametrize("head", [tiny.ONE_A_FAMILY[0], tiny.ONE_A_FAMILY[1], tiny.MODELS[2]], ids=str)
def test_another_word_table(head: tiny.Head, rows: int, tmp_path: Path) -> None:
    model = tiny.model(head)
    table = torch.nn.Embedding(rows, tiny.HIDDEN)
    model.set_input_embeddings(table)
    assert model.config.vocab_size == model.spec.vocab_size == model.base_model.spec.vocab_size == rows
    ids = torch.full((1, 3), rows - 1)
    output = model(ids)
    if head.kind == "masked":
        assert output.logits.shape[-1] == rows and model.get_output_embeddings().weight is table.weight
        assert bool((model.lm_head.decoder.bias[tiny.VOCAB :] == 0).all())
        assert np.isfinite(float(model(ids, labels=ids).loss.detach()))
    with pytest.raises(InputError, match=rf"input_ids\[0, 0\]={rows}: must be from 0 to {rows - 1}"):
        model(ids + 1)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(tiny.scores(head.cls.from_pretrained(tmp_path)(ids)), tiny.scores(output))
    for wrong in (torch.nn.Embedding(rows, 5), torch.nn.Embedding(1, tiny.HIDDEN), torch.nn.Identity()):
        with pytest.raises(InputError, match="value: a table of shape"):
            model.set_input_embeddings(wrong)
    if head.kind == "masked":
        with pytest.raises(InputError, match=rf"a decoder of shape \(9, 16\); must be \({rows}, 16\)"):
            model.set_output_embeddings(torch.nn.Linear(16, 9))


@pytest.mark.parametrize("framework", [f for f in frameworks.FRAMEWORKS if f.name == "keras"], ids=lambda f: f.name)
def test_another_word_table_in_keras(framework: Any, tmp_path: Path) -> None:
    head, rows = tiny.ONE_A_FAMILY[1], tiny.VOCAB + 6
    values = np.random.default_rng(0).normal(size=(rows, tiny.HIDDEN)).astype("float32")
    for more in ({}, {"tie_word_embeddings": False}):
        model = other(framework, head, tmp_path / str(len(more)), **more)
        model.set_input_embeddings(values)
        model.set_output_embeddings(values if not more else 2 * values)
        np.testing.assert_array_equal(model.get_input_embeddings().weight.numpy(), values)
        ids = np.full((1, 3), rows - 1)
        logits = model(ids).logits.numpy()
        assert logits.shape[-1] == model.config.vocab_size == rows
        model.save_pretrained(tmp_path / "saved")
        np.testing.assert_allclose(framework.load(head, tmp_path / "saved")(ids).logits.numpy(), logits, atol=1e-5)
        with pytest.raises(InputError, match="value: a table of shape"):
            model.set_input_embeddings(values[:, :5])
    classifier = other(framework, BY_KIND["xlm-roberta", "classify"], tmp_path / "classifier")
    with pytest.raises(InputError, match="has no output embeddings"):
        classifier.set_output_embeddings(values)
