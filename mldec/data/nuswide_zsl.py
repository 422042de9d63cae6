"""NUS-WIDE for zero-shot recognition: 925 labels to train on, 81 that are only query labels (paper §4.2, app. F)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mldec.data import nuswide
from mldec.data.cache import cached
from mldec.data.dataset import ImageSize, SplitCounts, check_split, require
from mldec.data.index import ImageIndex
from mldec.data.nuswide import ADVICE, CONCEPTS, NusWideConfig
from mldec.data.text_rows import read_lines
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.registry import DATASETS
from mldec.untrusted import open_text, read_json

BENCHMARK, ALL_NAMES, TAGS = "benchmark_81_v0.json", "nus_classes.json", "TagList1k.txt"
SEEN, UNSEEN, UNSEEN_TEXT = "nus_seen_925.txt", "nus_unseen_classes.json", "nus_unseen_81.txt"


@dataclass(frozen=True, kw_only=True)
class NusWideZslConfig(NusWideConfig):
    """1,006 labels in sorted order. The unseen ones are unknown in training; all are known in test."""

    published: ClassVar = {"train": SplitCounts(labels=1006), "test": SplitCounts(labels=1006)}

    image_size: ImageSize = 224


@DATASETS.register("nuswide_zsl", NusWideZslConfig)
def build_nuswide_zsl(config: NusWideZslConfig, *, split: str) -> ImageIndex:
    """The index of a split: images with a seen label for training; all for test, of which each metric counts its own.

    ZSL is published on test images with an unseen label, GZSL on those with any of the 1,006: `zero_shot_metrics`
    selects them, by `protocol.zsl_images` and `protocol.gzsl_images`. `unannotated: drop` leaves out those without any.

    Raises:
        DataError: something is missing or broken; names the file.
    """
    check_split(config, split)
    config = nuswide.with_image_folder(config)
    sources, seen, unseen = _label_lists(config)
    names = sorted([*seen, *unseen])
    labels = LabelSpace(names, seen=[name in seen for name in names])
    if nuswide.uses_csv(config):
        sources = [nuswide.csv_file(config), *sources]
    else:
        tags = f"{split.capitalize()}_Tags1k.dat"
        find = nuswide.finder(config, [nuswide.image_list(split), tags, TAGS])
        files = [find(name) for name in (nuswide.image_list(split), tags, TAGS)]
        columns = {concept: find(nuswide.label_file(concept, split)) for concept in sorted(unseen)}
        sources = [*files, *columns.values(), *sources]

    def read() -> ImageIndex:
        if nuswide.uses_csv(config):
            images, present_SN = nuswide.select_split(config, nuswide.read_csv(nuswide.csv_file(config)), labels, split)
        else:
            images, present_SN = _from_release(files, columns, labels)
        hidden: list[int] = []
        if split == "train":
            is_seen = np.array(labels.seen)
            present_SN, hidden = present_SN & is_seen, np.flatnonzero(~is_seen).tolist()
            kept = np.flatnonzero(present_SN.any(axis=1))
            images, present_SN = [images[row] for row in kept.tolist()], present_SN[kept]
        return nuswide.index_of(config, sources[0], images, present_SN, labels, hidden)

    return cached(config, split, sources, read, root=config.images)


def _label_lists(config: NusWideZslConfig) -> tuple[list[str], set[str], set[str]]:
    """The files that list the labels, the seen labels and the unseen ones."""

    def path(name: str) -> str:
        return os.path.join(config.folder, name)

    def first(*names: str) -> str:
        return next((name for name in names if os.path.isfile(path(name))), names[-1])

    unseen_file = first(BENCHMARK, UNSEEN, UNSEEN_TEXT, "")
    keys: tuple[str | None, str | None] = (None, None)
    if not unseen_file and not nuswide.uses_csv(config):  # the tags less the concepts are the 925
        find = nuswide.finder(config, [TAGS, CONCEPTS])
        seen_path, unseen_path, has_all = find(TAGS), find(CONCEPTS), True
    else:
        seen_file, unseen_file = first(SEEN, ALL_NAMES), unseen_file or UNSEEN
        if unseen_file == BENCHMARK:
            complete = "train class" in _read_dict(path(BENCHMARK))
            seen_file = BENCHMARK if complete else ALL_NAMES
            keys = ("train class" if complete else None, "test class")
        require(config.folder, [seen_file, unseen_file], f"or {BENCHMARK}. {ADVICE}")
        seen_path, unseen_path, has_all = path(seen_file), path(unseen_file), seen_file == ALL_NAMES
    seen, unseen = _read_names(seen_path, keys[0]), _read_names(unseen_path, keys[1])
    seen -= unseen if has_all else set()
    both = sorted(seen & unseen)
    if both or not seen or not unseen:
        shown = f", among both {', '.join(both[:5])}" if both else ""
        raise DataError(f"{seen_path}: {len(seen)} seen and {len(unseen)} unseen labels{shown}; none may be both")
    return list(dict.fromkeys([seen_path, unseen_path])), seen, unseen


def _read_names(path: str, key: str | None) -> set[str]:
    """The names in a text file, or in JSON: a list, the values of an object, or its list under `key`."""
    if path.endswith(".txt"):
        return set(read_lines(path))
    names = _read_dict(path).get(key) if key else read_json(path)
    names = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise DataError(f"{path}: expected a list of names{f' under {key!r}' if key else ''}")
    return set(names)


def _read_dict(path: str) -> dict[str, object]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content


def _from_release(files: list[str], columns: dict[str, str], labels: LabelSpace) -> tuple[list[str], np.ndarray]:
    """The images of a split and which labels each has (S,N).

    `files` are the image list, the tag matrix and the tag names; `columns` the label file of each concept. A tag that
    is a concept, too, counts as the concept: people checked that.
    """
    listed, matrix, tag_names = files
    images, tags = nuswide.read_image_list(listed), read_lines(tag_names)
    seen = [name for name in labels.names if name not in columns]
    missing = [name for name in seen if name not in set(tags)]
    if missing:
        raise DataError(f"{tag_names}: {len(missing)} seen labels are no tags there ({', '.join(missing[:5])})")
    places, targets = [tags.index(name) for name in seen], [labels.index(name) for name in seen]
    present_SN = np.zeros((len(images), len(labels)), bool)
    with open_text(matrix, encoding="ascii", errors="replace") as file:
        row = -1
        for row, line in enumerate(line for line in file if line.strip()):
            values = line.split()
            if len(values) != len(tags) or row >= len(images):
                raise DataError(
                    f"{matrix} line {row + 1}: {len(values)} values for {len(tags)} tags, {len(images):,} images"
                )
            present_SN[row, targets] = [values[place] == "1" for place in places]
    if row + 1 != len(images):
        raise DataError(f"{matrix}: {row + 1:,} lines for {len(images):,} images")
    for concept, path in columns.items():
        present_SN[:, labels.index(concept)] = nuswide.read_column(path, len(images))
    return images, present_SN
