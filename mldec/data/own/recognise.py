"""Which export a file or folder is, by its content: one table of shapes, and one reader for each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import Element

from mldec.data.folder import SPLIT_OF_NAME
from mldec.data.own import (
    coco_json,
    cvat_xml,
    darknet_files,
    label_studio,
    plain_json,
    tool_json,
    via_json,
    voc_files,
    yolo_files,
)
from mldec.data.own.documents import load, split_of
from mldec.data.own.listing import Listing
from mldec.data.own.shapes import Shape, Source, joined
from mldec.errors import DataError, setting

#: The first that fits is taken: a list of plain objects comes last, which many others are too.
SHAPES = (
    Shape(label_studio.JSON, label_studio.looks_like_tasks, label_studio.read_tasks),
    Shape(label_studio.JSON_MIN, label_studio.looks_like_records, label_studio.read_records),
    Shape(coco_json.COCO, coco_json.looks_like_coco, coco_json.read_coco),
    Shape(tool_json.DATUMARO, tool_json.looks_like_datumaro, tool_json.read_datumaro),
    Shape(tool_json.FIFTYONE, tool_json.looks_like_fiftyone, tool_json.read_fiftyone),
    Shape(tool_json.FIFTYONE_SAMPLES, tool_json.looks_like_fiftyone_samples, tool_json.read_fiftyone_samples),
    Shape(tool_json.MMPRETRAIN, tool_json.looks_like_mmpretrain, tool_json.read_mmpretrain),
    Shape(via_json.VIA, via_json.looks_like_via, via_json.read_via),
    Shape(via_json.VIA, via_json.looks_like_via3, via_json.read_via3),
    Shape(cvat_xml.CVAT, cvat_xml.looks_like_cvat, cvat_xml.read_cvat),
    Shape(yolo_files.YOLO, yolo_files.looks_like_yolo, yolo_files.read_yolo),
    Shape(plain_json.CREATEML, plain_json.looks_like_createml, plain_json.read_createml),
    Shape(plain_json.LIST, plain_json.looks_like_list, plain_json.read_list),
    Shape(plain_json.MAPPING, plain_json.looks_like_mapping, plain_json.read_mapping),
    Shape(plain_json.BY_SPLIT, plain_json.looks_like_splits, plain_json.read_splits),
    Shape(plain_json.LIST, plain_json.looks_like_wrapped, plain_json.read_wrapped),
)

MOST_FILES = 20  # of JSON or YAML in one folder that are looked into; more are no annotations of a dataset
_SUFFIXES = (".json", ".xml", ".yaml", ".yml")
#: Names by which a file says that it holds annotations: one that cannot be read is an error, another is passed over.
_TELLING = re.compile(r"_?(data|dataset|annotations?|labels|result|samples|instances|train|val|valid|test)(?![a-z]).*")


def recognise(
    path: str,
    *,
    root: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    separator: str | None = None,
    split_column: str | None = None,
    ignore: tuple[str, ...] | None = None,
    minus_one: str | None = None,
) -> Listing | None:
    """What an export lists, or None for a file or folder that is none of `SHAPES` and not in VOC's format.

    Tables (CSV, TSV, JSONL, Parquet, xlsx) and folders of class folders are not looked for here.

    Args:
        path: a .json, .xml, .yaml or .yml file, one of darknet's, or a folder that holds such files for all or for
            each split.
        root: the folder that images are relative to, if it is not the one of the file.
        path_column, label_column: the keys, attributes or fields of images and labels, where several are possible.
        separator: the sign between labels in one text.
        split_column, ignore: the key of the split, and keys that are neither labels nor splits.
        minus_one: what -1 means, absent or unknown.

    Raises:
        DataError: it is one but cannot be read, or a folder holds more than one; says what to use.
    """
    settings = Source(path, None, root, path_column, label_column, separator, split_column, ignore, minus_one)
    if os.path.isdir(path):
        return _folder(settings)
    if path.lower().endswith(darknet_files.SUFFIXES):
        return darknet_files.read_darknet(settings)
    if not path.lower().endswith(_SUFFIXES):
        return None
    try:
        document = load(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if isinstance(document, Element) and document.tag == "annotation":
        folder = os.path.dirname(path) or "."
        raise DataError(
            f"{path}: describes one image, as Pascal VOC does; use the folder: {setting('dataset', folder)}"
        )
    shape = shape_of(document)
    return shape.read(replace(settings, document=document)) if shape else None


def shape_of(document: Any) -> Shape | None:
    """The shape of a document; None if it has none."""
    return next((shape for shape in SHAPES if shape.looks_like(document)), None)


def _folder(settings: Source) -> Listing | None:
    path = settings.path
    found: dict[str, list[tuple[Source, Shape, str | None]]] = {}
    for source, shape, split in _documents(settings):
        found.setdefault(shape.name, []).append((source, shape, split))
    voc = voc_files.find_voc(path)
    bare = None if found or voc else yolo_files.find_label_folder(path)
    places = [files[0][0].path for files in found.values()] + [part.folder for part in voc[:1]]
    if len(places) > 1:
        raise _choice(path, [*found, *([voc_files.VOC] if voc else [])], places)
    if voc:
        return voc_files.read_voc(path, voc)
    if bare:
        return yolo_files.read_label_folder(path, *bare, settings.root)
    if not found:
        return None
    ((name, files),) = found.items()
    if len(files) > 1:
        files = [one for one in files if name != coco_json.COCO or "annotations" in one[0].document] or files
    if len(files) == 1:
        source, shape, split = files[0]
        one = shape.read(source)
        lone = split if os.path.dirname(source.path) != path else None
        return joined(path, [(one, lone)], settings.root)
    splits = [split for _, _, split in files]
    if None in splits or len(set(splits)) < len(splits):
        raise _choice(path, [name] * len(files), [source.path for source, _, _ in files])
    return joined(path, [(shape.read(source), split) for source, shape, split in files], settings.root)


def _documents(settings: Source) -> Iterator[tuple[Source, Shape, str | None]]:
    """The files in a folder, its folder annotations/ and those of the splits that have a shape, with their split."""
    for folder in [settings.path, *_inner(settings.path)]:
        names = [name for name in _listed(folder) if name.lower().endswith(_SUFFIXES)]
        xml = [name for name in names if name.lower().endswith(".xml")]
        names = [name for name in names if name not in xml or (len(xml) == 1 and "annotations" in name.lower())]
        if any(name.startswith("instances_") for name in names):  # beside captions_*.json and person_keypoints_*.json
            names = [name for name in names if name.startswith("instances_")]
        for name in names if len(names) <= MOST_FILES else []:
            path = os.path.join(folder, name)
            try:
                document = load(path)
            except (OSError, DataError):
                if _TELLING.match(name.lower()):
                    raise
                continue
            if shape := shape_of(document):
                source = replace(settings, path=path, document=document)
                yield source, shape, split_of(name) or SPLIT_OF_NAME.get(os.path.basename(folder).lower())


def _inner(folder: str) -> list[str]:
    names = [name for name in _listed(folder) if name.lower() in SPLIT_OF_NAME or name.lower() == "annotations"]
    return [path for path in (os.path.join(folder, name) for name in names) if os.path.isdir(path)]


def _listed(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from None


def _choice(path: str, formats: list[str], places: list[str]) -> DataError:
    listed = " or ".join(f"{setting('dataset', place)} ({name})" for name, place in zip(formats, places, strict=True))
    return DataError(f"{path}: holds more than one list of images; use {listed}")
