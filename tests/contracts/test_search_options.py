"""The options of a search: what each does, the same in every framework, and what is said of those that there are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import frameworks
import tiny
from xlm import ArgumentError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CAUSAL = [head for head in tiny.HEADS if head.kind == "causal"]
GENERATORS = [*CAUSAL, tiny.ONE_A_FAMILY[0]]
EVERY = pytest.mark.parametrize("head", GENERATORS, ids=str)
EACH = pytest.mark.parametrize("framework", frameworks.FRAMEWORKS, ids=lambda f: f.name)


def written(model: Any, ids: torch.Tensor, **options: Any) -> np.ndarray:
    """What any framework's model writes."""
    if hasattr(model, "state_dict"):
        return model.generate(ids, **options).numpy()
    rows = model.generate(ids.numpy(), **{k: v.numpy() if torch.is_tensor(v) else v for k, v in options.items()})
    return np.asarray(getattr(rows, "sequences", rows))


UNKNOWN = [
    ({"max_new_token": 3}, r"max_new_token=3: generate knows no such argument; did you mean .*max_new_tokens"),
    ({"num_beam_groups": 2, "num_beams": 2}, r"num_beam_groups=2: not offered by generate here"),
    ({"typical_p": 0.5}, r"typical_p=0.5: not offered"),
    ({"return_dict_in_generate": True}, r"return_dict_in_generate=True: not offered"),
    ({"output_scores": True}, r"output_scores=True: not offered"),
    ({"generation_config": {"a": 1}}, r"generation_config=.*: not offered"),
    ({"logits_processor": [print]}, r"logits_processor=.*: not offered"),
    ({"streamer": print}, r"streamer=.*: not offered"),
    ({"output_attentions": True}, r"output_attentions=True: generate knows no such argument"),
    ({"bad_words_ids": [[]]}, r"bad_words_ids: \[\] must be token ids"),
    ({"bad_words_ids": [7]}, r"bad_words_ids=\[7\]: must be a list of lists"),
    ({"suppress_tokens": [41]}, r"suppress_tokens: \[41\] must be token ids, integers from 0 to 40"),
    ({"forced_eos_token_id": -1}, r"forced_eos_token_id: \[-1\] must be"),
]
NOTHING: dict[str, Any] = {"num_beam_groups": 1, "output_scores": False, "logits_processor": [], "streamer": None}


def refuse_what_is_unknown(model: Any, ids: torch.Tensor) -> None:
    for options, message in UNKNOWN:
        with pytest.raises(InputError, match=message) as raised:
            written(model, ids, **{"max_new_tokens": 2, **options})
        assert isinstance(raised.value, ArgumentError) == ("must be" not in message)
    free = written(model, ids, max_new_tokens=2)
    np.testing.assert_array_equal(written(model, ids, max_new_tokens=2, **NOTHING), free)
    model.config.diversity_penalty = 0.5
    with pytest.raises(InputError, match=r"config.diversity_penalty=0.5: not offered .* give diversity_penalty=0.0"):
        written(model, ids, max_new_tokens=2)
    np.testing.assert_array_equal(written(model, ids, max_new_tokens=2, diversity_penalty=0.0), free)


@EVERY
def test_unknown_arguments_are_refused(head: tiny.Head) -> None:
    refuse_what_is_unknown(tiny.model(head), tiny.ids(head, length=3))


@EACH
def test_unknown_arguments_are_refused_in_other_frameworks(framework: frameworks.Framework, tmp_path: Path) -> None:
    head = CAUSAL[0]
    tiny.model(head).save_pretrained(tmp_path)
    refuse_what_is_unknown(framework.load(head, tmp_path), tiny.ids(head, length=3))


@EVERY
@pytest.mark.parametrize("beams", [1, 2])
def test_what_bans_do(head: tiny.Head, beams: int) -> None:
    model, ids = tiny.model(head), tiny.ids(head, length=3)
    options: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": [], "num_beams": beams}
    free = model.generate(ids, **options)
    first, pair = int(free[0, 3]), free[0, 4:6].tolist()
    assert first not in model.generate(ids, suppress_tokens=[first], **options)[:, 3:]
    assert first not in model.generate(ids, bad_words_ids=[[first]], **options)[:, 3:]
    row = model.generate(ids, bad_words_ids=[pair], **options)[0].tolist()
    assert pair not in [row[i : i + 2] for i in range(2, 8)]
    assert bool((model.generate(ids, forced_eos_token_id=7, **options)[:, -1] == 7).all())
    ending = {**options, "eos_token_id": first, "pad_token_id": 0}
    assert first not in model.generate(ids, min_new_tokens=3, **ending)[0, 3:6]
    # An end that is no word of the model never comes, and need not be kept from coming.
    assert torch.equal(model.generate(ids, min_new_tokens=3, **{**options, "eos_token_id": tiny.VOCAB + 5}), free)
    # What the config says counts like what the call says.
    model.config.suppress_tokens = [first]
    assert first not in model.generate(ids, **options)[:, 3:]


