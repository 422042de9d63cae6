"""How time and memory of a head grow with classes, queries, tokens and images, one of them at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.head import DIM, FEATURES, FFN_DIM, Head, Shape, ml_decoder, scaled
from mldec.benchmarks.memory import PeakMemory
from mldec.benchmarks.rate import Rate
from mldec.models.heads import GlobalAveragePool, TransformerDecoderHead

BASE = Shape(classes=5000, queries=100, tokens=49, images=16)
DROPOUT = 0.1
MOST_QUERIES = 1250  # of a transformer decoder, one a class: time and memory grow with the square

#: The values of each axis, while the others are those of BASE.
AXES: dict[str, tuple[int, ...]] = {
    "classes": (80, 320, 1250, 5000, 20_000),
    "queries": (12, 25, 50, 100, 200, 400),
    "tokens": (49, 98, 196, 400, 784),
    "images": (4, 8, 16, 32, 64),
}
COLOURS = {"ML-Decoder": "#0072b2", "transformer decoder": "#d55e00", "average pooling": "#009e73"}


class Point(NamedTuple):
    """One head at one place of an axis: ms of a training step forward and backward, MiB of its peak."""

    head: str
    axis: str
    value: int
    milliseconds: float
    mebibytes: float | None


def measure(
    device: torch.device, dtype: torch.dtype, *, scale: float = 1.0, repeats: int = 3, seconds: float = 1.0
) -> tuple[list[Figure], list[Point]]:
    """Figures and the points behind them. `scale` shrinks the batches."""
    points: list[Point] = []
    for axis, values in AXES.items():
        for value in values:
            shape = BASE._replace(**{axis: value})
            shape = scaled(shape._replace(queries=min(shape.queries, shape.classes)), scale)
            for head in ("ML-Decoder", "transformer decoder", "average pooling"):
                if head == "ML-Decoder" or (
                    axis == "classes" and (head != "transformer decoder" or value <= MOST_QUERIES)
                ):
                    points.append(_point(head, axis, value, shape, device, dtype, repeats, seconds))
    figures = []
    for point in points:
        title = f"{point.head}, {point.value:,} {point.axis}"
        figures.append(Figure(f"{title}: forward and backward", point.milliseconds, "ms"))
        figures.append(Figure(f"{title}: peak memory", point.mebibytes, "MiB"))
    return figures, points


def _point(
    head: str,
    axis: str,
    value: int,
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
    seconds: float,
) -> Point:
    memory = PeakMemory(device)
    if head == "ML-Decoder":
        subject = ml_decoder(shape, DROPOUT, device, dtype)
    else:
        module = (
            TransformerDecoderHead(FEATURES, shape.classes, dim=DIM, ffn_dim=FFN_DIM, dropout=DROPOUT)
            if head == "transformer decoder"
            else GlobalAveragePool(FEATURES, shape.classes)
        )
        subject = Head(module, shape, device, dtype)
    step = Rate(subject.both, 1, device, seconds / 10)
    peak = memory.mib()
    for _ in range(repeats):
        step.sample(seconds / 10)
    return Point(head, axis, value, median(1000 / sample for sample in step.samples), peak)


def draw(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG: a column an axis, time above and memory below, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(12, 5.5), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(canvas)
    panels = canvas.subplots(2, len(AXES), squeeze=False, sharey="row")
    for column, axis in enumerate(AXES):
        for row, quantity in enumerate(("milliseconds", "mebibytes")):
            panel = panels[row][column]
            for head, colour in COLOURS.items():
                found = [p for p in points if (p["head"], p["axis"]) == (head, axis) and p[quantity]]
                if found:
                    x, y = [p["value"] for p in found], [p[quantity] for p in found]
                    panel.plot(x, y, marker="o", markersize=4, color=colour, label=head if column == row == 0 else None)
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.set_xticks(AXES[axis], [f"{value:,}" for value in AXES[axis]])
            panel.minorticks_off()
            panel.yaxis.set_major_formatter("{x:,g}")
            panel.grid(color="#dddddd", linewidth=0.8)
            panel.set_axisbelow(True)
            panel.spines[["top", "right"]].set_visible(False)
        panels[1][column].set_xlabel(axis)
    panels[0][0].set_ylabel("forward and backward [ms]")
    panels[1][0].set_ylabel("peak memory [MiB]")
    canvas.legend(fontsize=9, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, metadata={"Software": None})  # the version would change the file
