"""MS-COCO, and any annotation file in COCO's format."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, ClassVar, Literal

from pycocotools.coco import COCO

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, FilesConfig, Statistics, check_split, naming, require
from mldec.data.files import read_json
from mldec.data.index import ImageIndex
from mldec.errors import DataError, shown
from mldec.labels import LabelSpace
from mldec.registry import DATASETS

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CocoConfig(DatasetConfig):
    """MS-COCO. The paper trains on train2014 and tests on val2014, so val<year> is the test split.

    It counts annotated images only (`unannotated: drop`): 82,081 of 82,783 for training, 40,137 of 40,504 for test.

    Attributes:
        year: of the release, whose folders and files carry it in their names.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    root: str = "data/coco"
    year: Literal[2014, 2017] = 2014

    def expected(self, split: str) -> Statistics:
        images = {
            (2014, "keep"): {"train": 82_783, "test": 40_504},
            (2014, "drop"): {"train": 82_081, "test": 40_137},
            (2017, "keep"): {"train": 118_287, "test": 5_000},
            (2017, "drop"): {"train": 117_266, "test": 4_952},
        }
        return Statistics(images[self.year, self.unannotated][split], labels=80)


@DATASETS.register("coco", CocoConfig)
def build_coco(config: CocoConfig, *, split: str) -> ImageIndex:
    """The index of a split: 80 labels by ascending category id, images by ascending image id.

    Raises:
        DataError: something is missing or broken; says what, and where to get it.
    """
    check_split(config, split)
    images = f"{'train' if split == 'train' else 'val'}{config.year}"
    annotations = f"annotations/instances_{images}.json"
    require(config.folder, [f"{images}/", annotations], _advice(config), tree=_tree(config.year))
    folder, file = os.path.join(config.folder, images), os.path.join(config.folder, annotations)
    return cached(config, split, [folder, file], lambda: read_coco_json(file, folder))


@dataclass(frozen=True, kw_only=True)
class CocoJsonConfig(FilesConfig):
    """Annotation files in COCO's format, one a split.

    Attributes:
        train_images, val_images, test_images: the folder that a file's names are relative to; null: `root`, or
            else the folder of that file.
    """

    paths: ClassVar[tuple[str, ...]] = (*FilesConfig.paths, "train_images", "val_images", "test_images")

    train_images: str | None = None
    val_images: str | None = None
    test_images: str | None = None


@DATASETS.register("coco_json", CocoJsonConfig)
def build_coco_json(config: CocoJsonConfig, *, split: str) -> ImageIndex:
    """The index of a split. Its labels are those of the train file by ascending category id, or `config.labels`.

    Raises:
        DataError: something is missing or broken, or a file has a category that is none of the labels.
    """
    check_split(config, split)
    file, train = config.file(split), config.file("train")
    folder = getattr(config, f"{split}_images") or config.root or os.path.dirname(os.path.abspath(file))
    folder = os.path.expanduser(folder)

    def read() -> ImageIndex:
        labels = config.named_labels()
        if labels is None and split != "train":
            labels = _labels(_load(train))
        return read_coco_json(file, folder, labels=labels)

    return cached(config, split, [file, train, *config.label_files()], read, root=folder)


def read_coco_json(annotation_file: str, image_folder: str, *, labels: LabelSpace | None = None) -> ImageIndex:
    """Read instance annotations: a label is present where the image has at least one box of it, crowds included.

    Args:
        annotation_file: JSON in COCO's format.
        image_folder: what its file names are relative to.
        labels: the columns, to which categories belong by name; None: the file's own, by ascending category id.

    Raises:
        DataError: the file is not COCO JSON, or names unknown images or categories.
    """
    logger.info("reading %s", annotation_file)
    with _no_collection():
        return _read(annotation_file, image_folder, labels)


def _read(annotation_file: str, image_folder: str, labels: LabelSpace | None) -> ImageIndex:
    coco = _load(annotation_file)
    try:
        with naming(annotation_file):
            labels = labels or _labels(coco)
            column = {category: labels.index(_name(coco, category)) for category in coco.cats}
            return ImageIndex.build(_samples(coco, column), root=image_folder, labels=labels)
    except KeyError as error:
        raise DataError(f"{annotation_file}: no {error} where an image, annotation or category needs it") from None


def _tree(year: int) -> list[str]:
    folders = [f"{split}{year}/" for split in ("train", "val")]
    return [*folders, *(f"annotations/instances_{split}{year}.json" for split in ("train", "val"))]


def _advice(config: CocoConfig) -> str:
    other: Literal[2014, 2017] = 2017 if config.year == 2014 else 2014
    if any(os.path.exists(os.path.join(config.folder, entry)) for entry in _tree(other)):
        return f"These are files of {other}: type dataset.year={other},"
    return f"Get them with: mldec data download dataset=coco dataset.year={config.year} root={config.folder}"


def _load(annotation_file: str) -> COCO:
    try:
        coco = COCO()
        coco.dataset = read_json(annotation_file)
        if not isinstance(coco.dataset, dict):
            raise TypeError(f"expected an object {{…}}, found a {type(coco.dataset).__name__}")
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print
            coco.createIndex()
    except KeyError as error:
        raise DataError(f"{annotation_file}: no {error} where an image, annotation or category needs it") from None
    except (ValueError, AssertionError, TypeError, AttributeError) as error:
        raise DataError(f"{annotation_file} is not COCO JSON, or was cut short: {error}") from None
    with naming(annotation_file):
        _check(coco)
    return coco


def _check(coco: COCO) -> None:
    """Refuse what pycocotools passes over: of entries with one id it keeps the last, references may lead nowhere."""
    if not coco.imgs or not coco.cats:
        raise DataError(f"{len(coco.imgs)} images and {len(coco.cats)} categories; both are needed")
    if "annotations" not in coco.dataset:
        raise DataError("no `annotations`, so nothing is known of its images; take the file that has them")
    for name, known in (("images", coco.imgs), ("categories", coco.cats)):
        ids = [entry["id"] for entry in coco.dataset[name]]
        if len(ids) > len(known):
            raise DataError(f"`{name}` holds the id {Counter(ids).most_common(1)[0][0]!r} more than once")
        if len(kinds := sorted({type(number).__name__ for number in ids})) > 1:
            raise DataError(f"`{name}` holds ids of the types {' and '.join(kinds)}; they must be of one")
    for what, name, used, known in (
        ("image", "images", coco.imgToAnns, coco.imgs),
        ("category", "categories", coco.catToImgs, coco.cats),
    ):
        unknown = min(set(used) - set(known), key=repr, default=None)
        if unknown is not None:
            allowed = shorten(", ".join(map(repr, known)), 400, placeholder=" …")
            raise DataError(f"annotations of {what} id {unknown!r}, which is not among `{name}` (allowed: {allowed})")


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of small objects are made here and none is garbage: looking for some would take half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _labels(coco: COCO) -> LabelSpace:
    return LabelSpace([_name(coco, category) for category in sorted(coco.cats)])


def _name(coco: COCO, category: int) -> str:
    name = coco.cats[category]["name"]
    if not isinstance(name, str):
        raise DataError(f"category {shown(category)} has the name {shown(name)}; a text is needed")
    return name


def _samples(coco: COCO, column: dict[int, int]) -> Iterator[tuple[str, list[int], tuple[()], tuple[()]]]:
    for image in sorted(coco.imgs):
        annotations: list[dict[str, Any]] = coco.imgToAnns.get(image, [])
        positives = sorted({column[annotation["category_id"]] for annotation in annotations})
        yield coco.imgs[image]["file_name"], positives, (), ()
