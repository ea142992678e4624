"""A pipeline step that ends its process as the system does when memory is short; cheap to import in a new process."""

from __future__ import annotations

import os
import signal
from typing import Any


def killed(data: Any, rank: int, world: int) -> None:
    """Never returns."""
    os.kill(os.getpid(), signal.SIGKILL)
