"""NUS-WIDE for zero-shot recognition: 925 labels to train on, 81 that are only asked for (paper §4.2, appendix F)."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mldec.data.cache import cached
from mldec.data.dataset import ImageSize, Statistics, check_split, naming, require
from mldec.data.index import ImageIndex
from mldec.data.nuswide import (
    ADVICE,
    NusWideConfig,
    csv_file,
    finder,
    image_folder,
    image_list,
    index_of,
    label_file,
    read_column,
    read_csv,
    read_image_list,
    read_names,
    uses_csv,
)
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.registry import DATASETS
from mldec.untrusted import open_text, read_json

BENCHMARK = "benchmark_81_v0.json"
NAMES, SEEN, UNSEEN, UNSEEN_TEXT = (
    "nus_classes.json",
    "nus_seen_925.txt",
    "nus_unseen_classes.json",
    "nus_unseen_81.txt",
)


@dataclass(frozen=True, kw_only=True)
class NusWideZslConfig(NusWideConfig):
    """1,006 labels in sorted order. The unseen ones are unknown in training; all are known in test."""

    image_size: ImageSize = 224

    def expected(self, split: str) -> Statistics:
        return Statistics(labels=1006)


@DATASETS.register("nuswide_zsl", NusWideZslConfig)
def build_nuswide_zsl(config: NusWideZslConfig, *, split: str) -> ImageIndex:
    """The index of a split: images with a seen label for training; for test all, of which each figure counts its own.

    ZSL is published on test images with an unseen label, GZSL on those with any of the 1,006: `zero_shot_metrics` tells
    them apart, by `protocol.zsl_images` and `protocol.gzsl_images`. `unannotated: drop` leaves out those without any.

    Raises:
        DataError: something is missing or broken; names the file.
    """
    check_split(config, split)
    sources, seen, unseen = _label_lists(config)
    names = sorted([*seen, *unseen])
    labels = LabelSpace(names, seen=[name in seen for name in names])
    root = image_folder(config)
    config = replace(config, images=root)  # where it was found shapes the index
    columns_of_unseen = [labels.index(name) for name in names if name in unseen]

    def index(path: str, images: list[str], present_SN: np.ndarray) -> ImageIndex:
        flags = np.array(labels.seen)
        if split == "train":
            present_SN = present_SN & flags
            kept = np.asarray(present_SN.any(axis=1))
            present_SN = present_SN[kept]
            images = [name for name, keep in zip(images, kept.tolist(), strict=True) if keep]
        with naming(path):
            return index_of(images, present_SN, labels, root, columns_of_unseen if split == "train" else ())

    if uses_csv(config):
        table = csv_file(config)
        return cached(config, split, [table, *sources], lambda: index(table, *_csv(config, labels, split)), root=root)
    tags = f"{split.capitalize()}_Tags1k.dat"
    find = finder(config, [image_list(split), tags, "TagList1k.txt"])
    needed = [find(name) for name in (image_list(split), tags, "TagList1k.txt")]
    needed += [find(label_file(concept, split)) for concept in sorted(unseen)]
    return cached(
        config,
        split,
        [*needed, *sources],
        lambda: index(needed[0], *_release(needed, labels, sorted(unseen))),
        root=root,
    )


def _label_lists(config: NusWideZslConfig) -> tuple[list[str], set[str], set[str]]:
    """The files that say which labels there are, the seen labels and the unseen ones."""

    def at(name: str) -> str:
        return os.path.join(config.folder, name)

    if os.path.isfile(at(BENCHMARK)):
        content = _json(at(BENCHMARK), dict)
        unseen = _texts(at(BENCHMARK), content.get("test class"), "test class")
        if "train class" in content:
            return [at(BENCHMARK)], *_checked(at(BENCHMARK), _texts(at(BENCHMARK), content["train class"]), unseen)
        require(config.folder, [NAMES], ADVICE)
        return [at(BENCHMARK), at(NAMES)], *_checked(at(NAMES), _all_names(at(NAMES)) - unseen, unseen)
    if not any(os.path.isfile(at(name)) for name in (UNSEEN_TEXT, UNSEEN)) and not uses_csv(config):
        find = finder(config, ["TagList1k.txt", "Concepts81.txt"])
        files = [find("TagList1k.txt"), find("Concepts81.txt")]  # the tags less the concepts are the 925
        unseen = set(read_names(files[1]))
        return files, *_checked(files[0], set(read_names(files[0])) - unseen, unseen)
    unseen_file = UNSEEN_TEXT if os.path.isfile(at(UNSEEN_TEXT)) and not os.path.isfile(at(UNSEEN)) else UNSEEN
    seen_file = SEEN if os.path.isfile(at(SEEN)) else NAMES
    require(config.folder, [seen_file, unseen_file], f"or {BENCHMARK}. {ADVICE}")
    unseen = (
        set(read_names(at(unseen_file))) if unseen_file == UNSEEN_TEXT else _texts(at(UNSEEN), _json(at(UNSEEN), list))
    )
    seen = set(read_names(at(SEEN))) if seen_file == SEEN else _all_names(at(NAMES)) - unseen
    return [at(seen_file), at(unseen_file)], *_checked(at(seen_file), seen, unseen)


def _checked(path: str, seen: set[str], unseen: set[str]) -> tuple[set[str], set[str]]:
    both = sorted(seen & unseen)
    if both or not seen or not unseen:
        shown = f", among both {', '.join(both[:5])}" if both else ""
        raise DataError(f"{path}: {len(seen)} seen and {len(unseen)} unseen labels{shown}; none may be both")
    return seen, unseen


def _all_names(path: str) -> set[str]:
    return _texts(path, list(_json(path, dict).values()))


def _json(path: str, kind: type) -> Any:
    content = read_json(path)
    if not isinstance(content, kind):
        raise DataError(f"{path}: expected a JSON {kind.__name__}, found a {type(content).__name__}")
    return content


def _texts(path: str, value: Any, key: str = "") -> set[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{path}: expected a list of names{f' under {key!r}' if key else ''}")
    return set(value)


def _csv(config: NusWideZslConfig, labels: LabelSpace, split: str) -> tuple[list[str], np.ndarray]:
    """Images of a split, and which labels each has (S,N)."""
    rows = [row for row in read_csv(csv_file(config)) if row[2] == split]
    present_SN = np.zeros((len(rows), len(labels)), bool)
    for place, (name, listed, _) in enumerate(rows):
        try:
            present_SN[place, [labels.index(label) for label in listed]] = True
        except DataError as error:
            raise DataError(f"{csv_file(config)}: {name}: {error}") from None
    return [name for name, _, _ in rows], present_SN


def _release(files: list[str], labels: LabelSpace, concepts: list[str]) -> tuple[list[str], np.ndarray]:
    """The same from the image list, tag matrix, tag names, and one label file for each concept.

    A tag that is a concept, too, counts as the concept: people checked that.
    """
    images, tags = read_image_list(files[0]), read_names(files[2])
    present_SN = np.zeros((len(images), len(labels)), bool)
    known = {name: column for column, name in enumerate(labels.names) if labels.seen is None or labels.seen[column]}
    missing = sorted(set(known) - set(tags))
    if missing:
        raise DataError(f"{files[2]}: {len(missing)} seen labels are no tags there ({', '.join(missing[:5])})")
    place_of = {tag: place for place, tag in reversed(list(enumerate(tags)))}
    places = [place_of[name] for name in known]
    with open_text(files[1], encoding="ascii", errors="replace") as file:
        row = -1
        for row, line in enumerate(line for line in file if line.strip()):
            values = line.split()
            if len(values) != len(tags) or row >= len(images):
                raise DataError(
                    f"{files[1]} line {row + 1}: {len(values)} values for {len(tags)} tags, {len(images):,} images"
                )
            present_SN[row, list(known.values())] = [values[place] == "1" for place in places]
    if row + 1 != len(images):
        raise DataError(f"{files[1]}: {row + 1:,} lines for {len(images):,} images")
    for concept, path in zip(concepts, files[3:], strict=True):
        present_SN[:, labels.index(concept)] = read_column(path, len(images))
    return images, present_SN
