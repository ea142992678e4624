"""Who is computed next: rows of all waiting requests, packed by a budget of tokens, one forward after the other.

Requests share the model by virtual time (start-time fair queueing, Goyal et al. 1996): the k-th row of a request stands
where the request arrived plus the tokens of its rows before it, so one short text passes a request of ten thousand. The time
goes on by what is computed over the number of requests that share it, so what waits is reached however many short texts
arrive. There is no padding and no waiting for a batch to fill: whatever waits when the model is free runs, up to the budget.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xlm.backends.torch.reductions import pool_rows
from xlm.batches.batch import Batch
from xlm.batches.packing import pack
from xlm.inference.memory import ROWS_A_PACK, empty_caches, is_short
from xlm.serving.tickets import Abandoned, Died, Overloaded, Ticket, current_ticket
from xlm.tasks.retrieve import Floats

log = logging.getLogger(__name__)

Pack = tuple[list[int], list[int], Tensor]
"""Indices of rows, their lengths, their states (tokens, hidden) end to end."""
Run = Callable[[list[Sequence[int]], list[int | None]], Tensor]
"""A model as `Scheduler` wants it."""


class _Job:
    """The rows that one call of a request waits for, and who takes their states."""

    def __init__(self, rows: Sequence[Sequence[int]], ticket: Ticket, language: int | None) -> None:
        self.rows, self.ticket, self.language = rows, ticket, language
        self.queued = len(rows)
        self.failed = False


class _Streamed(_Job):
    """States go, pack by pack, to a thread that waits."""

    def __init__(self, rows: Sequence[Sequence[int]], ticket: Ticket, language: int | None) -> None:
        super().__init__(rows, ticket, language)
        self.done: SimpleQueue[Pack | BaseException] = SimpleQueue()


class _Pooled(_Job):
    """One vector a row goes to a future of an event loop, when the last is there: no thread waits for it."""

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        ticket: Ticket,
        language: int | None,
        pooling: str,
        future: asyncio.Future[Floats],
    ) -> None:
        super().__init__(rows, ticket, language)
        self.pooling, self.future = pooling, future
        self.left = len(rows)
        self.found: Floats | None = None
        self.error: BaseException | None = None

    def take(self, indices: list[int], vectors: Floats) -> bool:
        """Keep the vectors (rows, hidden) of rows; whether they were the last."""
        if self.found is None:
            self.found = np.empty((len(self.rows), vectors.shape[1]), np.float32)
        self.found[indices] = vectors
        self.left -= len(indices)
        return not self.left

    def resolve(self) -> None:
        """Answer, in the event loop's thread."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            assert self.found is not None
            self.future.set_result(self.found)


