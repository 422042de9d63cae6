"""The file of an index: its arrays in the safetensors format, memory-mapped, and notes in the header.

Nothing in it is trusted unchecked, whoever wrote it: arrays, offsets, columns, paths and the root are those that an
index of this dataset may have, so a forged file can state no more than forged annotations could.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mldec.config import Natural, build_options
from mldec.data.index import LISTS, ImageIndex, Ragged, check_path
from mldec.data.reading_messages import check_messages
from mldec.errors import ConfigError, DataError, first_lines
from mldec.files import PARTIAL, replacing
from mldec.labels import LabelSpace
from mldec.untrusted import check_regular

VERSION = 7  # raise it when the format, or what any dataset reads, changes
ABANDONED_SECONDS = 3600
ROWS_AT_ONCE = 2**16
TYPES = {"paths.values": "U8"}  # of each array, as safetensors names them
TYPES |= {f"{name}.offsets": "I64" for name in LISTS} | {f"{name}.values": "I32" for name in LISTS[1:]}
DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype("uint8"), "I32": np.dtype("int32"), "I64": np.dtype("int64")}


@dataclasses.dataclass(frozen=True)
class Gaps:
    """Images that an index lacks because they were missing when it was built (dataset.missing=drop).

    Attributes:
        missing, listed: how many were missing, of how many.
        folders: by path relative to the index's root, when the folders that lacked some had last changed, in
            nanoseconds; None: there was no such folder. Another time means that more images may have arrived.
    """

    missing: Natural
    listed: Natural
    folders: Mapping[str, int | None]

    def filled(self, root: str) -> bool:
        """Whether some of those folders have changed since."""
        return any(changed(os.path.join(root, place)) != when for place, when in self.folders.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Notes:
    """What the header holds beside the arrays; `root` is relative to the dataset's folder."""

    version: int
    root: str
    labels: tuple[str, ...]
    seen: tuple[bool, ...] | None
    default: int
    gaps: Gaps | None
    messages: tuple[str, ...]
    checksum: str = ""


