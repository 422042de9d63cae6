"""Whether every image can be used: each is opened and decoded in full, before a training would stop at it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2

from mldec.data.exclusions import quoted
from mldec.data.folder_tree import is_image_name
from mldec.data.image import decode
from mldec.data.index import ImageIndex
from mldec.data.workers import held_back, start_pool_worker
from mldec.errors import DataError, printable
from mldec.files import write_text

CHUNK = 64  # images that a process takes at a time
Found = TypeVar("Found")


@dataclass(frozen=True)
class Problem:
    """An image that cannot be used, by its absolute path, and why."""

    path: str
    reason: str


def for_each_image(
    index: ImageIndex,
    work: Callable[[ImageIndex, int], Found | None],
    *,
    workers: int,
    on_done: Callable[[int], None],
) -> list[Found]:
    """Call `work(index, row)` for every image in `workers` processes and collect what it returns, in order of rows.

    Args:
        work: a function that can be pickled, and what it returns, too; None is left out.
        on_done: called with the number of images finished since its last call.

    Raises:
        DataError: a process died, which an image can cause; the message names the images around it.
    """
    results: list[Found] = []
    pool = ProcessPoolExecutor(max(1, workers), initializer=_start, initargs=(index, work))
    row = -1
    try:
        with held_back():  # pools start their processes with the first piece of work
            returned = pool.map(_work_on, range(len(index)), chunksize=CHUNK)
        for row, result in enumerate(returned):  # noqa: B007
            results += [] if result is None else [result]
            on_done(1)
    except BrokenProcessPool:
        last = min(row + CHUNK, len(index) - 1)
        raise DataError(
            f"a process died on one of the images {index.name(row + 1)} to {index.name(last)}, or on one soon after: "
            "an image crashes the decoder, or memory ran out; use workers=1 to narrow it down"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def verify(index: ImageIndex, *, workers: int, on_done: Callable[[int], None] = lambda count: None) -> list[Problem]:
    """Decode every image, in parallel. Returns those that are missing or broken, in order of rows."""
    return for_each_image(index, _check, workers=workers, on_done=on_done)


def unlisted_images(indexes: Iterable[ImageIndex]) -> list[str]:
    """Absolute paths, sorted, of images that lie in a folder with listed ones and are in none of `indexes`."""
    listed: dict[str, set[str]] = {}
    for index in indexes:
        for name in index.names():
            folder, base = os.path.split(name)
            listed.setdefault(os.path.normpath(os.path.join(index.root, folder)), set()).add(base)
    found = []
    for folder, names in listed.items():
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                others = (entry.name for entry in entries if entry.name not in names and entry.is_file())
                others = (name for name in others if not name.startswith("."))  # hidden, or added by macOS
                found += [os.path.join(folder, n) for n in others if is_image_name(n)]
    return sorted(found)


def write_list(problems: Sequence[Problem], path: Path) -> None:
    """Write a line for each problem: path, as a list of exclusions has it, tab, reason."""
    lines = (f"{quoted(problem.path)}\t{printable(' '.join(problem.reason.split()))}\n" for problem in problems)
    write_text(path, "".join(lines))


# In a worker ----------------------------------------------------------------------------------------------------------

_task: tuple[ImageIndex, Callable[[ImageIndex, int], Any]]


def _start(index: ImageIndex, work: Callable[[ImageIndex, int], Any]) -> None:
    global _task
    _task = index, work
    cv2.setNumThreads(0)
    start_pool_worker()


def _work_on(row: int) -> Any:
    index, work = _task
    return work(index, row)


def _check(index: ImageIndex, row: int) -> Problem | None:
    try:
        decode(index.path(row))
    except DataError as error:
        return Problem(index.path(row), str(error))
    return None