ALL: dict[str, Any] = {
    "min_new_tokens": 4,
    "repetition_penalty": 1.7,
    "no_repeat_ngram_size": 2,
    "forced_eos_token_id": 9,
    "eos_token_id": [7, 9, 11],
    "pad_token_id": 1,
}


@EACH
@pytest.mark.parametrize("head", [CAUSAL[0], GENERATORS[-1]], ids=str)
@pytest.mark.parametrize("beams", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_all_options_in_every_framework(
    framework: frameworks.Framework, head: tiny.Head, beams: int, tmp_path: Path
) -> None:
    model, ids = tiny.model(head), tiny.ids(head, length=4)
    free = model.generate(ids, max_new_tokens=8, num_beams=beams, **ALL)
    options = {**ALL, "suppress_tokens": [int(free[0, 4])], "bad_words_ids": [free[1, 4:6].tolist(), [int(free[2, 4])]]}
    for name in ("repetition_penalty", "no_repeat_ngram_size", "suppress_tokens"):
        setattr(model.config, name, options.pop(name))  # read from the config by all
    model.save_pretrained(tmp_path)
    other = framework.load(head, tmp_path)
    want = model.generate(ids, max_new_tokens=8, num_beams=beams, **options)
    assert not torch.equal(want[:, :5], free[:, :5])
    have = written(other, ids, max_new_tokens=8, num_beams=beams, **options)
    np.testing.assert_array_equal(have[:, : want.shape[1]], want.numpy())


def check_padding(model: Any, head: tiny.Head) -> None:
    """Left padding of a prompt is hidden without a mask, and a float mask does what one of integers does."""
    pad = tiny.pad_id(head.family)
    short = tiny.ids(head, batch=1, length=3)
    ids = torch.cat([torch.full((1, 2), pad), short], dim=1)
    options = {"max_new_tokens": 5, "eos_token_id": [], "pad_token_id": pad}
    alone = written(model, short, **options)
    np.testing.assert_array_equal(written(model, ids, **options)[:, 2:], alone)
    for mask in (torch.tensor([[0, 0, 1, 1, 1]]), torch.tensor([[0.0, 0, 1, 1, 1]])):
        np.testing.assert_array_equal(written(model, ids, attention_mask=mask, **options)[:, 2:], alone)
    if head.family == "xlm":  # whose forward counts tokens itself
        return
    # Padding that is also the end of a text is part of the text.
    everything = torch.ones_like(ids)
    np.testing.assert_array_equal(
        written(model, ids, **{**options, "eos_token_id": pad}),
        written(model, ids, attention_mask=everything, **{**options, "eos_token_id": pad}),
    )


@EVERY
def test_padding_of_prompts(head: tiny.Head) -> None:
    check_padding(tiny.model(head), head)


@pytest.mark.parametrize(
    "framework",
    [pytest.param(f, marks=[pytest.mark.slow] * (f.name == "flax")) for f in frameworks.FRAMEWORKS],
    ids=lambda f: f.name,
)
def test_padding_of_prompts_in_other_frameworks(framework: frameworks.Framework, tmp_path: Path) -> None:
    head = CAUSAL[0]
    tiny.model(head).save_pretrained(tmp_path)
    check_padding(framework.load(head, tmp_path), head)


@pytest.mark.parametrize(
    "framework",
    [frameworks.Torch(), *(f for f in frameworks.FRAMEWORKS if f.name == "keras")],
    ids=lambda f: f.name,
)
def test_languages_of_prompts(framework: Any, tmp_path: Path) -> None:
    head = GENERATORS[-1]
    model, ids = tiny.model(head, lang_id=0), tiny.ids(head, length=3)
    model.save_pretrained(tmp_path)
    other = framework.load(head, tmp_path)
    rows = written(other, ids, langs=torch.ones_like(ids), max_new_tokens=4, eos_token_id=[])
    model.config.lang_id = 1
    np.testing.assert_array_equal(rows, written(model, ids, max_new_tokens=4, eos_token_id=[]))
    model.config.lang_id = 0
    assert not np.array_equal(rows, written(model, ids, max_new_tokens=4, eos_token_id=[]))
