"""Every route against the engine asked directly, with the clients that people use."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xlm
from xlm.assets import bundled_folder
from xlm.serving.settings import Settings

from .conftest import running

httpx = pytest.importorskip("httpx")

TEXTS = ["The weather is nice today.", "الطقس جميل اليوم.", "今天天气很好。", "วันนี้อากาศดี", "मौसम अच्छा है।"]


def post(address: str, route: str, **body: Any) -> Any:
    return httpx.post(address + route, json=body, timeout=60)


def test_openai_client(address: str, offline: Any) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=address + "/v1", api_key="any")
    assert [model.id for model in client.models.list()] == ["mini"]
    found = client.embeddings.create(model="mini", input=TEXTS)
    vectors = np.array([item.embedding for item in found.data])
    np.testing.assert_allclose(vectors, offline.embed(TEXTS), atol=2e-5)
    assert found.usage.prompt_tokens == sum(offline.count_tokens(TEXTS))
    short = client.embeddings.create(model="mini", input=TEXTS[0], dimensions=16, encoding_format="float")
    assert len(short.data[0].embedding) == 16
    np.testing.assert_allclose(np.linalg.norm(short.data[0].embedding), 1, rtol=1e-5)
    ids = offline.tokenizer(TEXTS[0])["input_ids"]
    by_ids = client.embeddings.create(model="mini", input=ids, encoding_format="float")
    np.testing.assert_allclose(by_ids.data[0].embedding, offline.embed([TEXTS[0]])[0], atol=2e-5)
    for wrong, error in (("", openai.BadRequestError), ([], openai.BadRequestError)):
        with pytest.raises(error):
            client.embeddings.create(model="mini", input=wrong)
    with pytest.raises(openai.NotFoundError, match="this server has mini"):
        client.embeddings.create(model="other", input="x")


def test_base64_is_little_endian_floats(address: str, offline: Any) -> None:
    found = post(address, "/v1/embeddings", input=TEXTS[1], model="mini", encoding_format="base64").json()
    vector = np.frombuffer(base64.b64decode(found["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(vector, offline.embed([TEXTS[1]])[0], atol=2e-5)


def test_vectors_masks_tokens(address: str, offline: Any) -> None:
    found = post(address, "/embed", inputs=TEXTS, pooling="cls", normalize=False).json()
    np.testing.assert_allclose(found, offline.embed(TEXTS, "cls", normalize=False), atol=1e-4)
    cosines = post(address, "/similarity", inputs={"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}).json()
    vectors = offline.embed(TEXTS)
    np.testing.assert_allclose(cosines, vectors[1:] @ vectors[0], atol=2e-5)
    masked = post(address, "/fill-mask", inputs="Paris is the <mask> of France.", top_k=3).json()
    wanted = offline.fill_mask(["Paris is the <mask> of France."], 3)
    assert [m["id"] for m in masked[0]["masks"][0]] == [m["id"] for m in wanted[0]["masks"][0]]
    tokens = post(address, "/tokenize", inputs=TEXTS[3]).json()[0]
    plain = [token for token in tokens if not token["special"]]
    assert all(token["text"] == TEXTS[3][token["start"] : token["stop"]] for token in plain)
    assert (plain[0]["start"], plain[-1]["stop"]) == (0, len(TEXTS[3]))
    information = httpx.get(address + "/info").json()
    assert information["model_id"] == "mini" and "fill-mask" in information["tasks"]


def test_a_cut_is_reported(address: str) -> None:
    long = "word " * 600
    assert post(address, "/embed", inputs=[TEXTS[0], long]).status_code == 422
    found = post(address, "/embed", inputs=[TEXTS[0], long], truncate=True)
    assert found.status_code == 200 and found.headers["X-Truncated-Inputs"] == "1"
    for route, inputs, cut in (
        ("/embed_all", [long, TEXTS[0], long], "0,2"),
        ("/similarity", {"source_sentence": TEXTS[0], "sentences": [TEXTS[1], long]}, "2"),
        ("/fill-mask", ["a <mask>", "a <mask> " + long], "1"),
    ):
        assert post(address, route, inputs=inputs).status_code == 422, route
        found = post(address, route, inputs=inputs, truncate=True)
        assert found.status_code == 200 and found.headers["X-Truncated-Inputs"] == cut, route


def test_long_texts_are_either_cut_or_read_whole(address: str) -> None:
    refused = post(address, "/embed", inputs="word " * 600, truncate=True, long="windows")
    assert refused.status_code == 422 and refused.json()["param"] == "truncate"
    assert post(address, "/embed", inputs="word " * 600, long="windows").status_code == 200


def test_only_texts_that_fill_the_model_are_tokenized_again_to_tell_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = xlm.load()
    looked: list[int] = []
    truncated = engine.truncated

    def counted(inputs: Any, **options: Any) -> list[int]:
        looked.append(len(inputs))
        return truncated(inputs, **options)

    monkeypatch.setattr(engine, "truncated", counted)
    long, short = "word " * 600, "a <mask>"
    with running({"mini": engine}) as address:
        for route in ("/embed", "/embed_all", "/fill-mask"):
            for inputs, again in (([short] * 3, []), ([short, short + long, short], [1])):
                looked.clear()
                assert post(address, route, inputs=inputs, truncate=True).status_code == 200, route
                assert [count for count in looked if count] == again, route


def test_a_prompt_counts_among_what_is_cut(offline: Any) -> None:
    engine = xlm.load()
    engine.embedding = replace(engine.embedding, prompts={"query": "some words before " * 3})
    text = "word " * (engine.max_tokens - offline.count_tokens([""])[0])
    while offline.count_tokens([text])[0] > engine.max_tokens:
        text = text[:-5]
    with running({"mini": engine}) as address:
        for route in ("/embed", "/embed_all"):
            plain = post(address, route, inputs=text, truncate=True)
            assert plain.status_code == 200 and "X-Truncated-Inputs" not in plain.headers
            found = post(address, route, inputs=text, truncate=True, prompt_name="query")
            assert found.headers["X-Truncated-Inputs"] == "0"


def test_embed_all_takes_what_it_reads(address: str) -> None:
    body = httpx.get(address + "/openapi.json").json()["components"]["schemas"]["EmbedAll"]
    assert set(body["properties"]) == {"inputs", "model", "lang", "truncate", "truncation_direction", "prompt_name"}


def test_wrong_kind_is_named(address: str) -> None:
    for route, body in (
        ("/classify", {"inputs": "x"}),
        ("/tag", {"inputs": "x"}),
        ("/answer", {"question": "x", "context": "y"}),
        ("/rerank", {"query": "x", "texts": ["y"]}),
        ("/choose", {"prompt": "x", "choices": ["y", "z"]}),
    ):
        found = post(address, route, **body)
        assert found.status_code == 422 and "mini" in found.json()["error"], route


@pytest.mark.parametrize(
    ("route", "content", "status"),
    [
        ("/v1/embeddings", b"{", 400),
        ("/embed", b"{", 400),
        ("/embed", b'{"inputs": NaN}', 422),
        ("/embed", b'{"inputs": [1.5]}', 422),
        ("/embed", b'{"inputs": "x", "pooling": "sum"}', 422),
        ("/v1/embeddings", b'{"input": [0, 99999999]}', 400),
        ("/v1/embeddings", b'{"input": "x", "dimensions": 100000}', 400),
        ("/fill-mask", b'{"inputs": "no mask here"}', 422),
        ("/embed", json.dumps({"inputs": ["x"] * 65}).encode(), 413),
        ("/embed", json.dumps({"inputs": "x" * 20_001}).encode(), 413),
        ("/embed", b'{"inputs": "' + b"x" * 200_001 + b'"}', 413),
        ("/nothing", b"{}", 404),
    ],
)
def test_bad_requests(address: str, offline: Any, route: str, content: bytes, status: int) -> None:
    found = httpx.post(address + route, content=content, headers={"Content-Type": "application/json"})
    assert found.status_code == status, found.text
    error = found.json()["error"]
    assert (error["message"] if route.startswith("/v1") else error) if status != 404 else True
    good = post(address, "/embed", inputs=TEXTS[:1]).json()
    np.testing.assert_allclose(good, offline.embed(TEXTS[:1]), atol=2e-5)


def test_compressed_bodies(address: str, offline: Any) -> None:
    def send(content: bytes) -> Any:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return httpx.post(address + "/embed", content=content, headers=headers)

    good = send(gzip.compress(json.dumps({"inputs": TEXTS[0]}).encode()))
    np.testing.assert_allclose(good.json(), offline.embed(TEXTS[:1]), atol=2e-5)
    bomb = gzip.compress(b'{"inputs": "' + b"x" * 50_000_000 + b'"}')
    assert len(bomb) < 200_000 and send(bomb).status_code == 413
    assert send(b"no gzip").status_code == 400
    assert send(gzip.compress(b"{}")[:-9]).status_code == 400


def test_keys() -> None:
    with running({"mini": xlm.load()}, Settings(api_keys=("one", "two"))) as address:
        assert post(address, "/embed", inputs="x").status_code == 401
        assert httpx.get(address + "/health").status_code == 200
        for key, status in (("two", 200), ("tw", 401), ("twoo", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            assert httpx.post(address + "/embed", json={"inputs": "x"}, headers=headers).status_code == status


def test_many_at_once_each_get_their_own(address: str, offline: Any) -> None:
    texts = [f"{TEXTS[n % 5]} {n}" * (1 + n % 7) for n in range(60)]
    wanted = offline.embed(texts)
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda text: post(address, "/embed", inputs=text).json()[0], texts))
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_metrics_and_health(address: str) -> None:
    post(address, "/embed", inputs="x")
    text = httpx.get(address + "/metrics").text
    assert 'xlm_requests_total{method="POST",route="/embed",status="200"}' in text
    assert httpx.get(address + "/ready").json() == {"status": "ready", "models": ["mini"]}
    assert httpx.get(address + "/").text.startswith("<!doctype html>")
    assert "fetch(" in httpx.get(address + "/page/app.js").text
    assert httpx.get(address + "/page/run.py").status_code == 404


class Slow:
    """An engine whose model takes its time."""

    def __init__(self, engine: Any, seconds: float) -> None:
        states = engine.states

        def slowly(batch: Any) -> Any:
            time.sleep(seconds)
            return states(batch)

        engine.states = slowly
        self.engine = engine


def _abandon(address: str, body: bytes) -> None:
    """Send a request and hang up."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        time.sleep(0.05)


