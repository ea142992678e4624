"""The example for Slurm, run with stand-ins for the cluster's commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "pretrain.sbatch"


def test_torchrun_has_time_to_save(tmp_path: Path) -> None:
    """torchrun kills workers 30 seconds after a signal unless it is told otherwise; Slurm gives 300."""
    stands_in = {
        "scontrol": 'echo "$@" >> calls; echo node1',
        "srun": "echo $TORCH_ELASTIC_SHUTDOWN_TIMEOUT > timeout; mkdir -p run/checkpoints/step-3; exit 1",
    }
    for name, lines in stands_in.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n", "utf-8")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "17", "OUTPUT": "run"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", SCRIPT, "recipe.yaml"], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 1 and "requeue 17" in (tmp_path / "calls").read_text()
    given = (tmp_path / "timeout").read_text().strip()
    assert 30 < int(given) < 300
