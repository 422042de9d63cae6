"""Whether images and labels are those that a run recorded: a table of the same name in another folder is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mldec.data.cache import NEUTRAL  # settings that say where a dataset lies and how it is shown
from mldec.data.index import ImageIndex
from mldec.engine import data_splits
from mldec.engine.run_directory import read_metadata, run_directory_of
from mldec.errors import DataError, printable_name

FILE = "data.json"
OPTION = "allow_other_data=true"


def read_recorded(folder: Path) -> dict[str, Any]:
    """What data.json of a run folder says of each split; nothing where there is none, or a damaged one."""
    return read_metadata(folder / FILE)


def other_splits(recorded: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The splits whose images or labels are not those that were recorded. What was not recorded cannot differ."""
    return [
        split
        for split, what in found.items()
        if (fingerprint := _fingerprint(recorded.get(split))) is not None and fingerprint != what["fingerprint"]
    ]


def check_same_data(
    checkpoint: Path, split: str, index: ImageIndex, *, overrides: Iterable[str] = (), allowed: bool = False
) -> str | None:
    """Refuse a split that has other images or labels than the run of `checkpoint` recorded.

    Args:
        overrides: names of the settings that were typed. Who types which data is meant (`dataset`, `dataset.test`)
            gets a sentence that says so; who only types where it lies (`dataset.root`) means the same data.
        allowed: whether other data is meant, too.

    Returns a sentence if the data is other data and that is meant, else None. Raises DataError if it is not meant.
    """
    recorded, now = read_recorded(run_directory_of(checkpoint)), data_splits.describe_index(index)
    if not other_splits(recorded, {split: now}):
        return None
    before = recorded[split]
    what = (
        f"the {split} images or labels are not those of the run: {_size(now)} with fingerprint "
        f"{now['fingerprint'][:12]}, first {printable_name(index.path(0)) if len(index) else 'none'}; "
        f"the run recorded {_size(before)} with fingerprint {str(before['fingerprint'])[:12]}"
    )
    named = [name for name in overrides if name == "dataset" or name.startswith("dataset.")]
    if allowed or any(name.partition(".")[2] not in NEUTRAL for name in named):
        return what
    raise DataError(
        f"{what}. Type dataset.root=… or dataset.{split}=… with the run's data, or {OPTION} to use this one"
    )


def _fingerprint(described: Any) -> str | None:
    value = described.get("fingerprint") if isinstance(described, Mapping) else None
    return value if isinstance(value, str) else None


def _size(described: Mapping[str, Any]) -> str:
    images, labels = described.get("images"), described.get("labels")
    return f"{images:,} images of {labels:,} labels" if isinstance(images, int) and isinstance(labels, int) else "data"
