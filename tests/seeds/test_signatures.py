"""The documented signatures, read from the pages: names, order and defaults of every ``forward`` and config."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import xlm

SEEDS = Path(__file__).resolve().parent.parent.parent.parent / "shared" / "seeds"
CLASS = re.compile(r"^### `class transformers\.(\w+)`$", re.MULTILINE)
SIGNATURE = re.compile(r"^```py\n\( (.*?) \)(?: →.*)?\n```", re.MULTILINE)

XLM_FIRST = "input_ids attention_mask langs token_type_ids position_ids lengths cache head_mask inputs_embeds".split()
XLM_LAST = "output_attentions output_hidden_states return_dict".split()
XLM_FORWARD = {
    "XLMModel": [],
    "XLMWithLMHeadModel": ["labels"],
    "XLMForSequenceClassification": ["labels"],
    "XLMForMultipleChoice": ["labels"],
    "XLMForTokenClassification": ["labels"],
    "XLMForQuestionAnsweringSimple": ["start_positions", "end_positions"],
    "XLMForQuestionAnswering": ["start_positions", "end_positions", "is_impossible", "cls_index", "p_mask"],
}


def documented() -> dict[str, list[str]]:
    """Class -> the signatures on its part of the page: the constructor's, then that of ``forward``."""
    found: dict[str, list[str]] = {}
    for page in sorted(SEEDS.glob("*.txt")):
        parts = CLASS.split(page.read_text(encoding="utf-8"))
        found |= {name: SIGNATURE.findall(body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}
    return found


DOCUMENTED = documented()
FORWARDS = {name: signatures[1] for name, signatures in DOCUMENTED.items() if len(signatures) > 1}


def names(method: Any) -> list[str]:
    return [name for name in inspect.signature(method).parameters if name != "self"]


@pytest.mark.skipif(not FORWARDS, reason="needs the folder 'shared' beside the repository")
def test_the_pages_have_signatures() -> None:
    assert len(FORWARDS) == 7


@pytest.mark.parametrize("name", FORWARDS)
def test_forward(name: str) -> None:
    wanted = re.findall(r"(\w+): Optional = None", FORWARDS[name])
    assert names(getattr(xlm, name).forward) == wanted
    # XLM-R's classes take what XL's take.
    assert names(getattr(xlm, name.replace("RobertaXL", "Roberta")).forward) == wanted


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if name.endswith("Config")])
def test_config_defaults(name: str) -> None:
    pairs = re.findall(r"(\w+) = ('[^']*'|\S+)", DOCUMENTED[name][0])
    wanted = {key: ast.literal_eval(value) for key, value in pairs}
    config = getattr(xlm, name)()
    assert {key: getattr(config, key) for key in wanted} == wanted
    assert list(config.defaults)[: len(wanted)] == list(wanted)


@pytest.mark.parametrize("name", XLM_FORWARD)
def test_forward_of_xlm(name: str) -> None:
    assert names(getattr(xlm, name).forward) == [*XLM_FIRST, *XLM_FORWARD[name], *XLM_LAST]


def test_the_pooler_may_be_left_out() -> None:
    for name in ("XLMRobertaModel", "XLMRobertaXLModel"):
        assert names(getattr(xlm, name)) == ["config", "add_pooling_layer"]


@pytest.mark.parametrize(
    ("auto", "xlm_head", "other"),
    [
        ("AutoModel", "Model", "Model"),
        ("AutoModelForMaskedLM", "WithLMHeadModel", "ForMaskedLM"),
        ("AutoModelForCausalLM", "WithLMHeadModel", "ForCausalLM"),
        ("AutoModelForSequenceClassification", "ForSequenceClassification", "ForSequenceClassification"),
        ("AutoModelForTokenClassification", "ForTokenClassification", "ForTokenClassification"),
        ("AutoModelForQuestionAnswering", "ForQuestionAnsweringSimple", "ForQuestionAnswering"),
        ("AutoModelForMultipleChoice", "ForMultipleChoice", "ForMultipleChoice"),
    ],
)
def test_auto_classes(auto: str, xlm_head: str, other: str) -> None:
    import tiny

    for family, (prefix, _) in tiny.FAMILIES.items():
        options = tiny.options(family)
        if auto == "AutoModelForCausalLM" and family != "xlm":
            options["is_decoder"] = True
        config = xlm.AutoConfig.for_model(family, **options)
        model = getattr(xlm, auto).from_config(config)
        assert type(model).__name__ == prefix + (xlm_head if family == "xlm" else other)


def test_every_class_of_the_pages_is_exported() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in SEEDS.glob("*.txt"))
    listed = set(re.findall(r"\[\[autodoc\]\] (\w+)$", text, re.MULTILINE))
    torch_names = {name for name in listed if not name.startswith(("TF", "Flax"))}
    assert {name for name in torch_names if not hasattr(xlm, name)} == set()
