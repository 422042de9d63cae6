"""What a row of the paper takes to reproduce: data, weights, hardware, time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mldec.config import Config
    from mldec.paper.tables import Row

#: Multiply-accumulates a second in training of one RTX 3090: TResNet-L at 448 px, 103 images/s at 43.59 G each,
#: according to timm's published benchmarks; the backward pass counts as two.
RATE = 103 * 43.59e9 * 3
GPU = "an RTX 3090"


def needs(config: Config, row: Row) -> str:
    """`coco; start ImageNet-1K (resnet101.a1h_in1k); protocol paper; one GPU of 24 GiB, about 14 hours …`."""
    parts = [row.needs.dataset or "no dataset"]
    parts += [f"start {start}"] if (start := starts_from(row)) else []
    parts += [f"protocol {config.protocol.name}"] if row.needs.dataset else []
    return "; ".join([*parts, hardware(config, row)])


def starts_from(row: Row) -> str:
    """What our run and the published one start from; empty for a benchmark and where both start from random weights."""
    from mldec.models.hub import describe_weights

    weights, published = row.needs.weights, row.needs.published_start
    if row.needs.dataset is None or (weights == "none" and not published):
        return ""
    ours = "random weights" if weights == "none" else describe_weights(weights)
    return f"{ours} (the published run: {published})" if published else ours


def hardware(config: Config, row: Row) -> str:
    """`one GPU of 24 GiB, about 14 hours on an RTX 3090 (estimated)`; a run is meant, which is one seed."""
    gpu = f"one GPU of {row.needs.memory} GiB" if row.needs.memory else "one GPU"
    if row.needs.dataset is None or row.expect is not None:
        return gpu
    hours = estimated_hours(config, row)
    if hours is None:
        return f"{gpu}; hours not estimated, since the number of images is not known"
    shown = (
        "less than an hour" if hours < 1 else f"about {hours:,.1f} hours" if hours < 10 else f"about {hours:,.0f} hours"
    )
    return f"{gpu}, {shown} on {GPU} (estimated)"


def estimated_hours(config: Config, row: Row) -> float | None:
    """Of one run: three times the multiply-accumulates of an image, for all images of all epochs, at `RATE`."""
    from mldec.benchmarks.network import count_cost

    images = row.needs.images or config.dataset.expected("train").images
    if images is None:
        return None
    macs = count_cost(config, row.needs.labels).macs
    return float(3 * macs * images * config.schedule.epochs / RATE / 3600)
