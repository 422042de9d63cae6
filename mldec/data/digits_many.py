"""The digit scenes with 720 classes, to study decoding with far fewer queries than classes.

A class is a colour, a digit and the ninth of the image that its centre lies in: "red seven top left". The scenes are
those of `digits`; only what is read from their annotations differs.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from mldec.config import Count
from mldec.data.cache import cached
from mldec.data.digits import Box, Scene, ScenesConfig, read_scenes, scene_files
from mldec.data.index import ImageIndex
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.registry import DATASETS

logger = logging.getLogger(__name__)

#: Of a grid of 3 x 3 cells, row by row, in the order of the classes.
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")


@dataclass(frozen=True, kw_only=True)
class DigitsManyConfig(ScenesConfig):
    """Scenes whose classes are a colour, a digit and a place; more scenes, since nine times as many classes share them.

    Equal settings draw equal scenes, so it shares the root of `digits`, and where the settings are equal the folder.
    """

    train: Count = 24000
    test: Count = 4000


@DATASETS.register("digits_many", DigitsManyConfig)
def build_digits_many(config: DigitsManyConfig, *, split: str) -> ImageIndex:
    """The index of a split; draws all scenes first if `config.folder` does not have them yet.

    Labels are in order of colour, then digit, then place, so that contiguous groups hold what is alike: with one group
    for every nine classes, the places of one coloured digit.
    """
    annotations, images = scene_files(config, split)
    return cached(config, split, [annotations, images], lambda: _read(annotations, images))


def placed_boxes(config: DigitsManyConfig, split: str) -> list[dict[str, list[Box]]]:
    """For each row of a split, the boxes of its digits by class: {"red seven top left": [(x, y, width, height)]}."""
    return [_by_place(scene) for scene in read_scenes(scene_files(config, split)[0])[1]]


def place(bbox: tuple[int, int, int, int], size: int) -> int:
    """The index into PLACES of a box (x, y, width, height) in a square of side `size`, in pixels, by its centre.

    A centre on a border belongs to the cell on its right or below it.
    """
    x, y, width, height = bbox
    column, row = 3 * (2 * x + width) // (2 * size), 3 * (2 * y + height) // (2 * size)
    return 3 * row + column


def _by_place(scene: Scene) -> dict[str, list[Box]]:
    placed: dict[str, list[Box]] = {}
    for name, boxes in scene.boxes.items():
        for box in boxes:
            placed.setdefault(f"{name} {PLACES[place(box, scene.side)]}", []).append(box)
    return placed


def _read(annotations: str, images: str) -> ImageIndex:
    logger.info("reading %s", annotations)
    try:
        classes, scenes = read_scenes(annotations)
        labels = LabelSpace([f"{name} {where}" for name in classes for where in PLACES])
        samples = ((scene.file_name, sorted(map(labels.index, _by_place(scene))), (), ()) for scene in scenes)
        return ImageIndex.build(samples, root=images, labels=labels)
    except (DataError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        folder = os.path.dirname(images)
        raise DataError(f"{annotations} cannot be read: {error}; delete {folder} to have it drawn again") from None
