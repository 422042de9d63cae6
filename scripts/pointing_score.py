"""The pointing score: how often the map of a label that was found peaks on an object of that label.

Of every label that an image has and the network found, the map is laid over the image, and its highest point is
inside one of the label's boxes or not. Two numbers belong to it: the chance level, which is the share of the image that
those boxes cover; and how often the point is on an object of another label, as of a network that finds objects but does
not distinguish them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mldec.config import Config
from mldec.data.digits import Box, DigitsConfig, scene_boxes
from mldec.data.digits_many import DigitsManyConfig, placed_boxes
from mldec.data.index import ImageIndex
from mldec.engine import image_sheets
from mldec.engine.image_sheets import View
from mldec.engine.predictor import Predictor
from mldec.errors import DataError
from mldec.models.heads.maps import Weighting


@dataclass(frozen=True)
class Pointing:
    """Shares in percent of the labels that are present and found.

    Attributes:
        labels: how many these are: pairs of an image and a label; `present` of them are there.
        inside: their maps peak inside a box of their own.
        another: inside a box of another label of the image.
        chance_level: `inside` of a random point of the image.
        chance_level_another: `another` of a random point.
    """

    labels: int
    present: int
    inside: float
    another: float
    chance_level: float
    chance_level_another: float


def boxes_of(config: Config, split: str) -> list[dict[str, list[Box]]]:
    """Boxes of each row of a split by label. Raises DataError for a dataset whose boxes are not known."""
    dataset = config.dataset
    if isinstance(dataset, DigitsManyConfig):
        return placed_boxes(dataset, split)
    if isinstance(dataset, DigitsConfig):
        return scene_boxes(dataset, split)
    raise DataError(
        f"dataset={dataset.name}: where its objects are is not read; pointing needs dataset=digits or digits_many"
    )


def score_pointing(
    predictor: Predictor,
    index: ImageIndex,
    boxes: Sequence[Mapping[str, Sequence[Box]]],
    weighting: Weighting = "label",
    *,
    threshold: float = 0.5,
    shifted: bool = True,
    on_batch: Callable[[int], None] = lambda count: None,
) -> Pointing:
    """How well the maps of `weighting` point, over all images of `index`.

    Args:
        boxes: of each row, by label.
        threshold: labels with a score above it are found.
        shifted: lay maps where their cells lie; False: as if a map were a coarse image, see `measure_shift`.
        on_batch: called with the number of images after each batch.

    Raises:
        DataError: as `Predictor.maps`; or no label was found, so that there is nothing to score.
    """
    columns = {name: column for column, name in enumerate(predictor.labels.names)}
    outcomes: list[tuple[float, ...]] = []
    present, row = 0, -1
    for predictions in predictor.stream([index.path(row) for row in range(len(index))], maps=weighting):
        for prediction in predictions:
            row += 1
            if prediction.scores is None or prediction.maps is None or prediction.pixels is None:
                raise DataError(prediction.error)
            height, width = prediction.pixels.shape[:2]
            view = predictor.view(height, width)
            for name in boxes[row]:
                if name not in columns:  # not a query label of a zero-shot network
                    continue
                present += 1
                if prediction.scores[columns[name]] > threshold:
                    place = view if shifted else View(view.box)
                    where = image_sheets.upsampled(prediction.maps[columns[name]], height, width, place)
                    outcomes.append(_point(where, boxes[row], name))
        on_batch(len(predictions))
    if not outcomes:
        raise DataError(f"none of the {present:,} labels has a score above {threshold}: there is nothing to point at")
    shares = (100 * float(share) for share in np.mean(outcomes, axis=0))
    return Pointing(len(outcomes), present, *shares)


def _point(where: np.ndarray, boxes: Mapping[str, Sequence[Box]], name: str) -> tuple[float, float, float, float]:
    """Whether the peak is in a box of `name` and of another label, and the shares of the image that these cover."""
    own = _covered(where.shape, boxes[name])
    other = _covered(where.shape, [box for label in boxes if label != name for box in boxes[label]]) & ~own
    peak = np.unravel_index(np.nanargmax(where), where.shape)
    return float(own[peak]), float(other[peak]), float(own.mean()), float(other.mean())


def _covered(shape: tuple[int, ...], boxes: Sequence[Box]) -> np.ndarray:
    """bool (height, width): which pixels are in one of the boxes."""
    covered = np.zeros(shape, bool)
    for x, y, width, height in boxes:
        covered[y : y + height, x : x + width] = True
    return covered
