"""Run the stages of a build on one machine: in this process or in several, each task once, however often it is stopped."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

from xlm import atomic, errors
from xlm.errors import DataError, XLMError

Tell = Callable[[str, int, int], None]
"""Called with a stage's name, the tasks done and all its tasks."""


def run_stage(name: str, pipeline: list[Any], tasks: int, workers: int, work: Path, tell: Tell) -> None:
    """Run what is left of a stage.

    Raises the ``XLMError`` of the first task that fails, ``DataError`` naming the stage when the system ends a worker.
    """
    folder = work / "done"
    folder.mkdir(parents=True, exist_ok=True)
    marks = {rank: folder / f"{name.replace(' ', '-')}-{rank:05d}-of-{tasks:05d}" for rank in range(tasks)}
    left = [rank for rank, mark in marks.items() if not mark.is_file()]
    tell(name, tasks - len(left), tasks)
    if not left:
        return
    if min(workers, len(left)) == 1:
        for count, rank in enumerate(left, 1):
            _raise(_run_task(pipeline, rank, tasks, marks[rank]))
            tell(name, tasks - len(left) + count, tasks)
        return
    # Fresh processes: a fork would inherit the threads of tokenizers and the state of their locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(left)), mp_context=context, initializer=_end_with_parent) as pool:
        futures = {pool.submit(_run_task, pipeline, rank, tasks, marks[rank]): rank for rank in left}
        try:
            for count, future in enumerate(as_completed(futures), 1):
                _raise(future.result())
                tell(name, tasks - len(left) + count, tasks)
        except BrokenProcessPool as error:
            raise DataError(
                f"stage {name!r}: a worker process was ended from outside (out of memory?); finished tasks are kept: "
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


def _run_task(pipeline: list[Any], rank: int, tasks: int, mark: Path) -> tuple[str, str] | None:
    """Run one task; an error comes back as the name of its class and its message, which any process can send."""
    be_quiet()
    with suppress(ValueError, OSError, ImportError):
        _allow_many_files()
    try:
        stream: Any = None
        for step in pipeline:
            stream = step(stream, rank, tasks)
        if stream is not None:
            deque(stream, maxlen=0)
        atomic.write_text(mark, "")
    except XLMError as error:
        return type(error).__name__, str(error)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return "OutputError", f"{place}{error.strerror or error}; finished tasks are kept, run the same command again"
    return None


def _raise(failure: tuple[str, str] | None) -> None:
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
