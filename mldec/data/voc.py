"""Pascal VOC 2007 and 2012, from the development kit's tree."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal
from xml.etree import ElementTree

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, SplitCounts, check_split, naming, require
from mldec.data.index import ImageIndex
from mldec.data.text_rows import read_lines
from mldec.errors import DataError, option
from mldec.labels import LabelSpace
from mldec.registry import DATASETS
from mldec.untrusted import MAX_SMALL, read_bytes

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
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    year: ClassVar[int]
    sets: ClassVar[dict[str, str]]  # the image set of each split

    root: str = "data/voc"
    difficult: Literal["unknown", "present", "absent"] = "unknown"


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
    year = f"VOC{config.year}"
    places = (f"VOCdevkit/{year}", year, ".")
    below = next((p for p in places if os.path.isdir(os.path.join(config.folder, p, "Annotations"))), places[0])
    image_set = f"ImageSets/Main/{config.sets[split]}.txt"
    tree = [f"{below}/{entry}" for entry in (image_set, "Annotations/", "JPEGImages/")]
    advice = f"Get them with: mldec data download dataset={config.name} {option('root', config.folder)}"
    require(config.folder, tree, advice)
    folder = os.path.join(config.folder, below)
    sources = [os.path.join(folder, entry) for entry in (image_set, "Annotations", "JPEGImages")]
    # A folder's time of change does not reveal a file that was corrected in place.
    files = (os.path.join(folder, "Annotations", f"{name}.xml") for name in _names(sources[0]))
    sources += filter(os.path.isfile, files)
    return cached(config, split, sources, lambda: _read(folder, sources[0], config.difficult))


def _read(folder: str, image_set: str, difficult: str) -> ImageIndex:
    def samples() -> Iterator[tuple[str, list[int], list[int], list[int]]]:
        for name in _names(image_set):
            clear, doubtful = _objects(os.path.join(folder, "Annotations", f"{name}.xml"))
            doubtful -= clear
            positives = clear | doubtful if difficult == "present" else clear
            yield f"{name}.jpg", sorted(positives), [], sorted(doubtful) if difficult == "unknown" else []

    try:
        return ImageIndex.build(samples(), root=os.path.join(folder, "JPEGImages"), labels=LABELS)
    except DataError as error:
        raise DataError(error if folder in str(error) else f"{image_set}: {error}") from None


def _names(image_set: str) -> list[str]:
    """The image ids of an image set: the first word of each line."""
    names = [line.split()[0] for line in read_lines(image_set)]
    if not names:
        raise DataError(f"{image_set}: names no image")
    odd = next((name for name in names if not re.fullmatch(r"\w+", name, re.ASCII)), None)
    if odd is not None:
        raise DataError(f"{image_set}: {odd!r} is not an image id; expected one such as 000005 or 2008_000008 per line")
    return names


def read_xml(path: str) -> ElementTree.Element:
    """The root of an XML file without entities, which could make a small file endless.

    Raises DataError if it cannot be read or is no such file; names it.
    """
    try:
        content = read_bytes(path, most=MAX_SMALL)
        declared = re.match(rb"\s*<\?xml[^>]*encoding\s*=\s*[\"']([\w.-]+)", content.removeprefix(codecs.BOM_UTF8))
        encoding = declared[1].decode() if declared else "utf-8"
        if b"\0" in content or "<!".encode(encoding) != b"<!":  # the search for entities would not see them
            raise ValueError(f"its encoding is not UTF-8 ({encoding})")
        if b"<!" in content.replace(b"<!--", b""):
            raise DataError(f"{path}: holds a document type or entities, which VOC's annotations do not")
        return ElementTree.fromstring(content)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{path}: is not XML, or was cut short: {error}") from None


def _objects(path: str) -> tuple[set[int], set[int]]:
    """Columns of the classes with a clear object, and of those with a difficult one."""
    clear: set[int] = set()
    doubtful: set[int] = set()
    for item in read_xml(path).iter("object"):
        name = item.findtext("name")
        if name is None:
            raise DataError(f"{path}: an object without a name")
        with naming(path):
            column = LABELS.index(name.strip())
        (doubtful if (item.findtext("difficult") or "0").strip() == "1" else clear).add(column)
    return clear, doubtful
