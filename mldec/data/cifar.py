"""CIFAR-100, from its binary batches; the pickled ones are not read, since a pickle can run code."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, ImageSize, SplitCounts, appearing_at_once, check_split, naming, require
from mldec.data.folder import class_folders, read_class_folders
from mldec.data.index import ImageIndex
from mldec.data.text_rows import read_lines
from mldec.errors import DataError, option
from mldec.labels import LabelSpace
from mldec.registry import DATASETS
from mldec.untrusted import read_bytes

logger = logging.getLogger(__name__)

SIDE, CLASSES = 32, 100
RECORD = 2 + 3 * SIDE * SIDE  # bytes of an image in a .bin file: coarse label, fine label, red, green and blue plane
MAX_BATCH = 2**29  # bytes of a file; the published ones have 155 MB
FOLDER, FILES = "cifar-100-binary", ("train.bin", "test.bin", "fine_label_names.txt")


@dataclass(frozen=True, kw_only=True)
class CifarConfig(DatasetConfig):
    """CIFAR-100: 50,000 and 10,000 images of 32 pixels, one of 100 fine labels each."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    published: ClassVar = {"train": SplitCounts(50_000, CLASSES), "test": SplitCounts(10_000, CLASSES)}
    single_label = True

    root: str = "data/cifar100"
    image_size: ImageSize = 224


@DATASETS.register("cifar100", CifarConfig)
def build_cifar(config: CifarConfig, *, split: str) -> ImageIndex:
    """The index of a split; writes the images as PNG in class folders first, if they are not there yet.

    Raises:
        DataError: the batches are missing, cut short, or hold what they should not.
    """
    check_split(config, split)
    advice = (
        f"Get them with: mldec data download dataset=cifar100 {option('root', config.folder)} (cifar-100-python holds "
        "pickles, which are not read)"
    )
    require(config.folder, [f"{FOLDER}/{name}" for name in FILES], advice)
    folder = os.path.join(prepare_images(config.folder), split)
    return cached(config, split, class_folders(folder), lambda: read_class_folders(folder))


def prepare_images(root: str) -> str:
    """Write all images as <folder>/<split>/<class>/<number>.png, all at once, unless they are there already.

    Returns the folder, named by the size and time of change of the batches.
    """
    folder = _target(root)
    if os.path.isdir(folder):
        return folder
    logger.info("writing the images of CIFAR-100 to %s (once)", folder)
    *batches, listed = (os.path.join(root, FOLDER, name) for name in FILES)
    names = _read_names(listed)
    with appearing_at_once(folder) as draft:
        for split, batch in zip(("train", "test"), batches, strict=True):
            for name in names:
                os.makedirs(os.path.join(draft, split, name))
            for number, (label, image) in enumerate(_read_batch(batch)):
                encoded = cv2.imencode(".png", image[..., ::-1])[1]
                encoded.tofile(os.path.join(draft, split, names[label], f"{number:05d}.png"))
    return folder


def is_prepared(root: str) -> bool:
    """Whether reading the dataset in `root` writes no images: they are there already, or the batches are missing."""
    try:
        return os.path.isdir(_target(root))
    except OSError:  # reading names what is missing
        return True


def _target(root: str) -> str:
    """The folder of the images. Raises OSError where a batch is missing."""
    status = [os.stat(os.path.join(root, FOLDER, name)) for name in FILES]
    key = hashlib.sha256(repr([(s.st_size, s.st_mtime_ns) for s in status]).encode()).hexdigest()[:12]
    return os.path.join(root, f"images-{key}")


def _read_names(path: str) -> tuple[str, ...]:
    with naming(path):
        names = read_lines(path)
        if len(names) != CLASSES or any(os.path.basename(name) != name or name.startswith(".") for name in names):
            raise DataError(f"expected {CLASSES} names of classes, found {len(names)}: {', '.join(names[:5])}, …")
        return LabelSpace(names).names


def read_records(path: str) -> np.ndarray:
    """The records of a batch, uint8 (images, RECORD): coarse label, fine label, red, green and blue plane.

    Raises DataError if the file is cut short or has a label that is out of range.
    """
    data = np.frombuffer(read_bytes(path, most=MAX_BATCH), np.uint8)
    if len(data) == 0 or len(data) % RECORD:
        raise DataError(f"{path}: {len(data):,} bytes are no whole number of images of {RECORD:,}; cut short?")
    records = data.reshape(-1, RECORD)
    if (most := records[:, 1].max()) >= CLASSES:
        raise DataError(f"{path}: label {most} is out of range; fine labels are 0 to {CLASSES - 1}")
    return records


def _read_batch(path: str) -> Iterator[tuple[int, np.ndarray]]:
    """The fine label and the image (32,32,3), uint8 RGB, of each record."""
    for record in read_records(path):
        yield int(record[1]), record[2:].reshape(3, SIDE, SIDE).transpose(1, 2, 0)
