"""The measurement of a trained network on a split: its metrics, and the files that `mldec evaluate` writes."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mldec.config import Config, to_mapping
from mldec.engine import config_properties, data_splits, environment, run_directory
from mldec.engine.checkpoint import Restored, store_thresholds
from mldec.engine.device import choose_device, prepare_runtime
from mldec.engine.display import Display
from mldec.engine.distributed import SINGLE_PROCESS, ProcessGroup
from mldec.engine.evaluator import describe, write_per_class
from mldec.engine.same_data import check_same_data
from mldec.engine.scoring import open_split, score_split
from mldec.engine.thresholds import FILE, LabelThresholds, write_thresholds
from mldec.engine.thresholds import tune_thresholds as best_thresholds
from mldec.errors import ConfigError
from mldec.files import refuse_linked
from mldec.labels import LabelSpace
from mldec.metrics import f1_at_threshold


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        record: the content of metrics.json in `directory`; empty in processes of a group other than the main one.
        directory: where the files are.
        summary: the metrics as text.
    """

    record: dict[str, Any]
    directory: Path
    summary: str = ""

    @property
    def metrics(self) -> dict[str, float]:
        """By name; mAP and F1 in percent."""
        return dict(self.record.get("metrics", {}))


def evaluate_split(
    restored: Restored,
    config: Config,
    split: str,
    *,
    display: Display,
    output: Path | None = None,
    overrides: Collection[str] = (),
    allow_other_data: bool = False,
    uses_reported: bool = True,
    tune_thresholds: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Evaluation:
    """Measure a split and write metrics.json and per_class_ap.csv. Of a process group the main process has the results.

    Args:
        config: of the run, with what is changed for this measurement.
        output: the directory of the files; None: in the run directory.
        overrides: keys of the settings that the user changed.
        allow_other_data: accept images or labels that are not those of the run.
        uses_reported: whether these weights are those that training reported, for which its thresholds were tuned.
        tune_thresholds: also tune a threshold for each label, and write them into the run directory.
    """
    if tune_thresholds and config_properties.is_single_label(config):
        raise ConfigError(
            f"tune_thresholds=true: images of {config.dataset.name} have one label each, the best is predicted"
        )
    device = choose_device(config.runtime.device, group.local_rank if group.size > 1 else None)
    prepare_runtime(config.runtime, device)
    index, labels = open_split(restored, config, split)
    if other := check_same_data(restored.path, split, index, overrides=overrides, allowed=allow_other_data):
        display.say(f"note: {other}")
    for sentence in _unused_embedding_settings(restored, config, labels, overrides):
        display.say(f"warning: {sentence}")
    run, inner = run_directory.run_directory_of(restored.path), f"evaluation/{config.dataset.name}_{split}"
    if output is None:
        refuse_linked(run, [inner])
    directory = output or run / inner
    what = f"{config.dataset.name} {split}"
    scores, result = score_split(
        restored, config, index, labels, what=what, device=device, display=display, group=group
    )
    if not group.is_main:
        return Evaluation({}, directory)
    record: dict[str, Any] = {
        "checkpoint": str(restored.path),
        "step": restored.step,
        "weights": restored.weights,
        "dataset": to_mapping(config.dataset),
        "split": split,
        "images": len(scores.ids),
        "data": data_splits.describe_index(index),
        "protocol": to_mapping(config.protocol),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "environment": environment.environment(device),
        "metrics": result.metrics,
    }
    # Thresholds were tuned for the weights that are reported, of the best epoch.
    tuned = None
    if uses_reported and restored.thresholds is not None:
        tuned = restored.thresholds.of(labels, config.protocol.threshold).values
    if tuned is not None and split != "val" and not config_properties.is_single_label(config):
        f1 = f1_at_threshold(scores.scores, scores.targets, tuned)
        record["tuned"] = {"CF1": f1.CF1, "OF1": f1.OF1}
    run_directory.write_json(directory / "metrics.json", record)
    write_per_class(directory / "per_class_ap.csv", result, scores, labels)
    shared = data_splits.describe_test_split(config) if split == "test" else ""
    lines = [
        f"{restored.path}, {restored.weights} weights of step {restored.step}",
        f"{config.dataset.name} {split}: {len(scores.ids):,} images, {len(labels)} labels, "
        f"{config.protocol.name} protocol, AP definition {config.protocol.average_precision}",
        *([shared] if shared else []),
        describe(result.metrics, config_properties.is_single_label(config)),
    ]
    if "tuned" in record:
        biased = ", which are these images: optimistically biased" if shared else ""
        figures = "   ".join(f"{name} {value:.2f}" for name, value in record["tuned"].items())
        lines.append(f"{figures}   at the thresholds of {FILE}, tuned on val{biased}")
    lines.append(f"written to {directory}")
    if tune_thresholds:
        values = best_thresholds(scores.scores, scores.targets, config.protocol.threshold)
        thresholds = LabelThresholds(labels, values)
        store_thresholds(restored, thresholds)
        path = run_directory.run_directory_of(restored.path) / FILE
        write_thresholds(path, thresholds, scores.scores, scores.targets)
        lines.append(f"thresholds in {restored.path}, listed in {path}")
    return Evaluation(record, directory, "\n".join(lines))


def _unused_embedding_settings(
    restored: Restored, config: Config, labels: LabelSpace, overrides: Collection[str]
) -> list[str]:
    """Overrides of label embeddings that have no effect on these labels, a sentence each."""
    vocabulary = restored.classifier.vocabulary
    given = [key for key in overrides if key.startswith("head.label_embeddings.")]
    if vocabulary is None or not given:
        return []
    if not set(labels.names) - set(vocabulary.known.names):
        return [f"{key}: the run has embeddings of all these labels, none are looked up" for key in given]
    unused: list[str] = config.head.label_embeddings.unused()
    return unused
