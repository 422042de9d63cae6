"""Probable mistakes in the images or labels of a run, found before it begins."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import numpy as np

from mldec.data.dataset import name_some
from mldec.data.image_checks import same_files
from mldec.data.index import ImageIndex
from mldec.errors import DataError, counted

logger = logging.getLogger(__name__)

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

    def are(groups: list[list[tuple[str, int]]]) -> str:
        return "is" if len(groups) == 1 else "are"

    apart = [group for group in groups if len({labels(*image) for image in group}) > 1]
    across = [group for group in groups if len({split for split, _ in group}) > 1]
    found = []
    if apart:
        found.append(
            f"{counted(len(apart), 'image')} {are(apart)} there several times, byte for byte, with different labels: "
            f"{some(apart)}; delete those with wrong labels{advice}"
        )
    if across:
        found.append(
            f"{counted(len(across), 'image')} {are(across)} in several splits, byte for byte, so metrics are "
            f"optimistically biased: {some(across)}; leave each in one of them"
        )
    return found


def find_shared(indexes: Mapping[str, ImageIndex]) -> list[str]:
    """A sentence for images that are in several splits by their paths; `indexes` by the name of the split."""
    of_paths: dict[str, str] = {}  # the split in which each was seen first, the smallest first
    shared: dict[str, dict[str, None]] = {}
    largest = max(indexes, key=lambda split: len(indexes[split]), default=None)
    for split, index in sorted(indexes.items(), key=lambda item: (len(item[1]), item[0] == largest)):
        for name in index.names():
            place = os.path.join(index.root, name)
            if (other := of_paths.get(place)) is not None:
                shared.setdefault(name, {other: None})[split] = None
            elif split != largest:
                of_paths[place] = split
    if not shared:
        return []
    splits = {split for found in shared.values() for split in found}
    named = " and ".join(split for split in indexes if split in splits)
    return [
        f"{counted(len(shared), 'image')} {'is' if len(shared) == 1 else 'are'} in several splits "
        f"({named}: {name_some(shared, len(shared))}), so metrics are optimistically biased; leave each in one"
    ]


def warn_of_shared(indexes: Mapping[str, ImageIndex]) -> None:
    """Log what `find_shared` finds as a warning."""
    for sentence in find_shared(indexes):
        logger.warning("warning: %s", sentence)


def find_data_problems(train: ImageIndex) -> list[str]:
    """A sentence for labels that no image of `train` has. Raises DataError if no image of it has any label."""
    positives = train.positives_per_class()
    if not positives.any():
        raise DataError(
            f"no image of train has a label, of {counted(len(train), 'image')} and {counted(len(positives), 'label')}: "
            "nothing can be learned; `mldec data stats` shows what is read from the annotations"
        )
    trained = np.ones(len(positives), bool) if train.labels.seen is None else np.array(train.labels.seen)
    absent = np.flatnonzero((positives == 0) & trained)
    if not len(absent):
        return []
    names = name_some((train.labels.names[column] for column in absent), len(absent))
    has = "has" if len(absent) == 1 else "have"
    return [f"{len(absent):,} of {counted(int(trained.sum()), 'label')} {has} no image in train: {names}"]
