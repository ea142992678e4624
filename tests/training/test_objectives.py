"""The chunked losses give the numbers and gradients of the plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import xlm
from xlm.batches.batch import Batch
from xlm.data.corpus import open_stores
from xlm.data.vocabulary import load_vocabulary
from xlm.training import objectives
from xlm.training.objectives import contrastive_loss, masked_loss, mean_pool, to_batch
from xlm.training.recipe import load_recipe
from xlm.training.steps import Cursor, MicroBatch, StepBuilder

CPU = torch.device("cpu")


def build(toy: Callable[..., Path], **changes: Any) -> StepBuilder:
    path = toy(**changes)
    recipe, root = load_recipe(path), path.parent
    vocabulary = load_vocabulary(recipe.path(recipe.tokenizer))
    texts = open_stores(str(root / "text" / "{language}.txt"), None, vocabulary, root / "cache", "text")
    pairs = open_stores(str(root / "pairs" / "{language}.tsv"), None, vocabulary, root / "cache", "pairs")
    names = sorted({*texts, *pairs, recipe.data.pivot})
    return StepBuilder(recipe, vocabulary, texts, pairs, {name: i for i, name in enumerate(names)})


@pytest.fixture
def builder(toy: Callable[..., Path]) -> StepBuilder:
    return build(toy)


def steps(builder: StepBuilder, count: int, world: int = 1) -> list[list[MicroBatch]]:
    cursor, made = Cursor(), []
    for step in range(count):
        cursor = cursor.enter(builder.phase_at(step / 8))
        made.append([m for rank in range(world) for m in builder.build(cursor, step / 8, rank, world)])
        cursor = builder.advance(cursor, step / 8)
    return made


def model_of(tiny_model: Path) -> Any:
    return xlm.XLMRobertaForMaskedLM.from_pretrained(tiny_model).eval()


def test_the_masked_loss_is_the_models_own(builder: StepBuilder, tiny_model: Path, monkeypatch) -> None:
    micro = steps(builder, 1)[0][0]
    reference, ours = model_of(tiny_model), model_of(tiny_model)
    ids = torch.from_numpy(micro.ids).view(len(micro.lengths), -1)
    labels = torch.full_like(ids, -100).view(-1)
    labels[torch.from_numpy(micro.positions)] = torch.from_numpy(micro.targets)
    expected = reference(input_ids=ids, labels=labels.view_as(ids)).loss
    expected.backward()
    monkeypatch.setattr(objectives, "LOGIT_ELEMENTS", 640 * 3)  # three rows at a time
    states = ours.states(to_batch(micro, ours.spec), torch.from_numpy(micro.positions))
    loss, result = masked_loss(ours, states, micro, 1 / len(micro.targets))
    loss.backward()
    assert result.loss / result.count == pytest.approx(float(expected.detach()), rel=1e-5)
    for (name, a), b in zip(reference.named_parameters(), ours.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_pairs_are_pooled_and_scored_as_documented(builder: StepBuilder, tiny_model: Path) -> None:
    micro = next(m for m in steps(builder, 2)[1] if m.pairs)
    assert micro.pairs is not None
    model = model_of(tiny_model)
    with torch.no_grad():
        states = model.states(to_batch(micro, model.spec))
        pooled = mean_pool(states, micro.lengths)
        parts = states.split(micro.lengths)
        torch.testing.assert_close(pooled, torch.stack([part.mean(0) for part in parts]))
        loss, result = contrastive_loss(states, micro, 0.05)
    unit = functional.normalize(pooled, dim=-1)
    scores = unit[micro.pairs.texts] @ unit[micro.pairs.translations].T / 0.05
    scores[torch.from_numpy(micro.pairs.duplicates)] = -torch.inf
    diagonal = torch.arange(len(scores))
    plain = (functional.cross_entropy(scores, diagonal) + functional.cross_entropy(scores.T, diagonal)) / 2
    assert float(loss) / result.count == pytest.approx(float(plain), rel=1e-5)
    assert result.correct == int((scores.argmax(-1) == diagonal).sum())


def test_a_gpu_of_bf16_compares_pairs_in_fp32(builder: StepBuilder, tiny_model: Path) -> None:
    micro = next(m for m in steps(builder, 2)[1] if m.pairs)
    model = model_of(tiny_model)
    with torch.no_grad():
        states = model.states(to_batch(micro, model.spec))
    found = []
    for low in (False, True):
        leaf = states.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss, _ = contrastive_loss(leaf, micro, 0.05)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_a_gpu_holds_more_logits_at_a_time(builder: StepBuilder, tiny_model: Path, monkeypatch) -> None:
    GiB = 1 << 30
    assert [objectives.gpu_logits(n * GiB) for n in (16, 24, 80, 180)] == [1 << 27, 3 << 26, 1 << 29, 1 << 29]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 * GiB))
    assert objectives._held_logits(torch.device("cuda:0")) == 3 << 26
    assert objectives._held_logits(CPU) == objectives.LOGIT_ELEMENTS == 1 << 26
    # What is held at a time is what the loss is cut by.
    micro, chunks, model = steps(builder, 1)[0][0], [], model_of(tiny_model)
    whole = objectives.linear_cross_entropy

    def noted(*given: Any) -> Any:
        chunks.append(given[-1])
        return whole(*given)

    monkeypatch.setattr(objectives, "linear_cross_entropy", noted)
    monkeypatch.setattr(objectives, "_held_logits", lambda device: 7 * model.config.vocab_size)
    states = model.states(to_batch(micro, model.spec), torch.from_numpy(micro.positions))
    masked_loss(model, states, micro, 1.0)
    assert chunks == [7]


def test_a_step_is_a_function_of_its_cursor(builder: StepBuilder) -> None:
    for first, second in zip(steps(builder, 8), steps(builder, 8), strict=True):
        assert all(
            (a.ids == b.ids).all() and (a.positions == b.positions).all() for a, b in zip(first, second, strict=True)
        )
    lengths = [{length for m in step if m.objective == "mlm" for length in m.lengths} for step in steps(builder, 8)]
    assert lengths == [{32}] * 4 + [{48}] * 4


def test_one_recipe_mixes_clm_mlm_and_tlm(toy: Callable[..., Path]) -> None:
    mixture = {"mlm": {"share": 0.4}, "clm": {"share": 0.4}, "tlm": {"share": 0.2, "reset_positions": True}}
    builder = build(toy, objectives=mixture, data__first_token="none", masking__selection="xlm")
    made = steps(builder, 3)[-1]
    tokens = {name: sum(len(m.ids) for m in made if m.objective == name) for name in mixture}
    assert tokens["mlm"] == tokens["clm"] and 0.5 < tokens["tlm"] / tokens["mlm"] * 2 < 1.5
    causal = next(m for m in made if m.objective == "clm")
    assert set(causal.lengths) == {32} and (causal.targets == causal.ids[causal.positions + 1]).all()
    assert not np.isin(np.cumsum(causal.lengths) - 1, causal.positions).any()
    text = next(m for m in made if m.objective == "mlm")
    assert not np.isin(np.cumsum([0, *text.lengths[:-1]]), text.positions).any()  # as XLM, which skips a row's first
    pair = next(m for m in made if m.objective == "tlm")
    assert pair.position_ids is not None and (np.diff(pair.position_ids) < 0).sum() >= 2 * len(pair.lengths) - 1


def test_rows_without_a_first_token_are_the_text(toy: Callable[..., Path]) -> None:
    builder = build(toy, objectives={"clm": {}}, data__first_token="none")
    text = {name: store.tokens.tolist() for name, store in builder._texts.items()}
    for micro in steps(builder, 1)[0]:
        for row, language in zip(np.split(micro.ids, np.cumsum(micro.lengths)[:-1]), micro.row_languages, strict=True):
            whole, part = text[language], row.tolist()
            assert any(whole[at : at + len(part)] == part for at in range(len(whole)))


def test_a_language_is_drawn_by_tokens_or_by_sentences(toy: Callable[..., Path]) -> None:
    for kind in ("tokens", "sentences"):
        builder = build(toy, data__alpha=0.7, data__alpha_by=kind)
        sizes = {n: len(s.tokens) if kind == "tokens" else len(s) for n, s in builder._texts.items()}
        shares = np.array(list(sizes.values())) / sum(sizes.values())
        assert list(builder.text_probabilities.values()) == pytest.approx(list(shares**0.7 / (shares**0.7).sum()))


def test_the_boundaries_are_predicted_only_where_the_recipe_says_so(toy: Callable[..., Path]) -> None:
    for boundaries, found in ((False, False), (True, True)):
        builder = build(toy, masking__boundaries=boundaries)
        targets = np.concatenate([m.targets for step in steps(builder, 8) for m in step if m.objective == "mlm"])
        assert np.isin(targets, [0, 2]).any() == found


def test_states_see_the_past_only_when_told(tiny_model: Path) -> None:
    model = model_of(tiny_model)
    ids = torch.randint(5, 600, (12,), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[-1] = 5 + (ids[-1] - 4) % 500
    with torch.no_grad():
        for causal, same in ((True, True), (None, False)):
            a, b = (model.states(Batch.packed(x, [12]), None, causal)[:-1] for x in (ids, changed))
            assert torch.allclose(a, b, atol=1e-6) == same


def test_ranks_share_the_work_of_one_process(builder: StepBuilder) -> None:
    for one, two in zip(steps(builder, 4), steps(builder, 4, world=2), strict=True):
        for objective in ("mlm", "tlm"):
            left, right = (sorted(m.ids.tobytes() for m in step if m.objective == objective) for step in (one, two))
            assert left == right
        assert sum(len(m.pairs.texts) for m in two if m.pairs) == sum(len(m.pairs.texts) for m in one if m.pairs)


def test_translation_pairs_stand_side_by_side(builder: StepBuilder) -> None:
    micro = next(m for m in steps(builder, 1)[0] if m.objective == "tlm")
    restored = micro.ids.copy()
    restored[micro.positions] = micro.targets
    end = 0
    for length in micro.lengths:
        row, languages = restored[end : end + length], micro.languages[end : end + length]
        end += length
        assert row[0] == 0 and row[-1] == 2 and len(np.flatnonzero(row == 2)) == 3
        middle = int(np.flatnonzero(row == 2)[0])
        assert row[middle + 1] == 2
        assert len(set(languages[: middle + 1])) == 1 and len(set(languages[middle + 1 :])) == 1
        assert languages[0] != languages[-1]
