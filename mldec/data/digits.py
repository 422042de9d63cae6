"""Coloured digits: a small multi-label dataset of real handwriting that needs no download.

Each scene shows one to five of scikit-learn's handwritten digits in bright colours on a dark, noisy ground. A class is
a colour and a digit ("red seven"), so that a network has to combine both at one position, as in photographs. Scenes
are written once as JPEG images and COCO annotations, and then read like COCO.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import cv2
import numpy as np

from mldec.config import Count, Range, Seed
from mldec.data.cache import cached
from mldec.data.coco import read_coco_json
from mldec.data.dataset import DatasetConfig, appearing_at_once, check_split
from mldec.data.index import ImageIndex
from mldec.labels import LabelSpace
from mldec.registry import DATASETS
from mldec.untrusted import read_json

logger = logging.getLogger(__name__)

#: RGB, in the order of the classes.
COLOURS = {
    "red": (240, 40, 40),
    "green": (40, 205, 70),
    "blue": (75, 105, 255),
    "yellow": (250, 230, 40),
    "magenta": (235, 60, 220),
    "cyan": (50, 220, 235),
    "orange": (255, 135, 20),
    "white": (245, 245, 245),
}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLIT_SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}  # of the scans of each digit

#: The settings that shape the scenes.
DRAWN = ("image_size", "train", "val", "test", "max_digits", "colours", "seed", "jpeg_quality")
DRAWING_VERSION = 1  # part of the fingerprint: raise it whenever the same settings would draw other scenes


@dataclass(frozen=True, kw_only=True)
class ScenesConfig(DatasetConfig):
    """Settings of the scenes; the three splits share no scan.

    Attributes:
        image_size: side in pixels of the canvas that scenes are drawn on, and of what the network sees.
        train, val, test: the number of scenes in the split.
        max_digits: a scene has from one to this many digits; 1 makes it a task of one label per image.
        colours: how many colours the digits have; each colour and digit is a class.
        seed: of the drawing; it does not follow the run's, so that runs are compared on the same scenes.
        jpeg_quality: of the files.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    root: str = "data/digits"
    image_size: Annotated[int, Range(48, 4096)] = 64
    train: Count = 12000
    val: Count = 2000
    test: Count = 2000
    max_digits: Annotated[int, Range(1, 8)] = 5
    colours: Annotated[int, Range(1, len(COLOURS))] = len(COLOURS)
    seed: Seed = 0
    jpeg_quality: Annotated[int, Range(1, 100)] = 95

    @property
    def single_label(self) -> bool:  # type: ignore[override]
        """A single digit makes it a task of one label per image."""
        return self.max_digits == 1


@dataclass(frozen=True, kw_only=True)
class DigitsConfig(ScenesConfig):
    """Scenes whose classes are a colour and a digit.

    With `zero_shot` some of the classes are never trained, though every colour and every digit is. "report": those that
    results are reported on, 16 of 80; they are unknown in val, so that nothing is chosen on them. "choose":
    those are left out altogether, and 8 of the rest are unseen, on which settings can be chosen.

    Attributes:
        zero_shot: which classes are never trained.
    """

    zero_shot: Literal["none", "report", "choose"] = "none"

    def __post_init__(self) -> None:
        if self.zero_shot != "none" and self.unseen is not None:
            raise ValueError(f"zero_shot={self.zero_shot}: unseen={self.unseen} names other unseen labels; use one")
        if self.zero_shot != "none" and self.colours < 2:
            raise ValueError(
                f"zero_shot={self.zero_shot}: with colours={self.colours} some digits would never be seen; "
                "use colours=2 or more, or zero_shot=none"
            )


@DATASETS.register("digits", DigitsConfig)
def build_digits(config: DigitsConfig, *, split: str) -> ImageIndex:
    """The index of a split; draws all scenes first if `config.folder` does not have them yet."""
    annotations, images = scene_files(config, split)
    drawn = replace(config, zero_shot="none")
    index = cached(drawn, split, [annotations, images], lambda: read_coco_json(annotations, images))
    return index if config.zero_shot == "none" else _with_unseen(index, config, split)


def scene_files(config: ScenesConfig, split: str) -> tuple[str, str]:
    """The annotations and the folder of images of a split; draws all scenes first if they are not there."""
    check_split(config, split)
    folder = prepare_digits(config)
    return os.path.join(folder, "annotations", f"instances_{split}.json"), os.path.join(folder, split)


Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the scene


