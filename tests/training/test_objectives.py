"""The chunked losses give the numbers and gradients of the plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import xlm
from xlm.data.corpus import open_stores
from xlm.data.vocabulary import load_vocabulary
from xlm.training import objectives
from xlm.training.objectives import contrastive_loss, masked_loss, mean_pool, to_batch
from xlm.training.recipe import load_recipe
from xlm.training.steps import Cursor, MicroBatch, StepBuilder

CPU = torch.device("cpu")


@pytest.fixture
def builder(toy: Callable[..., Path], tmp_path: Path) -> StepBuilder:
    recipe = load_recipe(toy())
    vocabulary = load_vocabulary(recipe.path(recipe.tokenizer))
    texts = open_stores(str(tmp_path / "text" / "{language}.txt"), None, vocabulary, tmp_path / "cache", "text")
    pairs = open_stores(str(tmp_path / "pairs" / "{language}.tsv"), None, vocabulary, tmp_path / "cache", "pairs")
    return StepBuilder(recipe, vocabulary, texts, pairs)


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
    states = ours.states(to_batch(micro, ours.spec, CPU), torch.from_numpy(micro.positions))
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
        states = model.states(to_batch(micro, model.spec, CPU))
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


def test_a_step_is_a_function_of_its_cursor(builder: StepBuilder) -> None:
    for first, second in zip(steps(builder, 8), steps(builder, 8), strict=True):
        assert all(
            (a.ids == b.ids).all() and (a.positions == b.positions).all() for a, b in zip(first, second, strict=True)
        )
    lengths = [{length for m in step if m.objective == "mlm" for length in m.lengths} for step in steps(builder, 8)]
    assert lengths == [{32}] * 4 + [{48}] * 4


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
