"""Open Images V6: nine million images, each with a few verified labels among thousands.

Labels that a person verified as present or absent are known, all others are not: the index's default is "unknown".
From the files to the index everything is arrays; images and labels never exist as Python objects all at once.
"""

from __future__ import annotations

import logging
import os
import re
from array import array
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mldec.config import Fraction
from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig, ImageSize, SplitCounts, check_split, find_file, require
from mldec.data.index import ABSENT, UNKNOWN, ImageIndex, Ragged
from mldec.data.text_rows import csv_columns, read_lines
from mldec.errors import DataError, option
from mldec.labels import LabelSpace, repeated_names
from mldec.registry import DATASETS
from mldec.untrusted import MAX_SMALL, read_json

logger = logging.getLogger(__name__)

PUBLISHED = {"train": "train", "val": "validation", "test": "test"}  # the published names of our splits
DESCRIPTIONS, TRAINABLE = "oidv6-class-descriptions.csv", "oidv6-classes-trainable.txt"
HIERARCHY = "bbox_labels_600_hierarchy.json"
OTHER = np.iinfo(np.uint16).max  # the column of a label of another class
FOLDERS = ("", "annotations", "labels", "metadata")  # of the root, in which files are looked for


@dataclass(frozen=True, kw_only=True)
class OpenImagesConfig(DatasetConfig):
    """Open Images V6 with its image-level labels.

    Attributes:
        annotations: labels that people verified, that a classifier found, or both; those of people take precedence.
        min_confidence: of a classifier's label; below it the label is unknown.
        unverified: the state of a label that was not verified. The paper trains it as absent with a reduced weight,
            which is `unknown` here together with `loss.unknown_weight`.
        expand_hierarchy: a present class makes its ancestors present, a verified absence that of its descendants.
        classes: the 9,605 trainable ones, or all that are described.
    """

    root: str = "data/openimages"
    image_size: ImageSize = 224
    annotations: Literal["human", "machine", "both"] = "human"
    min_confidence: Fraction = 0.5
    unverified: Literal["unknown", "absent"] = "unknown"
    expand_hierarchy: bool = False
    classes: Literal["trainable", "all"] = "trainable"

    def unused(self) -> list[str]:
        if self.annotations == "human" and self.min_confidence != 0.5:
            return [f"dataset.min_confidence={self.min_confidence:g}: only used with annotations=machine or both"]
        return []

    def expected(self, split: str) -> SplitCounts:
        images = {"train": None, "val": 41_620, "test": 125_436}[split]
        return SplitCounts(images, labels=9_605 if self.classes == "trainable" else None)


@DATASETS.register("openimages", OpenImagesConfig)
def build_openimages(config: OpenImagesConfig, *, split: str) -> ImageIndex:
    """The index of a split: all images that its label files name, by ascending id; classes in the published order.

    Raises:
        DataError: a file is missing, or broken: names file and line.
    """
    check_split(config, split)
    kinds = ("human", "machine") if config.annotations == "both" else (config.annotations,)
    names = {kind: _label_file(kind, split) for kind in kinds}
    wanted = [DESCRIPTIONS, *([TRAINABLE] if config.classes == "trainable" else []), *(n[0] for n in names.values())]
    wanted += [HIERARCHY] if config.expand_hierarchy else []
    found = {name: find_file(config.folder, FOLDERS, name) for name in wanted}
    found |= {options[0]: find_file(config.folder, FOLDERS, *options) for options in names.values()}
    images = PUBLISHED[split]
    advice = f"Get them with: mldec data download dataset=openimages {option('root', config.folder)}"
    if not all(found.values()):
        require(config.folder, [name for name, path in found.items() if path is None], advice, tree=wanted)
    if config.missing != "ignore":
        require(config.folder, [f"{images}/"], advice, tree=[*wanted, f"{images}/"])
    paths = {name: str(path) for name, path in found.items()}

    def read() -> ImageIndex:
        codes = _codes(config, paths)
        labels = _label_space(codes, paths[DESCRIPTIONS])
        hierarchy = _read_hierarchy(paths[HIERARCHY], codes) if config.expand_hierarchy else None
        rows = [read_label_rows(paths[names[kind][0]], codes, machine=kind == "machine") for kind in kinds]
        return _index(config, os.path.join(config.folder, images), labels, rows, hierarchy)

    return cached(config, split, [paths[name] for name in wanted], read)


