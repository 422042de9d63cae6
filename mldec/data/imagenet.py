"""ImageNet (ILSVRC 2012) in class folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, ImageSize, SplitCounts, check_split, require
from mldec.data.folder import class_folders, read_class_folders
from mldec.data.index import ImageIndex
from mldec.errors import DataError
from mldec.registry import DATASETS

#: Where class folders lie below the root: unpacked by hand, or from Kaggle's archive.
PREFIXES = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")

ADVICE = (
    "Register at https://image-net.org/download, get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, and unpack "
    "them into one folder per class: train/<wnid>/, val/<wnid>/ (`mldec data download dataset=imagenet` shows how)"
)


@dataclass(frozen=True, kw_only=True)
class ImageNetConfig(DatasetConfig):
    """ILSVRC 2012: 1,281,167 images of 1,000 classes; the 50,000 of val, whose labels are public, are for test."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    published: ClassVar = {"train": SplitCounts(1_281_167, 1000), "test": SplitCounts(50_000, 1000)}
    single_label: ClassVar = True

    root: str = "data/imagenet"
    image_size: ImageSize = 224


@DATASETS.register("imagenet", ImageNetConfig)
def build_imagenet(config: ImageNetConfig, *, split: str) -> ImageIndex:
    """The index of a split: labels are WordNet ids, sorted, as usual.

    Raises:
        DataError: a folder is missing, or val is still flat.
    """
    check_split(config, split)
    places = (os.path.join(config.folder, prefix) for prefix in PREFIXES)
    base = next((place for place in places if os.path.isdir(os.path.join(place, "train"))), config.folder)
    name = "train" if split == "train" else "val"
    require(base, [f"{name}/"], ADVICE, tree=["train/", "val/"])
    folder = os.path.join(base, name)

    classes = class_folders(folder)
    if not classes:
        raise DataError(
            f"{folder}: no class folders; sort its images into {name}/<wnid>/ by the labels of the development kit "
            "(`mldec data download dataset=imagenet` shows how)"
        )
    return cached(config, split, [folder, *classes], lambda: read_class_folders(folder))
