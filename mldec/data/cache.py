"""The index on disk: built once from a dataset's annotations, then opened in an instant and shared by all processes.

A cache file is named by dataset, split and a key: a digest of the settings that shape the index and of the size and
time of change of each source. Other sources or settings have another name, so nothing stale is ever opened. The file is
written beside its place and renamed, and carries checksums; a damaged one is built anew.

It lies in the first of these that can be written: `dataset.cache`, or else the folder that MLDEC_CACHE names,
`<dataset.root>/.mldec/`, `~/.cache/mldec/`. All of them may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import logging
import os
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from mldec.data.dataset import DatasetConfig, missing_pictures, name_some
from mldec.data.index import ImageIndex, Ragged
from mldec.errors import DataError
from mldec.labels import LabelSpace

logger = logging.getLogger(__name__)

VERSION = 3  # part of every key: raise it when the format, or what any dataset reads, changes
EXCLUDED = "excluded.txt"
ABANDONED_SECONDS = 3600

#: Settings that do not shape the index. What `root` holds is told by the sources.
NEUTRAL = frozenset({"root", "image_size", "crop", "interpolation", "on_error", "scaled_decoding", "cache"})

MAGIC = b"mldecidx"
TAIL = struct.Struct("<QI8s")  # length and crc32 of the footer, then MAGIC
BLOCK_WORDS = 2**17  # checksums are taken over blocks of 1 MiB
LISTS = ("paths", "positives", "negatives", "unknown")


def cached(config: DatasetConfig, split: str, sources: Sequence[str], read: Callable[[], ImageIndex]) -> ImageIndex:
    """The index of a split, from its cache file or else from `read()`, memory-mapped.

    What is common to all datasets happens here, before the file is written: excluded pictures are left out
    (`config.exclude`), those that do not exist found (`config.missing`), those without a label dropped
    (`config.unannotated`).

    Args:
        sources: files and folders of which each change means another index. Of a folder, its time of change counts,
            that is files added or taken away.
        read: builds the index from the sources; only called if there is no sound cache file.

    Raises:
        DataError: from `read`, for missing pictures, or if no picture is left.
    """
    exclusions = exclusion_file(config)
    if exclusions:
        logger.info("leaving out the pictures that %s lists", exclusions)
    watched = [*sources, *([exclusions] if exclusions else [])]
    name = f"{config.name}-{split}-{_key(config, split, watched)}.index"
    folders = cache_folders(config)
    for folder in folders:
        index = _open_sound(os.path.join(folder, name), config.folder)
        if index is not None:
            return index
    index, gaps = _without_missing(_without_excluded(read(), config.folder, exclusions), config)
    if config.unannotated == "drop":
        if not index.positives.counts.any():
            raise DataError(f"{index.root}: no picture with a label; dataset.unannotated=keep keeps those without")
        index = index.drop_unannotated()
    for folder in folders:
        try:
            return save_index(index, os.path.join(folder, name), config.folder, gaps)
        except OSError as error:
            problem = error
    logger.warning("warning: the index of %s is not kept, no folder can be written: %s", config.name, problem)
    return index


def cache_folders(config: DatasetConfig) -> list[str]:
    """Where cache files of a dataset may lie, best first."""
    if config.cache is not None:
        return [os.path.expanduser(config.cache)]
    if named := os.environ.get("MLDEC_CACHE"):
        return [named]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [os.path.join(config.folder, ".mldec"), os.path.join(home, "mldec")]


def exclusion_file(config: DatasetConfig) -> str | None:
    """The list of pictures to leave out, if there is one. Raises DataError if one is named and missing."""
    if config.exclude is not None:
        path = os.path.expanduser(config.exclude)
        if not os.path.isfile(path):
            raise DataError(f"dataset.exclude={config.exclude}: no such file; null leaves nothing out")
        return path
    path = os.path.join(config.folder, EXCLUDED)
    return path if os.path.isfile(path) else None


def read_exclusions(path: str) -> set[str]:
    """The pictures that a list leaves out, by their normalised paths relative to the dataset's folder."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return {os.path.normpath(line.strip()) for line in file if line.strip() and not line.startswith("#")}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of pictures, one a line: {error}") from None