def test_abandoned_work_is_dropped_and_the_rest_is_served(offline: Any) -> None:
    engine = Slow(xlm.load(), 0.15).engine
    with running({"mini": engine}, Settings(tokens_a_pack=64)) as address:
        body = json.dumps({"inputs": [f"{TEXTS[0]} {n}" for n in range(60)]}).encode()
        for _ in range(5):
            _abandon(address, body)
        found = post(address, "/embed", inputs=TEXTS[2]).json()
        np.testing.assert_allclose(found, offline.embed([TEXTS[2]]), atol=2e-5)
        time.sleep(0.5)
        numbers = dict(
            line.rsplit(" ", 1) for line in httpx.get(address + "/metrics").text.splitlines() if line[:1] != "#"
        )
        dropped, computed = (float(numbers[f'xlm_{k}_tokens{{model="mini"}}']) for k in ("dropped", "computed"))
        assert dropped > 5 * computed
        assert numbers['xlm_requests_total{method="POST",route="/embed",status="499"}'] == "5.0"
        assert not any('status="504"' in name for name in numbers)


def test_openai_vectors_have_unit_length_whatever_the_folder_says(tmp_path: Path) -> None:
    folder = shutil.copytree(bundled_folder(), tmp_path / "model")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    engine = xlm.load(folder)
    plain = engine.embed(TEXTS)
    assert abs(np.linalg.norm(plain, axis=1) - 1).min() > 0.01
    with running({"mini": engine}) as address:
        found = post(address, "/v1/embeddings", input=TEXTS, model="mini").json()["data"]
        np.testing.assert_allclose([np.linalg.norm(one["embedding"]) for one in found], 1, rtol=1e-5)
        found = post(address, "/embed", inputs=TEXTS, normalize=False).json()
        np.testing.assert_allclose(found, plain, atol=1e-4)


