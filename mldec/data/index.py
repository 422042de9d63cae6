"""The index: the images and what is known of each, in flat arrays.

Nine million images with their labels fit in a few hundred megabytes this way, and worker processes share them: a
forked worker never touches a reference count in them, a spawned one opens memory-mapped arrays again without a copy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import mmap
import os
import posixpath
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mldec.errors import DataError, shortened
from mldec.labels import LabelSpace

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
LISTS = ("paths", "positives", "negatives", "unknown")  # of an index
CHUNK_ROWS = 2**15  # that are counted at a time: sorting the labels of millions of images at once takes far longer


class _Shared:
    """What is pickled without its memory-mapped arrays, which are opened again where it is unpickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: _pack(value) for name, value in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: _unpack(value) for name, value in state.items()})


@dataclass(frozen=True, eq=False)
class Ragged(_Shared):
    """Rows of different lengths (CSR): row i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        offsets: (S+1,) int64.
        values: (total,) of any dtype.
    """

    offsets: np.ndarray
    values: np.ndarray

    @classmethod
    def empty(cls, rows: int) -> Ragged:
        """`rows` rows of nothing, which take no memory however many they are."""
        return cls(np.broadcast_to(np.int64(0), (rows + 1,)), np.empty(0, np.int32))

    @classmethod
    def from_rows(cls, rows: np.ndarray, values: np.ndarray, num_rows: int) -> Ragged:
        """Entries (row, value), sorted by row, as lists of `num_rows` rows. Both (total,) integer arrays."""
        return cls.from_counts(np.bincount(rows, minlength=num_rows), values)

    @classmethod
    def from_counts(cls, counts: np.ndarray, values: np.ndarray) -> Ragged:
        """Rows of these lengths (S,), with the values of all of them one after another (total,)."""
        if len(values) == 0:
            return cls.empty(len(counts))
        offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        return cls(offsets, values)

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> Ragged:
        """The utf-8 bytes of each text."""
        encoded = [text.encode() for text in texts]
        counts = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls.from_counts(counts, np.frombuffer(b"".join(encoded), np.uint8))

    def texts(self) -> Iterator[str]:
        """The text that each row holds in utf-8; far faster than decoding `self[row]` for each."""
        blob = self.values.tobytes()
        for first in range(0, len(self), 2**16):
            ends = self.offsets[first : first + 2**16 + 1].tolist()
            for start, end in itertools.pairwise(ends):
                yield blob[start:end].decode()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def counts(self) -> np.ndarray:
        """(S,) int64: the length of each row."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in `values` of all entries of `rows` (R,), and (R,) how many belong to each."""
        starts = self.offsets[rows]
        counts = self.offsets[rows + 1] - starts
        firsts = np.cumsum(counts) - counts
        return np.arange(counts.sum()) + np.repeat(starts - firsts, counts), counts

    def gather(self, rows: np.ndarray) -> Ragged:
        """`rows` (R,) of these, in this order."""
        positions, counts = self.take(rows)
        return Ragged.from_counts(counts, self.values[positions])

    def renumbered(self, columns: np.ndarray) -> Ragged:
        """The same rows with `columns[value]` for each value; those of -1 are left out."""
        values = columns[self.values]
        kept = values >= 0
        if kept.all():
            return Ragged(self.offsets, values)
        rows = np.repeat(np.arange(len(self)), self.counts)
        return Ragged.from_rows(rows[kept], values[kept], len(self))


