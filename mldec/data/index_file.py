"""The file of an index: arrays that are memory-mapped, and a footer that says where they lie.

Nothing in it is believed unchecked, whoever wrote it: types, places, offsets, columns, paths and the root are those
that an index of this dataset may have, so a forged one can say no more than forged annotations could.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from mldec.data.index import ImageIndex, Ragged, check_path
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.untrusted import open_regular

VERSION = 4  # raise it when the format, or what any dataset reads, changes
ABANDONED_SECONDS = 3600
MAX_FOOTER = 256 * 2**20  # bytes; the names of several million labels

MAGIC = b"mldecidx"
TAIL = struct.Struct("<QI8s")  # length and crc32 of the footer, then MAGIC
BLOCK_WORDS = 2**17  # checksums are taken over blocks of 1 MiB
ALIGNMENT = 64
ROWS_AT_ONCE = 2**16
LISTS = ("paths", "positives", "negatives", "unknown")
DTYPES: dict[str, np.dtype] = {"paths.values": np.dtype(np.uint8), "confidence": np.dtype(np.float32)}
DTYPES |= {f"{name}.offsets": np.dtype(np.int64) for name in LISTS}
DTYPES |= {f"{name}.values": np.dtype(np.int32) for name in LISTS[1:]}
FIELDS = {"version", "root", "labels", "seen", "default", "gaps", "arrays", "checksum"}


@dataclasses.dataclass(frozen=True)
class Gaps:
    """Images that an index goes on without, since they were missing when it was built (dataset.missing=drop).

    Attributes:
        missing, listed: how many were missing, of how many.
        folders: by their place below the index's root, when the folders that lacked some had last changed, in
            nanoseconds; None: there was no such folder. Another time means that more images may have come.
    """

    missing: int
    listed: int
    folders: dict[str, int | None]

    def filled(self, root: str) -> bool:
        """Whether some of those folders have changed since."""
        return any(changed(os.path.join(root, place)) != when for place, when in self.folders.items())


def changed(folder: str) -> int | None:
    """When files last came to or went from a folder, in nanoseconds; None if there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


def save_index(
    index: ImageIndex, path: str, base: str, gaps: Gaps | None = None, root: str | None = None
) -> ImageIndex:
    """Write `index` whole or not at all, and open it.

    Args:
        base: the folder from which its root is noted relatively, so that a dataset may be moved with its cache.
        gaps: what it lacks; `cached` builds it anew when that comes.
        root: what `open_index` will be told that the root is.

    Raises:
        OSError: the folder cannot be written, or is full.
        ValueError, DataError: the index holds what `open_index` refuses; no file is left.
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
                "arrays": {name: _write_array(file, array, DTYPES[name]) for name, array in _arrays(index)},
            }
            file.write(b"\0" * (-file.tell() % 8))
            file.flush()
            footer["checksum"] = _checksum(partial, file.tell())
            content = json.dumps(footer).encode()  # as ASCII: a folder's name may be no UTF-8
            file.write(content)
            file.write(TAIL.pack(len(content), zlib.crc32(content), MAGIC))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise
    try:
        return open_index(path, base, root)[0]
    except (ValueError, DataError):  # what a dataset of a plugin's own making may hold
        os.unlink(path)
        raise


def open_index(path: str, base: str, root: str | None = None) -> tuple[ImageIndex, Gaps | None]:
    """Map an index that `save_index` wrote, once all that it says is checked.

    Args:
        base: the dataset's folder, from which the root is noted relatively.
        root: the only root that the index may have; None: `base` or any folder below it.

    Raises:
        OSError: there is no such file.
        ValueError, DataError: it is damaged or forged; says how.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        footer, end = _read_footer(file, size)
    places = _places(footer["arrays"], end)
    if footer["checksum"] != _checksum(path, end):
        raise ValueError("its arrays are damaged")
    arrays = {name: _map_array(path, name, place) for name, place in places.items()}
    labels = _labels(footer["labels"], footer["seen"])
    lists = {name: _checked_list(name, arrays) for name in LISTS}
    _check_paths(lists["paths"])
    index = ImageIndex(  # checks that columns are those of labels, and that all lists have the rows of `paths`
        root=_root(footer["root"], base, root),
        labels=labels,
        default=_whole(footer["default"], "default", low=-1),
        confidence=arrays.get("confidence"),
        **lists,
    )
    if index.confidence is not None and not np.isfinite(index.confidence).all():
        raise ValueError("a confidence is no number")
    return index, _gaps(footer["gaps"])


