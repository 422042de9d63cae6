"""What lies at a path that is given as a dataset: which component reads it, with which settings."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mldec.data.dataset import SPLITS, listing, name_some
from mldec.data.folder import SPLIT_FOLDERS, SPLIT_OF_NAME, split_folder
from mldec.data.folder_tree import is_image_name, is_of_macos, is_of_outputs, some_below
from mldec.data.own.darknet_files import DARKNET, find_darknet
from mldec.data.own.label_names import NAMES_FILES
from mldec.data.own.parquet_images import shard_stem
from mldec.data.own.recognise import recognise
from mldec.data.own.text_table import lists_images
from mldec.data.table_file import is_table
from mldec.data.unread_formats import UNREAD, describe_unread
from mldec.errors import DataError, counted, setting

logger = logging.getLogger(__name__)

#: Tables that tools write into the folder of a split.
TABLES = ("_classes.csv", "metadata.csv", "metadata.jsonl", "labels.csv", "annotations.csv", "_annotations.csv")
#: What explains a dataset, by its name without suffix.
NO_TABLES = ("readme", "read_me", "license", "licence", "changelog", "citation", "notice", "requirements", "credits")
METADATA = ("metadata.csv", "metadata.jsonl")  # of Hugging Face's imagefolder
_MOST = 10_000  # entries of a folder that are looked at
_MOST_FOLDERS = 1_000  # folders in which a dataset is looked for
_LIKE_SPLIT = re.compile(rf"({'|'.join(SPLIT_OF_NAME)})[\W\d_]*\Z", re.I)  # such as train2017


@dataclass(frozen=True)
class Located:
    """A dataset that was found.

    Attributes:
        name: the component that reads it.
        settings: those that tell where it lies.
        format: its name for people; "" where reading it tells.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    format: str = ""


