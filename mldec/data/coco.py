"""MS-COCO, and any annotation file in COCO's format."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pycocotools.coco import COCO

from mldec.data.dataset import DatasetConfig, check_split, require, require_files
from mldec.data.index import ImageIndex
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.registry import DATASETS

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CocoConfig(DatasetConfig):
    """MS-COCO. The paper trains on train2014 and tests on val2014, so val<year> is the test split.

    It counts annotated pictures only (`unannotated: drop`): 82,081 of 82,783 for training, 40,137 of 40,504 for test.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    root: str = "data/coco"
    year: Literal[2014, 2017] = 2014


@DATASETS.register("coco", CocoConfig)
def build_coco(config: CocoConfig, *, split: str) -> ImageIndex:
    """The index of a split: 80 labels by ascending category id, pictures by ascending image id.

    Raises:
        DataError: something is missing or broken; says what, and where to get it.
    """
    check_split(config, split)
    pictures = f"{'train' if split == 'train' else 'val'}{config.year}"
    annotations = f"annotations/instances_{pictures}.json"
    require(config.root, [f"{pictures}/", annotations], _advice(config), tree=_tree(config.year))
    logger.info("reading %s", os.path.join(config.root, annotations))
    return read_coco_json(
        os.path.join(config.root, annotations), os.path.join(config.root, pictures), unannotated=config.unannotated
    )


def read_coco_json(
    annotation_file: str, image_folder: str, *, unannotated: Literal["keep", "drop"] = "keep"
) -> ImageIndex:
    """Read instance annotations: a label is present where the picture has at least one box of it, crowds included.

    Args:
        annotation_file: JSON in COCO's format.
        image_folder: what its file names are relative to.
        unannotated: "drop" leaves out pictures without a box.

    Raises:
        DataError: the file is not COCO JSON, names unknown pictures or categories, or lists pictures that do not exist.
    """
    coco = _load(annotation_file)
    categories = sorted(coco.cats)
    column = {category: i for i, category in enumerate(categories)}
    try:
        unknown = set(coco.imgToAnns) - set(coco.imgs)
        if unknown:
            raise DataError(f"{annotation_file}: annotations of picture id {min(unknown)}, which is not among `images`")
        labels = LabelSpace([coco.cats[category]["name"] for category in categories])
        index = ImageIndex.build(_samples(coco, column, unannotated), root=image_folder, labels=labels)
    except KeyError as error:
        raise DataError(f"{annotation_file}: no {error} where an image, annotation or category needs it") from None
    names = [index.paths[row].tobytes().decode() for row in range(len(index))]
    require_files(image_folder, names, os.path.basename(annotation_file))
    return index


def _tree(year: int) -> list[str]:
    folders = [f"{split}{year}/" for split in ("train", "val")]
    return [*folders, *(f"annotations/instances_{split}{year}.json" for split in ("train", "val"))]


def _advice(config: CocoConfig) -> str:
    other = 2017 if config.year == 2014 else 2014
    if any(os.path.exists(os.path.join(config.root, entry)) for entry in _tree(other)):
        return f"These are files of {other}: type dataset.year={other},"
    archives = [f"zips/{split}{config.year}.zip" for split in ("train", "val")]
    archives.append(f"annotations/annotations_trainval{config.year}.zip")
    links = "\n".join(f"  http://images.cocodataset.org/{archive}" for archive in archives)
    return f"Get these (see https://cocodataset.org/#download) and unpack them in {config.root}:\n{links}"


def _load(annotation_file: str) -> COCO:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print
            coco = COCO(annotation_file)
    except OSError as error:
        raise DataError(f"cannot read {annotation_file}: {error.strerror}") from None
    except (ValueError, AssertionError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise DataError(f"{annotation_file} is not COCO JSON, or was cut short: {error}") from None
    if not coco.imgs or not coco.cats:
        raise DataError(f"{annotation_file}: {len(coco.imgs)} images and {len(coco.cats)} categories; both are needed")
    return coco


def _samples(
    coco: COCO, column: dict[int, int], unannotated: str
) -> Iterator[tuple[str, list[int], tuple[()], tuple[()]]]:
    for image in sorted(coco.imgs):
        annotations: list[dict[str, Any]] = coco.imgToAnns.get(image, [])
        positives = sorted({column[annotation["category_id"]] for annotation in annotations})
        if positives or unannotated == "keep":
            yield coco.imgs[image]["file_name"], positives, (), ()
