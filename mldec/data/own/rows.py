"""What a file lists, row by row, in flat arrays: the form between reading and the index."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mldec.data.dataset import SPLITS
from mldec.data.index import Ragged
from mldec.data.own.listing import Listing
from mldec.errors import DataError, shortened


@dataclass(frozen=True)
class Rows:
    """The R rows of a file; several may be of one image.

    Attributes:
        path: the file.
        format: its name for people.
        folder: absolute folder that paths are relative to.
        names: the different paths, as the file writes them; None: those in `blob`, one per row.
        name_ids: (R,) int64, which of `names` each row has; empty with `blob`.
        blob: utf-8 bytes of each row's path, all different, none in need of any change.
        lines: (R,) int64, where each row stands; empty where nobody will need it.
        present, absent, unknown: codes of labels of each row.
        labels: the names of the codes.
        ordered: whether the file gives their order.
        columns: whether each label has a column, so that what is neither present nor unknown is absent.
        splits: (R,) int8, the number in SPLITS of each row, -1 for none; None: the file has none.
        folders: absolute folders of those of `names` that are relative to another one than `folder`.
        files: all files that were read.
        decisions, options: what was decided, and the options that mean the same.
    """

    path: str
    format: str
    folder: str
    names: list[str] | None
    name_ids: np.ndarray
    lines: np.ndarray
    present: Ragged
    absent: Ragged
    unknown: Ragged
    labels: tuple[str, ...]
    blob: Ragged | None = None
    ordered: bool = False
    columns: bool = False
    splits: np.ndarray | None = None
    folders: dict[int, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    decisions: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.present)

    def paths(self) -> Iterable[str]:
        """The different paths, as the file writes them."""
        return self.blob.texts() if self.blob is not None else self.names or ()

    def where(self, row: int) -> str:
        """`FILE line 5` of a row."""
        line = int(self.lines[row]) if len(self.lines) else 0
        return f"{self.path} line {line}" if line else self.path


def ragged(ends: Sequence[int], values: Sequence[int]) -> Ragged:
    """Lists of columns from their ends, beginning with 0, and all their values."""
    if not len(values):
        return Ragged.empty(len(ends) - 1)
    return Ragged(np.array(ends, np.int64), np.array(values, np.int32))


def rows_of_listing(listing: Listing) -> Rows:
    """The rows of an export that has been recognised. Raises what its reader raises."""
    names: dict[tuple[str, str | None], int] = {}
    codes = {name: code for code, name in enumerate(dict.fromkeys(listing.labels or ()))}  # a name stands for one label
    ids, lines, splits = array("q"), array("q"), array("b")
    values = [array("i") for _ in range(3)]
    ends = [array("q", [0]) for _ in range(3)]
    for entry in listing.entries():
        ids.append(names.setdefault((entry.path, entry.folder), len(names)))
        lines.append(entry.line)
        splits.append(SPLITS.index(entry.split) if entry.split in SPLITS else -1)
        for group, out, end in zip((entry.present, entry.absent, entry.unknown), values, ends, strict=True):
            for name in group:
                if name not in codes and listing.labels is not None:
                    raise DataError(f"{listing.source}: the label '{shortened(name)}' is none of its own classes")
                out.append(codes.setdefault(name, len(codes)))
            end.append(len(out))
    folders = {number: folder for (_, folder), number in names.items() if folder is not None}
    has_splits = any(number >= 0 for number in splits)
    return Rows(
        path=listing.source,
        format=listing.format,
        folder=listing.folder,
        names=[name for name, _ in names],
        name_ids=np.array(ids, np.int64),
        lines=np.array(lines, np.int64),
        present=ragged(ends[0], values[0]),
        absent=ragged(ends[1], values[1]),
        unknown=ragged(ends[2], values[2]),
        labels=tuple(codes),
        ordered=listing.labels is not None,
        splits=np.array(splits, np.int8) if has_splits else None,
        folders=folders,
        files=listing.files or (listing.source,),
        decisions=listing.decisions,
        options=dict(listing.options),
    )


def grouped(names: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """The different names in the order of their first appearance, and (R,) which of them each is."""
    numbers: dict[str, int] = {}
    ids = np.fromiter((numbers.setdefault(name, len(numbers)) for name in names), np.int64)
    return list(numbers), ids


def regrouped(lists: Ragged, images: np.ndarray, num_images: int) -> Ragged:
    """Lists of rows as lists of images, of which (R,) `images` has the number of each row: joined, each value once."""
    if len(lists.values) == 0:
        return Ragged.empty(num_images)
    owners = np.repeat(images, lists.counts)
    pairs = np.unique(owners * (int(lists.values.max()) + 1) + lists.values)
    owners, values = np.divmod(pairs, int(lists.values.max()) + 1)
    return Ragged.from_rows(owners, values.astype(np.int32), num_images)
