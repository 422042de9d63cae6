"""The page of one run. A part that cannot be shown is a sentence, which the template puts in its place."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from mldec.errors import MldecError
from mldec.report.analysis import Counts, Pairs, count_at, pooled_precision_recall, precision_recall, wrong_pairs
from mldec.report.charts import Line, Mark, chart
from mldec.report.gallery import Gallery, gallery
from mldec.report.html import NOTHING, count, figure, percent, render, share
from mldec.report.measure import Measured, Thresholds
from mldec.report.run import Run, number

PAIRS = 20  # most frequent pairs of an error that are listed
HEAT = 12  # labels of the heat map
CHOSEN = 6  # curves of precision and recall

DEFINITIONS = {
    "exact": "exact average precision",
    "exact_zero": "exact average precision, 0 for a class without positives",
    "voc07": "11-point average precision of VOC 2007",
    "partial": "average precision of partially labelled data",
    "paper": "average precision of the published script",
}
WEIGHTS = {"ema": "moving average (EMA)", "raw": "raw"}


class Value(NamedTuple):
    """A figure with its name and a word about it."""

    name: str
    value: str
    note: str = ""


class Panel(NamedTuple):
    """A chart with its title, the names of its lines by style, and a sentence."""

    title: str
    chart: Markup
    legend: list[tuple[str, str]]
    note: str = ""


class Row(NamedTuple):
    """A label in the table of average precision. `bar` is 0..100."""

    name: str
    positives: int
    ap: float
    bar: int
    unseen: bool


class ThresholdRow(NamedTuple):
    """A label in the table of thresholds: precision, recall and F1 at the protocol's and at its own."""

    name: str
    positives: int
    common: tuple[float, float, float]
    threshold: float
    own: tuple[float, float, float]


def report(run: Run, measured: Measured | str, labels: Sequence[str] | None = None) -> str:
    """The page of a run as HTML.

    Args:
        measured: what its weights say of a split, or a sentence that says why they could not be asked.
        labels: whose curves of precision and recall are shown; default: the best, the median and the worst ones.

    Raises DataError for a label that is none of the run's.
    """
    return render(
        "report.html",
        title=f"{run.name}: report",
        run=run,
        headline=headline(run, measured),
        training=curves(run),
        classes=classes(run, measured),
        precision=measured if isinstance(measured, str) else _precision(measured, labels),
        images=measured if isinstance(measured, str) else _example_images(measured),
        errors=measured if isinstance(measured, str) else _errors(measured),
        thresholds=measured if isinstance(measured, str) else _thresholds(measured),
        environment=_environment(run),
        splits=_splits(run),
    )


# What was measured ---------------------------------------------------------------------------------------------------


def headline(run: Run, measured: Measured | str) -> dict[str, Any]:
    """The figures of a run with what they belong to: measured now, or else as the run recorded them."""
    recorded = run.tests[-1] if run.tests else None
    if isinstance(measured, str):
        last = run.evals[-1] if run.evals else {}
        reported = last.get(str(last.get("reported")))
        metrics = recorded or (reported if isinstance(reported, dict) else {})
        where = "test, as the run recorded it" if recorded else "val, of the last epoch evaluated" if last else ""
        protocol = str(run.setting("protocol.name") or "")
        split, weights, step = "test" if recorded else "val", str((recorded or last).get("weights", "")), None
        described = run.data.get(split)
        data = described if isinstance(described, dict) else {}
        definition = str(run.setting("protocol.average_precision") or "")
        dataset = str(run.setting("dataset.name") or "")
    else:
        metrics, split, weights, step = measured.result.metrics, measured.split, measured.weights, measured.step
        where, protocol = split, measured.config.protocol.name
        definition, dataset = measured.config.protocol.average_precision, measured.config.dataset.name
        data = {
            "images": len(measured.scores.ids),
            "labels": len(measured.labels),
            "fingerprint": measured.index.fingerprint(),
        }
    single = measured.single_label if not isinstance(measured, str) else "top1" in metrics
    values = metric_values(metrics, single_label=single)
    facts = [
        Value("Data", f"{dataset} {where}".strip(), _size(data)),
        Value("Protocol", protocol, DEFINITIONS.get(definition, definition)),
        Value("Weights", WEIGHTS.get(weights, weights), f"of step {step:,}" if step is not None else ""),
        Value("Checkpoint", run.date(), _epochs(run)),
    ]
    return {
        "main": values[0] if values else None,
        "others": values[1:],
        "facts": [fact for fact in facts if fact.value],
        "notes": _notes(run, measured, recorded),
    }