# What it says, checked ----------------------------------------------------------------------------------------------


def _read_footer(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The footer, and where the arrays end, of a file of `size` bytes."""
    if size < TAIL.size:
        raise ValueError("cut short")
    file.seek(size - TAIL.size)
    length, crc, magic = TAIL.unpack(file.read(TAIL.size))
    if magic != MAGIC or length > size - TAIL.size:
        raise ValueError("cut short, or no index")
    if length > MAX_FOOTER:
        raise ValueError(f"a footer of {length:,} bytes; at most {MAX_FOOTER:,} are read")
    end = size - TAIL.size - length
    file.seek(end)
    content = file.read(length)
    if zlib.crc32(content) != crc:
        raise ValueError("its footer is damaged")
    try:
        footer = json.loads(content)
    except RecursionError:
        raise ValueError("its footer is nested too deeply") from None
    if not isinstance(footer, dict) or set(footer) != FIELDS or not isinstance(footer["arrays"], dict):
        raise ValueError("its footer has other fields")
    if footer["version"] != VERSION:
        raise ValueError(f"it has version {str(footer['version'])[:20]}, not {VERSION}")
    return footer, end


def _places(arrays: dict[str, Any], end: int) -> dict[str, tuple[int | None, int]]:
    """Where each array begins (None: all zeros, not stored) and how many items it has, within the first `end` bytes.

    So none takes more memory than the file has bytes, and no byte of the file is left over.
    """
    if not set(DTYPES) - {"confidence"} <= set(arrays) <= set(DTYPES):
        raise ValueError("it has other arrays")
    places: dict[str, tuple[int | None, int]] = {}
    last = 0
    for name, place in arrays.items():
        if not isinstance(place, dict) or place.get("dtype") != DTYPES[name].str:
            raise ValueError(f"`{name}` is of another type than {DTYPES[name].str}")
        shape = place.get("shape")
        if not isinstance(shape, list) or len(shape) != 1:
            raise ValueError(f"`{name}` is no array of one dimension")
        count = _whole(shape[0], f"the length of `{name}`")
        if "zeros" in place:
            if name.removesuffix(".offsets") not in LISTS[1:] or place != {**place, "zeros": True} or "offset" in place:
                raise ValueError(f"`{name}` cannot be left out")
            places[name] = None, count
            continue
        offset = _whole(place.get("offset"), f"the place of `{name}`")
        if offset % ALIGNMENT or offset > end or count > (end - offset) // DTYPES[name].itemsize:
            raise ValueError(f"`{name}` lies outside of the file")
        places[name] = offset, count
        last = max(last, offset + count * DTYPES[name].itemsize)
    if end != last + -last % 8:
        raise ValueError("its arrays do not end where its footer begins")
    rows = places["paths.offsets"][1]
    if any(places[f"{name}.offsets"][1] != rows for name in LISTS):
        raise ValueError("its lists differ in their number of rows")
    return places


def _whole(value: Any, what: str, *, low: int = 0) -> int:
    if type(value) is not int or not low <= value < 2**62:
        raise ValueError(f"{what} is {str(value)[:40]}, which is out of range")
    return value


def _checked_list(name: str, arrays: dict[str, np.ndarray]) -> Ragged:
    """Lists whose offsets begin at 0, never fall and end with their values."""
    offsets, values = arrays[f"{name}.offsets"], arrays[f"{name}.values"]
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(values):
        raise ValueError(f"the offsets of `{name}` do not span its values")
    if offsets.strides != (0,) and (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"the offsets of `{name}` fall")
    return Ragged(offsets, values)


def _check_paths(paths: Ragged) -> None:
    """Raise what `check_path` raises for any of them. Most are seen to be good by their bytes, all at once."""
    values, offsets = np.asarray(paths.values), np.asarray(paths.offsets)
    if len(offsets) < 2 or (offsets[1:] == offsets[:-1]).any():
        raise ValueError("a path is empty, or there is none")
    starts = offsets[:-1]
    first = values[starts]
    if values.max() >= 0x80:
        if ((first & 0xC0) == 0x80).any():
            raise ValueError("a path begins within a character")
        for part in range(0, len(starts), ROWS_AT_ONCE):
            ends = offsets[part], offsets[min(part + ROWS_AT_ONCE, len(starts))]
            values[slice(*ends)].tobytes().decode()  # UnicodeDecodeError is a ValueError
    odd = (first == ord("/")) | (first == ord("\\")) | (first <= ord(" "))
    long = offsets[1:] - starts > 1
    odd[long] |= values[starts[long] + 1] == ord(":")
    odd[_rows_of(values == 0, offsets)] = True
    odd[_rows_of((values[1:] == ord(".")) & (values[:-1] == ord(".")), offsets)] = True
    for row in np.flatnonzero(odd).tolist():
        check_path(paths[row].tobytes().decode())


def _rows_of(found: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The rows in which flagged bytes lie."""
    return np.searchsorted(offsets, np.flatnonzero(found), side="right") - 1


def _root(noted: Any, base: str, expected: str | None) -> str:
    if not isinstance(noted, str) or "\0" in noted:
        raise ValueError("its root is no path")
    home = os.path.abspath(base)
    root = os.path.normpath(os.path.join(home, noted))
    if expected is None:
        if root != home and not root.startswith(os.path.join(home, "")):
            raise ValueError(f"its root {root} lies outside of {home}")
    elif root != os.path.abspath(expected):
        raise ValueError(f"its root is {root}, not {os.path.abspath(expected)}")
    return root


def _labels(names: Any, seen: Any) -> LabelSpace:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its labels are no list of names")
    if seen is not None and not (isinstance(seen, list) and all(isinstance(flag, bool) for flag in seen)):
        raise ValueError("`seen` is no list of true and false")
    return LabelSpace(names, seen)


def _gaps(content: Any) -> Gaps | None:
    if content is None:
        return None
    if not isinstance(content, dict) or set(content) != {"missing", "listed", "folders"}:
        raise ValueError("its gaps have other fields")
    folders = content["folders"]
    if not isinstance(folders, dict):
        raise ValueError("its gaps name no folders")
    for place, when in folders.items():
        if place:  # the root itself has an empty one
            check_path(place)
        if when is not None and type(when) is not int:
            raise ValueError("its gaps name no times")
    return Gaps(_whole(content["missing"], "missing"), _whole(content["listed"], "listed"), folders)


# The file: arrays at multiples of 64 bytes, then a JSON footer that says where they lie, then TAIL. ------------------


def _remove_abandoned(path: str) -> None:
    """Remove what writers of `path` left that were killed; a living one has changed its file within the hour."""
    for partial in glob.glob(f"{glob.escape(path)}.*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - os.path.getmtime(partial) > ABANDONED_SECONDS:
                os.unlink(partial)


def _arrays(index: ImageIndex) -> Iterator[tuple[str, np.ndarray]]:
    for name in LISTS:
        lists: Ragged = getattr(index, name)
        yield f"{name}.offsets", lists.offsets
        yield f"{name}.values", lists.values
    if index.confidence is not None:
        yield "confidence", index.confidence


def _write_array(file: BinaryIO, array: np.ndarray, dtype: np.dtype) -> dict[str, Any]:
    """Write an array and return its place; the offsets of empty lists are one number repeated and need none."""
    place: dict[str, Any] = {"dtype": dtype.str, "shape": list(array.shape)}
    if len(array) and array.strides == (0,) and array[0] == 0:
        return place | {"zeros": True}
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
    place["offset"] = file.tell()
    file.write(np.ascontiguousarray(array, dtype).data)
    return place


def _map_array(path: str, name: str, place: tuple[int | None, int]) -> np.ndarray:
    offset, count = place
    if offset is None:
        return np.broadcast_to(DTYPES[name].type(0), (count,))
    if not count:  # cannot be mapped
        return np.empty(0, DTYPES[name])
    return np.memmap(path, DTYPES[name], "r", offset, (count,))


def _checksum(path: str, size: int) -> str:
    """A digest of the first `size` bytes (a multiple of 8) at the speed of memory: of the sum of each block's words."""
    if size == 0:
        return ""
    words = np.memmap(path, np.uint64, "r", shape=(size // 8,))
    whole = len(words) // BLOCK_WORDS * BLOCK_WORDS
    sums = words[:whole].reshape(-1, BLOCK_WORDS).sum(axis=1)
    rest = words[whole:].sum(keepdims=True)
    return hashlib.sha256(np.concatenate([sums, rest]).tobytes()).hexdigest()
