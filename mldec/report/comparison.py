"""The page of several runs: their metrics, the settings in which they differ, and the changes of each label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from mldec.report.charts import ChartLine
from mldec.report.headline import headline
from mldec.report.html import NOTHING, render
from mldec.report.measure import MeasuredSplit
from mldec.report.run import RunFiles, flat
from mldec.report.training import ChartPanel, epochs_chart, training_curves, value_ratio

MOST = 10  # labels that gain and that lose
STYLES = ("s0", "s1 dashed", "s2", "s3 dashed", "s4", "s5 dashed")
PLACES = ("run_dir", "output")  # settings in which all runs differ


class ComparedRun(NamedTuple):
    """A run under its letter: the metrics of its headline, and what they belong to."""

    letter: str
    style: str
    title: str
    run: RunFiles
    measured: MeasuredSplit | str
    values: dict[str, str]
    facts: str
    notes: list[str]


class LabelChange(NamedTuple):
    """A label in two runs: AP in percent, and the second less the first."""

    name: str
    positives: int
    before: float
    after: float

    @property
    def difference(self) -> float:
        return self.after - self.before


def compare(runs: Sequence[RunFiles], measured: Sequence[MeasuredSplit | str]) -> str:
    """The page of several runs as HTML, the first of which is what the others are compared with.

    `measured` holds the scores of each run's weights on a split, or a sentence that explains why there are none.
    """
    sides = [_side(number, run, one, runs) for number, (run, one) in enumerate(zip(runs, measured, strict=True))]
    settings = _settings(runs)
    return render(
        "comparison.html",
        title="Comparison: " + ", ".join(run.name for run in runs),
        sides=sides,
        names=list(dict.fromkeys(name for side in sides for name in side.values)),
        warnings=_warnings(sides),
        settings=[row for row in settings if NOTHING not in row[1]],
        own=[row for row in settings if NOTHING in row[1]],
        panels=_panels(sides),
        legend=[(f"{side.letter}  {side.title}", side.style) for side in sides],
        changes=[_changes(sides[0], side) for side in sides[1:]],
    )


def _side(number: int, run: RunFiles, measured: MeasuredSplit | str, runs: Sequence[RunFiles]) -> ComparedRun:
    head = headline(run, measured)
    letter = chr(ord("A") + number % 26) + (str(number // 26 + 1) if number >= 26 else "")  # A, B, …, Z, A2, …
    alone = sum(other.name == run.name for other in runs) == 1
    title = run.name if alone else f"{run.name} ({run.folder.resolve().name})"
    values, facts = {tile.name: tile.value for tile in head.metrics}, "; ".join(fact.value for fact in head.facts)
    return ComparedRun(letter, STYLES[number % len(STYLES)], title, run, measured, values, facts, head.notes)


def _warnings(sides: Sequence[ComparedRun]) -> list[str]:
    """What makes metrics of these runs differ for other reasons than what was trained."""
    protocols = {_protocol(side) for side in sides}
    trained = {str(facts.get("fingerprint")) for side in sides if (facts := side.run.facts("train"))}
    found: dict[str, set[Any]] = {
        f"The protocols differ: {' / '.join(sorted(protocols))}. Their metrics cannot be compared.": protocols,
        "The images or labels that were measured differ (other fingerprints of the data).": (
            {_fingerprint(side) for side in sides} - {""}
        ),
        "The runs were trained on different images or labels.": trained,
        "Some runs were measured again, others are shown as they were recorded.": (
            {isinstance(side.measured, str) for side in sides}
        ),
    }
    return [warning for warning, kinds in found.items() if len(kinds) > 1]


def _protocol(side: ComparedRun) -> str:
    names = ("name", "average_precision", "threshold")
    settings = [side.run.setting(f"protocol.{name}") for name in names]
    if not isinstance(side.measured, str):
        settings = [getattr(side.measured.config.protocol, name) for name in names]
    name, definition, threshold = (NOTHING if value is None else value for value in settings)
    return f"{name}, {definition}, threshold {threshold}"


def _fingerprint(side: ComparedRun) -> str:
    if not isinstance(side.measured, str):
        return side.measured.index.fingerprint()
    return str(side.run.facts("test" if side.run.tests else "val").get("fingerprint", ""))


def _settings(runs: Sequence[RunFiles]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs, with their values."""
    all_settings = [flat(run.config) for run in runs]
    keys = list(dict.fromkeys(key for settings in all_settings for key in settings if key not in PLACES))
    rows = [(key, [settings.get(key, NOTHING) for settings in all_settings]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _panels(sides: Sequence[ComparedRun]) -> list[ChartPanel]:
    pairs = [(side, training_curves(side.run)) for side in sides]
    losses = [ChartLine(side.letter, curves.loss, side.style) for side, curves in pairs]
    points = [point for line in losses for point in line.points]
    log = all(value > 0 for _, value in points) and value_ratio(points) > 10
    kinds = {str(side.run.setting("loss")) for side in sides}
    note = "different losses: only their shapes can be compared" if len(kinds) > 1 else "logarithmic" if log else ""
    panels = [ChartPanel("Loss", _chart(losses, "Training loss", "loss", log=log), note=note)]
    for metric in dict.fromkeys(curves.metric for _, curves in pairs):
        lines = []
        for side, curves in pairs:
            val = curves.val if curves.metric == metric else {}
            reported = "raw" if "EMA" not in val or side.run.setting("protocol.report") == "raw" else "EMA"
            lines.append(ChartLine(side.letter, val.get(reported, []), side.style))
        name = f"{metric} on val"
        panels.append(ChartPanel(name, _chart(lines, name, metric), note="of the weights that are reported"))
    return [panel for panel in panels if panel.chart]


def _chart(lines: Sequence[ChartLine], what: str, y: str, *, log: bool = False) -> Markup:
    ends = ", ".join(f"{line.name} ends at {line.points[-1][1]:.4g}" for line in lines if line.points)
    return epochs_chart(lines, label=f"{what} by run: {ends}.", y=y, log=log)


def _average_precision(side: ComparedRun) -> dict[str, tuple[float, int]]:
    measured = side.measured
    if isinstance(measured, str):
        return side.run.average_precision
    rows = zip(measured.labels.names, measured.result.per_class, measured.positives, strict=True)
    return {name: (float(ap), int(positives)) for name, ap, positives in rows}


def _changes(first: ComparedRun, side: ComparedRun) -> dict[str, Any]:
    """How many labels gain and lose from the first run to another, and those that gain and lose most."""
    before, after = _average_precision(first), _average_precision(side)
    changes = [LabelChange(n, before[n][1], 100 * before[n][0], 100 * after[n][0]) for n in before if n in after]
    ordered = sorted((c for c in changes if math.isfinite(c.difference)), key=lambda change: -change.difference)
    better = [change for change in ordered if change.difference > 0]
    worse = [change for change in reversed(ordered) if change.difference < 0]
    counts = {"labels": len(ordered), "better": len(better), "worse": len(worse)}
    return {"before": first.letter, "after": side.letter, **counts, "gains": better[:MOST], "losses": worse[:MOST]}
