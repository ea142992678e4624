"""What goes wrong around a server, one test each; after it the next good request gives the same bits."""

from __future__ import annotations

import asyncio
import gzip
import hmac
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest

import xlm
from xlm.serving import gate
from xlm.serving.app import create_app
from xlm.serving.settings import Settings
from xlm.serving.wire import Wire

from .conftest import running
from .test_routes import TEXTS, Slow, post

httpx = pytest.importorskip("httpx")
GOOD = {"inputs": TEXTS[:3]}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    settings = Settings(inputs=64, characters=20_000, body_bytes=200_000, body_seconds=1.0)
    with running({"mini": xlm.load()}, settings) as url:
        yield url


@contextmanager
def same_bits_after(address: str) -> Iterator[None]:
    """The same request before and after the block has the same answer, to the last bit, from a server that is well."""
    before = post(address, "/embed", **GOOD)
    assert before.status_code == 200
    yield
    after = post(address, "/embed", **GOOD)
    assert after.status_code == 200 and after.content == before.content
    assert httpx.get(address + "/health", timeout=60).status_code == 200


def numbers(address: str) -> dict[str, float]:
    """The metrics."""
    lines = httpx.get(address + "/metrics", timeout=60).text.splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[:1] != "#"}


def head(length: int) -> bytes:
    """A request's head."""
    lines = ("POST /embed HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def until(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def test_67_a_full_queue_is_429_at_once() -> None:
    slow = Slow(xlm.load(), 0.3).engine
    settings = Settings(tokens_a_pack=32, waiting_tokens=200, requests=50)
    with running({"mini": slow}, settings) as address, same_bits_after(address), ThreadPoolExecutor(12) as pool:
        texts = [f"{TEXTS[0]} {n}" for n in range(20)]
        first = pool.submit(post, address, "/embed", inputs=texts)
        assert until(lambda: numbers(address)['xlm_waiting_tokens{model="mini"}'] > 0)
        refused = post(address, "/embed", inputs=texts)
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        assert "limit of 200" in refused.json()["error"]
        assert not first.done()  # the answer did not wait for the model
        assert first.result().status_code == 200


def test_67_a_draining_server_is_503() -> None:
    app = create_app({"mini": xlm.load()})

    async def ask() -> tuple[Any, Any, Any]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            before = await client.post("/embed", json=GOOD)
            app.state.desk.draining = True
            refused, ready = await client.post("/embed", json=GOOD), await client.get("/ready")
            app.state.desk.draining = False
            after = await client.post("/embed", json=GOOD)
            assert before.content == after.content
            return before, refused, ready

    before, refused, ready = asyncio.run(ask())
    assert (before.status_code, refused.status_code, ready.status_code) == (200, 503, 503)
    assert refused.headers["Retry-After"] and ready.headers["Retry-After"]


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_68_a_large_body_is_413_while_it_is_read(address: str, declared: bool, packed: bool) -> None:
    body = b'{"inputs": "' + b"x" * 20_000_000 + b'"}'
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        content = gzip.compress(body, 1) if packed else body
        for at in range(0, len(content), 8192):
            sent += len(content[at : at + 8192])
            yield content[at : at + 8192]

    headers = {"Content-Type": "application/json"} | ({"Content-Encoding": "gzip"} if packed else {})
    if declared:
        headers["Content-Length"] = str(len(gzip.compress(body, 1) if packed else body))
    with same_bits_after(address):
        try:
            found = httpx.post(address + "/embed", content=parts(), headers=headers, timeout=60)
        except httpx.TransportError:  # the server has answered and closed while we still sent
            assert sent < len(body)
        else:
            assert found.status_code == 413 and "limit" in found.json()["error"]


def test_68_gzip_that_hides_something_is_refused(address: str) -> None:
    """Bytes behind the stream's end would be kept unread; a stream of empty blocks never grows."""
    packed = gzip.compress(json.dumps(GOOD).encode())
    stream = zlib.compressobj(wbits=31)
    empty = stream.compress(b"") + stream.flush(zlib.Z_SYNC_FLUSH) + b"\x00\x00\x00\xff\xff" * 100_000

    def parts(content: bytes) -> Iterator[bytes]:
        yield from (content[at : at + 65536] for at in range(0, len(content), 65536))

    for content, status in ((packed + packed, 400), (packed + bytes(10), 400), (empty, 413), (packed[:-1], 400)):
        with same_bits_after(address):
            headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
            found = httpx.post(address + "/embed", content=parts(content), headers=headers, timeout=60)
            assert found.status_code == status, found.text


def test_68_large_bodies_share_a_limit_that_small_ones_are_free_of() -> None:
    settings = Settings(body_bytes=1_000_000, bodies_bytes=700_000, body_seconds=30)
    with running({"mini": xlm.load()}, settings) as address, same_bits_after(address):
        host, port = address.removeprefix("http://").split(":")
        large = b'{"inputs": "' + b"x" * 600_000 + b'"}'
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(head(len(large)) + large[:-1])
            assert until(lambda: post(address, "/embed", inputs="x" * 300_000).status_code == 429)
            refused = post(address, "/embed", inputs="x" * 300_000)
            assert refused.headers["Retry-After"] and "together" in refused.json()["error"]
            assert post(address, "/embed", **GOOD).status_code == 200
        assert until(lambda: post(address, "/embed", inputs="x" * 300_000).status_code == 422)  # too long for the model


def test_70_an_answer_too_large_for_the_memory_is_refused() -> None:
    with running({"mini": xlm.load()}, Settings(answer_bytes=2_000_000)) as address, same_bits_after(address):
        for route, body in (
            ("/fill-mask", {"inputs": ["<mask>" * 100] * 20, "top_k": 50}),
            ("/tokenize", {"inputs": "x y " * 2000}),
        ):
            found = post(address, route, **body)
            assert found.status_code == 413 and "answer would take" in found.json()["error"], route
            assert found.json()["param"] == "inputs"
        assert post(address, "/fill-mask", inputs="<mask> x", top_k=50).status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"inputs": ["x", null]}', "inputs[1]: "),
        (b'{"inputs": 5}', "inputs: "),
        (b'{"inputs": ["x", "y", {"z": ["w"]}]}', "inputs[2]: "),
        (b'{"inputs": [' + b"1," * 90_000 + b"1]}", "inputs[0]: "),
        (b'{"inputs": "x", "prompt_name": "' + b"y" * 1001 + b'"}', "prompt_name: "),
    ],
)
def test_69_the_item_at_fault_is_named(address: str, body: bytes, message: str) -> None:
    found = httpx.post(address + "/embed", content=body, headers={"Content-Type": "application/json"}, timeout=60)
    assert found.status_code == 422 and found.json()["error"].startswith(message), found.text
    assert len(found.content) < 500


