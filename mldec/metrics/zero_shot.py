"""Zero-shot recognition: labels that were never trained, alone (ZSL) and among all others (GZSL) (paper §4.2, §2.5).

Which images are counted differs in the literature and moves the figures, so each set of images has a name:

    all          every image
    with_unseen  those with an unseen label: what the ML-Decoder authors count for ZSL
    with_any     those with any label, seen or unseen: what SDL, LESA and BiAM count for GZSL

Beside each mAP stand the number of images that it counts, and the mAP of a random ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from mldec.config import ApDefinition, CountedImages
from mldec.errors import check_choice
from mldec.metrics.average_precision import average_precision
from mldec.metrics.f1 import f1_at_k
from mldec.metrics.inputs import as_arrays

#: Further sets of images over which the figures of a task are given.
ALSO: dict[str, tuple[CountedImages, ...]] = {"seen": (), "zsl": ("with_unseen",), "gzsl": ("with_unseen", "with_any")}


def zero_shot_metrics(
    scores: Any,
    targets: Any,
    seen: Sequence[bool] | np.ndarray,
    definition: ApDefinition = "exact",
    k: Sequence[int] = (3, 5),
    zsl_images: CountedImages = "all",
    gzsl_images: CountedImages = "all",
) -> dict[str, float]:
    """Figures in percent and counts by name, without those of a task whose labels have no known positive.

    For each of `seen`, `zsl` (unseen labels alone) and `gzsl` (all labels): `<task>_mAP`, `<task>_chance`,
    `<task>_images` (the number of images that the two count), `<task>_F1@k`, which is micro and over those of these
    images that have a label of the task, `<task>_F1_images`, their number, and `<task>_F1@k_with_empty`, where images
    without such a label count, too: k wrong labels each. The figures of `zsl` and `gzsl` are also given over the sets
    of images in `ALSO`, by name: `zsl_mAP_with_unseen`, `gzsl_images_with_any` and so on.

    Args:
        scores: (S,N) floats.
        targets: (S,N) of 1 present, 0 absent, -1 unknown.
        seen: (N,) whether each label was trained.
        definition: of average precision; `exact_zero` counts a class without positives as 0, as LESA and BiAM do.
        k: of F1@k; those beyond the number of a task's labels are left out.
        zsl_images, gzsl_images: the images that `zsl_…` and `gzsl_…` count.

    Raises:
        ValueError: shapes that do not fit, NaN scores, targets outside {1, 0, -1}, or no such set of images.
    """
    scores, targets = as_arrays(scores, targets)
    seen = np.asarray(seen, bool)
    if seen.shape != (targets.shape[1],):
        raise ValueError(f"`seen` has shape {seen.shape} for {targets.shape[1]} labels")
    check_choice("zsl_images", zsl_images, get_args(CountedImages))
    check_choice("gzsl_images", gzsl_images, get_args(CountedImages))
    present = targets == 1
    rows = {
        "all": np.ones(len(targets), bool),
        "with_unseen": present[:, ~seen].any(axis=1),
        "with_any": present.any(axis=1),
    }
    labels = {"seen": seen, "zsl": ~seen, "gzsl": np.ones_like(seen)}
    wanted: dict[str, CountedImages] = {"seen": "all", "zsl": zsl_images, "gzsl": gzsl_images}
    figures: dict[str, float] = {}
    for task, columns in labels.items():
        found: dict[str, dict[str, float]] = {}
        for ending, images in [("", wanted[task]), *((f"_{name}", name) for name in ALSO[task])]:
            if images not in found:
                part = scores[rows[images]][:, columns], targets[rows[images]][:, columns]
                found[images] = _figures(*part, definition, k)
            figures |= {f"{task}_{name}{ending}": value for name, value in found[images].items()}
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


def _figures(scores: np.ndarray, targets: np.ndarray, definition: ApDefinition, k: Sequence[int]) -> dict[str, float]:
    """Of some images and labels: mAP, its chance level, F1@k, numbers of images; none without a known positive."""
    positives = (targets == 1).sum(axis=0)
    if not positives.any():
        return {}
    per_class = average_precision(scores, targets, definition)
    counted = np.isfinite(per_class)
    if not counted.any():
        return {}
    known = (targets >= 0).sum(axis=0)
    # The classes of the mAP: where the definition counts a class without positives as 0, its chance level is 0.
    levels = [chance_average_precision(int(p), int(n)) if p else 0.0 for p, n in zip(positives, known, strict=True)]
    figures = {
        "mAP": 100 * float(per_class[counted].mean()),  # summed as mAP is
        "chance": 100 * float(np.array(levels)[counted].mean()),
        "images": float(len(targets)),
        "F1_images": float((targets == 1).any(axis=1).sum()),
    }
    at_k = [best for best in k if best <= scores.shape[1]]
    for best in at_k:
        for ending, skips in (("", True), ("_with_empty", False)):
            figures[f"F1@{best}{ending}"] = f1_at_k(scores, targets, k=best, skip_empty=skips).OF1
    return figures
