"""Every Python example of the documentation pages, run as it stands against a hub on this machine.

Imports come from ``xlm``, ``Roberta…`` is read as ``XLMRoberta…``; the hub serves tiny checkpoints under the names that the
examples use, whose vocabularies hold the words as single pieces.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from loopback_hub import LoopbackHub
from seeds.words import roberta_checkpoint, xlm_checkpoint

HERE = Path(__file__).resolve().parent
SEEDS = HERE.parent.parent.parent / "shared" / "seeds"
FENCE = re.compile(r"^```(?:py|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^(>>>|\.\.\.)(?: |$)")


def programs(page: Path) -> Iterator[tuple[str, str]]:
    """The fenced examples with prompts of a page: a name and the program."""
    text = page.read_text(encoding="utf-8")
    for number, block in enumerate(FENCE.findall(text)):
        lines = [line for line in block.splitlines() if PROMPT.match(line)]
        if lines:
            program = "\n".join(PROMPT.sub("", line) for line in lines)
            line = text[: text.index(block)].count("\n") + 1
            yield f"{page.name[:3]}:{line}:{number}", translated(program)


def translated(program: str) -> str:
    """The example with our names."""
    program = re.sub(r"\bfrom transformers import\b", "from xlm import", program)
    return re.sub(r"(?<![A-Za-z])Roberta(?=[A-Z])", "XLMRoberta", program)


def texts(program: str) -> list[str]:
    """Every string of a program: the texts among them are what the vocabularies must hold."""
    return [
        node.value
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


EXAMPLES = dict(item for page in sorted(SEEDS.glob("*.txt")) for item in programs(page))
OWN = dict(programs(HERE / "xlm_examples.md"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    root = tmp_path_factory.mktemp("hub")
    words = [text for program in EXAMPLES.values() for text in texts(program)]
    own = [text for program in OWN.values() for text in texts(program) if " " in text]
    roberta_checkpoint(root / "roberta", words)
    roberta_checkpoint(root / "xl", words, "XLMRobertaXL")
    xlm_checkpoint(root / "mlm", own)
    xlm_checkpoint(root / "clm", own, ("en", "fr"))
    with LoopbackHub() as hub:
        hub.add("roberta-base", root / "roberta")
        hub.add("FacebookAI/xlm-roberta-base", root / "roberta")
        hub.add("facebook/xlm-roberta-xl", root / "xl")
        hub.add("FacebookAI/xlm-mlm-en-2048", root / "mlm")
        hub.add("FacebookAI/xlm-clm-enfr-1024", root / "clm")
        yield hub


@pytest.fixture
def connected(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """The hub as the one that ``huggingface_hub`` asks, with an empty cache."""
    hub.connect(monkeypatch, tmp_path / "cache")
    return hub


def run(program: str) -> dict[str, Any]:
    space: dict[str, Any] = {}
    torch.manual_seed(0)
    # An example that builds a model of the published size from its config needs 14 GB: build it without memory.
    place = "meta" if "from_pretrained" not in program else "cpu"
    with torch.device(place):
        exec(compile(program, "<example>", "exec"), space)
    return space


def check(space: dict[str, Any]) -> None:
    if "target_start_index" in space:
        answer = space["inputs"].input_ids[0, space["target_start_index"] : space["target_end_index"] + 1]
        assert space["tokenizer"].decode(answer) == "nice puppet"
    for name, value in space.items():
        if name == "loss":
            assert value.ndim == 0 and bool(torch.isfinite(value))
        if name.endswith("logits") or name in ("last_hidden_states", "states"):
            assert value.shape[0] >= 1 and bool(torch.isfinite(value).all())


@pytest.mark.skipif(not EXAMPLES, reason="needs the folder 'shared' beside the repository")
def test_the_pages_have_examples() -> None:
    assert len(EXAMPLES) >= 9


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_of_the_seeds(name: str, connected: LoopbackHub) -> None:
    check(run(EXAMPLES[name]))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", OWN)
def test_example_of_xlm(name: str, connected: LoopbackHub) -> None:
    check(run(OWN[name]))
