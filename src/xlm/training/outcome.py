"""How a run of training ended."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlm.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What every run says at its end.

    Attributes:
        folder: the finished model's; None where there is none.
        finished: False when a signal or ``max_minutes`` ended the run; the same call goes on.
        step, seconds: how far it went, and how long it trained.
        ended: why there is no model, where there is none.
    """

    folder: Path | None
    finished: bool
    step: int
    seconds: float
    ended: str = ""

    @property
    def model(self) -> Path:
        """The finished model's folder, for :func:`xlm.load`. Raises CheckpointError where there is none."""
        if self.folder is None:
            raise CheckpointError(f"this run has no model: {self.ended}")
        return self.folder

    def record(self) -> dict[str, Any]:
        """The fields, for JSON; ``model`` is the folder."""
        values = dataclasses.asdict(self)
        folder = values.pop("folder")
        return values | {"model": None if folder is None else str(folder)}


def stopped(step: int, steps: int | None, why: str, output: Path) -> str:
    """What to say of a run that was stopped early."""
    of = "" if steps is None else f" of {steps}"
    return f"it was stopped at step {step}{of} ({why}) and saved in {output}: the same call goes on from there"
