"""Run the stages of a build on a cluster, through datatrove's executors for Slurm and Ray.

The process that builds stays and goes from stage to stage: how many tasks the next one has is known when the one before
has run, so a corpus has the same shards wherever it was made. Stopped, it leaves the jobs it submitted alone, and the same
command waits for them again. All machines must see the corpus folder, the inputs and the vocabulary at the same paths.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datatrove.executor import RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from xlm import atomic
from xlm.data.corpora.run import RunStage, Stage, Tell, refuse_others
from xlm.errors import ConfigError, MissingExtraError

_TAKEN = {"array", "dependency", "export", "wait", "wrap"}
_LATE = 30.0
"""Seconds that a file of another machine may take to be seen here, after its job has ended."""
_EVERY = 5.0
"""Seconds between two looks at how far a stage is."""


class _Task(PipelineStep):
    """A task of a stage as the one step of a datatrove pipeline."""

    type, name = "stage", "of a corpus"

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Do it, unless it was done before."""
        if not self._stage.mark(rank).is_file():
            self._stage.run_and_report(rank)


# ---- Slurm -----------------------------------------------------------------------------------------------------------
class _Slurm(SlurmPipelineExecutor):
    """Without its description and its sums of counts: the ledgers of a build have them, by language."""

    def save_executor_as_json(self, indent: int = 4) -> None:
        """Not written."""

    def launch_merge_stats(self) -> None:
        """Not launched."""


@contextmanager
def on_slurm(settings: Mapping[str, str], workers: int | None = None, every: float = _EVERY) -> Iterator[RunStage]:
    """The executor for a Slurm cluster: a job array a stage.

    Raises:
        ConfigError: no ``partition`` or ``time``, an option that is not for users, no sbatch here, sbatch refuses.
    """
    for name in ("partition", "time"):
        if not settings.get(name):
            raise ConfigError(f"executor slurm needs {name}, like partition=cpu and time=10:00:00")
    if taken := _TAKEN & set(settings):
        raise ConfigError(f"executor slurm: {', '.join(sorted(taken))} is set by the build")
    if missing := [program for program in ("sbatch", "squeue") if shutil.which(program) is None]:
        raise ConfigError(f"executor slurm: no {' and no '.join(missing)} on PATH: run it where jobs can be submitted")
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        raise ConfigError("executor slurm: this is a task of a job array: build from a login node or a plain job")

    def run(stage: Stage, tell: Tell) -> None:
        tell(stage.name, stage.tasks - len(stage.left()), stage.tasks)
        if not stage.left():
            return
        submitted = stage.work / "slurm" / f"{stage.key}.json"
        job = json.loads(submitted.read_text("utf-8"))["job"] if submitted.is_file() else None
        if job is None or not _in_queue(job):  # else an earlier build submitted it, and this one waits for it
            job = _submit(stage, settings, workers)
            submitted.parent.mkdir(exist_ok=True)
            atomic.write_json(submitted, {"job": job})
        while _in_queue(job):
            time.sleep(every)
            tell(stage.name, stage.tasks - len(stage.left()), stage.tasks)
        ended = time.monotonic()
        while stage.left() and not _failed(stage) and time.monotonic() < ended + min(_LATE, 6 * every):
            time.sleep(every)
        tell(stage.name, stage.tasks - len(stage.left()), stage.tasks)
        stage.settle(f"job {job}; out of memory or time? its logs: {_logs(stage) / 'slurm_logs'}")

    yield run


def _submit(stage: Stage, settings: Mapping[str, str], workers: int | None) -> str:
    stage.forget_failures()
    programs = Path(sys.executable).parent
    others = {name: value for name, value in settings.items() if name not in ("partition", "time", "qos")}
    executor = _Slurm(
        [_Task(stage)],
        tasks=stage.tasks,
        workers=workers or -1,
        partition=settings["partition"],
        time=settings["time"],
        qos=settings.get("qos"),  # type: ignore[arg-type]  # its own default is a name that few clusters have
        sbatch_args=others,
        job_name=f"xlm-{stage.key}",
        env_command=f'export PATH="{programs}:$PATH"',
        logging_dir=str(_logs(stage)),
        with_srun=False,
    )
    try:
        executor.run()
    except (subprocess.CalledProcessError, OSError, IndexError) as error:
        raise ConfigError(f"executor slurm: stage {stage.name!r} cannot be submitted: {error}") from error
    return str(executor.job_id)