@dataclasses.dataclass(frozen=True)
class Gaps:
    """Pictures that an index goes on without, since they were missing when it was built (dataset.missing=drop).

    Attributes:
        missing, listed: how many were missing, of how many.
        folders: by their place below the index's root, when the folders that lacked some had last changed, in
            nanoseconds; None: there was no such folder. Another time means that more pictures may have come.
    """

    missing: int
    listed: int
    folders: dict[str, int | None]

    def filled(self, root: str) -> bool:
        """Whether some of those folders have changed since."""
        return any(_changed(os.path.join(root, place)) != when for place, when in self.folders.items())


def save_index(index: ImageIndex, path: str, base: str, gaps: Gaps | None = None) -> ImageIndex:
    """Write `index` whole or not at all, and open it.

    Args:
        base: the folder from which its root is noted relatively, so that a dataset may be moved with its cache.
        gaps: what it lacks; `cached` builds it anew when that comes.

    Raises:
        OSError: the folder cannot be written, or is full.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _remove_abandoned(path)
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        with open(partial, "xb") as file:
            footer = {
                "version": VERSION,
                "root": os.path.relpath(index.root, os.path.abspath(base)),
                "labels": index.labels.names,
                "seen": index.labels.seen,
                "default": index.default,
                "gaps": None if gaps is None else dataclasses.asdict(gaps),
                "arrays": {name: _write_array(file, array) for name, array in _arrays(index)},
            }
            file.write(b"\0" * (-file.tell() % 8))
            file.flush()
            footer["checksum"] = _checksum(partial, file.tell())
            content = json.dumps(footer, ensure_ascii=False).encode()
            file.write(content)
            file.write(TAIL.pack(len(content), zlib.crc32(content), MAGIC))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise
    return open_index(path, base)


def open_index(path: str, base: str) -> ImageIndex:
    """Map an index that `save_index` wrote.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged; says how.
    """
    return _open(path, base)[0]


def _open(path: str, base: str) -> tuple[ImageIndex, Gaps | None]:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if size < TAIL.size:
            raise ValueError("cut short")
        file.seek(size - TAIL.size)
        length, crc, magic = TAIL.unpack(file.read(TAIL.size))
        if magic != MAGIC or length > size - TAIL.size:
            raise ValueError("cut short, or no index")
        end = size - TAIL.size - length
        file.seek(end)
        content = file.read(length)
    if zlib.crc32(content) != crc:
        raise ValueError("its footer is damaged")
    footer = json.loads(content)
    if footer["version"] != VERSION:
        raise ValueError(f"it has version {footer['version']}, not {VERSION}")
    if end % 8 or footer["checksum"] != _checksum(path, end):
        raise ValueError("its arrays are damaged")
    arrays = {name: _map_array(path, place) for name, place in footer["arrays"].items()}
    lists = {name: Ragged(arrays[f"{name}.offsets"], arrays[f"{name}.values"]) for name in LISTS}
    index = ImageIndex(
        root=os.path.normpath(os.path.join(os.path.abspath(base), footer["root"])),
        labels=LabelSpace(footer["labels"], footer["seen"]),
        default=footer["default"],
        confidence=arrays.get("confidence"),
        **lists,
    )
    return index, None if footer["gaps"] is None else Gaps(**footer["gaps"])


def _remove_abandoned(path: str) -> None:
    """Remove what writers of `path` left that were killed; a living one has changed its file within the hour."""
    for partial in glob.glob(f"{glob.escape(path)}.*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - os.path.getmtime(partial) > ABANDONED_SECONDS:
                os.unlink(partial)


def _key(config: DatasetConfig, split: str, sources: Sequence[str]) -> str:
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in NEUTRAL}
    places = []
    for source in sources:
        status = os.stat(source)
        place = os.path.relpath(os.path.abspath(source), os.path.abspath(config.folder))
        places.append((place, status.st_size, status.st_mtime_ns))
    content = json.dumps([VERSION, split, settings, places], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _open_sound(path: str, base: str) -> ImageIndex | None:
    """The index in a cache file; None if there is no such file, it is out of date, or damaged, which is said."""
    try:
        index, gaps = _open(path, base)
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, DataError) as error:
        logger.warning("warning: %s: %s; building it anew", path, error)
        return None
    if gaps is not None:
        if gaps.filled(index.root):
            logger.info("looking once more for the %s pictures that %s lacked", f"{gaps.missing:,}", index.root)
            return None
        _warn_of_gaps(gaps, index.root)
    return index


def _without_missing(index: ImageIndex, config: DatasetConfig) -> tuple[ImageIndex, Gaps | None]:
    if config.missing == "ignore":
        return index, None
    missing = missing_pictures(index)
    if not missing:
        return index, None
    found = (
        f"{index.root}: {len(missing):,} of the {len(index):,} pictures that the annotations list are missing "
        f"({name_some(map(index.name, missing), len(missing))})"
    )
    if len(missing) == len(index):
        raise DataError(f"{found}; type dataset.root=FOLDER with the one that their paths are relative to")
    if config.missing == "error":
        raise DataError(f"{found}; unpack the archive of pictures again, or go on without them: dataset.missing=drop")
    places = sorted({os.path.dirname(index.name(row)) for row in missing})
    gaps = Gaps(len(missing), len(index), {place: _changed(os.path.join(index.root, place)) for place in places})
    _warn_of_gaps(gaps, index.root)
    keep = np.ones(len(index), bool)
    keep[missing] = False
    return index.subset(np.flatnonzero(keep)), gaps


def _warn_of_gaps(gaps: Gaps, root: str) -> None:
    logger.warning(
        "warning: %s: %s of the %s pictures that the annotations list are missing; going on without them",
        root,
        f"{gaps.missing:,}",
        f"{gaps.listed:,}",
    )


def _changed(folder: str) -> int | None:
    """When files last came to or went from a folder, in nanoseconds; None if there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


