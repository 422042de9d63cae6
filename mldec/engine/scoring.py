"""Evaluation of a trained network on a split, for `mldec evaluate` and `mldec report`."""

from __future__ import annotations

import numpy as np
import torch

from mldec.config import Config
from mldec.data.index import ImageIndex
from mldec.engine import build
from mldec.engine.checkpoint import Restored
from mldec.engine.config_properties import is_single_label, uses_softmax
from mldec.engine.data_splits import build_split, restrict_labels
from mldec.engine.device import choose_precision
from mldec.engine.display import Display
from mldec.engine.distributed import SINGLE_PROCESS, ProcessGroup
from mldec.engine.evaluator import Result, Scores, compute_metrics, compute_scores
from mldec.engine.inference import ImageScorer
from mldec.errors import DataError
from mldec.labels import LabelSpace


def open_split(restored: Restored, config: Config, split: str) -> tuple[ImageIndex, LabelSpace]:
    """The images of a split, and its labels, marked as seen where the network was trained on them.

    Raises DataError if they cannot be read, or if a network without label embeddings was trained on other labels.
    """
    index = restrict_labels(config, build_split(config, split), split)
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
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[Scores, Result]:
    """Scores of every image of `index` for `labels`, and their metrics. `what` labels the progress bar.

    The processes of `group` split the images. Only the main process gets the results, the others empty ones.
    """
    if restored.classifier.vocabulary is not None:
        build.set_query_labels(restored.classifier, labels.names, config.head.label_embeddings)
    loader = build.build_eval_loader(config, index, device, group)
    dtype = choose_precision(config.runtime.precision, device)
    scorer = ImageScorer(restored.normalization, device, dtype, uses_softmax(config))
    with display.bar(what, len(loader)) as bar:
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
    single_label = is_single_label(config)
    return scores, compute_metrics(scores, config.protocol, seen=labels.seen, single_label=single_label)
