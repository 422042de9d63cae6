"""The images that the rows of a file stand for: found on disk, each once, with the labels of all of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mldec.data.dataset import SPLITS, missing_files, naming
from mldec.data.index import Ragged, check_path
from mldec.data.own.image_paths import find_images
from mldec.data.own.rows import Rows, grouped, regrouped
from mldec.errors import DataError, counted, shortened


@dataclass(frozen=True)
class RowImages:
    """The S images that rows stand for: paths relative to `root`, labels by their codes, and the split of each."""

    root: str
    paths: Ragged
    present: Ragged
    absent: Ragged
    unknown: Ragged
    splits: np.ndarray | None
    numbers: np.ndarray | None  # (R,) the image of each row; None where they are the same
    decisions: Sequence[str] = ()  # in finding them

    @classmethod
    def of(cls, rows: Rows, root: str, *, elsewhere: str, look: bool) -> RowImages:
        """The images of rows.

        Args:
            root: absolute folder below which they lie, and which their paths shall be relative to.
            elsewhere: absolute folder that their paths may be relative to as well.
            look: whether the images are looked for; otherwise paths are taken as they are written.

        Raises DataError, naming the row, for a path that leads nowhere allowed or to several images, and for an image
        in two splits.
        """
        if rows.names is None:
            assert rows.blob is not None
            plain = cls(root, rows.blob, rows.present, rows.absent, rows.unknown, rows.splits, None)
            if not look or next(missing_files(root, rows.blob.texts()), None) is None:
                return plain
            names = list(rows.blob.texts())
            ids = np.arange(len(names))
        else:
            names, ids = rows.names, rows.name_ids
        first = _first_rows(ids, len(names))
        found = find_images(
            names,
            file=rows.path,
            where=lambda number: rows.where(int(first[number])),
            root=root,
            folder=elsewhere,
            folders=rows.folders,
            look=look,
        )
        with naming(rows.path):
            places, numbers = grouped(map(check_path, found.names))
        images = numbers[ids]
        present, absent, unknown = (
            regrouped(one, images, len(places)) for one in (rows.present, rows.absent, rows.unknown)
        )
        splits = _image_splits(rows, images, len(places))
        decisions = [*found.decisions, *(_conflicts(rows, images, places) if len(places) < len(rows) else ())]
        return cls(root, Ragged.of_texts(places), present, absent, unknown, splits, images, decisions)


def _image_splits(rows: Rows, images: np.ndarray, count: int) -> np.ndarray | None:
    """The split of each image. Raises DataError for one in several."""
    if rows.splits is None:
        return None
    splits = np.full(count, -1, np.int8)
    splits[images[::-1]] = rows.splits[::-1]  # that of the first row
    other = np.flatnonzero(splits[images] != rows.splits)
    if len(other):
        names = sorted({SPLITS[max(0, number)] for number in (rows.splits[other[0]], splits[images[other[0]]])})
        raise DataError(f"{rows.where(int(other[0]))}: its image is in {' and '.join(names)}; leave it in one of them")
    return splits


def _conflicts(rows: Rows, images: np.ndarray, places: Sequence[str]) -> list[str]:
    """A sentence about labels that one row of an image has and another row says are absent."""
    size = max(1, len(rows.labels))

    def pairs(lists: Ragged) -> np.ndarray:
        return np.repeat(images, lists.counts) * size + lists.values

    present, counts = np.unique(pairs(rows.present), return_counts=True)
    if rows.columns:  # absent where neither present nor unknown
        unknown, others = np.unique(pairs(rows.unknown), return_counts=True)
        _, here, there = np.intersect1d(present, unknown, assume_unique=True, return_indices=True)
        counts[here] += others[there]
        both = present[counts < np.bincount(images, minlength=len(places))[present // size]]
    else:
        both = np.intersect1d(present, pairs(rows.absent))
    if not len(both):
        return []
    image, label = divmod(int(both[0]), size)
    return [
        f"{counted(len(both), 'label')} of images {'is' if len(both) == 1 else 'are'} present in one row and absent in "
        f"another, and {'counts' if len(both) == 1 else 'count'} as present, such as "
        f"{shortened(rows.labels[label])} of {shortened(places[image])}"
    ]


def _first_rows(ids: np.ndarray, count: int) -> np.ndarray:
    """The first row of each name."""
    first = np.zeros(count, np.int64)
    first[ids[::-1]] = np.arange(len(ids))[::-1]
    return first