class Scene(NamedTuple):
    """A scene of a split: its file, its side in pixels, and the boxes of its digits by class."""

    file_name: str
    side: int
    boxes: dict[str, list[Box]]  # {"red seven": [(x, y, width, height)]}


def read_scenes(annotations: str) -> tuple[list[str], list[Scene]]:
    """The classes and the scenes of an annotation file, in the order of the file."""
    content = read_json(annotations)
    names = {category["id"]: category["name"] for category in content["categories"]}
    scenes = {image["id"]: Scene(image["file_name"], image["width"], {}) for image in content["images"]}
    for annotation in content["annotations"]:
        boxes = scenes[annotation["image_id"]].boxes.setdefault(names[annotation["category_id"]], [])
        boxes.append(tuple(annotation["bbox"]))
    return list(names.values()), list(scenes.values())


def scene_boxes(config: ScenesConfig, split: str) -> list[dict[str, list[Box]]]:
    """For each row of a split, the boxes of its digits by class."""
    return [scene.boxes for scene in read_scenes(scene_files(config, split)[0])[1]]


def unseen_classes(colours: int) -> tuple[list[str], list[str]]:
    """Classes that `zero_shot` keeps from training: those to report on, two a colour, and those to choose on, one."""

    def classes(shift: int) -> list[str]:
        return [f"{colour} {DIGITS[(i + shift) % 10]}" for i, colour in enumerate(list(COLOURS)[:colours])]

    return classes(0) + classes(5), classes(3)


def _with_unseen(index: ImageIndex, config: DigitsConfig, split: str) -> ImageIndex:
    """The index with labels marked as seen or not; those that a split must not reveal are unknown in it."""
    reported, chosen_on = unseen_classes(config.colours)
    choosing = config.zero_shot == "choose"
    names = [name for name in index.labels.names if not (choosing and name in reported)]
    unseen = set(chosen_on if choosing else reported)
    labels = LabelSpace(names, seen=[name not in unseen for name in names])
    if split == "train" or (split == "val" and not choosing):
        return index.with_labels(labels).with_unknown([name for name in names if name in unseen])
    return index.with_labels(labels)


def prepare_digits(config: ScenesConfig) -> str:
    """Draw the scenes of `config` unless they are there already. Returns their folder, `root/<fingerprint>`.

    They appear all at once under a folder named by their settings, so that other settings never mix with them and an
    interrupted or a simultaneous call does no harm.
    """
    folder = os.path.join(config.folder, fingerprint(config))
    if os.path.isdir(folder):
        return folder
    logger.info("drawing %d scenes of digits in %s (once)", config.train + config.val + config.test, folder)
    with appearing_at_once(folder) as draft:
        os.makedirs(os.path.join(draft, "annotations"))
        scans = split_scans(config.seed)
        for number, split in enumerate(config.splits):
            os.makedirs(os.path.join(draft, split))
            _write_split(config, split, number, scans[split], draft)
            logger.info("drew the %d scenes of %s", getattr(config, split), split)
    return folder


def fingerprint(config: ScenesConfig) -> str:
    """16 hex digits that differ whenever the scenes do."""
    settings = {key: getattr(config, key) for key in DRAWN}
    return hashlib.sha256(json.dumps([DRAWING_VERSION, settings], sort_keys=True).encode()).hexdigest()[:16]


def split_scans(seed: int) -> dict[str, list[list[np.ndarray]]]:
    """For each split and digit, its scans: (rows, columns) uint8, cropped to the ink. No scan is in two splits."""
    from sklearn.datasets import load_digits  # here, since only drawing needs it and it takes a second to import

    bunch = load_digits()
    ink = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    rng = np.random.default_rng(seed)
    scans: dict[str, list[list[np.ndarray]]] = {split: [] for split in SPLIT_SHARES}
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(bunch.target == digit))
        ends = np.round(np.cumsum(list(SPLIT_SHARES.values())) * len(rows)).astype(int)
        for split, part in zip(scans, np.split(rows, ends[:-1]), strict=True):
            scans[split].append([_crop(ink[row], threshold=32) for row in part])
    return scans


@dataclass(frozen=True)
class PlacedDigit:
    """One digit of a scene: its class (colour * 10 + digit) and its box in pixels."""

    label: int
    x: int
    y: int
    width: int
    height: int