def metric_values(metrics: Mapping[str, Any], *, single_label: bool) -> list[Value]:
    """Metrics in the order in which people ask for them, the one that counts first."""
    order = ("top1", "top5", "mAP") if single_label else ("mAP", "CF1", "OF1")
    first = [name for name in order if name in metrics]
    tasks = [name for name in metrics if name.startswith(("seen_mAP", "zsl_mAP", "gzsl_mAP", "zsl_F1@", "gzsl_F1@"))]
    rest = sorted(name for name in metrics if name.startswith(("CF1@", "OF1@")))
    names = {"top1": "top-1", "top5": "top-5"}
    return [
        Value(names.get(name, name), percent(number(metrics[name])), _image_count(metrics, name))
        for name in [*first, *tasks, *rest]
    ]


def _image_count(metrics: Mapping[str, Any], name: str) -> str:
    """How many images a zero-shot figure counts; records of earlier versions do not say it."""
    counted = re.sub(r"_mAP|_F1@\d+", lambda kind: "_images" if kind[0] == "_mAP" else "_F1_images", name)
    found = number(metrics.get(counted))
    return f"{found:,.0f} images" if counted != name and math.isfinite(found) else ""


def _notes(run: Run, measured: Measured | str, recorded: Mapping[str, Any] | None) -> list[str]:
    notes = list(run.problems.values())
    if isinstance(measured, str):
        notes.append(measured)
    if recorded is None:
        notes.append("The run did not finish, or was imported: it recorded no figures on the test split.")
    elif not isinstance(measured, str) and measured.split == "test" and recorded.get("weights") == measured.weights:
        name = "top1" if measured.single_label else "mAP"
        was, now = number(recorded.get(name)), measured.result.metrics[name]
        if math.isfinite(was) and abs(was - now) >= 0.005:
            notes.append(f"The run recorded {name} {was:.2f} when it ended; measured again it is {now:.2f}.")
    if not isinstance(measured, str):
        undefined = int((~np.isfinite(measured.result.per_class)).sum())
        if undefined:
            notes.append(f"{undefined:,} of {len(measured.labels):,} labels have no average precision on this split.")
    return notes


def _size(data: Mapping[str, Any]) -> str:
    if not all(isinstance(data.get(name), int) for name in ("images", "labels")):
        return ""
    return f"{data['images']:,} images, {data['labels']:,} labels, fingerprint {str(data.get('fingerprint'))[:12]}"


def _epochs(run: Run) -> str:
    planned, done = (
        run.setting("schedule.epochs"),
        max((int(epoch) for r in run.evals if math.isfinite(epoch := number(r.get("epoch")))), default=0),
    )
    return f"{done} of {planned} epochs" if planned and done else ""


# How it was learned ---------------------------------------------------------------------------------------------------


def curves(run: Run) -> list[Panel] | str:
    """Loss, learning rate and the metric of val, over epochs; a sentence if nothing of it was recorded."""
    if not run.train and not run.evals:
        return "There are no curves: metrics.jsonl holds no record of training, as in a run made from imported weights."
    loss, rate, metric = learning(run)
    panels = []
    for title, points in (("Loss", loss), ("Learning rate", rate)):
        if points:
            log = title == "Loss" and min(p[1] for p in points) > 0 and spread(points) > 10
            drawing = epochs_chart([Line(title, points)], label=_course(title, points), y=title.lower(), log=log)
            note = f"{'logarithmic; ' if log else ''}from {figure(points[0][1])} to {figure(points[-1][1])}"
            panels.append(Panel(title, drawing, [], note))
    name, series = metric
    if series:
        lines = [
            Line(key, points, style) for (key, points), style in zip(series.items(), ("s0", "s1 dashed"), strict=False)
        ]
        best = max((value, -epoch, key) for key, points in series.items() for epoch, value in points)
        note = f"best {best[0]:.2f} ({best[2]}) at epoch {-best[1]:g}"
        label = f"{name} on val by epoch, {note}."
        drawing = epochs_chart(lines, label=label, y=name)
        panels.append(Panel(f"{name} on val", drawing, [(line.name, line.style) for line in lines], note))
    return [panel for panel in panels if panel.chart]


def epochs_chart(lines: Sequence[Line], *, label: str, y: str, log: bool = False) -> Markup:
    """Lines over the epochs from the beginning on, so that all charts of a run have one axis."""
    until = max((epoch for line in lines for epoch, _ in line.points if epoch > 0), default=1.0)
    return chart(lines, label=label, x="epoch", y=y, log=log, x_range=(0.0, until))


Points = list[tuple[float, float]]


