"""Ctrl-C ends a run at the next step boundary; a second Ctrl-C ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The user asked to stop, and the run stands at a boundary from which it can be resumed."""


class StopRequest:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise Interrupted if so."""
        if self.requested:
            raise Interrupted


@contextmanager
def stop_on_interrupt() -> Iterator[StopRequest]:
    """Turn SIGINT into a request while the context lasts. Away from the main thread signals stay as they are."""
    stop = StopRequest()

    def handle(signum: int, frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
