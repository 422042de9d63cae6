"""Curves of a run's training over epochs: loss, learning rate and the metric on val."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from mldec.report.charts import ChartLine, chart, finite_points
from mldec.report.html import figure
from mldec.report.run import RunFiles, number

Points = list[tuple[float, float]]


class ChartPanel(NamedTuple):
    """A chart with its title, the names of its lines by style, and a note."""

    title: str
    chart: Markup
    legend: Sequence[tuple[str, str]] = ()
    note: str = ""


class TrainingCurves(NamedTuple):
    """Points over epochs: loss, learning rate, and the metric on val, by kind of weights (EMA, raw)."""

    loss: Points
    rate: Points
    metric: str
    val: dict[str, Points]


def training_panels(run: RunFiles) -> list[ChartPanel] | str:
    """The charts of a run; a sentence if nothing was recorded."""
    if not run.train and not run.evals:
        return "There are no curves: metrics.jsonl has no record of training, as in a run of imported weights."
    curves = training_curves(run)
    panels = []
    for title, points in (("Loss", curves.loss), ("Learning rate", curves.rate)):
        if points:
            log = title == "Loss" and min(p[1] for p in points) > 0 and value_ratio(points) > 10
            course = f"from {figure(points[0][1])} to {figure(points[-1][1])}"
            label = f"{title} of training, {course}, in {len(points)} records."
            drawing = epochs_chart([ChartLine(title, points)], label=label, y=title.lower(), log=log)
            panels.append(ChartPanel(title, drawing, note=f"{'logarithmic; ' if log else ''}{course}"))
    if curves.val:
        name, styles = f"{curves.metric} on val", ("s0", "s1 dashed")
        lines = [ChartLine(*val, style) for val, style in zip(curves.val.items(), styles, strict=False)]
        best, epoch, weights = max((value, -epoch, line.name) for line in lines for epoch, value in line.points)
        note = f"best {best:.2f} ({weights}) at epoch {-epoch:g}"
        drawing = epochs_chart(lines, label=f"{name} by epoch, {note}.", y=curves.metric)
        panels.append(ChartPanel(name, drawing, [(line.name, line.style) for line in lines], note))
    return [panel for panel in panels if panel.chart]


def epochs_chart(lines: Sequence[ChartLine], *, label: str, y: str, log: bool = False) -> Markup:
    """Lines over epochs, starting at 0, so that all charts of a run have the same axis."""
    until = max((epoch for line in lines for epoch, _ in line.points if epoch > 0), default=1.0)
    return chart(lines, label=label, x="epoch", y=y, log=log, x_range=(0.0, until))


def training_curves(run: RunFiles) -> TrainingCurves:
    """The curves of a run, without values that are missing or not finite."""
    steps = [number(r.get("step")) / number(r.get("epoch")) for r in run.evals if number(r.get("epoch")) > 0]
    per_epoch = steps[-1] if steps and steps[-1] > 0 else math.nan

    def epoch_of(record: Mapping[str, Any]) -> float:
        exact = number(record.get("step")) / per_epoch
        return exact if math.isfinite(exact) else number(record.get("epoch"))

    def points(name: str) -> Points:
        return finite_points((epoch_of(record), number(record.get(name))) for record in run.train)

    recorded = {
        key: [(number(r.get("epoch")), r[kind]) for r in run.evals if isinstance(r.get(kind), dict)]
        for key, kind in (("EMA", "ema"), ("raw", "raw"))
    }
    single = any("top1" in metrics for found in recorded.values() for _, metrics in found)
    name = "top1" if single else "mAP"
    val = {key: finite_points((epoch, number(m.get(name))) for epoch, m in found) for key, found in recorded.items()}
    present = {key: found for key, found in val.items() if found}
    return TrainingCurves(points("loss"), points("lr"), "top-1" if single else "mAP", present)


def value_ratio(points: Points) -> float:
    """The highest value divided by the lowest one above 0."""
    values = [value for _, value in points if value > 0]
    return max(values) / min(values) if values else 1.0
