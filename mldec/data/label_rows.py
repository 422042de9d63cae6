"""Label files of many million rows, read once into flat arrays: image id, label, confidence."""

from __future__ import annotations

import logging
import re
from array import array
from dataclasses import dataclass

import numpy as np

from mldec.data.text_rows import csv_columns
from mldec.errors import DataError

logger = logging.getLogger(__name__)

OTHER = np.iinfo(np.uint16).max  # the column of a label of another class


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
    return LabelRows(
        np.frombuffer(images, np.uint64),
        np.frombuffer(columns, np.uint16),
        np.frombuffer(confidence, np.float32),
        machine,
    )


def _confidence(text: str, machine: bool) -> float:
    value = float(text)
    if not (0 <= value <= 1 if machine else value in (0, 1)):
        raise ValueError(f"Confidence {text} is not {'between 0 and 1' if machine else '0 or 1, as people verify'}")
    return value
