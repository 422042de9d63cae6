"""Splits that stand in the paths of a file: its images lie in train/…, val/… and test/…."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mldec.data.dataset import SPLITS
from mldec.data.folder import SPLIT_OF_NAME


def first_folders(names: Iterable[str]) -> list[str]:
    """The folder in which each path begins, behind the folders that all share; "" for a path without one."""
    paths = [_folders(name) for name in names]
    shared = paths[0] if paths else []
    for folders in paths:
        while folders[: len(shared)] != shared:
            shared = shared[:-1]
    return [folders[len(shared)] if len(folders) > len(shared) else "" for folders in paths]


def splits_in_paths(names: Iterable[str]) -> np.ndarray | None:
    """(S,) int8, the number in SPLITS of each path; None unless each begins in a folder of train, val or test.

    One of train and one of another split are needed. What all paths begin with, such as data/, does not count.
    """
    names = iter(names)
    first = next(names, "")
    if SPLIT_OF_NAME.keys().isdisjoint(map(str.lower, _folders(first))):
        return None
    splits = [SPLIT_OF_NAME.get(name.lower()) for name in first_folders([first, *names])]
    found = set(splits)
    if None in found or "train" not in found or len(found) < 2:
        return None
    numbers = {split: number for number, split in enumerate(SPLITS)}
    return np.array([numbers[split] for split in splits if split is not None], np.int8)


def folders_of_splits(names: Iterable[str]) -> list[str]:
    """Those first folders of some paths that are named as splits are, sorted."""
    return sorted({name for name in first_folders(names) if name.lower() in SPLIT_OF_NAME})


def _folders(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/")[:-1] if part not in ("", ".")]
