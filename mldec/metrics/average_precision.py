"""Average precision of ranked scores, in the five definitions that the literature uses.

    exact    sum over positives of the precision at their score, as scikit-learn's; unknown labels are skipped
    exact_zero
             as exact, and a class without positives has AP 0, which stays in the mean: what LESA and BiAM do
    voc07    the 11-point interpolation of PASCAL VOC 2007; unknown labels (VOC's difficult objects) are skipped
    partial  as exact, and a class without known negatives has no AP either: the published measure of Open Images
    paper    the published training script (paper §2.3): unknown labels are negatives, the divisor is positives + 1e-8,
             and a class without positives has AP 0, which stays in the mean

Equal scores are one threshold in all five, so the order of the samples never matters. (The published script breaks ties
by the accident of its sort; on scores without ties `paper` equals it.)
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from mldec.config import ApDefinition
from mldec.errors import check_choice
from mldec.metrics.inputs import as_arrays, map_classes


def average_precision(scores: Any, targets: Any, definition: ApDefinition = "exact") -> np.ndarray:
    """AP of each class, 0 to 1.

    Args:
        scores: (S,N) floats, array or tensor; any strictly increasing transform of them gives the same AP.
        targets: (S,N) of 1 present, 0 absent, -1 unknown.
        definition: see the module.

    Returns:
        float64 (N,), nan where AP is not defined: no positive or, for `partial`, no negative. `exact_zero` and `paper`
        give 0 for a class without positives.

    Raises:
        ValueError: shapes that do not fit, NaN scores, targets outside {1, 0, -1}, or an unknown definition.
    """
    check_choice("definition", definition, get_args(ApDefinition))
    scores, targets = as_arrays(scores, targets)
    return np.array(map_classes(scores, targets, lambda s, t: _class_ap(s, t, definition)), np.float64)


def mean_average_precision(scores: Any, targets: Any, definition: ApDefinition = "exact") -> float:
    """Mean AP in percent over the classes where it is defined, which are all for `exact_zero` and `paper`.

    nan if there is none.

    Arguments and errors are those of `average_precision`.
    """
    values = average_precision(scores, targets, definition)
    values = values[~np.isnan(values)]
    return 100 * float(values.mean()) if len(values) else float("nan")


def _class_ap(scores: np.ndarray, targets: np.ndarray, definition: ApDefinition) -> float:
    """AP of one class from scores (S,) and targets (S,)."""
    if definition != "paper":
        known = targets >= 0
        if not known.all():
            scores, targets = scores[known], targets[known]
    positives = np.sort(scores[targets == 1])
    num_positives = len(positives)
    if num_positives == 0:
        return 0.0 if definition in ("exact_zero", "paper") else np.nan
    if definition == "partial" and num_positives == len(scores):
        return np.nan
    precision, found = _precision_at(positives, np.sort(scores))
    if definition == "voc07":
        return _eleven_points(precision, found)
    return float(precision.sum() / (num_positives + (1e-8 if definition == "paper" else 0)))


def _precision_at(positives: np.ndarray, everything: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The precision with each positive's score as the threshold, and the positives found. Both inputs ascend."""
    found = len(positives) - np.searchsorted(positives, positives)
    return found / (len(everything) - np.searchsorted(everything, positives)), found


def _eleven_points(precision: np.ndarray, found: np.ndarray) -> float:
    """Mean over recalls 0, 0.1, …, 1 of the best precision at that recall or more. Recalls compare as whole numbers."""
    best = np.maximum.accumulate(precision)  # thresholds ascend, so what came before has at least this recall
    enough = [np.count_nonzero(10 * found >= tenths * len(found)) for tenths in range(11)]
    return float(np.mean([best[count - 1] for count in enough]))
