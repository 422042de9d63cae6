"""The common settings of all datasets, and their errors for what is missing."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from mldec.config import ComponentConfig, Range
from mldec.data.image import Interpolation
from mldec.data.index import ImageIndex
from mldec.errors import ConfigError, DataError, printable_name
from mldec.labels import LabelSpace
from mldec.untrusted import check_regular

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


#: Side in pixels of what the network sees. The bound is far above what networks for images take; a batch of 64 at
#: 4,096 pixels is 3 GB. A size from a checkpoint, for example, is checked before anything is allocated.
ImageSize = Annotated[int, Range(low=1, high=4096)]

#: Share of the shorter side. The bound keeps `image_size / crop`, to which images are resized, within ten times of it.
Crop = Annotated[float, Range(low=0.1, high=1)]


@dataclass(frozen=True)
class SplitCounts:
    """The figures of a published split; None where they are not known."""

    images: int | None = None
    labels: int | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(ComponentConfig):
    """Settings of every dataset. A factory takes such a config and `split`, and gives an ImageIndex.

    Attributes:
        root: the folder that holds images and annotations.
        image_size: side in pixels of the square that the network sees.
        crop: evaluation sees the centre of an image, this share of its shorter side; null: all of it, squeezed.
        interpolation: of the resize in evaluation; null: bicubic with `crop`, bilinear without.
        unannotated: keep or drop images without any positive label.
        missing: error or drop for images that the annotations list and the folder lacks; keep: look for all, and
            keep what is not found, as mldec data verify does; ignore: do not look for any.
        on_error: of an image that training cannot decode: error stops, skip uses another one and counts it. In
            evaluation it is always an error.
        exclude: a file with paths relative to `root`, one per line, of images to leave out, unusual names as JSON
            strings; null: `root`/excluded.txt, which `mldec data verify fix=true` writes, where there is one.
        unseen: a file of label names, one per line, of labels that training never sees (zero-shot): unknown in train,
            where images with no other label are left out; val and test keep them. null: none.
        scaled_decoding: read large JPEGs at half, a quarter or an eighth of their size, where that is still enough.
        cache: folder of the index; null: that of MLDEC_CACHE, else the user's own cache folder.
    """

    splits: ClassVar[tuple[str, ...]] = SPLITS
    #: The published figures of each split.
    published: ClassVar[Mapping[str, SplitCounts]] = {}
    #: Whether each image has exactly one positive label, as softmax assumes.
    single_label = False  # no annotation, so that `table` may have it as a setting
    #: The settings that are paths of files and folders.
    paths: ClassVar[tuple[str, ...]] = ("root", "exclude", "unseen", "cache")

    root: str | None
    image_size: ImageSize = 448
    crop: Crop | None = None
    interpolation: Interpolation | None = None
    unannotated: Literal["keep", "drop"] = "keep"
    missing: Literal["error", "drop", "keep", "ignore"] = "error"
    on_error: Literal["error", "skip"] = "error"
    exclude: str | None = None
    unseen: str | None = None
    scaled_decoding: bool = True
    cache: str | None = None

    @property
    def folder(self) -> str:
        """Where the dataset lies: `root`."""
        return os.path.expanduser(self.root or ".")

    def unused(self) -> list[str]:
        """Settings that were given a value which has no effect, a sentence each."""
        return []

    def expected(self, split: str) -> SplitCounts:
        """The published figures of `split`; others are a warning."""
        return self.published.get(split, SplitCounts())


@dataclass(frozen=True, kw_only=True)
class FilesConfig(DatasetConfig):
    """A dataset whose splits are files that the user names.

    Attributes:
        root: the folder that images are relative to; null: the folder of the train file.
        train, val, test: the file of the split. Without `val` it is `protocol.holdout` of train; without `test` results
            are of val.
        labels: a file with the label names in order: one per line, the `names` of a data.yaml, or JSON; null: the
            labels of `train`.
    """

    paths: ClassVar[tuple[str, ...]] = (*DatasetConfig.paths, "train", "val", "test", "labels")

    root: str | None = None
    train: str
    val: str | None = None
    test: str | None = None
    labels: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those whose file is named."""
        return tuple(split for split in SPLITS if getattr(self, split) is not None)

    @property
    def folder(self) -> str:
        return os.path.expanduser(self.root) if self.root else os.path.dirname(os.path.abspath(self.file("train")))

    def file(self, setting: str) -> str:
        """The file of a split, or `labels`, which must be set. Raises DataError if it is no regular file."""
        return named_file(setting, getattr(self, setting))

    def label_files(self) -> list[str]:
        """The file `labels`, if one is named. Raises DataError if it does not exist."""
        return [] if self.labels is None else [self.file("labels")]

    def named_labels(self) -> LabelSpace | None:
        """The labels that the file `labels` lists; None without one."""
        from mldec.data.own.label_names import read_names  # which needs this module

        for path in self.label_files():
            with naming(path):
                return LabelSpace(read_names(path))
        return None


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """A DataError from the block names `path`: code that finds a mistake in an index has no file name to report."""
    try:
        yield
    except DataError as error:
        raise DataError(error if path in str(error) else f"{path}: {error}") from None


