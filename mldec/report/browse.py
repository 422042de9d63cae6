"""The images of a dataset as a page: with labels to filter by, counts, labels that co-occur, sizes and problems.

Small images are part of the page, so that it opens anywhere; each links to its file, by a path relative to the page.
All of them together stay below MOST_BYTES, and the more there are, the smaller they are.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from mldec.data.data_checks import find_data_problems, find_shared
from mldec.data.index import ABSENT, PRESENT, UNKNOWN, ImageIndex
from mldec.data.own.export_set import joined_labels
from mldec.data.statistics import count_together
from mldec.errors import DataError, counted
from mldec.report.browse_images import TIMES, Checked, ImageRow, Thumbnail, check, locate, thumbnails
from mldec.report.html import render

HEAT = 20  # labels in the table of co-occurrence
MOST_NAMES = 8  # labels listed with an image, of each state
LISTED = 50  # images or groups that are listed with a problem
MOST_BYTES = 48_000_000  # of all small images, as they stand in the page
EDGES = (32, 64, 128, 224, 320, 448, 640, 1024, 2048, 4096)  # of the bins of the shorter side, in pixels


class LabelCounts(NamedTuple):
    """A row of the table of labels; `width` is its share of the most frequent label, in percent."""

    name: str
    images: tuple[int, ...]  # with it, of each split
    total: int
    unknown: int
    width: int


class Card(NamedTuple):
    """An image as it is shown.

    Attributes:
        source: a data URI; "" if it cannot be read.
        link: to the file, relative to the page; "" where there is no such path.
        present, unknown: names of its labels, and how many more there are.
        columns: for the filter: columns that are present, and those that are unknown, or absent if all others are not.
        problems: keys of its problems.
    """

    name: str
    split: str
    source: str
    link: str
    size: str
    present: tuple[list[str], int]
    unknown: tuple[list[str], int]
    columns: dict[str, str]
    problems: list[str]


def browse(
    name: str,
    indexes: Mapping[str, ImageIndex],
    folder: Path,
    *,
    limit: int,
    workers: int,
    on_done: Callable[[int], None] = lambda count: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> str:
    """The page as HTML.

    Args:
        indexes: by the name of the split.
        folder: the one that the page will be in.
        limit: how many images it shows: those with a problem (at most half), one of each label, others at random.
        workers: threads that decode images.
        on_done: called with the number of images done since the last call: those checked, then those shown.
        on_warning: called with a sentence where images of several splits are the same or nearly.
    """
    labels = joined_labels(indexes.values())
    checked = check(indexes, workers=workers, on_done=on_done)
    if checked.across:
        on_warning(
            f"{counted(checked.across, 'group')} of the same or nearly the same images "
            f"{'lies' if checked.across == 1 else 'lie'} in several splits, so that results are optimistically biased: "
            "see the problems of the page; mldec data split dedupe=true keeps them together"
        )
    present, unknown = _states(indexes, labels)
    together = _together(indexes, labels, present.sum(axis=0))
    chosen = choose(indexes, labels, checked, limit)
    paths = [indexes[row.split].path(row.row) for row in chosen]
    images = thumbnails(paths, MOST_BYTES // len(chosen), workers=workers, on_done=on_done)
    cards = [
        _card(row, indexes[row.split], image, labels, checked, folder)
        for row, image in zip(chosen, images, strict=True)
    ]
    total = sum(map(len, indexes.values()))
    names = {problem.key: problem.title for problem in checked.problems}
    return render(
        "browse.html",
        parts="browse",
        title=f"{name}: images",
        name=name,
        facts=_facts(indexes, present, total),
        splits=list(indexes),
        total=total,
        cards=cards,
        names_of=names,
        choices=[(column, labels[column], int(present[:, column].sum())) for column in _by_name(labels)],
        rows=_rows(labels, present, unknown),
        has_unknown=bool(unknown.any()),
        heat=together,
        sizes=_sizes(checked),
        checked=len(checked.rows),
        problems=checked.problems,
        listed=LISTED,
        notes=_notes(indexes),
    )


def choose(indexes: Mapping[str, ImageIndex], labels: tuple[str, ...], checked: Checked, limit: int) -> list[ImageRow]:
    """At most `limit` images, in the order of splits and rows: those with a problem up to half of them, one of each
    label, rare ones first, and others drawn at random, the same each time."""
    chosen: dict[ImageRow, None] = dict.fromkeys(list(checked.problems_of)[: limit // 2])
    firsts: dict[str, ImageRow] = {}
    counts = dict.fromkeys(labels, 0)
    for split, index in indexes.items():
        for rows, columns in index.present_pairs():
            names, where, count = np.unique(columns, return_index=True, return_counts=True)
            for column, first, images in zip(names.tolist(), where.tolist(), count.tolist(), strict=True):
                label = index.labels.names[column]
                counts[label] += images
                firsts.setdefault(label, ImageRow(split, int(rows[first])))
    for label in sorted(firsts, key=lambda name: counts[name]):
        if len(chosen) < limit:
            chosen[firsts[label]] = None
    total = sum(map(len, indexes.values()))
    for row in locate(indexes, np.random.default_rng(0).permutation(total)[: 2 * limit]):
        if len(chosen) < limit:
            chosen[row] = None
    position = {split: number for number, split in enumerate(indexes)}
    return sorted(chosen, key=lambda row: (position[row.split], row.row))


def _card(
    row: ImageRow, index: ImageIndex, image: Thumbnail, labels: tuple[str, ...], checked: Checked, folder: Path
) -> Card:
    (states,) = index.targets([row.row])
    column_of = {name: column for column, name in enumerate(labels)}
    known = {
        state: [index.labels.names[column] for column in np.flatnonzero(states == state)]
        for state in (PRESENT, ABSENT, UNKNOWN)
    }
    # Of two lists that complement each other the page holds the shorter one in general: see `default` of an index.
    other = ("absent", ABSENT) if index.default == UNKNOWN else ("unknown", UNKNOWN)
    columns = {
        kind: " ".join(str(column_of[name]) for name in known[state]) for kind, state in (("present", PRESENT), other)
    }
    return Card(
        name=index.name(row.row),
        split=row.split,
        source=image.source,
        link=_link(index.path(row.row), folder),
        size=f"{image.size[0]:,} {TIMES} {image.size[1]:,}" if image.size else "",
        present=_first(known[PRESENT]),
        unknown=([], len(known[UNKNOWN])) if index.default == UNKNOWN else _first(known[UNKNOWN]),
        columns=columns,
        problems=checked.problems_of.get(row, []),
    )


def _first(names: list[str]) -> tuple[list[str], int]:
    return names[:MOST_NAMES], max(0, len(names) - MOST_NAMES)


def _link(path: str, folder: Path) -> str:
    """The path relative to the page as a URL. It begins with a dot, so that no name is taken for a scheme."""
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # another drive of Windows
        return ""
    return quote(f"./{relative.replace(os.sep, '/')}")


def _states(indexes: Mapping[str, ImageIndex], labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(S,N) int64 each: in how many images of each split each label is present, and unknown."""
    column_of = {name: column for column, name in enumerate(labels)}
    present, unknown = np.zeros((2, len(indexes), len(labels)), np.int64)
    for number, index in enumerate(indexes.values()):
        columns = [column_of[name] for name in index.labels.names]
        present[number, columns], _, unknown[number, columns] = index.states_per_class()
    return present, unknown


