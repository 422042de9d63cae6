"""A torch profiler trace of a few training steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import profiler

from mldec.files import replacing


class Stepping(Protocol):
    def step(self) -> None:
        """Tell that a training step ended."""


class _Idle:
    def step(self) -> None:
        pass


@contextmanager
def profile_steps(folder: Path, *, enabled: bool) -> Iterator[Stepping]:
    """Trace three steps after two of warm-up into `profile/trace.json`, for Perfetto or chrome://tracing."""
    if not enabled:
        yield _Idle()
        return
    activities = [profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(profiler.ProfilerActivity.CUDA)
    target = folder / "profile"
    target.mkdir(parents=True, exist_ok=True)

    def write(trace: profiler.profile) -> None:
        with replacing(target / "trace.json") as partial:
            trace.export_chrome_trace(str(partial))
        table = trace.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
        with replacing(target / "summary.txt") as partial:
            partial.write_text(table, encoding="utf-8")

    with profiler.profile(
        activities=activities,
        schedule=profiler.schedule(wait=1, warmup=1, active=3, repeat=1),
        on_trace_ready=write,
        record_shapes=True,
    ) as trace:
        yield trace
