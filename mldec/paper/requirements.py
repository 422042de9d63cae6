"""What a row of the paper requires: data, weights, hardware, time."""

from __future__ import annotations

from collections.abc import Callable

from mldec.config import Config
from mldec.models.hub import describe_weights
from mldec.paper.tables import TableRow

#: Multiply-accumulates per second in training on one RTX 3090: TResNet-L at 448 px, 103 images/s at 43.59 G each,
#: according to timm's published benchmarks; the backward pass counts as two.
RATE = 103 * 43.59e9 * 3
GPU = "an RTX 3090"


def describe_requirements(row: TableRow, config: Config, macs: Callable[[], int]) -> str:
    """`coco; start ImageNet-1K (resnet101.a1h_in1k); protocol paper; one GPU of 24 GiB, about 14 hours …`.

    Args:
        row, config: the row and its config.
        macs: counts the multiply-accumulates of the row's network on one image; called where hours can be estimated.
    """
    parts = [row.needs.dataset or "no dataset"]
    parts += [f"start {start}"] if (start := describe_start(row)) else []
    parts += [f"protocol {config.protocol.name}"] if row.needs.dataset else []
    return "; ".join([*parts, describe_hardware(row, config, macs)])


def describe_start(row: TableRow) -> str:
    """The initial weights of our run and of the published one; empty for a benchmark and where both are random."""
    weights, published = row.needs.weights, row.needs.published_start
    if row.needs.dataset is None or (weights == "none" and not published):
        return ""
    ours = "random weights" if weights == "none" else describe_weights(weights)
    return f"{ours} (the published run: {published})" if published else ours


def describe_hardware(row: TableRow, config: Config, macs: Callable[[], int]) -> str:
    """`one GPU of 24 GiB, about 14 hours on an RTX 3090 (estimated)`, for one run, which is one seed."""
    gpu = f"one GPU of {row.needs.memory} GiB" if row.needs.memory else "one GPU"
    if row.needs.dataset is None or row.expect is not None:
        return gpu
    images = row.needs.images or config.dataset.expected("train").images
    if images is None:
        return f"{gpu}; hours not estimated, since the number of images is not known"
    passes = config.schedule.epochs
    if config.backbone.freeze == "all":  # no backward pass, and a single forward one if its tokens are kept
        passes = (1 if config.cache.tokens else passes) / 3
    hours = 3 * macs() * images * passes / RATE / 3600
    about = "less than an hour" if hours < 1 else f"about {hours:,.{1 if hours < 10 else 0}f} hours"
    return f"{gpu}, {about} on {GPU} (estimated)"
