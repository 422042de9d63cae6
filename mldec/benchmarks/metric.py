"""Mean average precision: against scikit-learn on COCO's size, and at that of Open Images, whose scores are float16."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.memory import PeakMemory
from mldec.benchmarks.rate import Rate, ratio_figure, sample_in_turn, time_figure
from mldec.metrics import average_precision

CPU = torch.device("cpu")
COCO, OPEN_IMAGES = (40_137, 80), (125_436, 9_605)  # images and labels of the splits for evaluation
SCIKIT_LEARN, SECONDS, GIB = 0.1, 240.0, 8.0  # targets
POSITIVE, UNKNOWN = 0.03, 0.9  # shares of the targets; in Open Images most labels of an image are not known
ROWS = 256  # that are drawn and stored at a time, as an evaluation has them


def measure(*, scale: float = 1.0, repeats: int = 3, seconds: float = 1.0) -> list[Figure]:
    """All figures of mean AP. `scale` shrinks the number of images; targets belong to 1 on two cores."""
    return [*_against_scikit_learn(scale, repeats, seconds), *_many(scale)]


def _against_scikit_learn(scale: float, repeats: int, seconds: float) -> list[Figure]:
    from sklearn.metrics import average_precision_score

    images, labels = max(50, round(COCO[0] * scale)), COCO[1]
    scores, targets = _draw(np.random.default_rng(0), images, labels, np.float32)
    targets = np.maximum(targets, 0)
    targets[0] = 1
    theirs = Rate(
        lambda: [average_precision_score(targets[:, n], scores[:, n]) for n in range(labels)], 1, CPU, seconds
    )
    ours = Rate(lambda: average_precision(scores, targets), 1, CPU, seconds)
    sample_in_turn((ours, theirs), repeats, seconds)
    expected = [average_precision_score(targets[:, n], scores[:, n]) for n in range(labels)]
    error = float(np.abs(average_precision(scores, targets) - expected).max())
    size = f"{images:,} images, {labels} labels"
    return [
        ratio_figure(
            "mean AP over scikit-learn's", ours, theirs, unit="x", target=SCIKIT_LEARN, note=size, better="lower"
        ),
        Figure("largest difference of an AP from scikit-learn's", error, "", 1e-12, "of 1"),
        time_figure("mean AP", ours, size),
        time_figure("mean AP of scikit-learn", theirs, size),
    ]


def _many(scale: float) -> list[Figure]:
    images, labels = max(50, round(OPEN_IMAGES[0] * scale)), OPEN_IMAGES[1]
    memory = PeakMemory(CPU)
    rng = np.random.default_rng(0)
    scores, targets = np.empty((images, labels), np.float16), np.empty((images, labels), np.int8)
    for first in range(0, images, ROWS):
        rows = slice(first, min(first + ROWS, images))
        scores[rows], targets[rows] = _draw(rng, rows.stop - first, labels, np.float16)
    began = perf_counter()
    counted = np.isfinite(average_precision(scores, targets, "partial")).sum()
    elapsed, peak = perf_counter() - began, memory.mib()
    size = f"{images:,} images, {labels:,} labels, {100 * UNKNOWN:.0f} % unknown, in float16"
    return [
        Figure("mean AP of many labels", elapsed, "s", SECONDS, f"{size}; {counted:,} labels counted"),
        Figure(
            "mean AP of many labels: peak memory",
            None if peak is None else peak / 1024,
            "GiB",
            GIB,
            "scores and targets included",
        ),
    ]


def _draw(
    rng: np.random.Generator, images: int, labels: int, dtype: type[np.floating]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (S,N) and targets of three states; positives score higher."""
    chance = rng.random((images, labels), np.float32)
    targets = np.where(chance < POSITIVE, 1, np.where(chance < POSITIVE + UNKNOWN, -1, 0)).astype(np.int8)
    scores = rng.random((images, labels), np.float32) * np.float32(0.7) + np.float32(0.3) * (targets == 1)
    return scores.astype(dtype), targets
