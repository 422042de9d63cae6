"""A run that is asked to stop does so at the next step, saved: by Ctrl-C, or by the system that lent it the machine.

Schedulers send SIGTERM, or SIGUSR1 some time before (Slurm's `--signal`). A second Ctrl-C ends a run at once.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: How a command leaves that was stopped and can go on: by Ctrl-C, and by the system (EX_TEMPFAIL: try again later).
STOPPED, PREEMPTED = 130, 75
PREEMPTIONS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupted(Exception):
    """The run was asked to stop, and stands at a boundary from which it can be resumed."""


class StopRequest:
    """Whether somebody asked to stop: the user, or the system (`preempted`)."""

    def __init__(self) -> None:
        self.requested = False
        self.preempted = False

    @property
    def exit_code(self) -> int:
        return PREEMPTED if self.preempted else STOPPED

    def check(self) -> None:
        """Raise Interrupted if so."""
        if self.requested:
            raise Interrupted


@contextmanager
def stop_on_interrupt() -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM and SIGUSR1 into a request while the context lasts. Away from the main thread signals stay
    as they are."""
    stop = StopRequest()

    def handle(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        stop.preempted = stop.preempted or signum in PREEMPTIONS

    with _handled((signal.SIGINT, *PREEMPTIONS), handle):
        yield stop


@contextmanager
def pass_on(children: Collection[subprocess.Popen[Any]]) -> Iterator[StopRequest]:
    """Let SIGTERM and SIGUSR1 reach `children` too, those that are in it by then, while the context lasts.

    Ctrl-C reaches all processes of a terminal by itself.
    """
    stop = StopRequest()

    def handle(signum: int, frame: FrameType | None) -> None:
        stop.requested = stop.preempted = True
        for child in list(children):
            child.send_signal(signum)  # nothing, where it has ended

    with _handled(PREEMPTIONS, handle):
        yield stop


@contextmanager
def _handled(signals: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle signals otherwise within the block. Away from the main thread they stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {signum: signal.signal(signum, handler) for signum in signals}
    try:
        yield
    finally:
        for signum, former in previous.items():
            signal.signal(signum, former)
