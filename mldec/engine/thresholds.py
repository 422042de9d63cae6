"""One decision threshold per label, tuned on val. A label is predicted if its score is strictly above its threshold.

Tuned thresholds are part of best.pt. `thresholds.csv` lists them for people, with F1 and number of positives on val; a
file in this format can be edited and passed to `mldec predict thresholds=FILE`.
"""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mldec.engine.run_directory import write_csv
from mldec.errors import DataError, suggest
from mldec.labels import LabelSpace, from_cell
from mldec.metrics import f1_per_class
from mldec.metrics.inputs import MOST_THREADS, as_arrays, map_classes, row_blocks
from mldec.untrusted import open_text

FILE = "thresholds.csv"


@dataclass(frozen=True)
class LabelThresholds:
    """One threshold for each label.

    Attributes:
        labels: the N labels.
        values: (N,) float64 in 0..1.
        untuned: labels whose value is a default.
    """

    labels: LabelSpace
    values: np.ndarray
    untuned: tuple[str, ...] = ()

    @staticmethod
    def from_mapping(by_label: Mapping[str, float]) -> LabelThresholds:
        """The inverse of `by_label`. Raises DataError for names that are not valid labels."""
        return LabelThresholds(LabelSpace(list(by_label)), np.array(list(by_label.values()), np.float64))

    def by_label(self) -> dict[str, float]:
        """Thresholds by label name, as plain values for a checkpoint."""
        return dict(zip(self.labels.names, self.values.tolist(), strict=True))

    def of(self, labels: LabelSpace, default: float = 0.5) -> LabelThresholds:
        """Thresholds for other labels in their order. Labels without a tuned threshold get `default`."""
        known = self.by_label()
        values = np.array([known.get(name, default) for name in labels.names])
        return LabelThresholds(labels, values, tuple(name for name in labels.names if name not in known))


def tune_thresholds(scores: Any, targets: Any, default: float = 0.5) -> np.ndarray:
    """The threshold of each label that maximises its F1.

    All thresholds that separate the scores differently are tried; the result is halfway between the two neighbouring
    scores. Among equal F1 the highest threshold wins, which predicts the fewest images. A label without a known
    positive, or whose positives all have score 0, gets the threshold that maximises the F1 of all labels pooled, or
    `default` if no label has a positive.

    Args:
        scores: (S,N) floats in 0..1.
        targets: (S,N) of 1 present, 0 absent, -1 unknown, which is skipped.

    Returns:
        (N,) float64 in 0..1.

    Raises:
        ValueError: as of `mldec.metrics.f1_at_threshold`.
    """
    scores, targets = as_arrays(scores, targets)
    values = np.array(map_classes(scores, targets, _best_of_class), np.float64)
    undefined = np.isnan(values)
    if undefined.any():
        overall = _best_of_all(scores, targets)
        values[undefined] = default if math.isnan(overall) else overall
    return values


def write_thresholds(path: Path, thresholds: LabelThresholds, scores: Any, targets: Any) -> None:
    """Write thresholds.csv: label, threshold, and F1 in percent and positives on the (S,N) scores of tuning."""
    f1 = f1_per_class(scores, targets, thresholds.values)
    positives = np.count_nonzero(np.asarray(targets) == 1, axis=0)
    shown = [f"{score:.4f}" if np.isfinite(score) else "" for score in f1]
    rows = zip(thresholds.labels.names, thresholds.values.tolist(), shown, positives, strict=True)
    write_csv(path, ("label", "threshold", "f1", "positives"), rows, sync=True)


def read_thresholds(path: Path, labels: LabelSpace | None = None, default: float = 0.5) -> LabelThresholds:
    """Read a CSV with the columns label and threshold, in the order of `labels`, or of the file if None.

    Labels missing from the file get `default` and are `untuned`; other labels of the file are ignored. Raises DataError
    if the file is missing or damaged, or has none of `labels`.
    """
    try:
        with open_text(path, newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if not {"label", "threshold"} <= set(rows.fieldnames or ()):
                raise DataError(f"{path}: expected the columns label,threshold; found {rows.fieldnames or 'none'}")
            names, values = [], []
            for row in rows:
                names.append(from_cell(row["label"] or ""))
                values.append(_number(row["threshold"], f"{path} line {rows.line_num}"))
        own = LabelThresholds(LabelSpace(names), np.array(values, np.float64))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: thresholds cannot be read: {reason}") from None
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    if labels is None:
        return own
    found = own.of(labels, default)
    if len(found.untuned) == len(labels):
        raise DataError(
            f"{path}: has no threshold for any of the {len(labels)} labels (first: {labels.names[0]}); "
            f"{suggest(labels.names[0], own.labels.names)}"
        )
    return found


def _best_of_class(scores: np.ndarray, targets: np.ndarray) -> float:
    """The threshold with the best F1 for scores (S,) and targets (S,); nan if it is undefined."""
    known = targets >= 0
    ranked, positives = np.sort(scores[known]), np.sort(scores[targets == 1])
    cuts = np.unique(positives)  # at the best F1 the lowest predicted score is that of a positive
    below = np.searchsorted(ranked, cuts)
    best = _best(cuts, len(positives) - np.searchsorted(positives, cuts), len(ranked) - below, len(positives))
    if best is None:
        return math.nan
    return _between(float(ranked[below[best] - 1]) if below[best] else 0.0, float(cuts[best]))


def _best_of_all(scores: np.ndarray, targets: np.ndarray) -> float:
    """The same for all labels pooled: (S,N) each, counted block by block."""
    blocks = list(row_blocks(scores))
    positives = np.sort(np.concatenate([scores[rows][targets[rows] == 1] for rows in blocks] or [np.empty(0)]))
    cuts = np.unique(positives)

    def count(rows: slice) -> np.ndarray:
        known = scores[rows][targets[rows] >= 0]
        return np.bincount(np.searchsorted(cuts, known, side="right"), minlength=len(cuts) + 1)

    def highest_below(rows: slice) -> float:
        known = scores[rows][targets[rows] >= 0]
        return float(known.max(where=known < cuts[best], initial=0.0))

    with ThreadPoolExecutor(min(MOST_THREADS, torch.get_num_threads())) as pool:
        counts = sum(pool.map(count, blocks), np.zeros(len(cuts) + 1, np.int64))
        predicted = counts[1:][::-1].cumsum()[::-1]
        best = _best(cuts, len(positives) - np.searchsorted(positives, cuts), predicted, len(positives))
        if best is None:
            return math.nan
        return _between(max(pool.map(highest_below, blocks)), float(cuts[best]))


def _best(cuts: np.ndarray, true: np.ndarray, predicted: np.ndarray, positives: int) -> int | None:
    """Index into the ascending scores `cuts` of the lowest predicted one; None if no score is above 0."""
    if not len(cuts) or cuts[-1] <= 0:
        return None
    f1 = np.where(cuts > 0, 2 * true / (predicted + positives), -1.0)
    return len(f1) - 1 - int(np.argmax(f1[::-1]))


def _between(low: float, high: float) -> float:
    """A threshold between `low` and `high`, at least `low`: halfway, so that rounding moves neither across it."""
    middle = (low + high) / 2
    return middle if low <= middle < high else low


def _number(text: str | None, where: str) -> float:
    with contextlib.suppress(ValueError):
        value = float(text or "")
        if 0 <= value <= 1:
            return value
    raise DataError(f"{where}: threshold {text!r}: expected a number from 0 to 1")
