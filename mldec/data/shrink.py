"""A dataset once more with smaller images, which are read faster; its annotations adjusted to them.

Open Images is trained from images of 256 pixels on the shorter side, for one (paper §2.6).
"""

from __future__ import annotations

import copy
import functools
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from mldec.data.dataset import naming
from mldec.data.files import CHUNK, MAX_SMALL, open_regular, read_bytes, read_json
from mldec.data.image import MAX_BYTES, MAX_PIXELS, decode, read_size
from mldec.data.index import ImageIndex
from mldec.data.verify import Problem, for_each_image
from mldec.data.voc import read_xml
from mldec.errors import DataError, shown
from mldec.files import PARTIAL, replacing, write_text

MARKER = ".shrunk.json"  # in the new folder: with which settings its images were made


def prepare(source: str, target: Path, *, side: int, quality: int) -> None:
    """Make the folder of the new dataset, or go on with one that was begun with the same settings.

    Raises DataError if it lies inside the source or holds it, or was begun with other settings.
    """
    old, new = Path(source).resolve(), target.resolve()
    if new == old or old in new.parents or new in old.parents:
        raise DataError(f"output={target}: must lie outside of {source}, which is never changed")
    settings = {"side": side, "quality": quality, "source": str(old)}
    marker = target / MARKER
    if target.exists() and not target.is_dir():
        raise DataError(f"output={target}: is not a directory; choose another name")
    if marker.exists():
        begun = read_json(marker, most=MAX_SMALL)
        if begun != settings:
            raise DataError(
                f"output={target}: was begun with {shown(begun, 300)}, now it is {settings}; take another folder"
            )
        for partial in target.rglob(f".*{PARTIAL}*"):  # of a call that was killed
            partial.unlink(missing_ok=True)
    elif target.exists() and any(target.iterdir()):
        raise DataError(f"output={target}: is not empty; take another folder")
    target.mkdir(parents=True, exist_ok=True)
    if not marker.exists():
        write_text(marker, json.dumps(settings))


def shrink(
    index: ImageIndex,
    target: Path,
    *,
    side: int,
    quality: int = 90,
    workers: int,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Problem]:
    """Write the images of `index` below `target`, under the same relative paths; returns those that are broken.

    An image that is there already is passed over: each appears whole or not at all, so a stopped call is simply
    repeated. Images whose shorter side is at most `side` are copied as they are.
    """
    work = functools.partial(_shrink_row, target=target, side=side, quality=quality)
    return for_each_image(index, work, workers=workers, on_done=on_done)


def shrink_image(source: str, target: Path, *, side: int, quality: int) -> None:
    """Write one image with a shorter side of at most `side` pixels, upright, in the format that its ending says.

    Raises DataError if it cannot be decoded.
    """
    with replacing(target) as partial:
        width, height = read_size(source)
        if min(width, height) <= side:
            decode(source)  # a broken image should not get through for being small
            partial.write_bytes(read_bytes(source, most=MAX_BYTES))
        else:
            scale = side / min(width, height)
            size = (max(side, round(width * scale)), max(side, round(height * scale)))
            image = Image.fromarray(decode(source)).resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
            known = Image.registered_extensions().get(target.suffix.lower(), "JPEG")
            image.save(partial, known if known in Image.SAVE else "JPEG", quality=quality)


