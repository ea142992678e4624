"""Every head behind the server: the same answers as the engine's, by the clients that people use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toytasks
import xlm
from xlm.serving.app import create_app
from xlm.serving.settings import Settings

from .conftest import HEADS, running
from .test_routes import post

TEXTS = ["Marie Curie was born in Warsaw.", "ولدت ماري كوري في وارسو.", "居里夫人出生于华沙。"]


@pytest.fixture(scope="module")
def address(engines: dict[str, Any]) -> Iterator[str]:
    with running({name: xlm.load(engine.name) for name, engine in engines.items()}) as url:
        yield url


def test_rerank_in_three_shapes(address: str, engines: dict[str, Any]) -> None:
    wanted = engines["rerank"].rerank("Where?", TEXTS)
    body = {"model": "rerank", "query": "Where?"}
    tei = post(address, "/rerank", **body, texts=TEXTS, return_text=True).json()
    jina = post(address, "/v1/rerank", **body, documents=[{"text": t} for t in TEXTS], top_n=2).json()["results"]
    assert [one["index"] for one in tei] == [one["index"] for one in wanted]
    np.testing.assert_allclose([one["score"] for one in tei], [one["score"] for one in wanted], atol=1e-4)
    assert tei[0]["text"] == TEXTS[tei[0]["index"]]
    assert [one["index"] for one in jina] == [one["index"] for one in wanted][:2]
    cohere = pytest.importorskip("cohere")
    client = cohere.ClientV2(api_key="any", base_url=address)
    found = client.rerank(model="rerank", query="Where?", documents=TEXTS, top_n=3).results
    np.testing.assert_allclose([one.relevance_score for one in found], [one["score"] for one in wanted], atol=1e-4)


def test_the_other_heads(address: str, engines: dict[str, Any]) -> None:
    labels = post(address, "/classify", model="classify", inputs=TEXTS).json()
    for found, wanted in zip(labels, engines["classify"].classify(TEXTS), strict=True):
        assert [one["label"] for one in found["labels"]] == [one["label"] for one in wanted["labels"]]
    pair = post(address, "/predict", model="classify", inputs=[[TEXTS[0], TEXTS[1]]]).json()
    assert {one["label"] for one in pair[0]} == {"no", "maybe", "yes"}
    spans = post(address, "/tag", model="tag", inputs=TEXTS).json()
    for found, wanted in zip(spans, engines["tag"].tag(TEXTS), strict=True):
        assert [(s["start"], s["end"], s["label"]) for s in found["spans"]] == [
            (s["start"], s["end"], s["label"]) for s in wanted["spans"]
        ]
        assert all(found["text"][s["start"] : s["end"]] == s["text"] for s in found["spans"])
    answers = post(address, "/answer", model="answer", question="Where?", context=TEXTS[0], top_k=2).json()
    wanted = engines["answer"].answer(["Where?"], [TEXTS[0]], top_k=2)
    assert [a["text"] for a in answers[0]["answers"]] == [a["text"] for a in wanted[0]["answers"]]
    chosen = post(
        address, "/choose", model="choose", prompt="The tap was open.", choices=["Water ran.", "Light."]
    ).json()
    wanted = engines["choose"].choose(["The tap was open."], [["Water ran.", "Light."]])[0]
    np.testing.assert_allclose(chosen["probabilities"], wanted["probabilities"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini", *HEADS, "mt"])
def test_the_interface_page_tells_the_truth(name: str, engines: dict[str, Any], tmp_path: Path) -> None:
    """Generated requests, right ones and wrong ones: what is answered is what the page says, and never a failure."""
    schemathesis = pytest.importorskip("schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    from schemathesis import checks
    from schemathesis.specs.openapi import checks as of_openapi

    if name == "mini":
        engine = xlm.load()
    elif name == "mt":
        engine = xlm.load(toytasks.translator(tmp_path, directions=[["de", "en"], ["en", "de"]]))
    else:
        engine = xlm.load(engines[name].name)
    asked = {"/tokenize", "/info", *(f"/{task}" for task in engine.tasks)}
    asked |= {f"/{version}rerank" for version in ("v1/", "v2/") if "rerank" in engine.tasks}
    app = create_app({name: engine}, Settings(inputs=8, characters=2000))
    held = [
        checks.not_a_server_error,
        of_openapi.status_code_conformance,
        of_openapi.content_type_conformance,
        of_openapi.response_schema_conformance,
        of_openapi.negative_data_rejection,
    ]
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    statuses = set()

    for found in schema.get_all_operations():
        operation = found.ok()
        if name != "mini" and operation.path not in asked:
            continue
        right, wrong = (operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode)

        @hypothesis.given(case=right | wrong)
        @hypothesis.settings(max_examples=25, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
        def run(case: Any) -> None:
            model = case.body.get("model") if isinstance(case.body, dict) else None
            if isinstance(model, str) and len(model) <= 1000:  # right, but any other than this is 404
                case.body["model"] = name
            response = case.call()
            case.validate_response(response, checks=held)
            statuses.add(response.status_code)

        run()
    assert {200, 422} <= statuses
