"""Images in one folder per class: your own, ImageNet, and the reader that other datasets in such folders share."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, ImageSize, SplitCounts, check_split, listing, name_some, naming, require
from mldec.data.folder_tree import SUFFIXES, FolderTree, is_image_name, is_of_outputs, some_below
from mldec.data.index import ImageIndex
from mldec.data.own.shares import SplitShares
from mldec.data.unread_formats import UNREAD, describe_unread
from mldec.errors import DataError, counted
from mldec.labels import LabelSpace
from mldec.registry import DATASETS

logger = logging.getLogger(__name__)

#: Allowed names of the folder of a split, in any case.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF_NAME = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
USUAL = ("train", "val", "valid", "validation", "test")  # those that are hardly names of classes

COPIES = ", or use dataset.copies=join, which makes each one image with all labels of its folders"

#: Where class folders lie below the root: unpacked by hand, or from Kaggle's archive.
IMAGENET_PREFIXES = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")

IMAGENET_ADVICE = (
    "Register at https://image-net.org/download, get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, and unpack "
    "them into one folder per class: train/<wnid>/, val/<wnid>/ (`mldec data download dataset=imagenet` shows how)"
)


@dataclass(frozen=True, kw_only=True)
class FolderConfig(SplitShares, DatasetConfig):  # type: ignore[override]  # its splits are found
    """`root/<class>/…` or `root/train/<class>/…` with val (or valid, validation) and test beside it.

    Without `train` every folder below the root is a class, and the only split is train. `val_share` and `test_share`
    make splits that have no folder of train.

    Attributes:
        labels: train, the class folders of train; union, those of all splits. null: as train, but images of a class
            that only val or test have are an error.
        copies: join makes images of a split that are the same, byte for byte, one with the labels of all their folders,
            so that images may have several labels. null: each counts with its own label; a warning names them.
    """

    root: str
    labels: Literal["train", "union"] | None = None
    copies: Literal["join"] | None = None

    @property
    def single_label(self) -> bool:  # type: ignore[override]
        """Unless copies are joined."""
        return self.copies is None

    @property
    def own_splits(self) -> tuple[str, ...]:
        """Those that have a folder."""
        found = tuple(split for split in SPLIT_FOLDERS if split_folder(self.folder, split) is not None)
        return found if "train" in found else ("train",)

    @property
    def has_train_folder(self) -> bool:
        """Whether splits are folders."""
        return split_folder(self.folder, "train") is not None

    def unused(self) -> list[str]:
        found = super().unused()
        if self.labels is not None and not self.has_train_folder:
            found.append(f"dataset.labels={self.labels}: only used where splits are folders, and there is no train/")
        return found


@DATASETS.register("folder", FolderConfig)
def build_folder(config: FolderConfig, *, split: str) -> ImageIndex:
    """The index of a split: labels are the names of train's class folders, sorted, or with `union` of all splits.

    Raises:
        DataError: no folder, no class folder, no image, or images of a class that train lacks.
    """
    from mldec.data.own.label_names import TRAIN, UNION, warn_of_similar  # which needs this module

    check_split(config, split)
    if not os.path.isdir(config.folder):
        raise DataError(f"dataset.root={config.root}: no such folder; it must hold one folder per class")
    train = split_folder(config.folder, "train") or config.folder
    folder = split_folder(config.folder, split) if split in config.own_splits[1:] else train
    assert folder is not None

    places = [split_folder(config.folder, name) for name in SPLIT_FOLDERS]
    named = [place for place in places if place] if config.labels == UNION and config.has_train_folder else [train]

    _say_what_is_beside(config.folder, folder)

    def read() -> ImageIndex:
        labels = _named(sorted({name for place in named for name in _class_names(FolderTree(place))}), train)
        index = read_class_folders(folder, labels, leave_out=config.labels == TRAIN)
        if split == "train":  # the labels of the others are the same
            warn_of_similar(config.folder, index.labels.names)
        return config.part_of(_with_copies_joined(index) if config.copies == "join" else index, split)

    # Not the folder itself: the cache may lie in it, and what is added to it is a class folder, which is named here.
    sources = [*(path for place in named for path in class_folders(place)), *folders_below(folder)]
    return cached(config, split, sources, read)


@dataclass(frozen=True, kw_only=True)
class ImageNetConfig(DatasetConfig):
    """ILSVRC 2012: 1,281,167 images of 1,000 classes; the 50,000 of val, whose labels are public, are for test."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    published: ClassVar = {"train": SplitCounts(1_281_167, 1000), "test": SplitCounts(50_000, 1000)}
    single_label = True

    root: str = "data/imagenet"
    image_size: ImageSize = 224