def _without_excluded(index: ImageIndex, root: str, exclusions: str | None) -> ImageIndex:
    if exclusions is None:
        return index
    excluded = read_exclusions(exclusions)
    below = os.path.relpath(index.root, os.path.abspath(root))
    kept = [
        row for row, name in enumerate(index.names()) if os.path.normpath(os.path.join(below, name)) not in excluded
    ]
    if not kept:
        raise DataError(f"{exclusions}: leaves no picture of {index.root}; delete lines, or type dataset.exclude=FILE")
    return index if len(kept) == len(index) else index.subset(kept)


# The file: arrays at multiples of 64 bytes, then a JSON footer that says where they lie, then TAIL. ------------------


def _arrays(index: ImageIndex) -> Iterator[tuple[str, np.ndarray]]:
    for name in LISTS:
        lists: Ragged = getattr(index, name)
        yield f"{name}.offsets", lists.offsets
        yield f"{name}.values", lists.values
    if index.confidence is not None:
        yield "confidence", index.confidence


def _write_array(file: BinaryIO, array: np.ndarray) -> dict[str, Any]:
    """Write an array and return its place; the offsets of empty lists are one number repeated and need none."""
    place: dict[str, Any] = {"dtype": array.dtype.str, "shape": list(array.shape)}
    if array.strides == (0,):
        return place | {"zeros": True}
    file.write(b"\0" * (-file.tell() % 64))
    place["offset"] = file.tell()
    file.write(np.ascontiguousarray(array).data)
    return place


def _map_array(path: str, place: dict[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(place["dtype"]), tuple(place["shape"])
    if place.get("zeros"):
        return np.broadcast_to(dtype.type(0), shape)
    if 0 in shape:  # cannot be mapped
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", place["offset"], shape)


def _checksum(path: str, size: int) -> str:
    """A digest of the first `size` bytes (a multiple of 8) at the speed of memory: of the sum of each block's words."""
    if size == 0:
        return ""
    words = np.memmap(path, np.uint64, "r", shape=(size // 8,))
    whole = len(words) // BLOCK_WORDS * BLOCK_WORDS
    sums = words[:whole].reshape(-1, BLOCK_WORDS).sum(axis=1)
    rest = words[whole:].sum(keepdims=True)
    return hashlib.sha256(np.concatenate([sums, rest]).tobytes()).hexdigest()