def test_a_short_text_passes_a_long_request() -> None:
    engine = Slow(xlm.load(), 0.1).engine
    with running({"mini": engine}, Settings(tokens_a_pack=64)) as address, ThreadPoolExecutor(2) as pool:
        long = pool.submit(post, address, "/embed", inputs=[f"{TEXTS[0]} {n}" for n in range(60)])
        time.sleep(0.3)
        assert post(address, "/embed", inputs="short").status_code == 200
        assert not long.done()
        assert long.result().status_code == 200


def test_too_much_waiting_is_429_and_late_is_504() -> None:
    engine = Slow(xlm.load(), 0.3).engine
    settings = Settings(tokens_a_pack=64, waiting_tokens=400, answer_seconds=1.0)
    with running({"mini": engine}, settings) as address, ThreadPoolExecutor(8) as pool:
        texts = [f"{TEXTS[0]} {n}" for n in range(40)]
        found = list(pool.map(lambda _: post(address, "/embed", inputs=texts), range(6)))
        statuses = {one.status_code for one in found}
        assert statuses == {429, 504}
        refused = next(one for one in found if one.status_code == 429)
        assert int(refused.headers["Retry-After"]) >= 1


def test_a_row_that_fails_fails_alone(offline: Any) -> None:
    engine = xlm.load()
    states = engine.states
    poison = engine.tokenizer("poison")["input_ids"]

    def picky(batch: Any) -> Any:
        if any(batch.ids[a : a + len(poison)].tolist() == poison for a in range(len(batch.ids))):
            raise RuntimeError("out of memory")
        return states(batch)

    engine.states = picky
    with running({"mini": engine}) as address, ThreadPoolExecutor(4) as pool:
        barrier = threading.Barrier(4)

        def send(text: str) -> Any:
            barrier.wait()
            return post(address, "/embed", inputs=text)

        bad, *good = pool.map(send, ["poison", *TEXTS[:3]])
        assert bad.status_code == 500
        np.testing.assert_allclose([one.json()[0] for one in good], offline.embed(TEXTS[:3]), atol=2e-5)
        assert httpx.get(address + "/health").status_code == 200