@pytest.mark.parametrize(
    ("route", "body", "status", "param"),
    [
        ("/v1/embeddings", b"{", 400, None),
        ("/v1/embeddings", b'{"input": NaN}', 400, "input"),
        ("/v1/embeddings", b'{"input": [1.5]}', 400, "input"),
        ("/v1/embeddings", b'{"input": [[]]}', 400, "input"),
        ("/v1/embeddings", b'{"model": 3, "input": "x"}', 400, "model"),
        ("/v1/embeddings", b'{"model": "none", "input": "x"}', 404, "model"),
        ("/v1/embeddings", b"", 400, None),
        ("/embed", b"\xff\xfe", 400, None),
        ("/embed", b'{"inputs": "\\ud800"}', 400, None),
        ("/embed", b"[" * 100_000, 400, None),
        ("/embed", b'{"inputs": {"a": 1}}', 422, "inputs"),
        ("/embed", b'{"inputs": ["x", null]}', 422, "inputs"),
        ("/embed", b'{"inputs": "x", "truncate": "perhaps"}', 422, "truncate"),
        ("/embed", b"null", 422, None),
        ("/fill-mask", b'{"inputs": "<mask>", "top_k": 0}', 422, "top_k"),
        ("/similarity", b'{"inputs": {"source_sentence": "x", "sentences": []}}', 422, "inputs"),
        ("/tag", b'{"inputs": "x"}', 422, "model"),
    ],
)
def test_69_what_is_wrong_with_a_request_is_named(
    address: str, route: str, body: bytes, status: int, param: str | None
) -> None:
    with same_bits_after(address):
        found = httpx.post(address + route, content=body, headers={"Content-Type": "application/json"})
        assert found.status_code == status, found.text
        error = found.json()["error"] if route.startswith("/v1") else found.json()
        assert error["param"] == param, error
        assert (error["message"] if route.startswith("/v1") else error["error"]).strip()


