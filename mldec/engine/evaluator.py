"""Scores of every image by its id, and the metrics of those scores."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mldec.config import ProtocolConfig
from mldec.data.image import Normalization
from mldec.data.loader import Batch
from mldec.engine.device import autocast
from mldec.engine.distributed import ALONE, ProcessGroup
from mldec.errors import RunError
from mldec.files import replacing
from mldec.labels import LabelSpace, to_cell
from mldec.metrics import average_precision, f1_at_k, f1_at_threshold, top_k_accuracy, zero_shot_metrics

HALF_FROM = 2**29  # scores that are kept in float16, since they would take 2 GiB in float32: Open Images' 9,605 labels


class Scores(NamedTuple):
    """What a network said of S images: ids (S,) int64 ascending, scores (S,N) in 0..1, targets (S,N) int8.

    Scores are float32; float16 where there are `HALF_FROM` of them or more.
    """

    ids: np.ndarray
    scores: np.ndarray
    targets: np.ndarray


class Result(NamedTuple):
    """Metrics by name and AP by class.

    `metrics` are in percent, except `classes_counted` and those of zero-shot tasks named `…_images…`, which are counts;
    `per_class` (N,) AP in 0..1, nan where undefined.
    """

    metrics: dict[str, float]
    per_class: np.ndarray


@torch.inference_mode()
def compute_scores(
    model: nn.Module,
    batches: Iterable[Batch],
    normalization: Normalization,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    softmax: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
    num_images: int = 0,
    on_batch: Callable[[int], None] = lambda count: None,
    group: ProcessGroup = ALONE,
) -> Scores:
    """Run `model` in eval mode over `batches` and sort what comes back by sample id.

    Scores are sigmoids of the logits, or their softmax where the loss makes them so. `num_images`: how many there will
    be at most, by which the precision of the scores is chosen. Raises RunError on scores that are not finite, naming the
    first such image.

    Each process of `group` runs over batches of its own; the main process gets the scores of all, the others none.
    """
    was_training = model.training
    model.eval()
    ids, scores, targets = [], [], []
    for batch in batches:
        images = normalization(batch.images.to(device, non_blocking=True)).to(memory_format=memory_format)
        with autocast(device, dtype):
            logits = model(images)
        logits = logits.float()
        ids.append(batch.ids)
        targets.append(batch.targets)
        kept = torch.float16 if num_images * logits.shape[1] >= HALF_FROM else torch.float32
        scores.append((logits.softmax(-1) if softmax else logits.sigmoid()).to("cpu", kept))
        on_batch(len(batch.ids))
    model.train(was_training)
    if group.size > 1:
        everyone = group.gather((ids, scores, targets))
        if everyone is None:
            nothing = np.empty((0, 0), np.float32)
            return Scores(np.empty(0, np.int64), nothing, nothing.astype(np.int8))
        ids, scores, targets = ([part for parts in found for part in parts] for found in zip(*everyone, strict=True))
    if not ids:
        raise RunError("there is no image to evaluate: the split is empty")
    return _sorted(torch.cat(ids), scores, targets)


def _sorted(ids: Tensor, scores: list[Tensor], targets: list[Tensor]) -> Scores:
    ids, order = ids.sort()
    if (ids.diff() == 0).any():
        raise RunError("an image was scored twice: sample ids of an evaluation must differ")
    broken = torch.cat([~part.isfinite().all(dim=1) for part in scores])[order]
    if broken.any():
        raise RunError(
            f"{int(broken.sum())} of {len(ids)} images have scores that are not finite "
            f"(first: sample {int(ids[broken][0])}); the weights are damaged: lower schedule.max_lr, or use "
            "runtime.precision=fp32"
        )
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return Scores(ids.numpy(), _gathered(scores, places), _gathered(targets, places))


def _gathered(parts: list[Tensor], places: Tensor) -> np.ndarray:
    """One array with each row of `parts` at its place. Parts are given up one by one: all are never there twice."""
    end = len(places)
    whole = np.empty((end, parts[0].shape[1]), parts[0].numpy().dtype)
    while parts:
        part = parts.pop()
        whole[places[end - len(part) : end].numpy()] = part.numpy()
        end -= len(part)
    return whole


def compute_metrics(
    scores: Scores, protocol: ProtocolConfig, *, seen: Sequence[bool] | None = None, single_label: bool = False
) -> Result:
    """mAP by the protocol's definition, F1 at its threshold and top-k; for single-label data top-1 and top-5 too.

    Where some labels are not `seen` in training, also what `zero_shot_metrics` gives; mAP is then over all labels and
    all images, which is that of GZSL unless `protocol.gzsl_images` says otherwise.
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
            values,
            targets,
            seen,
            protocol.average_precision,
            protocol.top_k,
            zsl_images=protocol.zsl_images,
            gzsl_images=protocol.gzsl_images,
        )
    return Result(metrics, per_class)


def headline(protocol: ProtocolConfig, labels: LabelSpace, *, single_label: bool = False) -> str:
    """The metric by which epochs are compared. With unseen labels it is theirs only if the protocol says so."""
    if single_label:
        return "top1"
    return f"{protocol.zero_shot}_mAP" if labels.has_unseen else "mAP"


def write_per_class(path: Path, result: Result, scores: Scores, labels: LabelSpace) -> None:
    """A CSV with a row per class: name, AP in percent (empty where undefined), positives, negatives, unknown.

    A name that a spreadsheet would take for a formula stands behind an apostrophe.
    """
    counts = [np.count_nonzero(scores.targets == state, axis=0).tolist() for state in (1, 0, -1)]
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "average_precision", "positives", "negatives", "unknown"])
        for name, ap, *states in zip(labels.names, result.per_class, *counts, strict=True):
            writer.writerow([to_cell(name), f"{100 * ap:.4f}" if np.isfinite(ap) else "", *states])


def describe(metrics: Mapping[str, Any], single_label: bool) -> str:
    """The figures of `compute_metrics` for people: a line, and one more for each zero-shot task."""
    order = ("top1", "top5", "mAP") if single_label else ("mAP", "CF1", "OF1")
    tasks = [task for task in TASKS if f"{task}_mAP" in metrics]
    names = [name for name in order if name in metrics] + sorted(n for n in metrics if n.startswith(("CF1@", "OF1@")))
    figures = "   ".join(f"{name} {metrics[name]:.2f}" for name in names)
    lines = [f"{figures}   ({metrics['classes_counted']:.0f} classes counted)"]
    return "\n".join([*lines, *(_describe_task(metrics, task) for task in tasks)])


TASKS = {"seen": "seen labels", "zsl": "unseen labels (ZSL)", "gzsl": "all labels (GZSL)"}

#: Endings of zero-shot figures, and which images they count.
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
