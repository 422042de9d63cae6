"""TensorBoard's curves and images of a run, written in such a way that they can fail without the run.

The writer that comes with TensorBoard writes in a thread of its own. Where the disk is full that prints a traceback,
and the exception comes out of whatever is recorded next, also of the end of the run. Here events are written at once:
where that fails, there is one warning, and the run goes on without.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_numbers = itertools.count()


class Board:
    """The curves of a run in `folder`. What lies behind step `purge_step` of an earlier part is not shown any more."""

    def __init__(self, folder: Path, *, purge_step: int | None = None) -> None:
        self.folder = folder
        self._writer: Any = None
        self._attempt(lambda: self._open(purge_step))

    def write(self, how: Callable[[Any], object]) -> None:
        """Give the SummaryWriter to `how`; nothing where writing has failed before."""
        if self._writer is not None:
            self._attempt(lambda: how(self._writer))

    def close(self) -> None:
        self.write(lambda writer: writer.close())
        self._writer = None

    def _open(self, purge_step: int | None) -> None:
        self._writer = _summary_writer(self.folder, purge_step)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self._writer = None
            logger.warning(
                "warning: no curves can be written to %s any more (%s); the run goes on without them, metrics.jsonl "
                "has the same figures",
                self.folder,
                error.strerror or error,
            )


def _summary_writer(folder: Path, purge_step: int | None) -> Any:
    """A SummaryWriter of torch over an `_EventFile`."""
    # Half a second of imports, only where curves are wanted.
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
    from torch.utils.tensorboard import FileWriter, SummaryWriter

    class Files(FileWriter):
        def __init__(self) -> None:
            self.event_writer = _EventFile(folder)

    class Writer(SummaryWriter):
        def _get_file_writer(self: Any) -> Any:
            if self.file_writer is None:
                self.file_writer = Files()
                self.all_writers = {str(folder): self.file_writer}
                if purge_step is not None:
                    self.file_writer.add_event(Event(step=purge_step, file_version="brain.Event:2"))
                    log = SessionLog(status=SessionLog.START)
                    self.file_writer.add_event(Event(step=purge_step, session_log=log))
            return self.file_writer

    return Writer(str(folder))


class _EventFile:
    """What TensorBoard's EventFileWriter is, without a thread and without a buffer."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        folder.mkdir(parents=True, exist_ok=True)
        name = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._folder = folder
        self._file = (folder / f"events.out.tfevents.{name}").open("xb", buffering=0)
        self._records = RecordWriter(self)
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def get_logdir(self) -> str:
        return str(self._folder)

    def add_event(self, event: Any) -> None:
        self._records.write(event.SerializeToString())

    def write(self, content: bytes) -> None:
        """Raises OSError where not all of it can be written."""
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._file.close()
