"""Probable mistakes in the images or labels of a run, found before it begins."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from mldec.data.dataset import name_some
from mldec.data.image_checks import same_files
from mldec.data.index import ImageIndex
from mldec.errors import DataError

MOST_COMPARED = 20_000  # images whose files are compared when a training starts, see `same_files` for the time


def find_copies(indexes: Mapping[str, ImageIndex], advice: str = "") -> list[str]:
    """Sentences for images that are the same file, byte for byte: those with other labels, and those in other splits.

    Args:
        indexes: by the name of the split.
        advice: what may be done about those with other labels, beside deleting them.
    """
    images: dict[str, tuple[str, int]] = {}  # a path that several splits share is that of the first
    for split, index in indexes.items():
        for row, name in enumerate(index.names()):
            images.setdefault(os.path.join(index.root, name), (split, row))
    paths = list(images)
    groups = [[images[paths[place]] for place in group] for group in same_files(paths)]

    def labels(split: str, row: int) -> frozenset[str]:
        index = indexes[split]
        return frozenset(index.labels.names[column] for column in index.positives[row].tolist())

    def some(groups: list[list[tuple[str, int]]]) -> str:
        several = len(indexes) > 1
        texts = (
            " = ".join(indexes[split].name(row) + (f" ({split})" if several else "") for split, row in group[:4])
            for group in groups
        )
        return name_some(texts, len(groups))

    apart = [group for group in groups if len({labels(*image) for image in group}) > 1]
    across = [group for group in groups if len({split for split, _ in group}) > 1]
    found = []
    if apart:
        found.append(
            f"{len(apart):,} images are there several times, byte for byte, with different labels: {some(apart)}; "
            f"delete those with wrong labels{advice}"
        )
    if across:
        found.append(
            f"{len(across):,} images are in several splits, byte for byte, so metrics are optimistically biased: "
            f"{some(across)}; leave each in one of them"
        )
    return found


def find_data_problems(train: ImageIndex, held_out: Mapping[str, ImageIndex]) -> list[str]:
    """A sentence for labels that no image of `train` has, and for images that a held-out split shares with it.

    Raises DataError if no image of `train` has any label.
    """
    positives = train.positives_per_class()
    if not positives.any():
        raise DataError(
            f"no image of train has a label, of {len(train):,} images and {len(positives):,} labels: nothing can "
            "be learned; `mldec data stats` shows what is read from the annotations"
        )
    found = []
    trained = np.ones(len(positives), bool) if train.labels.seen is None else np.array(train.labels.seen)
    absent = np.flatnonzero((positives == 0) & trained)
    if len(absent):
        names = name_some((train.labels.names[column] for column in absent), len(absent))
        found.append(f"{len(absent):,} of {trained.sum():,} labels have no image in train: {names}")
    for name, index in held_out.items():
        own = {(index.root, image) for image in index.names()}
        shared = [image for image in train.names() if (train.root, image) in own]
        if shared:
            found.append(
                f"{len(shared):,} of {len(index):,} images of {name} are in train too, so its metrics are "
                f"optimistically biased: {name_some(shared, len(shared))}"
            )
    return found
