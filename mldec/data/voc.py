"""Pascal VOC 2007 and 2012, from the development kit's tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, SplitCounts, check_split, naming, require
from mldec.data.index import ImageIndex
from mldec.data.own.voc_files import find_voc, image_name, image_set_names, image_sets, images_by_stem, read_objects
from mldec.errors import DataError, option, setting
from mldec.labels import LabelSpace
from mldec.registry import DATASETS

LABELS = LabelSpace(
    [
        "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    ]
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VocConfig(DatasetConfig):
    """Pascal VOC. `root` holds VOCdevkit; VOCdevkit itself, or the year's folder in it, is accepted too.

    Attributes:
        difficult: the state of a class of which an image has only objects marked difficult. The development kit ignores
            them ("unknown"); the paper does not state what it did.
        classes: voc for the 20 of the challenge; own for those that the annotations of train name, sorted. With own,
            the splits are the image sets that there are: train and val, or trainval; and test. Without any, all
            annotations are train.
    """

    year: ClassVar[int]
    sets: ClassVar[dict[str, str]]  # the image set of each split

    root: str = "data/voc"
    difficult: Literal["unknown", "present", "absent"] = "unknown"
    classes: Literal["voc", "own"] = "voc"

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        """The published ones, or with classes of one's own those that have an image set."""
        return tuple(self.image_sets())

    @property
    def tree(self) -> str:
        """The folder of Annotations/, relative to `root`: the year's, wherever `root` stands in the development kit."""
        ways = (f"VOCdevkit/VOC{self.year}", f"VOC{self.year}", ".")
        return next((way for way in ways if os.path.isdir(os.path.join(self.folder, way, "Annotations"))), ways[0])

    def image_sets(self) -> dict[str, str]:
        """{split: its image set, relative to `root`}; the folder of the annotations for all of them."""
        main = f"{self.tree}/ImageSets/Main"
        found = image_sets(os.path.join(self.folder, main)) if self.classes == "own" else {}
        named = {split: f"{name}.txt" for split, name in self.sets.items()}
        if self.classes == "own":
            named = {split: os.path.basename(path) for split, path in found.items()} or {"train": ""}
        return {split: f"{main}/{name}" if name else f"{self.tree}/Annotations/" for split, name in named.items()}

    def expected(self, split: str) -> SplitCounts:
        return SplitCounts() if self.classes == "own" else super().expected(split)


@dataclass(frozen=True, kw_only=True)
class Voc2007Config(VocConfig):
    """The paper's: trained on trainval, tested on test."""

    year: ClassVar[int] = 2007
    sets: ClassVar[dict[str, str]] = {"train": "trainval", "test": "test"}
    published: ClassVar = {"train": SplitCounts(5_011, 20), "test": SplitCounts(4_952, 20)}


@dataclass(frozen=True, kw_only=True)
class Voc2012Config(VocConfig):
    """The labels of its test images are not public: trained on train, tested on val."""

    year: ClassVar[int] = 2012
    sets: ClassVar[dict[str, str]] = {"train": "train", "test": "val"}
    published: ClassVar = {"train": SplitCounts(5_717, 20), "test": SplitCounts(5_823, 20)}


@DATASETS.register("voc2007", Voc2007Config)
@DATASETS.register("voc2012", Voc2012Config)
def build_voc(config: VocConfig, *, split: str) -> ImageIndex:
    """The index of a split, images in the order of its image set.

    Raises:
        DataError: something is missing or broken; names the file.
    """
    check_split(config, split)
    image_sets, below = config.image_sets(), config.tree
    tree = [image_sets[split], f"{below}/Annotations/", f"{below}/JPEGImages/"]
    require(config.folder, tree, _advice(config))
    folder, image_set = os.path.join(config.folder, below), os.path.join(config.folder, image_sets[split])
    train = os.path.join(config.folder, image_sets.get("train", image_sets[split]))
    sources = [image_set, os.path.join(folder, "Annotations"), os.path.join(folder, "JPEGImages")]
    # A folder's time of change does not reveal a file that was corrected in place.
    for used in [image_set] if config.classes == "voc" else dict.fromkeys([image_set, train]):
        sources += filter(os.path.isfile, (_xml(folder, name) for name in _names(folder, used)))
    return cached(config, split, sources, lambda: _read(config, folder, image_set, train))


def _advice(config: VocConfig) -> str:
    if config.classes == "voc" and os.path.isdir(os.path.join(config.folder, config.tree, "Annotations")):
        return "For images and classes of your own, in these folders: dataset.classes=own;"
    if os.path.isdir(config.folder) and find_voc(config.folder):
        return f"For images of your own in this layout: {setting('dataset', config.folder)};"
    return f"Get them with: mldec data download dataset={config.name} {option('root', config.folder)}"


def _names(folder: str, image_set: str) -> list[str]:
    """The images of an image set, or of all annotations if it is their folder."""
    if os.path.isdir(image_set):
        return sorted(name[:-4] for name in os.listdir(image_set) if name.endswith(".xml") and name[0] != ".")
    return image_set_names(image_set, os.path.join(folder, "Annotations"))


def _xml(folder: str, name: str) -> str:
    return os.path.join(folder, "Annotations", f"{name}.xml")


def _read(config: VocConfig, folder: str, image_set: str, train: str) -> ImageIndex:
    labels = LABELS if config.classes == "voc" else _own_labels(folder, train)
    images = images_by_stem(os.path.join(folder, "JPEGImages"))

    def samples() -> Iterator[tuple[str, list[int], list[int], list[int]]]:
        for name in _names(folder, image_set):
            path = _xml(folder, name)
            clear, doubtful = (_columns(found, labels, path) for found in read_objects(path))
            doubtful -= clear
            positives = clear | doubtful if config.difficult == "present" else clear
            unknown = sorted(doubtful) if config.difficult == "unknown" else []
            yield image_name(name, images, None, path), sorted(positives), [], unknown

    try:
        return ImageIndex.build(samples(), root=os.path.join(folder, "JPEGImages"), labels=labels)
    except DataError as error:
        raise DataError(error if folder in str(error) else f"{image_set}: {error}") from None


def _own_labels(folder: str, train: str) -> LabelSpace:
    names: set[str] = set()
    for name in _names(folder, train):
        names.update(*read_objects(_xml(folder, name)))
    with naming(train):
        return LabelSpace(sorted(names))


def _columns(names: set[str], labels: LabelSpace, path: str) -> set[int]:
    try:
        return {labels.index(name) for name in sorted(names)}
    except DataError as error:
        own = (
            "; for classes of your own: dataset.classes=own" if labels is LABELS else "; no annotation of train has it"
        )
        raise DataError(f"{path}: {error}{own}") from None
