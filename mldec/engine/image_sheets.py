"""Sheets of images for people: what the network is trained on, and what it predicts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from mldec.data.image import decode, resize
from mldec.data.index import ImageIndex
from mldec.data.loader import Batch
from mldec.engine import text_rendering
from mldec.engine.evaluator import Scores
from mldec.files import replacing
from mldec.labels import LabelSpace

TILE = 224  # side of an image on a sheet, px
LINE = 18  # height of a line of text, px
WHITE, GREY, GREEN, RED, BLUE = (235, 235, 235), (150, 150, 150), (120, 220, 130), (255, 120, 110), (130, 180, 255)
PAPER, DIM = (24, 24, 27), (52, 52, 58)

SIDE, SMALL = 800, 360  # sides of an annotated image, px: at most, and to which a smaller one is enlarged
PANEL, PERCENT, ROW, MARGIN = 320, 64, 36, 12  # width of the labels beside it and of their scores, px

FOUND = 0.5  # score from which a label of an evaluation is found

LONGEST_NAME = 240  # bytes: file systems take 255, and a drawing has a longer name while it is written

CaptionLine = tuple[str, tuple[int, int, int]]


class View(NamedTuple):
    """Where in an image a map lies.

    Attributes:
        box: left, top, right and bottom of what the network saw, in pixels.
        shift: how far down and to the right of there the map's cells lie, in cells; see `measure_shift`.
    """

    box: tuple[int, int, int, int]
    shift: tuple[float, float] = (0.0, 0.0)


def batch_sheet(batch: Batch, labels: LabelSpace) -> np.ndarray:
    """The first 16 images of a batch as augmented, with their labels under them. Returns RGB (H,W,3) uint8."""
    images = batch.images[:16].permute(0, 2, 3, 1).numpy()
    targets = batch.targets[:16].numpy()
    captions = [[(labels.names[c], WHITE) for c in np.flatnonzero(row == 1)] or [("no label", GREY)] for row in targets]
    return sheet(list(images), captions)


def predictions_sheet(index: ImageIndex, scores: Scores, size: int) -> np.ndarray:
    """Images of an evaluation with labels found (green), wrongly found (red) and missed (blue), scores in percent.

    At most 12 images, spread evenly over the split. `size` is the side at which the network saw them. Returns RGB
    uint8.
    """
    chosen = np.unique(np.linspace(0, len(scores.ids) - 1, min(12, len(scores.ids))).astype(int))
    images = [resize(decode(index.path(int(number))), size) for number in scores.ids[chosen]]
    captions = [_caption(*row, index.labels) for row in zip(scores.scores[chosen], scores.targets[chosen], strict=True)]
    return sheet(images, captions)


def maps_sheet(
    image: np.ndarray, maps: Sequence[np.ndarray], captions: Sequence[Sequence[CaptionLine]], view: View | None = None
) -> np.ndarray:
    """An image (H,W,3) uint8 RGB, and beside it a tile for each of its maps (h,w), with its caption; see `overlay`."""
    tiles = [image, *(overlay(image, where, view) for where in maps)]
    return sheet(tiles, [[], *captions], columns=6)


def annotated(image: np.ndarray, labels: Mapping[str, float]) -> np.ndarray:
    """An image (H,W,3) uint8 RGB, at most SIDE px wide and high, and beside it its labels with their scores.

    Labels are in the order of `labels`; a last line counts those that do not fit.
    """
    height, width = image.shape[:2]
    scale = min(SIDE / max(height, width), max(1.0, SMALL / max(height, width)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    shown = image if scale == 1 else cv2.resize(image, size, interpolation=smooth)
    rows = max(len(shown), min(SIDE, 2 * MARGIN + ROW * max(1, len(labels))))
    canvas = Image.new("RGB", (size[0] + PANEL, rows), PAPER)
    canvas.paste(Image.fromarray(shown))
    draw = ImageDraw.Draw(canvas)
    room = (rows - 2 * MARGIN) // ROW
    listed = list(labels.items())[: room if len(labels) <= room else room - 1]
    left, wide, top = size[0] + MARGIN, PANEL - 2 * MARGIN, MARGIN
    for name, score in listed:
        text_rendering.write(draw, name, left, top + 17, WHITE, size=15, width=wide - PERCENT)
        end = left + wide - PERCENT
        text_rendering.write(draw, percent(score), end, top + 17, WHITE, size=15, width=PERCENT, right=True)
        draw.rectangle((left, top + 24, left + wide, top + 27), DIM)
        draw.rectangle((left, top + 24, left + round(wide * score), top + 27), BLUE)
        top += ROW
    if len(listed) < len(labels) or not labels:
        rest = f"and {len(labels) - len(listed)} more" if labels else "nothing found"
        text_rendering.write(draw, rest, left, top + 17, GREY, size=15, width=wide)
    return np.array(canvas)


def percent(score: float) -> str:
    """A score as people read it; what is not quite all or nothing is not shown as such."""
    shown = f"{100 * score:.0f}%"
    if shown == "100%" and score < 1:
        return ">99%"
    return "<1%" if shown == "0%" and score > 0 else shown


def overlay(image: np.ndarray, where: np.ndarray, view: View | None = None) -> np.ndarray:
    """An image (H,W,3) uint8 with a map (h,w) laid over it: bright and warm where the map is high, plain where it is
    not positive, dark where it does not reach; see `upsampled`."""
    height, width = image.shape[:2]
    heat = upsampled(where, height, width, view)
    unseen = np.isnan(heat)
    heat[unseen] = 0
    heat = np.clip(heat / max(float(heat.max()), 1e-12), 0, 1)
    colours = cv2.cvtColor(cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    opacity = np.where(unseen, 0.8, 0.25 + 0.45 * heat)[..., None]
    return np.round(image * (1 - opacity) + colours * opacity).astype(np.uint8)


def upsampled(where: np.ndarray, height: int, width: int, view: View | None = None) -> np.ndarray:
    """A map (h,w) as (height,width) float32 over an image, bicubic; nan where the network did not look.

    `view` is that of `Predictor.view`; None: the map lies over all of the image.
    """
    (left, top, right, bottom), shift = view or View((0, 0, width, height))
    down, across = where.shape[0] / (bottom - top), where.shape[1] / (right - left)  # cells per pixel
    first_row, first_column = down / 2 - 0.5 - shift[0], across / 2 - 0.5 - shift[1]  # where the first pixel lies
    seen = cv2.warpAffine(
        where.astype(np.float32),
        np.array([[across, 0, first_column], [0, down, first_row]]),
        (right - left, bottom - top),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    canvas = np.full((height, width), np.nan, np.float32)
    canvas[top:bottom, left:right] = seen
    return canvas


def drawing_path(folder: Path, name: str, ending: str) -> Path:
    """`folder`/`name``ending`; a name that is too long with it is cut and told apart by its digest."""
    parent, base = os.path.split(name)
    whole = os.fsencode(base)
    if len(whole) + len(ending) > LONGEST_NAME:
        digest = f"~{hashlib.sha256(whole).hexdigest()[:16]}"
        base = whole[: LONGEST_NAME - len(digest) - len(ending)].decode("utf-8", "ignore") + digest
    return folder / parent / f"{base}{ending}"


def save_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB image as PNG, or as JPEG if the path ends in .jpg, whole or not at all."""
    # Quality 92, colours at full resolution: text stays crisp.
    how = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    ending, settings = (".jpg", how) if path.suffix == ".jpg" else (".png", [])
    content = cv2.imencode(ending, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)[1].tobytes()
    with replacing(path) as partial:
        partial.write_bytes(content)


