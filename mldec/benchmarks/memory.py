"""Peak memory of a device, and out-of-memory as an error that can be caught."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

SHARE = 0.9  # of the free memory; the rest is left to other processes


class PeakMemory:
    """The peak since this object was made.

    CUDA: what torch had allocated at most. Elsewhere: growth of the peak of the whole process's resident memory, which
    can be reset on Linux only.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        release(device)
        self._before: int | None = None  # resident memory in KiB
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with contextlib.suppress(OSError):  # where it cannot be reset
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._before = _kib("/proc/self/status", "VmRSS")

    def mib(self) -> float | None:
        """The peak in MiB; None where the system does not report it."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if self._before is None:
            return None
        return max(0, _kib("/proc/self/status", "VmHWM") - self._before) / 1024


class PeakAnonymous:
    """The growth of this process's anonymous memory at most within a block: without files, which the system can drop.

    The system keeps no peak of it, so that it is looked at every few milliseconds.

    Attributes:
        mib: in MiB; 0 where the system does not report it.
    """

    def __enter__(self) -> PeakAnonymous:
        self.mib = 0.0
        self._before, self._ends = _anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(0.005):
            self.mib = max(self.mib, (_anonymous() - self._before) / 1024)


def release(device: torch.device) -> None:
    """Free what is no longer used, so that the next measurement does not start with it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        with contextlib.suppress(OSError, AttributeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def limited_memory(device: torch.device) -> Iterator[None]:
    """Within the block, a process on the CPU gets an error when it allocates more memory than is free.

    Linux would grant it and kill a process once the memory is used. Other devices and systems are not affected.
    """
    free = _free() if device.type == "cpu" else None
    if free is None:
        yield
        return
    import resource  # not on Windows, where _free() is None

    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = _kib("/proc/self/status", "VmSize") * 1024 + int(free * SHARE)
    allowed = [bound for bound in (limit, *before) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _anonymous() -> int:
    """KiB of anonymous memory of this process; 0 where unknown."""
    try:
        return _kib("/proc/self/status", "RssAnon")
    except OSError:
        return 0


def _free() -> int | None:
    """Bytes that can still be allocated, on the machine and within the container's limit; None if unknown."""
    try:
        free = _kib("/proc/meminfo", "MemAvailable") * 1024
    except OSError:
        return None
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no such limit
        used, most = (int((group / f"memory.{name}").read_text()) for name in ("current", "max"))
        free = min(free, most - used)
    return max(0, free)


def _kib(file: str, name: str) -> int:
    """The number behind `name:` in a file of /proc."""
    for line in Path(file).read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"{file} has no {name}")
