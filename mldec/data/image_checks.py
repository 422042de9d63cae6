"""Images as files: their sizes, those that cannot be read, and those that are the same twice, or nearly."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mldec.data.image import decode, read_size
from mldec.data.own.duplicates import Signature, near_pairs, signature
from mldec.data.stratify import joined
from mldec.errors import DataError
from mldec.untrusted import open_regular

SIDE = 256  # pixels of the shorter side at which JPEGs are decoded: all of their data is read, most of it not computed
CHUNK = 2**20  # bytes read at a time
END = 2**10  # bytes at the beginning and at the end by which files of one size are told apart

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True)
class ImageCheck:
    """What is found of an image: (width, height) in pixels, upright, and a signature, or why it cannot be read."""

    size: tuple[int, int] | None
    error: str = ""
    signature: Signature | None = None


def check_images(
    paths: Sequence[str], *, workers: int, on_done: Callable[[int], None] = lambda count: None
) -> list[ImageCheck]:
    """Decode images in `workers` threads; OpenCV decodes without Python's lock. `on_done` is called as each is done."""
    return list(in_threads(_check, paths, workers=workers, on_done=on_done))


def in_threads(
    work: Callable[[Item], Found], items: Iterable[Item], *, workers: int, on_done: Callable[[int], None]
) -> Iterator[Found]:
    """`work` of each item, in order; `on_done` is called as each is done. What has not begun is not, after an error."""
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        for found in pool.map(work, items):
            on_done(1)
            yield found
    finally:
        pool.shutdown(cancel_futures=True)


def same_files(paths: Sequence[str]) -> list[list[int]]:
    """Groups of places in `paths` whose files have the same content, byte for byte, in order of their first.

    The sizes of all files are read; of those of the same size both ends are read, and all of those whose ends are
    the same, too. What cannot be read is in no group. For 20,000 photographs on a local disk that takes 0.3 to
    0.6 s, and the time of reading what is the same.
    """

    def size(path: str) -> int | None:
        try:
            return os.stat(path).st_size
        except (OSError, ValueError):
            return None

    groups = [list(range(len(paths)))]
    for key in (size, _ends, _digest):
        alike: dict[Any, list[int]] = defaultdict(list)
        for number, group in enumerate(groups):
            for place in group:
                if (found := key(paths[place])) is not None:
                    alike[number, found].append(place)
        groups = [group for group in alike.values() if len(group) > 1]
    return sorted(groups)


def near_groups(checks: Sequence[ImageCheck]) -> list[list[int]]:
    """Groups of places in `checks` whose images are near-duplicates, see `mldec.data.own.duplicates`."""
    known = [replace(one.signature, row=place) for place, one in enumerate(checks) if one.signature is not None]
    groups: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(joined(len(checks), near_pairs(known)).tolist()):
        groups[group].append(place)
    return sorted(group for group in groups.values() if len(group) > 1)


def _check(path: str) -> ImageCheck:
    try:
        size = read_size(path)
        found = signature(decode(path, min_side=SIDE))
    except DataError as error:
        return ImageCheck(None, str(error))
    return ImageCheck(size, signature=found)


def _ends(path: str) -> bytes | None:
    try:
        with open_regular(path) as file:
            first = file.read(END)
            file.seek(-min(END, len(first)), os.SEEK_END)
            return first + file.read(END)
    except (OSError, DataError):
        return None


def _digest(path: str) -> bytes | None:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open_regular(path) as file:
            while part := file.read(CHUNK):
                digest.update(part)
    except (OSError, DataError):
        return None
    return digest.digest()
