"""NUS-WIDE: 81 concepts of Flickr images, from the original release or from a data.csv."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, TypeVar

import numpy as np

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, SplitCounts, check_split, find_file, naming, require
from mldec.data.index import ImageIndex
from mldec.data.text_rows import csv_rows, read_lines
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.registry import DATASETS

#: Where files of the original release lie; people unpack its archives into different folders.
FOLDERS = ["", "ImageList", "Groundtruth/TrainTestLabels", "TrainTestLabels", "ConceptsList", "Concepts"]
FOLDERS += ["NUS_WID_Tags"]
IMAGES = ("Flickr", "images", "Images", "")
CONCEPTS = "Concepts81.txt"
ADVICE = (
    "The original release is described at "
    "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html; "
    "`mldec data download dataset=nuswide` shows what goes where. A data.csv (path, [labels], train or val) is read too"
)


@dataclass(frozen=True, kw_only=True)
class NusWideConfig(DatasetConfig):
    """NUS-WIDE with its 81 concepts.

    Attributes:
        layout: the original release (ImageList, TrainTestLabels, Concepts81) or data.csv; auto: data.csv if it exists.
        images: the folder that paths are relative to; null: Flickr, images or Images in the root, or the root.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    published: ClassVar = {"train": SplitCounts(161_789, 81), "test": SplitCounts(107_859, 81)}
    paths: ClassVar[tuple[str, ...]] = (*DatasetConfig.paths, "images")

    root: str = "data/nuswide"
    layout: Literal["auto", "release", "csv"] = "auto"
    images: str | None = None


NusWideConfigT = TypeVar("NusWideConfigT", bound=NusWideConfig)


@DATASETS.register("nuswide", NusWideConfig)
def build_nuswide(config: NusWideConfig, *, split: str) -> ImageIndex:
    """The index of a split: the concepts by name, images in the order of their list.

    Raises:
        DataError: something is missing or broken; names the file.
    """
    check_split(config, split)
    config = with_image_folder(config)
    if uses_csv(config):
        return cached(config, split, [csv_file(config)], lambda: _from_csv(config, split), root=config.images)
    find = finder(config, [image_list(split), CONCEPTS])
    listed, concepts = find(image_list(split)), read_lines(find(CONCEPTS))
    with naming(find(CONCEPTS)):
        labels = LabelSpace(concepts)
    columns = [find(label_file(concept, split)) for concept in concepts]

    def read() -> ImageIndex:
        images = read_image_list(listed)
        present_SN = np.stack([read_column(path, len(images)) for path in columns], axis=1)
        return index_of(config, listed, images, present_SN, labels)

    return cached(config, split, [listed, find(CONCEPTS), *columns], read, root=config.images)


def _from_csv(config: NusWideConfig, split: str) -> ImageIndex:
    rows = read_csv(csv_file(config))
    labels = LabelSpace(sorted({label for row in rows for label in row.labels}))
    return index_of(config, csv_file(config), *select_split(config, rows, labels, split), labels)


# Shared with nuswide_zsl ----------------------------------------------------------------------------------------------


def uses_csv(config: NusWideConfig) -> bool:
    """Whether data.csv is read rather than the original release."""
    return config.layout == "csv" or (config.layout == "auto" and os.path.isfile(csv_file(config)))


def csv_file(config: NusWideConfig) -> str:
    """The path of data.csv."""
    return os.path.join(config.folder, "data.csv")


def with_image_folder(config: NusWideConfigT) -> NusWideConfigT:
    """The config with `images`, the folder that paths of images are relative to, since it determines the index."""
    if config.images is not None:
        return replace(config, images=os.path.expanduser(config.images))
    places = [config.folder] if uses_csv(config) else [os.path.join(config.folder, name) for name in IMAGES]
    return replace(config, images=next((place for place in places if os.path.isdir(place)), places[-1]))


def image_list(split: str) -> str:
    """The original release's list of a split's images."""
    return f"{split.capitalize()}Imagelist.txt"


