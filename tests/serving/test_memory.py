"""Kernels for sizes that texts hardly ever have again are not kept without end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from xlm.serving.memory import CACHES, KEPT, bound_caches

pytest.importorskip("torch")

_GROW = """
import ctypes, sys
from xlm.serving.memory import KEPT, bound_caches
if sys.argv[1] == "bound":
    bound_caches()
import torch

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks used free top".split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
weight = torch.ops.mkldnn._reorder_linear_weight(torch.ones(32, 32), 64)
found = []
for rows in range(100, 100 + 3 * KEPT):
    torch.ops.mkldnn._linear_pointwise(torch.ones(rows, 32), weight, None, "none", [], "")
    if rows in (99 + 2 * KEPT, 99 + 3 * KEPT):
        found.append(mallinfo().used)
print(found[1] - found[0])
"""


def _grown(how: str) -> int:
    """Bytes that are taken and not given back for products of ``KEPT`` new numbers of rows, after those of twice as many."""
    given = {name: value for name, value in os.environ.items() if name not in CACHES}
    command = [sys.executable, "-c", _GROW, how]
    done = subprocess.run(command, env=given | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if "undefined symbol: mallinfo2" in done.stderr:
        pytest.skip("this C library does not say what is taken")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the C library says what is taken")
def test_kernels_of_old_sizes_are_let_go() -> None:
    import torch

    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    assert _grown("unbound") > 10_000 * KEPT
    assert _grown("bound") < 1_000 * KEPT


def test_limits_of_whoever_started_the_process_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHES[0], "7")
    monkeypatch.setenv(CACHES[1], "8")
    del os.environ[CACHES[1]]  # as it was, after the test
    bound_caches()
    assert [os.environ[name] for name in CACHES] == ["7", str(KEPT)]
