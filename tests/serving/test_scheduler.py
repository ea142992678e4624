"""Who is computed next: short texts pass long requests, and no stream of short ones keeps a long one waiting for ever."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from xlm.serving.scheduler import Scheduler
from xlm.serving.tickets import Abandoned, Died, Overloaded, Ticket, current_ticket


class Gate:
    """A model that computes a pack whenever it is let, and remembers the rows' first ids."""

    def __init__(self) -> None:
        self.packs: list[list[int]] = []
        self.started, self.let = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, rows: list[Sequence[int]], languages: list[int | None]) -> torch.Tensor:
        self.packs.append([row[0] for row in rows])
        self.started.release()
        self.let.acquire()
        return torch.zeros(sum(map(len, rows)), 1)


def ask(scheduler: Scheduler, rows: list[list[int]], ticket: Ticket | None = None) -> None:
    """Put rows into the queue now; a thread waits for them."""
    ticket = ticket or Ticket()

    def wait() -> None:
        current_ticket.set(ticket)
        try:
            list(scheduler.packs(rows))
        except Abandoned:
            return

    threading.Thread(target=wait, daemon=True).start()
    end = time.monotonic() + 10
    while not ticket.tokens and time.monotonic() < end:
        time.sleep(0.001)


@pytest.fixture
def model() -> Iterator[tuple[Gate, Scheduler]]:
    gate = Gate()
    scheduler = Scheduler(gate, tokens_a_pack=100, waiting_tokens=3000)
    yield gate, scheduler
    for _ in range(1000):
        gate.let.release()
    scheduler.close()


def test_a_long_request_is_reached_however_many_short_ones_arrive(model: tuple[Gate, Scheduler]) -> None:
    gate, scheduler = model
    for _ in range(4):
        ask(scheduler, [[1] * 50])
    gate.started.acquire()  # the first pack is at work
    ask(scheduler, [[2] * 90])
    for _ in range(40):  # always more short ones than a pack takes
        ask(scheduler, [[1] * 50])
        ask(scheduler, [[1] * 50])
        gate.let.release()
        gate.started.acquire()
        if any(2 in pack for pack in gate.packs):
            break
    assert any(2 in pack for pack in gate.packs)


def test_a_short_text_passes_a_long_request(model: tuple[Gate, Scheduler]) -> None:
    gate, scheduler = model
    ask(scheduler, [[2] * 90] * 20)
    gate.started.acquire()
    ask(scheduler, [[1] * 50])
    for _ in range(2):
        gate.let.release()
        gate.started.acquire()
    assert any(1 in pack for pack in gate.packs[1:3])


def test_a_failure_behind_the_forward_is_one_requests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pools the states, and hands them out, may fail as the model may: its thread goes on."""
    from xlm.serving import scheduler as module

    real = module.pool_rows

    def broken(states: Any, lengths: Any, pooling: str) -> Any:
        if 13 in lengths:
            raise MemoryError("no room for these")
        return real(states, lengths, pooling)

    monkeypatch.setattr(module, "pool_rows", broken)
    scheduler = Scheduler(lambda rows, languages: torch.ones(sum(map(len, rows)), 4), tokens_a_pack=1000)

    async def ask() -> list[Any]:
        asked = [[[1] * 5], [[1] * 13], [[1] * 7, [1] * 3]]
        futures = [scheduler.vectors(rows, "mean", Ticket()) for rows in asked]
        return await asyncio.gather(*futures, return_exceptions=True)

    for _ in range(2):
        first, second, third = asyncio.run(ask())
        assert isinstance(second, MemoryError) and scheduler.alive
        assert first.shape == (1, 4) and third.shape == (2, 4) and (third == 1).all()
    monkeypatch.setattr(module._Pooled, "take", lambda *_: 1 / 0)
    assert all(isinstance(found, ZeroDivisionError) for found in asyncio.run(ask())[::2]) and scheduler.alive
    scheduler.close()


def test_halves_have_the_memory_of_what_failed() -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def small(rows: list[Sequence[int]], languages: list[int | None]) -> torch.Tensor:
        assert all(one() is None for one in made)
        states = torch.ones(sum(map(len, rows)), 4)
        made.append(weakref.ref(states))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states.clone()

    scheduler = Scheduler(small, tokens_a_pack=1000)
    assert sum(len(members) for members, *_ in scheduler.packs([[1] * 5, [1] * 3, [1]])) == 3
    assert len(made) == 5
    scheduler.close()


def test_a_gpu_that_is_lost_ends_the_thread() -> None:
    """Every later request would fail, and /health would not tell."""

    def lost(rows: list[Sequence[int]], languages: list[int | None]) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    scheduler = Scheduler(lost, tokens_a_pack=1000)
    for _ in range(2):
        with pytest.raises(Died, match="AcceleratorError"):
            list(scheduler.packs([[1] * 5, [1] * 3]))
    scheduler.close()
    assert not scheduler.alive

    def full(rows: list[Sequence[int]], languages: list[int | None]) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: out of memory")

    scheduler = Scheduler(full, tokens_a_pack=1000)
    with pytest.raises(torch.AcceleratorError):
        list(scheduler.packs([[1] * 5, [1] * 3]))
    assert scheduler.alive
    scheduler.close()


def test_a_pack_has_no_more_rows_than_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.serving.scheduler.ROWS_A_PACK", 2)
    packs: list[int] = []

    def run(rows: list[Sequence[int]], languages: list[int | None]) -> torch.Tensor:
        packs.append(len(rows))
        return torch.ones(sum(map(len, rows)), 4)

    scheduler = Scheduler(run, tokens_a_pack=1000)
    assert sum(len(members) for members, *_ in scheduler.packs([[1]] * 5)) == 5
    assert packs == [2, 2, 1]
    scheduler.close()


def test_what_nobody_waits_for_makes_room(model: tuple[Gate, Scheduler]) -> None:
    gate, scheduler = model
    ask(scheduler, [[1] * 50])
    gate.started.acquire()
    left = Ticket()
    ask(scheduler, [[2] * 90] * 30, left)
    with pytest.raises(Overloaded):
        next(scheduler.packs([[3] * 500]))
    left.cancel()
    ask(scheduler, [[3] * 500])
    end = time.monotonic() + 10
    while scheduler.waiting != 500 and time.monotonic() < end:
        time.sleep(0.001)
    assert scheduler.waiting == 500 and scheduler.dropped == 2700
