"""The folder of a fine-tuning: where one may begin, and what a finished one removes.

A run writes only into a folder that is new, empty or a run's own, and removes only folders that it made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xlm.atomic import make_folder
from xlm.errors import OutputError
from xlm.folders import manifest_of, remove_folder
from xlm.locks import folder_lock
from xlm.training.state import checkpoint_folders

LOCK = "run.lock"
"""Marks the folder of a run, and keeps a second process out of it while the run lasts."""
_KEPT = (".log", ".out", ".err")  # what a shell or a cluster writes there before the run begins
_STATE = ("checkpoints", "best")
_RUN = (*_STATE, "model", "recipe.json", "metrics.jsonl", "loss.png", "report.html", "tensorboard", "data.json")


@contextmanager
def held(output: Path, resume: bool | None) -> Iterator[None]:
    """The output folder, checked and locked for this process; an earlier run in it is set aside if ``resume`` is False.

    Raises:
        OutputError: another process has it, or as :func:`check_output` says.
    """
    check_output(output, resume)
    with run_lock(output):
        if resume is False:
            set_aside(output)
        yield


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run folder, which is made if need be, for this process."""
    with folder_lock(make_folder(folder, "output"), LOCK, stays=True):
        yield


def check_output(output: Path, resume: bool | None) -> None:
    """Refuse a folder in which a run would mix with, or replace, something else; before anything is written there.

    Args:
        resume: as in :func:`xlm.finetune`; False sets an earlier run aside, so that only foreign folders are refused.

    Raises:
        OutputError: it is a file, a folder with other content, or the folder of a finished run.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"output={str(output)!r} is a file: a folder is needed")
    if not output.is_dir():
        return
    others = sorted(p.name for p in output.iterdir() if not p.name.startswith(".") and p.suffix not in _KEPT)
    if others and not (output / LOCK).is_file() and not any(map(manifest_of, checkpoint_folders(output))):
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise OutputError(
            f"output={str(output)!r} holds files that are no run's ({', '.join(others[:3])}{more}): "
            "name a new or an empty folder"
        )
    check_finished(output, resume)


def check_finished(output: Path, resume: bool | None) -> None:
    """Refuse to begin in the folder of a finished run, whose model would be replaced.

    Raises:
        OutputError: there is a model and no checkpoint to go on from, and nothing was said (``resume`` is None).
    """
    if resume is None and (output / "model").exists() and not checkpoint_folders(output):
        raise OutputError(
            f"output={str(output)!r} holds the model of a finished run: name another folder (-o), or begin anew with "
            "--fresh (resume=False), which keeps that run in previous-N there"
        )


def set_aside(output: Path) -> None:
    """Move what an earlier run left in the output folder into ``previous-N``, token stores excepted."""
    present = [output / name for name in _RUN if (output / name).exists()] + sorted(output.glob("quarantine-*.jsonl"))
    if present:
        target = next(path for n in range(1, 10**6) if not (path := output / f"previous-{n}").exists())
        target.mkdir()
        for path in present:
            path.rename(target / path.name)


def remove_state(output: Path) -> None:
    """A finished run is not resumed: what it would take goes, the checkpoints first, for those need the rest."""
    for name in _STATE:
        for folder in step_folders(output / name):
            remove_folder(folder)
        with suppress(OSError):  # with something else in it, it stays
            (output / name).rmdir()


def step_folders(folder: Path) -> list[Path]:
    """The folders ``step-N`` in a folder."""
    return sorted(path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit())
