"""What a resumed run may change of its config, whose paths mean the same in every working directory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from mldec.config import Config, to_mapping
from mldec.errors import ConfigError

#: What may change only with allow_schedule_change=true: the rest of the run would take another course.
COURSE = (
    "schedule",
    "dataset",
    "augment",
    "optimizer",
    "loss",
    "ema",
    "seed",
    "protocol",
    "runtime.limit_train_batches",
)
#: What may never change: the saved weights would not fit.
SHAPE = ("backbone", "head", "name")


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
