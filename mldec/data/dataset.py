"""What all datasets share: their common settings, and the ways in which they say that something is not there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from mldec.config import ComponentConfig, Count
from mldec.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(ComponentConfig):
    """Settings of every dataset. A factory takes such a config and `split`, and gives an ImageIndex.

    Attributes:
        root: the folder that holds pictures and annotations.
        image_size: side in pixels of the square that the network sees.
        unannotated: what becomes of pictures without any positive label.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    root: str
    image_size: Count = 448
    unannotated: Literal["keep", "drop"] = "keep"

    @property
    def single_label(self) -> bool:
        """Whether each picture has exactly one positive label, as softmax assumes."""
        return False


def check_split(config: DatasetConfig, split: str) -> None:
    """Raise ConfigError unless `config`'s dataset has `split`."""
    if split not in config.splits:
        raise ConfigError(f"split={split}: {config.name} has no such split (allowed: {', '.join(config.splits)})")


def require(root: str, paths: Sequence[str], advice: str, tree: Sequence[str] | None = None) -> None:
    """Raise DataError with the expected tree, what is missing, what was found and `advice`, unless all `paths` exist.

    Args:
        root: the dataset's folder.
        paths: folders (ending in "/") and files below it that are needed.
        advice: where to get them.
        tree: all entries that the dataset has, needed now or not; None: `paths`.
    """

    def exists(path: str) -> bool:
        return _exists(os.path.join(root, path), folder=path.endswith("/"))

    if all(map(exists, paths)):
        return
    tree = paths if tree is None else tree
    missing = [path for path in tree if not exists(path)]
    expected = "\n".join(f"  {path}" + ("   <- missing" if path in missing else "") for path in tree)
    raise DataError(
        f"dataset.root={root}: {len(missing)} of {len(tree)} expected entries missing. Expected there:\n{expected}\n"
        f"Found there: {_listing(root)}\n{advice}\nor point dataset.root=FOLDER to where they are."
    )


def require_files(folder: str, names: Sequence[str], said_by: str) -> None:
    """Raise DataError with the number and first names of the files that `said_by` lists but `folder` lacks.

    Each folder is listed once, which is much cheaper than one `stat` per picture on network disks.
    """
    present: set[str] = set()
    for parent in {os.path.dirname(name) for name in names}:
        try:
            with os.scandir(os.path.join(folder, parent)) as entries:
                present.update(os.path.join(parent, entry.name) for entry in entries)
        except FileNotFoundError:
            continue
    missing = [name for name in names if os.path.normpath(name) not in present]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise DataError(
            f"{folder}: {len(missing):,} of the {len(names):,} pictures listed in {said_by} are missing ({shown}); "
            "unpack the archive of pictures again"
        )


def _exists(path: str, folder: bool) -> bool:
    return os.path.isdir(path) if folder else os.path.isfile(path)


def _listing(root: str) -> str:
    if not os.path.isdir(root):
        return "no such folder"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in os.scandir(root))
    if not names:
        return "an empty folder"
    return ", ".join(names[:12]) + (f", and {len(names) - 12} more" if len(names) > 12 else "")
