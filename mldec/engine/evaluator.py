"""Scores of every image by sample id, and the metrics of these scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mldec.config import ProtocolConfig
from mldec.data.loader import Batch
from mldec.engine.distributed import SINGLE_PROCESS, ProcessGroup
from mldec.engine.inference import ImageScorer
from mldec.engine.run_directory import write_csv
from mldec.engine.thresholds import LabelThresholds
from mldec.errors import RunError
from mldec.labels import LabelSpace
from mldec.metrics import average_precision, f1_at_k, f1_at_threshold, top_k_accuracy, zero_shot_metrics

HEADLINES = ("zsl_mAP", "top1", "mAP")  # the first of these that a run has stands for it in a line or table
HALF_FROM = 2**29  # number of scores from which float16 is used (2 GiB in float32): the 9,605 labels of Open Images


class Scores(NamedTuple):
    """Scores of S images: ids (S,) int64 ascending, scores (S,N) in 0..1, targets (S,N) int8.

    Scores are float32, or float16 if there are at least `HALF_FROM` of them.
    """

    ids: np.ndarray
    scores: np.ndarray
    targets: np.ndarray


class Result(NamedTuple):
    """Metrics by name and AP per class.

    `metrics` are in percent, except `classes_counted` and the zero-shot metrics named `…_images…`, which are counts.
    `per_class` (N,) is the AP in 0..1, nan where undefined.
    """

    metrics: dict[str, float]
    per_class: np.ndarray


@torch.inference_mode()
def compute_scores(
    model: nn.Module,
    scorer: ImageScorer,
    batches: Iterable[Batch],
    *,
    num_images: int = 0,
    on_batch: Callable[[int], None] = lambda count: None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Scores:
    """Run `model` in eval mode over `batches` and sort the scores by sample id.

    Args:
        num_images: the largest possible number of images, which decides the precision of the scores.
        on_batch: called with the number of images after each batch.
        group: processes that each run over their own batches. The main process gets all scores, the others empty ones.

    Raises RunError if scores are not finite, naming the first such image, or if there are no images.
    """
    was_training = model.training
    model.eval()
    ids, scores, targets = [], [], []
    for batch in batches:
        found = scorer(model, batch.images)
        ids.append(batch.ids)
        targets.append(batch.targets)
        scores.append(found.to("cpu", torch.float16 if num_images * found.shape[1] >= HALF_FROM else torch.float32))
        on_batch(len(batch.ids))
    model.train(was_training)
    if group.size > 1:
        everyone = group.gather((ids, scores, targets))
        if everyone is None:
            nothing = np.empty((0, 0), np.float32)
            return Scores(np.empty(0, np.int64), nothing, nothing.astype(np.int8))
        ids, scores, targets = ([part for parts in each for part in parts] for each in zip(*everyone, strict=True))
    if not ids:
        raise RunError("there are no images to evaluate: the split is empty")
    return _sorted(torch.cat(ids), scores, targets)


def _sorted(ids: Tensor, scores: list[Tensor], targets: list[Tensor]) -> Scores:
    ids, order = ids.sort()
    if (ids.diff() == 0).any():
        raise RunError("an image was scored twice: the sample ids of an evaluation must differ")
    broken = torch.cat([~part.isfinite().all(dim=1) for part in scores])[order]
    if broken.any():
        raise RunError(
            f"{int(broken.sum())} of {len(ids)} images have scores that are not finite "
            f"(first: sample {int(ids[broken][0])}); the weights are damaged: lower schedule.max_lr, or use "
            "runtime.precision=fp32"
        )
    rows = torch.empty_like(order)
    rows[order] = torch.arange(len(order))
    return Scores(ids.numpy(), _concatenate(scores, rows), _concatenate(targets, rows))


def _concatenate(parts: list[Tensor], rows: Tensor) -> np.ndarray:
    """One array with the rows of all `parts` at the indices `rows`. Empties `parts`, to never hold the data twice."""
    end = len(rows)
    whole = np.empty((end, parts[0].shape[1]), parts[0].numpy().dtype)
    while parts:
        part = parts.pop()
        whole[rows[end - len(part) : end].numpy()] = part.numpy()
        end -= len(part)
    return whole


def compute_metrics(
    scores: Scores, protocol: ProtocolConfig, *, seen: Sequence[bool] | None = None, single_label: bool = False
) -> Result:
    """mAP by the protocol's definition, and F1 at its threshold and at top-k, or top-1 and top-5 for single-label data.

    If some labels are not `seen` in training, also those of `zero_shot_metrics`. mAP is then over all labels and all
    images, which is that of GZSL unless `protocol.gzsl_images` selects images.
    """
    values, targets = scores.scores, scores.targets
    per_class = average_precision(values, targets, definition=protocol.average_precision)
    counted = np.isfinite(per_class)
    metrics = {
        "mAP": 100 * float(per_class[counted].mean()) if counted.any() else float("nan"),
        "classes_counted": float(counted.sum()),
    }
    if single_label:
        metrics["top1"] = top_k_accuracy(values, targets, k=1)
        metrics["top5"] = top_k_accuracy(values, targets, k=min(5, values.shape[1]))
        return Result(metrics, per_class)
    at_threshold = f1_at_threshold(values, targets, threshold=protocol.threshold)
    metrics |= {"CF1": at_threshold.CF1, "OF1": at_threshold.OF1}
    for k in protocol.top_k:
        if k <= values.shape[1]:
            at_k = f1_at_k(values, targets, k=k)
            metrics |= {f"CF1@{k}": at_k.CF1, f"OF1@{k}": at_k.OF1}
    if seen is not None and not all(seen):
        metrics |= zero_shot_metrics(
            *(values, targets, seen, protocol.average_precision, protocol.top_k),
            zsl_images=protocol.zsl_images,
            gzsl_images=protocol.gzsl_images,
        )
    return Result(metrics, per_class)


def f1_at_tuned(scores: Scores, thresholds: LabelThresholds) -> dict[str, float]:
    """CF1 and OF1 in percent where each label has its own threshold."""
    f1 = f1_at_threshold(scores.scores, scores.targets, thresholds.values)
    return {"CF1": f1.CF1, "OF1": f1.OF1}


def main_metric(protocol: ProtocolConfig, labels: LabelSpace, *, single_label: bool = False) -> str:
    """The metric by which epochs are compared. `protocol.zero_shot` selects it if there are unseen labels."""
    if single_label:
        return "top1"
    return f"{protocol.zero_shot}_mAP" if labels.has_unseen else "mAP"


def write_per_class(path: Path, result: Result, scores: Scores, labels: LabelSpace) -> None:
    """Write a CSV with a row per class: name, AP in percent (empty if undefined), positives, negatives, unknown.

    A name that a spreadsheet would read as a formula gets a leading apostrophe.
    """
    counts = [np.count_nonzero(scores.targets == state, axis=0) for state in (1, 0, -1)]
    shown = [f"{100 * ap:.4f}" if np.isfinite(ap) else "" for ap in result.per_class]
    rows = zip(labels.names, shown, *counts, strict=True)
    write_csv(path, ("label", "average_precision", "positives", "negatives", "unknown"), rows)


def metric_names(metrics: Mapping[str, Any], single_label: bool) -> tuple[list[str], list[str]]:
    """The metrics of all labels in order of importance, and those of the k best labels of an image."""
    order = ("top1", "top5", "mAP") if single_label else ("mAP", "CF1", "OF1")
    return [name for name in order if name in metrics], sorted(n for n in metrics if n.startswith(("CF1@", "OF1@")))


def describe(metrics: Mapping[str, Any], single_label: bool, threshold: float | None = None) -> str:
    """The metrics of `compute_metrics` as text: one line, and one more for each zero-shot task.

    `threshold`: that of CF1 and OF1, to be named with them.
    """
    tasks = [task for task in TASKS if f"{task}_mAP" in metrics]
    primary, of_best = metric_names(metrics, single_label)
    figures = "   ".join(f"{name} {metrics[name]:.2f}" for name in [*primary, *of_best])
    classes = f"{(count := int(metrics['classes_counted'])):,} class{'' if count == 1 else 'es'} counted"
    at = f"; CF1 and OF1 at {threshold:g}" if threshold is not None and "CF1" in metrics else ""
    lines = [f"{figures}   ({classes}{at})"]
    return "\n".join([*lines, *(_describe_task(metrics, task) for task in tasks)])


TASKS = {"seen": "seen labels", "zsl": "unseen labels (ZSL)", "gzsl": "all labels (GZSL)"}

#: Suffixes of zero-shot metrics, and the images that they are computed on.
IMAGES = {"": "", "_with_unseen": "   over images with an unseen label", "_with_any": "   over images with any label"}


def _describe_task(metrics: Mapping[str, Any], task: str) -> str:
    lines: list[str] = []
    for ending, over in IMAGES.items():
        if f"{task}_mAP{ending}" not in metrics:
            continue
        chance, images, with_label = (metrics[f"{task}_{name}{ending}"] for name in ("chance", "images", "F1_images"))
        shown = [f"mAP {metrics[f'{task}_mAP{ending}']:.2f} (chance {chance:.2f}, {images:,.0f} images)"]
        at_k = re.compile(rf"{task}_F1@(\d+){ending}")
        found = {int(match[1]): metrics[match[0]] for name in metrics if (match := at_k.fullmatch(name))}
        shown += [f"F1@{k} {found[k]:.2f}" for k in sorted(found)]
        shown[-1] += f" ({with_label:,.0f} images)" if found else ""
        lines.append(f"{'' if lines else TASKS[task]:<20} {'   '.join(shown)}{over}")
    return "\n".join(lines)
