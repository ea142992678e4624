"""Measure the server beside infinity and a sentence-transformers server, on one machine, one model, equal weights.

    python benchmarks/serving.py prepare --texts FILE…              once: models, texts, their vectors in float32
    python benchmarks/serving.py dtypes                             which dtypes of which server keep a cosine of 0.999
    python benchmarks/serving.py saturate SERVER --dtype D          closed loop: requests a second, the best of --clients
    python benchmarks/serving.py latency SERVER --dtype D           open loop, Poisson arrivals: p50, p95, p99
    python benchmarks/serving.py clients --minutes 5                1,000 clients at once, every body checked; memory
    python benchmarks/serving.py abandon                            4,000 requests whose clients hang up
    python benchmarks/serving.py startup                            beside `import torch` and a cold read of the weights
    python benchmarks/serving.py report --table T.md --plot P.png   what --json holds

SERVER is xlm, infinity, or sentence-transformers: a Starlette app on uvicorn that calls `SentenceTransformer.encode` in a
thread, one call at a time (`benchmarks/serving.py peer`). `benchmarks/serving.py peer-batch FOLDER DTYPE TEXTS.json` times its
`encode` alone, without HTTP, on all texts at once: a bound for any server built on it. It runs in this Python; infinity,
which needs older libraries, in the one named by --peers:

    python -m venv PEERS && PEERS/bin/pip install torch==2.13.0 'infinity-emb[torch,server]'

which gave infinity-emb 0.0.78, sentence-transformers 3.4.1, transformers 4.57.6, typer 0.12.5, click 8.1.8 in November 2026.

--model is `mini` (the bundled one) or `base`: XLM-R base's encoder (12 layers of 768) with random weights and the bundled
vocabulary, float32. Every request holds --inputs texts and goes to the OpenAI route. The load generator is this process: raw
HTTP/1.1 on asyncio; latencies count from the moment a request was due, not from when a connection was free. Bodies are
compared with the text's own vector, computed beforehand by `xlm.load(..., dtype="float32").embed`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SERVERS = ("xlm", "infinity", "sentence-transformers")
DTYPES = {
    "xlm": ("int8", "bfloat16", "float32"),
    "infinity": ("bfloat16", "float16", "float32"),
    "sentence-transformers": ("bfloat16", "float16", "float32"),
}
LEAST_COSINE = 0.999
SEED = 0


# -- Models and texts -------------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> None:
    """Write the two models as sentence-transformers folders (mean, unit length), the texts and their vectors."""
    import torch

    import xlm
    from xlm.assets import bundled_folder

    folder = options.folder
    for name in ("mini", "base"):
        place = folder / name
        if (place / "modules.json").exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        vocabulary = ("sentencepiece.bpe.model", "tokenizer_config.json")
        if name == "mini":
            for file in bundled_folder().iterdir():
                (place / file.name).write_bytes(file.read_bytes())
        else:
            torch.manual_seed(SEED)
            config = xlm.XLMRobertaConfig(
                vocab_size=12_000, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
            )
            xlm.XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(place)
            for file in vocabulary:
                (place / file).write_bytes((bundled_folder() / file).read_bytes())
        width = json.loads((place / "config.json").read_text())["hidden_size"]
        kinds = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
        modules = [
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for n, (kind, path) in enumerate(kinds)
        ]
        pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
        (place / "1_Pooling").mkdir(exist_ok=True)
        (place / "2_Normalize").mkdir(exist_ok=True)
        (place / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 256, "do_lower_case": False}))
        (place / "modules.json").write_text(json.dumps(modules))
    if not (folder / "texts.json").exists():
        texts = make_texts(options.texts, xlm.load(folder / "mini"), options.count)
        (folder / "texts.json").write_text(json.dumps(texts, ensure_ascii=False))
    texts = json.loads((folder / "texts.json").read_text("utf-8"))
    for name in ("mini", "base"):
        engine = xlm.load(folder / name)
        np.save(folder / f"{name}.npy", engine.embed(texts))
        np.save(folder / f"{name}.tokens.npy", np.asarray(engine.count_tokens(texts)))
    tokens = np.load(folder / "mini.tokens.npy")
    print(
        f"{len(texts)} texts, {tokens.mean():.1f} tokens on average, median {np.median(tokens):.0f}, "
        f"90 % below {np.quantile(tokens, 0.9):.0f}, longest {tokens.max()}"
    )


def make_texts(files: list[Path], engine: Any, count: int) -> list[str]:
    """Four in five are lines as they stand, one in five is a passage of lines in a row, up to 256 tokens."""
    rng = np.random.default_rng(SEED)
    pools = [[line.split("\t")[0].strip() for line in read(path)] for path in files]
    pools = [[line for line in pool if len(line) > 8] for pool in pools]
    found: list[str] = []
    while len(found) < count:
        pool = pools[int(rng.integers(len(pools)))]
        at = int(rng.integers(max(1, len(pool) - 8)))
        lines = 1 if rng.random() < 0.8 else int(rng.integers(3, 8))
        text = " ".join(pool[at : at + lines])
        if not engine.truncated([text]) and text not in found:
            found.append(text)
    return found


def read(path: Path) -> list[str]:
    """The lines of a file, .gz too."""
    import gzip

    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8").splitlines()


class Work:
    """Requests and what their answers must be.

    Attributes:
        bodies: HTTP requests, byte by byte.
        members: the texts of every request.
        tokens: of every request, special ones included.
    """

    def __init__(
        self, folder: Path, model: str, inputs: int, encoding: str = "float", limit: int | None = None
    ) -> None:
        texts = json.loads((folder / "texts.json").read_text("utf-8"))[:limit]
        self.vectors = np.load(folder / f"{model}.npy")[: len(texts)]
        lengths = np.load(folder / f"{model}.tokens.npy")[: len(texts)]
        rng = np.random.default_rng(SEED)
        order = rng.permutation(len(texts))
        self.members = [order[at : at + inputs] for at in range(0, len(order) - inputs + 1, inputs)]
        self.tokens = [int(lengths[own].sum()) for own in self.members]
        self.bodies = []
        for own in self.members:
            asked = [texts[index] for index in own]
            given = {"model": "bench", "input": asked if inputs > 1 else asked[0], "encoding_format": encoding}
            body = json.dumps(given, ensure_ascii=False).encode()
            head = (
                "POST /v1/embeddings HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            self.bodies.append(head.encode() + body)

    def cosines(self, request: int, body: bytes) -> np.ndarray[Any, Any]:
        """The cosines of an answer's vectors with those that are due."""
        found = vectors_of(body)
        due = self.vectors[self.members[request]]
        return (found * due).sum(1) / np.linalg.norm(found, axis=1)

    def is_right(self, request: int, body: bytes) -> bool:
        """Whether every vector is near its own text's, and nearer to it than to any other text's."""
        found = vectors_of(body)
        due = self.members[request]
        if len(found) != len(due):
            return False
        similar = found @ self.vectors.T
        own = similar[np.arange(len(due)), due]
        return bool(
            (own >= LEAST_COSINE * np.linalg.norm(found, axis=1)).all() and (own >= similar.max(1) - 1e-6).all()
        )


