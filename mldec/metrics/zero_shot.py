"""Zero-shot recognition: labels that were never trained, alone (ZSL) and among all others (GZSL) (paper §4.2, §2.5).

The published figures are over the pictures that have an unseen label; over all pictures is what a user meets. Both are
given, and beside each mAP what a random ranking would get, without which the figure says little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mldec.metrics.average_precision import Definition, average_precision
from mldec.metrics.f1 import f1_at_k
from mldec.metrics.inputs import as_arrays

#: Ending of the figures over the pictures that have an unseen label.
WITH_UNSEEN = "_with_unseen"


def zero_shot_metrics(
    scores: Any,
    targets: Any,
    seen: Sequence[bool] | np.ndarray,
    definition: Definition = "exact",
    k: Sequence[int] = (3, 5),
) -> dict[str, float]:
    """Figures in percent by name, without those of a task whose labels have no known positive.

    For each of `seen`, `zsl` (unseen labels alone) and `gzsl` (all labels): `<task>_mAP`, `<task>_chance`, and
    `<task>_F1@k`, which is micro and over the pictures that have a label of the task. Those of `zsl` and `gzsl` are
    given a second time over the pictures with an unseen label: `zsl_mAP_with_unseen` and so on.

    Args:
        scores: (S,N) floats.
        targets: (S,N) of 1 present, 0 absent, -1 unknown.
        seen: (N,) whether each label was trained.
        definition: of average precision.
        k: of F1@k; those beyond the number of a task's labels are left out.

    Raises:
        ValueError: shapes that do not fit, NaN scores, or targets outside {1, 0, -1}.
    """
    scores, targets = as_arrays(scores, targets)
    seen = np.asarray(seen, bool)
    if seen.shape != (targets.shape[1],):
        raise ValueError(f"`seen` has shape {seen.shape} for {targets.shape[1]} labels")
    chosen = {"seen": seen, "zsl": ~seen, "gzsl": np.ones_like(seen)}
    figures: dict[str, float] = {}
    for task, columns in chosen.items():
        figures |= _figures(task, "", scores[:, columns], targets[:, columns], definition, k)
    rows = (targets[:, ~seen] == 1).any(axis=1)
    for task in ("zsl", "gzsl"):
        columns = chosen[task]
        figures |= _figures(task, WITH_UNSEEN, scores[rows][:, columns], targets[rows][:, columns], definition, k)
    return figures


def chance_average_precision(positives: int, known: int) -> float:
    """The mean AP of all rankings of `known` samples of which `positives` are positive, 0 to 1; nan without a positive.

    The place i (from 1) holds a positive with probability P / S, and then (i - 1)(P - 1) / (S - 1) others are expected
    before it; the precision there is averaged over places.
    """
    if positives == 0:
        return float("nan")
    if known == 1:
        return 1.0
    harmonic = float((1 / np.arange(1, known + 1)).sum())
    rate = (positives - 1) / (known - 1)
    return (harmonic + rate * (known - harmonic)) / known


def _figures(
    task: str, ending: str, scores: np.ndarray, targets: np.ndarray, definition: Definition, k: Sequence[int]
) -> dict[str, float]:
    counts = zip((targets == 1).sum(axis=0), (targets >= 0).sum(axis=0), strict=True)
    chances = np.array([chance_average_precision(int(positives), int(known)) for positives, known in counts])
    defined = ~np.isnan(chances)  # which classes have a positive
    if not defined.any():
        return {}
    per_class = average_precision(scores, targets, definition)
    figures = {
        f"{task}_mAP{ending}": 100 * float(per_class[np.isfinite(per_class)].mean()),  # summed as mAP is
        f"{task}_chance{ending}": 100 * float(chances[defined].mean()),
    }
    at_k = [best for best in k if best <= scores.shape[1]]
    return figures | {f"{task}_F1@{best}{ending}": f1_at_k(scores, targets, k=best).OF1 for best in at_k}