def label_file(concept: str, split: str) -> str:
    """The original release's file with 0 or 1 for each image of a split."""
    return f"Labels_{concept}_{split.capitalize()}.txt"


def finder(config: NusWideConfig, needed: Sequence[str]) -> Callable[[str], str]:
    """A function from the name of a file of the original release to its path.

    Raises DataError that shows the tree if one of `needed`, or later one that is looked up, is missing.
    """

    def find(name: str) -> str:
        if (path := find_file(config.folder, FOLDERS, name)) is None:
            raise DataError(f"dataset.root={config.root}: no {name} there, nor in {', '.join(FOLDERS[1:])}. {ADVICE}")
        return path

    if missing := [name for name in needed if find_file(config.folder, FOLDERS, name) is None]:
        require(config.folder, missing, ADVICE, tree=needed)
    return find


def read_image_list(path: str) -> list[str]:
    """The paths in a list of images, which was written on Windows; at least one."""
    images = [line.replace("\\", "/") for line in read_lines(path)]
    if not images:
        raise DataError(f"{path}: is empty")
    return images


def read_column(path: str, count: int) -> np.ndarray:
    """The `count` values of a label file, as (count,) bool. Raises DataError for other values or another number."""
    lines = read_lines(path)
    if len(lines) != count:
        raise DataError(f"{path}: {len(lines):,} lines for {count:,} images")
    odd = next((number for number, line in enumerate(lines, start=1) if line not in ("0", "1")), None)
    if odd is not None:
        raise DataError(f"{path} line {odd}: {lines[odd - 1][:40]!r}; allowed are 1 present and 0 absent")
    return np.array(lines) == "1"


def index_of(
    config: NusWideConfig,
    source: str,
    images: Sequence[str],
    present_SN: np.ndarray,
    labels: LabelSpace,
    unknown: Sequence[int] = (),
) -> ImageIndex:
    """An index of images with a matrix of what is present (S,N); the columns `unknown` are unknown in all of them.

    `source` is the file that errors name.
    """
    samples = ((name, np.flatnonzero(row).tolist(), (), unknown) for name, row in zip(images, present_SN, strict=True))
    with naming(source):
        return ImageIndex.build(samples, root=config.images or config.folder, labels=labels)


class CsvRow(NamedTuple):
    """A row of data.csv: the path of an image, its labels, and its split."""

    image: str
    labels: list[str]
    split: str


def read_csv(path: str) -> list[CsvRow]:
    """The rows of a data.csv, whose columns go by position."""
    # The first row has the names of the columns, which differ from copy to copy.
    rows = [_csv_row(cells, f"{path} line {line}") for line, cells in itertools.islice(csv_rows(path), 1, None)]
    if not rows:
        raise DataError(f"{path}: holds no image")
    return rows


def select_split(
    config: NusWideConfig, rows: Sequence[CsvRow], labels: LabelSpace, split: str
) -> tuple[list[str], np.ndarray]:
    """The images of a split, and which labels each has (S,N)."""
    rows = [row for row in rows if row.split == split]
    present_SN = np.zeros((len(rows), len(labels)), bool)
    for number, row in enumerate(rows):
        with naming(f"{csv_file(config)}: {row.image}"):
            present_SN[number, [labels.index(label) for label in row.labels]] = True
    return [row.image for row in rows], present_SN


def _csv_row(row: list[str], where: str) -> CsvRow:
    if len(row) < 3:
        raise DataError(f"{where}: {len(row)} columns; expected a path, a list of labels, and train or val")
    image, listed, part = row[0].strip(), row[1].strip(), row[2].strip().lower()
    splits = {"train": "train", "val": "test", "test": "test"}
    if part not in splits:
        raise DataError(f"{where}: split {row[2]!r}; allowed are train and val")
    if not (listed.startswith("[") and listed.endswith("]")):
        raise DataError(f"{where}: {listed[:40]!r} is not a list of labels such as [dog, cat]")
    labels = [label.strip().strip("'\"").strip() for label in listed[1:-1].split(",")]
    return CsvRow(image, [label for label in labels if label], splits[part])
