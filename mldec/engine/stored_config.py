"""The config of a run directory or checkpoint: what it may decide here, and what a resumed run may change of it.

A run directory or checkpoint can come from anybody. Its config describes what was trained; it does not decide where
files are written here, how many, or how much memory and how many processes are used. Its paths mean the same in every
working directory.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Collection, Sequence
from typing import Any

from mldec.config import Config, TokenCacheConfig, to_mapping
from mldec.data import cifar
from mldec.data.digits import ScenesConfig, fingerprint
from mldec.errors import ConfigError, DataError, setting, shortened
from mldec.system import usable_cores

logger = logging.getLogger(__name__)

MOST_SCENES, MOST_SCENE_SIDE = 50_000, 512  # that a stored config may draw; digits has 12,000 of 64 pixels
MOST_BATCH_BYTES = 2**31  # of the pixels of a batch
WORKERS_PER_CORE = 4  # for each core, and at least 32

#: What may change only with allow_schedule_change=true: the rest of the run would take another course.
COURSE_GROUPS = ("dataset", "augment", "optimizer", "loss", "schedule", "ema", "protocol")
CACHED = ("cache.tokens", "cache.views", "cache.dtype")  # which tokens the head sees
COURSE = (*COURSE_GROUPS, *CACHED, "seed", "runtime.limit_train_batches")
#: What may never change: the saved weights would not fit.
SHAPE = ("backbone", "head", "name")


def confine(config: Config, given: Collection[str], source: object) -> Config:
    """`config` without what only the command line may set.

    Args:
        config: as stored in `source`, with the overrides of the command line.
        given: keys of the overrides; `dataset` or `runtime` among them confirms all of that group.

    Raises:
        ConfigError: it requests more memory or processes than a stored config may.
        DataError: images would be drawn or unpacked into a directory that the command line does not name, or too many.
    """
    given = frozenset(given)

    def confirmed(key: str) -> bool:
        return key in given or key.partition(".")[0] in given

    if config.dataset.cache is not None and not confirmed("dataset.cache"):
        logger.info(
            "note: %s is stored in %s and not used, since files are written there; set it as an option to use it",
            f"dataset.cache={shortened(config.dataset.cache)}",
            source,
        )
        config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, cache=None))
    if config.cache.max_gb > (most_gb := TokenCacheConfig().max_gb) and not confirmed("cache.max_gb"):
        if config.cache.tokens:
            logger.info(
                "note: cache.max_gb=%g is stored in %s and not used; set it as an option to use more than %g",
                config.cache.max_gb,
                source,
                most_gb,
            )
        config = dataclasses.replace(config, cache=dataclasses.replace(config.cache, max_gb=most_gb))
    if isinstance(config.dataset, ScenesConfig) and "dataset" not in given:
        _refuse_drawing(config.dataset, given, source)
    if isinstance(config.dataset, cifar.CifarConfig) and not given & {"dataset", "dataset.root"}:
        _refuse_unpacking(config.dataset, source)
    most = max(32, WORKERS_PER_CORE * usable_cores())
    workers = config.runtime.workers
    if workers is not None and workers > most and not confirmed("runtime.workers"):
        raise ConfigError(
            f"{source} requests {workers:,} loader processes, more than {most} for these cores; set "
            f"runtime.workers={most} or another number"
        )
    for key, size in (
        ("runtime.eval_batch_size", config.runtime.eval_batch_size),
        ("schedule.batch_size", config.schedule.batch_size),
    ):
        bytes_each = 3 * config.dataset.image_size**2
        if size is not None and size * bytes_each > MOST_BATCH_BYTES and not confirmed(key):
            raise ConfigError(
                f"{source} requests batches of {size:,} images of {config.dataset.image_size} pixels, more than "
                f"{MOST_BATCH_BYTES / 2**30:g} GiB; set {key}={MOST_BATCH_BYTES // bytes_each} or another number"
            )
    return config


def _refuse_drawing(dataset: ScenesConfig, given: frozenset[str], source: object) -> None:
    folder = os.path.join(dataset.folder, fingerprint(dataset))
    if os.path.isdir(folder):
        return
    if "dataset.root" not in given:
        total = dataset.train + dataset.val + dataset.test
        raise DataError(
            f"the images of {source} are not in {folder}. They are {total:,} scenes of {dataset.image_size} pixels "
            "that would be drawn there; a directory that a stored config names is not written to unless you set it: "
            f"{setting('dataset.root', dataset.folder)} or another directory"
        )
    limits = {**dict.fromkeys(dataset.splits, MOST_SCENES), "image_size": MOST_SCENE_SIDE}
    for key, most in limits.items():
        if getattr(dataset, key) > most and f"dataset.{key}" not in given:
            raise DataError(
                f"{source} requests dataset.{key}={getattr(dataset, key)}; stored settings may request at most "
                f"{most:,} {'pixels per side' if key == 'image_size' else 'images'}; set "
                f"dataset.{key}={getattr(dataset, key)} on the command line to confirm"
            )


def _refuse_unpacking(dataset: cifar.CifarConfig, source: object) -> None:
    if not cifar.is_prepared(dataset.folder):
        raise DataError(
            f"the images of {source} would be written as PNG files into {dataset.folder}; a directory that a stored "
            f"config names is not written to unless you set it: {setting('dataset.root', dataset.folder)} or "
            "another directory"
        )


# A resumed run --------------------------------------------------------------------------------------------------------


def check_resumed(stored: Config, config: Config, *, allow_schedule_change: bool) -> list[str]:
    """What `config` changes of the `stored` one, one line per setting. Raises ConfigError for what may not change."""
    changed = differences(to_mapping(with_absolute_paths(stored)), to_mapping(with_absolute_paths(config)))
    _refuse(changed, SHAPE, "the saved weights belong to the old value; start a new run with init_from=")
    if not allow_schedule_change:
        # Where the data lies may change: whether it is the same data is known once it is read.
        places = {f"dataset.{name}" for name in config.dataset.paths}
        course = {key: line for key, line in changed.items() if key not in places}
        _refuse(course, COURSE, "it would change the course of the run; add allow_schedule_change=true to allow it")
    return list(changed.values())


def differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> dict[str, str]:
    """Keys whose values differ, with a line that shows both."""
    found: dict[str, str] = {}
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        where = f"{path}{key}"
        if isinstance(before, dict) and isinstance(after, dict):
            found |= differences(before, after, f"{where}.")
        elif before != after:
            shown = ["null" if value is None else value for value in (before, after)]
            found[where] = f"{where}: {shown[0]} -> {shown[1]}"
    return found


def with_absolute_paths(config: Config) -> Config:
    """`config` with the paths of its dataset, and those of label embeddings that are files, in full.

    A relative path has its meaning only where the run began. Sources of label embeddings that are no files
    (package:NAME, hub:OWNER/NAME) stay as they are.
    """
    dataset = config.dataset
    full = {name: _absolute(value) for name in dataset.paths if (value := getattr(dataset, name)) is not None}
    config = dataclasses.replace(config, dataset=dataclasses.replace(dataset, **full))
    embeddings = getattr(config.head, "label_embeddings", None)
    if embeddings is None:
        return config
    full = {
        name: _absolute(value) for name in ("source", "names", "aliases") if _exists(value := getattr(embeddings, name))
    }
    return dataclasses.replace(
        config, head=dataclasses.replace(config.head, label_embeddings=dataclasses.replace(embeddings, **full))
    )


def _refuse(changed: dict[str, str], prefixes: Sequence[str], why: str) -> None:
    """Raise ConfigError if a changed key is, or belongs to, one of `prefixes`."""
    lines = [line for key, line in changed.items() if any(key == p or key.startswith(f"{p}.") for p in prefixes)]
    if lines:
        raise ConfigError("\n".join(f"{line} cannot be changed on resume: {why}" for line in lines))


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _exists(path: Any) -> bool:
    return isinstance(path, str) and os.path.exists(os.path.expanduser(path))
