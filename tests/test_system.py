"""Facts about the machine, and how memory is kept on the CPU."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mldec.system import keep_freed_memory

SCRIPT = """
import sys
import torch
from mldec.system import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if sys.argv[1] == "kept":
    keep_freed_memory()
before = resident()
block = torch.ones(64_000_000)
del block
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone")
def test_a_block_of_memory_that_was_freed_is_kept():
    """256 MB: without it the system gets them back at once, and clears their pages for the next tensor."""

    def kept(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert kept("default") < 100e6
    assert kept("kept") > 200e6


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    keep_freed_memory()
