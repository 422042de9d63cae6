"""Stanford Cars, from the published .mat annotations or class folders."""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, ImageSize, Statistics, check_split, naming, require
from mldec.data.folder import class_folders, read_class_folders
from mldec.data.index import ImageIndex
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.registry import DATASETS
from mldec.untrusted import MAX_SMALL, read_bytes

TREE = [
    "devkit/cars_meta.mat",
    "devkit/cars_train_annos.mat",
    "devkit/cars_test_annos_withlabels.mat",
    "cars_train/",
    "cars_test/",
]
ADVICE = (
    "cars_annos.mat with car_ims/, or class folders train/<class>/ and test/<class>/, will do, too. The original site "
    "no longer has the files; look for copies of `cars_train.tgz`, `cars_test.tgz`, `car_devkit.tgz`"
)


@dataclass(frozen=True, kw_only=True)
class CarsConfig(DatasetConfig):
    """Stanford Cars: 8,144 and 8,041 images, one of 196 models each; the paper trains at 384 px."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    root: str = "data/stanford_cars"
    image_size: ImageSize = 384

    @property
    def single_label(self) -> bool:
        return True

    def expected(self, split: str) -> Statistics:
        return Statistics({"train": 8_144, "test": 8_041}[split], labels=196)


@DATASETS.register("stanford_cars", CarsConfig)
def build_cars(config: CarsConfig, *, split: str) -> ImageIndex:
    """The index of a split, from whichever of the three forms lies in the root.

    Raises:
        DataError: something is missing or broken; names the file.
    """
    check_split(config, split)
    root = config.folder
    whole = os.path.join(root, "cars_annos.mat")
    classes = os.path.join(root, split)
    read: Callable[[], ImageIndex]
    if os.path.isfile(whole):
        require(root, ["cars_annos.mat", "car_ims/"], ADVICE)
        sources, read = [whole, os.path.join(root, "car_ims")], lambda: _read_whole(whole, root, split)
    elif os.path.isdir(classes) and not os.path.isdir(os.path.join(root, "devkit")):
        sources, read = [classes, *class_folders(classes)], lambda: read_class_folders(classes)
    else:
        kit = os.path.join(root, "devkit")
        annotations = os.path.join(kit, f"cars_{'train_annos' if split == 'train' else 'test_annos_withlabels'}.mat")
        beside = os.path.join(root, os.path.basename(annotations))  # the labels of test were published by themselves
        annotations = beside if os.path.isfile(beside) and not os.path.isfile(annotations) else annotations
        meta, images = os.path.join(kit, "cars_meta.mat"), os.path.join(root, f"cars_{split}")
        needed = [TREE[0], os.path.relpath(annotations, root), f"cars_{split}/"]
        require(root, needed, ADVICE, tree=TREE)
        sources, read = [meta, annotations, images], lambda: _read_kit(meta, annotations, images)
    return cached(config, split, sources, read)


def _read_kit(meta: str, annotations: str, images: str) -> ImageIndex:
    labels = _class_names(meta, _load(meta))
    entries = _entries(annotations, _load(annotations), ("fname", "class"))
    samples = ((_text(entry["fname"]), _column(annotations, entry["class"], labels)) for entry in entries)
    with naming(annotations):
        return ImageIndex.build(((name, [column], (), ()) for name, column in samples), root=images, labels=labels)


def _read_whole(path: str, root: str, split: str) -> ImageIndex:
    content = _load(path)
    labels = _class_names(path, content)

    def samples() -> Iterator[tuple[str, list[int], tuple[()], tuple[()]]]:
        for entry in _entries(path, content, ("relative_im_path", "class", "test")):
            if (_number(path, entry["test"]) == 1) == (split == "test"):
                name = posixpath.normpath(_text(entry["relative_im_path"]))
                yield name, [_column(path, entry["class"], labels)], (), ()

    with naming(path):
        return ImageIndex.build(samples(), root=root, labels=labels)


def _load(path: str) -> dict[str, Any]:
    from scipy.io import loadmat  # here, since only these files need it

    try:
        content: dict[str, Any] = loadmat(io.BytesIO(read_bytes(path, most=MAX_SMALL)))
    except DataError:
        raise
    except Exception as error:  # a damaged file fails with errors of a dozen types
        raise DataError(f"{path}: cannot be read as a .mat file: {error or type(error).__name__}") from None
    return content


def _class_names(path: str, content: dict[str, Any]) -> LabelSpace:
    if "class_names" not in content:
        raise DataError(f"{path}: holds no class_names; is it the published file?")
    return LabelSpace([_text(name) for name in content["class_names"].ravel()])


def _entries(path: str, content: dict[str, Any], fields: tuple[str, ...]) -> list[Any]:
    """The records of `annotations`, all of which have `fields`."""
    annotations = content.get("annotations")
    names = getattr(getattr(annotations, "dtype", None), "names", None) or ()
    missing = [field for field in fields if field not in names]
    if annotations is None or missing:
        found = ", ".join(names) or "nothing"
        raise DataError(
            f"{path}: `annotations` must have {', '.join(fields)}, found {found}; the test file without labels is "
            "of no use here, cars_test_annos_withlabels.mat has them"
        )
    return list(annotations.ravel())


def _column(path: str, value: Any, labels: LabelSpace) -> int:
    number = _number(path, value)
    if not 1 <= number <= len(labels):
        raise DataError(f"{path}: class {number} is out of range; classes are 1 to {len(labels)}")
    return number - 1


def _number(path: str, value: Any) -> int:
    try:
        return int(value.item())
    except (ValueError, TypeError, AttributeError):
        raise DataError(f"{path}: expected a number, found {_text(value)[:40]!r}; is it the published file?") from None


def _text(value: Any) -> str:
    """The text in a cell, which a .mat file wraps into arrays."""
    while hasattr(value, "dtype") and value.dtype == object and value.size == 1:
        value = value.item()
    return str(value.item() if hasattr(value, "item") else value)
