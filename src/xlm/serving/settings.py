"""What a server allows: every limit in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass, fields

from xlm.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """Limits and times of a server.

    Attributes:
        tokens_a_pack: tokens of one forward; small ones answer sooner, large ones are a little more efficient. None: 1,024
            on a CPU, 16,384 on a GPU, which fewer do not keep busy.
        waiting_tokens: tokens that may wait for a model; a request that would exceed it gets 429.
        requests: requests that are worked on or wait for a thread; more get 429.
        threads: requests tokenized and answered at once.
        inputs: texts in one request (413 above).
        characters: of all texts of a request (413 above), checked before anything is tokenized.
        body_bytes: of a request's body, after decompression (413 above, while reading).
        bodies_bytes: of the bodies of all requests together, but for the first 64 KiB of each (429 above).
        answer_bytes: that an answer may take in memory, by an estimate before anything is computed (413 above).
        body_seconds: in which a request's body must arrive (408 after).
        answer_seconds: after which a request is given up (504); what of it waits is not computed.
        send_seconds: in which a client must take the next part of an answer; its connection is closed after.
        drain_seconds: that SIGTERM gives the requests under way.
        api_keys: one of them must be sent as ``Authorization: Bearer``; none: open to all.
        plain_text: what looks like a special token in a text (``<mask>``, ``</s>``) is read as its characters, but for
            the masks of ``/fill-mask``: texts of strangers cannot end a row or begin another.
        open_metrics: ``/metrics``, which tells no texts, needs no key: most scrapers of Prometheus send none.
    """

    tokens_a_pack: int | None = None
    waiting_tokens: int = 400_000
    requests: int = 2048
    threads: int = 32
    inputs: int = 2048
    characters: int = 4_000_000
    body_bytes: int = 16_000_000
    bodies_bytes: int = 256_000_000
    answer_bytes: int = 256_000_000
    body_seconds: float = 20.0
    answer_seconds: float = 120.0
    send_seconds: float = 30.0
    drain_seconds: float = 30.0
    api_keys: tuple[str, ...] = ()
    plain_text: bool = True
    open_metrics: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "api_keys":
                if any(not key.strip() for key in value):
                    raise ConfigError("api_keys: a key is empty")
            elif value is not None and not isinstance(value, bool) and value <= 0:
                raise ConfigError(f"{field.name} is {value}: it must be above 0")