@dataclass(frozen=True, eq=False)
class ImageIndex(_Shared):
    """Images and their labels. An image's sample id is its row.

    Attributes:
        root: absolute folder that the paths are relative to.
        labels: the N columns.
        paths: utf-8 bytes of each relative path.
        positives, negatives, unknown: int32 columns known present, known absent, not known.
        default: what holds for a column that is in none of the three: 0 (absent) or -1 (unknown).
    """

    root: str
    labels: LabelSpace
    paths: Ragged
    positives: Ragged
    negatives: Ragged
    unknown: Ragged
    default: int = ABSENT

    @classmethod
    def build(
        cls,
        samples: Iterable[tuple[str, Sequence[int], Sequence[int], Sequence[int]]],
        *,
        root: str,
        labels: LabelSpace,
        default: int = ABSENT,
    ) -> ImageIndex:
        """Collect (path relative to `root`, positives, negatives, unknown) per image, in order.

        Raises:
            DataError: no image, one listed twice, a path that leaves `root`, or a column outside the label space.
        """
        listed = set()
        values = [bytearray(), array("i"), array("i"), array("i")]  # of paths, positives, negatives, unknown
        ends = [array("q", [0]) for _ in values]
        for path, *groups in samples:
            name = check_path(path)
            if name in listed:
                raise DataError(
                    f"{root}: image '{shortened(name, 300)}' is listed twice; keep one entry with all labels"
                )
            listed.add(name)
            for items, group, offsets in zip(values, (name.encode(), *groups), ends, strict=True):
                items.extend(group)
                offsets.append(len(items))
        if not listed:
            raise DataError(f"{root}: no image")
        paths, positives, negatives, unknown = (
            Ragged(np.array(offsets), np.array(items)) if items else Ragged.empty(len(listed))
            for items, offsets in zip(values, ends, strict=True)
        )
        return cls(os.path.abspath(root), labels, paths, positives, negatives, unknown, default)

    def __post_init__(self) -> None:
        if self.default not in (ABSENT, UNKNOWN):
            raise DataError(f"default={self.default}: a label that is not listed is 0 (absent) or -1 (unknown)")
        for name in LISTS[1:]:
            values, rows = getattr(self, name).values, len(getattr(self, name))
            if rows != len(self):
                raise DataError(f"{self.root}: `{name}` has {rows} rows for {len(self)} images")
            if len(values) and (values.min() < 0 or values.max() >= len(self.labels)):
                found = f"{values.min()} to {values.max()}"
                raise DataError(f"{self.root}: `{name}` has columns {found}; there are {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        """The path of an image relative to `root`."""
        return self.paths[row].tobytes().decode()

    def path(self, row: int) -> str:
        """The absolute path of an image."""
        return os.path.join(self.root, self.name(row))

    def names(self) -> Iterator[str]:
        """All paths relative to `root`, row by row; far faster than `name` for each."""
        return self.paths.texts()

    def targets(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """(B,) rows to (B,N) int8: 1 present, 0 absent, -1 unknown.

        Where lists disagree, a positive beats unknown and unknown beats a negative: a class with a clear and a
        difficult object is present.
        """
        rows = np.asarray(rows, np.int64)
        targets_BN = np.full((len(rows), len(self.labels)), self.default, np.int8)
        for lists, value in ((self.negatives, ABSENT), (self.unknown, UNKNOWN), (self.positives, PRESENT)):
            positions, counts = lists.take(rows)
            targets_BN[np.repeat(np.arange(len(rows)), counts), lists.values[positions]] = value
        return targets_BN

    def subset(self, rows: Sequence[int] | np.ndarray) -> ImageIndex:
        """An index of these images in this order; row i of it is `rows[i]` here."""
        rows = np.asarray(rows, np.int64)
        if len(rows) == 0:
            raise DataError(f"{self.root}: no image left")
        gathered: dict[str, Any] = {name: getattr(self, name).gather(rows) for name in LISTS}
        return dataclasses.replace(self, **gathered)

    def with_labels(self, labels: LabelSpace) -> ImageIndex:
        """The same images with only `labels`: some of those here, in any order.

        Raises DataError for a label that is not here.
        """
        columns = np.full(len(self.labels), -1, np.int32)
        columns[[self.labels.index(name) for name in labels.names]] = np.arange(len(labels), dtype=np.int32)
        return self._renumbered(columns, labels)

    def among(self, labels: LabelSpace) -> ImageIndex:
        """The same images with `labels`: those here and others, of which it is not known whether images have them.

        Raises DataError for a label here that is none of them.
        """
        own = set(self.labels.names)
        columns = np.array([labels.index(name) for name in self.labels.names], np.int32)
        return self._renumbered(columns, labels).with_unknown([name for name in labels.names if name not in own])

    def with_unknown(self, names: Sequence[str]) -> ImageIndex:
        """The same images, of which it is not known whether they have any of these labels."""
        hidden = np.array([self.labels.index(name) for name in names], np.int32)
        columns = np.arange(len(self.labels), dtype=np.int32)
        columns[hidden] = -1
        known = self._renumbered(columns, self.labels)
        if self.default == UNKNOWN:
            return known
        if not len(known.unknown.values):
            counts = np.full(len(self), len(hidden))
            return dataclasses.replace(known, unknown=Ragged.from_counts(counts, np.tile(hidden, len(self))))
        rows = np.concatenate([np.repeat(np.arange(len(self)), n) for n in (known.unknown.counts, len(hidden))])
        values = np.concatenate([known.unknown.values, np.tile(hidden, len(self))])
        order = np.argsort(rows, kind="stable")
        return dataclasses.replace(known, unknown=Ragged.from_rows(rows[order], values[order], len(self)))

    def _renumbered(self, columns: np.ndarray, labels: LabelSpace) -> ImageIndex:
        """With the new column of each label, -1 for one that is dropped."""
        changed: dict[str, Any] = {name: getattr(self, name).renumbered(columns) for name in LISTS[1:]}
        return dataclasses.replace(self, labels=labels, **changed)

    def drop_unannotated(self) -> ImageIndex:
        """Only the images with a positive label."""
        return self.subset(np.flatnonzero(self.positives.counts))

    def positives_per_class(self) -> np.ndarray:
        """(N,) int64: in how many images each label is present."""
        total = np.zeros(len(self.labels), np.int64)
        for _, columns in self.present_pairs():
            total += np.bincount(columns, minlength=len(total))
        return total

    def cooccurrence(self) -> np.ndarray:
        """(N,N) float64 M: in how many images with label i label j is present too; on the diagonal n_i, those with i.

        Images in which label j is unknown count as the others with label i do on average: of k_ij images with label i
        in which label j is known, m_ij have it, and M_ij = n_i m_ij / k_ij, 0 where k_ij is 0. Where no label is
        unknown, M has whole numbers and is symmetric.
        """
        from scipy.sparse import csr_array

        size = len(self.labels)
        both, listed = np.zeros((2, size, size))  # label j present; of the rarer kind: unknown, or known and absent
        for rows in self._chunks():
            present, unknown, absent = (
                csr_array((np.ones(len(pairs)), (pairs // size - rows[0], pairs % size)), (len(rows), size))
                for pairs in self._listed(rows)
            )
            for total, other in ((both, present), (listed, unknown if self.default == ABSENT else absent)):
                found = (present.T @ other).tocoo()
                total[found.row, found.col] += found.data
        if self.default == UNKNOWN or listed.any():
            counts = both.diagonal().copy()[:, None]
            known = counts - listed if self.default == ABSENT else both + listed
            both *= counts
            np.divide(both, known, out=both, where=known > 0)
        return both

    def present_pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows and columns of what is present, each pair once, in order of rows, some thousand rows at a time."""
        for rows in self._chunks():
            yield np.divmod(self._pairs(self.positives, rows), len(self.labels))

    def states_per_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N,) int64 each: in how many images each label is present, absent and unknown, as in `targets`."""
        present, absent, unknown = np.zeros((3, len(self.labels)), np.int64)
        for rows in self._chunks():
            for total, pairs in zip((present, unknown, absent), self._listed(rows), strict=True):
                total += np.bincount(pairs % len(total), minlength=len(total))
        if self.default == ABSENT:
            absent = len(self) - present - unknown
        else:
            unknown = len(self) - present - absent
        return present, absent, unknown

    def _chunks(self) -> Iterator[np.ndarray]:
        for first in range(0, len(self), CHUNK_ROWS):
            yield np.arange(first, min(first + CHUNK_ROWS, len(self)))

    def _listed(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What lists say is present, unknown and absent, as in `targets`: row * N + column, sorted, each in one."""
        present, unknown, absent = (
            self._pairs(lists, rows) for lists in (self.positives, self.unknown, self.negatives)
        )
        unknown = np.setdiff1d(unknown, present, assume_unique=True)
        return present, unknown, np.setdiff1d(absent, np.concatenate([present, unknown]), assume_unique=True)

    def _pairs(self, lists: Ragged, rows: np.ndarray) -> np.ndarray:
        """row * N + column of each entry of `rows`, sorted, each once."""
        positions, counts = lists.take(rows)
        pairs = np.sort(np.repeat(rows, counts) * len(self.labels) + lists.values[positions])
        return pairs[np.diff(pairs, prepend=-1) != 0]

    def fingerprint(self) -> str:
        """sha256 (hex) of labels, paths and what is known of them; where `root` lies does not count."""
        digest = hashlib.sha256(repr((self.labels.names, self.labels.seen, self.default)).encode())
        for lists in (getattr(self, name) for name in LISTS):
            for part in (lists.offsets, lists.values):
                digest.update(f"{part.dtype.str}{part.shape}".encode())
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def check_path(path: Any) -> str:
    """`path` in its shortest spelling, by which an image that is listed twice is found.

    Raises:
        DataError: it is no text, leaves the dataset's folder, or cannot be the name of a file in UTF-8.
    """
    if not isinstance(path, str) or not path.strip():
        raise DataError(f"image path {shortened(path)}: expected text such as folder/name.jpg")
    if os.path.isabs(path) or re.match(r"[/\\]|[A-Za-z]:", path) or ".." in re.split(r"[/\\]", path):
        raise DataError(f"image path '{shortened(path)}' leaves the dataset's folder; use a relative path without '..'")
    if "\0" in path:
        raise DataError(f"image path '{shortened(path)}' holds a NUL character, which no file name has")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"image path '{shortened(path)}' is not valid UTF-8 (a byte or half a character that stands for no "
            "letter); rename the file, or correct where it is listed"
        ) from None
    return posixpath.normpath(path) if "./" in path or "//" in path else path


def _pack(value: Any) -> Any:
    """What is pickled in place of an array, as far as it is not its content: how it is made again."""
    if isinstance(value, np.ndarray) and value.strides == (0,) and value.dtype == np.int64 and value[0] == 0:
        return partial(np.broadcast_to, np.int64(0), value.shape)  # the offsets of empty lists
    # A slice of a memmap is a memmap with its parent's offset: only that parent, based on the map itself, is packed.
    if isinstance(value, np.memmap) and isinstance(value.base, mmap.mmap) and value.flags.c_contiguous:
        return partial(np.memmap, str(value.filename), value.dtype, "r", value.offset, value.shape)
    return value


def _unpack(value: Any) -> Any:
    return value() if isinstance(value, partial) else value