def test_dimensions_and_directions(address: str, offline: Any) -> None:
    whole = offline.embed(TEXTS[:2], normalize=False)
    short = whole[:, :16]
    found = post(address, "/embed", inputs=TEXTS[:2], dimensions=16).json()
    np.testing.assert_allclose(found, short / np.linalg.norm(short, axis=1, keepdims=True), atol=1e-4)
    windows = post(address, "/embed", inputs=TEXTS[:2], dimensions=16, normalize=False, long="windows").json()
    np.testing.assert_allclose(windows, short, atol=1e-3)
    for body, param in (
        ({"dimensions": 10_000}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"truncate": True, "truncation_direction": "Left"}, "truncation_direction"),
    ):
        answer = post(address, "/embed", inputs=TEXTS[:2], **body)
        assert answer.status_code == 422 and answer.json()["param"] == param
    assert post(address, "/embed", inputs="a", truncate=True, truncation_direction="Right").status_code == 200


def test_special_tokens_of_strangers_are_text(address: str, offline: Any) -> None:
    text = "ignore </s></s> and <mask> here"
    plain = xlm.load(plain_text=True)
    marks = {offline.tokenizer.mask_token_id, offline.tokenizer.sep_token_id}
    assert not marks & set(plain.ids([text])[0][1:-1]) and marks <= set(offline.ids([text])[0][1:-1])
    np.testing.assert_allclose(post(address, "/embed", inputs=text).json(), plain.embed([text]), atol=2e-5)
    masked = "Paris is the <mask> of France."
    assert post(address, "/fill-mask", inputs=masked).json() == offline.fill_mask([masked])
    assert plain.fill_mask([masked]) == offline.fill_mask([masked])
    with running({"mini": xlm.load()}, Settings(plain_text=False)) as other:
        np.testing.assert_allclose(post(other, "/embed", inputs=text).json(), offline.embed([text]), atol=2e-5)


def test_metrics_with_keys() -> None:
    for open_metrics, status in ((False, 401), (True, 200)):
        with running({"mini": xlm.load()}, Settings(api_keys=("k",), open_metrics=open_metrics)) as url:
            assert httpx.get(url + "/metrics", timeout=60).status_code == status
            assert post(url, "/embed", inputs="a").status_code == 401
