"""The images of all splits of a dataset as one index."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import numpy as np

from mldec.data.index import LISTS, ImageIndex, Ragged
from mldec.data.own.export_set import joined_labels
from mldec.data.own.rows import grouped, regrouped
from mldec.labels import LabelSpace


def join(indexes: Mapping[str, ImageIndex]) -> ImageIndex:
    """All images of the splits of a dataset, in the order of these, with paths relative to a folder that holds all.

    Labels that only some of the splits have follow those of the first one, and are unknown where they are missing. An
    image of several splits is one, with the labels that it has in any.
    """
    root = os.path.commonpath([index.root for index in indexes.values()])
    labels = LabelSpace(joined_labels(indexes.values()))
    parts = [index if index.labels.names == labels.names else index.among(labels) for index in indexes.values()]
    paths, images = grouped(name for one in parts for name in _names(one, root))
    positives, negatives, unknown = (
        regrouped(_concatenated([getattr(one, name) for one in parts]), images, len(paths)) for name in LISTS[1:]
    )
    return ImageIndex(root, labels, Ragged.of_texts(paths), positives, negatives, unknown, parts[0].default)


def _names(index: ImageIndex, root: str) -> Iterator[str]:
    """The paths of images relative to a folder that holds the index's own."""
    inner = os.path.relpath(index.root, root).replace(os.sep, "/")
    return (name if inner == "." else f"{inner}/{name}" for name in index.names())


def _concatenated(parts: list[Ragged]) -> Ragged:
    return Ragged.from_counts(
        np.concatenate([one.counts for one in parts]), np.concatenate([one.values for one in parts])
    )