def _in_queue(job: str) -> bool:
    """Whether a job waits or runs; a controller that does not answer has not said that it is over."""
    found = subprocess.run(["squeue", "--noheader", f"--jobs={job}"], capture_output=True, text=True)
    return bool(found.stdout.strip()) if found.returncode == 0 else "nvalid job" not in found.stderr


def _failed(stage: Stage) -> bool:
    return any(stage.reason(rank).is_file() for rank in stage.left())


# ---- Ray -------------------------------------------------------------------------------------------------------------
class _Ray(RayPipelineExecutor):
    """As above."""

    def save_executor_as_json(self, indent: int = 4) -> None:
        """Not written."""


@contextmanager
def on_ray(settings: Mapping[str, str], workers: int | None = None, every: float = _EVERY) -> Iterator[RunStage]:
    """The executor for a Ray cluster: the one of ``address``, of ``RAY_ADDRESS``, or that runs on this machine.

    Raises:
        ConfigError: unknown settings, no cluster at the address, no node that could ever run a task.
        MissingExtraError: without the extra ``ray``.
    """
    refuse_others("ray", settings, {"address", "cpus", "memory"})
    cpus, memory = _number(settings, "cpus", 1), _number(settings, "memory", 2)
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("xlm corpus build --executor ray", "ray", "ray") from error
    ours = not ray.is_initialized()
    if ours:
        address = settings.get("address") or os.environ.get("RAY_ADDRESS") or "auto"
        try:
            _need_answer(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"executor ray: no Ray cluster at address {address!r} ({error}): start one (ray start --head), name its "
                "address, or say address=local for this machine alone"
            ) from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fits = [int(min(n.get("CPU", 0) / cpus, n.get("memory", 0) / (cpus * memory * 2**30))) for n in nodes]
        if max(fits, default=0) < 1:
            raise ConfigError(
                f"executor ray: a task needs {cpus} CPUs with {memory} GiB each, and no node has them; the largest has "
                f"{max(n.get('CPU', 0) for n in nodes):g} CPUs, {max(n.get('memory', 0) for n in nodes) / 2**30:.1f} GiB"
            )

        def run(stage: Stage, tell: Tell) -> None:
            tell(stage.name, stage.tasks - len(stage.left()), stage.tasks)
            if not stage.left():
                return
            stage.forget_failures()
            executor = _Ray(
                [_Task(stage)],
                tasks=stage.tasks,
                workers=min(workers or sum(fits), stage.tasks),
                cpus_per_task=cpus,
                mem_per_cpu_gb=memory,
                logging_dir=str(_logs(stage)),
            )
            with _telling(stage, tell, every):
                executor.run()
            tell(stage.name, stage.tasks - len(stage.left()), stage.tasks)
            stage.settle("xlm[corpus] on every node? out of memory? see the logs of Ray")

        yield run
    finally:
        if ours:
            ray.shutdown()


def _need_answer(address: str) -> None:
    """Raise ``OSError`` where nobody listens: Ray itself asks for a quarter of an hour before it says so."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=20.0).close()


@contextmanager
def _telling(stage: Stage, tell: Tell, every: float) -> Iterator[None]:
    """Say how far a stage is while a call that does not return runs it."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every):
            tell(stage.name, stage.tasks - len(stage.left()), stage.tasks)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# ---- both ------------------------------------------------------------------------------------------------------------
def _logs(stage: Stage) -> Path:
    return stage.work / "logs" / stage.key


def _number(settings: Mapping[str, str], name: str, default: int) -> int:
    value = settings.get(name, str(default))
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"executor ray: {name} is {value!r}: a whole number from 1 on is needed")
    return int(value)
