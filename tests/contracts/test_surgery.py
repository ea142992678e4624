"""Changing a model after it was built: ties, resizing, pruning, dtypes, names."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import tiny
from xlm import Batch, InputError, load_reference_state_dict
from xlm.backends.torch.assign import published_tensors
from xlm.checkpoints.published import table_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
EVERY = pytest.mark.parametrize("head", tiny.HEADS, ids=str)
LANGUAGE = pytest.mark.parametrize("head", tiny.LM_HEADS, ids=str)
MODELS = pytest.mark.parametrize("head", tiny.MODELS, ids=str)


@EVERY
def test_every_tensor_has_one_published_name_and_back(head: tiny.Head) -> None:
    more = {} if head.family == "xlm" else {"position_embedding_type": "relative_key", "type_vocab_size": 2}
    if head.kind in ("model", "causal") and head.family != "xlm":
        more |= {"is_decoder": True, "add_cross_attention": True}
    model = tiny.model(head, **more)
    table = table_of(model.family)
    published = [name for name, _ in published_tensors(model)]
    assert len(set(published)) == len(published)
    base = not hasattr(model, model.base_model_prefix)
    for (ours, _), theirs in zip(model.named_parameters(), published, strict=True):
        full_ours = f"roberta.{ours}" if base else ours
        full_theirs = f"{model.family.theirs_prefix}.{theirs}" if base else theirs
        assert table.to_theirs(full_ours) == full_theirs
        assert table.to_ours(full_theirs) == full_ours
    if head.family == "xlm-roberta":
        assert published == [name for name, _ in model.named_parameters()]


@EVERY
def test_a_reference_state_dict_fills_a_model(head: tiny.Head) -> None:
    source, target = tiny.model(head, seed=1), tiny.model(head, seed=2)
    state = {name: torch.from_numpy(array.copy()) for name, array in published_tensors(source)}
    load_reference_state_dict(target, state)
    for name, parameter in source.named_parameters():
        assert torch.equal(parameter, target.get_parameter(name)), name


@LANGUAGE
def test_decoder_and_words_are_one(head: tiny.Head) -> None:
    model = tiny.model(head)
    words, decoder = model.get_input_embeddings(), model.get_output_embeddings()
    assert decoder.weight is words.weight
    if head.family != "xlm":
        assert decoder.bias is model.lm_head.bias
    untied = tiny.model(head, tie_word_embeddings=False)
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight
    model.set_input_embeddings(torch.nn.Embedding(tiny.VOCAB, tiny.HIDDEN))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    moved = copy.deepcopy(model)
    assert moved.get_output_embeddings().weight is moved.get_input_embeddings().weight
    assert moved.get_input_embeddings().weight is not model.get_input_embeddings().weight


@EVERY
def test_a_state_dict_shares_no_memory_between_names(head: tiny.Head) -> None:
    model = tiny.model(head)
    state = model.state_dict()
    places = [tensor.data_ptr() for tensor in state.values()]
    assert len(set(places)) == len(places)
    inner = torch.nn.Sequential(model).state_dict()
    assert len({tensor.data_ptr() for tensor in inner.values()}) == len(inner)
    other = tiny.model(head, seed=5)
    assert not any(other.load_state_dict(state))
    if head.kind in ("masked", "causal"):
        assert other.get_output_embeddings().weight is other.get_input_embeddings().weight
        kept = model.state_dict(keep_vars=True)
        assert kept["lm_head.decoder.weight"] is kept["roberta.embeddings.word_embeddings.weight"]
    for name, p in model.named_parameters():
        assert torch.equal(p, other.get_parameter(name)) and torch.equal(p, state[name])


@EVERY
@pytest.mark.parametrize("rows", [tiny.VOCAB + 6, tiny.VOCAB - 5])
def test_resizing_keeps_what_stays(head: tiny.Head, rows: int) -> None:
    for more in ({}, {"tie_word_embeddings": False}):
        model = tiny.model(head, **more)
        ids = tiny.ids(head) % (tiny.VOCAB - 9)
        ids[ids < 4] = 4
        old, want = model.get_input_embeddings().weight.detach().clone(), tiny.scores(model(ids))
        table = model.resize_token_embeddings(rows)
        assert model.get_input_embeddings() is table and table.weight.shape[0] == model.config.vocab_size == rows
        kept = min(rows, tiny.VOCAB)
        assert torch.equal(table.weight[:kept], old[:kept])
        have = tiny.scores(model(ids))
        width = kept if head.kind in ("masked", "causal") else want.shape[-1]
        torch.testing.assert_close(have[..., :width], want[..., :width], rtol=1e-6, atol=1e-6)
        if head.kind in ("masked", "causal"):
            assert have.shape[-1] == rows
            labels = torch.full_like(ids, rows - 1)
            loss = model(ids, labels=labels).loss
            loss.backward()
            assert table.weight.grad is not None and table.weight.grad.shape[0] == rows
        if rows > tiny.VOCAB:
            model(torch.full_like(ids, rows - 1))


def test_resizing_to_a_multiple_and_to_nothing() -> None:
    model = tiny.model(tiny.ONE_A_FAMILY[1])
    assert model.resize_token_embeddings(None).weight.shape[0] == tiny.VOCAB
    assert model.resize_token_embeddings(pad_to_multiple_of=16).weight.shape[0] == 48
    assert model.resize_token_embeddings(33, pad_to_multiple_of=8).weight.shape[0] == 40
    with pytest.raises(InputError, match="new_num_tokens=1: must be above the padding id 1"):
        model.resize_token_embeddings(1)


@MODELS
def test_pruned_heads_are_gone_and_remembered(head: tiny.Head) -> None:
    model = tiny.model(head, n_heads=4) if head.family == "xlm" else tiny.model(head, num_attention_heads=4)
    before, ids = model.num_parameters(), tiny.ids(head)
    mask = torch.ones(2, 4)
    mask[0, 1] = mask[1, 0] = mask[1, 3] = 0
    want = model(ids, head_mask=mask)[0]
    model.prune_heads({0: [1]})
    model.prune_heads({1: [0, 3]})
    model.prune_heads({0: [1]})  # a second time changes nothing
    torch.testing.assert_close(model(ids)[0], want, rtol=1e-5, atol=1e-6)
    # Per head: query, key and value with biases, and the columns of the output projection.
    assert before - model.num_parameters() == 3 * (4 * 4 * tiny.HIDDEN + 3 * 4)
    assert model.config.pruned_heads == {0: [1], 1: [0, 3]}
    packed = model.states(Batch.packed(ids.reshape(-1), [7, 7, 7]))
    torch.testing.assert_close(packed.view_as(want), want, rtol=1e-5, atol=1e-6)
    born_pruned = head.cls(model.config)
    assert born_pruned.num_parameters() == model.num_parameters()
    born_pruned.load_state_dict(model.state_dict())
    assert torch.equal(born_pruned.eval()(ids)[0], model(ids)[0])


def test_pruning_what_is_not_there() -> None:
    model = tiny.model(tiny.MODELS[1])
    with pytest.raises(InputError, match="layer 5: the model has layers 0 to 1"):
        model.prune_heads({5: [0]})
    with pytest.raises(InputError, match=r"heads \[4\]: the layer has heads 0 to 1"):
        model.prune_heads({0: [4]})
    with pytest.raises(InputError, match="at least one of the 2 heads must stay"):
        model.prune_heads({0: [0, 1]})


@EVERY
def test_a_model_is_built_as_the_papers_say(head: tiny.Head) -> None:
    torch.manual_seed(0)
    model = head.cls(tiny.config(head))
    pad = tiny.pad_id(head.family)
    for name, p in model.named_parameters():
        if name.endswith(".bias"):
            assert bool((p == 0).all()), name
        elif "LayerNorm" in name or "layer_norm" in name:
            assert bool((p == 1).all()), name
        elif p.numel() > 100:
            assert 0.15 < float(p.std()) < 0.25, name
    assert bool((model.get_input_embeddings().weight[pad] == 0).all())
    assert model.training


@EVERY
def test_copies_and_pickles(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(tiny.scores(twin(ids)), tiny.scores(model(ids)))


@EVERY
def test_what_a_model_says_of_itself(head: tiny.Head) -> None:
    model = tiny.model(head)
    assert model.device.type == "cpu" and model.dtype == torch.float32
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert model.num_parameters(exclude_embeddings=True) < model.num_parameters()
    assert model.get_memory_footprint() >= 4 * model.num_parameters()
    assert model.base_model.config is model.config
    assert model.can_generate() == (head.kind == "causal" or head.name == "XLMWithLMHeadModel")


def test_published_names_of_parts() -> None:
    xlm_model = tiny.model(tiny.ONE_A_FAMILY[0])
    assert xlm_model.transformer is xlm_model.base_model and xlm_model.pred_layer is xlm_model.lm_head
    assert tiny.model(tiny.ONE_A_FAMILY[1]).roberta.pooler is None
