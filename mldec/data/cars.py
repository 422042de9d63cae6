"""Stanford Cars, from the published .mat annotations or class folders."""

from __future__ import annotations

import io
import os
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, ImageSize, SplitCounts, check_split, naming, require
from mldec.data.folder import class_folders, read_class_folders
from mldec.data.index import ImageIndex
from mldec.data.workers import held_back, start_pool_worker
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.registry import DATASETS
from mldec.untrusted import MAX_SMALL, read_bytes

COMPRESSED = 15  # the type of a variable in a .mat file
MAX_UNPACKED = 2**27  # bytes; the published files have 10 million
TREE = [
    "devkit/cars_meta.mat",
    "devkit/cars_train_annos.mat",
    "devkit/cars_test_annos_withlabels.mat",
    "cars_train/",
    "cars_test/",
]
ADVICE = (
    "cars_annos.mat with car_ims/, or class folders train/<class>/ and test/<class>/, are read as well. The original "
    "site no longer has the files; look for copies of `cars_train.tgz`, `cars_test.tgz`, `car_devkit.tgz`"
)


@dataclass(frozen=True, kw_only=True)
class CarsConfig(DatasetConfig):
    """Stanford Cars: 8,144 and 8,041 images, one of 196 models each; the paper trains at 384 px."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    published: ClassVar = {"train": SplitCounts(8_144, 196), "test": SplitCounts(8_041, 196)}
    single_label: ClassVar = True

    root: str = "data/stanford_cars"
    image_size: ImageSize = 384


@DATASETS.register("stanford_cars", CarsConfig)
def build_cars(config: CarsConfig, *, split: str) -> ImageIndex:
    """The index of a split, from whichever of the three forms lies in the root.

    Raises:
        DataError: something is missing or broken; names the file.
    """
    check_split(config, split)
    root = config.folder
    whole, classes, kit = (os.path.join(root, name) for name in ("cars_annos.mat", split, "devkit"))
    if os.path.isfile(whole):
        require(root, ["cars_annos.mat", "car_ims/"], ADVICE)
        sources = [whole, os.path.join(root, "car_ims")]
        read = partial(_read, whole, whole, root, "relative_im_path", split)
    elif os.path.isdir(classes) and not os.path.isdir(kit):
        sources, read = [classes, *class_folders(classes)], partial(read_class_folders, classes)
    else:
        annotations = os.path.join(kit, f"cars_{'train_annos' if split == 'train' else 'test_annos_withlabels'}.mat")
        beside = os.path.join(root, os.path.basename(annotations))  # the labels of test were published by themselves
        annotations = beside if os.path.isfile(beside) and not os.path.isfile(annotations) else annotations
        meta, images = os.path.join(kit, "cars_meta.mat"), os.path.join(root, f"cars_{split}")
        needed = [TREE[0], os.path.relpath(annotations, root), f"cars_{split}/"]
        require(root, needed, ADVICE, tree=TREE)
        sources, read = [meta, annotations, images], partial(_read, meta, annotations, images, "fname")
    return cached(config, split, sources, read)


def _read(meta: str, annotations: str, root: str, name: str, split: str | None = None) -> ImageIndex:
    """The entries of `annotations`, or those of `split`, with the names of classes in `meta`, which may be one file.

    The field `name` has paths relative to `root`; the field test, needed for a `split`, is 1 or 0.
    """
    content = _load(annotations)
    labels = _class_names(meta, content if meta == annotations else _load(meta))
    entries = _entries(annotations, content, (name, "class", *(["test"] if split else [])))
    samples = (
        (str(entry[name]), [_column(annotations, entry, labels)], (), ())
        for entry in entries
        if split is None or (entry["test"] == 1) == (split == "test")
    )
    with naming(annotations):
        return ImageIndex.build(samples, root=root, labels=labels)


def _load(path: str) -> dict[str, Any]:
    """The variables of a .mat file. A process of its own reads it: scipy crashes on deeply nested ones."""
    content = read_bytes(path, most=MAX_SMALL)
    try:
        _check_unpacked(content)
        with ProcessPoolExecutor(1, initializer=start_pool_worker) as pool:
            with held_back():
                variables = pool.submit(_variables, content)
            return variables.result()
    except BrokenProcessPool:
        raise DataError(f"{path}: cannot be read as a .mat file: the process that reads it crashed") from None
    except Exception as error:  # a damaged file fails with errors of a dozen types
        raise DataError(f"{path}: cannot be read as a .mat file: {error or type(error).__name__}") from None


def _variables(content: bytes) -> dict[str, Any]:
    from scipy.io import loadmat  # here, since only these files need it

    variables: dict[str, Any] = loadmat(io.BytesIO(content), simplify_cells=True)
    return variables


def _check_unpacked(content: bytes) -> None:
    """Raise ValueError if the compressed variables of a .mat file have more than MAX_UNPACKED bytes together."""
    order, place, unpacked = "<" if content[126:128] == b"IM" else ">", 128, 0
    while place + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        if kind == COMPRESSED:
            packed = content[place + 8 : place + 8 + size]
            unpacked += len(zlib.decompressobj().decompress(packed, MAX_UNPACKED + 1))
        if unpacked > MAX_UNPACKED:
            raise ValueError(f"its variables unpack to more than {MAX_UNPACKED:,} bytes")
        place += 8 + size


def _class_names(path: str, content: dict[str, Any]) -> LabelSpace:
    if "class_names" not in content:
        raise DataError(f"{path}: holds no class_names; is it the published file?")
    return LabelSpace([str(name) for name in content["class_names"]])


def _entries(path: str, content: dict[str, Any], fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """The records of `annotations`, all of which have `fields`."""
    entries = content.get("annotations")
    entries = [entries] if isinstance(entries, dict) else entries
    names = list(entries[0]) if isinstance(entries, list) and isinstance(entries[0], dict) else []
    if entries is None or not set(fields) <= set(names):
        found = ", ".join(names) or "nothing"
        raise DataError(
            f"{path}: `annotations` must have {', '.join(fields)}, found {found}; the test file without labels cannot "
            "be used, cars_test_annos_withlabels.mat has them"
        )
    return entries


def _column(path: str, entry: dict[str, Any], labels: LabelSpace) -> int:
    try:
        number = int(entry["class"])
    except (ValueError, TypeError):
        found = str(entry["class"])[:40]
        raise DataError(f"{path}: expected a number, found {found!r}; is it the published file?") from None
    if not 1 <= number <= len(labels):
        raise DataError(f"{path}: class {number} is out of range; classes are 1 to {len(labels)}")
    return number - 1
