"""Stopping a run at the next step, saved: by Ctrl-C, or by a signal of the system.

Schedulers send SIGTERM, or SIGUSR1 some time before (Slurm's `--signal`). A second Ctrl-C ends a run at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

#: Exit codes of a command that was stopped and can be resumed: by Ctrl-C, and by the system (EX_TEMPFAIL: try again).
STOPPED, PREEMPTED = 130, 75
PREEMPTIONS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupted(Exception):
    """The run was stopped between two steps, from where it can be resumed."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGUSR1 outside of a run, which has its own way to stop: ends the command as Ctrl-C does."""


class StopRequest:
    """Whether a stop was requested: by the user, or by the system (`preempted`)."""

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
def leave_on_signals() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGUSR1 end a command without a traceback while the context lasts: as KeyboardInterrupt
    and Terminated, so that what has begun is cleaned up.

    Within an import the process leaves at once. There is nothing to clean up, and an exception that comes out of an
    import ends in any other one, or is printed and forgotten.
    """

    def handle(signum: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            os.write(2, b"interrupted\n")
            os._exit(STOPPED if signum == signal.SIGINT else PREEMPTED)
        raise KeyboardInterrupt if signum == signal.SIGINT else Terminated

    with _handled((signal.SIGINT, *PREEMPTIONS), handle):
        yield


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def end_at_once() -> AbstractContextManager[None]:
    """Leave SIGTERM and SIGUSR1 to the system while the context lasts: for a wait within a library, during
    which Python cannot handle them."""
    return _handled(PREEMPTIONS, signal.SIG_DFL)


def ignore_signals() -> None:
    """From here on nothing stops this process, which is about to leave with the exit code of a stop: signals come to
    it from the scheduler and from the process that began it, and the last one must not change the code."""
    for signum in (signal.SIGINT, *PREEMPTIONS):
        signal.signal(signum, signal.SIG_IGN)


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
def _handled(
    signals: Iterable[int], handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
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
