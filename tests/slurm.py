"""A stand-in for a Slurm cluster of one machine: sbatch, squeue and scontrol; job arrays are processes."""

from __future__ import annotations

import sys
from pathlib import Path

_SBATCH = r'''
import json, os, re, subprocess, sys
state = {state!r}
*options, script = sys.argv[1:]
text = open(script).read()
directives = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.M))
given = dict(option.lstrip("-").split("=", 1) for option in options)
number = len(os.listdir(state)) + 1
job = {{"job": number, "options": given, "directives": directives}}
json.dump(job, open(f"{{state}}/{{number}}.json", "w"))
copy = f"{{state}}/../{{number}}.slurm"
open(copy, "w").write(text)
first, last, most = re.fullmatch(r"(\d+)-(\d+)(?:%(\d+))?", directives["array"]).groups()
environment = dict(os.environ, SLURM_JOB_ID=str(number), SLURM_NODELIST="node1")
environment.update(entry.split("=") for entry in given["export"].split(",")[1:])
runner = """
import subprocess, sys, os
copy, log, number, first, last, state = sys.argv[1:]
for index in range(int(first), int(last) + 1):
    with open(log.replace("%A", number).replace("%a", str(index)), "w") as stream:
        subprocess.run(["bash", copy], env=dict(os.environ, SLURM_ARRAY_TASK_ID=str(index)), stdout=stream, stderr=stream)
os.rename(os.path.join(state, number + ".json"), os.path.join(state, number + ".ended"))
"""
arguments = [copy, directives["output"], str(number), first, last, state]
nothing = subprocess.DEVNULL
subprocess.Popen([sys.executable, "-c", runner, *arguments],
                 env=environment, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
print("Submitted batch job", number)
'''
_SQUEUE = r"""
import os, sys
(job,) = [a.split("=")[1] for a in sys.argv[1:] if a.startswith("--jobs=")]
if os.path.exists(f"{state}/{{job}}.json"):
    print(job, "cpu xlm R")
elif not os.path.exists(f"{state}/{{job}}.ended"):
    sys.exit("slurm_load_jobs error: Invalid job id specified")
"""
_SCONTROL = "import sys\nprint(sys.argv[3])\n"


def install(folder: Path) -> Path:
    """Write the three commands into ``folder/bin``; the folder with one file a job comes back."""
    state, programs = folder / "jobs", folder / "bin"
    state.mkdir(parents=True)
    programs.mkdir()
    sources = {"sbatch": _SBATCH.format(state=str(state)), "squeue": _SQUEUE.format(state=state), "scontrol": _SCONTROL}
    for name, source in sources.items():
        (programs / name).write_text(f"#!{sys.executable}\n{source}")
        (programs / name).chmod(0o755)
    return state
