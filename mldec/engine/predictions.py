"""Predictions on disk: in a journal while they are made, at the end in the formats of `mldec predict format=`.

jsonl     one image per line: {"path": …, "labels": {label: score}}, the best first; with scores=all also "scores"
csv       one label per row: path, label, score; an image without labels has one row, with both empty.
          with scores=all one image per row, and a column with the score of each label
parquet   as csv

The journal is written batch by batch and outlives whatever ends the work early. The same command resumes from it;
images that changed since they were scored are scored again.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mldec.data.parquet_file import import_pyarrow
from mldec.engine.predictor import Prediction
from mldec.engine.run_directory import write_csv
from mldec.errors import ConfigError, DataError, RunError
from mldec.files import lock_file, replacing, without_links
from mldec.labels import LabelSpace

FORMATS = ("jsonl", "csv", "parquet")
ROWS = 20_000  # of Parquet that are held at a time

DIGESTS = ("labels", "values of the thresholds", "changed")  # settings that tell people nothing but that they differ

Record = dict[str, Any]  # path, and either labels and, if all are kept, scores (N,), or error
Stamp = list[int] | None  # by which a changed file is known


class Journal:
    """Records a line each, after a line of settings: `{"image": its number, "stamp": …, "record": …}`.

    Of several records of an image the last one counts. `records` gives them in the order of `paths`.

    Attributes:
        done: how many images have a record.
        broken: how many of these could not be read.
        changed: how many images of a resumed journal have changed since.
        remaining: numbers of the images without a record, in order; `add` takes them from the front.

    Args:
        path: the file.
        settings: what the records depend on beside the images.
        paths: the images, in order.
        resume: whether to continue an existing file. None: if it has the same settings and images.

    Raises:
        ConfigError: the file that is there is of other settings or images.
        RunError: another process is writing it.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], paths: Sequence[str], resume: bool | None = None
    ) -> None:
        self.path, self._paths, self.changed = path, paths, 0
        self._places: dict[int, int] = {}  # where the record of an image begins in the file, in bytes
        self._broken: set[int] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        head = (json.dumps({"settings": settings}) + "\n").encode()
        self._file = open(path, "a+b", opener=without_links)  # noqa: SIM115 (writes at the end, keeps what is there)
        try:
            if not lock_file(self._file, path):
                raise RunError(f"{path} is being written by another mldec predict; wait for it or name another output")
            end = 0 if resume is False else self._resume_from(head, paths)
        except BaseException:
            self._file.close()
            raise
        self._file.truncate(end)
        if not end:
            self._file.write(head)
            self._file.flush()
        self._end = end or len(head)
        self.remaining = deque(number for number in range(len(paths)) if number not in self._places)

    @property
    def done(self) -> int:
        return len(self._places)

    @property
    def broken(self) -> int:
        return len(self._broken)

    def add(self, records: Sequence[Record], stamps: Sequence[Stamp] | None = None) -> None:
        """Append the records of the next remaining images, with the `stamp` of each from before it was read."""
        lines = []
        for record, known in zip(records, stamps or [None] * len(records), strict=True):
            number = self.remaining.popleft()
            line = json.dumps({"image": number, "stamp": known, "record": record}).encode() + b"\n"
            self._keep(number, record, self._end)
            self._end += len(line)
            lines.append(line)
        self._file.write(b"".join(lines))
        self._file.flush()

    def records(self) -> Iterator[Record]:
        """All records, in the order of `paths`."""
        with self.path.open("rb") as file:
            for _, place in sorted(self._places.items()):
                file.seek(place)
                yield json.loads(file.readline())["record"]

    def _keep(self, number: int, record: Record, place: int) -> None:
        self._places[number] = place
        (self._broken.add if "error" in record else self._broken.discard)(number)

    def close(self, *, finished: bool = False) -> None:
        """Close the file; when all is `finished`, it goes."""
        self._file.close()
        if finished:
            self.path.unlink(missing_ok=True)

    def _resume_from(self, head: bytes, paths: Sequence[str]) -> int:
        """Count what the file holds, without a last line that was cut off. Returns where that ends, in bytes."""
        self._file.seek(0)
        first = self._file.readline()
        if not first.endswith(b"\n"):
            return 0  # cut off before anything was found, or new
        if first != head:
            raise ConfigError(self._refusal(f"with other settings ({_difference(first, head)})"))
        end, stamps = len(first), {}
        for line in self._file:
            entry = _entry(line)
            if entry is None:  # cut off, or damaged: what follows is found anew
                break
            number, known, record = entry
            if number >= len(paths) or record["path"] != paths[number]:
                raise ConfigError(self._refusal("of other images"))
            stamps[number] = known
            self._keep(number, record, end)
            end += len(line)
        for number, known in stamps.items():
            if known != stamp(paths[number]):
                self.changed += 1
                del self._places[number]
                self._broken.discard(number)
        return end

    def _refusal(self, why: str) -> str:
        return f"{self.path} holds a prediction {why} that was interrupted; resume=false throws it away and starts anew"


