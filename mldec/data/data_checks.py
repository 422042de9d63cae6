"""Probable mistakes in the images or labels of a run, found before it begins."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mldec.data.dataset import name_some
from mldec.data.index import ImageIndex
from mldec.errors import DataError


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