def copy_regular(source: str | os.PathLike[str], target: Path) -> None:
    """Copy a regular file, whole or not at all: as many bytes as it has when it is opened, and holes as holes.

    Raises:
        DataError: it is no regular file.
        OSError: it cannot be read, or the disk is full; no file is left then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with open_regular(source) as old, partial.open("xb") as new:
            left = size = os.fstat(old.fileno()).st_size
            while left and (part := old.read(min(CHUNK, left))):
                left -= len(part)
                if part.count(0) == len(part):
                    new.seek(len(part), os.SEEK_CUR)
                else:
                    new.write(part)
            new.truncate(size - left)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def shrink_coco_json(path: Path, images: Path | None, target: Path | None = None) -> None:
    """Adjust sizes, boxes, areas and outlines of a file in COCO's format to the images.

    Args:
        images: the folder of the new images, one that is not there keeps its figures; None: only find out whether
            all can be adjusted, and write nothing.
        target: where to write the new file; None: in its place.

    Raises:
        DataError: it is no such file, or something in it is no box, area or outline; says which.
    """
    content = read_json(path)
    try:
        with naming(str(path)):
            _scale_coco(content, images)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: is not COCO JSON: {type(error).__name__}: {error}") from None
    if images is not None:
        write_text(path if target is None else target, json.dumps(content))


def _scale_coco(content: Any, images: Path | None) -> None:
    ratios: dict[Any, tuple[float, float]] = {}
    for image in content["images"]:
        if "width" not in image or "height" not in image:
            continue
        width, height = image["width"], image["height"]
        if not all(isinstance(side, (int, float)) and 0 < side < 2**31 for side in (width, height)):
            raise DataError(f"image {shown(image.get('id'))} is of {shown(width)} x {shown(height)} pixels")
        if images is None:
            ratios[image["id"]] = 1.0, 1.0
        elif (file := images / image["file_name"]).is_file():
            size = read_size(str(file))
            ratios[image["id"]] = _ratio((width, height), size)
            image["width"], image["height"] = size
    for annotation in content.get("annotations", ()):
        if annotation.get("image_id") not in ratios:
            continue
        try:
            _scale_annotation(annotation, *ratios[annotation["image_id"]])
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise DataError(
                f"annotation {shown(annotation.get('id'))} has an invalid box, area or outline: {error}"
            ) from None


def shrink_voc_xml(path: Path, image: Path | None, target: Path | None = None) -> None:
    """Adjust size and boxes of a VOC annotation to the new image.

    Args:
        image: the new image; None: only find out whether all can be adjusted, and write nothing.
        target: where to write the new file; None: in its place.

    Raises:
        DataError: it is no such file, or a size or corner in it is no number.
    """
    if image is not None and not image.is_file():
        return
    root = read_xml(str(path))
    try:
        _scale_voc(root, image)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: holds a size or corner that is no number: {error}") from None
    if image is not None:
        write_text(path if target is None else target, ElementTree.tostring(root, encoding="unicode"))


def _scale_voc(root: ElementTree.Element, image: Path | None) -> None:
    size = root.find("size")
    width, height = (int(float(root.findtext(f"size/{name}") or "0")) for name in ("width", "height"))
    if size is None or width <= 0 or height <= 0:
        return
    new = (width, height) if image is None else read_size(str(image))
    x, y = _ratio((width, height), new)
    for name, value in zip(("width", "height"), new, strict=True):
        size.find(name).text = str(value)  # type: ignore[union-attr]
    for box in root.iter("bndbox"):
        for name, ratio in (("xmin", x), ("ymin", y), ("xmax", x), ("ymax", y)):
            item = box.find(name)
            if item is not None and item.text:
                item.text = str(max(1, round(float(item.text) * ratio)))  # VOC counts pixels from 1


def _shrink_row(index: ImageIndex, row: int, *, target: Path, side: int, quality: int) -> Problem | None:
    place = target / index.name(row)
    if place.exists():
        return None
    try:
        shrink_image(index.path(row), place, side=side, quality=quality)
    except DataError as error:
        return Problem(index.path(row), str(error))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a full disk, which ends all
            raise
        return Problem(index.path(row), f"{index.path(row)}: cannot be written smaller: {error}")
    return None


def _ratio(old: tuple[int, int], new: tuple[int, int]) -> tuple[float, float]:
    """By what x and y shrank. Where an image was turned upright, its annotations stay as they were turned."""
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

    height, width = mask["size"]
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"a mask of {shown(mask['size'])} pixels")
    encoded = copy.copy(mask)
    if isinstance(mask["counts"], list):
        if any(type(run) is not int or run < 0 for run in mask["counts"]) or sum(mask["counts"]) != height * width:
            raise ValueError(f"runs that do not fill a mask of {height} x {width} pixels")
        encoded = masks.frPyObjects(mask, *mask["size"])
    elif _runs(mask["counts"]) != height * width:
        raise ValueError(f"runs that do not fill a mask of {height} x {width} pixels")
    size = (max(1, round(width * x)), max(1, round(height * y)))
    small = np.array(Image.fromarray(masks.decode(encoded)).resize(size, Image.Resampling.NEAREST))
    result = masks.encode(np.asfortranarray(small))
    return {"size": [size[1], size[0]], "counts": result["counts"].decode("ascii")}


def _runs(counts: str) -> int:
    """The sum of the runs in COCO's compressed form: of each, groups of 5 bits, from the third on as a difference.

    pycocotools writes as many pixels as they say, wherever the mask ends.
    """
    runs: list[int] = []
    value = shift = 0
    for sign in counts:
        group = ord(sign) - 48
        if not 0 <= group < 64 or shift > 30:
            raise ValueError("runs that are no compressed numbers")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
            if runs[-1] < 0:
                raise ValueError("runs of less than nothing")
    return sum(runs)
