"""The measurement of a trained network on a split, for `mldec evaluate`, with its files, and for `mldec report`."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mldec.config import Config, to_mapping
from mldec.data.dataset import name_some
from mldec.data.index import ImageIndex
from mldec.engine import build, config_properties, data_splits, environment, run_directory
from mldec.engine.checkpoint import Restored, store_thresholds
from mldec.engine.device import choose_device, choose_precision, prepare_runtime
from mldec.engine.display import Display
from mldec.engine.distributed import SINGLE_PROCESS, ProcessGroup
from mldec.engine.evaluator import (
    Result,
    Scores,
    compute_metrics,
    compute_scores,
    describe,
    f1_at_tuned,
    write_per_class,
)
from mldec.engine.inference import ImageScorer
from mldec.engine.thresholds import FILE, LabelThresholds, write_thresholds
from mldec.engine.thresholds import tune_thresholds as best_thresholds
from mldec.errors import ConfigError, DataError, counted, printable_name
from mldec.files import refuse_linked
from mldec.labels import LabelSpace


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
    tune_thresholds: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Evaluation:
    """Measure a split and write metrics.json and per_class_ap.csv. Of a process group the main process has the results.

    Args:
        config: of the run, with what is changed for this measurement.
        output: the directory of the files; None: in the run directory.
        overrides: keys of the settings that the user changed.
        allow_other_data: accept images or labels that are not those of the run.
        tune_thresholds: also tune a threshold for each label, and write them into the run directory.
    """
    if tune_thresholds and config.dataset.single_label:
        raise ConfigError(
            f"tune_thresholds=true: images of {config.dataset.name} have one label each, the best is predicted"
        )
    device = choose_device(config.runtime.device, group.local_rank if group.size > 1 else None)
    prepare_runtime(config.runtime, device)
    index, labels = open_split(restored, config, split)
    if other := data_splits.check_same_data(restored.path, split, index, overrides=overrides, allowed=allow_other_data):
        display.say(f"note: {other}")
    for sentence in _unused_embedding_settings(restored, config, labels, overrides):
        display.say(f"warning: {sentence}")
    run, inner = run_directory.run_directory_of(restored.path), f"evaluation/{config.dataset.name}_{split}"
    if output is None:
        refuse_linked(run, [inner])
    directory = output or run / inner
    scores, result = score_split(restored, config, index, labels, split, device=device, display=display, group=group)
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
    if restored.thresholds is not None and split != "val" and not config.dataset.single_label:
        record["tuned"] = f1_at_tuned(scores, restored.thresholds.of(labels, config.protocol.threshold))
    run_directory.write_json(directory / "metrics.json", record)
    write_per_class(directory / "per_class_ap.csv", result, scores, labels)
    shared = data_splits.describe_test_split(config) if split == "test" else ""
    whole = ""
    if split == "test" and data_splits.is_undivided(config):
        whole = f", all of {printable_name(getattr(config.dataset, 'train', config.dataset.folder))}"
    lines = [
        f"{restored.path}, {restored.weights} weights of step {restored.step}",
        f"{config.dataset.name} {split}: {counted(len(scores.ids), 'image')}{whole}, {len(labels)} labels, "
        f"{config.protocol.name} protocol, AP definition {config.protocol.average_precision}",
        *([shared] if shared else []),
        describe(result.metrics, config.dataset.single_label, config.protocol.threshold),
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


def open_split(restored: Restored, config: Config, split: str) -> tuple[ImageIndex, LabelSpace]:
    """The images of a split, and its labels, marked as seen where the network was trained on them.

    Labels of the network that a dataset of one's own does not have are unknown there, and not measured. Raises
    DataError if it cannot be read, or has labels that a network without label embeddings was not trained on.
    """
    index = data_splits.restrict_labels(config, data_splits.build_split(config, split), split)
    labels = index.labels
    if restored.classifier.vocabulary is not None:
        trained = set(restored.labels.trained().names)
        labels = LabelSpace(labels.names, seen=[name in trained for name in labels.names])
    elif labels.names != restored.labels.names:
        if not hasattr(config.dataset, "own_splits"):  # only files of one's own may have a part of the labels
            raise DataError(
                f"{config.dataset.name} has other labels ({len(labels)}) than the checkpoint "
                f"({len(restored.labels)}): their scores cannot be compared with its targets"
            )
        if strange := sorted(set(labels.names) - set(restored.labels.names)):
            raise DataError(
                f"{config.dataset.name} has {counted(len(strange), 'label')} that the checkpoint does not have "
                f"({name_some(strange, len(strange))}): it gives no scores that could be compared with their targets"
            )
        index, labels = index.among(restored.labels), restored.labels
    return index, labels


def score_split(
    restored: Restored,
    config: Config,
    index: ImageIndex,
    labels: LabelSpace,
    split: str,
    *,
    device: torch.device,
    display: Display,
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[Scores, Result]:
    """Scores of every image of `index` for `labels`, and their metrics. `split` is named by the progress bar.

    The processes of `group` split the images. Only the main process gets the results, the others empty ones.
    """
    if restored.classifier.vocabulary is not None:
        build.set_query_labels(restored.classifier, labels.names, config.head.label_embeddings)
    loader = build.build_eval_loader(config, index, device, group)
    dtype = choose_precision(config.runtime.precision, device)
    scorer = ImageScorer(restored.normalization, device, dtype, config_properties.uses_softmax(config))
    with display.bar(f"{config.dataset.name} {split}", len(loader)) as bar:
        scores = compute_scores(
            restored.classifier.to(device),
            scorer,
            loader,
            num_images=loader.num_images,
            on_batch=lambda images: bar.advance(),
            group=group,
        )
    if not group.is_main:
        return scores, Result({}, np.empty(0))
    return scores, compute_metrics(scores, config.protocol, seen=labels.seen, single_label=config.dataset.single_label)


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
