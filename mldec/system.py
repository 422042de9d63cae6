"""Facts about the machine that code of every layer needs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt, in glibc's malloc.h
_LARGEST = 2**30  # bytes; larger blocks still go back to the system at once


def usable_cores() -> int:
    """CPU cores that this process may use: on a shared node those of its job, where the system tells them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Keep blocks of memory that are freed, for the next tensor of that size; glibc alone, elsewhere nothing happens.

    By default glibc asks the system for each large block and gives it back at once. A network on the CPU frees and
    needs the same blocks in every layer, and the system clears their pages each time: a third of the time of a forward
    pass of an EfficientNet on two cores.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError, OSError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_TRIM_THRESHOLD, _LARGEST)
