"""The files and bytes that `mldec data shrink` will write, determined before the first image."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mldec.data.folder import SUFFIXES
from mldec.data.index import ImageIndex
from mldec.errors import DataError

BYTES_PER_PIXEL = 0.5  # of a JPEG at quality 90, of photographs
ASPECT = 1.5  # the longer side of an image is taken to be this many times the shorter one


@dataclass(frozen=True)
class Plan:
    """The content of a dataset's folder beside its images.

    Attributes:
        files: regular files to be copied, by their paths relative to the folder, sorted.
        left_out: a sentence for each thing that is not copied.
        size: bytes that the new dataset will need, images included, about.
    """

    files: tuple[str, ...]
    left_out: tuple[str, ...]
    size: int


def survey(source: str, target: Path, indexes: Collection[ImageIndex], *, side: int) -> Plan:
    """List a dataset's folder and check that its smaller form fits on the disk.

    Regular files are copied, and links to regular files that lie in the folder. Other links are left out, since what
    they lead to is no part of the dataset, and so are devices, pipes and sockets, which may never end.

    Args:
        source: the dataset's folder.
        target: the new dataset's, which need not exist; files that it holds already need no more space.
        side: of the new images in pixels.

    Raises:
        DataError: the disk has less free space than needed; the message has both figures.
    """
    files, left_out, size = [], [], 0
    roots = [os.path.join(os.path.abspath(index.root), "") for index in indexes]
    for path, status, problem in _entries(source):
        if problem is None and status is not None:
            files.append(path)
            size += 0 if (target / path).exists() else status.st_size
        elif not any(root.startswith(os.path.join(os.path.abspath(source), path, "")) for root in roots):
            left_out.append(f"{path}: {problem}, not copied")
    for index in indexes:
        for name in index.names():
            new = target / os.path.relpath(index.root, os.path.abspath(source)) / name
            if not new.exists():
                size += min(_size(os.path.join(index.root, name)), int(side * side * ASPECT * BYTES_PER_PIXEL))
    _check_space(target, size)
    return Plan(tuple(sorted(files)), tuple(sorted(left_out)), size)


def _entries(source: str) -> Iterator[tuple[str, os.stat_result | None, str | None]]:
    """Path relative to `source`, status and the reason not to copy it, of all that is no image and not hidden."""
    home = os.path.realpath(source)
    waiting = [source]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from None
        for entry in entries:
            path = os.path.relpath(entry.path, source)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_dir():
                yield path, None, "a link to a folder"
            elif os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
                yield path, *_judge(entry, home)


def _judge(entry: os.DirEntry[str], home: str) -> tuple[os.stat_result | None, str | None]:
    try:
        status = entry.stat()
    except OSError:
        return None, "a link that leads nowhere"
    if not stat.S_ISREG(status.st_mode):
        return status, "not a regular file but a device, a pipe or a socket"
    if entry.is_symlink() and not os.path.realpath(entry.path).startswith(os.path.join(home, "")):
        return status, "a link to a file outside of the folder"
    return status, None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0  # it is missing, which is reported when it is copied


def _check_space(target: Path, size: int) -> None:
    path = target.absolute()
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    if size > free:
        raise DataError(
            f"output={target}: about {size / 2**30:,.1f} GiB are needed and {free / 2**30:,.1f} GiB are free; use a "
            "folder on another disk, or a smaller side"
        )
