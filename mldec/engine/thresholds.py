"""From which score on a label is given: one threshold a label, chosen on val.

The file is `thresholds.csv` in a run folder: label, threshold, F1 in percent on val at that threshold, and positives in
val. A label is given where its score is above its threshold, strictly, as everywhere.
"""

from __future__ import annotations

import csv
import io
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mldec.data.files import open_text
from mldec.engine.tracking import write_text
from mldec.errors import DataError, suggest
from mldec.labels import LabelSpace, from_cell, to_cell
from mldec.metrics import f1_per_class
from mldec.metrics.inputs import MOST_THREADS, as_arrays, map_classes, row_blocks

FILE = "thresholds.csv"


@dataclass(frozen=True)
class Thresholds:
    """`values` (N,) float64 in 0..1, one for each of `labels`; those of `untuned` have a default that nobody chose."""

    labels: LabelSpace
    values: np.ndarray
    untuned: tuple[str, ...] = ()

    def of(self, labels: LabelSpace, default: float = 0.5) -> Thresholds:
        """The same for other labels in their order; those that are not known here get `default`."""
        known = dict(zip(self.labels.names, self.values.tolist(), strict=True))
        values = np.array([known.get(name, default) for name in labels.names])
        return Thresholds(labels, values, tuple(name for name in labels.names if name not in known))


def tune_thresholds(scores: Any, targets: Any, default: float = 0.5) -> np.ndarray:
    """For each label the threshold that maximises its F1.

    All thresholds that the scores can tell apart are tried; the chosen one lies halfway between the two neighbouring
    scores. Of equal F1 the highest wins: the fewest images get the label. A label without a known positive, or whose
    positives all have score 0, says nothing of where to cut; it gets the one threshold that maximises F1 of all labels
    pooled, and if there is no positive at all, `default`.

    Args:
        scores: (S,N) floats in 0..1.
        targets: (S,N) of 1 present, 0 absent, -1 unknown, which is left out.

    Returns:
        (N,) float64 in 0..1.

    Raises:
        ValueError: as of `mldec.metrics.f1_at_threshold`.
    """
    scores, targets = as_arrays(scores, targets)
    values = np.array(map_classes(scores, targets, _best_of_class), np.float64)
    silent = np.isnan(values)
    if silent.any():
        overall = _best_of_all(scores, targets)
        values[silent] = default if math.isnan(overall) else overall
    return values


def write_tuned(path: Path, labels: LabelSpace, scores: Any, targets: Any, default: float = 0.5) -> Thresholds:
    """Tune on (S,N) scores and targets, and write the file."""
    thresholds = Thresholds(labels, tune_thresholds(scores, targets, default))
    write_thresholds(path, thresholds, scores, targets)
    return thresholds


def write_thresholds(path: Path, thresholds: Thresholds, scores: Any, targets: Any) -> None:
    """Write the file, whole or not at all. `scores` and `targets` (S,N) are those on which it was tuned."""
    f1 = f1_per_class(scores, targets, thresholds.values)
    positives = np.count_nonzero(np.asarray(targets) == 1, axis=0)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "threshold", "f1", "positives"])
    for name, value, score, count in zip(thresholds.labels.names, thresholds.values, f1, positives, strict=True):
        writer.writerow([to_cell(name), repr(float(value)), f"{score:.4f}" if np.isfinite(score) else "", int(count)])
    write_text(path, text.getvalue())


def read_thresholds(path: Path, labels: LabelSpace | None = None, default: float = 0.5) -> Thresholds:
    """The thresholds of a file with the columns label and threshold, in the order of `labels`; None: in its own.

    Labels that the file lacks get `default` and are `untuned`; what it says of other labels is left out. Raises
    DataError if the file is missing or broken, or knows none of `labels`.
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
        own = Thresholds(LabelSpace(names), np.array(values, np.float64))
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
            f"{path}: has a threshold for none of the {len(labels)} labels (first: {labels.names[0]}); "
            f"{suggest(labels.names[0], own.labels.names)}"
        )
    return found


def _best_of_class(scores: np.ndarray, targets: np.ndarray) -> float:
    """The threshold of scores (S,) and targets (S,) with the best F1; nan if they say nothing."""
    known = targets >= 0
    ranked, positives = np.sort(scores[known]), np.sort(scores[targets == 1])
    cuts = np.unique(positives)  # F1 is best where the lowest score that is let in belongs to a positive
    below = np.searchsorted(ranked, cuts)
    best = _best(cuts, len(positives) - np.searchsorted(positives, cuts), len(ranked) - below, len(positives))
    if best is None:
        return math.nan
    return _between(float(ranked[below[best] - 1]) if below[best] else 0.0, float(cuts[best]))


def _best_of_all(scores: np.ndarray, targets: np.ndarray) -> float:
    """The same of all labels pooled: (S,N) each, counted block by block."""
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
    """Which of the ascending scores `cuts` is the lowest to be let in; None if none is above 0, as thresholds go."""
    if not len(cuts) or cuts[-1] <= 0:
        return None
    f1 = np.where(cuts > 0, 2 * true / (predicted + positives), -1.0)
    return len(f1) - 1 - int(np.argmax(f1[::-1]))


def _between(low: float, high: float) -> float:
    """A threshold that `high` is above and `low` is not: halfway, so that rounding moves neither across."""
    middle = (low + high) / 2
    return middle if low <= middle < high else low


def _number(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise DataError(f"{where}: threshold {text!r}: expected a number from 0 to 1")
    return value
