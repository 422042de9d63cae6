"""What lies at a path that is given as a dataset: which component reads it, with which settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mldec.data.dataset import SPLITS, listing, name_some
from mldec.data.folder import SPLIT_FOLDERS, SPLIT_OF_NAME, SUFFIXES, split_folder
from mldec.data.folder_tree import is_of_macos, is_of_outputs, some_below
from mldec.data.own.darknet_files import DARKNET, find_darknet
from mldec.data.own.parquet_images import shard_stem
from mldec.data.own.recognise import recognise
from mldec.data.own.text_table import lists_images
from mldec.data.table_file import is_table
from mldec.data.unread_formats import UNREAD, describe_unread
from mldec.errors import DataError, setting

#: Tables that tools write into the folder of a split.
TABLES = ("_classes.csv", "metadata.csv", "metadata.jsonl", "labels.csv", "annotations.csv", "_annotations.csv")
#: What explains a dataset, by its name without suffix.
NO_TABLES = ("readme", "read_me", "license", "licence", "changelog", "citation", "notice", "requirements", "credits")
METADATA = ("metadata.csv", "metadata.jsonl")  # of Hugging Face's imagefolder
_MOST = 10_000  # entries of a folder that are looked at


@dataclass(frozen=True)
class Located:
    """A dataset that was found.

    Attributes:
        name: the component that reads it.
        settings: those that tell where it lies.
        format: its name for people; "" where reading it tells.
    """

    name: str
    settings: dict[str, str] = field(default_factory=dict)
    format: str = ""


def locate(path: str, settings: Mapping[str, Any] | None = None) -> Located:
    """The dataset at a path, an export read with the settings of `recognise`.

    Raises DataError, with the choices, for what is none or could be several.
    """
    path = os.path.normpath(path)
    if not os.path.isdir(path):
        return _file(path, settings or {})
    if darknet := find_darknet(path):
        inner = os.path.dirname(darknet) != path  # where paths may be those of `path`
        return Located("table", {"train": darknet} | ({"root": path} if inner else {}), DARKNET)
    tables = _tables_of_splits(path) or _tables_of_splits(os.path.join(path, "data"))  # as Hugging Face's hub has them
    tables = tables or _tables_of_splits(os.path.join(path, "default"))
    if "train" in tables:
        files: dict[str, str] = {split: tables[split] for split in SPLITS if split in tables}
        return Located("table", files)
    found = recognise(path, **(settings or {}))
    classes = _class_folders(path)
    here = _tables(path)
    if found is not None:
        return Located("table", {"train": path}, found.format)
    here = _likely(path, here) if len(here) > 1 else here
    if len(here) == 1 and here[0] in METADATA:
        classes = []  # Hugging Face reads it too, and takes no folder for a class
    if len(here) == 1 and not classes:
        return Located("table", {"train": os.path.join(path, here[0])})
    if here:
        choices = [setting("dataset", os.path.join(path, name)) for name in here[:6]]
        if classes:
            choices.append(f"dataset=folder {setting('dataset.root', path)} ({len(classes):,} class folders)")
        raise DataError(f"dataset={path}: may be read in several ways; use {' or '.join(choices)}")
    lone = os.path.join(path, classes[0]) if len(classes) == 1 else None
    if lone and not _images_in(lone) and len(below := _class_folders(lone)) > 1:
        return Located("folder", {"root": lone}, f"a folder for each of {len(below):,} classes")
    if classes:
        return Located("folder", {"root": path}, "a folder per class")
    if images := _images_in(path):
        raise DataError(
            f"dataset={path}: {images:,} images and nothing that says their labels; move them into a folder per class, "
            "or list them in a table of path and labels: dataset=FILE.csv"
        )
    unread = sorted(name for name in some_below(path) if os.path.splitext(name)[1].lower() in UNREAD)
    if unread := [name for name in unread if not is_of_macos(os.path.basename(name))]:
        raise DataError(f"dataset={path}: no image in it that is read: {'; '.join(describe_unread(unread))}")
    raise DataError(
        f"dataset={path}: no dataset is recognised in it. Found there: {listing(path)}. Name a file: dataset=FILE; or "
        f"choose a reader: dataset=folder {setting('dataset.root', path)} for a folder per class, dataset=table "
        "dataset.train=FILE for a table or an export"
    )


def _file(path: str, settings: Mapping[str, Any]) -> Located:
    if is_table(path):
        return Located("table", {"train": path})
    found = recognise(path, **settings)
    if found is None:
        raise DataError(
            f"dataset={path}: is no table (CSV, TSV, xlsx, JSONL, Parquet) and no export that is known; save it as CSV "
            "with the columns path and labels"
        )
    return Located("table", {"train": path}, found.format)


def _tables_of_splits(path: str) -> dict[str, str]:
    """The table of each split: train.csv, or train/_classes.csv, by any usual name of a split."""
    found: dict[str, str] = {}
    names = _names(path)
    for split, usual in SPLIT_FOLDERS.items():
        files = [name for name in _tables(path) if _stem(name) in usual]
        for folder in (name for name in names if name.lower() in usual and os.path.isdir(os.path.join(path, name))):
            inside = _tables(os.path.join(path, folder))
            inside = [name for name in TABLES if name in inside] or (inside if len(inside) == 1 else [])
            files += [os.path.join(folder, name) for name in inside[:1]]
        if len(files) > 1:
            choices = " or ".join(setting(f"dataset.{split}", os.path.join(path, name)) for name in files[:4])
            raise DataError(
                f"dataset={path}: {name_some(files, len(files))} may be its {split}; use dataset=table {choices}"
            )
        if files:
            found[split] = os.path.join(path, files[0])
    return found


def _tables(folder: str) -> list[str]:
    """The names of the tables in a folder; of one that lies in several files, the first file.

    Of text files only those that list images: others are names of labels, or explain the dataset.
    """
    names = [name for name in _names(folder) if is_table(name) and os.path.isfile(os.path.join(folder, name))]
    names = [name for name in names if _stem(name) not in NO_TABLES]
    names = [name for name in names if not name.lower().endswith(".txt") or lists_images(os.path.join(folder, name))]
    return [name for name in names if shard_stem(name) != ""]


def _stem(name: str) -> str:
    return (shard_stem(name) or os.path.splitext(name)[0]).lower()


def _likely(path: str, names: list[str]) -> list[str]:
    """Of several tables those that tools write beside images; all where there is none, or more than one."""
    usual = [name for name in TABLES if name in names]
    return usual if len(usual) == 1 else names


def _split_folders(path: str) -> dict[str, str]:
    found = ((split, split_folder(path, split)) for split in SPLIT_FOLDERS)
    return {split: os.path.basename(folder) for split, folder in found if folder is not None}


def _class_folders(path: str) -> list[str]:
    """The folders that hold images and nothing but images: those of classes, below train if there is one."""
    splits = _split_folders(path)
    folder = os.path.join(path, splits["train"]) if "train" in splits else path
    inner = _inner_folders(folder)
    usual = {*SPLIT_OF_NAME, "images", "image", "imgs", "img", "data"}
    classes = [name for name in inner if _has_images(os.path.join(folder, name))]
    return classes if len(classes) > 1 or (classes and classes[0].lower() not in usual) else []


def _inner_folders(folder: str) -> list[str]:
    """The names of the folders in a folder that may be of a dataset."""
    paths = {name: os.path.join(folder, name) for name in _names(folder) if name != "__MACOSX"}
    return [name for name, path in paths.items() if os.path.isdir(path) and not is_of_outputs(path)]


def _images_in(folder: str) -> int:
    """How many images lie directly in a folder."""
    return sum(os.path.splitext(name)[1].lower() in SUFFIXES for name in _names(folder))


def _has_images(folder: str) -> bool:
    """Whether an image lies in a folder, or in one directly in it."""
    for name in _names(folder):
        if os.path.splitext(name)[1].lower() in SUFFIXES:
            return True
        inner = os.path.join(folder, name)
        if os.path.isdir(inner) and any(os.path.splitext(n)[1].lower() in SUFFIXES for n in _names(inner)[:100]):
            return True
    return False


def _names(folder: str) -> list[str]:
    """The names in a folder, hidden ones left out, sorted; of very many the first that the system gives."""
    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    found.append(entry.name)
                if len(found) >= _MOST:
                    break
    except OSError:
        return []
    return sorted(found)
