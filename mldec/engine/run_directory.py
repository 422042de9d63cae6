"""The layout of a run directory, how its files are written and read, and its lock: one training at a time.

The system gives the lock up when the process dies, however it dies.

config.yaml        the resolved experiment
environment.json   versions, commit, device, command line
data.json          number of images and labels, and fingerprint, of each split
cost.json          seconds and peak memory
metrics.jsonl      records: `train` every few steps, `eval` every epoch, `test` at the end
tensorboard/       the same records as curves
thresholds.csv     the tuned threshold of each label, for people; best.pt holds them too
per_class_ap.csv   average precision of each label on the test split
images/            sheets of training images and of predictions
checkpoints/       last.pt, best.pt
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import itertools
import json
import logging
import math
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mldec.errors import ConfigError, DataError, counted, first_lines, printable_name
from mldec.files import is_open_file, lock_file, refuse_linked, replacing, sync_folder, without_links, write_text
from mldec.labels import to_cell
from mldec.untrusted import read_json

logger = logging.getLogger(__name__)

LOCK = ".running"  # says who holds the lock; where a run was killed it stays, and means nothing then
WRITTEN = ("checkpoints", "images", "tensorboard", "profile")  # subdirectories of a run directory
MOST_JSON = 2**24  # bytes of environment.json, data.json, cost.json; each has a few thousand

_held: set[int] = set()  # descriptors of locks


def make_run_directory(output: str, name: str, run_dir: str | None = None) -> Path:
    """Create and return the directory of a new run: `run_dir`, or `<output>/<name>/<date>_<time>`, numbered if taken.

    Raises FileExistsError if `run_dir` already contains a run.
    """
    if run_dir is not None:
        directory = Path(run_dir).expanduser()
        if any((directory / "checkpoints").glob("*.pt")):
            raise FileExistsError(str(directory))
        directory.mkdir(parents=True, exist_ok=True)
        sync_folder(directory.parent)
        return directory
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent = Path(output).expanduser() / name
    for number in range(1, 1000):
        directory = parent / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        sync_folder(parent)
        return directory
    raise FileExistsError(str(parent / stamp))


def checkpoint_path(run_dir: Path, name: str) -> Path:
    """The checkpoint called `name` ("best" or "last") of a run directory."""
    return run_dir / "checkpoints" / f"{name}.pt"


def is_record(path: Path) -> bool:
    """Whether `path` is a table or record that mldec wrote into a run directory, which no other output may replace."""
    if path.name not in ("metrics.jsonl", "thresholds.csv", "per_class_ap.csv") or not path.exists():
        return False
    return any((folder / "config.yaml").is_file() for folder in path.resolve().parents)


def run_directory_of(checkpoint: Path) -> Path:
    """The run directory of a checkpoint file; for any other file, the directory that contains it."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def runs_within(folder: Path) -> str:
    """For an error about a folder that is no run directory: the runs up to two levels below it, the newest first.

    "" if there are none.
    """
    found = sorted(
        {path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/config.yaml")}, reverse=True
    )
    if not found:
        return ""
    more = f", and {len(found) - 5:,} more" if len(found) > 5 else ""
    return f"; it holds {counted(len(found), 'run')}, name one: {', '.join(map(printable_name, found[:5]))}{more}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON, synced to disk, whole or not at all; numbers that are not finite become null."""
    write_text(path, json.dumps(finite_json(content), indent=2, ensure_ascii=False) + "\n", sync=True)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], *, sync: bool = False) -> None:
    """Write a CSV in UTF-8, whole or not at all, a row at a time; with `sync` as `files.write_text`.

    Text that a spreadsheet would read as a formula gets a leading apostrophe (`labels.to_cell`).
    """
    with replacing(path, sync=sync) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for row in itertools.chain([header], rows):
            writer.writerow([to_cell(cell) if isinstance(cell, str) else cell for cell in row])


def read_metadata(path: Path) -> dict[str, Any]:
    """Read a file of `write_json` that only documents a run: {} if it does not exist or, with a warning, is damaged."""
    if not path.exists():
        return {}
    try:
        content = read_json(path, most=MOST_JSON)
        if isinstance(content, dict):
            return content
        reason = "it holds no object"
    except DataError as error:  # an empty file after a power cut, for example
        reason = first_lines(error).removeprefix(f"{path}: ")
    logger.warning("warning: %s is damaged (%s); it is ignored", path, reason)
    return {}


def is_data(data: Any) -> bool:
    """Whether `data` has the form of data.json: images, labels and fingerprint by split."""
    kinds = {"images": int, "labels": int, "fingerprint": str}
    return isinstance(data, dict) and all(
        isinstance(split, dict) and all(isinstance(split.get(key), kind) for key, kind in kinds.items())
        for split in data.values()
    )


def finite_json(value: Any) -> Any:
    """`value` with nan and infinities, which JSON does not have, as None: the mAP over no class, for example."""
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# The lock -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a run directory within the block. Reading there is free to everybody. Its file is then removed.

    Raises ConfigError that names the process and host which hold it, if somebody does, and where the file of the lock
    is a symbolic link or anything else but a regular file, or a subdirectory that training writes to is a link.
    """
    refuse_linked(folder, WRITTEN)
    if os.name != "posix":
        yield
        return
    descriptor = _take_lock(folder)
    try:
        os.ftruncate(descriptor, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode(), 0)
        yield
        with contextlib.suppress(OSError):
            os.unlink(folder / LOCK)  # while it is held
    finally:
        _give_up(descriptor)


@contextlib.contextmanager
def wait_for_lock(folder: Path) -> Iterator[None]:
    """Hold a lock of a run directory that several runs start from: one trains it, and the others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", opener=without_links) as lock:
        lock_file(lock, folder, wait=True)
        yield


def _take_lock(folder: Path) -> int:
    """The descriptor of the locked file. Raises ConfigError if another process has it."""
    while True:
        descriptor = without_links(folder / LOCK, os.O_RDWR | os.O_CREAT)
        _held.add(descriptor)
        try:
            if not lock_file(descriptor, folder):
                holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
                raise ConfigError(
                    f"{folder} is in use by another run: {holder or 'a process that has just begun'}. Wait until that "
                    "has ended, or stop it; a run beside it needs a run_dir of its own"
                )
            if is_open_file(descriptor, folder / LOCK):
                return descriptor
        except BaseException:
            _give_up(descriptor)
            raise
        _give_up(descriptor)  # of a file that its holder removed between the two calls: another one counts now


def _give_up(descriptor: int) -> None:
    _held.discard(descriptor)
    os.close(descriptor)


def _close_copies() -> None:
    # A lock belongs to the open file, which a forked loader process shares: it must not outlive the main process.
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)
