"""CIFAR-100, from its own binary or pickled batches."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, ImageSize, Statistics, appearing_at_once, check_split, require
from mldec.data.folder import class_folders, read_class_folders
from mldec.data.index import ImageIndex
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.registry import DATASETS
from mldec.untrusted import open_text, read_bytes

logger = logging.getLogger(__name__)

SIDE, CLASSES = 32, 100
RECORD = 2 + 3 * SIDE * SIDE  # bytes of an image in a .bin file: coarse label, fine label, red, green and blue plane
MAX_BATCH = 2**29  # bytes of a file; the published ones have 155 MB
BINARY, PICKLED = "cifar-100-binary", "cifar-100-python"
FILES = {
    BINARY: ("train.bin", "test.bin", "fine_label_names.txt"),
    PICKLED: ("train", "test", "meta"),
}


@dataclass(frozen=True, kw_only=True)
class CifarConfig(DatasetConfig):
    """CIFAR-100: 50,000 and 10,000 images of 32 pixels, one of 100 fine labels each."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    root: str = "data/cifar100"
    image_size: ImageSize = 224

    @property
    def single_label(self) -> bool:
        return True

    def expected(self, split: str) -> Statistics:
        return Statistics({"train": 50_000, "test": 10_000}[split], labels=CLASSES)


@DATASETS.register("cifar100", CifarConfig)
def build_cifar(config: CifarConfig, *, split: str) -> ImageIndex:
    """The index of a split; writes the images as PNG in class folders first, if they are not there yet.

    Raises:
        DataError: the batches are missing, cut short, or hold what they should not.
    """
    check_split(config, split)
    form = _form(config.folder)
    advice = (
        f"{BINARY}/ with {', '.join(FILES[BINARY])} will do, too. "
        f"Get them with: mldec data download dataset=cifar100 root={config.folder}"
    )
    require(config.folder, [f"{form}/{name}" for name in FILES[form]], advice)
    folder = os.path.join(prepare_images(config.folder, form), split)
    return cached(config, split, class_folders(folder), lambda: read_class_folders(folder))


def prepare_images(root: str, form: str) -> str:
    """Write all images as <folder>/<split>/<class>/<number>.png, all at once, unless they are there already.

    Returns the folder, named by the size and time of change of the batches.
    """
    folder, sources = _target(root, form), _sources(root, form)
    if os.path.isdir(folder):
        return folder
    logger.info("writing the images of CIFAR-100 to %s (once)", folder)
    names = _fine_names(sources[2])
    with appearing_at_once(folder) as draft:
        for split, source in zip(("train", "test"), sources, strict=False):
            images, labels = (_read_binary if form == BINARY else _read_pickled)(source)
            for name in names.names:
                os.makedirs(os.path.join(draft, split, name))
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                encoded = cv2.imencode(".png", image[..., ::-1])[1]
                encoded.tofile(os.path.join(draft, split, names.names[label], f"{number:05d}.png"))
    return folder


def is_prepared(root: str) -> bool:
    """Whether reading the dataset in `root` writes no images: they are there already, or the batches are missing."""
    try:
        return os.path.isdir(_target(root, _form(root)))
    except OSError:  # reading says what is missing
        return True


def _form(root: str) -> str:
    return BINARY if os.path.isdir(os.path.join(root, BINARY)) else PICKLED


def _sources(root: str, form: str) -> list[str]:
    return [os.path.join(root, form, name) for name in FILES[form]]


def _target(root: str, form: str) -> str:
    """The folder of the images. Raises OSError where a batch is missing."""
    status = [os.stat(source) for source in _sources(root, form)]
    key = hashlib.sha256(repr([(s.st_size, s.st_mtime_ns) for s in status]).encode()).hexdigest()[:12]
    return os.path.join(root, f"images-{key}")


def _fine_names(path: str) -> LabelSpace:
    if path.endswith(".txt"):
        try:
            with open_text(path, encoding="ascii") as file:
                names = [line.strip() for line in file if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: cannot be read as names of classes: {error}") from None
    else:
        names = [_text(name) for name in _field(path, _unpickle(path), "fine_label_names", list)]
    if len(names) != CLASSES or any(os.path.basename(name) != name or name.startswith(".") for name in names):
        raise DataError(f"{path}: expected {CLASSES} names of classes, found {len(names)}: {', '.join(names[:5])}, …")
    return LabelSpace(names)


def _read_binary(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (S,32,32,3) uint8 RGB and fine labels (S,)."""
    data = np.frombuffer(read_bytes(path, most=MAX_BATCH), np.uint8)
    if len(data) == 0 or len(data) % RECORD:
        raise DataError(f"{path}: {len(data):,} bytes are no whole number of images of {RECORD:,}; cut short?")
    records = data.reshape(-1, RECORD)
    return _images(records[:, 2:]), _checked(path, records[:, 1])


def _read_pickled(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (S,32,32,3) uint8 RGB and fine labels (S,)."""
    batch = _unpickle(path)
    data, labels = _field(path, batch, "data", np.ndarray), _field(path, batch, "fine_labels", list)
    if data.dtype != np.uint8 or data.shape != (len(labels), RECORD - 2) or not len(labels):
        raise DataError(
            f"{path}: {data.dtype} data of shape {data.shape} for {len(labels)} labels; expected uint8 (S,3072)"
        )
    return _images(data), _checked(path, np.array(labels))


def _images(planes: np.ndarray) -> np.ndarray:
    return planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def _checked(path: str, labels: np.ndarray) -> np.ndarray:
    strange = labels[(labels < 0) | (labels >= CLASSES)] if labels.dtype.kind in "iu" else labels
    if len(strange):
        raise DataError(f"{path}: label {strange[0]} is out of range; fine labels are 0 to {CLASSES - 1}")
    return labels


class _ArraysOnly(pickle.Unpickler):
    """Loads what the published batches consist of: plain values and arrays of numbers. Everything else is refused."""

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),  # how Python 3 pickles bytes for Python 2
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no file of CIFAR needs; it is not safe")
        return super().find_class(module, name)


def _unpickle(path: str) -> dict[Any, Any]:
    try:
        file = io.BytesIO(read_bytes(path, most=MAX_BATCH))
        content = _ArraysOnly(file, encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle fails with errors of a dozen types
        raise DataError(f"{path}: cannot be read as a batch of CIFAR: {error or type(error).__name__}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: is no batch of CIFAR: holds a {type(content).__name__}, not a dict")
    return content


def _field(path: str, content: dict[Any, Any], name: str, kind: type) -> Any:
    """An entry whose key was written by Python 2 (bytes) or 3."""
    value = content.get(name.encode(), content.get(name))
    if not isinstance(value, kind):
        raise DataError(f"{path}: no {name}, or not a {kind.__name__}; is it the published file?")
    return value


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)
