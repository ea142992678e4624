"""Who runs the stages of a build, by name: this machine, Slurm or Ray."""

from __future__ import annotations

import os
from collections.abc import Mapping

from xlm.data.corpora.run import Executor, here, refuse_others
from xlm.errors import ConfigError, MissingExtraError


def executor_named(name: str, settings: Mapping[str, str] | None = None, workers: int | None = None) -> Executor:
    """The executor that ``xlm corpus build --executor`` names; who enters it may get the errors of `xlm.data.corpora.cluster`.

    Args:
        name: ``local``, ``slurm`` or ``ray``.
        settings: of slurm: ``partition`` and ``time``, and whatever else sbatch takes (``account``, ``mem-per-cpu``, ...);
            of ray: ``address`` (``local`` starts one on this machine), ``cpus`` and ``memory`` (GiB) of a task.
        workers: processes, or tasks at a time; None: one a core, on a cluster as many as it lets.

    Raises:
        ConfigError: another name, or settings for this machine, which takes none.
        MissingExtraError: a cluster, without the extra ``corpus``.
    """
    settings = settings or {}
    if name == "local":
        refuse_others(name, settings, set())
        return here(workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1))
    if name not in ("slurm", "ray"):
        raise ConfigError(f"executor is {name!r}: it must be local, slurm or ray")
    try:
        from xlm.data.corpora import cluster
    except ImportError as error:
        raise MissingExtraError("xlm corpus build", "datatrove", "corpus") from error
    return cluster.on_slurm(settings, workers) if name == "slurm" else cluster.on_ray(settings, workers)
