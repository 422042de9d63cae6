"""The page of several runs: their figures, what they were told differently, and what became of each label."""

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
    """A run under its letter: the figures of its headline, and what they belong to."""

    letter: str
    run: RunFiles
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


class RunChanges(NamedTuple):
    """What became of the labels from the first run to another: those that gain most, those that lose most."""

    before: str
    after: str
    labels: int
    better: int
    worse: int
    gains: list[LabelChange]
    losses: list[LabelChange]


def compare(runs: Sequence[RunFiles], measured: Sequence[MeasuredSplit | str]) -> str:
    """The page of several runs as HTML, the first of which is what the others are compared with.

    `measured` holds of each what its weights say of a split, or a sentence that says why they could not be asked.
    """
    sides = [
        _side(letter, *pair) for letter, pair in zip(_letters(len(runs)), zip(runs, measured, strict=True), strict=True)
    ]
    names = list(dict.fromkeys(name for side in sides for name in side.values))
    legend = [
        (f"{side.letter}  {_title(side.run, runs)}", style) for side, style in zip(sides, _styles(sides), strict=True)
    ]
    settings = _settings(runs)
    aps = [_average_precision(run, one) for run, one in zip(runs, measured, strict=True)]
    return render(
        "comparison.html",
        title="Comparison: " + ", ".join(run.name for run in runs),
        sides=sides,
        titles=[_title(run, runs) for run in runs],
        names=names,
        warnings=_warnings(runs, measured),
        settings=[row for row in settings if NOTHING not in row[1]],
        own=[row for row in settings if NOTHING in row[1]],
        panels=_panels(sides),
        legend=legend,
        changes=[
            _changes(sides[0].letter, side.letter, aps[0], ap) for side, ap in zip(sides[1:], aps[1:], strict=True)
        ],
    )


def _side(letter: str, run: RunFiles, measured: MeasuredSplit | str) -> ComparedRun:
    head = headline(run, measured)
    facts = "; ".join(fact.value for fact in head.facts)
    return ComparedRun(letter, run, {tile.name: tile.value for tile in head.metrics}, facts, head.notes)


def _letters(number: int) -> list[str]:
    """A, B, … Z, A2, B2, …"""
    return [chr(ord("A") + i % 26) + (str(i // 26 + 1) if i >= 26 else "") for i in range(number)]


def _title(run: RunFiles, runs: Sequence[RunFiles]) -> str:
    """The run's name, with its folder where another one has the same name."""
    same = [other for other in runs if other.name == run.name]
    return run.name if len(same) == 1 else f"{run.name} ({run.folder.resolve().name})"


def _styles(sides: Sequence[ComparedRun]) -> list[str]:
    return [STYLES[i % len(STYLES)] for i in range(len(sides))]


def _warnings(runs: Sequence[RunFiles], measured: Sequence[MeasuredSplit | str]) -> list[str]:
    """What makes figures of these runs differ for other reasons than what was trained."""
    found = []
    protocols = {_protocol(run, one) for run, one in zip(runs, measured, strict=True)}
    if len(protocols) > 1:
        found.append(f"The protocols differ: {' / '.join(sorted(protocols))}. Their figures cannot be compared.")
    data = {_fingerprint(run, one) for run, one in zip(runs, measured, strict=True)} - {""}
    if len(data) > 1:
        found.append("The images or labels that were measured differ (other fingerprints of the data).")
    trained = {str(run.data["train"].get("fingerprint")) for run in runs if isinstance(run.data.get("train"), dict)}
    if len(trained) > 1:
        found.append("The runs were trained on different images or labels.")
    if len({isinstance(one, str) for one in measured}) > 1:
        found.append("Some runs were measured again, others stand as they were recorded.")
    return found


def _protocol(run: RunFiles, measured: MeasuredSplit | str) -> str:
    if not isinstance(measured, str):
        protocol = measured.config.protocol
        return f"{protocol.name}, {protocol.average_precision}, threshold {protocol.threshold:g}"
    settings = (run.setting(f"protocol.{name}") for name in ("name", "average_precision", "threshold"))
    name, definition, threshold = (NOTHING if value is None else value for value in settings)
    return f"{name}, {definition}, threshold {threshold}"


def _fingerprint(run: RunFiles, measured: MeasuredSplit | str) -> str:
    if not isinstance(measured, str):
        return measured.index.fingerprint()
    data = run.data.get("test" if run.tests else "val")
    return str(data.get("fingerprint", "")) if isinstance(data, dict) else ""


def _settings(runs: Sequence[RunFiles]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs, with their values."""
    all_settings = [flat(run.config) for run in runs]
    keys = list(dict.fromkeys(key for settings in all_settings for key in settings if key not in PLACES))
    rows = [(key, [settings.get(key, NOTHING) for settings in all_settings]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _panels(sides: Sequence[ComparedRun]) -> list[ChartPanel]:
    curves, styles = [training_curves(side.run) for side in sides], _styles(sides)
    losses = [ChartLine(side.letter, c.loss, style) for side, c, style in zip(sides, curves, styles, strict=True)]
    log = all(value > 0 for line in losses for _, value in line.points)
    log = log and value_ratio([point for line in losses for point in line.points]) > 10
    kinds = {str(side.run.setting("loss")) for side in sides}
    note = "different losses: only their shapes can be compared" if len(kinds) > 1 else "logarithmic" if log else ""
    panels = [ChartPanel("Loss", _chart(losses, "Training loss", "loss", log=log), note=note)]
    for metric in dict.fromkeys(each.metric for each in curves):
        lines = []
        for side, each, style in zip(sides, curves, styles, strict=True):
            val = each.val if each.metric == metric else {}
            reported = "raw" if "EMA" not in val or side.run.setting("protocol.report") == "raw" else "EMA"
            lines.append(ChartLine(side.letter, val.get(reported, []), style))
        name = f"{metric} on val"
        panels.append(ChartPanel(name, _chart(lines, name, metric), note="of the weights that are reported"))
    return [panel for panel in panels if panel.chart]


def _chart(lines: Sequence[ChartLine], what: str, y: str, *, log: bool = False) -> Markup:
    ends = ", ".join(f"{line.name} ends at {line.points[-1][1]:.4g}" for line in lines if line.points)
    return epochs_chart(lines, label=f"{what} by run: {ends}.", y=y, log=log)


def _average_precision(run: RunFiles, measured: MeasuredSplit | str) -> dict[str, tuple[float, int]]:
    if isinstance(measured, str):
        return run.average_precision
    support = (measured.scores.targets == 1).sum(axis=0)
    rows = zip(measured.labels.names, measured.result.per_class, support, strict=True)
    return {name: (float(ap), int(positives)) for name, ap, positives in rows}


def _changes(before: str, after: str, first: dict[str, Any], other: dict[str, Any]) -> RunChanges:
    common = [name for name in first if name in other]
    all_changes = [LabelChange(name, first[name][1], 100 * first[name][0], 100 * other[name][0]) for name in common]
    finite = [change for change in all_changes if math.isfinite(change.difference)]
    ordered = sorted(finite, key=lambda change: -change.difference)
    better = [change for change in ordered if change.difference > 0]
    worse = [change for change in reversed(ordered) if change.difference < 0]
    return RunChanges(before, after, len(finite), len(better), len(worse), better[:MOST], worse[:MOST])
