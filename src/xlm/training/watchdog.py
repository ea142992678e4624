"""A thread that notices when a run stands still, and writes down where."""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable
from pathlib import Path

FACTOR = 5.0  # how much longer than the slowest stretch so far counts as standing still


class Watchdog:
    """Call ``at`` whenever something gets done; a context manager that watches until it is left.

    After ``seconds`` without a call, or five times the slowest stretch between two calls where that is longer, ``tell``
    gets one line that names the place, and the stacks of all threads go to ``folder/stalled-rank-N.txt``. The run is left
    alone: it may only be slow. ``seconds`` 0 watches nothing.
    """

    def __init__(self, seconds: float, folder: Path, rank: int, tell: Callable[[str], None]) -> None:
        self._seconds, self._path, self._tell = seconds, folder / f"stalled-rank-{rank}.txt", tell
        self._place, self._since, self._slowest, self._told = "the start", time.monotonic(), 0.0, False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def at(self, place: str) -> None:
        """What is being done from now on."""
        now = time.monotonic()
        if not self._told:  # a stall that ended says nothing about how long things take
            self._slowest = max(self._slowest, now - self._since)
        self._place, self._since, self._told = place, now, False

    def _watch(self) -> None:
        while not self._over.wait(min(self._seconds / 10, 1.0)):
            still = time.monotonic() - self._since
            if not self._told and still > max(self._seconds, FACTOR * self._slowest):
                self._told = True
                self._report(still)

    def _report(self, still: float) -> None:
        where = f"the stacks of all threads are in {self._path}"
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(f"{time.strftime('%F %T')}: {still:.0f} s at {self._place}\n")
                stream.flush()
                faulthandler.dump_traceback(stream, all_threads=True)
        except OSError as error:
            where = f"{self._path} cannot be written: {error.strerror or error}"
        self._tell(f"[yellow]no progress for {still:.0f} s at {self._place}; {where}")

    def __enter__(self) -> Watchdog:
        self._since = time.monotonic()
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
