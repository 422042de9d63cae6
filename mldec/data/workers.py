"""Loader processes: how they start and end, what signals do to them, and how their batches reach the main process.

Signals that ask a run to stop (SIGINT, SIGTERM, SIGUSR1) are for the main process, which needs its workers
until it has saved. Schedulers send them to all processes of a job, so a worker ignores them from its first instruction
on; it ends when the main process closes it, and within a second after the main process has died.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import signal_handling

from mldec.errors import RunError

logger = logging.getLogger(__name__)

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
ADVICE = "use runtime.workers=0 or fewer workers, or a larger /dev/shm (docker run --shm-size=1g)"
SETTLE = 1.0  # seconds within which the system reports that a process whose connection broke has ended

_live: weakref.WeakSet[Any] = weakref.WeakSet()


class WorkerDied(RunError):
    """A loader process ended unexpectedly: killed by the system, mostly for lack of memory."""


class BatchFailure(NamedTuple):
    """Sent by a worker in place of a batch: the message of a DataError, which would arrive wrapped in a traceback."""

    message: str


def start_worker(_: int) -> None:
    """`worker_init_fn` of every DataLoader here."""
    torch.set_num_threads(1)  # as many workers as cores are enough threads
    cv2.setNumThreads(0)
    for signum in STOPS:
        signal.signal(signum, signal.SIG_IGN)
    _release()
    threading.Thread(target=_end_with_main_process, args=(os.getppid(),), daemon=True).start()


def start_pool_worker() -> None:
    """For the initializer of a pool, which ends its processes by SIGTERM itself: they leave silently, and
    Ctrl-C is for the main process."""
    for signum in STOPS:
        signal.signal(signum, signal.SIG_IGN if signum == signal.SIGINT else signal.SIG_DFL)
    _release()


def _release() -> None:
    """Deliver the signals that `held_back` has blocked since before this process was started."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def _end_with_main_process(parent: int) -> None:
    """Leave when the main process is gone, also where this one is stuck in a read or in handing over a batch."""
    main = multiprocessing.parent_process()
    assert main is not None
    # A sibling that was forked later holds the sentinel open, too; the parent's number changes at once.
    while os.getppid() == parent and not wait([main.sentinel], timeout=1.0):
        pass
    os._exit(1)


# In the main process --------------------------------------------------------------------------------------------------


def received(loader: DataLoader) -> Iterator[Any]:
    """What `loader` gives, in order. The workers stay for the next time, unless one of them has died.

    Raises:
        WorkerDied: a loader process ended; found out here, between two batches, and nowhere else.
        RunError: loader processes cannot be started.
    """
    if loader.num_workers == 0:
        yield from loader
        return
    batches = None
    while True:
        try:
            if batches is None:
                batches = _started(loader)
            _refuse_dead(batches)
            batch = _unpacked(next(batches))
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            dead = _find_dead(loader._iterator)
            if not dead and "DataLoader worker (pid" not in str(error):
                raise
            if loader._iterator is not None:
                _abandon(loader._iterator)
                loader._iterator = None
            raise WorkerDied(_describe_death(dead)) from error
        yield batch


def _started(loader: DataLoader) -> Any:
    """The loader's iterator, at the beginning of an epoch; makes its processes where there are none yet."""
    former = loader._iterator
    if former is not None:
        _refuse_dead(former)
    try:
        with held_back(loader.multiprocessing_context):
            batches = iter(loader)
            if batches is not former:
                _adopt(batches)
    except OSError as error:
        raise RunError(
            f"cannot start {loader.num_workers} loader processes: {error.strerror or error}; they need memory, "
            f"processes and space in /dev/shm: {ADVICE}"
        ) from error
    return batches


