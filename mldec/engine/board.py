"""TensorBoard's curves and images of a run, written in such a way that they can fail without the run.

The writer that comes with TensorBoard writes in a thread of its own. Where the disk is full that prints a traceback,
and the exception comes out of whatever is recorded next, also of the end of the run. Here events are written at once:
where that fails, there is one warning, and the run continues without them.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_numbers = itertools.count()


class Board:
    """The curves of a run in `folder`. What an earlier part of the run wrote from step `purge_step` on is not shown."""

    def __init__(self, folder: Path, *, purge_step: int | None = None) -> None:
        self.folder = folder
        self._records: Any = None  # None: nothing could be written, or can be any more
        with self._one_warning():
            self._open(purge_step)

    def write(self, step: int, make: Callable[[Any], Iterable[Any]]) -> None:
        """Write the summaries that `make` makes with torch.utils.tensorboard.summary."""
        if self._records is None:
            return
        from torch.utils.tensorboard import summary

        with self._one_warning():
            for made in make(summary):
                self._add(step=step, summary=made)

    def close(self) -> None:
        if self._records is not None:
            self._records.close()

    def _open(self, purge_step: int | None) -> None:
        # Half a second of imports, only where curves are wanted.
        from tensorboard.compat.proto.event_pb2 import SessionLog  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._records = RecordWriter(_EventFile(self.folder / f"events.out.tfevents.{name}", "xb"))
        self._add(file_version="brain.Event:2")
        if purge_step is not None:
            self._add(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def _add(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    @contextlib.contextmanager
    def _one_warning(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._records = None
            logger.warning(
                "warning: no curves can be written to %s any more (%s); the run continues without them, metrics.jsonl "
                "has the same values",
                self.folder,
                error.strerror or error,
            )


class _EventFile(io.FileIO):
    """A file without a buffer, which writes all that it is given or raises OSError."""

    def write(self, content: Any) -> int:
        left = memoryview(content)
        while left:
            left = left[super().write(left) :]
        return len(content)