def _label_file(kind: str, split: str) -> tuple[str, ...]:
    plain = f"{PUBLISHED[split]}-annotations-{kind}-imagelabels.csv"
    return (f"oidv6-{plain}", plain) if (kind, split) == ("human", "train") else (plain, f"oidv6-{plain}")


# Classes --------------------------------------------------------------------------------------------------------------


def _codes(config: OpenImagesConfig, paths: dict[str, str]) -> dict[str, int]:
    """The column of each label code (/m/…)."""
    path = paths[DESCRIPTIONS if config.classes == "all" else TRAINABLE]
    if config.classes == "all":
        codes = [row[0] for _, row in csv_columns(path, ("LabelName", "DisplayName"))]
    else:
        codes = [code for code in read_lines(path) if code != "LabelName"]
    odd = next((code for code in codes if not re.fullmatch(r"/[a-z]+/[\w-]+", code, re.ASCII)), None)
    if odd is not None or not 0 < len(codes) < OTHER:
        raise DataError(
            f"{path}: {len(codes)} labels, among them {odd!r}; expected one code such as /m/01g317 per line"
        )
    if len(set(codes)) < len(codes):
        raise DataError(f"{path}: a label is listed twice")
    return {code: column for column, code in enumerate(codes)}


def _label_space(codes: dict[str, int], descriptions: str) -> LabelSpace:
    """Display names; with the code behind them where several labels have one name, and the code where there is none."""
    names = {code: name for _, (code, name) in csv_columns(descriptions, ("LabelName", "DisplayName")) if code in codes}
    shown = [names.get(code, code) for code in codes]
    repeated = set(repeated_names(shown))
    return LabelSpace(
        [f"{name} ({code})" if name in repeated else name for name, code in zip(shown, codes, strict=True)]
    )


Relatives = tuple[Ragged, Ragged]  # for each column, those of its ancestors and those of its descendants


def _read_hierarchy(path: str, codes: dict[str, int]) -> Relatives:
    ancestors: list[set[int]] = [set() for _ in codes]
    descendants: list[set[int]] = [set() for _ in codes]

    def visit(node: Any, above: tuple[int, ...]) -> None:
        column = codes.get(node["LabelName"])
        if column is not None:
            ancestors[column].update(above)
            for other in above:
                descendants[other].add(column)
            above = (*above, column)
        for child in node.get("Subcategory", ()):  # not "Part": a wheel is no car
            visit(child, above)

    try:
        visit(read_json(path, most=MAX_SMALL), ())
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: is no hierarchy of labels, or was cut short: {error!r}") from None
    return _ragged(ancestors), _ragged(descendants)


def _ragged(lists: list[set[int]]) -> Ragged:
    rows = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
    return Ragged.from_rows(rows, np.array([item for items in lists for item in sorted(items)], np.int32), len(lists))


# Labels ---------------------------------------------------------------------------------------------------------------


@dataclass
class LabelRows:
    """The rows of a label file, as parallel arrays: image id, column (or OTHER), confidence."""

    images: np.ndarray  # (R,) uint64
    columns: np.ndarray  # (R,) uint16
    confidence: np.ndarray  # (R,) float32
    machine: bool


def read_label_rows(path: str, codes: dict[str, int], *, machine: bool) -> LabelRows:
    """One pass over a label file. The confidence of a person is 0 or 1, that of a machine anything between."""
    images, columns, confidence = array("Q"), array("H"), array("f")
    numbers = {"0": 0.0, "1": 1.0}  # a handful of texts; parsing each of sixty million takes longer
    last, image, line, others = "", 0, 1, 0
    try:
        for line, (name, code, text) in csv_columns(path, ("ImageID", "LabelName", "Confidence")):  # noqa: B007
            if name != last:  # rows of an image mostly stand together
                if re.fullmatch("[0-9a-f]{16}", name) is None:
                    raise ValueError(f"ImageID {name!r} is not 16 digits or letters a to f")
                last, image = name, int(name, 16)
            if text not in numbers:
                numbers[text] = _confidence(text, machine)
            column = codes.get(code, OTHER)
            others += column == OTHER
            images.append(image)
            columns.append(column)
            confidence.append(numbers[text])
    except ValueError as error:
        raise DataError(f"{path} line {line}: {error}") from None
    if not images:
        raise DataError(f"{path}: holds no label")
    if others:
        logger.info("%s: %s of %s labels are of other classes", path, f"{others:,}", f"{len(images):,}")
    return LabelRows(np.asarray(images), np.asarray(columns), np.asarray(confidence), machine)