def learning(run: Run) -> tuple[Points, Points, tuple[str, dict[str, Points]]]:
    """Points over epochs: loss, learning rate, and the name of val's metric with its points by kind of weights."""
    steps = [number(r.get("step")) / number(r.get("epoch")) for r in run.evals if number(r.get("epoch")) > 0]
    per_epoch = steps[-1] if steps and steps[-1] > 0 else math.nan

    def at(record: Mapping[str, Any]) -> float:
        exact = number(record.get("step")) / per_epoch
        return exact if math.isfinite(exact) else number(record.get("epoch"))

    def points(name: str) -> Points:
        found = [(at(record), number(record.get(name))) for record in run.train]
        return [(a, b) for a, b in found if math.isfinite(a) and math.isfinite(b)]

    kinds = {"EMA": "ema", "raw": "raw"}
    recorded = {
        key: [(number(r.get("epoch")), r[kind]) for r in run.evals if isinstance(r.get(kind), dict)]
        for key, kind in kinds.items()
    }
    single = any("top1" in metrics for found in recorded.values() for _, metrics in found)
    name = "top1" if single else "mAP"
    series = {key: [(epoch, number(metrics.get(name))) for epoch, metrics in found] for key, found in recorded.items()}
    finite = {key: [(a, b) for a, b in found if math.isfinite(a) and math.isfinite(b)] for key, found in series.items()}
    shown = {key: found for key, found in finite.items() if found}
    return points("loss"), points("lr"), ("top-1" if single else "mAP", shown)


def spread(points: Points) -> float:
    """How many times the lowest value the highest is."""
    values = [value for _, value in points if value > 0]
    return max(values) / min(values) if values else 1.0


def _course(title: str, points: Points) -> str:
    return f"{title} of training, from {figure(points[0][1])} to {figure(points[-1][1])}, in {len(points)} records."


# What it finds --------------------------------------------------------------------------------------------------------


def classes(run: Run, measured: Measured | str) -> dict[str, Any] | str:
    """The table of average precision, best first: measured, or else as the run recorded it."""
    if isinstance(measured, str):
        if not run.average_precision:
            return f"{measured} The run left no per_class_ap.csv either."
        found = [(name, positives, ap, False) for name, (ap, positives) in run.average_precision.items()]
        origin = "As the run recorded it in per_class_ap.csv."
    else:
        support = (measured.scores.targets == 1).sum(axis=0)
        seen = measured.labels.seen or (True,) * len(measured.labels)
        found = [
            (name, int(positives), float(ap), not trained)
            for name, positives, ap, trained in zip(
                measured.labels.names, support, measured.result.per_class, seen, strict=True
            )
        ]
        origin = ""
    rows = [Row(n, p, 100 * ap, round(100 * ap) if math.isfinite(ap) else 0, unseen) for n, p, ap, unseen in found]
    rows.sort(key=lambda row: -row.ap if math.isfinite(row.ap) else 1.0)
    values = [row.ap for row in rows if math.isfinite(row.ap)]
    summary = []
    if values:
        summary = [
            Value("Highest", percent(values[0])),
            Value("median", percent(float(np.median(values)))),
            Value("lowest", percent(values[-1])),
        ]
    return {"rows": rows, "origin": origin, "summary": summary, "unseen": any(row.unseen for row in rows)}


def _precision(measured: Measured, labels: Sequence[str] | None) -> dict[str, Any] | str:
    scores, targets = measured.scores.scores, measured.scores.targets
    chosen = _chosen(measured, labels)
    if not chosen:
        return "No label has an image in this split, so there is no precision to show."
    at_common = count_at(scores, targets, measured.config.protocol.threshold)
    own = measured.thresholds if isinstance(measured.thresholds, Thresholds) else None
    at_own = count_at(scores, targets, own.values) if own else None
    panels = []
    if labels is None:
        pooled = pooled_precision_recall(scores, targets)
        sums = [Counts(*(np.array([part.sum()]) for part in counts)) for counts in (at_common, at_own) if counts]
        panels.append(_panel("All labels", "pooled", pooled, [_place(counts, 0) for counts in sums], measured))
    for column, why in chosen:
        curve = precision_recall(scores[:, column], targets[:, column])
        places = [_place(counts, column) for counts in (at_common, at_own) if counts]
        ap = f"AP {percent(100 * measured.result.per_class[column])}, {at_common.present[column]:,} positives"
        title = measured.labels.names[column]
        panels.append(_panel(title, f"{why}{', ' if why else ''}{ap}", curve, places, measured))
    threshold = f"{measured.config.protocol.threshold:g}"
    return {"panels": panels, "threshold": threshold, "own": own is not None, "single": measured.single_label}


