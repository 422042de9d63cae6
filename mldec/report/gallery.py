"""The images of a split that went best and worst: small, with their labels and where the network looked."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from mldec.data.image import decode
from mldec.engine import config_properties
from mldec.engine.image_sheets import View, overlay
from mldec.errors import DataError
from mldec.report.analysis import image_losses
from mldec.report.measure import MeasuredSplit

SIDE = 192  # of an embedded image, px
QUALITY = 82  # of its JPEG
BEST, WORST = 4, 8  # images that are shown
MOST_LABELS = 6  # listed with an image
MAPS = 2  # labels of an image whose maps are shown
VERBS = {"found": "found", "missed": "missed", "wrong": "gave wrongly", "unknown": "gave"}


class ImageLabel(NamedTuple):
    """A label of an image; `kind` is found, wrong, missed or unknown."""

    name: str
    score: float
    kind: str


class ImageTile(NamedTuple):
    """An image as a data URI, what it shows as text, and what is written under it."""

    source: str
    text: str
    caption: str = ""


class GalleryImage(NamedTuple):
    """An image of the split: file, loss, labels (and how many more there are), itself and its maps."""

    name: str
    loss: float
    labels: list[ImageLabel]
    more: int
    tiles: list[ImageTile]


def gallery(measured: MeasuredSplit) -> dict[str, Any]:
    """The images with the lowest and the highest loss, `best` and `worst`, and `without_maps`: a sentence, or empty.

    Raises DataError if one of them cannot be read any more.
    """
    scores, targets = measured.scores.scores, measured.scores.targets
    softmax = config_properties.uses_softmax(measured.config)
    losses = image_losses(scores, targets, softmax=softmax)
    order = np.argsort(losses, kind="stable")
    labelled = order[(targets[order] == 1).any(axis=1)]  # nothing found where nothing is says little
    best = [int(row) for row in labelled[:BEST]]
    worst = [int(row) for row in order[::-1] if row not in best][:WORST]
    without_maps = ""
    try:
        if best or worst:
            measured.predictor.maps([measured.index.path(int(measured.scores.ids[(best or worst)[0]]))])
    except DataError as error:
        without_maps = f"No maps: {error}."

    def show(rows: Sequence[int]) -> list[GalleryImage]:
        return [_show(measured, row, float(losses[row]), maps=not without_maps) for row in rows]

    return {"best": show(best), "worst": show(worst), "without_maps": without_maps}


def _show(measured: MeasuredSplit, row: int, loss: float, *, maps: bool) -> GalleryImage:
    sample = int(measured.scores.ids[row])
    name, path = measured.index.name(sample), measured.index.path(sample)
    columns = _interesting(measured, row)
    labels = [_label(measured, row, column) for column in columns[:MOST_LABELS]]
    image = decode(path)
    view = measured.predictor.view(*image.shape[:2])
    tiles = [ImageTile(_jpeg(_fit(image, view)), f"Image {name}")]
    if maps and labels:
        maps_NHW = measured.predictor.maps([path])[0]
        for label in labels[:MAPS]:
            looked = f"Where the network looked for {label.name}, which it {VERBS[label.kind]}, in {name}"
            place = measured.predictor.labels.index(label.name)
            shown = _fit(overlay(image, maps_NHW[place], view), view)
            tiles.append(ImageTile(_jpeg(shown), looked, label.name))
    return GalleryImage(name, loss, labels, max(0, len(columns) - MOST_LABELS), tiles)


def _fit(image: np.ndarray, view: View) -> np.ndarray:
    """The part of an image that the network saw, in its own shape, with longer side SIDE."""
    left, top, right, bottom = view.box
    image = image[top:bottom, left:right]
    factor = SIDE / max(image.shape[:2])
    size = tuple(max(1, round(side * factor)) for side in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def _interesting(measured: MeasuredSplit, row: int) -> list[int]:
    """Columns of labels that are given or present, those that cost most first."""
    scores, targets = measured.scores.scores[row].astype(np.float64), measured.scores.targets[row]
    given = _given(measured, scores)
    cost = np.where(targets == 1, 1 - scores, np.where(targets == 0, scores, 0.0))
    columns = np.flatnonzero(given | (targets == 1))
    wrong_first = np.where((given & (targets == 1))[columns], 0, -cost[columns])
    return columns[np.lexsort((columns, -scores[columns], wrong_first))].tolist()


def _given(measured: MeasuredSplit, scores: np.ndarray) -> np.ndarray:
    if measured.single_label:
        return np.arange(len(scores)) == scores.argmax()
    return scores > measured.config.protocol.threshold


def _label(measured: MeasuredSplit, row: int, column: int) -> ImageLabel:
    scores, target = measured.scores.scores[row], int(measured.scores.targets[row, column])
    given = bool(_given(measured, scores)[column])
    kind = ("found" if given else "missed") if target == 1 else "wrong" if target == 0 else "unknown"
    return ImageLabel(measured.labels.names[column], float(scores[column]), kind)


def _jpeg(image: np.ndarray) -> str:
    encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
