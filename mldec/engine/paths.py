"""Paths in a run's config: absolute, so that the config means the same in every working directory."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from mldec.config import Config


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


def places_of_data(config: Config) -> set[str]:
    """The settings that say where a dataset lies, by their full names."""
    return {f"dataset.{name}" for name in config.dataset.paths}


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _exists(path: Any) -> bool:
    return isinstance(path, str) and os.path.exists(os.path.expanduser(path))