@DATASETS.register("imagenet", ImageNetConfig)
def build_imagenet(config: ImageNetConfig, *, split: str) -> ImageIndex:
    """The index of a split: labels are WordNet ids, sorted, as usual.

    Raises:
        DataError: a folder is missing, or val is still flat.
    """
    check_split(config, split)
    places = (os.path.join(config.folder, prefix) for prefix in IMAGENET_PREFIXES)
    base = next((place for place in places if os.path.isdir(os.path.join(place, "train"))), config.folder)
    name = "train" if split == "train" else "val"
    require(base, [f"{name}/"], IMAGENET_ADVICE, tree=["train/", "val/"])
    folder = os.path.join(base, name)

    classes = class_folders(folder)
    if not classes:
        raise DataError(
            f"{folder}: no class folders; sort its images into {name}/<wnid>/ by the labels of the development kit "
            "(`mldec data download dataset=imagenet` shows how)"
        )
    return cached(config, split, [folder, *classes], lambda: read_class_folders(folder))


def split_folder(root: str, split: str) -> str | None:
    """The folder of a split below `root`, by one of its usual names; None if there is none.

    `Training`, `testing` and other unusual spellings count where all folders are of splits: they may be classes, too.

    Raises DataError for several.
    """
    try:
        names = sorted(name for name in os.listdir(root) if not name.startswith(".") and name != "__MACOSX")
    except OSError:
        return None
    usual = [name for name in names if name.lower() in SPLIT_FOLDERS[split]]
    if not any(name in USUAL for name in usual):
        others = (os.path.join(root, name) for name in names if name.lower() not in SPLIT_OF_NAME)
        usual = [] if any(os.path.isdir(path) and not is_of_outputs(path) for path in others) else usual
    paths = [path for name in usual if os.path.isdir(path := os.path.join(root, name))]
    if len(paths) > 1:
        raise DataError(f"{root}: the folders {' and '.join(usual)} may be its {split}; keep one of them there")
    return paths[0] if paths else None


def read_class_folders(folder: str, labels: LabelSpace | None = None, *, leave_out: bool = False) -> ImageIndex:
    """The images in `folder/<class>/`, at any depth, each with the label of its class.

    Links to folders are followed, see `FolderTree`. Hidden files and folders, files that macOS adds, files without the
    ending of an image, and images in formats that are not read are counted and left out.

    Args:
        labels: the columns; None: the names of the class folders, sorted.
        leave_out: classes that are none of `labels`, which otherwise are an error.

    Raises:
        DataError: no class folder, no image, images of a class that is none of `labels`, or a link of which FolderTree
            says so.
    """
    tree = FolderTree(folder)
    classes = _class_names(tree)
    labels = labels or _named(classes, folder)
    known = set(labels.names)
    lacking: dict[str, int] = {}  # images of each class that is none of the labels
    others: list[str] = []
    unread: list[str] = []
    empty: list[str] = []

    def samples() -> Iterator[tuple[str, list[int], tuple[()], tuple[()]]]:
        for name in classes:
            column = labels.index(name) if name in known else -1
            count = 0
            for path in tree.files(name):
                ending = os.path.splitext(path)[1].lower()
                if ending in SUFFIXES:
                    count += 1
                    if column >= 0:
                        yield path, [column], (), ()
                else:
                    (unread if ending in UNREAD else others).append(path)
            if not count:
                empty.append(name)
            elif column < 0:
                lacking[name] = count
        if lacking and not leave_out:
            from mldec.data.own.label_names import describe_lacking

            raise DataError(f"{os.path.join(folder, next(iter(lacking)))}: {describe_lacking(lacking, labels.names)}")

    try:
        with naming(folder):
            index = ImageIndex.build(samples(), root=folder, labels=labels)
    except DataError as error:
        raise DataError("; ".join([str(error), *describe_unread(unread)])) from None
    if lacking:
        some = name_some(lacking, len(lacking))
        logger.info(
            "%s: left out %s of classes that train lacks (%s)", folder, counted(sum(lacking.values()), "image"), some
        )
    for sentence in tree.notes():
        logger.info("%s: %s", folder, sentence)
    if others:
        shown = name_some(others, len(others))
        logger.info(
            "%s: left out %s whose ending is not that of an image (%s)", folder, counted(len(others), "file"), shown
        )
    for sentence in describe_unread(unread):
        logger.warning("warning: %s: %s", folder, sentence)
    if empty:
        logger.warning(
            "warning: %s: no image in %s (%s)", folder, counted(len(empty), "folder"), name_some(empty, len(empty))
        )
    return index