def locate(path: str, settings: Mapping[str, Any] | None = None, *, deeper: bool = True) -> Located:
    """The dataset at a path, an export read with the settings of `recognise`.

    If `deeper`, a table or an export may lie in the only folder of the path, as archives are unpacked.

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
        files: dict[str, Any] = {split: tables[split] for split in SPLITS if split in tables}
        return Located("table", files | _of_parts(path))
    found = recognise(path, **(settings or {}))
    classes = _class_folders(path)
    here = _tables(path)
    if found is not None:
        return Located("table", {"train": path}, found.format)
    here = _likely(path, here) if len(here) > 1 else here
    if len(here) == 1 and here[0] in METADATA:
        classes = []  # Hugging Face reads it too, and takes no folder for a class
    if len(here) == 1 and len(classes) == 1 and not _in_split_folder(path, classes[0]):
        classes = []  # the folder of its images: one class alone is nothing to learn
    if len(here) == 1 and not classes:
        return Located("table", {"train": os.path.join(path, here[0])})
    if here:
        choices = [setting("dataset", os.path.join(path, name)) for name in here[:6]]
        if classes:
            choices.append(f"dataset=folder {setting('dataset.root', path)} ({counted(len(classes), 'class folder')})")
        raise DataError(f"dataset={path}: may be read in several ways; use {' or '.join(choices)}")
    if deeper and (only := _only_folder(path)) is not None:
        with contextlib.suppress(DataError):
            inside_only = locate(only, settings, deeper=False)
            if inside_only.name == "table":
                logger.info("%s: read from its only folder, %s", path, os.path.basename(only))
                return inside_only
    base = _base(path)
    lone = os.path.join(path, classes[0]) if len(classes) == 1 and base == path else None
    if lone and not _images_in(lone) and len(below := _class_folders(lone)) > 1:
        _refuse_nested(lone, lone, below)
        if images := _images_in(path):
            logger.info("%s: left out %s beside the folder %s", path, counted(images, "image"), classes[0])
        return Located("folder", {"root": lone}, f"a folder for each of {len(below):,} classes")
    if classes:
        _refuse_nested(path, base, classes)
        return Located("folder", {"root": path}, "a folder per class")
    inside = _datasets_inside(path)
    if not inside and (images := _images_in(path)):
        raise DataError(
            f"dataset={path}: {counted(images, 'image')} and nothing that says their labels; move them into a folder "
            "per class, or list them in a table of path and labels: dataset=FILE.csv"
        )
    unread = sorted(name for name in some_below(path) if os.path.splitext(name)[1].lower() in UNREAD)
    if unread := [name for name in unread if not is_of_macos(os.path.basename(name))]:
        raise DataError(f"dataset={path}: no image in it that is read: {'; '.join(describe_unread(unread))}")
    if inside:
        offers = " or ".join(f"{setting('dataset', one)} ({name_some(names, len(names))})" for one, names in inside)
        raise DataError(
            f"dataset={path}: no class folders in it or in its train/, but deeper; use {offers}; or move them, so that "
            f"they are {os.path.join(path, 'CLASS')}, or train/CLASS and val/CLASS there. Found there: {listing(path)}"
        )
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


def _of_parts(path: str) -> dict[str, Any]:
    """Settings for DIR_split, a folder of tables that `mldec data split` wrote: images in DIR, and names of labels.

    Of class folders in DIR each image has one label.
    """
    whole = path.removesuffix("_split")
    if whole == path or not os.path.isdir(whole) or _inner_folders(path) or _images_in(path):
        return {}
    logger.info("%s: images of %s, as %s has none", path, whole, os.path.basename(path))
    settings: dict[str, Any] = {"root": whole}
    names = next((name for name in NAMES_FILES if os.path.isfile(os.path.join(path, name))), None)
    settings |= {} if names is None else {"labels": os.path.join(path, names)}
    with contextlib.suppress(DataError):
        settings |= {"single_label": True} if locate(whole).name == "folder" else {}
    return settings


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


def _base(path: str) -> str:
    """The folder whose folders would be classes: that of train, or the dataset's own.

    Raises DataError for two folders of any split.
    """
    return {split: split_folder(path, split) for split in SPLIT_FOLDERS}["train"] or path


def _class_folders(path: str) -> list[str]:
    """The folders that hold images and nothing but images: those of classes, below train if there is one."""
    folder = _base(path)
    inner = _inner_folders(folder)
    usual = {*SPLIT_OF_NAME, "images", "image", "imgs", "img", "data"}
    classes = [name for name in inner if _has_images(os.path.join(folder, name))]
    return classes if len(classes) > 1 or (classes and classes[0].lower() not in usual) else []


def _refuse_nested(path: str, base: str, classes: list[str]) -> None:
    """Raise DataError, with the choices, where the folders in `base` are hardly classes.

    That is where none holds an image itself, and each shares a folder of images with another one, as folders of splits
    do; or there is only one, which holds folders of images, and no image itself or several of these.
    """
    inner: dict[str, list[str]] = {}
    for name in classes:
        folder = os.path.join(base, name)
        inner[name] = [one for one in _inner_folders(folder) if _has_images(os.path.join(folder, one))]
        if _images_in(folder) and (len(classes) > 1 or len(inner[name]) < 2):
            return
    holders = Counter(one for names in inner.values() for one in names)
    if len(classes) > 1 and not all(any(holders[one] > 1 for one in names) for names in inner.values()):
        return
    shared = sorted(holders, key=lambda one: (-holders[one], one))
    choices = []
    if len(classes) > 1 and all(map(_LIKE_SPLIT.match, classes)):
        choices.append("call them train, val and test if they are splits")
    elif {one.lower() for one in shared} <= set(SPLIT_OF_NAME):
        name = classes[0]
        moved = " and ".join(os.path.join(one, name) for one in inner[name][:2])
        choices.append(f"move them to {moved} if these are splits")
    places = [os.path.join(base, name) for name in classes[:3] if len(_class_folders(os.path.join(base, name))) > 1]
    if places:
        choices.append(f"{' or '.join(setting('dataset', place) for place in places)} for one of them alone")
    within = name_some(shared, len(shared))
    if len(classes) == 1:
        found = f"{classes[0]} is the only folder of images, and has folders of them in it ({within}): is it a class?"
    else:
        found = (
            f"{name_some(classes, len(classes))} hold the same folders ({within}) in place of images: are they classes?"
        )
    yes = f"dataset=folder {setting('dataset.root', path)} if so"
    raise DataError(f"dataset={path}: {found} Use {'; or '.join([yes, *choices])}")


def _datasets_inside(path: str) -> list[tuple[str, list[str]]]:
    """Up to three folders within `path` that have class folders, at most three levels deep, and the classes of each."""
    found: list[tuple[str, list[str]]] = []
    waiting, looked = [(path, 0)], 0
    while waiting and len(found) < 3 and looked < _MOST_FOLDERS:
        folder, depth = waiting.pop(0)
        for name in _inner_folders(folder) if depth < 3 else []:
            looked += 1
            inner = os.path.join(folder, name)
            if looked > _MOST_FOLDERS:
                break
            if len(classes := _class_folders(inner)) > 1:
                found.append((inner, classes))
            else:
                waiting.append((inner, depth + 1))
    return found[:3]


def _inner_folders(folder: str) -> list[str]:
    """The names of the folders in a folder that may be of a dataset."""
    paths = {name: os.path.join(folder, name) for name in _names(folder) if name != "__MACOSX"}
    return [name for name, path in paths.items() if os.path.isdir(path) and not is_of_outputs(path)]


def _only_folder(path: str) -> str | None:
    """The one folder in a folder without images; None for more, and for one that is called as a split is."""
    inner = _inner_folders(path)
    if len(inner) != 1 or inner[0].lower() in SPLIT_OF_NAME or _images_in(path):
        return None
    return os.path.join(path, inner[0])


def _in_split_folder(path: str, name: str) -> bool:
    """Whether a class folder lies in train/, not in the dataset's own folder."""
    return not os.path.isdir(os.path.join(path, name))


def _images_in(folder: str) -> int:
    """How many images lie directly in a folder."""
    return sum(is_image_name(name) for name in _names(folder))


def _has_images(folder: str) -> bool:
    """Whether an image lies in a folder, or in one directly in it."""
    for name in _names(folder):
        if is_image_name(name):
            return True
        inner = os.path.join(folder, name)
        if os.path.isdir(inner) and any(is_image_name(n) for n in _names(inner)[:100]):
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
