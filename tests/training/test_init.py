"""How new weights begin: the bias, the word vectors, the heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xlm import XLMRobertaXLConfig, XLMRobertaXLForMaskedLM
from xlm.batches.batch import Batch
from xlm.data.store import TokenStore
from xlm.errors import ConfigError
from xlm.training import spectral
from xlm.training.init import initialize
from xlm.training.spectral import cooccurrences, word_vectors

SIZE = 40


def store(sentences: list[list[int]]) -> TokenStore:
    rows = [np.array([*sentence, 2], np.int64) for sentence in sentences]
    tokens = np.concatenate(rows).astype(np.uint16)
    offsets = np.cumsum([0, *map(len, rows)])
    return TokenStore(Path("memory"), tokens, offsets, np.bincount(tokens, minlength=SIZE))


@pytest.fixture
def text() -> dict[str, TokenStore]:
    """Two languages: ids 4-13 and 14-23, in random order."""
    rng = np.random.default_rng(0)
    return {
        name: store([rng.integers(first, first + 10, 12).tolist() for _ in range(200)])
        for name, first in (("aa", 4), ("bb", 14))
    }


@pytest.fixture
def pairs() -> dict[str, TokenStore]:
    """Translations: id n of aa is n + 10 of bb."""
    rng = np.random.default_rng(1)
    sides = []
    for _ in range(300):
        sentence = rng.integers(4, 14, 6)
        sides += [(sentence + 10).tolist(), sentence.tolist()]
    return {"bb": store(sides)}


def model(heads: int = 2) -> Any:
    return XLMRobertaXLForMaskedLM(
        XLMRobertaXLConfig(
            vocab_size=SIZE,
            hidden_size=32 * heads,
            num_hidden_layers=2,
            num_attention_heads=heads,
            intermediate_size=64,
            max_position_embeddings=34,
        )
    ).eval()


def test_nothing_changes_without_options(text: dict[str, TokenStore]) -> None:
    new = model()
    before = {name: value.clone() for name, value in new.state_dict().items()}
    initialize(new, {}, text=text, pairs={}, probabilities={"aa": 0.5, "bb": 0.5}, seed=1)
    assert all(torch.equal(value, before[name]) for name, value in new.state_dict().items())


def test_an_unknown_option_is_named(text: dict[str, TokenStore]) -> None:
    with pytest.raises(ConfigError, match=r"init\.wrods"):
        initialize(model(), {"wrods": "spectral"}, text=text, pairs={}, probabilities={"aa": 1.0}, seed=1)


def test_the_bias_is_the_log_frequency(text: dict[str, TokenStore]) -> None:
    new = model()
    options = {"scale": 0.05, "bias": "unigram"}
    initialize(new, options, text=text, pairs={}, probabilities={"aa": 0.9, "bb": 0.1}, seed=1)
    counts = {name: part.counts for name, part in text.items()}
    share = 0.9 * counts["aa"][7] / counts["aa"].sum()
    assert new.lm_head.bias[7].item() == pytest.approx(np.log(share + 1e-6), abs=1e-5)
    assert new.lm_head.bias[2].item() == pytest.approx(np.log(1e-6), abs=1e-3)


def test_word_vectors_know_languages(text: dict[str, TokenStore]) -> None:
    alone = word_vectors(cooccurrences(text, {}, SIZE), [0, 1, 2, 3, SIZE - 1], 8, seed=1)
    within, across = float(alone[4] @ alone[9]), float(alone[4] @ alone[19])
    assert within > across + 0.2
    assert not alone[30].any()  # never seen


def test_counts_are_those_of_a_dense_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "_PENDING", 50)
    generator, counts, dense = torch.Generator().manual_seed(1), spectral.Counts(9), torch.zeros(9, 9)
    for weight in (1.0, 0.5, 2.0, 0.25):
        left, right = (torch.randint(9, (30,), generator=generator) for _ in range(2))
        counts.add(left, right, torch.tensor(weight))
        dense.index_put_((left, right), torch.full((30,), weight), accumulate=True)
    rows, columns, values = counts.pairs()
    assert len(rows) < 81
    torch.testing.assert_close(torch.zeros(9, 9).index_put_((rows, columns), values), dense + dense.T)


def test_word_vectors_of_a_large_vocabulary_fit_in_memory(text: dict[str, TokenStore]) -> None:
    made = word_vectors(cooccurrences(text, {}, 250_002), [0, 1, 2, 3], 8, seed=1)  # 62 billion pairs
    assert made.shape == (250_002, 8) and made[4].any() and not made[200_000].any()


def test_translation_steps_bring_translations_together(
    text: dict[str, TokenStore], pairs: dict[str, TokenStore]
) -> None:
    new = model()
    options = {"scale": 0.05, "positions": "sinusoid", "translation_steps": 150, "translation_pairs": 32}
    initialize(new, options, text=text, pairs=pairs, probabilities={"aa": 0.5, "bb": 0.5}, seed=1)
    words = new.get_input_embeddings().weight.detach()
    similarity = (
        torch.nn.functional.normalize(words[4:14], dim=1) @ torch.nn.functional.normalize(words[14:24], dim=1).T
    )
    assert (similarity.argmax(1) == torch.arange(10)).float().mean() > 0.8


def test_the_start_is_the_same_for_the_same_seed(text: dict[str, TokenStore], pairs: dict[str, TokenStore]) -> None:
    options = {
        "scale": 0.05,
        "residual": 0.1,
        "bias": "unigram",
        "positions": "sinusoid",
        "words": "spectral",
        "heads": "local",
        "translation_steps": 20,
        "translation_pairs": 16,
    }
    made = [model(), model()]
    for new in made:
        initialize(new, options, text=text, pairs=pairs, probabilities={"aa": 0.5, "bb": 0.5}, seed=3)
    for name, value in made[0].state_dict().items():
        assert torch.equal(value, made[1].state_dict()[name]), name
        assert value.isfinite().all(), name
    assert all(parameter.grad is None for parameter in made[0].parameters())


def test_local_heads_look_at_the_neighbours(text: dict[str, TokenStore]) -> None:
    new = model(heads=2)
    options = {"scale": 0.05, "positions": "sinusoid", "heads": "local"}
    initialize(new, options, text=text, pairs={}, probabilities={"aa": 0.5, "bb": 0.5}, seed=1)
    ids = torch.randint(4, 24, (1, 20))
    weights = new(input_ids=ids, output_attentions=True).attentions[0][0]
    inner = torch.arange(3, 17)
    for head, shift in enumerate((-1, 1)):
        distance = (weights[head, inner].argmax(-1) - inner - shift).abs()
        assert (distance <= 1).float().mean() > 0.8
    states = new.states(Batch.packed(ids[0], [20]))
    assert states.shape == (20, 64)
