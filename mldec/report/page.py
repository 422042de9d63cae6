"""The page of one run. A part that cannot be shown is a sentence, which the template puts in its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mldec.errors import MldecError
from mldec.report import analysis
from mldec.report.analysis import Curve, DecisionCounts, ErrorPairs
from mldec.report.charts import ChartLine, ChartMark, chart
from mldec.report.gallery import gallery
from mldec.report.headline import headline
from mldec.report.html import percent, render, share
from mldec.report.measure import ExplainedThresholds, MeasuredSplit
from mldec.report.run import RunFiles
from mldec.report.training import ChartPanel, training_panels

PAIRS = 20  # most frequent pairs of an error that are listed
HEAT = 12  # labels of the heat map


class LabelRow(NamedTuple):
    """A label in the table of average precision, which is in percent."""

    name: str
    positives: int
    ap: float
    unseen: bool = False


class ThresholdRow(NamedTuple):
    """A label in the table of thresholds: precision, recall and F1 at the protocol's and at its own."""

    name: str
    positives: int
    common: tuple[float, float, float]
    threshold: float
    own: tuple[float, float, float]


def report(run: RunFiles, measured: MeasuredSplit | str, labels: Sequence[str] | None = None) -> str:
    """The page of a run as HTML.

    Args:
        measured: the scores of its weights on a split, or a sentence that explains why there are none.
        labels: whose curves of precision and recall are shown; default: the best, the median and the worst ones.

    Raises DataError for a label that the run does not have.
    """
    parts: dict[str, Any] = {"classes": _classes(run, measured), "training": training_panels(run)}
    if isinstance(measured, str):
        parts |= dict.fromkeys(("precision", "images", "errors", "thresholds"), measured)
    else:
        parts |= {"precision": _precision(measured, labels), "images": _example_images(measured)}
        parts |= {"errors": _errors(measured), "thresholds": _thresholds(measured)}
    return render("report.html", title=f"{run.name}: report", run=run, headline=headline(run, measured), **parts)


def _classes(run: RunFiles, measured: MeasuredSplit | str) -> dict[str, Any] | str:
    """The table of average precision, best first: measured, or else as the run recorded it."""
    if isinstance(measured, str):
        if not run.average_precision:
            return f"{measured} The run has no per_class_ap.csv either."
        rows = [LabelRow(name, positives, 100 * ap) for name, (ap, positives) in run.average_precision.items()]
    else:
        unseen = [not trained for trained in measured.labels.seen or (True,) * len(measured.labels)]
        ap = (100 * measured.result.per_class).tolist()
        columns = (measured.labels.names, measured.positives.tolist(), ap, unseen)
        rows = [LabelRow(*row) for row in zip(*columns, strict=True)]
    rows.sort(key=lambda row: -row.ap if math.isfinite(row.ap) else 1.0)
    defined = [row.ap for row in rows if math.isfinite(row.ap)]
    median = float(np.median(defined)) if defined else math.nan
    return {"rows": rows, "defined": defined, "median": median, "recorded": isinstance(measured, str)}


def _precision(measured: MeasuredSplit, labels: Sequence[str] | None) -> dict[str, Any] | str:
    scores, targets = measured.scores.scores, measured.scores.targets
    chosen = _chosen(measured, labels)
    if not chosen:
        return "No label has an image in this split, so there are no curves."
    threshold, thresholds = measured.config.protocol.threshold, measured.thresholds
    decisions = [analysis.count_at(scores, targets, threshold)]
    if own := isinstance(thresholds, ExplainedThresholds):
        decisions.append(analysis.count_at(scores, targets, thresholds.values))
    panels = []
    if labels is None:
        pooled = analysis.pooled_precision_recall(scores, targets)
        sums = [DecisionCounts(*(part.sum(keepdims=True) for part in counts)) for counts in decisions]
        panels.append(_panel("All labels", "pooled", pooled, sums, 0, measured))
    for column, why in chosen:
        curve = analysis.precision_recall(scores[:, column], targets[:, column])
        ap = f"AP {percent(100 * measured.result.per_class[column])}, {decisions[0].present[column]:,} positives"
        note = f"{why}, {ap}" if why else ap
        panels.append(_panel(measured.labels.names[column], note, curve, decisions, column, measured))
    return {"panels": panels, "threshold": f"{threshold:g}", "own": own, "single": measured.single_label}


