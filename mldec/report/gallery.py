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
from mldec.report.analysis import given_labels, image_losses
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
    everything = _labels(measured, row)
    labels = everything[:MOST_LABELS]
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
    return GalleryImage(name, loss, labels, len(everything) - len(labels), tiles)


def _fit(image: np.ndarray, view: View) -> np.ndarray:
    """The part of an image that the network saw, in its own shape, with longer side SIDE."""
    left, top, right, bottom = view.box
    image = image[top:bottom, left:right]
    factor = SIDE / max(image.shape[:2])
    size = tuple(max(1, round(side * factor)) for side in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def _labels(measured: MeasuredSplit, row: int) -> list[ImageLabel]:
    """The labels that are given or present, those that cost most first."""
    scores, targets = measured.scores.scores[row].astype(np.float64), measured.scores.targets[row]
    given = given_labels(scores, measured.config.protocol.threshold, single_label=measured.single_label)
    present, absent = targets == 1, targets == 0
    cost = np.select([present, absent], [1 - scores, scores])
    kinds = np.select([present & given, present, absent], ["found", "missed", "wrong"], "unknown")
    columns = np.flatnonzero(given | present)
    wrong_first = np.where((given & present)[columns], 0, -cost[columns])
    ordered = columns[np.lexsort((columns, -scores[columns], wrong_first))].tolist()
    return [ImageLabel(measured.labels.names[n], float(scores[n]), str(kinds[n])) for n in ordered]


def _jpeg(image: np.ndarray) -> str:
    encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
