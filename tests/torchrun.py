"""A command of `xlm` on one process or under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from xlm.training.pretrain import EXIT_STOPPED


def finetuned(count: int, arguments: list[str], output: Path, *changes: str) -> tuple[dict[str, Any], str]:
    """What ``xlm finetune --json`` prints, on so many processes, and its stderr."""
    launcher = [sys.executable]
    if count > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = [*launcher, "-m", "xlm", "finetune", *arguments, "--json", "-o", str(output)]
    command += [part for change in changes for part in ("--set", change)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    stopped = "max_minutes" in "".join(changes)
    # torchrun itself ends with 1 whenever its processes end with anything but 0.
    assert done.returncode in ((EXIT_STOPPED, 1) if stopped else (0,)), done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return outcomes[0], done.stderr
