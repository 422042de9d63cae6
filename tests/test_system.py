"""Facts about the machine, and how memory is kept on the CPU."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mldec.system import keep_freed_memory

SCRIPT = """
import resource, sys
from mldec.system import keep_freed_memory
import torch
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(4_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone")
def test_a_block_of_memory_that_was_freed_is_used_again():
    """Each page that the system has to clear is a page fault."""

    def count(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert count("kept") * 20 < count("default")


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    keep_freed_memory()
