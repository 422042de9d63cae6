"""MS-COCO, and any annotation file in COCO's format."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, ClassVar, Literal

from pycocotools.coco import COCO

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, FilesConfig, SplitCounts, check_split, naming, require
from mldec.data.index import ImageIndex
from mldec.errors import DataError, option, shortened
from mldec.labels import LabelSpace
from mldec.registry import DATASETS
from mldec.untrusted import read_json

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

    def expected(self, split: str) -> SplitCounts:
        images = {
            (2014, "keep"): {"train": 82_783, "test": 40_504},
            (2014, "drop"): {"train": 82_081, "test": 40_137},
            (2017, "keep"): {"train": 118_287, "test": 5_000},
            (2017, "drop"): {"train": 117_266, "test": 4_952},
        }
        return SplitCounts(images[self.year, self.unannotated][split], labels=80)


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
            with _naming_mistakes(train):
                labels = LabelSpace(list(_category_names(_load(train)).values()))
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
    with _no_collection(), _naming_mistakes(annotation_file):
        coco = _load(annotation_file)
        images, names = _by_id(coco, "images"), _category_names(coco)
        labels = labels or LabelSpace(list(names.values()))
        columns = {category: labels.index(name) for category, name in names.items()}
        if "annotations" not in coco.dataset:
            raise DataError("no `annotations`, so nothing is known of its images; use the file that has them")
        _check_references("image", "images", coco.imgToAnns, images)
        _check_references("category", "categories", coco.catToImgs, columns)
        present = {image: {columns[box["category_id"]] for box in boxes} for image, boxes in coco.imgToAnns.items()}
        samples = ((entry["file_name"], sorted(present.get(image, ())), (), ()) for image, entry in images.items())
        return ImageIndex.build(samples, root=image_folder, labels=labels)


def _tree(year: int) -> list[str]:
    folders = [f"{split}{year}/" for split in ("train", "val")]
    return [*folders, *(f"annotations/instances_{split}{year}.json" for split in ("train", "val"))]


def _advice(config: CocoConfig) -> str:
    other: Literal[2014, 2017] = 2017 if config.year == 2014 else 2014
    if any(os.path.exists(os.path.join(config.folder, entry)) for entry in _tree(other)):
        return f"These are files of {other}: use dataset.year={other},"
    return f"Get them with: mldec data download dataset=coco dataset.year={config.year} {option('root', config.folder)}"


def _load(annotation_file: str) -> COCO:
    coco = COCO()
    coco.dataset = read_json(annotation_file)
    if not isinstance(coco.dataset, dict):
        raise TypeError(f"expected an object {{…}}, found a {type(coco.dataset).__name__}")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print
        coco.createIndex()
    return coco


def _by_id(coco: COCO, name: str) -> dict[Any, dict[str, Any]]:
    """The images or categories of a file by ascending id. Raises DataError for none, or ids that repeat.

    pycocotools keeps the last of several entries with one id.
    """
    entries = coco.dataset[name]
    kinds = sorted({type(entry["id"]).__name__ for entry in entries})
    if not kinds:
        raise DataError(f"0 {name}; at least one is needed")
    if len(kinds) > 1:
        raise DataError(f"`{name}` holds ids of the types {' and '.join(kinds)}; they must be of one")
    repeated, count = Counter(entry["id"] for entry in entries).most_common(1)[0]
    if count > 1:
        raise DataError(f"`{name}` holds the id {repeated!r} more than once")
    return {entry["id"]: entry for entry in sorted(entries, key=lambda entry: entry["id"])}


def _category_names(coco: COCO) -> dict[Any, str]:
    """The names of the categories by ascending id."""
    names = {category: entry["name"] for category, entry in _by_id(coco, "categories").items()}
    for category, name in names.items():
        if not isinstance(name, str):
            raise DataError(f"category {shortened(category)} has the name {shortened(name)}; text is needed")
    return names


def _check_references(what: str, name: str, used: Iterable[Any], known: Collection[Any]) -> None:
    """Raise DataError if annotations refer to an image or a category that the file does not have."""
    if unknown := sorted(set(used) - set(known), key=repr)[:1]:
        allowed = shorten(", ".join(map(repr, known)), 400, placeholder=" …")
        raise DataError(
            f"an annotation has the {what} id {unknown[0]!r}, which is not among `{name}` (allowed: {allowed})"
        )


@contextlib.contextmanager
def _naming_mistakes(annotation_file: str) -> Iterator[None]:
    """Errors from the block are DataErrors that name the file."""
    try:
        with naming(annotation_file):
            yield
    except KeyError as error:
        raise DataError(f"{annotation_file}: no {error} where an image, annotation or category needs it") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{annotation_file} is not COCO JSON, or was cut short: {error}") from None


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the garbage collector: none of the millions of objects is garbage, and looking takes half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
