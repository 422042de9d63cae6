"""The published files of each dataset, from sources.yaml, and what has to be downloaded by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from mldec.data.download import Download
from mldec.errors import ConfigError, suggest

#: By name of the dataset; sources.yaml documents the entries.
SOURCES: dict[str, dict[str, Any]] = yaml.safe_load(
    resources.files("mldec.data").joinpath("sources.yaml").read_text(encoding="utf-8")
)


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """Files that `fetch` downloads, and instructions for what it cannot."""

    downloads: tuple[Download, ...] = ()
    by_hand: str = ""


def find_source(dataset: str, *, year: int | None = None, extra: Sequence[str] = ()) -> DatasetSource:
    """The published files of a dataset.

    Args:
        dataset: its name, as in `dataset=NAME`.
        year: of coco, 2014 (default) or 2017; of VOC, the one in its name.
        extra: optional parts. openimages: machine, validation-images, test-images, train-images. The others have
            none.

    Raises:
        ConfigError: nothing of it is published, or it has no such year or part.
    """
    if dataset not in SOURCES:
        raise ConfigError(f"dataset={dataset}: no published files of it are known; {suggest(dataset, SOURCES)}")
    source = SOURCES[dataset]
    if "nothing" in source:
        raise ConfigError(f"dataset={dataset}: there is nothing to download: {source['nothing']}")
    years, parts = source.get("years", []), source.get("parts", [])
    if year is None and years:
        year = years[0]
    if year is not None and year not in years:
        allowed = " or ".join(map(str, years)) or "leave it out"
        raise ConfigError(f"dataset.year={year}: {dataset} has no such year; allowed: {allowed}")
    for part in extra:
        if part not in parts:
            raise ConfigError(f"extra={part}: {dataset} has no such part; {suggest(part, parts) if parts else 'none'}")
    files = [{**group, **file} for group in source.get("downloads", ()) for file in group["files"]]
    chosen = (file for file in files if file.get("year", year) == year and file.get("part") in (None, *extra))
    by_hand = source.get("by_hand", "")
    return DatasetSource(
        downloads=tuple(map(_download, chosen)),
        by_hand=(by_hand if isinstance(by_hand, str) else "".join(by_hand)).rstrip(),
    )


def _download(file: dict[str, Any]) -> Download:
    name = file["file"]
    return Download(
        file=name,
        urls=tuple(url.format(file=name) for url in file["urls"]),
        provides=tuple(file.get("provides", (name,))),
        **{key: file[key] for key in ("checksum", "size", "unpack", "top") if key in file},
    )
