"""metrics.jsonl: the records of a run, appended by MetricWriter, which also writes them to TensorBoard.

TensorBoard's curves can fail without the run. The writer that comes with TensorBoard writes in a thread of its own.
Where the disk is full that prints a traceback, and the exception comes out of whatever is recorded next, also of the
end of the run. Here events are written at once: where that fails, there is one warning, and the run continues.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mldec.engine.run_directory import finite_json
from mldec.errors import RunError, option
from mldec.files import write_text
from mldec.untrusted import read_bytes

logger = logging.getLogger(__name__)

_numbers = itertools.count()  # of TensorBoard files

MOST_RECORDS = 2**30  # bytes of metrics.jsonl: millions of records


def is_complete(run_dir: Path) -> bool:
    """Whether a run has finished: its records include that of the test split."""
    return any(record.get("kind") == "test" for record in read_records(run_dir / "metrics.jsonl"))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The valid records of a metrics.jsonl. Damaged lines are skipped with a warning."""
    records, damaged = scan_records(path)
    if damaged:
        logger.warning("warning: %s", describe_damaged(path, damaged))
    return records


def best_on_val(records: Iterable[Mapping[str, Any]]) -> float | None:
    """The best value of a run's main metric on val, in percent; None where none is defined."""
    values = (record.get("best") for record in records if record["kind"] == "eval")
    return max((value for value in values if isinstance(value, int | float)), default=None)


def scan_records(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The valid records of a metrics.jsonl, and the numbers of its damaged lines.

    An unterminated last line, left by a crash, does not count as damaged. A record is an object with `kind`, `step`
    and, for an evaluation, `epoch`. Raises DataError unless the file is regular and has at most MOST_RECORDS bytes.
    """
    if not path.exists():
        return [], []
    lines = read_bytes(path, most=MOST_RECORDS).split(b"\n")
    records, damaged = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if _is_record(record):
            records.append(record)
        elif number < len(lines):
            damaged.append(number)
    return records, damaged


def describe_damaged(path: Path, lines: list[int]) -> str:
    """A sentence that names the damaged lines of a file."""
    shown = ", ".join(map(str, lines[:5])) + (", …" if len(lines) > 5 else "")
    return f"{path} is damaged: {len(lines)} lines are skipped (line {shown})"


class MetricWriter:
    """Appends records to metrics.jsonl and writes their numbers to TensorBoard.

    Args:
        run_dir: the run directory.
        tensorboard: whether to write TensorBoard files.
        step, evaluations: where a run resumes. Later records are removed first, so that no step is recorded twice.
    """

    def __init__(self, run_dir: Path, *, tensorboard: bool, step: int = 0, evaluations: int = 0) -> None:
        self._path = path = run_dir / "metrics.jsonl"
        kept = [record for record in read_records(path) if _is_before(record, step, evaluations)]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept), sync=True)
        self._file = path.open("a", encoding="utf-8")
        purge_step = step + 1 if step else None
        self._board = Board(run_dir / "tensorboard", purge_step=purge_step, enabled=tensorboard)

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one record. Its numbers become TensorBoard scalars at `step`; nested ones are named by their path.

        Raises RunError if the record cannot be written, for example on a full disk.
        """
        try:
            self._file.write(json.dumps(finite_json({"kind": kind, "step": step, **values})) + "\n")
            self._file.flush()
            if kind != "train":
                self.sync()
        except OSError as error:
            raise RunError(
                f"cannot write {self._path}: {error.strerror}; earlier checkpoints are kept. Free some disk space, "
                f"then continue with {option('resume', self._path.parent)}"
            ) from error
        scalars = _scalars(kind, values)
        self._board.write(step, lambda summary: [summary.scalar(name, value) for name, value in scalars])

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Write an RGB image (H,W,3) uint8 to TensorBoard."""
        self._board.write(step, lambda summary: [summary.image(name, image, dataformats="HWC")])

    def label_histogram(self, name: str, counts: np.ndarray) -> None:
        """Write the frequency of N labels to TensorBoard, as a histogram over columns. `counts`: (N,) integers."""
        if counts.sum() > 0:
            columns = np.repeat(np.arange(len(counts)), np.maximum(1, counts * 100_000 // counts.sum()))
            edges = np.arange(len(counts) + 1)
            self._board.write(0, lambda summary: [summary.histogram(name, columns + 0.5, edges)])  # bin centres

    def precision_recall(self, name: str, scores: np.ndarray, targets: np.ndarray, step: int) -> None:
        """Write a precision-recall curve of scores and 1/0/-1 targets of one shape; unknown targets are skipped."""
        known = targets >= 0
        present = targets[known] == 1
        if present.any():
            self._board.write(step, lambda summary: [summary.pr_curve(name, present, scores[known])])

    def sync(self) -> None:
        """Sync the records to disk. Called before a checkpoint of the same step is written."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close both outputs. Records were flushed when written, and errors raised then."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._board.close()


class Board:
    """The curves of a run in `folder`. What an earlier part of the run wrote from step `purge_step` on is not shown.

    Args:
        enabled: False writes nothing.
    """

    def __init__(self, folder: Path, *, purge_step: int | None = None, enabled: bool = True) -> None:
        self.folder = folder
        self._records: Any = None  # None: nothing is written, or can be any more
        if enabled:
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


def _is_before(record: Mapping[str, Any], step: int, evaluations: int) -> bool:
    if record["kind"] == "train":
        return bool(record["step"] <= step)
    return record["kind"] == "eval" and bool(record["epoch"] <= evaluations)


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return False
    needed = ("step", "epoch") if record["kind"] == "eval" else ("step",)
    return all(isinstance(record.get(key), int) and not isinstance(record[key], bool) for key in needed)


def _scalars(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _scalars(f"{prefix}/{name}", value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((f"{prefix}/{name}", float(value)))
    return found
