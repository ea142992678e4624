"""What the forward of every family and head promises, whatever its weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny
from xlm import Batch, InputError, ModelOutput

EVERY = pytest.mark.parametrize("head", tiny.HEADS, ids=str)
MODELS = pytest.mark.parametrize("head", tiny.MODELS, ids=str)
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning")]

# Heads that read a chosen place (the first or the last token) move with left padding; those that score tokens do not.
PER_TOKEN = [head for head in tiny.HEADS if head.kind in ("model", "masked", "causal", "tag", "answer")]
B, S, H, V = 3, 7, tiny.HIDDEN, tiny.VOCAB
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "model": {"last_hidden_state": (B, S, H), "pooler_output": (B, H)},
    "causal": {"logits": (B, S, V)},
    "masked": {"logits": (B, S, V)},
    "classify": {"logits": (B, tiny.LABELS)},
    "tag": {"logits": (B, S, tiny.LABELS)},
    "answer": {"start_logits": (B, S), "end_logits": (B, S)},
    "choose": {"logits": (B, 3)},
    "beam": {
        "start_top_log_probs": (B, 2),
        "start_top_index": (B, 2),
        "end_top_log_probs": (B, 4),
        "end_top_index": (B, 4),
        "cls_logits": (B,),
    },
}


def pads(head: tiny.Head, given: torch.Tensor, count: int, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids with padding added on one side, and their mask."""
    extra = torch.full((*given.shape[:-1], count), tiny.pad_id(head.family))
    ids = torch.cat([extra, given] if left else [given, extra], dim=-1)
    mask = torch.ones_like(ids)
    mask[..., :count] = 0 if left else mask[..., :count]
    if not left:
        mask[..., given.shape[-1] :] = 0
    return ids, mask


