"""metrics.jsonl: the records of a run, appended by MetricWriter, which also writes them to TensorBoard."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mldec.engine.board import Board
from mldec.engine.run_directory import finite_json, write_text
from mldec.errors import RunError, option
from mldec.untrusted import read_bytes

logger = logging.getLogger(__name__)

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
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a", encoding="utf-8")
        purge_step = step + 1 if step else None
        self._board = Board(run_dir / "tensorboard", purge_step=purge_step) if tensorboard else None

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
        self._show(step, lambda summary: [summary.scalar(name, value) for name, value in _scalars(kind, values)])

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Write an RGB image (H,W,3) uint8 to TensorBoard."""
        self._show(step, lambda summary: [summary.image(name, image, dataformats="HWC")])

    def label_histogram(self, name: str, counts: np.ndarray) -> None:
        """Write the frequency of N labels to TensorBoard, as a histogram over columns. `counts`: (N,) integers."""
        if counts.sum() > 0:
            columns = np.repeat(np.arange(len(counts)), np.maximum(1, counts * 100_000 // counts.sum()))
            edges = np.arange(len(counts) + 1)
            self._show(0, lambda summary: [summary.histogram(name, columns + 0.5, edges)])  # bin centres

    def precision_recall(self, name: str, scores: np.ndarray, targets: np.ndarray, step: int) -> None:
        """Write a precision-recall curve of scores and 1/0/-1 targets of one shape; unknown targets are skipped."""
        known = targets >= 0
        if (targets[known] == 1).any():
            self._show(step, lambda summary: [summary.pr_curve(name, targets[known].astype(bool), scores[known])])

    def _show(self, step: int, make: Callable[[Any], Iterable[Any]]) -> None:
        if self._board is not None:
            self._board.write(step, make)

    def sync(self) -> None:
        """Sync the records to disk. Called before a checkpoint of the same step is written."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close both outputs. Records were flushed when written, and errors raised then."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._board is not None:
            self._board.close()


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