def _chosen(measured: Measured, labels: Sequence[str] | None) -> list[tuple[int, str]]:
    """Columns with why they are shown."""
    if labels is not None:
        return [(measured.labels.index(name), "") for name in labels]
    per_class, present = measured.result.per_class, (measured.scores.targets == 1).any(axis=0)
    order = [int(column) for column in np.argsort(-per_class, kind="stable")]
    order = [column for column in order if math.isfinite(per_class[column]) and present[column]]
    worst = max(0, min(3, len(order) - 2))
    places = [(0, "best"), (len(order) // 2, "median"), *((len(order) - 1 - i, "worst") for i in range(worst))]
    found: dict[int, str] = {}
    for place, why in places:
        if place < len(order):
            found.setdefault(order[place], why)
    return list(found.items())


def _place(counts: Counts, column: int) -> tuple[float, float]:
    return float(counts.recall[column]), float(counts.precision[column])


def _panel(title: str, note: str, curve: Any, places: list[tuple[float, float]], measured: Measured) -> Panel:
    marks = (
        []
        if measured.single_label
        else [Mark(*place, style) for place, style in zip(places, ("dot", "ring"), strict=False)]
    )
    points = list(zip(curve.recall.tolist(), curve.precision.tolist(), strict=True))
    said = f"at {measured.config.protocol.threshold:g}: precision {share(places[0][1])}, recall {share(places[0][0])}"
    label = f"Precision and recall of {title}, {note}; {said}."
    drawing = chart(
        [Line(title, points)], label=label, x="recall", y="precision", x_range=(0, 1), y_range=(0, 1), marks=marks
    )
    return Panel(title, drawing, [], note)


def _example_images(measured: Measured) -> Gallery | str:
    try:
        return gallery(measured)
    except MldecError as error:
        return f"The images cannot be shown: {error}."


def _errors(measured: Measured) -> dict[str, Any] | str:
    threshold, single = measured.config.protocol.threshold, measured.single_label
    pairs = wrong_pairs(measured.scores.scores, measured.scores.targets, threshold, single_label=single)
    if not len(pairs.given):
        return "No label is wrongly given in an image that has another one."
    names, present = measured.labels.names, (measured.scores.targets == 1).sum(axis=0)
    listed = [
        (names[given], names[other], int(images), int(missed), missed / present[other])
        for given, other, images, missed in zip(*(part[:PAIRS] for part in pairs), strict=True)
    ]
    return {"pairs": listed, "more": max(0, len(pairs.given) - PAIRS), "heat": _heat(pairs, names)}


def _heat(pairs: Pairs, names: Sequence[str]) -> dict[str, Any] | None:
    """Labels that are missed against labels that are given in their place: the most frequent ones of both."""
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


def _thresholds(measured: Measured) -> dict[str, Any] | str:
    if isinstance(measured.thresholds, str):
        return measured.thresholds
    scores, targets = measured.scores.scores, measured.scores.targets
    common = measured.config.protocol.threshold
    at_common, at_own = count_at(scores, targets, common), count_at(scores, targets, measured.thresholds.values)
    rows = [
        ThresholdRow(name, positives, before, threshold, after)
        for name, positives, before, threshold, after in zip(
            measured.labels.names,
            at_common.present.tolist(),
            _parts(at_common),
            measured.thresholds.values.tolist(),
            _parts(at_own),
            strict=True,
        )
    ]
    gained = [row for row in rows if math.isfinite(row.common[2]) and math.isfinite(row.own[2])]
    mean = [
        100 * float(np.mean([getattr(row, side)[2] for row in gained])) if gained else math.nan
        for side in ("common", "own")
    ]
    return {
        "rows": rows,
        "common": f"{common:g}",
        "origin": measured.thresholds.origin,
        "mean": mean,
        "split": measured.split,
    }


def _parts(counts: Counts) -> list[tuple[float, float, float]]:
    return list(zip(counts.precision.tolist(), counts.recall.tolist(), counts.f1.tolist(), strict=True))


# What it depends on ---------------------------------------------------------------------------------------------------


def _environment(run: Run) -> list[Value] | str:
    stored = run.environment
    if not stored:
        return "The run left no environment.json."
    command = stored.get("command")
    values = [Value("command", " ".join(map(str, command)))] if isinstance(command, list) else []
    for name in ("mldec", "commit", "device", "processes", "precision", "threads", "python", "platform"):
        if stored.get(name) is not None:
            values.append(Value(name, str(stored[name])))
    packages = stored.get("packages")
    if isinstance(packages, dict):
        values += [Value(str(name), str(version)) for name, version in packages.items() if version]
    seconds, memory = number(run.cost.get("seconds")), run.cost.get("peak_memory")
    if math.isfinite(seconds):
        values.append(Value("time", f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d} h"))
    for where, size in memory.items() if isinstance(memory, dict) else ():
        values.append(Value(f"peak memory, {where}", f"{number(size) / 2**30:.2f} GiB"))
    return values


def _splits(run: Run) -> list[tuple[str, str, str, str]]:
    found = []
    for split, facts in run.data.items():
        if isinstance(facts, dict):
            sizes = [count(facts[n]) if isinstance(facts.get(n), int) else NOTHING for n in ("images", "labels")]
            found.append((split, sizes[0], sizes[1], str(facts.get("fingerprint", NOTHING))))
    return found
