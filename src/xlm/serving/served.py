"""A model in service: its engine, whose rows run through the scheduler, and the threads that ask it."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xlm.errors import InputError
from xlm.pauses import asked
from xlm.serving.errors import Refused
from xlm.serving.settings import Settings
from xlm.serving.tickets import Abandoned, Overloaded, Ticket, current_ticket

T = TypeVar("T")
_AT_ONCE = 4000
"""Characters of a request that are tokenized in the event loop, in about a millisecond."""
_LANGUAGES = 16
"""How many languages are kept ready of a model that takes any name for one."""
_PACK, _PACK_GPU = 1024, 16_384
"""Tokens of one forward on a CPU, and on a GPU."""
_TRY_AGAIN = 2
"""Seconds after which it is worth asking a model again that is being loaded."""


class Served:
    """One model under a name."""

    def __init__(self, name: str, engine: Any, settings: Settings) -> None:
        # Where a model is, PyTorch is too; a server listens before.
        from xlm.serving.scheduler import Scheduler, model_runner

        self.name, self.engine = name, engine
        run = model_runner(engine.states)
        self.tokens_a_pack = settings.tokens_a_pack or (_PACK if engine.device.type == "cpu" else _PACK_GPU)
        self.scheduler = Scheduler(run, self.tokens_a_pack, settings.waiting_tokens)
        engine.run_with(self.scheduler.packs)
        if settings.plain_text:
            engine.plain_text = True
        self.writing = ThreadPoolExecutor(1, thread_name_prefix="xlm-writing")  # translations, one after the other
        self._speaking: dict[str, Served] = {}

    def speaking(self, lang: str | None) -> Served:
        """The same model for a request whose texts are in this language; None: the one it was loaded with.

        Raises:
            Refused: it does not know that language, or reads all alike.
        """
        if lang is None:
            return self
        found = self._speaking.get(lang)
        if found is None:
            found = copy.copy(self)
            try:
                found.engine = self.engine.speaking(lang)
            except InputError as error:
                raise Refused(422, str(error), "lang") from error
            if len(self._speaking) < max(_LANGUAGES, len(self.engine.languages)):
                self._speaking[lang] = found
        return found


class Desk:
    """Where requests wait for a thread: tokenizing and answering happen there, computing in the scheduler's.

    Args:
        names: of all models, also of those that are added later; the first is used where a request names none.
        settings: the limits.
    """

    def __init__(self, names: Sequence[str], settings: Settings) -> None:
        self.names = tuple(names)
        self.models: dict[str, Served] = {}
        self.settings = settings
        self.on_pack: Callable[[str, int, float], None] = lambda name, tokens, seconds: None
        self.pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="xlm-request")
        self.under_way = 0
        self.draining = False

    @property
    def loading(self) -> list[str]:
        """The models that are not there yet."""
        return [name for name in self.names if name not in self.models]

    def add(self, name: str, engine: Any) -> None:
        """Serve a loaded engine from now on, under one of the names."""
        served = Served(name, engine, self.settings)
        served.scheduler.on_pack = partial(self.on_pack, name)
        self.models[name] = served

    def find(self, name: str | None) -> Served:
        """The model of a request: by name, or the only (else the first) one.

        Raises:
            Refused: there is none of that name, or it is not loaded yet.
        """
        if name is None or (name not in self.names and len(self.names) == 1 and name in ("", "default")):
            name = self.names[0]
        if name not in self.names:
            raise Refused(404, f"model is {name[:200]!r}: this server has {', '.join(self.names)}", "model")
        if name not in self.models:
            raise Refused(503, f"{name} is still being loaded", retry_after=_TRY_AGAIN)
        return self.models[name]

    def count(self, items: Sequence[Any], param: str) -> None:
        """Refuse too many inputs, before they are looked at one by one."""
        if len(items) > self.settings.inputs:
            raise Refused(413, f"{param} has {len(items):,} texts, the limit is {self.settings.inputs:,}", param)

    def check(self, texts: Sequence[str | list[int]], param: str) -> None:
        """Refuse too many or too long texts, or lists of ids, before anything is tokenized."""
        self.count(texts, param)
        characters = sum(map(len, texts))
        if characters > self.settings.characters:
            raise Refused(
                413, f"{param} has {characters:,} characters, the limit is {self.settings.characters:,}", param
            )

    def check_answer(self, size: int, param: str) -> None:
        """Refuse what would be answered by more than this server's memory is for."""
        if size > self.settings.answer_bytes:
            raise Refused(
                413,
                f"{param}: the answer would take about {size:,} bytes, the limit is {self.settings.answer_bytes:,}: "
                "ask for less at once",
                param,
            )

    async def ask(self, scope: Any, call: Callable[[], T], pool: ThreadPoolExecutor | None = None) -> T:
        """Run ``call`` in a thread, of ``pool`` if it is given; give it up when the client goes or the time is over.

        Raises:
            Overloaded: too many requests already.
            Abandoned: given up.
        """
        with self._ticket(scope) as ticket:
            return await self._in_thread(scope, ticket, call, pool)

    async def vectors(
        self, scope: Any, served: Served, inputs: Sequence[Any], **options: Any
    ) -> tuple[NDArray[np.float32], list[int]]:
        """`Engine.embed`, without a thread that waits: vectors, and the tokens of every input.

        Raises:
            Overloaded, Abandoned, InputError: as in `ask` and `Engine.embed`.
        """
        engine = served.engine
        pooling, normalize = options.pop("pooling", None), options.pop("normalize", None)

        def tokenize() -> list[list[int]]:
            return engine.embedding_rows(inputs, **options)

        with self._ticket(scope) as ticket:
            # A few short texts are tokenized in less time than a thread needs to wake up.
            few = sum(map(len, inputs)) <= _AT_ONCE
            rows = tokenize() if few else await self._in_thread(scope, ticket, tokenize)
            if not rows:
                return np.zeros((0, engine.hidden_size), np.float32), []
            future = served.scheduler.vectors(rows, engine.pooling(pooling), ticket, engine.lang_id)
            found = await self._wait(scope, ticket, future)
        return engine.finished(found, normalize), [len(row) for row in rows]

    async def _in_thread(
        self, scope: Any, ticket: Ticket, call: Callable[[], T], pool: ThreadPoolExecutor | None = None
    ) -> T:
        def work() -> T:
            if ticket.over:
                raise Abandoned("nobody waits for the answer any more")
            current_ticket.set(ticket)
            try:
                with asked(still_wanted):
                    return call()
            finally:
                current_ticket.set(None)

        return await self._wait(scope, ticket, asyncio.get_running_loop().run_in_executor(pool or self.pool, work))

    async def _wait(self, scope: Any, ticket: Ticket, future: asyncio.Future[T]) -> T:
        """The future's result, unless the client goes or its time is over before."""
        left = ticket.deadline - time.monotonic()
        await asyncio.wait({future, scope["xlm.gone"]}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            ticket.cancel()
            future.cancel()
            future.add_done_callback(_forget)
            raise Abandoned("the client has gone, or the time for an answer is over")
        return future.result()

    @contextmanager
    def _ticket(self, scope: Any) -> Iterator[Ticket]:
        if self.under_way >= self.settings.requests:
            raise Overloaded(f"{self.under_way:,} requests are under way, the limit is {self.settings.requests:,}", 1)
        ticket = Ticket(self.settings.answer_seconds)
        self.under_way += 1
        try:
            yield ticket
        finally:
            self.under_way -= 1
            scope["xlm.tokens"] = ticket.tokens

    def close(self) -> None:
        """End the threads."""
        for model in list(self.models.values()):
            model.scheduler.close()
        for pool in (self.pool, *(model.writing for model in list(self.models.values()))):
            pool.shutdown(wait=False, cancel_futures=True)


def still_wanted(done: int = 0) -> None:
    """Give up a long answer between two of its parts when nobody waits for it any more.

    Raises:
        Abandoned: the client has gone, or its time is over.
    """
    ticket = current_ticket.get()
    if ticket is not None and ticket.over:
        raise Abandoned(f"nobody waits for the answer any more; {done} texts were done")


def _forget(future: asyncio.Future[Any]) -> None:
    """Take the outcome of an abandoned future, so that nothing complains of it."""
    if not future.cancelled():
        future.exception()
