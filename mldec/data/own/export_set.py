"""What `mldec data export` writes, in one form: the images of splits with the states of their labels; predictions."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from mldec.data.index import ABSENT, PRESENT, UNKNOWN, ImageIndex

ROWS = 256  # images whose targets are in memory at a time


@dataclass(frozen=True, slots=True)
class ExportImage:
    """An image.

    Attributes:
        name: its path relative to the folder of the set, with `/`.
        present: names of the labels that it has; of a prediction those that are listed, the best first.
        states: (N,) int8 state of each label: 1 present, 0 absent, -1 unknown; None for predictions.
        scores: of a prediction, those of `present`, in 0..1.
    """

    name: str
    present: tuple[str, ...]
    states: np.ndarray | None = None
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ExportSet:
    """All that is exported.

    Attributes:
        root: absolute folder that the names of images are relative to, that of each split in `roots` if it is there.
        labels: the N names, in the order of the columns.
        splits: for each split, iterates over its images from the beginning, each time it is called. Predictions are of
            one split without a name, "".
        counts: images of each split.
        unknown: how many (image, label) pairs are unknown.
        unused: labels that no image has.
        roots: absolute folders that names of images of single splits are relative to.
    """

    root: str
    labels: tuple[str, ...]
    splits: Mapping[str, Callable[[], Iterator[ExportImage]]]
    counts: Mapping[str, int]
    unknown: int = 0
    unused: tuple[str, ...] = ()
    roots: Mapping[str, str] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        """Whether images have to say which split they belong to."""
        return len(self.splits) > 1

    def path(self, split: str, image: ExportImage) -> str:
        """The absolute path of an image of a split."""
        return os.path.join(self.roots.get(split, self.root), image.name)

    def images(self) -> Iterator[tuple[str, ExportImage]]:
        """(split, image) of all images, split by split."""
        for split, images in self.splits.items():
            for image in images():
                yield split, image

    def only(self, split: str) -> ExportSet:
        """The set with one split alone; paths, labels and `unknown` remain those of the whole."""
        return dataclasses.replace(self, splits={split: self.splits[split]}, counts={split: self.counts[split]})


def from_indexes(
    indexes: Mapping[str, ImageIndex], *, unknown_as_absent: bool = False, apart: bool = False
) -> ExportSet:
    """The set of a dataset, by the name of the split.

    Labels that only some of the splits have follow those of the first one, and are unknown where they are missing.
    Names are relative to the deepest folder that holds the images of all splits, or with `apart`, for a format with a
    folder for each split, to that of each.
    """
    root = os.path.commonpath([index.root for index in indexes.values()])
    labels = joined_labels(indexes.values())
    column_of = {name: column for column, name in enumerate(labels)}
    present, unknown = np.zeros(len(labels), np.int64), 0
    for index in indexes.values():
        columns = [column_of[name] for name in index.labels.names]
        counts = index.states_per_class()
        present[columns] += counts[0]
        unknown += int(counts[2].sum()) + len(index) * (len(labels) - len(index.labels))

    def images(index: ImageIndex) -> Callable[[], Iterator[ExportImage]]:
        base = index.root if apart else root
        return lambda: _images_of(index, base, labels, unknown_as_absent=unknown_as_absent)

    return ExportSet(
        root=root,
        labels=labels,
        splits={split: images(index) for split, index in indexes.items()},
        counts={split: len(index) for split, index in indexes.items()},
        unknown=0 if unknown_as_absent else unknown,
        roots={split: index.root for split, index in indexes.items()} if apart else {},
        unused=tuple(name for name, count in zip(labels, present, strict=True) if count == 0),
    )


def joined_labels(indexes: Iterable[ImageIndex]) -> tuple[str, ...]:
    """The labels of all splits, those of the first one first, each once."""
    return tuple(dict.fromkeys(name for index in indexes for name in index.labels.names))


def _images_of(
    index: ImageIndex, root: str, labels: tuple[str, ...], *, unknown_as_absent: bool
) -> Iterator[ExportImage]:
    column_of = {name: column for column, name in enumerate(labels)}
    columns = np.array([column_of[name] for name in index.labels.names])
    place = os.path.relpath(index.root, root).replace(os.sep, "/")
    before = "" if place == "." else f"{place}/"
    names = index.names()
    for first in range(0, len(index), ROWS):
        rows = np.arange(first, min(first + ROWS, len(index)))
        states_BN = np.full((len(rows), len(labels)), UNKNOWN, np.int8)
        states_BN[:, columns] = index.targets(rows)
        if unknown_as_absent:
            states_BN[states_BN == UNKNOWN] = ABSENT
        for states in states_BN:
            present = tuple(labels[column] for column in np.flatnonzero(states == PRESENT))
            yield ExportImage(before + next(names), present, states)
