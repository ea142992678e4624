"""Continuing text: greedy search, sampling and beams, with caches and without, against plain loops over the forward."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import tiny
import xlm
from xlm import InputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CAUSAL = [head for head in tiny.HEADS if head.kind == "causal"]
GENERATORS = [*CAUSAL, tiny.ONE_A_FAMILY[0]]
EVERY = pytest.mark.parametrize("head", GENERATORS, ids=str)


def next_scores(head: tiny.Head, model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the next token by one full forward."""
    if head.family == "xlm":
        ids = torch.cat([ids, torch.full((len(ids), 1), model.config.mask_token_id)], dim=1)
        return model(ids, langs=torch.full_like(ids, model.config.lang_id)).logits[:, -1].log_softmax(-1)
    return model(ids, use_cache=False).logits[:, -1].log_softmax(-1)


@EVERY
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy(head: tiny.Head, use_cache: bool) -> None:
    model, ids = tiny.model(head), tiny.ids(head, length=3)
    want = ids
    for _ in range(8):
        want = torch.cat([want, next_scores(head, model, want).argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(model.generate(ids, max_new_tokens=8, eos_token_id=[], use_cache=use_cache), want)
    assert torch.equal(model.generate(input_ids=ids, max_length=11, eos_token_id=[], use_cache=use_cache), want)


@EVERY
def test_a_row_ends_at_its_end(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head, length=3)
    free = model.generate(ids, max_new_tokens=8, eos_token_id=[])
    end = int(free[0, 5])
    stopped = model.generate(ids, max_new_tokens=8, eos_token_id=end, pad_token_id=0)
    for row, full in zip(stopped.tolist(), free.tolist(), strict=True):
        cut = next((place for place in range(3, 11) if full[place] == end), 10)
        assert row[: cut + 1] == full[: cut + 1]
        assert all(token == 0 for token in row[cut + 1 :])
    late = model.generate(ids, max_new_tokens=8, eos_token_id=end, min_length=9, pad_token_id=0)
    assert end not in late[:, 3:9].tolist()[0]


@EVERY
def test_beams_find_at_least_what_greedy_finds(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head, length=3)

    def total(rows: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [next_scores(head, model, rows[:, :end]).gather(1, rows[:, end : end + 1])[:, 0] for end in range(3, 7)]
        ).sum(0)

    settings: dict[str, Any] = {"max_new_tokens": 4, "eos_token_id": [], "do_sample": False}
    wide = model.generate(ids, num_beams=tiny.VOCAB, **settings)
    assert bool((total(wide) >= total(model.generate(ids, **settings)) - 1e-5).all())
    several = model.generate(ids, num_beams=4, num_return_sequences=3, **settings)
    assert several.shape == (9, 7)
    scores = total(several).view(3, 3)
    assert bool((scores[:, :-1] >= scores[:, 1:] - 1e-5).all())  # best first
    assert torch.equal(model.generate(ids, num_beams=4, use_cache=False, **settings), several[::3])
    # A beam as wide as the tree is exhaustive: two steps over the whole vocabulary by hand.
    exhaustive = model.generate(ids, num_beams=tiny.VOCAB, max_new_tokens=2, eos_token_id=[])
    first = next_scores(head, model, ids)
    for row in range(3):
        grown = torch.cat([ids[row].expand(tiny.VOCAB, -1), torch.arange(tiny.VOCAB)[:, None]], dim=1)
        both = first[row][:, None] + next_scores(head, model, grown)
        assert exhaustive[row, 3:].tolist() == list(divmod(int(both.argmax()), tiny.VOCAB))


@EVERY
def test_sampling(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head, length=3)
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": True, "eos_token_id": []}
    torch.manual_seed(1)
    first = model.generate(ids, **settings)
    torch.manual_seed(1)
    assert torch.equal(model.generate(ids, **settings), first)
    assert not torch.equal(model.generate(ids, **settings), first)
    greedy = model.generate(ids, max_new_tokens=5, eos_token_id=[])
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        assert torch.equal(model.generate(ids, **settings, **narrow), greedy), narrow
    assert model.generate(ids, num_return_sequences=4, **settings).shape == (12, 8)
    assert model.generate(ids, num_beams=3, **settings).shape == (3, 8)
    # The frequencies of one step are the model's probabilities, cut to the best five.
    torch.manual_seed(0)
    drawn = model.generate(
        ids[:1], max_new_tokens=1, do_sample=True, top_k=5, eos_token_id=[], num_return_sequences=4000
    )
    p = next_scores(head, model, ids[:1])[0].exp()
    best = p.topk(5)
    counts = torch.bincount(drawn[:, -1], minlength=tiny.VOCAB)[best.indices] / 4000
    torch.testing.assert_close(counts, best.values / best.values.sum(), rtol=0, atol=0.04)


@EVERY
def test_repeats_can_be_banned(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head, length=3)
    rows = model.generate(ids, max_new_tokens=12, no_repeat_ngram_size=2, eos_token_id=[]).tolist()
    for row in rows:
        pairs = list(itertools.pairwise(row))
        assert len(set(pairs)) == len(pairs)
    strict = model.generate(ids, max_new_tokens=12, repetition_penalty=1e6, eos_token_id=[])
    assert not torch.equal(strict, model.generate(ids, max_new_tokens=12, eos_token_id=[]))


@pytest.mark.parametrize("head", CAUSAL, ids=str)
def test_prompts_padded_on_the_left(head: tiny.Head) -> None:
    model = tiny.model(head)
    short = tiny.ids(head, batch=1, length=3)
    ids = torch.cat([torch.full((1, 2), 1), short], dim=1)
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    for beams in (1, 3):
        settings: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": [], "num_beams": beams}
        padded = model.generate(ids, attention_mask=mask, **settings)
        assert torch.equal(padded[:, 2:], model.generate(short, **settings))


def test_a_decoder_with_an_encoder() -> None:
    model = tiny.model(CAUSAL[0], add_cross_attention=True)
    ids, context = tiny.ids(CAUSAL[0], length=2), torch.randn(3, 4, tiny.HIDDEN)
    cached, plain = (
        model.generate(
            ids, max_new_tokens=5, encoder_hidden_states=context, use_cache=use, num_beams=2, eos_token_id=[]
        )
        for use in (True, False)
    )
    assert torch.equal(cached, plain)


def test_the_mode_is_left_as_it_was() -> None:
    model = tiny.model(CAUSAL[0]).train()
    model.generate(tiny.ids(CAUSAL[0]), max_new_tokens=2)
    assert model.training


def test_without_a_prompt() -> None:
    rows = tiny.model(CAUSAL[0]).generate(max_length=5, eos_token_id=[])
    assert rows.shape == (1, 5) and int(rows[0, 0]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 3}, "max_length=3: the prompt has 7 tokens"),
        ({"num_beams": 0}, "num_beams=0"),
        ({"num_return_sequences": 2}, "num_return_sequences=2: at most num_beams=1"),
        ({"temperature": 0.0, "do_sample": True}, "temperature=0.0: must be above 0"),
        ({"top_p": 0.0, "do_sample": True}, "top_p=0.0: must be above 0"),
        ({"top_p": 1.5, "do_sample": True}, "top_p=1.5"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny.model(CAUSAL[0]).generate(tiny.ids(CAUSAL[0]), **options)


def test_longer_than_the_model() -> None:
    with pytest.raises(InputError, match="the longest input has 20 tokens"):
        tiny.model(CAUSAL[0]).generate(tiny.ids(CAUSAL[0]), max_new_tokens=40, eos_token_id=[])


def test_beams_that_never_stop_early_find_what_is_no_worse() -> None:
    differ = 0
    for seed in range(8):
        torch.manual_seed(seed)
        config = xlm.XLMRobertaConfig(
            vocab_size=14, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64, type_vocab_size=1, is_decoder=True, initializer_range=0.3,
        )  # fmt: skip
        model = xlm.XLMRobertaForCausalLM(config).eval()
        prompt = torch.randint(5, 14, (1, 4))

        def score(row: torch.Tensor, prompt: torch.Tensor = prompt, model: Any = model) -> float:
            start = prompt.shape[1]
            ends = (row[start:] == 2).nonzero()
            row = row[: start + int(ends[0]) + 1] if len(ends) else row
            with torch.no_grad():
                scores = model(row[None]).logits[0].log_softmax(-1)
            return sum(float(scores[i - 1, row[i]]) for i in range(start, len(row))) / (len(row) - start) ** 2

        options = {"num_beams": 2, "max_length": 14, "length_penalty": 2.0, "eos_token_id": 2, "pad_token_id": 1}
        patient, hasty = (model.generate(prompt, early_stopping=e, **options)[0] for e in ("never", True))
        differ += patient.tolist() != hasty.tolist()
        assert score(patient) >= score(hasty) - 1e-5
    assert differ


def test_an_xlm_that_is_a_decoder_writes() -> None:
    torch.manual_seed(0)
    size = {"vocab_size": 40, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 30}
    model = xlm.XLMWithLMHeadModel(xlm.XLMConfig(**size, is_decoder=True)).eval()
    ids = torch.tensor([[1, 5, 6]])
    for beams in (1, 2):
        made = model.generate(ids, max_new_tokens=4, num_beams=beams)
        assert made[:, :3].equal(ids) and made.shape[1] <= 7