def draw_scene(
    rng: np.random.Generator, scans: list[list[np.ndarray]], *, size: int, max_digits: int, colours: int
) -> tuple[np.ndarray, list[PlacedDigit]]:
    """Draw one scene: (size,size,3) uint8 RGB and the digits in it (at least one, none overlapping or cut off)."""
    canvas = _ground(rng, size)
    placed: list[PlacedDigit] = []
    for _ in range(int(rng.integers(1, max_digits + 1))):
        colour, digit = int(rng.integers(colours)), int(rng.integers(10))
        scan = scans[digit][int(rng.integers(len(scans[digit])))]
        height = round(size * rng.uniform(0.19, 0.37))
        glyph = _glyph(scan, height)
        corner = _free_corner(rng, glyph.shape, size, placed)
        if corner is None:
            continue  # the canvas is full
        x, y = corner
        _paint(canvas, glyph, x, y, list(COLOURS.values())[colour], brightness=rng.uniform(0.88, 1.0))
        placed.append(PlacedDigit(colour * 10 + digit, x, y, glyph.shape[1], glyph.shape[0]))
    return canvas, placed


def _write_split(config: ScenesConfig, split: str, number: int, scans: list[list[np.ndarray]], draft: str) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    # Colour at full resolution: the usual halving would blur thin strokes of 64-pixel images.
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, config.jpeg_quality]
    jpeg += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    for scene in range(1, getattr(config, split) + 1):
        rng = np.random.default_rng((config.seed, number, scene))
        canvas, placed = draw_scene(
            rng, scans, size=config.image_size, max_digits=config.max_digits, colours=config.colours
        )
        name = f"{scene:06d}.jpg"
        cv2.imencode(".jpg", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), jpeg)[1].tofile(os.path.join(draft, split, name))
        images.append({"id": scene, "file_name": name, "width": config.image_size, "height": config.image_size})
        annotations += [
            {
                "id": len(annotations) + i,
                "image_id": scene,
                "category_id": item.label + 1,
                "bbox": [item.x, item.y, item.width, item.height],
                "area": item.width * item.height,
                "iscrowd": 0,
            }
            for i, item in enumerate(placed, start=1)
        ]
    names = [(f"{colour} {digit}", colour) for colour in list(COLOURS)[: config.colours] for digit in DIGITS]
    categories = [{"id": i, "name": name, "supercategory": colour} for i, (name, colour) in enumerate(names, start=1)]
    with open(os.path.join(draft, "annotations", f"instances_{split}.json"), "w", encoding="utf-8") as file:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, file)


def _crop(ink: np.ndarray, threshold: float) -> np.ndarray:
    rows, columns = np.flatnonzero(ink.max(1) > threshold), np.flatnonzero(ink.max(0) > threshold)
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """A dark ground: one dim colour with soft clouds and grain."""
    dim = rng.uniform(12, 42, 3)
    clouds = cv2.resize(rng.normal(0, 9, (5, 5)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 5, (size, size, 3))
    return np.clip(dim + clouds[..., None] + grain, 0, 90).astype(np.uint8)


def _glyph(scan: np.ndarray, height: int) -> np.ndarray:
    """The scan enlarged smoothly to about `height` pixels: float32 opacity in [0,1], firm strokes, cropped to them."""
    padded = np.pad(scan, 1)  # keeps the outer flanks of the strokes, which enlarging the crop would cut straight
    scale = height / len(scan)
    size = (round(scale * padded.shape[1]), round(scale * padded.shape[0]))
    smooth = cv2.resize(padded, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return _crop(np.clip((smooth / 255 - 0.2) / 0.5, 0, 1), threshold=0.05)


def _free_corner(
    rng: np.random.Generator, shape: tuple[int, ...], size: int, placed: list[PlacedDigit], attempts: int = 40
) -> tuple[int, int] | None:
    """A place for a glyph at least one pixel from the edge and from every other digit, or None if none was found."""
    height, width = shape
    corners = rng.integers(1, (size - width, size - height), (attempts, 2))
    for x, y in corners.tolist():
        if all(
            x > other.x + other.width or other.x > x + width or y > other.y + other.height or other.y > y + height
            for other in placed
        ):
            return x, y
    return None


def _paint(
    canvas: np.ndarray, glyph: np.ndarray, x: int, y: int, colour: tuple[int, int, int], brightness: float
) -> None:
    patch = canvas[y : y + glyph.shape[0], x : x + glyph.shape[1]]
    opacity = glyph[..., None]
    patch[:] = np.round(patch * (1 - opacity) + np.array(colour) * brightness * opacity)