def vectors_of(body: bytes) -> np.ndarray[Any, Any]:
    """The vectors (n, hidden) in an answer of the OpenAI route."""
    try:
        import orjson

        data = orjson.loads(body)["data"]
    except ImportError:
        data = json.loads(body)["data"]
    return np.asarray([item["embedding"] for item in sorted(data, key=lambda one: one["index"])], np.float32)


# -- Servers ----------------------------------------------------------------------------------------------------------


class Server:
    """A server process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, seconds: float) -> None:
        self.process, self.port, self.seconds = process, port, seconds

    def family(self) -> list[int]:
        """The process and its children."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found.extend(int(child) for child in task.read_text().split())
        return found

    def rss(self) -> float:
        """MB in memory."""
        total = 0
        for pid in self.family():
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        return total / 1e3

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        ticks = 0
        for pid in self.family():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def metrics(self) -> dict[str, float]:
        """Our server's counters."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[:1] != "#"}


def command(server: str, dtype: str, options: argparse.Namespace, port: int) -> list[str]:
    """How a server is started."""
    folder = str((options.folder / options.model).resolve())
    peers = str(options.peers)
    extra = options.extra.split() if options.extra else []
    if server == "xlm":
        return [sys.executable, "-m", "xlm.cli", "serve", f"bench={folder}", "-p", str(port), "--dtype", dtype, *extra]
    if server == "infinity":
        program = str(Path(peers).with_name("infinity_emb"))
        flags = ["--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--url-prefix", "/v1"]
        named = ["--model-id", folder, "--served-model-name", "bench", "--dtype", dtype, "--port", str(port)]
        return [program, "v2", *named, *flags, "--log-level", "warning", "--no-model-warmup", *extra]
    return [sys.executable, __file__, "peer", folder, dtype, str(port), *extra]


def _as_installed(environment: dict[str, str], options: argparse.Namespace) -> dict[str, str]:
    """An environment in which our modules are read as bytecode, as those that pip has installed are."""
    kept = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str((options.folder / "bytecode").resolve())}


@contextmanager
def serving(server: str, dtype: str, options: argparse.Namespace) -> Iterator[Server]:
    """A server that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = options.folder / f"{server}.log"
    given = os.environ | {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}
    given.pop("OMP_NUM_THREADS", None)
    if server == "xlm":
        given = _as_installed(given, options)
    started = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command(server, dtype, options, port), stdout=stream, stderr=stream, env=given, start_new_session=True
        )
    try:
        path = "/ready" if server == "xlm" else "/health"
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
                    break
            except OSError as error:
                if process.poll() is not None or time.perf_counter() - started > 300:
                    tail = log.read_text("utf-8", "replace")[-1500:]
                    raise SystemExit(f"{server} did not start: {error}\n{tail}") from error
                time.sleep(0.005)
        yield Server(process, port, time.perf_counter() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def peer(folder: str, dtype: str, port: int) -> None:
    """Serve a model by sentence-transformers: what most people write who write their own server."""
    import torch
    import uvicorn
    from orjson import OPT_SERIALIZE_NUMPY, dumps, loads
    from sentence_transformers import SentenceTransformer
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    kind = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[dtype]
    model = SentenceTransformer(folder, device="cpu", model_kwargs={"torch_dtype": kind})
    lock = threading.Lock()

    def encode(texts: list[str]) -> Any:
        with lock:
            return model.encode(texts, batch_size=32, convert_to_tensor=True, show_progress_bar=False).float().numpy()

    async def health(_: Request) -> Response:
        return Response("ok")

    async def embeddings(request: Request) -> Response:
        asked = loads(await request.body())["input"]
        vectors = await run_in_threadpool(encode, [asked] if isinstance(asked, str) else asked)
        data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        return Response(dumps({"data": data}, option=OPT_SERIALIZE_NUMPY), media_type="application/json")

    routes = [Route("/health", health), Route("/v1/embeddings", embeddings, methods=["POST"])]
    uvicorn.run(Starlette(routes=routes), port=port, log_level="warning", access_log=False)


def peer_batch(folder: str, dtype: str, texts_file: str) -> None:
    """`SentenceTransformer.encode` on all texts at once, the best of three: JSON on stdout."""
    import torch
    from sentence_transformers import SentenceTransformer

    kind = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[dtype]
    model = SentenceTransformer(folder, device="cpu", model_kwargs={"torch_dtype": kind})
    texts = json.loads(Path(texts_file).read_text("utf-8"))
    best = 1e9
    for _ in range(3):
        begin = time.perf_counter()
        model.encode(texts, batch_size=32)
        best = min(best, time.perf_counter() - begin)
    print(json.dumps({"texts": len(texts), "seconds": best}))


# -- Clients ----------------------------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """A connection kept open; one request at a time."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self.buffer) < end + 4 + length:
            return
        body = bytes(self.buffer[end + 4 : end + 4 + length])
        self.buffer.clear()
        if self.answer is not None and not self.answer.done():
            self.answer.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        self.closed = True
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(exc or ConnectionError("closed"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body."""
        assert self.transport is not None
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answer


async def connect(port: int) -> Connection:
    """A new connection."""
    _, protocol = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return protocol


Check = Callable[[int, bytes], bool] | None


async def closed_loop(
    port: int, work: Work, clients: int, seconds: float, warm: float = 2.0, check: Check = None
) -> dict[str, Any]:
    """Every client sends its next request when its last is answered."""
    loop, counts = asyncio.get_running_loop(), {"requests": 0, "tokens": 0, "failed": 0, "wrong": 0, "checked": 0}
    latencies: list[float] = []
    begin = loop.time() + warm
    end = begin + seconds
    turn = iter(range(10**12))

    async def client() -> None:
        connection = await connect(port)
        while loop.time() < end:
            number = next(turn) % len(work.bodies)
            sent = loop.time()
            try:
                status, body = await connection.ask(work.bodies[number])
            except OSError:
                counts["failed"] += 1
                connection = await connect(port)
                continue
            now = loop.time()
            if status != 200:
                counts["failed"] += 1
                await asyncio.sleep(0.2)
            elif begin <= now < end:
                counts["requests"] += 1
                counts["tokens"] += work.tokens[number]
                latencies.append(now - sent)
            if check is not None and status == 200:
                counts["checked"] += 1
                counts["wrong"] += not check(number, body)

    await asyncio.gather(*(client() for _ in range(clients)))
    return counts | {"seconds": seconds, "clients": clients} | _quantiles(latencies)


async def open_loop(port: int, work: Work, rate: float, seconds: float, warm: float = 3.0) -> dict[str, Any]:
    """Requests arrive as they do from many people who know nothing of each other, `rate` a second on average."""
    loop, rng = asyncio.get_running_loop(), np.random.default_rng(SEED)
    due = np.cumsum(rng.exponential(1 / rate, int(rate * (warm + seconds))))
    idle: list[Connection] = [await connect(port) for _ in range(64)]
    latencies: list[float] = []
    failed = 0
    start = loop.time() + 0.1

    async def one(number: int, at: float) -> None:
        nonlocal failed
        while idle and idle[-1].closed:  # kept too long for this server
            idle.pop()
        connection = idle.pop() if idle else await connect(port)
        try:
            status, _ = await connection.ask(work.bodies[number % len(work.bodies)])
        except (OSError, RuntimeError):  # uvloop's word for a connection that has just been closed
            failed += 1
            return
        idle.append(connection)
        if status != 200:
            failed += 1
        elif at >= start + warm:
            latencies.append(loop.time() - at)

    tasks = []
    for number, offset in enumerate(due):
        delay = start + offset - loop.time()
        if delay > 0:
            await asyncio.sleep(delay)
        tasks.append(asyncio.ensure_future(one(number, start + offset)))
    await asyncio.wait(tasks, timeout=30)
    unanswered = sum(not task.done() for task in tasks)
    return {"rate": rate, "requests": len(latencies), "failed": failed, "unanswered": unanswered} | _quantiles(
        latencies
    )


def _quantiles(latencies: list[float]) -> dict[str, float]:
    if not latencies:
        return {"p50": float("inf"), "p95": float("inf"), "p99": float("inf")}
    return {f"p{q}": round(1e3 * float(np.quantile(latencies, q / 100)), 2) for q in (50, 95, 99)}


def run(what: Awaitable[Any]) -> Any:
    """Run to the end, on uvloop where it is."""

    async def whole() -> Any:
        return await what

    try:
        import uvloop
    except ImportError:
        return asyncio.run(whole())
    return uvloop.run(whole())


# -- Measurements -----------------------------------------------------------------------------------------------------


def dtypes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The least and mean cosine of every server's vectors with float32's, and its speed, by dtype."""
    work, found = Work(options.folder, options.model, 8, limit=400), []
    for server in options.servers:
        for dtype in options.dtypes or DTYPES[server]:
            cosines: list[np.ndarray[Any, Any]] = []

            def check(number: int, body: bytes, cosines: Any = cosines) -> bool:
                cosines.append(work.cosines(number, body))
                return True

            with serving(server, dtype, options) as running:
                before = running.cpu()
                counts = run(closed_loop(running.port, work, 4, options.seconds, 1, check))
                spent = running.cpu() - before
            row = {
                "what": "dtypes", "server": server, "model": options.model, "dtype": dtype,
                "least": float(np.concatenate(cosines).min()), "mean": float(np.concatenate(cosines).mean()),
                "tokens_per_s": counts["tokens"] / counts["seconds"], "failed": counts["failed"], "cpu": spent,
            }  # fmt: skip
            print(
                f"{server:22} {dtype:9} least {row['least']:.5f} mean {row['mean']:.5f} {row['tokens_per_s']:,.0f} tokens/s"
            )
            found.append(row)
    return found


def saturate(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Requests and tokens a second, closed loop, for every number of clients."""
    found, work = [], Work(options.folder, options.model, options.inputs)
    with serving(options.server, options.dtype, options) as running:
        for clients in options.clients:
            before, own = running.cpu(), resource.getrusage(resource.RUSAGE_SELF)
            counts = run(closed_loop(running.port, work, clients, options.seconds))
            mine = resource.getrusage(resource.RUSAGE_SELF)
            row = {
                "what": "saturate", "server": options.server, "model": options.model, "dtype": options.dtype,
                "inputs": options.inputs, "per_s": counts["requests"] / options.seconds,
                "tokens_per_s": counts["tokens"] / options.seconds, "rss": running.rss(),
                "cpu": running.cpu() - before, "own_cpu": mine.ru_utime + mine.ru_stime - own.ru_utime - own.ru_stime,
            } | counts  # fmt: skip
            print(
                f"{options.server} {options.dtype} {clients} clients: {row['per_s']:,.1f} requests/s, "
                f"{row['tokens_per_s']:,.0f} tokens/s, p50 {row['p50']} ms, p95 {row['p95']} ms, {row['failed']} failed, "
                f"server {row['cpu']:.1f} s CPU, generator {row['own_cpu']:.1f} s"
            )
            found.append(row)
    return found


def latency(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Quantiles of the time to the answer at given rates of arrival."""
    found, work = [], Work(options.folder, options.model, options.inputs)
    with serving(options.server, options.dtype, options) as running:
        run(closed_loop(running.port, work, 4, 1, 1))
        for rate in options.rates or _shares(options):
            row = {
                "what": "latency", "server": options.server, "model": options.model, "dtype": options.dtype,
                "inputs": options.inputs,
            } | run(open_loop(running.port, work, rate, options.seconds))  # fmt: skip
            print(
                f"{options.server} {options.dtype} at {rate:.1f}/s: p50 {row['p50']} p95 {row['p95']} p99 {row['p99']} ms, "
                f"{row['failed']} failed, {row['unanswered']} unanswered"
            )
            found.append(row)
    return found


def _shares(options: argparse.Namespace) -> list[float]:
    """50, 70 and 90 % of what the best peer did at its best, by --json."""
    rows = [json.loads(line) for line in options.json.read_text("utf-8").splitlines()]
    peers = [
        row["per_s"]
        for (model, inputs, server), row in best_of(rows).items()
        if (model, inputs) == (options.model, options.inputs) and server != "xlm"
    ]
    return [share * max(peers) for share in (0.5, 0.7, 0.9)]


def many_clients(options: argparse.Namespace) -> list[dict[str, Any]]:
    """1,000 clients for minutes; every body is checked, memory is looked at every 5 s from the end of --warm seconds on."""
    work = Work(options.folder, options.model, options.inputs, limit=500)
    with serving("xlm", options.dtype, options) as running:
        run(closed_loop(running.port, work, 1000, options.warm, 0))  # what 1,000 connections and the texts' sizes need
        memory = [running.rss()]
        end = threading.Event()

        def look() -> None:
            while not end.wait(5):
                memory.append(running.rss())

        looking = threading.Thread(target=look)
        looking.start()
        counts = run(closed_loop(running.port, work, 1000, options.minutes * 60, 0, work.is_right))
        end.set()
        looking.join()
        memory.append(running.rss())
    row = {
        "what": "clients", "server": "xlm", "model": options.model, "dtype": options.dtype, "minutes": options.minutes,
        "warm": options.warm, "rss": memory, "drift": memory[-1] / memory[0] - 1, "widest": max(memory) / memory[0] - 1,
    } | counts  # fmt: skip
    print(
        f"{row['checked']:,} bodies checked, {row['wrong']} wrong, {row['failed']} failed, {row['requests']:,} in time; "
        f"p50 {row['p50']:,.0f} p95 {row['p95']:,.0f} ms; memory {memory[0]:.0f} -> {memory[-1]:.0f} MB "
        f"({row['drift']:+.1%}; at most {row['widest']:+.1%}), every minute: "
        + " ".join(f"{mb:.0f}" for mb in memory[::12])
    )
    return [row]


def abandon(options: argparse.Namespace) -> list[dict[str, Any]]:
    """4,000 clients send a request of --inputs texts and hang up; how much of the work is not done?"""
    work = Work(options.folder, options.model, options.inputs)
    sent = 0

    async def leave(port: int, number: int) -> None:
        nonlocal sent
        connection = await connect(port)
        assert connection.transport is not None
        connection.transport.write(work.bodies[number % len(work.bodies)])
        await asyncio.sleep(0.05)
        connection.transport.close()
        sent += work.tokens[number % len(work.bodies)]

    async def all_of_them(port: int) -> None:
        for start in range(0, 4000, 400):
            await asyncio.gather(*(leave(port, start + n) for n in range(400)))

    with serving("xlm", options.dtype, options) as running:
        name = 'xlm_{}_tokens{{model="bench"}}'
        begin = running.metrics()
        run(all_of_them(running.port))
        while running.metrics()[name.format("waiting")]:
            time.sleep(0.2)
        end = running.metrics()
        computed = end[name.format("computed")] - begin[name.format("computed")]
        after = run(closed_loop(running.port, work, 2, 2, 0, work.is_right))
    row = {
        "what": "abandon", "server": "xlm", "model": options.model, "dtype": options.dtype, "requests": 4000,
        "inputs": options.inputs, "sent": sent, "computed": computed, "dropped": 1 - computed / sent,
        "after": after["checked"], "after_wrong": after["wrong"],
    }  # fmt: skip
    print(
        f"{sent:,} tokens sent, {computed:,.0f} computed: {row['dropped']:.1%} dropped; "
        f"then {after['wrong']} wrong of {after['checked']}"
    )
    return [row]


def startup(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds until /ready answers, beside importing torch and a cold read of the weights, each the median of --rounds."""
    weights = options.folder / options.model / "model.safetensors"

    def cold() -> None:
        subprocess.run(["sync"], check=True)
        for file in weights.parent.glob("*.safetensors"):
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def timed(call: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    def read_all() -> None:
        with weights.open("rb", buffering=0) as stream:
            while stream.read(1 << 22):
                pass

    given = _as_installed(dict(os.environ), options)
    importing = [sys.executable, "-c", "import torch"]
    with serving("xlm", options.dtype, options):  # not counted: it writes the bytecode
        pass
    ours, torch, disk = [], [], []
    for _ in range(options.rounds):
        cold()
        disk.append(timed(read_all))
        torch.append(timed(lambda: subprocess.run(importing, check=True, env=given)))
        cold()
        with serving("xlm", options.dtype, options) as running:
            ours.append(running.seconds)
    middle = [float(np.median(one)) for one in (ours, torch, disk)]
    goal = middle[1] + 1.5 * middle[2]
    row = {
        "what": "startup", "server": "xlm", "model": options.model, "dtype": options.dtype,
        "seconds": middle[0], "torch": middle[1], "read": middle[2], "goal": goal, "all": [ours, torch, disk],
    }  # fmt: skip
    print(
        f"ready after {middle[0]:.2f} s; import torch {middle[1]:.2f} s, cold read {middle[2]:.2f} s: goal {goal:.2f} s"
    )
    return [row]


# -- Report -----------------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| model | server | dtype | least cosine | requests/s | tokens/s | times | MB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    best = best_of(rows)
    for (model, inputs, server), row in best.items():
        cosine = next(
            (
                r["least"]
                for r in rows
                if r["what"] == "dtypes" and (r["server"], r["model"], r["dtype"]) == (server, model, row["dtype"])
            ),
            None,
        )
        peers = [r["per_s"] for (m, i, s), r in best.items() if (m, i) == (model, inputs) and s != "xlm"]
        times = f"{row['per_s'] / max(peers):.2f}" if server == "xlm" and peers else ""
        shown = "–" if cosine is None else f"{cosine:.4f}"
        lines.append(
            f"| {model}, {inputs} a request | {server} | {row['dtype']} | {shown} | {row['per_s']:,.1f} | "
            f"{row['tokens_per_s']:,.0f} | {times} | {row['rss']:,.0f} |"
        )
    rates = [r for r in rows if r["what"] == "latency"]
    if rates:
        lines += [
            "",
            "| model | requests/s | server | p50 | p95 | p99 (ms) |",
            "| --- | ---: | --- | ---: | ---: | ---: |",
        ]
        for row in sorted(rates, key=lambda r: (r["model"], r["rate"], r["server"])):
            lines.append(
                f"| {row['model']} | {row['rate']:.0f} | {row['server']} | "
                f"{row['p50']:,.1f} | {row['p95']:,.1f} | {row['p99']:,.1f} |"
            )
    return "\n".join(lines) + "\n"


def best_of(rows: list[dict[str, Any]]) -> dict[tuple[str, int, str], dict[str, Any]]:
    """The best saturation of every server, by model and texts a request."""
    best: dict[tuple[str, int, str], dict[str, Any]] = {}
    for row in rows:
        if row["what"] == "saturate":
            key = (row["model"], row["inputs"], row["server"])
            if key not in best or row["per_s"] > best[key]["per_s"]:
                best[key] = row
    return dict(sorted(best.items()))


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Throughput as bars; p95 over the rate of arrival, p50 dotted."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"xlm": "#2a6f97", "infinity": "#b5651d", "sentence-transformers": "#8a8f98"}
    best = best_of(rows)
    models = sorted({(model, inputs) for model, inputs, _ in best})
    figure, axes = plt.subplots(2, len(models), figsize=(5.2 * len(models), 7.2), squeeze=False)
    for column, (model, inputs) in enumerate(models):
        bars, lines = axes[0][column], axes[1][column]
        shown = [server for server in colours if (model, inputs, server) in best]
        values = [best[model, inputs, server]["per_s"] for server in shown]
        bars.bar([f"{s}\n{best[model, inputs, s]['dtype']}" for s in shown], values, color=[colours[s] for s in shown])
        for at, value in enumerate(values):
            bars.text(at, value, f"{value:,.0f}", ha="center", va="bottom", fontsize=9)
        bars.set_title(f"{model}, {inputs} text{'s' if inputs > 1 else ''} a request: requests a second", fontsize=10)
        for server in shown:
            found = sorted(
                (
                    r
                    for r in rows
                    if r["what"] == "latency" and (r["model"], r["inputs"], r["server"]) == (model, inputs, server)
                ),
                key=lambda r: r["rate"],
            )
            if found:
                rates = [r["rate"] for r in found]
                lines.plot(rates, [r["p95"] for r in found], "o-", color=colours[server], label=f"{server} p95")
                lines.plot(rates, [r["p50"] for r in found], "o:", color=colours[server], label=f"{server} p50")
        lines.set_yscale("log")
        lines.set_xlabel("arrivals a second")
        lines.set_ylabel("ms")
        lines.legend(fontsize=8)
        for axis in (bars, lines):
            axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """One measurement, or the report of all."""
    if sys.argv[1:2] == ["peer"]:
        peer(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    if sys.argv[1:2] == ["peer-batch"]:
        peer_batch(*sys.argv[2:5])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measurements = {
        "dtypes": dtypes, "saturate": saturate, "latency": latency, "clients": many_clients, "abandon": abandon,
        "startup": startup,
    }  # fmt: skip
    parser.add_argument("command", choices=["prepare", *measurements, "report"])
    parser.add_argument("server", nargs="?", choices=SERVERS, default="xlm")
    parser.add_argument("--folder", type=Path, default=Path("runs/serving"))
    parser.add_argument("--model", choices=("mini", "base"), default="mini")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--dtypes", nargs="+")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--peers", type=Path, default=Path(sys.executable), help="the Python of infinity's venv")
    parser.add_argument("--inputs", type=int, default=1, help="texts a request")
    parser.add_argument("--clients", type=int, nargs="+", default=[32])
    parser.add_argument(
        "--rates", type=float, nargs="+", help="default: 50, 70, 90 %% of the best peer's saturation in --json"
    )
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--warm", type=float, default=30, help="seconds of `clients` before memory is looked at")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=Path, nargs="+", default=[], help="files, one text a line (before a tab)")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--extra", help="further arguments of the server")
    parser.add_argument("--json", type=Path, help="append the results here")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    if options.command == "prepare":
        prepare(options)
        return
    if options.command == "report":
        rows = [json.loads(line) for line in options.json.read_text("utf-8").splitlines()]
        print(table(rows))
        if options.table:
            options.table.write_text(table(rows), "utf-8")
        if options.plot:
            plot(rows, options.plot)
        return
    rows = measurements[options.command](options)
    if options.json:
        with options.json.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
