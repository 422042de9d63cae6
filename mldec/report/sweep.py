"""The table at the end of several runs (`-m`): what each reached, and its difference from the first, paired."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from mldec.engine.evaluator import HEADLINES
from mldec.engine.metric_writer import best_on_val, read_records
from mldec.engine.run_directory import read_metadata
from mldec.metrics.paired import t_test

MOST_BYTES = 2**26  # of a table of labels


class Run(NamedTuple):
    """A run that ended.

    Attributes:
        seed: None where it is not among what was varied.
        test, val: the metric that is compared, in percent; nan where undefined.
        per_label: average precision in percent by label, without undefined ones.
    """

    metric: str
    seed: str | None
    test: float
    val: float
    seconds: float
    per_label: dict[str, float]


def sweep_table(runs: Sequence[tuple[Sequence[str], Path]]) -> str:
    """Lines about runs that have ended, one for each combination of overrides; seeds are averaged.

    With several seeds a difference is the mean over pairs of the same seed, with the 95 % interval of Student's t test;
    with one it is that over the labels, which says nothing about other seeds.

    Args:
        runs: what was varied, as overrides, and the run directory.

    Returns:
        The table; "" if fewer than two combinations have a result.
    """
    groups: dict[str, list[Run]] = {}
    for overrides, folder in runs:
        seed = next((text.partition("=")[2] for text in overrides if text.startswith("seed=")), None)
        title = " ".join(text for text in overrides if not text.startswith("seed="))
        if (run := _read(folder, seed)) is not None:
            groups.setdefault(title, []).append(run)
    if len(groups) < 2:
        return ""
    metric = next(iter(groups.values()))[0].metric
    first = next(iter(groups.values()))
    rows: list[tuple[str, ...]] = [
        ("", f"test {metric}", f"val {metric}", "seconds", "difference from the first (95 % interval)")
    ]
    basis = ""
    for title, found in groups.items():
        shown = [f"{fmean(values):.2f}" for values in ([r.test for r in found], [r.val for r in found])]
        difference, basis = ("", basis) if found is first else _difference(found, first)
        rows.append((title, *shown, f"{fmean(run.seconds for run in found):.0f}", difference))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(row[n].rjust(widths[n]) for n in (1, 2, 3)), row[4]]).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, basis])


def _read(folder: Path, seed: str | None) -> Run | None:
    records = read_records(folder / "metrics.jsonl")
    test = next((record for record in reversed(records) if record["kind"] == "test"), None)
    if test is None:
        return None
    metric = next(name for name in HEADLINES if name in test)
    seconds = read_metadata(folder / "cost.json").get("seconds")
    return Run(
        metric,
        seed,
        _number(test[metric]),
        _number(best_on_val(records)),
        _number(seconds),
        _per_label(folder / "per_class_ap.csv"),
    )


def _per_label(path: Path) -> dict[str, float]:
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["label"]: float(row["average_precision"]) for row in rows if row.get("average_precision")}


def _difference(runs: Sequence[Run], first: Sequence[Run]) -> tuple[str, str]:
    """The mean difference of a combination from the first one, and what it is paired over."""
    ours, theirs = ({run.seed: run.test for run in one} for one in (runs, first))
    seeds = [seed for seed in ours if seed in theirs]
    if len(seeds) > 1:
        differences = [ours[seed] - theirs[seed] for seed in seeds]
        return _interval(differences), f"differences are paired over {len(seeds)} seeds"
    labels = [label for label in runs[0].per_label if label in first[0].per_label]
    if len(labels) > 1 and runs[0].metric == "mAP":
        differences = [runs[0].per_label[label] - first[0].per_label[label] for label in labels]
        basis = f"differences are paired over {len(labels)} labels of one seed; seed=0,1,2,3,4 shows what seeds change"
        return _interval(differences), basis
    return f"{runs[0].test - first[0].test:+.2f}", "one seed: seed=0,1,2,3,4 shows what seeds change"


def _interval(differences: Sequence[float]) -> str:
    test = t_test(differences)
    return f"{fmean(differences):+.2f} ({test.low:+.2f} to {test.high:+.2f}), p = {test.p:.2g}"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