def test_69_a_form_of_another_site_is_no_request(address: str) -> None:
    with same_bits_after(address):
        found = httpx.post(address + "/embed", content=b'{"inputs": "x"}', headers={"Content-Type": "text/plain"})
        assert found.status_code == 415


def test_70_too_much_is_refused_before_it_is_tokenized(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with same_bits_after(address):
        asked: list[int] = []
        rows = xlm.Engine.embedding_rows
        monkeypatch.setattr(
            xlm.Engine,
            "embedding_rows",
            lambda self, texts, **kw: (asked.append(len(texts)), rows(self, texts, **kw))[1],
        )
        for inputs, message in ((["x"] * 65, "65 texts"), ("x" * 20_001, "20,001 characters")):
            for route, name in (("/embed", "inputs"), ("/v1/embeddings", "input")):
                found = post(address, route, **{name: inputs})
                assert found.status_code == 413 and message in found.text
        assert post(address, "/embed", inputs="word " * 600).status_code == 422  # too long for the model: known after
        assert asked == [1]
        monkeypatch.undo()


def test_71_slow_senders_and_readers_hold_nobody_up(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    with same_bits_after(address):
        senders = [socket.create_connection((host, int(port))) for _ in range(30)]
        for sender in senders:
            sender.sendall(
                b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
            )
        readers = [socket.create_connection((host, int(port))) for _ in range(5)]
        body = json.dumps({"inputs": TEXTS * 10}).encode()
        for reader in readers:
            reader.sendall(head(len(body)) + body)
        assert post(address, "/embed", **GOOD).status_code == 200  # while all of them dawdle
        for sender in senders:  # then they are told
            sender.settimeout(20)
            assert sender.recv(4096).startswith(b"HTTP/1.1 408")
            sender.close()
        for reader in readers:
            reader.close()


def test_71_a_reader_that_never_reads_is_given_up() -> None:
    """Beneath the sockets, whose buffers would take any answer of this model."""
    app = create_app({"mini": xlm.load()}, Settings(send_seconds=0.2))
    body = json.dumps(GOOD).encode()

    async def ask() -> bool:
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            for message in given:
                return message
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            await asyncio.sleep(60)

        scope = {
            "type": "http", "method": "POST", "path": "/embed", "raw_path": b"/embed", "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
            "asgi": {"version": "3.0"}, "client": ("x", 1), "server": ("x", 80), "root_path": "",
        }  # fmt: skip
        await asyncio.wait_for(app(scope, receive, send), 20)
        return app.state.desk.under_way == 0

    assert asyncio.run(ask())


def speak(address: str, *parts: bytes) -> bytes:
    """What the server answers to bytes until it closes the connection."""
    host, port = address.removeprefix("http://").split(":")
    found = b""
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        with suppress(OSError):  # closed while we still speak
            for part in parts:
                connection.sendall(part)
        with suppress(ConnectionResetError):
            while data := connection.recv(65536):
                found += data
    return found


def test_71_heads_that_do_not_end_are_given_up(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with same_bits_after(address):
        found = speak(address, b"GET /health HTTP/1.1\r\nHost: x\r\nX: ", *[b"y" * 65536] * 64)
        assert found == b"" or b"headers are longer" in found  # the answer may be lost with what was not read
        lines = [b"X%d: y\r\n" % n for n in range(60_000)]
        found = speak(address, b"GET /health HTTP/1.1\r\nHost: x\r\n", *lines)
        assert found == b"" or b"headers are longer" in found
        monkeypatch.setattr(Wire, "head_seconds", 0.3)
        assert speak(address) == b""  # says nothing
        assert speak(address, b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Le") == b""
        # The wait ends with the head, not with the answer: another request on the connection is served.
        body = json.dumps(GOOD).encode()
        one = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        found = speak(address, one + b"\r\n" + body + one + b"Connection: close\r\n\r\n" + body)
        assert found.count(b"HTTP/1.1 200 OK") == 2


def test_72_the_work_of_a_client_that_left_is_dropped() -> None:
    slow = Slow(xlm.load(), 0.1).engine
    with running({"mini": slow}, Settings(tokens_a_pack=64, requests=40)) as address:
        host, port = address.removeprefix("http://").split(":")
        with same_bits_after(address):
            begin = numbers(address)
            for texts in ([f"{TEXTS[0]} {n}" for n in range(50)], [TEXTS[0] * 6 + str(n) for n in range(60)]):
                body = json.dumps({"inputs": texts}).encode()
                for _ in range(30):
                    with socket.create_connection((host, int(port))) as client:
                        client.sendall(head(len(body)) + body)
                        time.sleep(0.02)
            assert until(lambda: numbers(address)["xlm_requests_under_way"] == 0)
            assert until(lambda: numbers(address)['xlm_waiting_tokens{model="mini"}'] == 0)
            end = numbers(address)
            computed, dropped = (
                end[f'xlm_{k}_tokens{{model="mini"}}'] - begin[f'xlm_{k}_tokens{{model="mini"}}']
                for k in ("computed", "dropped")
            )
            assert dropped > 9 * computed


def test_73_a_bad_text_fails_alone() -> None:
    engine = xlm.load()
    states = engine.states
    poison = engine.tokenizer("poison")["input_ids"]

    def picky(batch: Any) -> Any:
        if any(batch.ids[a : a + len(poison)].tolist() == poison for a in range(len(batch.ids))):
            raise RuntimeError("out of memory: allocating secrets")
        time.sleep(0.05)
        return states(batch)

    engine.states = picky
    with running({"mini": engine}) as address, same_bits_after(address), ThreadPoolExecutor(9) as pool:
        calls = [pool.submit(post, address, "/embed", inputs=text) for text in ["poison", *TEXTS]]
        calls += [pool.submit(post, address, "/v1/embeddings", input=text) for text in TEXTS[:3]]
        bad, *good = [call.result() for call in calls]
        assert bad.status_code == 500 and "secrets" not in bad.text
        assert {one.status_code for one in good} == {200}


def test_74_when_the_models_thread_dies_nobody_hangs() -> None:
    engine = xlm.load()
    states, dying, begun = engine.states, threading.Event(), threading.Event()

    def fatal(batch: Any) -> Any:
        if not dying.is_set():
            return states(batch)
        begun.set()
        time.sleep(0.3)
        raise SystemExit("dead")

    engine.states = fatal
    with running({"mini": engine}, Settings(tokens_a_pack=16)) as address, ThreadPoolExecutor(8) as pool:
        assert post(address, "/embed", **GOOD).status_code == 200
        dying.set()
        calls = [pool.submit(post, address, "/embed", inputs=[text] * 5) for text in TEXTS]
        calls.append(pool.submit(post, address, "/fill-mask", inputs="A <mask>."))
        assert begun.wait(20)
        found = [call.result(30) for call in calls]
        assert {one.status_code for one in found} == {500}
        assert httpx.get(address + "/health", timeout=60).status_code == 500
        assert httpx.get(address + "/health", timeout=60).json()["dead"] == ["mini"]
        assert post(address, "/embed", **GOOD).status_code == 500


def test_75_what_is_too_late_is_504_and_not_computed() -> None:
    slow = Slow(xlm.load(), 0.3).engine
    with running({"mini": slow}, Settings(tokens_a_pack=32, answer_seconds=0.9)) as address, same_bits_after(address):
        begin = numbers(address)
        found = post(address, "/embed", inputs=[f"{TEXTS[0]} {n}" for n in range(60)])
        assert found.status_code == 504
        assert until(lambda: numbers(address)['xlm_waiting_tokens{model="mini"}'] == 0)
        end = numbers(address)
        name = 'xlm_{}_tokens{{model="mini"}}'
        computed, dropped = (end[name.format(k)] - begin[name.format(k)] for k in ("computed", "dropped"))
        assert dropped > 3 * computed


def test_76_no_text_and_no_key_in_logs(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    told = "cannot take SECRETTEXT"  # as errors beneath may quote a text
    real = hmac.compare_digest
    monkeypatch.setattr(gate.hmac, "compare_digest", lambda a, b: (compared.append((a, b)), real(a, b))[1])
    engine = xlm.load()
    states = engine.states

    def picky(batch: Any) -> Any:
        if len(batch.ids) > 40:
            raise RuntimeError(told)
        return states(batch)

    engine.states = picky
    with (
        caplog.at_level(logging.DEBUG),
        caplog.at_level(logging.DEBUG, "xlm.serving.access"),  # a command that ran before may have quietened "xlm"
        running({"mini": engine}, Settings(api_keys=("SECRETKEY", "OTHERKEY"))) as address,
    ):
        headers = {"Authorization": "Bearer SECRETKEY"}
        for text in ("SECRETTEXT", "SECRETTEXT " * 8, "SECRETTEXT " * 400):
            httpx.post(address + "/embed", json={"inputs": text}, headers=headers, timeout=60)
        httpx.post(address + "/embed", content=b'{"inputs": SECRETTEXT', headers=headers, timeout=60)
        wrong = {"Authorization": "Bearer SECRETKEZ"}
        assert httpx.post(address + "/embed", json=GOOD, headers=wrong, timeout=60).status_code == 401
    own = [record for record in caplog.records if record.name.startswith(("xlm", "uvicorn", "asyncio", "fastapi"))]
    text = "\n".join(record.getMessage() + str(record.exc_text or "") for record in own)
    assert own and "SECRET" not in text and "OTHERKEY" not in text
    lines = [json.loads(record.getMessage()) for record in own if record.name == "xlm.serving.access"]
    assert {line["status"] for line in lines} >= {200, 401, 422, 500} and all(line["id"] for line in lines)
    # Both keys are compared whichever fits, by the comparison whose time says nothing.
    assert {key for _, key in compared} == {b"SECRETKEY", b"OTHERKEY"}


@pytest.mark.parametrize("times", [1, 2])
def test_77_sigterm_drains(times: int) -> None:
    code = (
        "import time, xlm\nfrom xlm.serving.run import run\nfrom xlm.serving.settings import Settings\n"
        "engine = xlm.load()\nstates = engine.states\n"
        "engine.states = lambda batch: (time.sleep(0.25), states(batch))[1]\n"
        "run({'mini': lambda: engine}, Settings(tokens_a_pack=64), port=0, say=lambda text: print(text, flush=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    try:
        assert process.stdout is not None
        address = "http://" + process.stdout.readline().split("http://")[1].split()[0]
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(post, address, "/embed", inputs=[f"{TEXTS[0]} {n}" for n in range(40)])
            assert until(lambda: numbers(address)["xlm_requests_under_way"] == 1)
            process.send_signal(signal.SIGTERM)
            if times == 1:
                assert until(lambda: httpx.get(address + "/ready", timeout=60).status_code == 503)
                assert post(address, "/embed", **GOOD).status_code == 503
            else:
                process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            found = call.result(30)
        assert found.status_code == 200 and len(found.json()) == 40
        assert np.isfinite(found.json()).all()
    finally:
        process.kill()
        process.wait()


def test_a_missing_package_names_its_extra() -> None:
    code = "import sys\nsys.modules['orjson'] = None\nfrom xlm.cli import main\nsys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "xlm serve needs the package 'orjson': install it with  pip install 'xlm[serve]'" in done.stderr
