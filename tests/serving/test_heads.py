"""Every head behind the server: the same answers as the engine's, by the clients that people use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

import toytasks
import xlm
import xlm.pauses
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


def test_predict_reads_and_answers_as_tei(address: str, engines: dict[str, Any]) -> None:
    a, b, c = TEXTS

    def scores(label: str, *inputs: Any, raw: bool = False) -> list[list[tuple[str, float]]]:
        found = engines["classify"].classify(list(inputs), raw=raw)
        return [[(one["label"], one[label]) for one in item["labels"]] for item in found]

    def predict(inputs: Any, **options: Any) -> Any:
        return post(address, "/predict", model="classify", inputs=inputs, **options).json()

    def same(found: list[dict[str, Any]], wanted: list[tuple[str, float]]) -> None:
        assert [one["label"] for one in found] == [label for label, _ in wanted]
        np.testing.assert_allclose([one["score"] for one in found], [score for _, score in wanted], atol=1e-4)

    (one,), (pair,) = scores("probability", a), scores("probability", (b, c))
    same(predict(a), one)
    same(predict([a]), one)
    same(predict([b, c]), pair)
    many = predict([[a], [b, c]])
    same(many[0], one)
    same(many[1], pair)
    assert len(predict([[b, c]])) == 1 and predict([]) == []
    same(predict([b, c], raw_scores=True), scores("logit", (b, c), raw=True)[0])
    logits = np.array([score for _, score in scores("logit", a, raw=True)[0]])
    np.testing.assert_allclose([p for _, p in one], np.exp(logits) / np.exp(logits).sum(), rtol=1e-4)
    for wrong in ([a, b, c], [[a, b, c]], [[]], [a, [b]], [["a", 1]]):
        answer = post(address, "/predict", model="classify", inputs=wrong)
        assert answer.status_code == 422 and answer.json()["param"] == "inputs", wrong
    # A model of one label predicts a value: it is shown as it is.
    (value,) = engines["rerank"].classify([a])
    (shown,) = post(address, "/predict", model="rerank", inputs=a).json()
    assert shown["label"] == "LABEL_0" and abs(shown["score"] - value["value"]) < 1e-4


def test_raw_scores_of_rerank_are_logits(address: str) -> None:
    body = {"model": "rerank", "query": "Where?", "texts": TEXTS}
    scores = {one["index"]: one["score"] for one in post(address, "/rerank", **body).json()}
    raw = {one["index"]: one["score"] for one in post(address, "/rerank", **body, raw_scores=True).json()}
    assert list(raw) == list(scores)
    np.testing.assert_allclose(
        [scores[n] for n in range(3)], [1 / (1 + np.exp(-raw[n])) for n in range(3)], rtol=1e-4, atol=1e-6
    )


def test_what_is_too_long_is_refused_or_its_cut_told(address: str) -> None:
    long = "word " * 200
    for route, body, cut in (
        ("/rerank", {"model": "rerank", "query": "Where?", "texts": [TEXTS[0], long]}, "1"),
        ("/v2/rerank", {"model": "rerank", "query": "Where?", "documents": [long, TEXTS[0]]}, "0"),
        ("/classify", {"model": "classify", "inputs": [TEXTS[0], [TEXTS[0], long]]}, "1"),
        ("/predict", {"model": "classify", "inputs": long}, "0"),
        ("/predict", {"model": "classify", "inputs": [[TEXTS[0]], [long], [TEXTS[1], long]]}, "1,2"),
    ):
        refused = post(address, route, **body)
        assert refused.status_code == 422 and "limit is 128" in refused.json()["error"], route
        found = post(address, route, **body, truncate=True)
        assert found.status_code == 200 and found.headers["X-Truncated-Inputs"] == cut, route
    fits = post(address, "/rerank", model="rerank", query="Where?", texts=TEXTS, truncate=True)
    assert "X-Truncated-Inputs" not in fits.headers


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


def test_vectors_that_are_not_finite_are_a_fault_of_the_server(tmp_path: Path) -> None:
    folder = toytasks.checkpoint(tmp_path / "damaged")
    model = xlm.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        model.get_parameter("encoder.layer.0.output.LayerNorm.bias")[0] = torch.nan
    model.save_pretrained(folder)
    with running({"damaged": xlm.load(folder)}) as address:
        for route in ("/embed", "/embed_all"):
            answer = post(address, route, inputs="the film was good .")
            assert answer.status_code == 500 and "not finite" in answer.json()["error"]
        assert post(address, "/v1/embeddings", input="good").status_code == 500


@pytest.mark.parametrize(
    ("kind", "route", "body"),
    [
        ("ForSequenceClassification", "/classify", {"inputs": "good film"}),
        ("ForSequenceClassification", "/predict", {"inputs": "good film"}),
        ("ForSequenceClassification", "/rerank", {"query": "Where ?", "documents": ["Oslo", "Rome"]}),
        ("ForTokenClassification", "/tag", {"inputs": "Ana was in Rome"}),
        ("ForQuestionAnswering", "/answer", {"question": "Where ?", "context": "Ana was in Rome"}),
        ("ForMultipleChoice", "/choose", {"prompt": "Ana", "choices": ["Rome", "Oslo"]}),
        ("ForMaskedLM", "/fill-mask", {"inputs": "Ana was in <mask>"}),
    ],
)
def test_scores_that_are_not_finite_are_a_fault_of_the_server(
    kind: str, route: str, body: dict[str, Any], tmp_path: Path
) -> None:
    folder = toytasks.checkpoint(tmp_path / "damaged")
    model = getattr(xlm, f"XLMRoberta{kind}").from_pretrained(folder)
    with torch.no_grad():
        list(model.parameters())[-1].fill_(torch.nan)
    model.save_pretrained(folder)
    with running({"damaged": xlm.load(folder)}) as address:
        answer = post(address, route, **body)
        assert answer.status_code == 500
        told = answer.json()
        assert "weights are damaged" in told.pop("error") and told == {"error_type": "server_error", "param": None}


def test_a_long_text_is_tokenized_no_further_than_somebody_waits(
    engines: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pause, pauses = xlm.pauses.pause, []

    def slowly() -> None:
        pauses.append(1)
        time.sleep(0.02)
        pause()

    with running({"tag": xlm.load(engines["tag"].name)}, Settings(threads=1)) as address:
        with monkeypatch.context() as patch:
            patch.setattr("xlm.pauses.PIECE", 100)
            patch.setattr("xlm.pauses.pause", slowly)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(address + "/tag", json={"inputs": "Ana was in Rome. " * 20_000}, timeout=0.5)
            assert post(address, "/tag", inputs="Ana was in Rome.").status_code == 200  # by the only thread
        assert 0 < len(pauses) < 1000  # of more than 3000
