"""Shares of images for val and test, drawn from those of one file or folder that has no splits of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mldec.config import Seed, Share
from mldec.data.index import ImageIndex
from mldec.data.stratify import stratify
from mldec.errors import DataError


@dataclass(frozen=True, kw_only=True)
class SplitShares:
    """Settings of a dataset that may be divided.

    Attributes:
        val_share, test_share: of the images, drawn so that each split has its share of every label; only where no other
            splits are named. 0: none, so that val is `protocol.holdout` of train.
        split_seed: decides between equally good divisions.
    """

    val_share: Share = 0.0
    test_share: Share = 0.0
    split_seed: Seed = 0

    def __post_init__(self) -> None:
        if self.val_share + self.test_share >= 1:
            raise ValueError(f"val_share={self.val_share:g} and test_share={self.test_share:g} leave no image in train")

    @property
    def drawn_splits(self) -> tuple[str, ...]:
        """The splits that shares make, train first."""
        return ("train", *(["val"] if self.val_share else []), *(["test"] if self.test_share else []))

    def rows_of(self, index: ImageIndex, split: str) -> np.ndarray:
        """The images of a split, in ascending order: the same for every call. Raises DataError if there are none."""
        splits = self.drawn_splits
        shares = {"val": self.val_share, "test": self.test_share, "train": 1 - self.val_share - self.test_share}
        parts = stratify(index.positives, len(index.labels), [shares[name] for name in splits], seed=self.split_seed)
        rows = np.flatnonzero(parts == splits.index(split))
        if not len(rows):
            raise DataError(
                f"{index.root}: dataset.{split}_share={shares[split]:g} of {len(index):,} images is none; use more"
                if split != "train"
                else f"{index.root}: the shares of val and test leave none of {len(index):,} images to train on"
            )
        return rows
