"""NUS-WIDE: 81 concepts of Flickr images, from the original release or from a data.csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, Statistics, check_split, naming, require
from mldec.data.index import ImageIndex
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.registry import DATASETS
from mldec.untrusted import open_text

#: Where files of the original release lie; people unpack its archives into different folders.
FOLDERS = (
    "",
    "ImageList",
    "Groundtruth/TrainTestLabels",
    "TrainTestLabels",
    "ConceptsList",
    "Concepts",
    "NUS_WID_Tags",
)
IMAGES = ("Flickr", "images", "Images", "")
ADVICE = (
    "The original release is described at "
    "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html; "
    "`mldec data download dataset=nuswide` says what goes where. A data.csv (path, [labels], train or val) will do, too"
)


@dataclass(frozen=True, kw_only=True)
class NusWideConfig(DatasetConfig):
    """NUS-WIDE with its 81 concepts.

    Attributes:
        layout: the original release (ImageList, TrainTestLabels, Concepts81) or data.csv; auto: that if it exists.
        images: the folder that paths are relative to; null: Flickr, images or Images in the root, or the root.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    paths: ClassVar[tuple[str, ...]] = (*DatasetConfig.paths, "images")

    root: str = "data/nuswide"
    layout: Literal["auto", "release", "csv"] = "auto"
    images: str | None = None

    def expected(self, split: str) -> Statistics:
        return Statistics({"train": 161_789, "test": 107_859}[split], labels=81)


@DATASETS.register("nuswide", NusWideConfig)
def build_nuswide(config: NusWideConfig, *, split: str) -> ImageIndex:
    """The index of a split: the concepts by name, images in the order of their list.

    Raises:
        DataError: something is missing or broken; names the file.
    """
    check_split(config, split)
    root = image_folder(config)
    config = replace(config, images=root)  # where it was found shapes the index
    if uses_csv(config):
        return cached(config, split, [csv_file(config)], lambda: _from_csv(csv_file(config), split, root), root=root)
    find = finder(config, [image_list(split), "Concepts81.txt"])
    concepts = read_names(find("Concepts81.txt"))
    with naming(find("Concepts81.txt")):
        labels = LabelSpace(concepts)
    columns = [find(label_file(concept, split)) for concept in concepts]

    def read() -> ImageIndex:
        names = read_image_list(find(image_list(split)))
        present_SN = np.stack([read_column(path, len(names)) for path in columns], axis=1)
        with naming(find(image_list(split))):
            return index_of(names, present_SN, labels, root)

    return cached(config, split, [find(image_list(split)), find("Concepts81.txt"), *columns], read, root=root)


def _from_csv(path: str, split: str, root: str) -> ImageIndex:
    rows = read_csv(path)
    labels = LabelSpace(sorted({label for _, listed, _ in rows for label in listed}))
    samples = (
        (name, sorted({labels.index(label) for label in listed}), (), ())
        for name, listed, part in rows
        if part == split
    )
    with naming(path):
        return ImageIndex.build(samples, root=root, labels=labels)


# What the zero-shot form reads as well -----------------------------------------------------------------------------


def uses_csv(config: NusWideConfig) -> bool:
    """Whether data.csv is read, not the original release."""
    return config.layout == "csv" or (config.layout == "auto" and os.path.isfile(csv_file(config)))


def csv_file(config: NusWideConfig) -> str:
    """The path of data.csv."""
    return os.path.join(config.folder, "data.csv")


def image_folder(config: NusWideConfig) -> str:
    """What paths of images are relative to."""
    if config.images is not None:
        return os.path.expanduser(config.images)
    places = [os.path.join(config.folder, name) for name in IMAGES]
    if uses_csv(config):
        return config.folder
    return next(place for place in places if os.path.isdir(place) or place == places[-1])


def image_list(split: str) -> str:
    """The original release's list of a split's images."""
    return f"{split.capitalize()}Imagelist.txt"


def label_file(concept: str, split: str) -> str:
    """The original release's file with 0 or 1 for each image of a split."""
    return f"Labels_{concept}_{split.capitalize()}.txt"


def finder(config: NusWideConfig, needed: Sequence[str]) -> Callable[[str], str]:
    """A function from the name of a file of the original release to its path.

    Raises DataError, showing the tree, if one of `needed` or later one that is asked for is missing.
    """

    def place(name: str) -> str | None:
        paths = (os.path.join(config.folder, folder, name) for folder in FOLDERS)
        return next((path for path in paths if os.path.isfile(path)), None)

    missing = [name for name in needed if place(name) is None]
    if missing:
        require(config.folder, missing, ADVICE, tree=needed)

    def find(name: str) -> str:
        path = place(name)
        if path is None:
            raise DataError(f"dataset.root={config.root}: no {name} there, nor in {', '.join(FOLDERS[1:])}. {ADVICE}")
        return path

    return find


def read_names(path: str) -> list[str]:
    """The names in a file, one a line."""
    return _lines(path)


def read_image_list(path: str) -> list[str]:
    """The paths in a list of images, which was written on Windows."""
    return [line.replace("\\", "/") for line in _lines(path)]


def read_column(path: str, count: int) -> np.ndarray:
    """The `count` values of a label file, as (count,) bool. Raises DataError for other values or another number."""
    lines = _lines(path)
    if len(lines) != count:
        raise DataError(f"{path}: {len(lines):,} lines for {count:,} images")
    odd = next((number for number, line in enumerate(lines, start=1) if line not in ("0", "1")), None)
    if odd is not None:
        raise DataError(f"{path} line {odd}: {lines[odd - 1][:40]!r}; allowed are 1 present and 0 absent")
    return np.array(lines) == "1"


def index_of(
    names: Sequence[str], present_SN: np.ndarray, labels: LabelSpace, root: str, unknown_columns: Sequence[int] = ()
) -> ImageIndex:
    """An index of images with a matrix of what is present (S,N); `unknown_columns` are unknown in all of them."""
    unknown = list(unknown_columns)
    samples = ((name, np.flatnonzero(row).tolist(), (), unknown) for name, row in zip(names, present_SN, strict=True))
    return ImageIndex.build(samples, root=root, labels=labels)


def read_csv(path: str) -> list[tuple[str, list[str], str]]:
    """(path, labels, "train" or "test") of each row of a data.csv, whose columns go by position."""
    rows = []
    try:
        with open_text(path, newline="") as file:
            reader = csv.reader(file, strict=True)
            next(reader, None)  # names of columns, which differ from copy to copy
            for row in reader:
                if row:
                    rows.append(_csv_row(row, f"{path} line {reader.line_num}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from None
    if not rows:
        raise DataError(f"{path}: holds no image")
    return rows


def _csv_row(row: list[str], where: str) -> tuple[str, list[str], str]:
    if len(row) < 3:
        raise DataError(f"{where}: {len(row)} columns; expected a path, a list of labels, and train or val")
    name, listed, part = row[0].strip(), row[1].strip(), row[2].strip().lower()
    splits = {"train": "train", "val": "test", "test": "test"}
    if part not in splits:
        raise DataError(f"{where}: split {row[2]!r}; allowed are train and val")
    if not (listed.startswith("[") and listed.endswith("]")):
        raise DataError(f"{where}: {listed[:40]!r} is no list of labels such as [dog, cat]")
    labels = [label.strip().strip("'\"").strip() for label in listed[1:-1].split(",")]
    return name, [label for label in labels if label], splits[part]


def _lines(path: str) -> list[str]:
    try:
        with open_text(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{path}: is empty")
    return lines
