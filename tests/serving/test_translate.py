"""Translations behind the server: the engine's own, refused by name, given up when nobody waits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import toytasks
import xlm
from xlm.serving.served import still_wanted
from xlm.serving.tickets import Abandoned, Ticket, current_ticket

from .conftest import running
from .test_routes import post

TEXTS = ["the film was good .", "Ana was in Rome"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toytasks.translator(tmp_path_factory.mktemp("mt"), directions=[["de", "en"], ["en", "de"]])


@pytest.fixture(scope="module")
def translator(folder: Path) -> xlm.Engine:
    return xlm.load(folder)


@pytest.fixture(scope="module")
def address(folder: Path, translator: xlm.Engine) -> Iterator[str]:
    with running({"mt": translator, "mini": xlm.load(), "other": xlm.load(folder)}) as url:
        yield url


def test_translations_are_the_engines(address: str, folder: Path) -> None:
    want = xlm.load(folder).translate(TEXTS, "en", num_beams=2)
    assert post(address, "/translate", inputs=TEXTS, target="en", num_beams=2).json() == want
    single = post(address, "/translate", model="mt", inputs=TEXTS[0], source="de", target="en", num_beams=2).json()
    assert single == want[:1]


def test_a_cut_is_told(address: str, folder: Path) -> None:
    long = "the film was good . " * xlm.load(folder).max_tokens
    body = {"inputs": [TEXTS[0], long], "target": "en", "num_beams": 1, "max_new_tokens": 4}
    assert post(address, "/translate", **body).status_code == 422
    found = post(address, "/translate", **body, truncate=True)
    assert found.status_code == 200 and found.headers["X-Truncated-Inputs"] == "1"
    fits = post(address, "/translate", **body | {"inputs": TEXTS}, truncate=True)
    assert fits.status_code == 200 and "X-Truncated-Inputs" not in fits.headers


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"inputs": "x", "target": "fr"}, "target='fr': this model translates de-en, en-de"),
        ({"inputs": "x"}, "target is missing"),
        ({"inputs": " ", "target": "en"}, "the text is empty"),
        ({"inputs": "x", "target": "en", "model": "mini"}, "it cannot translate, but fill-mask, embed"),
        ({"inputs": "x", "target": "en", "num_beams": 99}, "less than or equal to 16"),
    ],
)
def test_bad_requests_are_named(address: str, body: dict, words: str) -> None:
    answer = post(address, "/translate", **body)
    assert answer.status_code in (400, 413, 422) and words in answer.text


def test_a_translation_that_nobody_waits_for_is_given_up(folder: Path) -> None:
    ticket = Ticket()
    still_wanted(1)
    current_ticket.set(ticket)
    engine = xlm.load(folder)
    done: list[int] = []

    def tell(count: int) -> None:
        done.append(count)
        still_wanted(count)

    try:
        assert engine.translate(TEXTS, "en", num_beams=1, progress=tell)
        assert done[-1] == len(TEXTS)
        ticket.cancel()
        with pytest.raises(Abandoned, match="texts were done"):
            engine.translate(TEXTS, "en", num_beams=1, progress=still_wanted)
    finally:
        current_ticket.set(None)


def test_translations_do_not_keep_other_tasks_waiting(address: str, translator: xlm.Engine) -> None:
    with translator._writing, ThreadPoolExecutor(40) as clients:  # as if a long text were being translated
        asked = [clients.submit(post, address, "/translate", model="mt", inputs=TEXTS, target="en") for _ in range(36)]
        answer = post(address, "/fill-mask", model="mini", inputs="Paris is the <mask> of France.")
        other = post(address, "/translate", model="other", inputs=TEXTS[:1], target="en", num_beams=1)
        waiting = not any(one.done() for one in asked)
        translator._writing.release()
        try:
            answers = [one.result() for one in asked]
        finally:
            translator._writing.acquire()
    assert answer.status_code == 200 and other.status_code == 200 and waiting
    assert {one.status_code for one in answers} == {200}