def named_file(setting: str, named: str) -> str:
    """The path of the file that a setting of a dataset names. Raises DataError if it is no regular file."""
    path = os.path.expanduser(named)
    if not os.path.exists(path):
        folder = os.path.dirname(path) or "."
        raise DataError(f"dataset.{setting}={path}: no such file. Found in {folder}: {listing(folder)}")
    with naming(f"dataset.{setting}={path}"):
        check_regular(path)
    return path


def check_split(config: DatasetConfig, split: str) -> None:
    """Raise ConfigError unless `config`'s dataset has `split`."""
    if split not in config.splits:
        raise ConfigError(f"split={split}: {config.name} has no such split (allowed: {', '.join(config.splits)})")


def warn_of_differences(config: DatasetConfig, split: str, index: ImageIndex) -> None:
    """Log a warning, with both figures, where `index` differs from the published split that `config` describes."""
    expected = config.expected(split)
    if config.unseen is not None and split == "train":  # which lacks the images with unseen labels alone
        expected = replace(expected, images=None)
    for what, found, published in (
        ("images", len(index), expected.images),
        ("labels", len(index.labels), expected.labels),
    ):
        if published is not None and found != published:
            message = "warning: %s %s has %s %s, as published it has %s"
            logger.warning(message, config.name, split, f"{found:,}", what, f"{published:,}")


@contextlib.contextmanager
def appearing_at_once(folder: str) -> Iterator[str]:
    """Gives a draft folder that is renamed to `folder` after the block, so that it is never seen half filled.

    If another process was faster, its folder stays: the same is in it. Raises DataError if it cannot be written.
    """
    draft = os.path.join(os.path.dirname(folder), f".draft-{uuid.uuid4().hex}")
    try:
        os.makedirs(draft)
        yield draft
        os.rename(draft, folder)
    except OSError as error:
        if not os.path.isdir(folder):
            raise DataError(f"dataset.root: cannot write into {os.path.dirname(folder)}: {error.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def require(root: str, paths: Sequence[str], advice: str, tree: Sequence[str] | None = None) -> None:
    """Raise DataError with the expected tree, what is missing, what was found and `advice`, unless all `paths` exist.

    Args:
        root: the dataset's folder.
        paths: folders (ending in "/") and files below it that are needed.
        advice: where to get them.
        tree: all entries that the dataset has, needed now or not; None: `paths`.
    """

    def exists(path: str) -> bool:
        return (os.path.isdir if path.endswith("/") else os.path.isfile)(os.path.join(root, path))

    if all(map(exists, paths)):
        return
    tree = paths if tree is None else tree
    missing = [path for path in tree if not exists(path)]
    expected = "\n".join(f"  {path}" + ("   <- missing" if path in missing else "") for path in tree)
    raise DataError(
        f"dataset.root={root}: {len(missing)} of {len(tree)} expected entries missing. Expected there:\n{expected}\n"
        f"Found there: {listing(root)}\n{advice}\nor point dataset.root=FOLDER to where they are."
    )


def find_file(root: str, folders: Iterable[str], *names: str) -> str | None:
    """The first file with one of these names in one of these folders below `root`; None if there is none."""
    paths = (os.path.join(root, folder, name) for folder in folders for name in names)
    return next((path for path in paths if os.path.isfile(path)), None)


def missing_images(index: ImageIndex) -> list[int]:
    """Rows of the images that do not exist."""
    return list(missing_files(index.root, index.names()))


def missing_files(root: str, names: Iterable[str]) -> Iterator[int]:
    """Which of the paths relative to `root` do not exist, by their places in `names`, as they are found.

    Each folder is listed once, which is much cheaper than one `stat` per image on network disks.
    """

    @functools.cache
    def listed(parent: str) -> set[str]:
        try:
            return set(os.listdir(os.path.join(root, parent)))
        except OSError:
            return set()

    for number, name in enumerate(names):
        if os.path.basename(name) not in listed(os.path.dirname(name)):
            yield number


def name_some(names: Iterable[str], total: int, most: int = 3) -> str:
    """The first few of `total` names: `a, b, c, …`."""
    shown = [printable_name(name) for _, name in zip(range(most), names, strict=False)]
    return ", ".join(shown) + (", …" if total > len(shown) else "")


def listing(root: str) -> str:
    """What lies in a folder, in a line for error messages."""
    if not os.path.isdir(root):
        return "no such folder"
    try:
        with os.scandir(root) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        return f"a folder that cannot be listed: {error.strerror}"
    names = sorted(printable_name(entry.name) + ("/" if entry.is_dir() else "") for entry in visible)
    if not names:
        return "an empty folder"
    return ", ".join(names[:12]) + (f", and {len(names) - 12} more" if len(names) > 12 else "")
