"""A torch profiler trace of a few training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import profiler

from mldec.files import replacing, write_text


@contextmanager
def profile_steps(folder: Path, *, enabled: bool) -> Iterator[Callable[[], None]]:
    """Trace three steps after two of warm-up into `profile/trace.json`, for Perfetto or chrome://tracing.

    Gives a function to call after each step.
    """
    if not enabled:
        yield lambda: None
        return

    def write(trace: profiler.profile) -> None:
        with replacing(folder / "profile" / "trace.json") as partial:
            trace.export_chrome_trace(str(partial))
        table = trace.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
        write_text(folder / "profile" / "summary.txt", table)

    steps = profiler.schedule(wait=1, warmup=1, active=3, repeat=1)
    with profiler.profile(schedule=steps, on_trace_ready=write, record_shapes=True) as trace:
        yield trace.step