def _together(indexes: Mapping[str, ImageIndex], labels: tuple[str, ...], present: np.ndarray) -> dict[str, Any] | None:
    """The table of labels that co-occur: names, and of each its cells (images, shade 0..9 by its share of the row)."""
    frequent = np.argsort(-present, kind="stable")[:HEAT]
    frequent = frequent[present[frequent] > 0]
    if len(frequent) < 2:
        return None
    column_of = {name: column for column, name in enumerate(labels)}
    total = np.zeros((len(frequent), len(frequent)), np.int64)
    for index in indexes.values():
        pairs = list(index.present_pairs())
        rows, columns = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        mapped = np.array([column_of[name] for name in index.labels.names])[columns]
        total += count_together(rows, mapped, frequent, len(index))
    names = [labels[column] for column in frequent]
    shades = np.rint(9 * total / np.maximum(np.diagonal(total)[:, None], 1)).astype(int)
    np.fill_diagonal(shades, 0)
    cells = [list(zip(*pair, strict=True)) for pair in zip(total.tolist(), shades.tolist(), strict=True)]
    return {
        "columns": names,
        "rows": list(zip(names, cells, strict=True)),
        "more": int((present > 0).sum()) - len(names),
    }


def _rows(labels: tuple[str, ...], present: np.ndarray, unknown: np.ndarray) -> list[LabelCounts]:
    totals = present.sum(axis=0)
    most = max(1, int(totals.max()))
    return [
        LabelCounts(
            labels[column],
            tuple(present[:, column].tolist()),
            int(totals[column]),
            int(unknown[:, column].sum()),
            round(100 * int(totals[column]) / most),
        )
        for column in np.argsort(-totals, kind="stable").tolist()
    ]


def _by_name(labels: tuple[str, ...]) -> list[int]:
    return sorted(range(len(labels)), key=lambda column: labels[column].lower())


def _facts(indexes: Mapping[str, ImageIndex], present: np.ndarray, total: int) -> list[tuple[str, str, str]]:
    """(name, value, note) of the figures at the top."""
    splits = ", ".join(f"{split} {len(index):,}" for split, index in indexes.items())
    unused = int((present.sum(axis=0) == 0).sum())
    return [
        ("images", f"{total:,}", splits),
        ("labels", f"{present.shape[1]:,}", f"{unused:,} of them in no image" if unused else ""),
        ("labels per image", f"{present.sum() / total:.2f}", "mean"),
    ]


def _sizes(checked: Checked) -> dict[str, Any] | None:
    """Figures and bins of the images that were read; None if none was."""
    sizes = np.array([found.size for found in checked.rows.values() if found.size is not None], np.int64)
    if not len(sizes):
        return None
    shorter = sizes.min(axis=1)
    counts = np.bincount(np.searchsorted(EDGES, shorter, side="right"), minlength=len(EDGES) + 1).tolist()
    names = [f"below {EDGES[0]}"]
    names += [f"{low} to {high - 1}" for low, high in itertools.pairwise(EDGES)]
    names += [f"{EDGES[-1]:,} and more"]
    width, height = np.median(sizes, axis=0)
    bins = [(name, count, round(100 * count / max(counts))) for name, count in zip(names, counts, strict=True) if count]
    return {
        "median": f"{width:.0f} {TIMES} {height:.0f}",
        "shortest": int(shorter.min()),
        "longest": int(sizes.max()),
        "wide": float((sizes[:, 0] > sizes[:, 1]).mean()),
        "high": float((sizes[:, 0] < sizes[:, 1]).mean()),
        "bins": bins,
        "count": len(sizes),
    }


def _notes(indexes: Mapping[str, ImageIndex]) -> list[str]:
    """What `mldec train` would warn of: labels without an image in train, images that two splits share."""
    if "train" not in indexes:
        return []
    try:
        return [*find_data_problems(indexes["train"]), *find_shared(indexes)]
    except DataError as error:
        return [str(error)]