class Scheduler:
    """A model's only user: a thread that runs packs of rows.

    Args:
        run: the model: rows of ids, and the language of each -> states (tokens, hidden) of all rows end to end, in their
            order.
        tokens_a_pack: the budget of one forward; a longer row runs alone.
        waiting_tokens: how many tokens may wait.
    """

    def __init__(self, run: Run, tokens_a_pack: int = 1024, waiting_tokens: int = 400_000) -> None:
        self._run, self._budget, self._limit = run, tokens_a_pack, waiting_tokens
        self._heap: list[tuple[float, int, int, _Job]] = []
        self._wake = threading.Condition()
        self._virtual, self._count, self._requests, self._closing = 0.0, 0, 0, False
        self._dead: Died | None = None
        self.waiting = 0
        self.computed = 0
        self.dropped = 0
        self.rate = 1000.0
        """Tokens a second, a moving average."""
        self.on_pack: Callable[[int, float], None] = lambda tokens, seconds: None
        self._thread = threading.Thread(target=self._serve, name="xlm-model", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """The thread runs."""
        return self._thread.is_alive()

    def packs(self, rows: Sequence[Sequence[int]], language: int | None = None) -> Iterator[Pack]:
        """What `Engine` calls instead of running rows itself: yields every row once, as it is ready.

        Raises:
            Overloaded: more tokens would wait than may.
            Abandoned: the request's ticket is over.
        """
        job = _Streamed(rows, current_ticket.get() or Ticket(), language)
        self._put(job)
        left = len(rows)
        while left:
            found = job.done.get()
            if isinstance(found, BaseException):
                raise found
            left -= len(found[0])
            yield found

    def vectors(
        self, rows: Sequence[Sequence[int]], pooling: str, ticket: Ticket, language: int | None = None
    ) -> asyncio.Future[Floats]:
        """One vector a row, (rows, hidden) float32, pooled in the model's thread; called in an event loop.

        The future fails with Abandoned when the ticket is over before a row's turn, and as the model does.

        Raises:
            Overloaded: more tokens would wait than may.
        """
        future: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()
        self._put(_Pooled(rows, ticket, language, pooling, future))
        return future

    def _put(self, job: _Job) -> None:
        rows = job.rows
        tokens = sum(map(len, rows))
        job.ticket.tokens += tokens
        with self._wake:
            if self._dead is not None:
                raise self._dead
            if self._closing:
                raise Overloaded("the server is shutting down", 5)
            if self.waiting and self.waiting + tokens > self._limit:
                self._forget_abandoned()
            if self.waiting and self.waiting + tokens > self._limit:
                raise Overloaded(
                    f"{self.waiting:,} tokens wait for the model, {tokens:,} more would exceed the limit of {self._limit:,}",
                    self.waiting / self.rate,
                )
            place = self._virtual
            for index, row in enumerate(rows):
                place += len(row)
                self._count += 1
                heapq.heappush(self._heap, (place, self._count, index, job))
            self.waiting += tokens
            self._requests += bool(rows)
            self._wake.notify()

    def close(self, seconds: float = 10.0) -> None:
        """Finish what waits, then end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(seconds)

    def _take(self) -> list[tuple[int, _Job]]:
        """The next rows, their budget's worth, longest first; empty when closing."""
        with self._wake:
            while True:
                chosen: list[tuple[int, _Job]] = []
                tokens, sharing = 0, self._requests
                while self._heap:
                    _, _, index, job = self._heap[0]
                    length = len(job.rows[index])
                    if job.failed or job.ticket.over:
                        heapq.heappop(self._heap)
                        self._drop(job, length)
                        continue
                    if chosen and (tokens + length > self._budget or len(chosen) == ROWS_A_PACK):
                        break
                    heapq.heappop(self._heap)
                    self._unqueue(job, length)
                    tokens += length
                    chosen.append((index, job))
                if chosen:
                    self._virtual += tokens / sharing
                    return sorted(chosen, key=lambda item: -len(item[1].rows[item[0]]))
                if self._closing:
                    return []
                self._wake.wait()

    def _unqueue(self, job: _Job, length: int) -> None:
        self.waiting -= length
        job.queued -= 1
        self._requests -= not job.queued

    def _drop(self, job: _Job, length: int) -> None:
        """A row that nobody waits for, which has left the queue."""
        self._unqueue(job, length)
        self.dropped += length
        _fail(job, Abandoned("nobody waits for the answer any more"))

    def _forget_abandoned(self) -> None:
        """Take all rows out that nobody waits for, wherever they stand."""
        kept = []
        for entry in self._heap:
            job = entry[3]
            if job.failed or job.ticket.over:
                self._drop(job, len(job.rows[entry[2]]))
            else:
                kept.append(entry)
        heapq.heapify(kept)
        self._heap = kept

    def _serve(self) -> None:
        chosen: list[tuple[int, _Job]] = []
        try:
            while chosen := self._take():
                started = time.monotonic()
                self._compute(chosen)
                tokens = sum(len(job.rows[index]) for index, job in chosen)
                seconds = max(time.monotonic() - started, 1e-6)
                self.computed += tokens
                self.rate += 0.1 * (tokens / seconds - self.rate)
                self.on_pack(tokens, seconds)
        except BaseException as error:  # the thread ends: /health says so, and nobody waits for it
            log.exception("the model's thread has died")
            with self._wake:
                self._dead = Died(f"the model's thread has died ({type(error).__name__}): the server must be restarted")
                waiting, self._heap = self._heap, []
                self.waiting = 0
            for job in {id(job): job for job in [*(j for _, j in chosen), *(entry[3] for entry in waiting)]}.values():
                _fail(job, self._dead)

    def _compute(self, chosen: list[tuple[int, _Job]]) -> None:
        """Run rows and hand them out; when that fails, run halves, so that one bad row fails alone.

        Raises:
            torch.AcceleratorError: the GPU is lost to this process: whatever comes next would fail.
        """
        try:
            portions = self._portions(chosen)
        except Exception as error:
            if isinstance(error, torch.AcceleratorError) and not is_short(error):
                raise
            if len(chosen) == 1:
                log.warning("a row of %d tokens failed: %s", len(chosen[0][1].rows[chosen[0][0]]), type(error).__name__)
                _fail(chosen[0][1], error)
                return
        else:
            self._hand_out(portions)
            return
        empty_caches()  # outside the handler, whose error held on to what was made
        middle = len(chosen) // 2
        self._compute(chosen[:middle])
        self._compute(chosen[middle:])

    @torch.inference_mode()
    def _portions(self, chosen: list[tuple[int, _Job]]) -> list[tuple[_Job, list[int], Any]]:
        """What each job gets of rows that are run now."""
        states = self._run([job.rows[index] for index, job in chosen], [job.language for _, job in chosen])
        return _portions(chosen, states)

    @staticmethod
    def _hand_out(portions: list[tuple[_Job, list[int], Any]]) -> None:
        """Every job gets its rows; finished vectors go to their event loop in one call."""
        finished: dict[asyncio.AbstractEventLoop, list[_Pooled]] = {}
        for job, indices, portion in portions:
            if isinstance(job, _Pooled):
                try:
                    done = job.take(indices, portion)
                except Exception as error:  # no memory for its vectors, say: the others have theirs
                    _fail(job, error)
                    continue
                if done:
                    finished.setdefault(job.future.get_loop(), []).append(job)
            elif isinstance(job, _Streamed):
                job.done.put((indices, *portion))
        for loop, jobs in finished.items():
            _tell(loop, jobs)


def _portions(chosen: list[tuple[int, _Job]], states: Tensor) -> list[tuple[_Job, list[int], Any]]:
    """What each job gets of a pack: the indices of its rows, and their vectors, or their lengths and states."""
    lengths = [len(job.rows[index]) for index, job in chosen]
    members: dict[_Job, list[int]] = {}
    for at, (_, job) in enumerate(chosen):
        members.setdefault(job, []).append(at)
    pooled: dict[str, Floats] = {}
    parts: Sequence[Tensor] | None = None
    found: list[tuple[_Job, list[int], Any]] = []
    for job, places in members.items():
        indices = [chosen[at][0] for at in places]
        if isinstance(job, _Pooled):
            if job.pooling not in pooled:
                pooled[job.pooling] = pool_rows(states, lengths, job.pooling).cpu().numpy()
            found.append((job, indices, pooled[job.pooling][places]))
        else:
            parts = parts or states.split(lengths)
            found.append((job, indices, ([lengths[at] for at in places], torch.cat([parts[at] for at in places]))))
    return found


def _fail(job: _Job, error: BaseException) -> None:
    if job.failed:
        return
    job.failed = True
    if isinstance(job, _Pooled):
        job.error = error
        _tell(job.future.get_loop(), [job])
    elif isinstance(job, _Streamed):
        job.done.put(error)


def _tell(loop: asyncio.AbstractEventLoop, jobs: list[_Pooled]) -> None:
    def resolve() -> None:
        for job in jobs:
            job.resolve()

    if not loop.is_closed():
        loop.call_soon_threadsafe(resolve)


def model_runner(states: Callable[[Batch], Tensor]) -> Run:
    """The model as `Scheduler` wants it, of what gives the states (tokens, hidden) of a packed batch."""

    def forward(rows: list[Sequence[int]], languages: list[int | None]) -> Tensor:
        ids, lengths = pack([np.asarray(row) for row in rows])
        spoken = None
        if languages[0] is not None:
            spoken = torch.from_numpy(np.repeat(np.asarray(languages, np.int64), lengths))
        # On the host, where the model checks them.
        return states(Batch.packed(torch.from_numpy(ids), lengths, languages=spoken))

    def run(rows: list[Sequence[int]], languages: list[int | None]) -> Tensor:
        groups = [[n for n, found in enumerate(languages) if (found is None) == silent] for silent in (True, False)]
        if not all(groups):
            return forward(rows, languages)
        # Rows without a language have no row of the language table, not one of zeros: they run apart.
        parts: dict[int, Tensor] = {}
        for members in groups:
            made = forward([rows[n] for n in members], [languages[n] for n in members])
            parts |= dict(zip(members, made.split([len(rows[n]) for n in members]), strict=True))
        return torch.cat([parts[n] for n in range(len(rows))])

    return run
