"""Counters of a server in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from xlm.serving.served import Desk


class Metrics:
    """What is counted; every application has its own."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("xlm_requests", "Finished requests.", ["method", "route", "status"], registry=registry)
        self._seconds = Histogram(
            "xlm_request_seconds", "Time from the first byte to the last.", ["route"], registry=registry,
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120),
        )  # fmt: skip
        self._packs = Histogram(
            "xlm_pack_tokens", "Tokens of a forward.", ["model"], registry=registry,
            buckets=(16, 64, 256, 512, 1024, 2048, 4096, 16384),
        )  # fmt: skip
        self._pack_seconds = Counter("xlm_pack_seconds", "Time in forwards.", ["model"], registry=registry)
        self._waiting = Gauge("xlm_waiting_tokens", "Tokens that wait.", ["model"], registry=registry)
        self._tokens = Gauge("xlm_computed_tokens", "Tokens computed since the start.", ["model"], registry=registry)
        self._dropped = Gauge("xlm_dropped_tokens", "Tokens not computed: nobody waited.", ["model"], registry=registry)
        self._under_way = Gauge("xlm_requests_under_way", "Requests not answered yet.", registry=registry)
        desk.on_pack = self._count_pack

    def _count_pack(self, model: str, tokens: int, seconds: float) -> None:
        self._packs.labels(model).observe(tokens)
        self._pack_seconds.labels(model).inc(seconds)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a finished request; 499 is a client that left."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it, as of now."""
        for served in list(self._desk.models.values()):
            self._waiting.labels(served.name).set(served.scheduler.waiting)
            self._tokens.labels(served.name).set(served.scheduler.computed)
            self._dropped.labels(served.name).set(served.scheduler.dropped)
        self._under_way.set(self._desk.under_way)
        return generate_latest(self._registry)