def _confidence(text: str, machine: bool) -> float:
    value = float(text)
    if not (0 <= value <= 1 if machine else value in (0, 1)):
        raise ValueError(f"Confidence {text} is not {'between 0 and 1' if machine else '0 or 1, as people verify'}")
    return value


# The index ---------------------------------------------------------------------------------------------------------


@dataclass
class _Entries:
    """Known labels as parallel arrays: row of the index, column, confidence, and whether it is a machine's."""

    rows: np.ndarray
    columns: np.ndarray
    confidence: np.ndarray
    machine: np.ndarray

    def where(self, chosen: np.ndarray) -> _Entries:
        return _Entries(self.rows[chosen], self.columns[chosen], self.confidence[chosen], self.machine[chosen])

    def spread(self, related: Ragged) -> _Entries:
        """These and one entry for each column that is `related` to theirs; of equal ones a person's if there is one."""
        positions, counts = related.take(self.columns)
        columns = np.concatenate([self.columns, related.values[positions].astype(self.columns.dtype)])
        rows, confidence, machine = (
            np.concatenate([values, np.repeat(values, counts)]) for values in (self.rows, self.confidence, self.machine)
        )
        order = np.lexsort((machine, columns, rows))
        first = np.ones(len(order), bool)
        first[1:] = (np.diff(rows[order]) != 0) | (np.diff(columns[order].astype(np.int32)) != 0)
        return _Entries(rows, columns, confidence, machine).where(order[first])


def _index(
    config: OpenImagesConfig, root: str, labels: LabelSpace, parts: list[LabelRows], hierarchy: Relatives | None
) -> ImageIndex:
    images, entries = _by_image(parts)
    entries = entries.where(entries.columns != OTHER)
    threshold = np.where(entries.machine, np.float32(config.min_confidence), np.float32(1))
    present = entries.where(entries.confidence >= threshold)
    absent = entries.where((entries.confidence == 0) & ~entries.machine)
    del entries, threshold
    if hierarchy is not None:
        ancestors, descendants = hierarchy
        present, absent = present.spread(ancestors), absent.spread(descendants)
    if present.machine.any():
        present = _without_overruled(present, absent, len(labels))
    return ImageIndex(
        root=os.path.abspath(root),
        labels=labels,
        paths=_file_names(images),
        positives=Ragged.from_rows(present.rows, present.columns.astype(np.int32), len(images)),
        negatives=Ragged.from_rows(absent.rows, absent.columns.astype(np.int32), len(images)),
        unknown=Ragged.empty(len(images)),
        default=UNKNOWN if config.unverified == "unknown" else ABSENT,
    )


def _by_image(parts: list[LabelRows]) -> tuple[np.ndarray, _Entries]:
    """The ids of all images, ascending, and all rows in that order."""
    machine = np.repeat([part.machine for part in parts], [len(part.images) for part in parts])
    images, columns, confidence = (
        np.concatenate([getattr(part, name) for part in parts]) if len(parts) > 1 else getattr(parts[0], name)
        for name in ("images", "columns", "confidence")
    )
    parts.clear()
    if (images[1:] < images[:-1]).any():
        order = np.argsort(images, kind="stable")
        images, columns, confidence, machine = images[order], columns[order], confidence[order], machine[order]
    first = np.ones(len(images), bool)
    np.not_equal(images[1:], images[:-1], out=first[1:])
    rows = np.cumsum(first, dtype=np.int32)
    rows -= 1
    return images[first], _Entries(rows, columns, confidence, machine)


def _without_overruled(present: _Entries, absent: _Entries, num_labels: int) -> _Entries:
    """Leave out machine labels that a person verified as absent."""
    denied = np.sort(absent.rows.astype(np.int64) * num_labels + absent.columns)
    keys = present.rows.astype(np.int64) * num_labels + present.columns
    place = np.minimum(np.searchsorted(denied, keys), max(len(denied) - 1, 0))
    overruled = (denied[place] == keys) & present.machine if len(denied) else np.zeros(len(keys), bool)
    return present.where(~overruled)


def _file_names(images: np.ndarray) -> Ragged:
    """`<16 hexadecimal digits>.jpg` of each id."""
    digits = images.astype(">u8").tobytes().hex().encode()
    names = np.empty((len(images), 20), np.uint8)
    names[:, :16] = np.frombuffer(digits, np.uint8).reshape(-1, 16)
    names[:, 16:] = np.frombuffer(b".jpg", np.uint8)
    return Ragged(np.arange(len(images) + 1, dtype=np.int64) * 20, names.ravel())
