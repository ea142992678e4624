"""``xlm doctor``: what this machine and installation offer."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path

from rich.table import Table

from xlm.cli.common import JsonOption, print_json, stdout

# extra -> the packages that it installs, as their distributions are called
EXTRAS = {
    "torch": ("torch",),
    "jax": ("flax", "jax", "optax"),
    "tf": ("tensorflow", "keras"),
    "corpus": ("datatrove", "fasttext-predict", "ftfy", "py3langid", "pyarrow", "tokenizers", "xxhash", "zstandard"),
    "data": ("datasets", "pyarrow"),
    "train": ("matplotlib", "tensorboard"),
    "convert": ("h5py",),
    "serve": ("fastapi", "fastapi-offline", "httptools", "orjson", "uvicorn", "uvloop", "prometheus-client"),
    "s3": ("s3fs",),
    "ray": ("ray",),
    "openvino": ("openvino",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "eval": ("matplotlib", "sacrebleu", "scikit-learn"),
    "zh": ("jieba",),
    "ja": ("kytea",),
    "th": ("pythainlp",),
    "dev": ("pytest", "hypothesis", "ruff", "transformers"),
}
# Instructions that decide which number types run fast.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimd", "bf16", "i8mm")


def doctor(as_json: JsonOption = False) -> None:
    """Show what is here: processor, memory, frameworks, threads, extras, caches, the bundled model."""
    facts = collect()
    if as_json:
        print_json(facts)
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if isinstance(value, dict):
            for key, state in value.items():
                table.add_row(f"{name}: {key}", state)
        else:
            table.add_row(name, str(value))
    stdout().print(table)


def collect() -> dict[str, object]:
    """The facts, by name: what ``--json`` prints."""
    from xlm import __version__

    facts: dict[str, object] = {
        "xlm": f"{__version__} in {Path(__file__).parent.parent}",
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": memory(),
    }
    facts |= torch_facts()
    facts["extras"] = {extra: extra_state(packages) for extra, packages in EXTRAS.items()}
    facts["hub cache"] = hub_cache()
    facts["bundled model"] = bundled_model()
    return facts


def torch_facts() -> dict[str, object]:
    """Version, threads and devices of PyTorch, or that it is not there."""
    try:
        import torch
    except ImportError:
        return {"torch": "not installed: pip install 'xlm[torch]'"}
    facts: dict[str, object] = {
        "torch": torch.__version__,
        "threads": f"{torch.get_num_threads()} (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')})",
        "cpu kernels": torch.backends.cpu.get_cpu_capability(),
    }
    from xlm.backends.torch.ops_cpu import choices

    facts["engine"] = choices()
    facts["gpus"] = ", ".join(gpu_state(index) for index in range(torch.cuda.device_count())) or "none"
    return facts


def gpu_state(index: int) -> str:
    """A GPU's name, and how `xlm.load` attends there with heads of the published models' width; or why it does not run."""
    import torch

    from xlm.backends.torch.ops_cuda import why_not_packed

    try:
        have = torch.cuda.get_device_capability(torch.device("cuda", index))
        name = torch.cuda.get_device_name(index)
        why = why_not_packed(torch.device("cuda", index), 64)
        built = torch.cuda.get_arch_list()
    except (RuntimeError, AssertionError) as error:  # a driver that is broken, or too old
        return f"GPU {index} (not usable: {(str(error).splitlines() or [type(error).__name__])[0]})"
    if not has_kernels(have, built):
        return f"{name} (not usable: compute capability {have[0]}.{have[1]}, this PyTorch has kernels for {', '.join(built)})"
    how = f"attention in runs of equal length: {why}" if why else "packed attention in bfloat16 and float16"
    return f"{name} ({how}{'; no bfloat16: choose float16' if have < (8, 0) else ''})"


def has_kernels(capability: tuple[int, int], built: list[str]) -> bool:
    """Whether a GPU runs a PyTorch that was built for these architectures, as ``torch.cuda.get_arch_list`` gives them.

    Kernels (``sm_86``) run on GPUs of the same major number that are no older, and of no other with a letter (``sm_90a``);
    code that the driver compiles (``compute_90``) on all that are no older. Nothing is known of an empty list and of
    other makers' names.
    """
    found = [match for name in built if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)(a|f)?", name))]
    for kind, major, minor, letter in (match.groups() for match in found):
        made = (int(major), int(minor))
        if capability == made or (
            capability > made and letter != "a" and (kind == "compute" or capability[0] == made[0])
        ):
            return True
    return not found


def extra_state(packages: tuple[str, ...]) -> str:
    """``torch 2.13.0``, or what is missing."""
    found, missing = [], []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    return ", ".join(found + [f"{name} missing" for name in missing])


def processor() -> str:
    """The processor's name, and which of the instructions that matter it has (Linux)."""
    fields = fields_of(Path("/proc/cpuinfo"))
    if not fields:
        return platform.processor() or "unknown"
    flags = fields.get("flags", fields.get("Features", "")).split()
    present = [flag for flag in _FLAGS if flag in flags]
    return f"{fields.get('model name', platform.machine())} ({', '.join(present) or 'no vector extensions known here'})"


def memory() -> str:
    """Free and total memory (Linux), or ``unknown``."""
    fields = fields_of(Path("/proc/meminfo"))
    if not fields:
        return "unknown"
    total, free = (int(fields[name].split()[0]) / 2**20 for name in ("MemTotal", "MemAvailable"))
    return f"{free:.1f} GiB free of {total:.1f} GiB"


def fields_of(path: Path) -> dict[str, str]:
    """The ``name: value`` lines of a file of the kernel; empty where there is no such file."""
    if not path.is_file():
        return {}
    pairs = (line.partition(":") for line in path.read_text("utf-8").splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs if value}


def hub_cache() -> str:
    """Where downloads are kept, and whether the network is switched off."""
    from huggingface_hub import constants

    return f"{constants.HF_HUB_CACHE}{' (offline)' if constants.HF_HUB_OFFLINE else ''}"


def bundled_model() -> str:
    """The bundled model's folder and size, or that it is missing."""
    from xlm.assets import BUNDLED, bundled_folder
    from xlm.errors import CheckpointError

    try:
        folder = bundled_folder()
    except CheckpointError:
        return "missing: install the package again"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{BUNDLED}, {size / 1e6:.1f} MB in {folder}"
