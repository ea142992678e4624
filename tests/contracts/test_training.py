"""Losses and gradients: every parameter learns, checkpointing changes nothing, labels mean what the documentation says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
EVERY = pytest.mark.parametrize("head", tiny.HEADS, ids=str)
TRAINABLE = pytest.mark.parametrize("head", [head for head in tiny.HEADS if head.kind != "model"], ids=str)


def loss_of(head: tiny.Head, model: torch.nn.Module, **more: object) -> torch.Tensor:
    ids = tiny.ids(head)
    if head.family == "xlm":
        more["langs"] = ids % 2
    wanted = tiny.labels(head, ids)
    if head.kind == "beam":
        wanted |= {"cls_index": torch.tensor([0, 1, 2]), "is_impossible": torch.tensor([0, 1, 0])}
    output = model(ids, **wanted, **more)
    if head.kind == "model":
        return output[0].square().mean() + (0.0 if "pooler_output" not in output else output["pooler_output"].mean())
    return output.loss


@EVERY
def test_every_parameter_learns(head: tiny.Head) -> None:
    model = tiny.model(head).train()
    loss_of(head, model).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        # Softmax does not see what is added to all its scores, so keys' biases and those of start and end scores stay.
        still = ("key.bias", "start_logits.dense.bias", "end_logits.dense_1.bias", "qa_outputs.bias")
        if head.kind == "choose":
            still += ("classifier.bias", "logits_proj.bias")
        if not name.endswith(still):
            assert float(p.grad.abs().sum()) > 0, name


@TRAINABLE
def test_a_few_steps_lower_the_loss(head: tiny.Head) -> None:
    model = tiny.model(head).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = float(loss_of(head, model).detach())
    for _ in range(20):
        optimizer.zero_grad()
        loss_of(head, model).backward()
        optimizer.step()
    assert float(loss_of(head, model).detach()) < 0.8 * first


@EVERY
def test_checkpointing_recomputes_and_changes_nothing(head: tiny.Head) -> None:
    more = {} if head.family == "xlm" else {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    if head.family == "xlm":
        more = {"dropout": 0.1, "attention_dropout": 0.1}
    gradients, counts = [], []
    calls: Any
    for recompute in (False, True):
        model = tiny.model(head, **more).train()
        calls = []
        model.base_model.encoder.layer[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        if recompute:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        torch.manual_seed(5)
        loss_of(head, model).backward()
        counts.append(len(calls))
        gradients.append([p.grad for p in model.parameters()])
    assert counts == [1, 2]
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=0, atol=0)
    model.gradient_checkpointing_enable({"preserve_rng_state": True}, every_n_layers=2, offload=True)
    model.zero_grad()
    calls = [[], []]
    for layer, seen in zip(model.base_model.encoder.layer, calls, strict=True):
        layer.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
    torch.manual_seed(5)
    loss_of(head, model).backward()
    assert [len(seen) for seen in calls] == [2, 1]
    for plain, p in zip(gradients[0], model.parameters(), strict=True):
        torch.testing.assert_close(plain, p.grad, rtol=0, atol=0)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@EVERY
def test_dropout_is_on_in_training_only(head: tiny.Head) -> None:
    more = {"dropout": 0.5} if head.family == "xlm" else {"hidden_dropout_prob": 0.5}
    model, ids = tiny.model(head, **more), tiny.ids(head)
    given = {} if head.kind == "beam" else tiny.labels(head, ids)
    calm = [model(ids, **given)[0] for _ in range(2)]
    assert torch.equal(*calm)
    if head.kind != "beam":
        model.train()
        assert not torch.equal(model(ids, **given)[0], model(ids, **given)[0])


@pytest.mark.parametrize("head", [head for head in tiny.HEADS if head.kind == "classify"], ids=str)
def test_problem_types(head: tiny.Head) -> None:
    ids, draw = tiny.ids(head), torch.Generator().manual_seed(0)
    functional = torch.nn.functional
    model = tiny.model(head)
    classes, table = torch.tensor([2, 0, 1]), torch.rand(3, 3, generator=draw).round()
    output = model(ids, labels=classes)
    torch.testing.assert_close(output.loss, functional.cross_entropy(output.logits, classes))
    assert model.config.problem_type == "single_label_classification"  # it sticks
    model = tiny.model(head)
    torch.testing.assert_close(model(ids, labels=classes.int()).loss, output.loss)  # 32-bit classes are classes
    model = tiny.model(head)
    loss = model(ids, labels=table).loss
    torch.testing.assert_close(loss, functional.binary_cross_entropy_with_logits(output.logits, table))
    assert model.config.problem_type == "multi_label_classification"
    whole = tiny.model(head, problem_type="multi_label_classification")
    torch.testing.assert_close(whole(ids, labels=table.long()).loss, loss)  # whole numbers serve as a table too
    one = tiny.model(head, num_labels=1)
    values = torch.tensor([0.5, -1.0, 2.0])
    output = one(ids, labels=values)
    torch.testing.assert_close(output.loss, functional.mse_loss(output.logits.squeeze(), values))
    assert one.config.problem_type == "regression"
    several = tiny.model(head, problem_type="regression")
    output = several(ids, labels=torch.rand(3, 3, generator=draw))
    assert output.loss.ndim == 0


@pytest.mark.parametrize("head", [head for head in tiny.HEADS if head.kind == "tag"], ids=str)
def test_tags_of_padding(head: tiny.Head) -> None:
    # XL leaves hidden tokens out of the loss, the other two count every label that is not -100.
    model, ids = tiny.model(head), tiny.ids(head)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    labels = torch.ones_like(ids)
    output = model(ids, attention_mask=mask, labels=labels)
    counted = labels.masked_fill(mask == 0, -100) if head.family == "xlm-roberta-xl" else labels
    want = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), counted.flatten())
    torch.testing.assert_close(output.loss, want)


@pytest.mark.parametrize("head", [head for head in tiny.HEADS if head.kind == "answer"], ids=str)
def test_answers_outside_the_input_do_not_count(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    output = model(ids, start_positions=torch.tensor([2, 99, 3]), end_positions=torch.tensor([[4], [99], [-3]]))
    cross = torch.nn.functional.cross_entropy
    start = cross(output.start_logits[[0, 2]], torch.tensor([2, 3]))
    end = cross(output.end_logits[[0, 2]], torch.tensor([4, 0]))
    torch.testing.assert_close(output.loss, (start + end) / 2)
    nothing = model(ids, start_positions=torch.full((3,), 99), end_positions=torch.full((3,), 99))
    assert bool(torch.isnan(nothing.loss))


@pytest.mark.parametrize("head", tiny.LM_HEADS, ids=str)
def test_language_model_losses(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    output = model(ids, labels=ids)
    logits, labels = output.logits, ids
    if head.kind == "causal":  # shifted here; XLM's head and the masked heads compare in place
        logits, labels = logits[:, :-1], ids[:, 1:]
        assert "past_key_values" not in output
    want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(output.loss, want)
    assert bool(torch.isnan(model(ids, labels=torch.full_like(ids, -100)).loss))


@EVERY
def test_gradients_reach_the_input(head: tiny.Head) -> None:
    model = tiny.model(head)
    embeds = model.get_input_embeddings()(tiny.ids(head)).detach().requires_grad_()
    tiny.scores(model(inputs_embeds=embeds)).sum().backward()
    assert embeds.grad is not None and float(embeds.grad.abs().sum()) > 0


@EVERY
def test_a_frozen_encoder_stays(head: tiny.Head) -> None:
    model = tiny.model(head)
    for p in model.base_model.parameters():
        p.requires_grad_(False)
    if head.kind == "model":
        model.enable_input_require_grads()
        model(tiny.ids(head))[0].sum().backward()  # adapters inside would be reached
        model.disable_input_require_grads()
        return
    loss_of(head, model).backward()
    assert all(p.grad is None for p in model.base_model.parameters())
    assert model.num_parameters(only_trainable=True) < model.num_parameters()
