"""One training at a time in a run directory: a lock that the system gives up when the process dies, however it dies."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from mldec.errors import ConfigError
from mldec.files import lock_file, refuse_linked, without_links

FILE = ".running"  # says who holds the lock; stays when the run ends, and means nothing then
WRITTEN = ("checkpoints", "images", "tensorboard", "profile")  # subdirectories of a run directory

_held: set[int] = set()


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a run directory within the block. Reading there is free to everybody.

    Raises ConfigError that names the process and host which hold it, if somebody does, and where the file of the lock
    is a symbolic link or anything else but a regular file, or a subdirectory that training writes to is a link.
    """
    refuse_linked(folder, WRITTEN)
    if os.name != "posix":
        yield
        return
    descriptor = without_links(folder / FILE, os.O_RDWR | os.O_CREAT)
    _held.add(descriptor)
    try:
        if not lock_file(descriptor, folder):
            raise ConfigError(
                f"{folder} is in use by another run: {_holder(descriptor)}. Wait until that has ended, or stop it; "
                "a run beside it needs a run_dir of its own"
            )
        os.ftruncate(descriptor, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode(), 0)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


@contextlib.contextmanager
def wait_for_lock(folder: Path) -> Iterator[None]:
    """Hold a lock of a run directory that several runs start from: one trains it, and the others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", opener=without_links) as lock:
        lock_file(lock, folder, wait=True)
        yield


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
    return text or "a process that has just begun"


def _close_copies() -> None:
    # A lock belongs to the open file, which a forked loader process shares: it must not outlive the main process.
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)
