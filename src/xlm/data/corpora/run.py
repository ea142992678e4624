"""Stages of a build: their tasks, each run once however often it is stopped, and the executor for one machine."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlm import atomic, errors
from xlm.errors import ConfigError, DataError, XLMError

Tell = Callable[[str, int, int], None]
"""Called with a stage's name, the tasks done and all its tasks."""
Failure = tuple[str, str]
"""The name of an error's class and its message, which any process can send and any file hold."""


@dataclass(frozen=True)
class Stage:
    """A pipeline cut into ``tasks``. ``work/done`` has an empty file for each that is finished, whoever ran it."""

    name: str
    pipeline: list[Any]
    tasks: int
    work: Path

    @property
    def key(self) -> str:
        """The name as files have it."""
        return self.name.replace(" ", "-")

    def mark(self, rank: int) -> Path:
        """The file that says that a task is finished."""
        return self.work / "done" / f"{self.key}-{rank:05d}-of-{self.tasks:05d}"

    def reason(self, rank: int) -> Path:
        """The file that says why a task failed elsewhere."""
        return self.work / "failed" / f"{self.mark(rank).name}.json"

    def left(self) -> list[int]:
        """The tasks that are not finished."""
        (self.work / "done").mkdir(parents=True, exist_ok=True)
        done = {entry.name for entry in os.scandir(self.work / "done")}
        return [rank for rank in range(self.tasks) if self.mark(rank).name not in done]

    def run(self, rank: int) -> Failure | None:
        """Run one task; what went wrong that has a name comes back."""
        be_quiet()
        with suppress(ValueError, OSError, ImportError):
            _allow_many_files()
        try:
            stream: Any = None
            for step in self.pipeline:
                stream = step(stream, rank, self.tasks)
            if stream is not None:
                deque(stream, maxlen=0)
            self.mark(rank).parent.mkdir(exist_ok=True)
            atomic.write_text(self.mark(rank), "")
        except XLMError as error:
            return type(error).__name__, str(error)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            return (
                "OutputError",
                f"{place}{error.strerror or error}; finished tasks are kept, run the same command again",
            )
        return None

    def run_and_report(self, rank: int) -> None:
        """Run one task where nobody hears what it returns: its failure is written to :meth:`reason`, and raised."""
        failure: Failure | None = None
        try:
            failure = self.run(rank)
        except Exception as error:
            failure = "DataError", f"stage {self.name!r}, task {rank}: {type(error).__name__}: {error}"
            raise
        finally:
            if failure is not None:
                self.reason(rank).parent.mkdir(exist_ok=True)
                atomic.write_json(self.reason(rank), failure)
        raise_failure(failure)

    def forget_failures(self) -> None:
        """Before the tasks that are left are tried again."""
        for rank in self.left():
            self.reason(rank).unlink(missing_ok=True)

    def settle(self, where: str) -> None:
        """When nothing runs any more: raise what went wrong, if anything did.

        Raises:
            XLMError: as the first failed task wrote it.
            DataError: tasks ended without writing why; ``where`` names the place to look.
        """
        left = self.left()
        for rank in left:
            if self.reason(rank).is_file():
                raise_failure(json.loads(self.reason(rank).read_text("utf-8")))
        if left:
            raise DataError(
                f"stage {self.name!r}: {len(left)} of {self.tasks} tasks ended without a reason, the first is task "
                f"{left[0]} ({where}); finished tasks are kept, run the same command again"
            )


RunStage = Callable[[Stage, Tell], None]
"""Runs what is left of a stage, to its end; raises the ``XLMError`` of a task that fails."""
Executor = AbstractContextManager[RunStage]


@contextmanager
def here(workers: int = 1) -> Iterator[RunStage]:
    """The executor for this machine: in this process, or in so many others."""

    def run(stage: Stage, tell: Tell) -> None:
        run_here(stage, workers, tell)

    yield run


def refuse_others(executor: str, settings: Mapping[str, str], known: set[str]) -> None:
    """Raise ``ConfigError`` for settings that an executor does not have."""
    if others := set(settings) - known:
        takes = f"takes {', '.join(sorted(known))}" if known else "takes no settings"
        raise ConfigError(f"executor {executor} {takes}, not {', '.join(sorted(others))}")


def run_here(stage: Stage, workers: int, tell: Tell) -> None:
    """Run what is left of a stage.

    Raises the ``XLMError`` of the first task that fails, ``DataError`` naming the stage when the system ends a worker.
    """
    left = stage.left()
    tell(stage.name, stage.tasks - len(left), stage.tasks)
    if not left:
        return
    if min(workers, len(left)) == 1:
        for count, rank in enumerate(left, 1):
            raise_failure(stage.run(rank))
            tell(stage.name, stage.tasks - len(left) + count, stage.tasks)
        return
    # Fresh processes: a fork would inherit the threads of tokenizers and the state of their locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(left)), mp_context=context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(stage.run, rank) for rank in left]
        try:
            for count, future in enumerate(as_completed(futures), 1):
                raise_failure(future.result())
                tell(stage.name, stage.tasks - len(left) + count, stage.tasks)
        except BrokenProcessPool as error:
            raise DataError(
                f"stage {stage.name!r}: a worker process was ended from outside (out of memory?); finished tasks are kept: "
                "run the same command again, with fewer workers or smaller shards"
            ) from error
        finally:
            for future in futures:
                future.cancel()


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on writing beside the build that takes over."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def raise_failure(failure: Failure | None) -> None:
    """Raise what a task said, if it said something."""
    if failure is None:
        return
    name, message = failure
    if name == "MissingExtraError":
        raise errors.ConfigError(message)
    raise getattr(errors, name, errors.DataError)(message)


def be_quiet() -> None:
    """Keep datatrove's log off the terminal: what a build says comes from its caller."""
    from loguru import logger

    logger.disable("datatrove")


def _allow_many_files() -> None:
    """Duplicates are found by reading all signature files side by side."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
