"""Labels that are never trained, named in a file: `dataset.unseen` makes any dataset one for zero-shot recognition."""

from __future__ import annotations

import logging
from collections.abc import Collection

import numpy as np

from mldec.data.dataset import DatasetConfig, name_some, named_file, naming
from mldec.data.index import ImageIndex
from mldec.errors import DataError, counted, setting, shortened, suggest
from mldec.labels import LabelSpace

logger = logging.getLogger(__name__)


def unseen_file(config: DatasetConfig) -> str | None:
    """The file that `config.unseen` names; None without one. Raises DataError if it is no regular file."""
    return None if config.unseen is None else named_file("unseen", config.unseen)


def unseen_names(config: DatasetConfig, labels: Collection[str] | None = None) -> tuple[str, ...]:
    """The names in that file; () without one.

    Raises DataError if it cannot be read, is empty, repeats a name, or has one that is none of `labels`.
    """
    from mldec.data.own.label_names import read_names  # which needs datasets, which need this module

    path = unseen_file(config)
    if path is None:
        return ()
    with naming(path):
        names = LabelSpace(read_names(path)).names
    if labels is not None and (strange := sorted(set(names) - set(labels))):
        raise DataError(
            f"{path}: {counted(len(strange), 'name')} that no label of {config.name} has "
            f"({name_some(strange, len(strange), 10)}); for '{shortened(strange[0])}': {suggest(strange[0], labels)}"
        )
    return names


def with_unseen(index: ImageIndex, config: DatasetConfig, split: str) -> ImageIndex:
    """`index` with the labels of `config.unseen` marked as unseen; itself without such a file.

    In train they are unknown, and images whose only positive labels are unseen are left out. Of the other splits images
    and targets stay as they are: ZSL and GZSL are measured on them.

    Raises:
        DataError: a name that no label has, no label or no image is left to train on, or the dataset has unseen labels
            of its own.
    """
    path, names = unseen_file(config), index.labels.names
    if path is None:
        return index
    if index.labels.seen is not None:
        raise DataError(
            f"{setting('dataset.unseen', path)}: {config.name} has unseen labels of its own; leave dataset.unseen out"
        )
    unseen = set(unseen_names(config, names))
    if len(unseen) == len(names):
        raise DataError(f"{path}: names all {counted(len(names), 'label')}, so none is left to train on; delete some")
    marked = index.with_labels(LabelSpace(names, seen=[name not in unseen for name in names]))
    if split != "train":
        return marked
    marked = marked.with_unknown([name for name in names if name in unseen])
    dropped = (index.positives.counts > 0) & (marked.positives.counts == 0)
    if not dropped.any():
        return marked
    found = f"{path}: {dropped.sum():,} of {len(index):,} train images have unseen labels alone"
    if dropped.all():
        raise DataError(f"{found}, so none is left to train on; delete some names")
    logger.info("%s; they are left out", found)
    return marked.subset(np.flatnonzero(~dropped))
