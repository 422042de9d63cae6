"""A split of images scored by what was trained: what `mldec evaluate` measures and `mldec report` shows."""

from __future__ import annotations

import numpy as np
import torch

from mldec.config import Config
from mldec.data.index import ImageIndex
from mldec.engine import build
from mldec.engine.checkpoint import Restored
from mldec.engine.device import choose_precision
from mldec.engine.display import Display
from mldec.engine.distributed import ALONE, ProcessGroup
from mldec.engine.evaluator import Result, Scores, compute_metrics, compute_scores
from mldec.errors import DataError
from mldec.labels import LabelSpace


def open_split(restored: Restored, config: Config, split: str) -> tuple[ImageIndex, LabelSpace]:
    """The images of a split, and their labels with which of them were trained.

    Raises DataError if they cannot be read, or if their labels are not those of a network that knows no others.
    """
    index = build.known_to_head(config, build.build_split(config, split), split)
    labels = index.labels
    if restored.classifier.vocabulary is not None:
        trained = set(restored.labels.trained().names)
        labels = LabelSpace(labels.names, seen=[name in trained for name in labels.names])
    elif labels.names != restored.labels.names:
        raise DataError(
            f"{config.dataset.name} has other labels ({len(labels)}) than the checkpoint "
            f"({len(restored.labels)}): their scores cannot be compared with its targets"
        )
    return index, labels


def score_split(
    restored: Restored,
    config: Config,
    index: ImageIndex,
    labels: LabelSpace,
    *,
    what: str,
    device: torch.device,
    display: Display,
    group: ProcessGroup = ALONE,
) -> tuple[Scores, Result]:
    """Scores of every image of `index` for `labels`, and their metrics. `what` stands before the progress bar.

    The processes of a `group` share the images; all but its leader get empty ones of both.
    """
    if restored.classifier.vocabulary is not None:
        build.set_query_labels(restored.classifier, labels.names, config.head.label_embeddings)
    loader = build.build_eval_loader(config, index, device, group)
    with display.bar(what, len(loader)) as bar:
        scores = compute_scores(
            restored.classifier.to(device),
            loader,
            restored.normalization,
            device=device,
            dtype=choose_precision(config.runtime.precision, device),
            softmax=build.uses_softmax(config),
            num_images=loader.num_images,
            on_batch=lambda images: bar.advance(),
            group=group,
        )
    if not group.is_main:
        return scores, Result({}, np.empty(0))
    single_label = build.is_single_label(config)
    return scores, compute_metrics(scores, config.protocol, seen=labels.seen, single_label=single_label)
