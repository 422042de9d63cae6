"""Facts about the machine that code of every layer needs."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """CPU cores that this process may use: on a shared node those of its job, where the system tells them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
