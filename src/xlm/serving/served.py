"""A model in service: its engine, whose rows run through the scheduler, and the threads that ask it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xlm.serving.errors import Refused
from xlm.serving.scheduler import Abandoned, Overloaded, Scheduler, Ticket, current_ticket, model_runner
from xlm.serving.settings import Settings

T = TypeVar("T")
_AT_ONCE = 4000
"""Characters of a request that are tokenized in the event loop, in about a millisecond."""


class Served:
    """One model under a name."""

    def __init__(self, name: str, engine: Any, settings: Settings) -> None:
        self.name, self.engine = name, engine
        run = model_runner(engine.model, engine.device)
        self.scheduler = Scheduler(run, settings.tokens_a_pack, settings.waiting_tokens)
        engine.run_with(self.scheduler.packs)


class Desk:
    """Where requests wait for a thread: tokenizing and answering happen there, computing in the scheduler's."""

    def __init__(self, models: list[Served], settings: Settings) -> None:
        self.models = {model.name: model for model in models}
        self.settings = settings
        self.pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="xlm-request")
        self.under_way = 0
        self.draining = False

    def find(self, name: str | None) -> Served:
        """The model of a request: by name, or the only (else the first) one."""
        if name is None or (name not in self.models and len(self.models) == 1 and name in ("", "default")):
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(self.models)
            raise Refused(404, f"model is {name!r}: this server has {known}", "model")
        return self.models[name]

    def check(self, texts: list[str], param: str) -> None:
        """Refuse too many or too long texts before anything is tokenized."""
        if len(texts) > self.settings.inputs:
            raise Refused(413, f"{param} has {len(texts):,} texts, the limit is {self.settings.inputs:,}", param)
        characters = sum(map(len, texts))
        if characters > self.settings.characters:
            raise Refused(
                413, f"{param} has {characters:,} characters, the limit is {self.settings.characters:,}", param
            )

    async def ask(self, scope: Any, call: Callable[[], T]) -> T:
        """Run ``call`` in a thread; give it up when the client goes or the time is over.

        Raises:
            Overloaded: too many requests already.
            Abandoned: given up.
        """
        with self._ticket(scope) as ticket:
            return await self._in_thread(scope, ticket, call)

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
            few = sum(len(item) if isinstance(item, str) else 0 for item in inputs) <= _AT_ONCE
            rows = tokenize() if few else await self._in_thread(scope, ticket, tokenize)
            if not rows:
                return np.zeros((0, engine.hidden_size), np.float32), []
            future = served.scheduler.vectors(rows, engine.pooling(pooling), ticket)
            found = await self._wait(scope, ticket, future)
        return engine.finished(found, normalize), [len(row) for row in rows]

    async def _in_thread(self, scope: Any, ticket: Ticket, call: Callable[[], T]) -> T:
        def work() -> T:
            if ticket.over:
                raise Abandoned("nobody waits for the answer any more")
            current_ticket.set(ticket)
            try:
                return call()
            finally:
                current_ticket.set(None)

        return await self._wait(scope, ticket, asyncio.get_running_loop().run_in_executor(self.pool, work))

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
        for model in self.models.values():
            model.scheduler.close()
        self.pool.shutdown(wait=False, cancel_futures=True)


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


def name_of(path_or_name: str | Path) -> str:
    """What a model is called in requests: a hub name as it is, a folder by its own name."""
    path = Path(path_or_name)
    return path.resolve().name if path.is_dir() else str(path_or_name)
