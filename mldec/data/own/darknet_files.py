"""Darknet's datasets: lists of images, names of classes, and a text file of boxes for each image.

Read as darknet does (AlexeyAB/darknet, README.md, "How to train (to detect your custom objects)"; src/utils.c,
`replace_image_to_label`): obj.data has `key = value` lines with `train`, `valid` and `names`; train.txt has the path of
an image per line; the boxes of images/a.jpg are in labels/a.txt, of other folders in a.txt beside it. Paths are those
of the folder that darknet was run in. CVAT's "YOLO 1.1" is the same. Roboflow writes a file _darknet.labels with the
names into each of train/, valid/ and test/, beside the images and their text files.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from mldec.data.folder import SPLIT_OF_NAME
from mldec.data.own.documents import is_image, label_text
from mldec.data.own.listing import Listing
from mldec.data.own.shapes import Source
from mldec.data.own.yolo_files import read_yolo
from mldec.errors import DataError
from mldec.untrusted import open_text

DARKNET = "Darknet YOLO"
SUFFIXES = (".data", ".names", ".labels")
_ROBOFLOW = "_darknet.labels"
_KEYS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
_LISTS = ("train.txt", "valid.txt", "val.txt", "test.txt")


def find_darknet(folder: str) -> str | None:
    """The file by which a folder is read as darknet's: obj.data, obj.names beside lists, or Roboflow's names."""
    for inner in ("", "data", "cfg"):
        path = os.path.join(folder, inner, "obj.data")
        if os.path.isfile(path):
            return path
    path = os.path.join(folder, "obj.names")
    lists = [os.path.join(folder, name) for name in _LISTS if os.path.isfile(os.path.join(folder, name))]
    if os.path.isfile(path) and lists and all(map(is_image, _lines(lists[0])[:50])):  # not with labels behind it
        return path
    inside = _roboflow_folders(folder)
    return os.path.join(folder, next(iter(inside.values())), _ROBOFLOW) if inside else None


def read_darknet(source: Source) -> Listing:
    """A file of darknet's; the class of a box is a label of its image. Raises as `yolo_files.read_yolo` does."""
    folder, own = source.folder, os.path.dirname(os.path.abspath(source.path))
    document: dict[str, Any]
    if source.path.lower().endswith(".data"):
        settings = dict(_pair(line) for line in _lines(source.path) if "=" in line)
        document = {split: settings[key] for key, split in _KEYS.items() if settings.get(key)}
        written = settings.get("names", "").replace("\\", "/").split("/")
        tails = [os.path.join(base, *written[i:]) for i in range(len(written)) for base in (folder, own)]
        names = next((path for path in tails if written[-1] and _inside(path, folder)), None)
        if names is None or not document:
            raise DataError(f"{source.path}: names no list of images, or no file of names that lies below {folder}")
    elif os.path.basename(source.path) == _ROBOFLOW:
        names, document = source.path, dict(_roboflow_folders(folder)) or {"train": "."}
    else:
        names = source.path
        lists = [name for name in _LISTS if os.path.isfile(os.path.join(own, name))]
        document = {_KEYS[name[:-4]]: os.path.relpath(os.path.join(own, name), folder) for name in lists}
    document["names"] = [label_text(line) for line in _lines(names)]
    return read_yolo(replace(source, document=document, root=folder), DARKNET, cut=True, files=(names,))


def _roboflow_folders(folder: str) -> dict[str, str]:
    """{split: name of its folder} of those that Roboflow wrote."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = [name for name in names if os.path.isfile(os.path.join(folder, name, _ROBOFLOW))]
    return {SPLIT_OF_NAME[name.lower()]: name for name in found if name.lower() in SPLIT_OF_NAME}


def _inside(path: str, folder: str) -> bool:
    path = os.path.normpath(path)
    return path.startswith(os.path.join(folder, "")) and os.path.isfile(path)


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return key.strip().lower(), value.strip()


def _lines(path: str) -> list[str]:
    try:
        with open_text(path) as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
