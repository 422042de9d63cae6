"""How many runs go side by side on this machine, and where."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from mldec.errors import ConfigError
from mldec.system import usable_cores


def slots(jobs: int | None, gpus: Sequence[int] | None) -> tuple[tuple[dict[str, str], ...], tuple[str, ...]]:
    """The environment of each process that may run at a time, and the overrides that all of them get.

    Args:
        jobs: how many processes; None: one per GPU, or one per core.
        gpus: numbers of the GPUs to use; None: all.

    Raises ConfigError for a GPU that this machine does not have.
    """
    cores, there = usable_cores(), torch.cuda.device_count()
    numbers = range(there) if gpus is None else gpus
    if any(number >= there for number in numbers):
        raise ConfigError(f"gpus={','.join(map(str, numbers))}: there are {there} GPUs here, counted from 0")
    names = [str(number) for number in numbers]
    # Where only some GPUs are to be used, numbers count within these.
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = [visible[int(name)] if len(visible) == there else name for name in names]
    jobs = jobs or len(names) or cores
    if names:
        return tuple({"CUDA_VISIBLE_DEVICES": names[number % len(names)]} for number in range(jobs)), ()
    # Without a GPU one process per core with one thread each is the most that a machine can do.
    threads = max(1, cores // jobs)
    return ({},) * jobs, (f"runtime.threads={threads}", f"runtime.workers={0 if threads == 1 else 1}")
