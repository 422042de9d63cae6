"""Whether images and labels are those that a run recorded: a table of the same name in another folder is not."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mldec.data.cache import NEUTRAL  # settings that say where a dataset lies and how it is shown
from mldec.data.index import ImageIndex
from mldec.engine import data_splits
from mldec.engine.run_directory import is_data, read_metadata, run_directory_of
from mldec.errors import DataError, printable_name

logger = logging.getLogger(__name__)

FILE = "data.json"
OPTION = "allow_other_data=true"


def read_recorded(folder: Path) -> dict[str, Any]:
    """The content of data.json in a run directory, by split; empty if it is missing or damaged."""
    recorded = read_metadata(folder / FILE)
    if is_data(recorded):
        return recorded
    logger.warning("warning: %s is damaged; it is ignored", folder / FILE)
    return {}


def other_splits(recorded: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The splits whose images or labels are not those that were recorded. What was not recorded cannot differ."""
    return [
        split
        for split, data in found.items()
        if split in recorded and recorded[split]["fingerprint"] != data["fingerprint"]
    ]


def check_same_data(
    checkpoint: Path, split: str, index: ImageIndex, *, overrides: Iterable[str] = (), allowed: bool = False
) -> str | None:
    """Refuse a split that has other images or labels than the run of `checkpoint` recorded.

    Args:
        overrides: names of the settings that the user set. Setting which data is meant (`dataset`, `dataset.test`)
            gives a sentence that says so; setting only where it lies (`dataset.root`) means the same data.
        allowed: whether other data is meant, too.

    Returns a sentence if the data is other data and that is meant, else None. Raises DataError if it is not meant.
    """
    recorded, now = read_recorded(run_directory_of(checkpoint)), data_splits.describe_index(index)
    if not other_splits(recorded, {split: now}):
        return None
    was, are = (
        f"{data['images']:,} images of {data['labels']:,} labels with fingerprint {data['fingerprint'][:12]}"
        for data in (recorded[split], now)
    )
    first = printable_name(index.path(0)) if len(index) else "none"
    what = f"the {split} images or labels are not those of the run: {are}, first {first}; the run recorded {was}"
    named = [name for name in overrides if name == "dataset" or name.startswith("dataset.")]
    if allowed or any(name.partition(".")[2] not in NEUTRAL for name in named):
        return what
    raise DataError(f"{what}. Set dataset.root=… or dataset.{split}=… to the run's data, or {OPTION} to use this one")