def stamp(path: str) -> Stamp:
    """What changes when a file is written or replaced: its size and times, in bytes and nanoseconds; None without one.

    The time of the last change of its inode is among them, which no tool sets back, as it may the other one.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _entry(line: bytes) -> tuple[int, Stamp, Record] | None:
    """The number of an image, its stamp and its record of a line of a journal; None if it is no whole line of one."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
        number, known, record = content["image"], content["stamp"], content["record"]
        sound = isinstance(record["path"], str) and isinstance(record.get("error", record.get("labels")), str | dict)
        return (number, known, record) if sound and type(number) is int and number >= 0 else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def to_record(answer: Prediction, labels: Mapping[str, float], *, keep_scores: bool) -> Record:
    """What is kept of an answer about a path."""
    if answer.scores is None:
        return {"path": str(answer.image), "error": answer.error}
    record: Record = {"path": str(answer.image), "labels": {name: _short(score) for name, score in labels.items()}}
    return record | {"scores": [_short(score) for score in answer.scores]} if keep_scores else record


def write(path: Path, form: str, records: Iterable[Record], labels: LabelSpace, *, all_scores: bool = False) -> None:
    """Write the records without an error in one of FORMATS, whole or not at all, a record at a time."""
    writer: Callable[..., None] = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}[form]
    sound = (record | {"path": readable(record["path"])} for record in records if "error" not in record)
    writer(path, sound, labels, all_scores)


def write_broken(path: Path, records: Iterable[Record]) -> None:
    """Write a CSV of the records with an error: path, reason. Where there are none, a file of earlier ones goes."""
    rows = [(readable(record["path"]), readable(record["error"])) for record in records if "error" in record]
    if rows:
        write_csv(path, ("path", "reason"), rows)
    else:
        path.unlink(missing_ok=True)


def readable(text: str) -> str:
    """A path as text for a file: bytes that are no UTF-8, which a name may hold, as their codes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _write_jsonl(path: Path, records: Iterable[Record], labels: LabelSpace, all_scores: bool) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            if all_scores:
                record["scores"] = dict(zip(labels.names, record["scores"], strict=True))
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_csv(path: Path, records: Iterable[Record], labels: LabelSpace, all_scores: bool) -> None:
    columns = labels.names if all_scores else ("label", "score")
    write_csv(path, ("path", *columns), _rows(records, all_scores))


def _write_parquet(path: Path, records: Iterable[Record], labels: LabelSpace, all_scores: bool) -> None:
    arrow, parquet = import_pyarrow()
    text, number = arrow.string(), arrow.float32()
    if all_scores:
        if "path" in labels.names:
            raise DataError("format=parquet scores=all: a label is called path, as the column of the images is")
        columns = [("path", text), *((name, number) for name in labels.names)]
    else:
        columns = [("path", text), ("label", text), ("score", number)]
    schema, rows = arrow.schema(columns), _rows(records, all_scores)
    most = max(1, ROWS * 3 // len(columns))
    with replacing(path) as partial, parquet.ParquetWriter(partial, schema) as file:
        for block in iter(lambda: list(itertools.islice(rows, most)), []):
            cells = zip(*block, strict=True)
            arrays = [arrow.array(column, field.type) for column, field in zip(cells, schema, strict=True)]
            file.write_table(arrow.table(arrays, schema=schema))


def _rows(records: Iterable[Record], all_scores: bool) -> Iterator[tuple[Any, ...]]:
    for record in records:
        if all_scores:
            yield (record["path"], *record["scores"])
        elif record["labels"]:
            yield from ((record["path"], name, score) for name, score in record["labels"].items())
        else:
            yield record["path"], None, None


def _short(score: float) -> float:
    """The shortest number that is this float32: 0.98, not 0.9800000190734863."""
    return float(str(np.float32(score)))


def _difference(first: bytes, head: bytes) -> str:
    """Which settings differ, as a sentence."""
    try:
        then, now = json.loads(first)["settings"], json.loads(head)["settings"]
        differing = [key for key in now if then.get(key) != now[key]]
        named = [key for key in differing if key not in DIGESTS]
        typed = [f"{key}={then[key] or 'default'}, now {now[key] or 'default'}" for key in named]
        return ", ".join(typed or differing)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "no journal of mldec predict"
