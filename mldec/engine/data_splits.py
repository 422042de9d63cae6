"""The train, val and test split of an experiment, with the labels that its head can handle.

Whether they are those that a run recorded is told by a fingerprint: a table of the same name in another folder is not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mldec.config import Config
from mldec.data.cache import NEUTRAL  # settings that say where a dataset lies and how it is shown
from mldec.data.dataset import name_some, warn_of_differences
from mldec.data.index import ImageIndex
from mldec.engine.config_properties import predicts_new_labels
from mldec.engine.run_directory import is_data, read_metadata, run_directory_of
from mldec.errors import ConfigError, DataError, counted, printable_name
from mldec.labels import LabelSpace
from mldec.registry import DATASETS

logger = logging.getLogger(__name__)

FILE = "data.json"  # of a run directory, with what `describe_splits` returns
OPTION = "allow_other_data=true"


class Splits(NamedTuple):
    """Images to train on, to choose epochs and thresholds on, and to report results on."""

    train: ImageIndex
    val: ImageIndex
    test: ImageIndex

    @property
    def labels(self) -> LabelSpace:
        """All labels that are evaluated; the labels of `train` are those that are trained."""
        return self.test.labels


def build_split(config: Config, split: str, *, quiet: bool = False) -> ImageIndex:
    """The images that a run uses as "train", "val" or "test".

    A dataset without a val split gets one: a share `protocol.holdout` of its train images. The selection is the same
    for every seed of the run, so that seeds are compared on the same images. With `holdout=0` the test split is used
    as val, as in the published code. Without a test split, val is reported; without any, and with `holdout=0`, test is
    all images, to measure a network that was not trained on them.

    Args:
        quiet: do not warn where a split differs from the published figures. Derived splits never warn.

    Raises:
        ConfigError: no images are left for training or evaluation.
        DataError: files are missing or damaged, or contradict the config.
    """
    published = config.dataset.splits
    if split in published and (split != "train" or "val" in published):
        return _published_split(config, split, quiet)
    if split == "test" or (split == "val" and config.protocol.holdout == 0):
        if split == "test" and is_undivided(config):
            return _published_split(config, "train", quiet)
        other = "val" if split == "test" else "test"
        if other not in published and config.protocol.holdout == 0:
            raise ConfigError(
                f"{config.dataset.name} has only a train split; set another one (dataset.val=…) or hold out a share "
                "of its images: protocol.holdout=0.05"
            )
        return build_split(config, other, quiet=True)
    train = _published_split(config, "train", quiet or split != "train")
    if config.protocol.holdout == 0:
        return train
    order = np.random.default_rng(0).permutation(len(train))
    held = max(1, round(len(train) * config.protocol.holdout))
    if held >= len(train):
        raise ConfigError(
            f"{config.dataset.name}: train has {counted(len(train), 'image')}, and protocol.holdout="
            f"{config.protocol.holdout} for val leaves none to train on; add images, or name others: dataset.val=FILE"
        )
    return train.subset(np.sort(order[held:] if split == "train" else order[:held]))


def is_undivided(config: Config) -> bool:
    """Whether all images are measured as "test": the dataset has no splits, and none of it is held out."""
    return tuple(config.dataset.splits) == ("train",) and config.protocol.holdout == 0


def describe_test_split(config: Config) -> str:
    """Which images are measured as "test", where they also chose the epoch: `test = the val images (no test split)`.

    Empty where the dataset has a test split of its own that nothing was chosen on.
    """
    published = config.dataset.splits
    if is_undivided(config):
        return ""
    if "test" not in published:
        what = "the val images" if "val" in published else "the val images, held out of train"
        return f"test = {what} (no test split)"
    if "val" not in published and config.protocol.holdout == 0:
        return "val = the test images (no val split, protocol.holdout=0)"
    return ""


def build_splits(config: Config) -> Splits:
    """All three splits, see `build_split`. Raises DataError if their labels differ."""
    splits = Splits(*(build_split(config, split) for split in Splits._fields))
    if "test" not in config.dataset.splits:
        logger.warning(
            "warning: %s has no test split: results are reported on val, where the epoch is chosen too, and are "
            "optimistically biased",
            config.dataset.name,
        )
    for split, index in zip(Splits._fields, splits, strict=True):
        if index.labels.names != splits.train.labels.names:
            own, trained = set(index.labels.names), set(splits.train.labels.names)
            differing = sorted(own ^ trained) or ["their order"]
            raise DataError(
                f"{config.dataset.name}: {split} has other labels ({len(own)}) than train ({len(trained)}); they "
                f"differ in {', '.join(differing[:5])}"
            )
    if splits.labels.has_unseen and not predicts_new_labels(config):
        logger.info("the head cannot predict unseen labels: only seen labels are trained and evaluated")
    check_val_covers_unseen(config, splits.val)
    if "val" not in config.dataset.splits and config.protocol.holdout > 0:
        logger.info(
            "val is %s of train, drawn at random: protocol.holdout=%g",
            counted(len(splits.val), "image"),
            config.protocol.holdout,
        )
    splits = Splits(*(restrict_labels(config, index, name) for name, index in splits._asdict().items()))
    _warn_of_unmeasured(splits.val)
    return splits


def _warn_of_unmeasured(val: ImageIndex) -> None:
    """Log a warning if no image of val has some of the labels that are trained."""
    seen = np.ones(len(val.labels), bool) if val.labels.seen is None else np.array(val.labels.seen)
    absent = np.flatnonzero((val.positives_per_class() == 0) & seen)
    if len(absent):
        logger.warning(
            "warning: val (%s) has no image of %s of %s labels: %s; on val they are not measured, and they get no "
            "threshold of their own",
            counted(len(val), "image"),
            f"{len(absent):,}",
            f"{seen.sum():,}",
            name_some((val.labels.names[column] for column in absent), len(absent)),
        )


def check_val_covers_unseen(config: Config, val: ImageIndex) -> None:
    """Raise ConfigError if epochs are compared by unseen labels that no val image has."""
    if config.protocol.zero_shot == "seen" or not val.labels.has_unseen or not predicts_new_labels(config):
        return
    seen = val.labels.seen or ()
    present = val.positives_per_class()
    if not any(count for count, is_seen in zip(present, seen, strict=True) if not is_seen):
        raise ConfigError(
            f"protocol.zero_shot={config.protocol.zero_shot}: no image in val of {config.dataset.name} has an unseen "
            "label, so epochs cannot be compared by unseen labels; use protocol.zero_shot=seen"
            + (" or dataset.zero_shot=choose" if hasattr(config.dataset, "zero_shot") else "")
        )


def restrict_labels(config: Config, index: ImageIndex, split: str) -> ImageIndex:
    """`index` without unseen labels where they cannot be used: in training, or if the head cannot predict them."""
    if not index.labels.has_unseen or (predicts_new_labels(config) and split != "train"):
        return index
    return index.with_labels(index.labels.trained())


def describe_splits(splits: Splits) -> dict[str, dict[str, Any]]:
    """The content of data.json: for each split the number of images and labels, and a fingerprint of both."""
    return {split: describe_index(index) for split, index in zip(Splits._fields, splits, strict=True)}


def describe_index(index: ImageIndex) -> dict[str, Any]:
    """Number of images and labels, and the fingerprint, which does not depend on where the images are stored."""
    return {"images": len(index), "labels": len(index.labels), "fingerprint": index.fingerprint()}


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
    recorded, now = read_recorded(run_directory_of(checkpoint)), describe_index(index)
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


def _published_split(config: Config, split: str, quiet: bool) -> ImageIndex:
    index: ImageIndex = DATASETS[config.dataset.name].build(config.dataset, split=split)
    if config.dataset.unseen is not None and index.labels.seen is None:
        raise ConfigError(
            f"dataset.unseen: {config.dataset.name} does not mark unseen labels; its factory has to return what "
            "`cached` of mldec.data.cache gives (docs/extending.md)"
        )
    if not quiet:
        warn_of_differences(config.dataset, split, index)
    if config.dataset.single_label:
        other = np.flatnonzero(index.positives.counts != 1)
        if len(other):
            raise DataError(
                f"{config.dataset.name} {split}: {len(other):,} of {len(index):,} images do not have exactly one "
                f"label (first: {index.name(other[0])} with {index.positives.counts[other[0]]}), but the dataset is "
                "declared single-label"
            )
    return index
