"""Long work on text can be called off between its pieces, and its results do not depend on them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import toytasks
import xlm
from xlm import pauses
from xlm.assets import bundled_folder
from xlm.tasks.tag import Tag, example_of

SENTENCES = [
    "Marie Curie (1867–1934) was born in Warsaw; don't ask <mask> why. ",
    "ولدت ماري كوري في وارسو، بولندا. ",
    "居里夫人出生于华沙。",
    "मैरी क्यूरी का जन्म वारसॉ में हुआ था। 👩🏽‍🔬 ",
]
TEXT = "".join(f"{number} {SENTENCES[number % 4]}" for number in range(120))


class Over(Exception):
    pass


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = toytasks.checkpoint(tmp_path_factory.mktemp("models") / "xlm", "xlm")
    bundled = bundled_folder()
    return {
        "xlm": xlm.AutoTokenizer.from_pretrained(folder),
        "compiled": xlm.AutoTokenizer.from_pretrained(bundled),
        "plain": xlm.XLMRobertaTokenizer.from_pretrained(bundled),
    }


def made(tokenizer: Any) -> list[Any]:
    """Everything that is made of texts and of words, in every way that they are read."""
    texts = [TEXT[at : at + 61] for at in range(0, len(TEXT), 61)]
    plain = [text.replace("<mask>", "") for text in texts]
    found: list[Any] = [
        tokenizer(kind, verbose=False, **options).data
        for kind in (texts, plain, TEXT)
        for options in ({}, {"return_offsets_mapping": True}, {"truncation": True, "max_length": 20})
    ]
    features = Tag(("O", "B-X")).features([example_of(TEXT)], tokenizer, 32)
    found.append([(item.start, item.rows[0].tolist()) for item in features.items])
    found.append(features.details)
    pairs = tokenizer(texts[:20], texts[20:40], verbose=False)
    return [*found, pairs.data, [pairs.word_ids(number) for number in range(20)]]


@pytest.mark.parametrize("kind", ["xlm", "compiled", "plain"])
def test_pieces_change_nothing(kind: str, tokenizers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(tokenizers[kind])
    asked = []
    monkeypatch.setattr(pauses, "PIECE", 150)
    with pauses.asked(lambda: asked.append(1)):
        assert made(tokenizers[kind]) == whole
    assert len(asked) > 100


@pytest.mark.parametrize("kind", ["xlm", "compiled", "plain"])
def test_tags_of_a_long_text_are_called_off(
    kind: str, tokenizers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "PIECE", 150)
    left = [3]

    def ask() -> None:
        left[0] -= 1
        if not left[0]:
            raise Over

    task, example = Tag(("O", "B-X")), example_of(TEXT)
    with pytest.raises(Over), pauses.asked(ask):
        task.features([example], tokenizers[kind], 32)
    before = task.features([example], tokenizers[kind], 32)
    assert before.lengths[0] > 1000  # and nothing is asked any more


def test_only_the_thread_that_waits_is_asked() -> None:
    asked = []
    with pauses.asked(lambda: asked.append(threading.get_ident())):
        other = threading.Thread(target=pauses.pause)
        other.start()
        other.join()
        pauses.pause()
    pauses.pause()
    assert asked == [threading.get_ident()]


def test_every_text_is_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PIECE", 10)
    texts = ["a" * size for size in (0, 3, 30, 1, 1, 9, 0, 0)]
    pieces = list(pauses.in_pieces(texts))
    assert [number for low, high in pieces for number in range(low, high)] == list(range(8)) and len(pieces) > 2
    assert list(pauses.in_pieces([])) == [] and list(pauses.in_pieces(["a", "b"])) == [(0, 2)]


def test_a_server_ends_the_work_of_a_request_that_nobody_waits_for(tmp_path: Path) -> None:
    from xlm.serving.served import still_wanted
    from xlm.serving.tickets import Abandoned, Ticket, current_ticket

    ticket = Ticket()
    token = current_ticket.set(ticket)
    try:
        with pauses.asked(still_wanted):
            pauses.pause()
            ticket.cancel()
            with pytest.raises(Abandoned):
                pauses.pause()
    finally:
        current_ticket.reset(token)
