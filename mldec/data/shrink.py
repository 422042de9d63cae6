"""A dataset once more with smaller pictures, which are read faster; its annotations adjusted to them.

Open Images is trained from pictures of 256 pixels on the shorter side, for one (paper §2.6).
"""

from __future__ import annotations

import copy
import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from mldec.data.folder import SUFFIXES
from mldec.data.image import decode, read_size
from mldec.data.index import ImageIndex
from mldec.data.verify import Problem, for_each_picture
from mldec.errors import DataError
from mldec.files import replacing

MARKER = ".shrunk.json"  # in the new folder: with which settings its pictures were made


def prepare(source: str, target: Path, *, side: int, quality: int) -> None:
    """Make the folder of the new dataset, or go on with one that was begun with the same settings.

    Raises DataError if it lies inside the source or holds it, or was begun with other settings.
    """
    old, new = Path(source).resolve(), target.resolve()
    if new == old or old in new.parents or new in old.parents:
        raise DataError(f"output={target}: must lie outside of {source}, which is never changed")
    settings = {"side": side, "quality": quality, "source": str(old)}
    marker = target / MARKER
    if marker.exists():
        begun = json.loads(marker.read_text(encoding="utf-8"))
        if begun != settings:
            raise DataError(f"output={target}: was begun with {begun}, now it is {settings}; take another folder")
    elif target.exists() and any(target.iterdir()):
        raise DataError(f"output={target}: is not empty; take another folder")
    target.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(settings), encoding="utf-8")


def shrink(
    index: ImageIndex,
    target: Path,
    *,
    side: int,
    quality: int = 90,
    workers: int,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Problem]:
    """Write the pictures of `index` below `target`, under the same relative paths; returns those that are broken.

    A picture that is there already is passed over: each appears whole or not at all, so a stopped call is simply
    repeated. Pictures whose shorter side is at most `side` are copied as they are.
    """
    work = functools.partial(_shrink_row, target=target, side=side, quality=quality)
    return for_each_picture(index, work, workers=workers, on_done=on_done)


def shrink_picture(source: str, target: Path, *, side: int, quality: int) -> None:
    """Write one picture with a shorter side of at most `side` pixels, upright, in the format that its ending says.

    Raises DataError if it cannot be decoded.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        width, height = read_size(source)
        if min(width, height) <= side:
            decode(source)  # a broken picture should not get through for being small
            shutil.copyfile(source, partial)
        else:
            scale = side / min(width, height)
            size = (max(side, round(width * scale)), max(side, round(height * scale)))
            picture = Image.fromarray(decode(source)).resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
            known = Image.registered_extensions().get(target.suffix.lower(), "JPEG")
            picture.save(partial, known if known in Image.SAVE else "JPEG", quality=quality)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def copy_other_files(source: str, target: Path) -> list[str]:
    """Copy what is neither a picture nor hidden, with its tree: lists, tables, labels. Returns their relative paths."""
    copied = []
    for folder, below, files in os.walk(source):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or os.path.splitext(name)[1].lower() in SUFFIXES:
                continue
            place = os.path.relpath(os.path.join(folder, name), source)
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(os.path.join(folder, name), target / place)
            copied.append(place)
    return copied


def shrink_coco_json(path: Path, pictures: Path) -> None:
    """Adjust sizes, boxes, areas and outlines of a file in COCO's format to the pictures, in place.

    Args:
        pictures: the folder of the new pictures; one that is not there keeps its figures.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    ratios: dict[Any, tuple[float, float]] = {}
    for image in content["images"]:
        file = pictures / image["file_name"]
        if "width" in image and "height" in image and file.is_file():
            size = read_size(str(file))
            ratios[image["id"]] = _ratio((image["width"], image["height"]), size)
            image["width"], image["height"] = size
    for annotation in content["annotations"]:
        if annotation.get("image_id") in ratios:
            _scale_annotation(annotation, *ratios[annotation["image_id"]])
    _replace(path, json.dumps(content))


def shrink_voc_xml(path: Path, picture: Path) -> None:
    """Adjust size and boxes of a VOC annotation to the new picture, in place."""
    if not picture.is_file():
        return
    root = ElementTree.parse(path).getroot()
    size = root.find("size")
    width, height = (int(float(root.findtext(f"size/{name}", "0"))) for name in ("width", "height"))
    if size is None or not width or not height:
        return
    new = read_size(str(picture))
    x, y = _ratio((width, height), new)
    for name, value in zip(("width", "height"), new, strict=True):
        size.find(name).text = str(value)  # type: ignore[union-attr]
    for box in root.iter("bndbox"):
        for name, ratio in (("xmin", x), ("ymin", y), ("xmax", x), ("ymax", y)):
            item = box.find(name)
            if item is not None and item.text:
                item.text = str(max(1, round(float(item.text) * ratio)))  # VOC counts pixels from 1
    _replace(path, ElementTree.tostring(root, encoding="unicode"))


def _shrink_row(index: ImageIndex, row: int, *, target: Path, side: int, quality: int) -> Problem | None:
    place = target / index.name(row)
    if place.exists():
        return None
    try:
        shrink_picture(index.path(row), place, side=side, quality=quality)
    except DataError as error:
        return Problem(index.path(row), str(error))
    return None


def _ratio(old: tuple[int, int], new: tuple[int, int]) -> tuple[float, float]:
    """By what x and y shrank. Where a picture was turned upright, its annotations stay as they were turned."""
    straight = new[0] / old[0], new[1] / old[1]
    turned = new[1] / old[0], new[0] / old[1]
    return min(straight, turned, key=lambda ratio: abs(ratio[0] - ratio[1]))


def _scale_annotation(annotation: dict[str, Any], x: float, y: float) -> None:
    if "bbox" in annotation:
        annotation["bbox"] = [
            round(value * ratio, 2) for value, ratio in zip(annotation["bbox"], (x, y, x, y), strict=True)
        ]
    if "area" in annotation:
        annotation["area"] = annotation["area"] * x * y
    outline = annotation.get("segmentation")
    if isinstance(outline, list):
        annotation["segmentation"] = [
            [round(value * (y if place % 2 else x), 2) for place, value in enumerate(polygon)] for polygon in outline
        ]
    elif isinstance(outline, dict):
        annotation["segmentation"] = _scale_mask(outline, x, y)


def _scale_mask(mask: dict[str, Any], x: float, y: float) -> dict[str, Any]:
    """A run-length encoded mask at another size, again run-length encoded."""
    import numpy as np
    from pycocotools import mask as masks

    encoded = copy.copy(mask)
    if isinstance(mask["counts"], list):
        encoded = masks.frPyObjects(mask, *mask["size"])
    height, width = mask["size"]
    size = (max(1, round(width * x)), max(1, round(height * y)))
    small = np.array(Image.fromarray(masks.decode(encoded)).resize(size, Image.Resampling.NEAREST))
    result = masks.encode(np.asfortranarray(small))
    return {"size": [size[1], size[0]], "counts": result["counts"].decode("ascii")}


def _replace(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
