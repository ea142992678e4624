"""The estimate of memory is what PyTorch keeps and allocates; the estimate of time is arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import xlm
from xlm.batches.batch import Batch
from xlm.errors import ConfigError
from xlm.training.plan import layer_bytes, plan, saved_bytes
from xlm.training.recipe import Recipe, load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
VOCABULARY = "model.config.vocab_size=250002"


def recipe(name: str, *changes: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml", [VOCABULARY, *changes])


def test_published_sizes_and_arithmetic() -> None:
    base = plan(recipe("xlmr-base"), 8, "h100", 0.5)
    assert base.parameters == 278_295_186  # the published model
    assert base.optimizer == 8 * base.parameters and base.gathered == 0
    assert base.micro_batches * base.micro_tokens * 8 == 4_194_304
    # 6 FLOP a weight and token, attention, and the head for 15 % of the tokens
    a_token = 6 * (12 * 7_077_888 + 2 * 12 * 512 * 768 + 0.15 * 768 * 250_002)
    assert base.compute_seconds == pytest.approx(4_194_304 * a_token / (8 * 989e12 * 0.5))
    assert base.days == pytest.approx(1_500_000 * base.compute_seconds / 86400)


def test_xxl_needs_many_gpus_and_cutting() -> None:
    whole = plan(recipe("xlmr-xxl", "parallel=replicate"), 512, "h100")
    cut = plan(recipe("xlmr-xxl"), 512, "h100")
    assert not whole.fits and cut.fits
    assert 10.5e9 < cut.parameters < 10.9e9
    assert whole.weights == pytest.approx(512 * cut.weights)
    assert not plan(recipe("xlmr-xxl"), 2, "a100").fits


@pytest.mark.parametrize("family", ["xlm-roberta", "xlm", "xlm-roberta-xl"])
def test_the_dry_run_counts_what_a_real_forward_keeps(family: str, toy: Callable[..., Path]) -> None:
    tokens, length = 96, 48
    config = {"attention_dropout": 0.0} if family == "xlm" else {"attention_probs_dropout_prob": 0.0}
    shape = {"vocab_size": 700, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    small = load_recipe(toy(model__family=family, model__config=shape | config))
    sizes = []
    for layers in (1, 2):
        kind = {"xlm": xlm.XLMWithLMHeadModel, "xlm-roberta": xlm.XLMRobertaForMaskedLM}.get(family)
        kind = kind or xlm.XLMRobertaXLForMaskedLM
        model = kind(kind.config_class(**shape | config | {"num_hidden_layers": layers})).train()
        zeros = torch.zeros(tokens, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16):
            sizes.append(saved_bytes(model, Batch.packed(zeros, [length] * 2, position_ids=zeros)))
    assert layer_bytes(small, tokens, length, cut=False) == sizes[1] - sizes[0]


def test_the_state_of_a_run_takes_the_memory_that_is_planned(toy: Callable[..., Path]) -> None:
    """Weights, gradients and Adam's moments of a real step, counted tensor by tensor."""
    shape = {"vocab_size": 700, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    small = load_recipe(toy(model__config=shape, objectives={"mlm": {}}))
    made = plan(small, 1, "a100")
    model = xlm.XLMRobertaForMaskedLM(xlm.XLMRobertaConfig(**shape))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(5, 700, (2, 8))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    moments = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.ndim)
    assert made.weights == sum(p.nbytes for p in model.parameters())
    assert made.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert made.optimizer == moments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gpu": "tpu"}, "must be one of a100-40"),
        ({"gpus": 0}, "--gpus 0"),
        ({"fraction": 1.5}, "at most 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(recipe("xlmr-base"), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"model\.config\.vocab_size=250002"):
        plan(load_recipe(RECIPES / "xlmr-base.yaml"))


def test_the_command_prints_the_plan() -> None:
    command = [sys.executable, "-m", "xlm", "pretrain", str(RECIPES / "xlmr-large.yaml"), "--plan", "--set", VOCABULARY]
    shown = subprocess.run([*command, "--gpus", "16"], capture_output=True, text=True, check=True).stdout
    assert "560,142,482 parameters on 16 x h100" in shown and "days" in shown
    record = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert record["gpus"] == 8 and record["fits"] is True