@contextlib.contextmanager
def held_back(context: Any = None) -> Iterator[None]:
    """Signals wait within the block, and in processes that it starts until these have set their handlers.

    Args:
        context: of multiprocessing, in which processes are started; None: the default one.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    if (context or multiprocessing.get_context()).get_start_method() == "forkserver":
        forkserver.ensure_running()  # started within the block, it would block signals in all its later processes
    former = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _adopt(batches: Any) -> None:
    """Take over how its processes end.

    Torch raises where a worker dies from its handler of SIGCHLD, so in the middle of whatever the main process does, a
    backward pass or the writing of a checkpoint; here that is found out between two batches. And where a worker does
    not end by itself torch sends SIGTERM, which ours ignore.
    """
    for worker in batches._workers:
        worker.terminate = worker.kill
    if batches._worker_pids_set:
        signal_handling._remove_worker_pids(id(batches))
        batches._worker_pids_set = False
    _live.add(batches)


def _refuse_dead(batches: Any) -> None:
    if any(not worker.is_alive() for worker in batches._workers):
        raise RuntimeError("a worker has ended")


def _find_dead(batches: Any) -> list[Any]:
    """The workers that have ended. Looks again for a while: connections break a moment before a process has ended."""
    deadline = time.monotonic() + SETTLE
    while batches is not None:
        if dead := [worker for worker in batches._workers if not worker.is_alive()]:
            return dead
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return []


def _abandon(batches: Any) -> None:
    """End all processes without asking them: a lock that one of them held when it was killed is never
    released, so that talking to the others may never end."""
    batches._shutdown = True
    if hasattr(batches, "_pin_memory_thread_done_event"):
        batches._pin_memory_thread_done_event.set()
    for worker in batches._workers:
        worker.kill()
    for worker in batches._workers:
        worker.join(timeout=5)
    _live.discard(batches)


@atexit.register  # runs before the exit functions of torch and multiprocessing, which were registered before
def _abandon_all() -> None:
    """At exit no batch is needed any more, and multiprocessing would wait for workers that ignore its SIGTERM."""
    for batches in list(_live):
        if not batches._shutdown and os.getpid() == batches._workers[0]._parent_pid:  # not a forked copy of it
            _abandon(batches)


def _describe_death(dead: list[Any]) -> str:
    killed = {-worker.exitcode for worker in dead if (worker.exitcode or 0) < 0}
    names = {int(known): known.name for known in signal.Signals}
    how = "it ended" if not dead else f"process {dead[0].pid} ended with exit code {dead[0].exitcode}"
    if killed:
        shown = ", ".join(names.get(number, f"signal {number}") for number in sorted(killed))
        how = f"process {dead[0].pid} was killed by {shown}"
    if killed & {getattr(signal, "SIGBUS", None)}:
        return f"a loader process died: {how}, as where shared memory is full; {ADVICE}"
    return f"a loader process died: {how}; if memory ran out, use fewer runtime.workers"


# From process to process ----------------------------------------------------------------------------------------------


def packed(batch: Any) -> Any:
    """`collate_fn` of every DataLoader here: a named tuple whose tensors are where another process can reach them.

    Torch would move them to shared memory in a thread of its queue, where an error is printed and the batch is lost:
    with a full /dev/shm the main process would wait forever. Here they are moved at once, and where /dev/shm has no
    space they are sent through the queue's pipe, as numpy arrays.
    """
    if get_worker_info() is None or isinstance(batch, BatchFailure):
        return batch
    try:
        _share([value for value in batch if isinstance(value, torch.Tensor)])
        return batch
    except RuntimeError as error:
        values = tuple(value.numpy() if isinstance(value, torch.Tensor) else value for value in batch)
        return _Unshared(type(batch), values, str(error))


def _share(tensors: list[torch.Tensor]) -> None:
    for tensor in tensors:
        tensor.share_memory_()


class _Unshared(NamedTuple):
    """A batch whose values are numpy arrays, which are sent through a pipe."""

    kind: Any
    values: tuple[Any, ...]
    reason: str


_warned: set[str] = set()


def _unpacked(batch: Any) -> Any:
    if not isinstance(batch, _Unshared):
        return batch
    if not _warned:
        _warned.add(batch.reason)
        logger.warning(
            "warning: /dev/shm has no space for batches of loader processes (%s); they are sent through a pipe, which "
            "is slower. To avoid this: %s",
            batch.reason.splitlines()[0],
            ADVICE,
        )
    values = (torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in batch.values)
    return batch.kind(*values)
