"""Bad input, one line a fault: the error names the argument, its value and the limit, and the next call is unharmed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny
import xlm
from xlm import Batch, ConfigError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
R, XLM, XL = tiny.MODELS[1], tiny.MODELS[0], tiny.MODELS[2]
BY_KIND = {(head.family, head.kind): head for head in tiny.HEADS}
IDS = tiny.ids(R)
EMBEDS = torch.zeros(3, 7, tiny.HIDDEN)
LONG = torch.full((1, 25), 5)
ONES = torch.ones(3, 7, dtype=torch.long)


def put(place: tuple[int, ...], value: int, like: torch.Tensor = IDS) -> torch.Tensor:
    changed = like.clone()
    changed[place] = value
    return changed


def ends(start: list[int], end: list[int]) -> dict[str, torch.Tensor]:
    return {"start_positions": torch.tensor(start), "end_positions": torch.tensor(end)}


FAULTS: list[tuple[str, tiny.Head, dict[str, Any], str]] = [
    ("id past the table", R, {"input_ids": put((1, 2), 41)}, r"input_ids\[1, 2\]=41: must be from 0 to 40"),
    ("negative id", R, {"input_ids": put((0, 0), -1)}, r"input_ids\[0, 0\]=-1: must be from 0 to 40"),
    ("id past XLM's table", XLM, {"input_ids": put((2, 6), 99)}, r"input_ids\[2, 6\]=99: must be from 0 to 40"),
    ("id past XL's table", XL, {"input_ids": put((2, 6), 99)}, r"input_ids\[2, 6\]=99: must be from 0 to 40"),
    ("token type", R, {"input_ids": IDS, "token_type_ids": put((1, 1), 1, 0 * IDS)}, r"token_type_ids.*=1: must be"),
    ("XLM's type", XLM, {"input_ids": IDS, "token_type_ids": put((1, 1), 41, 0 * IDS)}, r"token_type_ids.*=41: must"),
    ("language", XLM, {"input_ids": IDS, "langs": put((1, 3), 2, 0 * IDS)}, r"langs.*=2: must be from 0 to 1"),
    ("negative language", XLM, {"input_ids": IDS, "langs": put((1, 3), -1, 0 * IDS)}, r"langs.*=-1: must be from 0"),
    ("languages' shape", XLM, {"input_ids": IDS, "langs": ONES[:, :5]}, r"langs of shape \(3, 5\): must be \(3, 7\)"),
    (
        "position",
        R,
        {"input_ids": IDS, "position_ids": put((0, 4), 22, ONES)},
        r"position_ids.*=22: must be from 0 to 21",
    ),
    ("positions' shape", R, {"input_ids": IDS, "position_ids": ONES[:, :4]}, r"position_ids of shape \(3, 4\)"),
    ("too long", R, {"input_ids": LONG}, r"25 tokens|longest input has 20 tokens"),
    ("too long for XL", XL, {"input_ids": LONG}, r"25 tokens|longest input has 20 tokens"),
    ("too long for XLM", XLM, {"input_ids": LONG}, r"25 tokens|longest input has 20 tokens"),
    ("too long embeddings", R, {"inputs_embeds": torch.zeros(1, 25, 16)}, r"25 tokens|longest input has 20 tokens"),
    ("both", R, {"input_ids": IDS, "inputs_embeds": EMBEDS}, r"either input_ids or inputs_embeds, not both"),
    ("neither", R, {}, r"either input_ids or inputs_embeds"),
    ("both for XLM", XLM, {"input_ids": IDS, "inputs_embeds": EMBEDS}, r"either input_ids or inputs_embeds, not both"),
    ("neither for XLM", XLM, {}, r"either input_ids or inputs_embeds"),
    ("float ids", R, {"input_ids": IDS.float()}, r"input_ids of dtype torch.float32: must be integers"),
    ("bool ids", R, {"input_ids": IDS > 5}, r"input_ids of dtype torch.bool: must be integers"),
    ("ids of one axis", R, {"input_ids": IDS[0]}, r"input_ids of shape \(7,\): must be \(batch, sequence\)"),
    (
        "ids of three axes",
        XLM,
        {"input_ids": IDS[None]},
        r"input_ids of shape \(1, 3, 7\): must be \(batch, sequence\)",
    ),
    ("embeddings of two axes", R, {"inputs_embeds": EMBEDS[0]}, r"inputs_embeds of shape \(7, 16\): must be"),
    ("embeddings' width", R, {"inputs_embeds": EMBEDS[..., :9]}, r"inputs_embeds of width 9: must be 16"),
    ("mask too short", R, {"input_ids": IDS, "attention_mask": ONES[:, :5]}, r"attention_mask of shape \(3, 5\)"),
    ("mask of another batch", R, {"input_ids": IDS, "attention_mask": ONES[:2]}, r"attention_mask of shape \(2, 7\)"),
    ("mask of one axis", R, {"input_ids": IDS, "attention_mask": ONES[0]}, r"attention_mask of shape \(7,\)"),
    ("mask of four axes", R, {"input_ids": IDS, "attention_mask": ONES[:, None, None]}, r"attention_mask of shape"),
    ("mask's queries", R, {"input_ids": IDS, "attention_mask": torch.ones(3, 6, 7)}, r"attention_mask of shape"),
    ("mask above one", R, {"input_ids": IDS, "attention_mask": 2 * ONES}, r"attention_mask.*=2.*from 0 to 1"),
    ("mask below zero", R, {"input_ids": IDS, "attention_mask": put((1, 2), -1, ONES)}, r"attention_mask.*=-1.*from 0"),
    ("mask of nothing", R, {"input_ids": IDS, "attention_mask": torch.full((3, 7), torch.nan)}, r"attention_mask.*nan"),
    ("XLM's mask of three axes", XLM, {"input_ids": IDS, "attention_mask": torch.ones(3, 7, 7)}, r"attention_mask of"),
    ("XLM's mask above one", XLM, {"input_ids": IDS, "attention_mask": 3 * ONES}, r"attention_mask.*=3.*from 0 to 1"),
    (
        "head mask",
        R,
        {"input_ids": IDS, "head_mask": torch.ones(3)},
        r"head_mask of shape \(3,\): must be \(2,\) or \(2, 2\)",
    ),
    ("head mask of layers", R, {"input_ids": IDS, "head_mask": torch.ones(3, 2)}, r"head_mask of shape \(3, 2\)"),
    (
        "lengths' shape",
        XLM,
        {"input_ids": IDS, "lengths": torch.tensor([3, 4])},
        r"lengths of shape \(2,\): must be \(3,\)",
    ),
    (
        "lengths too large",
        XLM,
        {"input_ids": IDS, "lengths": torch.tensor([3, 8, 1])},
        r"lengths=\[3, 8, 1\].*from 0 to 7",
    ),
    ("cache without slen", XLM, {"input_ids": IDS, "cache": {}}, r"cache without the key 'slen'"),
    ("cache past the input", XLM, {"input_ids": IDS, "cache": {"slen": 7}}, r"cache of 7 tokens.*it has 7"),
]
LABELLED: list[tuple[str, tuple[str, str], dict[str, Any], str]] = [
    ("word", ("xlm-roberta", "masked"), {"labels": put((0, 3), 41)}, r"labels\[0, 3\]=41: must be -100 or from 0 to 40"),
    ("negative word", ("xlm", "masked"), {"labels": put((0, 3), -1)}, r"labels\[0, 3\]=-1: must be -100 or from 0 to 40"),
    ("words' shape", ("xlm-roberta-xl", "masked"), {"labels": IDS[:, :5]}, r"labels of shape \(3, 5\): must be \(3, 7\)"),
    ("next word", ("xlm-roberta", "causal"), {"labels": put((0, 3), 50)}, r"labels.*=50: must be -100 or from 0 to 40"),
    ("next words' shape", ("xlm-roberta", "causal"), {"labels": IDS[:, :5]}, r"labels of shape \(3, 5\)"),
    ("tag", ("xlm-roberta", "tag"), {"labels": put((1, 1), 3, 0 * IDS)}, r"labels\[1, 1\]=3: must be -100 or from 0 to 2"),
    ("float tags", ("xlm", "tag"), {"labels": 0.0 * IDS}, r"labels of dtype torch.float32: classes are integers"),
    ("class", ("xlm-roberta", "classify"), {"labels": torch.tensor([0, 3, 1])}, r"labels\[1\]=3: must be.*from 0 to 2"),
    ("classes' shape", ("xlm", "classify"), {"labels": torch.tensor([0, 1])}, r"labels of shape \(2,\): must be"),
    ("table's shape", ("xlm", "classify"), {"labels": torch.ones(3, 2)}, r"labels of shape \(3, 2\).*\(3, 3\)"),
    ("start", ("xlm", "beam"), ends([0, 7, 1], [0, 1, 1]), r"start_positions=\[0, 7, 1\]: must be from 0 to 6"),
    ("end", ("xlm", "beam"), ends([0, 1, 1], [0, 1, 9]), r"end_positions=\[0, 1, 9\]: must be from 0 to 6"),
    ("class token", ("xlm", "beam"), {"cls_index": torch.tensor([0, 1, 7])}, r"\[0, 1, 7\]: must be from 0 to 6"),
]  # fmt: skip


@pytest.mark.parametrize(("head", "given", "message"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_inputs(head: tiny.Head, given: dict[str, Any], message: str) -> None:
    model = tiny.model(head)
    want = model(IDS)[0]
    with pytest.raises(InputError, match=message):
        model(**given)
    assert torch.equal(model(IDS)[0], want)


@pytest.mark.parametrize(("key", "given", "message"), [row[1:] for row in LABELLED], ids=[row[0] for row in LABELLED])
def test_labels(key: tuple[str, str], given: dict[str, Any], message: str) -> None:
    model = tiny.model(BY_KIND[key])
    with pytest.raises(InputError, match=message):
        model(IDS, **given)


def test_labels_of_choices() -> None:
    for family in tiny.FAMILIES:
        head = BY_KIND[family, "choose"]
        with pytest.raises(InputError, match=r"labels\[1\]=3: must be -100 or from 0 to 2"):
            tiny.model(head)(tiny.ids(head), labels=torch.tensor([0, 3, 1]))
        with pytest.raises(InputError, match=r"input_ids of shape \(3, 7\): must be \(batch, choices, sequence\)"):
            tiny.model(head)(IDS)


def test_chunks_must_divide_the_length() -> None:
    for head in tiny.MODELS:
        with pytest.raises(InputError, match="7 tokens: must be a multiple of chunk_size_feed_forward=3"):
            tiny.model(head, chunk_size_feed_forward=3)(IDS)


def test_decoders() -> None:
    model = tiny.model(R, is_decoder=True)
    with pytest.raises(InputError, match="encoder_hidden_states: the model has no cross-attention"):
        model(IDS, encoder_hidden_states=EMBEDS)
    past = model(IDS).past_key_values
    with pytest.raises(InputError, match="past_key_values of 1 layers: the model has 2"):
        model(IDS[:, :1], past_key_values=past[:1])
    with pytest.raises(InputError, match=r"attention_mask of shape \(3, 4\)"):
        model(IDS[:, :1], past_key_values=past, attention_mask=ONES[:, :4])
    with pytest.raises(InputError, match="longest input has 20 tokens"):
        long = model(torch.full((1, 20), 5)).past_key_values
        model(torch.tensor([[5]]), past_key_values=long)
    cross = tiny.model(R, is_decoder=True, add_cross_attention=True)
    with pytest.raises(InputError, match=r"encoder_hidden_states of shape \(3, 7, 9\)"):
        cross(IDS, encoder_hidden_states=EMBEDS[..., :9])
    with pytest.raises(InputError, match=r"encoder_attention_mask of shape \(3, 4\)"):
        cross(IDS, encoder_hidden_states=EMBEDS, encoder_attention_mask=ONES[:, :4])
    with pytest.raises(ConfigError, match="set is_decoder=True"):
        tiny.model(R, add_cross_attention=True)


def test_relative_positions_have_an_end() -> None:
    model = tiny.model(R, position_embedding_type="relative_key")
    with pytest.raises(InputError, match="25 tokens: relative positions reach max_position_embeddings=22"):
        model(LONG)


def test_beams_wider_than_the_input() -> None:
    head = BY_KIND["xlm", "beam"]
    with pytest.raises(InputError, match="start_n_top=9: the input has 7 tokens"):
        tiny.model(head, start_n_top=9)(IDS)
    with pytest.raises(InputError, match="end_n_top=8: the input has 7 tokens"):
        tiny.model(head, end_n_top=8)(IDS)


def test_question_answering_has_two_scores() -> None:
    for family in tiny.FAMILIES:
        with pytest.raises(ConfigError, match="num_labels=3: question answering needs 2"):
            tiny.model(BY_KIND[family, "answer"], num_labels=3)(IDS)


def test_packed_batches() -> None:
    model = tiny.model(R)
    flat = IDS.reshape(-1)
    with pytest.raises(InputError, match="lengths add up to 20: there are 21 ids"):
        Batch.packed(flat, [10, 10])
    with pytest.raises(InputError, match=r"ids of shape \(3, 7\): a packed batch is \(tokens,\)"):
        Batch.packed(IDS, [7, 7, 7])
    with pytest.raises(InputError, match=r"mask of shape \(3, 5\): must be \(3, 7\) like ids"):
        Batch.padded(IDS, ONES[:, :5])
    with pytest.raises(InputError, match=r"input_ids\[20\]=41"):
        model.states(Batch.packed(put((20,), 41, flat), [7, 7, 7]))
    with pytest.raises(InputError, match=r"longest input has 20 tokens"):
        model.states(Batch.packed(flat, [21]))
    with pytest.raises(InputError, match="longest input has 20 tokens"):
        tiny.model(XLM).states(Batch.packed(flat, [21]))


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        ("XLMRobertaConfig", {"hidden_size": 30, "num_attention_heads": 4}, "hidden_size=30.*num_attention_heads=4"),
        ("XLMRobertaConfig", {"vocab_size": "250002"}, "vocab_size='250002': must be an integer"),
        ("XLMRobertaConfig", {"vocab_size": 0}, "vocab_size=0: must be an integer of at least 1"),
        ("XLMRobertaConfig", {"hidden_dropout_prob": -0.1}, "hidden_dropout_prob=-0.1: must be a number from 0 to 1"),
        ("XLMRobertaConfig", {"hidden_dropout_prob": float("nan")}, "hidden_dropout_prob=nan"),
        ("XLMRobertaConfig", {"num_hidden_layers": True}, "num_hidden_layers=True: must be an integer"),
        ("XLMRobertaConfig", {"layer_norm_eps": -1.0}, "layer_norm_eps=-1.0: must be a number of at least 0"),
        ("XLMRobertaConfig", {"position_embedding_type": "rotary"}, "position_embedding_type='rotary'.*relative_key"),
        ("XLMRobertaConfig", {"problem_type": "guessing"}, "problem_type='guessing'.*regression"),
        ("XLMRobertaConfig", {"pad_token_id": 40000, "vocab_size": 100}, "pad_token_id=40000.*vocab_size=100"),
        ("XLMRobertaConfig", {"num_labels": 0}, "num_labels=0: must be an integer of at least 1"),
        ("XLMRobertaXLConfig", {"hidden_size": 30, "num_attention_heads": 4}, "hidden_size=30.*num_attention_heads=4"),
        ("XLMRobertaXLConfig", {"intermediate_size": 1.5}, "intermediate_size=1.5: must be an integer"),
        ("XLMConfig", {"emb_dim": 30, "n_heads": 4}, "emb_dim=30: must be a multiple of n_heads=4"),
        ("XLMConfig", {"n_words": "many"}, "vocab_size='many': must be an integer"),
        ("XLMConfig", {"dropout": 1.5}, "dropout=1.5: must be a number from 0 to 1"),
        ("XLMConfig", {"summary_type": "best"}, "summary_type='best'.*first"),
        ("XLMConfig", {"asm": True}, "asm_cutoffs=None: asm=True needs increasing cutoffs"),
        ("XLMConfig", {"asm": True, "asm_cutoffs": [5, 3], "asm_div_value": 2}, r"asm_cutoffs=\[5, 3\]"),
    ],
)
def test_configs(cls: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        getattr(xlm, cls)(**options)


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        (R, {"hidden_act": "swoosh"}, "activation 'swoosh': must be one of.*gelu"),
        (XLM, {"is_encoder": False}, "is_encoder=False"),
        (BY_KIND["xlm", "classify"], {"summary_type": "attn"}, "summary_type='attn': must be one of"),
        (BY_KIND["xlm", "classify"], {"summary_activation": "swoosh"}, "activation 'swoosh'"),
    ],
)
def test_models_that_cannot_be(head: tiny.Head, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny.model(head, **options)


def test_a_config_of_another_family() -> None:
    for head, other in ((R, XLM), (XLM, R), (XL, R)):
        with pytest.raises(ConfigError, match=f"{head.name} needs a"):
            head.cls(tiny.config(other))
