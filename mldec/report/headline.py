"""The metrics of a run with the facts about them: measured now, or else as the run recorded them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mldec.engine.data_splits import describe_test_split
from mldec.engine.evaluator import metric_names
from mldec.report.html import percent
from mldec.report.measure import MeasuredSplit
from mldec.report.run import RunFiles, number

DEFINITIONS = {
    "exact": "exact average precision",
    "exact_zero": "exact average precision, 0 for a class without positives",
    "voc07": "11-point average precision of VOC 2007",
    "partial": "average precision of partially labelled data",
    "paper": "average precision of the published script",
}
WEIGHTS = {"ema": "moving average (EMA)", "raw": "raw"}
TITLES = {"top1": "top-1", "top5": "top-5"}  # of metrics, where they differ from the name


class MetricTile(NamedTuple):
    """A metric or a fact with its name and a note."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Headline:
    """The metrics of a run, the primary one first, facts about them, and notes on what is missing or differs."""

    metrics: list[MetricTile]
    facts: list[MetricTile]
    notes: list[str]


def headline(run: RunFiles, measured: MeasuredSplit | str) -> Headline:
    """The headline of a run; `measured` is its scores on a split, or a sentence that explains why there are none."""
    recorded = run.tests[-1] if run.tests else None
    if isinstance(measured, str):
        last = run.evals[-1] if run.evals else {}
        reported = last.get(str(last.get("reported")))
        metrics = recorded or (reported if isinstance(reported, dict) else {})
        where = "test, as the run recorded it" if recorded else "val, last evaluated epoch" if last else ""
        protocol, definition = (str(run.setting(f"protocol.{name}") or "") for name in ("name", "average_precision"))
        weights, of_step = str((recorded or last).get("weights", "")), ""
        data, dataset = run.facts("test" if recorded else "val"), str(run.setting("dataset.name") or "")
        single = "top1" in metrics
    else:
        metrics, where, weights = measured.result.metrics, measured.split, measured.weights
        of_step = f"of step {measured.step:,}"
        protocol, definition = measured.config.protocol.name, measured.config.protocol.average_precision
        sizes = {"images": len(measured.scores.ids), "labels": len(measured.labels)}
        data, dataset = sizes | {"fingerprint": measured.index.fingerprint()}, measured.config.dataset.name
        single = measured.single_label
    facts = [
        MetricTile("Data", f"{dataset} {where}".strip(), _size(data)),
        MetricTile("Protocol", protocol, DEFINITIONS.get(definition, definition)),
        MetricTile("Weights", WEIGHTS.get(weights, weights), of_step),
        MetricTile("Checkpoint", run.date(), _epochs(run)),
    ]
    tiles = metric_tiles(metrics, single_label=single)
    return Headline(tiles, [fact for fact in facts if fact.value], _notes(run, measured, recorded))


def metric_tiles(metrics: Mapping[str, Any], *, single_label: bool) -> list[MetricTile]:
    """Metrics in the order of importance, the primary one first."""
    first, rest = metric_names(metrics, single_label)
    of_tasks = ("seen_mAP", "zsl_mAP", "gzsl_mAP", "zsl_F1@", "gzsl_F1@")
    tasks = [name for name in metrics if name.startswith(of_tasks) and "_with_empty" not in name]
    return [
        MetricTile(TITLES.get(name, name), percent(number(metrics[name])), _image_count(metrics, name))
        for name in [*first, *tasks, *rest]
    ]


def _image_count(metrics: Mapping[str, Any], name: str) -> str:
    """How many images a zero-shot metric counts; records of earlier versions do not have it."""
    counted = re.sub(r"_mAP|_F1@\d+", lambda kind: "_images" if kind[0] == "_mAP" else "_F1_images", name)
    found = number(metrics.get(counted))
    return f"{found:,.0f} images" if counted != name and math.isfinite(found) else ""


def _notes(run: RunFiles, measured: MeasuredSplit | str, recorded: Mapping[str, Any] | None) -> list[str]:
    notes = list(run.problems.values())
    if recorded is None:
        notes.append("The run did not finish, or was imported: it recorded no metrics of the test split.")
    if isinstance(measured, str):
        test, val = (run.facts(split).get("fingerprint") for split in ("test", "val"))
        chosen_on = "test = the val images" if recorded and test and test == val else ""
        notes.append(measured)
    else:
        chosen_on = describe_test_split(measured.config) if measured.split == "test" else ""
        if recorded and measured.split == "test" and recorded.get("weights") == measured.weights:
            name = "top1" if measured.single_label else "mAP"
            before, now = number(recorded.get(name)), measured.result.metrics[name]
            if math.isfinite(before) and abs(before - now) >= 0.005:
                notes.append(f"The run recorded {name} {before:.2f} at its end; measured again it is {now:.2f}.")
        if undefined := int((~np.isfinite(measured.result.per_class)).sum()):
            notes.append(f"{undefined:,} of {len(measured.labels):,} labels have no average precision on this split.")
    if chosen_on:
        notes.append(f"{chosen_on}: the epoch was chosen on them, too, so these metrics are optimistically biased.")
    return notes


def _size(data: Mapping[str, Any]) -> str:
    if not all(isinstance(data.get(name), int) for name in ("images", "labels")):
        return ""
    return f"{data['images']:,} images, {data['labels']:,} labels, fingerprint {str(data.get('fingerprint'))[:12]}"


def _epochs(run: RunFiles) -> str:
    epochs = [number(record.get("epoch")) for record in run.evals]
    planned, done = run.setting("schedule.epochs"), max((int(e) for e in epochs if math.isfinite(e)), default=0)
    return f"{done} of {planned} epochs" if planned and done else ""
