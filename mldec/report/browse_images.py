"""The images behind the page of a dataset: what is wrong with them, and small copies of them."""

from __future__ import annotations

import base64
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from mldec.data.image import decode, read_size
from mldec.data.image_checks import ImageCheck, check_images, in_threads, near_groups, same_files
from mldec.data.index import ImageIndex
from mldec.errors import DataError

CHECKED = 10_000  # images that are decoded; of a larger dataset so many are drawn at random
SMALL = 32  # pixels: a shorter side below this is very small
SIDE, LEAST_SIDE = 224, 64  # of a small image, px
ROOM = 30_000  # bytes that a small image of SIDE pixels may take, as it stands in the page
TIMES = "\u00d7"  # between width and height
QUALITIES = (82, 65, 45, 25)  # of its JPEG: the first with which it is small enough


class ImageRow(NamedTuple):
    """An image: the split, and its row there."""

    split: str
    row: int


class Problem(NamedTuple):
    """A kind of problem: a key for the filter, a title, what it means, a line for each image or group of images, and
    how many images that are."""

    key: str
    title: str
    meaning: str
    lines: list[str]
    images: int


class Thumbnail(NamedTuple):
    """A small image as a data URI, and (width, height) of the image itself; "" and None if it cannot be read."""

    source: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Checked:
    """What was found of the images that were decoded.

    Attributes:
        rows: each of them.
        problems: the kinds of problems that some have.
        problems_of: the keys of the problems of an image that has any.
        across: how many groups of the same files or near-duplicates lie in several splits.
    """

    rows: dict[ImageRow, ImageCheck]
    problems: list[Problem]
    problems_of: dict[ImageRow, list[str]]
    across: int = 0


def count_checked(indexes: Mapping[str, ImageIndex]) -> int:
    """How many images `check` decodes."""
    return min(CHECKED, sum(map(len, indexes.values())))


def check(indexes: Mapping[str, ImageIndex], *, workers: int, on_done: Callable[[int], None]) -> Checked:
    """Decode all images, or CHECKED of them at random, and find what is wrong with them."""
    total = sum(map(len, indexes.values()))
    rows = locate(indexes, np.sort(np.random.default_rng(0).permutation(total)[:CHECKED]))
    paths = [indexes[row.split].path(row.row) for row in rows]
    checks = check_images(paths, workers=workers, on_done=on_done)
    found = dict(zip(rows, checks, strict=True))
    several = len(indexes) > 1

    def name(row: ImageRow) -> str:
        return indexes[row.split].name(row.row) + (f" ({row.split})" if several else "")

    lists: dict[str, list[list[ImageRow]]] = defaultdict(list)
    for row, image in found.items():
        if image.size is None:
            lists["unreadable"].append([row])
        elif min(image.size) < SMALL:
            lists["small"].append([row])
        if not (indexes[row.split].targets([row.row]) == 1).any():
            lists["unlabelled"].append([row])
    same = same_files(paths)
    same_as = {place: group[0] for group in same for place in group}
    near = [group for group in near_groups(checks) if len({same_as.get(place, place) for place in group}) > 1]
    lists["same"], lists["near"] = ([[rows[place] for place in group] for group in some] for some in (same, near))
    problems, problems_of = [], defaultdict(list)
    for key, (title, meaning) in KINDS.items():
        lines = []
        for group in lists[key]:
            for row in group:
                problems_of[row].append(key)
            size = found[group[0]].size
            more = f": {size[0]} {TIMES} {size[1]}" if key == "small" and size else ""
            lines.append(found[group[0]].error or (" ~ " if key == "near" else " = ").join(map(name, group)) + more)
        if lines:
            problems.append(Problem(key, title, meaning, lines, sum(map(len, lists[key]))))
    across = sum(len({row.split for row in group}) > 1 for group in (*lists["same"], *lists["near"]))
    return Checked(found, problems, dict(problems_of), across)


def locate(indexes: Mapping[str, ImageIndex], numbers: np.ndarray) -> list[ImageRow]:
    """Images by their numbers when all splits are counted through."""
    splits, ends = list(indexes), np.cumsum([0, *map(len, indexes.values())])
    places = np.searchsorted(ends, numbers, side="right") - 1
    return [
        ImageRow(splits[split], row)
        for split, row in zip(places.tolist(), (numbers - ends[places]).tolist(), strict=True)
    ]


def thumbnails(paths: Sequence[str], most: int, *, workers: int, on_done: Callable[[int], None]) -> Iterator[Thumbnail]:
    """A small copy of each image, in order, each of at most about `most` bytes of a page; made in threads."""
    return in_threads(functools.partial(_thumbnail, most=most), paths, workers=workers, on_done=on_done)


def _thumbnail(path: str, most: int) -> Thumbnail:
    """Its longer side has at most SIDE pixels, and fewer where `most` is small."""
    side = int(np.clip(SIDE * (most / ROOM) ** 0.5, LEAST_SIDE, SIDE))
    try:
        size, image = read_size(path), decode(path, min_side=side)
    except DataError:
        return Thumbnail("", None)
    factor = min(1.0, side / max(image.shape[:2]))
    wanted = tuple(max(1, round(length * factor)) for length in image.shape[1::-1])
    small = cv2.cvtColor(cv2.resize(image, wanted, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    text = ""
    for quality in QUALITIES:
        encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        text = f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
        if len(text) <= most:
            break
    return Thumbnail(text, size)


KINDS = {
    "unreadable": ("Unreadable", "Training would stop at them; mldec data verify fix=true leaves them out."),
    "same": ("The same file twice", "Byte for byte. Across splits they make results optimistically biased."),
    "near": (
        "Near-duplicates",
        "The same but for size, compression, brightness or a narrow border, by a perceptual hash; look at them. Across "
        "splits they make results optimistically biased: mldec data split dedupe=true keeps them in one.",
    ),
    "unlabelled": ("No label", "They count as images that have none of the labels; is that what is meant?"),
    "small": ("Very small", f"The shorter side has fewer than {SMALL} pixels."),
}