def _chosen(measured: MeasuredSplit, labels: Sequence[str] | None) -> list[tuple[int, str]]:
    """Columns with why they are shown."""
    if labels is not None:
        return [(measured.labels.index(name), "") for name in labels]
    per_class, present = measured.result.per_class, measured.positives
    order = [int(n) for n in np.argsort(-per_class, kind="stable") if math.isfinite(per_class[n]) and present[n]]
    worst = max(0, min(3, len(order) - 2))
    ranks = [(0, "best"), (len(order) // 2, "median"), *((len(order) - 1 - i, "worst") for i in range(worst))]
    found: dict[int, str] = {}
    for rank, why in ranks:
        if rank < len(order):
            found.setdefault(order[rank], why)
    return list(found.items())


def _panel(
    title: str, note: str, curve: Curve, decisions: Sequence[DecisionCounts], column: int, measured: MeasuredSplit
) -> ChartPanel:
    """A curve with the points of the decisions on a column: at the protocol's threshold, at the label's own."""
    points = [(float(counts.recall[column]), float(counts.precision[column])) for counts in decisions]
    marks = [ChartMark(*point, style) for point, style in zip(points, ("dot", "ring"), strict=False)]
    recall, precision = points[0]
    at_common = f"precision {share(precision)}, recall {share(recall)}"
    drawing = chart(
        [ChartLine(title, list(zip(curve.recall.tolist(), curve.precision.tolist(), strict=True)))],
        label=f"Precision and recall of {title}, {note}; at {measured.config.protocol.threshold:g}: {at_common}.",
        x="recall",
        y="precision",
        x_range=(0, 1),
        y_range=(0, 1),
        marks=[] if measured.single_label else marks,
    )
    return ChartPanel(title, drawing, note=note)


def _example_images(measured: MeasuredSplit) -> dict[str, Any] | str:
    try:
        return gallery(measured)
    except MldecError as error:
        return f"The images cannot be shown: {error}."


def _errors(measured: MeasuredSplit) -> dict[str, Any] | str:
    threshold, single = measured.config.protocol.threshold, measured.single_label
    pairs = analysis.wrong_pairs(measured.scores.scores, measured.scores.targets, threshold, single_label=single)
    if not len(pairs.given):
        return "No label is predicted wrongly in an image that has another one."
    names, present = measured.labels.names, measured.positives
    listed = [
        (names[given], names[other], int(images), int(missed), missed / present[other])
        for given, other, images, missed in zip(*(part[:PAIRS] for part in pairs), strict=True)
    ]
    return {"pairs": listed, "more": max(0, len(pairs.given) - PAIRS), "heat": _heat(pairs, names)}


def _heat(pairs: ErrorPairs, names: Sequence[str]) -> dict[str, Any] | None:
    """Missed labels against those that are predicted instead: the most frequent ones of both."""
    given, missed, images = (part[pairs.missed > 0] for part in (pairs.given, pairs.present, pairs.missed))
    if not len(given):
        return None
    columns = _most(given, images)
    kept = np.isin(given, columns)
    rows = _most(missed[kept], images[kept])
    kept &= np.isin(missed, rows)
    columns = np.intersect1d(columns, given[kept])
    counts = np.zeros((len(rows), len(columns)), np.int64)
    counts[np.searchsorted(rows, missed[kept]), np.searchsorted(columns, given[kept])] = images[kept]
    shades = np.ceil(9 * counts / counts.max()).astype(np.int64)
    cells = [list(zip(*both, strict=True)) for both in zip(counts.tolist(), shades.tolist(), strict=True)]
    return {"columns": [names[c] for c in columns], "rows": list(zip((names[r] for r in rows), cells, strict=True))}


def _most(columns: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The HEAT columns that have most images, ascending."""
    totals = np.bincount(columns, weights=images)
    order = np.argsort(-totals, kind="stable")[:HEAT]
    return np.sort(order[totals[order] > 0])


def _thresholds(measured: MeasuredSplit) -> dict[str, Any] | str:
    if isinstance(measured.thresholds, str):
        return measured.thresholds
    scores, targets, thresholds = measured.scores.scores, measured.scores.targets, measured.thresholds.values
    common = measured.config.protocol.threshold
    at_common, at_own = analysis.count_at(scores, targets, common), analysis.count_at(scores, targets, thresholds)
    columns = (at_common.present.tolist(), _parts(at_common), thresholds.tolist(), _parts(at_own))
    rows = [ThresholdRow(*row) for row in zip(measured.labels.names, *columns, strict=True)]
    both = np.isfinite(at_common.f1) & np.isfinite(at_own.f1)
    means = [float(np.mean(counts.f1[both])) if both.any() else math.nan for counts in (at_common, at_own)]
    origin = measured.thresholds.origin
    return {"rows": rows, "common": f"{common:g}", "origin": origin, "means": means, "split": measured.split}


def _parts(counts: DecisionCounts) -> list[tuple[float, float, float]]:
    return list(zip(counts.precision.tolist(), counts.recall.tolist(), counts.f1.tolist(), strict=True))
