"""Memory of what runs on a device: its peak, and running out of it as an error that can be caught."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

import torch

from mldec import errors

SHARE = 0.9  # of the free memory: the rest is for what else the machine does meanwhile


class PeakMemory:
    """The peak since this object was made.

    CUDA: what torch had allocated at most. Elsewhere: growth of the peak of the whole process's resident memory, which
    Linux alone lets one measure anew.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        release(device)
        self._before: int | None = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self._before = _begin_resident_peak()

    def mib(self) -> float | None:
        """The peak in MiB; None where this system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if self._before is None:
            return None
        return max(0, _kib("/proc/self/status", "VmHWM") - self._before) / 1024


def release(device: torch.device) -> None:
    """Give back what is no longer used, so that the next measurement does not start with it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
            ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, (MemoryError, RuntimeError)) and errors.is_out_of_memory(error)


@contextlib.contextmanager
def limited_memory(device: torch.device) -> Iterator[None]:
    """Within the block a process on the CPU gets an error where it asks for more memory than is free.

    Linux would grant it, and kill some process once it is used. Nothing changes on other devices and systems.
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


def _begin_resident_peak() -> int | None:
    """Reset the process's peak to what is resident now; gives that, in KiB, or None where it can't be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _kib("/proc/self/status", "VmRSS")
    except OSError:
        return None


def _free() -> int | None:
    """Bytes that may still be taken, by the machine and by the container's own limit; None where not known."""
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