def changed(folder: str) -> int | None:
    """When files last came to or went from a folder, in nanoseconds; None if there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


def save_index(
    index: ImageIndex,
    path: str,
    base: str,
    gaps: Gaps | None = None,
    root: str | None = None,
    messages: Sequence[str] = (),
) -> ImageIndex:
    """Write `index` whole or not at all, and open it.

    Args:
        base: the folder from which its root is noted relatively, so that a dataset may be moved with its cache.
        gaps: the images that it lacks; `cached` builds it anew when they arrive.
        root: the root that `open_index` will expect.
        messages: decisions and warnings in building it, as `reading_messages.recorded` gives them.

    Raises:
        OSError: the folder cannot be written, or is full.
        ValueError, DataError: the index holds what `open_index` refuses; no file is left.
    """
    _remove_abandoned(Path(path).parent)
    arrays = _arrays(index)
    noted = _Notes(
        version=VERSION,
        root=os.path.relpath(index.root, os.path.abspath(base)),
        labels=index.labels.names,
        seen=index.labels.seen,
        default=index.default,
        gaps=gaps,
        messages=tuple(messages),
    )
    notes = dataclasses.asdict(noted)
    notes["checksum"] = _checksum(notes, arrays)
    with replacing(path, sync=True) as partial:
        try:
            save_file(arrays, partial, {"mldec": json.dumps(notes)})  # as ASCII: a folder's name may be no UTF-8
        except SafetensorError as error:
            raise ValueError(f"cannot be written: {error}") from None
    try:
        return open_index(path, base, root)[0]
    except (ValueError, DataError):  # what a dataset of a plugin's own making may hold
        os.unlink(path)
        raise


def open_index(path: str, base: str, root: str | None = None) -> tuple[ImageIndex, Gaps | None, tuple[str, ...]]:
    """Map an index that `save_index` wrote, once all of its content is checked; its gaps and messages.

    Args:
        base: the dataset's folder, from which the root is noted relatively.
        root: the only root that the index may have; None: `base` or any folder below it.

    Raises:
        OSError: there is no such file.
        ValueError, DataError: it is damaged or forged; the message explains how.
    """
    check_regular(path)
    try:
        with safe_open(path, framework="numpy"):  # checks the header, and that the arrays fill the file, each byte once
            header, begin = _read_header(path)
        notes = json.loads(header.pop("__metadata__")["mldec"])
    except (SafetensorError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"is damaged, or no index: {error}") from None
    arrays = {name: _map_array(path, name, place, begin) for name, place in header.items()}
    noted = _checked_notes(notes)
    if noted.checksum != _checksum(notes, arrays):
        raise ValueError("is damaged: its checksum is another one")
    paths = _checked_list("paths", arrays, 0)
    lists = {name: _checked_list(name, arrays, len(paths)) for name in LISTS[1:]}
    _check_paths(paths)
    index = ImageIndex(  # checks that columns are those of labels, and that all lists have the rows of `paths`
        root=_root(noted.root, base, root),
        labels=LabelSpace(noted.labels, noted.seen),
        paths=paths,
        default=noted.default,
        **lists,
    )
    return index, noted.gaps, noted.messages


# Checks of the content ------------------------------------------------------------------------------------------------


def _checked_notes(content: Any) -> _Notes:
    if isinstance(content, dict) and content.get("version") != VERSION:
        raise ValueError(f"has version {str(content.get('version'))[:20]}, not {VERSION}")
    try:
        noted = build_options(_Notes, content)
    except ConfigError as error:
        raise ValueError(f"has other notes: {first_lines(error)}") from None
    for folder in noted.gaps.folders if noted.gaps else ():
        if folder:  # the root itself has an empty one
            check_path(folder)
    check_messages(noted.messages)
    return noted


def _checked_list(name: str, arrays: dict[str, np.ndarray], rows: int) -> Ragged:
    """Lists whose offsets begin at 0, never fall and end with their values; empty ones of `rows` if there are none."""
    offsets, values = arrays.get(f"{name}.offsets"), arrays.get(f"{name}.values")
    if offsets is None and values is None and rows:
        return Ragged.empty(rows)
    if offsets is None or values is None or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(values):
        raise ValueError(f"the offsets of `{name}` do not span its values")
    if (offsets[1:] < offsets[:-1]).any():
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


def _root(noted: str, base: str, expected: str | None) -> str:
    if "\0" in noted:
        raise ValueError("its root is no path")
    home = os.path.abspath(base)
    root = os.path.normpath(os.path.join(home, noted))
    if expected is None:
        if root != home and not root.startswith(os.path.join(home, "")):
            raise ValueError(f"its root {root} lies outside of {home}")
    elif root != os.path.abspath(expected):
        raise ValueError(f"its root is {root}, not {os.path.abspath(expected)}")
    return root


# The file -------------------------------------------------------------------------------------------------------------


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed writers left; a living one has changed its file within the hour."""
    for partial in folder.glob(f".*{PARTIAL}*"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                partial.unlink()


def _arrays(index: ImageIndex) -> dict[str, np.ndarray]:
    """All but the empty lists, by name."""
    arrays: dict[str, np.ndarray] = {}
    for name in LISTS:
        lists: Ragged = getattr(index, name)
        if len(lists.values):
            arrays |= {f"{name}.offsets": lists.offsets, f"{name}.values": lists.values}
    return {name: np.ascontiguousarray(array, DTYPES[TYPES[name]]) for name, array in arrays.items()}


def _read_header(path: str) -> tuple[dict[str, Any], int]:
    """The header of a file that safetensors has checked, and where its arrays begin."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length


def _map_array(path: str, name: str, place: dict[str, Any], begin: int) -> np.ndarray:
    if TYPES.get(name) != place["dtype"] or len(place["shape"]) != 1:
        raise ValueError(f"`{name}` is an array of another type, or none that an index has")
    first, end = place["data_offsets"]
    dtype = DTYPES[place["dtype"]]
    if first == end:  # cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r", begin + first, ((end - first) // dtype.itemsize,))


def _checksum(notes: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """A digest of the notes and of the sum of each array's words, at the speed of memory."""
    content = {name: note for name, note in notes.items() if name != "checksum"}
    return hashlib.sha256(json.dumps([content, {n: _sum(arrays[n]) for n in sorted(arrays)}]).encode()).hexdigest()


def _sum(array: np.ndarray) -> list[int]:
    octets = array.view(np.uint8)
    whole = len(octets) // 8 * 8
    return [len(octets), int(octets[:whole].view(np.uint64).sum()), *octets[whole:].tolist()]