def _say_what_is_beside(root: str, folder: str) -> None:
    """Log what lies beside the class folders in `folder`, and beside folders of splits in `root`, and is left out."""
    for place in dict.fromkeys([folder, root]):
        images = [name for name in _visible(place) if is_image_name(name)]
        if images:
            some = name_some(images, len(images))
            logger.info("%s: left out %s beside the class folders (%s)", place, counted(len(images), "image"), some)
    if folder == root:
        return
    splits = {split_folder(root, split) for split in SPLIT_FOLDERS}
    others = [path for name in _visible(root) if (path := os.path.join(root, name)) not in splits]
    others = [os.path.basename(path) for path in others if os.path.isdir(path) and _shows_images(path)]
    if others:
        some = name_some(others, len(others))
        logger.info("%s: left out %s of images beside those of splits (%s)", root, counted(len(others), "folder"), some)


def _visible(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith(".") and name != "__MACOSX")
    except OSError:
        return []


def _shows_images(folder: str) -> bool:
    """Whether images are in a folder, of the first files that the system gives, which are no outputs."""
    return not is_of_outputs(folder) and any(is_image_name(path) for path in some_below(folder))


def folders_below(folder: str) -> list[str]:
    """All folders in `folder` that are read, at any depth: their times of change reveal new files."""
    tree = FolderTree(folder)
    return [os.path.join(folder, name) for first in tree.folders() for name in tree.below(first)]


def class_folders(folder: str) -> list[str]:
    """Paths of the folders directly in `folder`, sorted, and of links to folders elsewhere."""
    return [os.path.join(folder, name) for name in FolderTree(folder).folders()]


def _with_copies_joined(index: ImageIndex) -> ImageIndex:
    """Images that are the same, byte for byte, as the first of them, with the labels of all; see `same_files`."""
    from mldec.data.image_checks import same_files
    from mldec.data.own.rows import regrouped

    first = np.arange(len(index))
    for group in same_files([index.path(row) for row in range(len(index))]):
        first[group] = group[0]
    kept, numbers = np.unique(first, return_inverse=True)
    if len(kept) < len(index):
        logger.info("%s: %s copies joined with the image they are of", index.root, f"{len(index) - len(kept):,}")
    positives = regrouped(index.positives, numbers, len(kept))
    return dataclasses.replace(index.subset(kept), positives=positives)


def _class_names(tree: FolderTree) -> list[str]:
    names = tree.folders()
    if not names:
        raise DataError(f"{tree.root}: no folder in it; each class needs one. Found there: {listing(tree.root)}")
    return names


def _named(classes: list[str], folder: str) -> LabelSpace:
    with naming(folder):
        return LabelSpace(classes)
