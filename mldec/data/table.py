"""Your own images, listed in files: tables (CSV, TSV, xlsx, JSONL, Parquet) and exports of labelling tools.

A row of a table names an image and its labels, in one cell or in a column for each class with 1 present, 0 absent, -1
or nothing unknown. How it is to be read is found in the file and reported, or set. From any file the same steps lead to
an index: rows, images on disk, labels, splits.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from mldec.config import Range
from mldec.data.cache import cache_folder, cached
from mldec.data.dataset import FilesConfig, check_split, name_some, naming
from mldec.data.folder_tree import is_of_macos
from mldec.data.index import ABSENT, UNKNOWN, ImageIndex
from mldec.data.own.label_cells import is_whole_number
from mldec.data.own.label_names import (
    NAMES_FILES,
    TRAIN,
    UNION,
    Found,
    in_order,
    labels_of_train,
    named,
    names_file_beside,
    read_names,
    read_numbered,
    warn_of_similar,
)
from mldec.data.own.parquet_images import find_images_inside, shards_of
from mldec.data.own.read_rows import TableSettings, read_table_rows, splits_of_table
from mldec.data.own.recognise import recognise
from mldec.data.own.row_images import RowImages
from mldec.data.own.rows import SPLITS, Rows, rows_of_listing
from mldec.data.own.shares import SplitShares
from mldec.data.own.split_folders import splits_in_paths
from mldec.data.table_file import SUFFIXES, is_table
from mldec.data.unseen import unseen_names
from mldec.errors import DataError, counted, setting, shortened, suggest
from mldec.labels import LabelSpace
from mldec.registry import DATASETS

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TableConfig(TableSettings, SplitShares, FilesConfig):  # type: ignore[override]  # its splits are found
    """Files that list images: a table, or an export of a labelling tool, for each split or for all.

    Attributes:
        labels: train, the labels of the train file; union, those of all files; or a file of names: one per line, the
            `names` of a data.yaml, or JSON. null: as train, but labels that only val or test have are an error. Those
            that `unseen` names are labels in any case.
        first_number: the class number, 0 or 1, of the first name in a file of names; null: the one that fits.
        unlisted: the state of a label that a cell of labels does not name: absent or unknown.
        single_label: every image has exactly one label, as softmax and top-1 assume.
        split_folders: the folders train, val and test that all paths of one file begin with are the splits.
    """

    first_number: Annotated[int, Range(low=0, high=1)] | None = None
    unlisted: Literal["absent", "unknown"] = "absent"
    single_label: bool = False
    split_folders: bool = False

    def __post_init__(self) -> None:
        TableSettings.__post_init__(self)
        SplitShares.__post_init__(self)
        if self.split_folders and not self.is_one_file:
            raise ValueError("split_folders=True: divides one file; leave out val and test, or split_folders")
        if self.split_folders and self.split_column is not None:
            raise ValueError(f"split_folders=True and split_column={self.split_column!r}: use one of them")

    @property
    def paths(self) -> tuple[str, ...]:  # type: ignore[override]
        """The settings that are paths of files and folders."""
        return tuple(name for name in FilesConfig.paths if name != "labels" or self.labels not in (TRAIN, UNION))

    @property
    def own_splits(self) -> tuple[str, ...]:
        """Those whose file is named; of one file those that it names, or train."""
        if not self.is_one_file:
            return tuple(split for split in SPLITS if getattr(self, split) is not None)
        path = os.path.expanduser(self.train)
        try:
            return _outline(self, path).splits or ("train",)
        except (OSError, DataError):  # reported when it is read
            return ("train",)

    @property
    def is_one_file(self) -> bool:
        """Whether only `train` is named."""
        return self.val is None and self.test is None

    def label_files(self) -> list[str]:
        """The file `labels`, if one is named. Raises DataError if it does not exist."""
        return [] if self.labels in (None, TRAIN, UNION) else [self.file("labels")]

    def base(self, split: str) -> str:
        """Absolute folder of the images of a split: `root`, the folder of its file, or the one for images in it."""
        path = self.file(split if getattr(self, split) is not None else "train")
        if (inside := find_images_inside(path, self.path_column)) is not None:
            return inside.folder(cache_folder(self))
        if self.root:
            return os.path.abspath(os.path.expanduser(self.root))
        if is_table(path):
            return os.path.dirname(os.path.abspath(path))
        return _outline(self, path).folder

    def file(self, setting: str) -> str:
        """The file of a split, or the folder of an export. Raises DataError if it is neither."""
        path = os.path.expanduser(getattr(self, setting))
        return path if os.path.isdir(path) and setting != "labels" else super().file(setting)


MOST_EXPORTS = 4  # that are kept in memory
_exports: dict[tuple[Any, ...], tuple[Rows | None, dict[str, tuple[int, ...] | None]]] = {}


class _Outline(NamedTuple):
    """What is needed of a file before its images are read."""

    splits: tuple[str, ...] | None  # that the file itself names
    folder: str  # that its images are relative to
    files: tuple[str, ...]  # that it consists of


def _outline(config: TableConfig, path: str) -> _Outline:
    return _read_outline(config, path, _stamp(path))


@functools.lru_cache(maxsize=16)
def _read_outline(config: TableConfig, path: str, stamp: tuple[int, ...]) -> _Outline:
    """`stamp` changes with the file."""
    folder = os.path.dirname(os.path.abspath(path))
    if is_table(path):
        splits = _splits_of(read_rows(config, "train", quiet=True)) if config.split_folders else None
        return _Outline(splits or splits_of_table(path, config), folder, tuple(shards_of(path)))
    rows = _export(config, path)
    if rows is None:
        return _Outline(None, folder, (path,))
    splits = _splits_of(_divided_by_folders(rows) if config.split_folders else rows)
    return _Outline(splits, rows.folder, (path, *rows.files))


def _splits_of(rows: Rows) -> tuple[str, ...] | None:
    """The splits of rows, of which those without one are train; None if they are not divided."""
    found = () if rows.splits is None else np.unique(np.maximum(rows.splits, 0)).tolist()
    return tuple(SPLITS[number] for number in found) or None


def _export(config: TableConfig, path: str) -> Rows | None:
    """The rows of an export, which is read again only if one of its files has changed; None for what is none."""
    settings = export_settings(config)
    key = (path, *settings.values())
    rows, stamps = _exports.pop(key, (None, {}))
    if not stamps or stamps != _stamps(stamps):
        listing = recognise(path, **settings)
        rows = None if listing is None else rows_of_listing(listing)
        stamps = _stamps((path, *rows.files)) if rows else {}
    _exports[key] = rows, stamps
    while len(_exports) > MOST_EXPORTS:
        del _exports[next(iter(_exports))]
    return rows


def export_settings(config: TableConfig) -> dict[str, Any]:
    """The settings by which an export is read, as `recognise` takes them."""
    names = ("path_column", "label_column", "separator", "split_column", "ignore", "minus_one")
    root = None if config.root is None else os.path.abspath(os.path.expanduser(config.root))
    return {"root": root} | {name: getattr(config, name) for name in names}


def _stamps(files: Iterable[str]) -> dict[str, tuple[int, ...] | None]:
    return {file: _stamp(file) if os.path.exists(file) else None for file in files}


def _stamp(path: str) -> tuple[int, ...]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@DATASETS.register("table", TableConfig)
def build_table(config: TableConfig, *, split: str) -> ImageIndex:
    """The index of a split, images in the order in which the file lists them first.

    The labels are `config.labels`, or those of the train file: sorted by name, numbers by value, where cells list them;
    in the order of the file where it gives one.

    Raises:
        DataError: naming file and line, for what cannot be read, decided or found, or is none of the labels.
    """
    check_split(config, split)
    used = SPLITS if config.labels == UNION or config.unseen else (split, "train")
    files = [config.file(name) for name in dict.fromkeys(used) if getattr(config, name) is not None]
    parts = [part for path in files for part in (shards_of(path) if is_table(path) else _outline(config, path).files)]
    for path in files:
        if (inside := find_images_inside(path, config.path_column)) is not None:
            inside.unpack(cache_folder(config))  # whoever deleted them may have kept the index
    sources = [*dict.fromkeys([*files, *parts]), *config.label_files()]
    if config.labels is None:
        beside = os.path.dirname(os.path.abspath(config.file("train")))
        sources += [path for name in NAMES_FILES if os.path.isfile(path := os.path.join(beside, name))]
    return cached(config, split, sources, lambda: _without_macos(read_table(config, split)), root=config.base(split))


def _without_macos(index: ImageIndex) -> ImageIndex:
    """Without listed files that macOS adds to disks and archives, such as __MACOSX/._a.jpg, which are no images."""
    content = index.paths.values.tobytes()
    if b"._" not in content and b"__MACOSX" not in content:
        return index
    own = [any(map(is_of_macos, name.split("/"))) for name in index.names()]
    if not any(own):
        return index
    names = itertools.compress(index.names(), own)
    logger.info(
        "%s: left out %s that macOS adds (%s)", index.root, counted(sum(own), "listed file"), name_some(names, sum(own))
    )
    return index.subset(np.flatnonzero(~np.array(own)))


def read_table(config: TableConfig, split: str) -> ImageIndex:
    """The same without a cache, with all images that the file lists: those that do not exist too."""
    index, images = _read(config, split)
    if images.splits is not None and config.is_one_file:
        owner = split if split in config.own_splits else "train"
        own = np.maximum(images.splits, 0) == SPLITS.index(owner)  # what names no split is train
        index = index if own.all() else index.subset(np.flatnonzero(own))
    return config.part_of(index, split)


def read_whole(config: TableConfig) -> tuple[ImageIndex, np.ndarray]:
    """All images of the train file, whichever splits it has itself, and (R,) the image of each of its rows."""
    index, images = _read(config, "train")
    return index, np.arange(len(index)) if images.numbers is None else images.numbers


def names_in_use(config: TableConfig) -> str | None:
    """The file beside the train file that names labels which are numbers; None without one."""
    names = None if config.label_files() else _names_of_numbers(config, read_rows(config, "train", quiet=True), "train")
    return None if names is None else names.path


def _read(config: TableConfig, split: str) -> tuple[ImageIndex, RowImages]:
    rows = read_rows(config, split)
    names = _names_of_numbers(config, rows, split)
    if names is None and config.first_number is not None:
        logger.warning("warning: dataset.first_number: without effect, %s has no class numbers to name", rows.path)
    if names is not None:
        rows = dataclasses.replace(rows, labels=tuple(names.of[number] for number in rows.labels))
    images = _images_of(config, rows, split)
    if not len(images.paths):
        raise DataError(f"{rows.path}: no image and no label in it; each row names an image")
    train = images if getattr(config, split) is None or split == "train" else None
    labels = _label_names(config, rows, images, train, split) if names is None else names.all
    if rows.columns and train is None:
        _check_columns(rows, labels, config)
    with naming(rows.path):
        space = LabelSpace(labels)
    codes = {name: code for code, name in enumerate(space.names)}
    columns = np.array([codes.get(name, -1) for name in rows.labels], np.int32)
    default = UNKNOWN if config.unlisted == "unknown" and not rows.columns else ABSENT
    if rows.columns and config.unlisted == "unknown":
        logger.warning("warning: dataset.unlisted=unknown: without effect, in %s each class has a column", rows.path)
    index = ImageIndex(
        images.root,
        space,
        images.paths,
        images.present.renumbered(columns),
        images.absent.renumbered(columns),
        images.unknown.renumbered(columns),
        default,
    )
    own = set(rows.labels)
    if rows.columns and (missing := [name for name in space.names if name not in own]):
        index = index.with_unknown(missing)  # of another file, with dataset.labels=union or dataset.unseen
    return index, images


def read_rows(config: TableConfig, split: str, *, quiet: bool = False) -> Rows:
    """The rows of the file that has a split, and the decisions in the log, unless `quiet`.

    Raises DataError for a file that is no table and none of the exports that are known.
    """
    split = split if getattr(config, split) is not None else "train"
    path = config.file(split)
    if is_table(path):
        named = next(map(read_names, config.label_files()), None)
        rows = read_table_rows(path, config, cache=cache_folder(config), named=named)
    else:
        export = _export(config, path)
        if export is None:
            raise DataError(
                f"{path}: is no table ({', '.join(SUFFIXES)}) and no export that is known; docs/own-data.md lists them"
            )
        rows = export
    rows = _with_tidy_numbers(_divided_by_folders(rows) if config.split_folders else rows)
    if not config.is_one_file and rows.splits is not None:
        strange = np.flatnonzero((rows.splits >= 0) & (rows.splits != SPLITS.index(split)))
        if len(strange):
            raise DataError(
                f"{rows.where(int(strange[0]))}: belongs to {SPLITS[rows.splits[strange[0]]]} by its own column and is "
                f"in dataset.{split}; use dataset=table {setting('dataset.train', path)} alone, or "
                "dataset.ignore=[COLUMN]"
            )
    if rows.decisions and not quiet:
        logger.info("%s: read as %s: %s", path, rows.format, "; ".join(rows.decisions))
    return rows


def _divided_by_folders(rows: Rows) -> Rows:
    """Rows with the splits that their paths begin with. Raises DataError where these do not divide them."""
    if rows.splits is not None:
        raise DataError(f"{rows.path}: has splits of its own; leave out dataset.split_folders, or the column of splits")
    splits = splits_in_paths(rows.paths())
    if splits is None:
        raise DataError(
            f"dataset.split_folders=true: {rows.path}: every path must begin with a folder of train, val or test, and "
            "some with train; write a column split instead"
        )
    return dataclasses.replace(rows, splits=splits if rows.names is None else splits[rows.name_ids])


def _images_of(config: TableConfig, rows: Rows, split: str) -> RowImages:
    elsewhere = rows.folder if config.root or config.is_one_file else config.folder
    images = RowImages.of(
        rows, config.base(split), elsewhere=os.path.abspath(elsewhere), look=config.missing != "ignore"
    )
    for text in images.decisions:
        logger.info("%s: %s", rows.path, text)
    return images


@dataclass(frozen=True)
class _NumberNames:
    """The names of labels that are numbers: of each number, and all that the file `path` has."""

    path: str
    all: list[str]
    of: dict[str, str]


def _names_of_numbers(config: TableConfig, rows: Rows, split: str) -> _NumberNames | None:
    """The names of labels that are numbers in all files; None for others, or without a file of names."""
    if rows.ordered or not rows.labels or not all(map(is_whole_number, rows.labels)):
        return None
    numbers = set(rows.labels)
    for name in SPLITS:
        if getattr(config, name) is not None and name != split and not (config.is_one_file and name == "train"):
            numbers |= set(read_rows(config, name, quiet=True).labels)
    if not all(map(is_whole_number, numbers)):
        return None
    if files := config.label_files():
        path, found = files[0], read_numbered(files[0])
        if all(map(is_whole_number, found.names)):
            return None
    elif config.labels is None and (beside := names_file_beside(config.file("train"), sorted(numbers))):
        path, found = beside
    else:
        return None
    of, text = named(sorted(numbers), found, rows.path, path, config.first_number)
    logger.info("%s: %s", rows.path, text)
    return _NumberNames(path, found.names, of)


def _label_names(config: TableConfig, rows: Rows, images: RowImages, train: RowImages | None, split: str) -> list[str]:
    """The labels of the dataset, in order, as the columns of each of its splits."""
    own = _found(rows, images, None)
    if files := config.label_files():
        with naming(files[0]):
            names = list(LabelSpace(read_names(files[0])).names)
        _check_named(rows, names, files[0], config)
        return names
    if train is None:
        train_rows = read_rows(config, "train", quiet=True)
        first = dataclasses.replace(_found(train_rows, None, None), used=train_rows.labels)  # what it declares counts
    elif images.splits is not None and config.is_one_file:
        first = _found(rows, images, "train")
    else:
        train_rows, first = rows, own
    others = [own] if own is not first else []
    if config.labels == UNION or config.unseen:
        for name in SPLITS[1:]:
            if getattr(config, name) is not None and name != split:
                others.append(_found(read_rows(config, name, quiet=True), None, None))
    elsewhere = {name for found in others for name in found.names}
    unseen = unseen_names(config, elsewhere.union(first.names))
    if rows.columns and config.labels != UNION:
        added = in_order(elsewhere & set(unseen) - set(first.names))
        names = [*first.names, *added]  # other columns are compared whole
    else:
        names = labels_of_train(first, others, config.labels, unseen)
    if not names:
        raise DataError(
            f"{first.path}: no label in any row of train; fill its column of labels, or name another one: "
            "dataset.label_column=NAME"
        )
    if split == "train":  # the labels of the others are the same
        warn_of_similar(first.path, names)
    return names


def _found(rows: Rows, images: RowImages | None, split: str | None) -> Found:
    """The labels that a file gives, or those that images of one of its splits have."""
    names: Sequence[str] = rows.labels
    used = names
    if not rows.columns and (rows.ordered or split is not None):
        used = _used(rows if images is None else images, rows.labels, split)
    if not rows.ordered:
        names = used = in_order(used)

    def where(name: str) -> str:
        code = rows.labels.index(name)
        places = np.flatnonzero(rows.present.values == code)
        if not len(places):
            return rows.path
        return rows.where(int(np.searchsorted(rows.present.offsets, places[0], side="right") - 1))

    return Found(rows.path, names, rows.ordered, where, used)


def _used(images: Rows | RowImages, labels: Sequence[str], split: str | None) -> list[str]:
    """The labels that images, or rows, or those of one of their splits, state to be present or absent."""
    found = np.zeros(len(labels), bool)
    for lists in (images.present, images.absent):
        values = lists.values
        if split is not None and images.splits is not None:
            values = values[np.repeat(np.maximum(images.splits, 0) == SPLITS.index(split), lists.counts)]
        found[values] = True
    return [labels[code] for code in np.flatnonzero(found).tolist()]


def _check_named(rows: Rows, names: Sequence[str], file: str, config: TableConfig) -> None:
    """Raise DataError for labels that are none of the names in `dataset.labels`."""
    known = set(names)
    if rows.columns:
        _check_columns(rows, names, config)
        return
    strange = [name for name in in_order(rows.labels) if name not in known]
    if strange:
        found = _found(rows, None, None)
        raise DataError(
            f"{found.where(strange[0])}: no label '{shortened(strange[0])}' in {file}; {suggest(strange[0], names)}"
        )


def _check_columns(rows: Rows, names: Sequence[str], config: TableConfig) -> None:
    own, known = {*rows.labels, *unseen_names(config)}, set(names)  # an unseen label without a column is unknown
    if config.labels != UNION and (missing := [name for name in names if name not in own]):
        shown = name_some(missing, len(missing))
        union = "" if config.label_files() else "; write it, or use dataset.labels=union, with which it is unknown here"
        raise DataError(f"{rows.path}: no column for {len(missing)} of the {len(names)} classes ({shown}){union}")
    strange = [name for name in rows.labels if name not in known]
    if strange and config.labels != TRAIN:
        choice = "" if config.label_files() else "; dataset.labels=union adds it, dataset.labels=train leaves it out"
        raise DataError(
            f"{rows.path}: column {strange[0]} is none of the {len(names)} classes; {suggest(strange[0], names)}"
            f"{choice}; if it is not a class: {setting('dataset.ignore', strange[:5])}"
        )


def _with_tidy_numbers(rows: Rows) -> Rows:
    """Labels 3.0 as 3, where all are numbers: pandas writes them so in a column with empty cells."""
    if rows.ordered or not any("." in name for name in rows.labels) or not all(map(is_whole_number, rows.labels)):
        return rows
    plain = [str(int(float(name))) for name in rows.labels]
    codes = {name: code for code, name in enumerate(dict.fromkeys(plain))}
    columns = np.array([codes[name] for name in plain], np.int32)
    present, absent, unknown = (one.renumbered(columns) for one in (rows.present, rows.absent, rows.unknown))
    decisions = (*rows.decisions, "labels such as 3.0 are 3")
    return dataclasses.replace(
        rows, labels=tuple(codes), decisions=decisions, present=present, absent=absent, unknown=unknown
    )