def close(a: Any, b: Any, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@EVERY
def test_shapes(head: tiny.Head) -> None:
    output = tiny.model(head, output_hidden_states=True, output_attentions=True)(tiny.ids(head))
    wanted = {k: v for k, v in SHAPES[head.kind].items() if not (head.family == "xlm" and k == "pooler_output")}
    assert {name: tuple(output[name].shape) for name in wanted} == wanted
    rows = B * 3 if head.kind == "choose" else B
    assert [tuple(state.shape) for state in output.hidden_states] == [(rows, S, H)] * 3
    assert [tuple(weights.shape) for weights in output.attentions] == [(rows, 2, S, S)] * 2
    assert isinstance(output, ModelOutput)


@EVERY
def test_a_mapping_a_tuple_and_an_object_are_one(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    more = {"output_hidden_states": True, **({} if head.kind == "beam" else tiny.labels(head, ids))}
    output, plain = model(ids, **more), model(ids, **more, return_dict=False)
    values = [value for name, value in output.items()]
    assert output.to_tuple() == tuple(values)
    assert output[0] is values[0] and getattr(output, next(iter(output))) is values[0]
    given = [value for value in plain if value is not None]
    if head.kind == "model" and head.family != "xlm":
        assert plain[1] is not None  # the pooled state stands second, before what is optional
    assert len(given) == len(values)
    close(given[0], values[0], 0)


@EVERY
def test_the_config_decides_what_a_call_leaves_open(head: tiny.Head) -> None:
    ids = tiny.ids(head)
    assert isinstance(tiny.model(head, return_dict=False)(ids), tuple)
    assert isinstance(tiny.model(head, torchscript=True)(ids), tuple)
    model = tiny.model(head, output_attentions=True)
    assert "attentions" in model(ids) and "attentions" not in model(ids, output_attentions=False)


@EVERY
def test_a_row_does_not_depend_on_its_neighbours(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    together = tiny.scores(model(ids))
    alone = torch.cat([tiny.scores(model(ids[row : row + 1])) for row in range(len(ids))])
    close(together, alone)


@EVERY
def test_padding_on_the_right_changes_nothing(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    longer, mask = pads(head, ids, 3)
    more: dict[str, Any] = {}
    if head.kind == "beam":  # the last token decides where nothing is said, and no answer lies in the padding
        more = {"cls_index": torch.full((B,), S - 1)}
        answer = model(longer, attention_mask=mask, p_mask=1.0 - mask.float(), **more)
    else:
        answer = model(longer, attention_mask=mask)
    want, have = tiny.scores(model(ids, **more)), tiny.scores(answer)
    if have.shape != want.shape:
        have = have[:, :S]
    close(have, want)


@pytest.mark.parametrize("head", PER_TOKEN, ids=str)
def test_padding_on_the_left_changes_nothing(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    longer, mask = pads(head, ids, 3, left=True)
    # XLM's positions do not skip padding: say them, as its users have to.
    more = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if head.family == "xlm" else {}
    close(tiny.scores(model(longer, attention_mask=mask, **more))[:, 3:], tiny.scores(model(ids)))


@pytest.mark.parametrize(
    ("head", "causal"),
    [(head, False) for head in tiny.HEADS] + [(head, True) for head in tiny.HEADS if head.kind in ("model", "causal")],
    ids=lambda value: str(value) if isinstance(value, tiny.Head) else "causal" * value,
)
def test_packed_is_padded(head: tiny.Head, causal: bool) -> None:
    options = {"causal": True} if head.family == "xlm" else {"is_decoder": True}
    model = tiny.model(head, **(options if causal else {}))
    lengths = [5, 1, 9, 9, 2]
    rows = [torch.randint(4, V, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    rows[2][3] = tiny.pad_id(head.family)  # padding inside a text: its position counts for the families that skip it
    if head.family == "xlm":
        rows[2][3] = 4
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tiny.pad_id(head.family))
    mask = (torch.arange(9)[None] < torch.tensor(lengths)[:, None]).long()
    more, packed_more = {}, {}
    if head.family == "xlm":
        more["languages"] = ids % 2
        packed_more["languages"] = torch.cat(rows) % 2
    padded = model.states(Batch.padded(ids, mask, **more))
    packed = model.states(Batch.packed(torch.cat(rows), lengths, **packed_more))
    assert packed.shape == (sum(lengths), H) and padded.shape == (5 * 9, H)
    close(packed, padded[mask.reshape(-1).bool()])


@pytest.mark.parametrize("head", tiny.LM_HEADS, ids=str)
def test_logits_of_chosen_rows(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    states = model.states(Batch.padded(ids))
    chosen = torch.tensor([0, 5, 13])
    close(model.lm_logits(states[chosen]), model(ids).logits.reshape(-1, V)[chosen])


@pytest.mark.parametrize(
    "what",
    ["head_mask", "output_attentions", "relative"],
)
def test_what_needs_a_rectangle_says_so(what: str) -> None:
    head = tiny.MODELS[1]
    model = tiny.model(head, position_embedding_type="relative_key" if what == "relative" else "absolute")
    ids = tiny.ids(head)[0]
    if what == "relative":
        with pytest.raises(InputError, match="relative_key needs a padded batch"):
            model.states(Batch.packed(ids, [3, 4]))
        return
    from xlm.backends.torch.layout import Ragged

    more = {"head_mask": [torch.ones(2)] * 2} if what == "head_mask" else {"weights": True}
    with pytest.raises(InputError, match=f"{what} needs a padded batch"):
        model.encoder(torch.zeros(7, H), Ragged.of((3, 4), False), **more)


@EVERY
def test_embeddings_are_ids(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    embeds = model.get_input_embeddings()(ids)
    close(tiny.scores(model(inputs_embeds=embeds)), tiny.scores(model(ids)), 0)


@MODELS
def test_heads_switched_off_by_the_mask_are_heads_pruned(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    masked = model(ids, head_mask=torch.tensor([[0.0, 1.0], [1.0, 1.0]]))[0]
    model.prune_heads({0: [0]})
    close(model(ids)[0], masked)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision(head: tiny.Head, dtype: torch.dtype) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    longer, mask = pads(head, ids, 2)
    want = model(longer, attention_mask=mask)
    got = model.to(dtype)(longer, attention_mask=mask, output_attentions=True)
    for name, value in want.items():
        if name == "past_key_values" or not value.is_floating_point():
            continue
        assert got[name].dtype == dtype and bool(torch.isfinite(got[name]).all())
        if head.kind != "beam":  # a beam may come in another order
            close(got[name].float(), value, 0.25)


@pytest.mark.parametrize("head", [head for head in tiny.HEADS if head.kind == "causal"], ids=str)
def test_cached_steps_are_the_full_pass(head: tiny.Head) -> None:
    for kind in ("absolute", "relative_key", "relative_key_query"):
        model, ids = tiny.model(head, position_embedding_type=kind), tiny.ids(head)
        full, past, parts = model(ids, use_cache=False).logits, None, []
        assert "past_key_values" not in model(ids, use_cache=False)
        for step in (ids[:, :3], ids[:, 3:4], ids[:, 4:]):  # several tokens at once too
            answer = model(step, past_key_values=past)
            past = answer.past_key_values
            parts.append(answer.logits)
        close(torch.cat(parts, dim=1), full)


def test_xlm_cache_computes_new_tokens_only() -> None:
    head = tiny.MODELS[0]
    model, ids = tiny.model(head, causal=True), tiny.ids(head)
    langs = ids % 2
    full, cache, parts = model(ids, langs=langs)[0], {"slen": 0}, []
    for end in (3, 4, 7):
        parts.append(model(ids[:, :end], langs=langs[:, :end], cache=cache)[0])
        assert cache["slen"] == end
    assert [part.shape[1] for part in parts] == [3, 1, 3]
    close(torch.cat(parts, dim=1), full)


def test_cross_attention_reads_the_encoder_and_its_cache() -> None:
    for head in tiny.MODELS[1:]:
        model = tiny.model(head, is_decoder=True, add_cross_attention=True)
        ids = tiny.ids(head)
        context = torch.randn(B, 4, H, generator=torch.Generator().manual_seed(0))
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
        more = {"encoder_hidden_states": context, "encoder_attention_mask": mask}
        full = model(ids, **more).last_hidden_state
        hidden = context.clone()
        hidden[mask == 0] = 100.0
        close(model(ids, encoder_hidden_states=hidden, encoder_attention_mask=mask).last_hidden_state, full)
        first = model(ids[:, :6], **more)
        assert [len(layer) for layer in first.past_key_values] == [4, 4]
        last = model(ids[:, 6:], past_key_values=first.past_key_values, **more).last_hidden_state
        close(last, full[:, 6:])


@MODELS
@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_of_the_feed_forward_change_nothing(head: tiny.Head, chunk: int) -> None:
    ids = tiny.ids(head)
    close(tiny.model(head, chunk_size_feed_forward=chunk)(ids)[0], tiny.model(head)(ids)[0])


def test_an_activation_may_be_a_callable() -> None:
    for head in tiny.MODELS[1:]:
        ids = tiny.ids(head)
        own = tiny.model(head, hidden_act=torch.nn.functional.silu)
        close(own(ids)[0], tiny.model(head, hidden_act="silu")(ids)[0], 0)


@MODELS
def test_xlm_pads_are_zero_and_the_others_are_not(head: tiny.Head) -> None:
    ids, mask = pads(head, tiny.ids(head), 2)
    states = tiny.model(head)(ids, attention_mask=mask)[0]
    assert bool((states[:, S:] == 0).all()) == (head.family == "xlm")


@MODELS
def test_an_empty_batch(head: tiny.Head) -> None:
    model = tiny.model(head)
    assert model(torch.zeros((0, 5), dtype=torch.long))[0].shape == (0, 5, H)
    assert model.states(Batch.packed(torch.zeros(0, dtype=torch.long), [])).shape == (0, H)
    assert model.states(Batch.packed(torch.tensor([5, 6]), [0, 2, 0])).shape == (2, H)


@MODELS
def test_a_row_of_padding_is_finite_and_leaves_its_neighbours_alone(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    want = model(ids)[0]
    mask = torch.ones_like(ids)
    mask[1] = 0
    ids = ids.clone()
    ids[1] = tiny.pad_id(head.family)
    states = model(ids, attention_mask=mask)[0]
    assert bool(torch.isfinite(states).all())
    close(states[[0, 2]], want[[0, 2]])
    others = model(torch.where(mask == 1, ids, 9), attention_mask=mask)[0]
    assert torch.equal(others[[0, 2]], states[[0, 2]])


@MODELS
def test_nan_embeddings_stay_in_their_row(head: tiny.Head) -> None:
    model, ids = tiny.model(head), tiny.ids(head)
    embeds = model.get_input_embeddings()(ids).detach()
    want = model(inputs_embeds=embeds)[0]
    embeds[1, 2, 3] = float("nan")
    states = model(inputs_embeds=embeds)[0]
    assert bool(torch.isnan(states[1]).any())
    assert torch.equal(states[[0, 2]], want[[0, 2]])
