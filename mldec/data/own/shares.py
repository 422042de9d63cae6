"""Shares of images for val and test, drawn from the train images of a dataset that lacks these splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mldec.config import Seed, Share
from mldec.data.dataset import SPLITS
from mldec.data.index import ImageIndex
from mldec.data.stratify import stratify
from mldec.errors import DataError


@dataclass(frozen=True, kw_only=True)
class SplitShares:
    """Settings of a dataset that may be divided.

    Attributes:
        val_share, test_share: of the train images, drawn so that each split has its share of every label; only where
            the dataset has no such split itself. val_share=0: val is `protocol.holdout` of train, drawn at random.
        split_seed: decides between equally good divisions.
    """

    val_share: Share = 0.0
    test_share: Share = 0.0
    split_seed: Seed = 0

    def __post_init__(self) -> None:
        if self.val_share + self.test_share >= 1:
            raise ValueError(f"val_share={self.val_share:g} and test_share={self.test_share:g} leave no image in train")

    @property
    def own_splits(self) -> tuple[str, ...]:
        """Those that the dataset has by itself."""
        raise NotImplementedError

    @property
    def drawn_splits(self) -> tuple[str, ...]:
        """Those that shares make of train."""
        return self._drawn(self.own_splits)

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that the dataset has by itself, and those that are drawn."""
        own = self.own_splits
        return tuple(split for split in SPLITS if split in (*own, *self._drawn(own)))

    def unused(self) -> list[str]:
        """Settings that were given a value which has no effect, a sentence each."""
        own = self.own_splits
        shares = ((split, getattr(self, f"{split}_share")) for split in SPLITS[1:])
        return [
            f"dataset.{split}_share={share:g}: the dataset has its own {split} split"
            for split, share in shares
            if share and split in own
        ]

    def part_of(self, index: ImageIndex, split: str) -> ImageIndex:
        """The images of `split`, of an index with all images of the split that it is drawn from, or of itself.

        The same for every call, in the order of the index. Raises DataError if there are none.
        """
        drawn = self.drawn_splits
        if not drawn or split not in ("train", *drawn):
            return index
        shares = {name: getattr(self, f"{name}_share") for name in drawn}
        rows = divide(index, shares, self.split_seed)[split]
        if not len(rows):
            raise DataError(
                f"{index.root}: the shares of val and test leave none of {len(index):,} images to train on"
                if split == "train"
                else f"{index.root}: no image is left for dataset.{split}_share={shares[split]:g} of {len(index):,} "
                f"images, since train gets one of each of {len(index.labels):,} labels; use more, or 0"
            )
        return index.subset(rows)

    def _drawn(self, own: tuple[str, ...]) -> tuple[str, ...]:
        drawn = (split for split in SPLITS[1:] if getattr(self, f"{split}_share") and split not in own)
        return tuple(drawn) if "train" in own else ()


def divide(index: ImageIndex, shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """The rows of train and of each of `shares`, ascending: see `stratify`. Those of few images may be empty."""
    left = 1.0
    for share in shares.values():
        left -= share
    parts = stratify(index.positives, len(index.labels), [left, *shares.values()], seed=seed)
    return {split: np.flatnonzero(parts == number) for number, split in enumerate(("train", *shares))}