def sheet(
    images: Sequence[np.ndarray], captions: Sequence[Sequence[CaptionLine]], *, columns: int = 4, lines: int = 6
) -> np.ndarray:
    """Tiles in rows of `columns`, each with up to `lines` lines of text under it."""
    lines = min(lines, max((len(caption) for caption in captions), default=1))
    height, width = TILE + LINE * lines + 14, TILE + 12
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (min(columns, len(images)) * width + 8, rows * height + 8), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        top, left = number // columns * height + 8, number % columns * width + 8
        smooth = cv2.INTER_AREA if image.shape[0] > TILE else cv2.INTER_CUBIC
        canvas.paste(Image.fromarray(cv2.resize(image, (TILE, TILE), interpolation=smooth)), (left, top))
        shown = list(caption[:lines])
        if len(caption) > lines:
            shown[-1] = (f"and {len(caption) - lines + 1} more", GREY)
        for line, (text, colour) in enumerate(shown):
            text_rendering.write(draw, text, left, top + TILE + LINE * (line + 1), colour, size=13, width=TILE)
    return np.array(canvas)


def _caption(scores: np.ndarray, targets: np.ndarray, labels: LabelSpace) -> list[CaptionLine]:
    lines = []
    for column in np.argsort(-scores, kind="stable"):
        text = f"{labels.names[column]} {100 * scores[column]:.0f}%"
        if scores[column] >= FOUND:
            lines.append((text, {1: GREEN, 0: RED, -1: GREY}[targets[column]]))
        elif targets[column] == 1:
            lines.append((f"missed: {text}", BLUE))
    return lines or [("nothing found", GREY)]
