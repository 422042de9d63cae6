"""Speed of single components against a limit measured in the same rounds, for scripts/performance.py.

Every function takes a `Setting` and returns figures. Targets belong to scale 1 on two CPU cores in float32.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.memory import PeakMemory
from mldec.benchmarks.network import Network
from mldec.benchmarks.rate import Rate, matrix_figure, matrix_product
from mldec.benchmarks.record import Measured
from mldec.commands import compose
from mldec.config import Config, build_config
from mldec.data.index import ImageIndex
from mldec.data.openimages import OpenImagesConfig, build_openimages
from mldec.engine.device import choose_device, choose_precision, prepare_runtime
from mldec.engine.ema import Ema
from mldec.losses import AsymmetricLoss, BinaryCrossEntropy, ThreeStateLoss
from mldec.metrics import average_precision
from mldec.models.heads import MLDecoder


@dataclass(frozen=True)
class Setting:
    """How to measure: `scale` shrinks the data, each of `repeats` rounds takes about `seconds` per rate."""

    config: Config  # experiment=digits with the runtime's settings
    device: torch.device
    dtype: torch.dtype
    scale: float = 1.0
    repeats: int = 3
    seconds: float = 1.0

    def rate(self, work: Callable[[], object], amount: float = 1) -> Rate:
        return Rate(work, amount, self.device, self.seconds)

    def sample(self, *rates: Rate) -> None:
        """Measure all of `rates` once per round, so that other load on a shared machine affects all of them alike."""
        for _ in range(self.repeats):
            for rate in rates:
                rate.sample(self.seconds)


def measure(subject: str, options: Sequence[str]) -> Measured:
    """The figures of one of SUBJECTS; `options` are scale=, repeats=, seconds= and settings of the runtime."""
    values = dict(option.split("=", 1) for option in options)
    convert = {"scale": float, "repeats": int, "seconds": float}
    numbers = {name: of(values.pop(name)) for name, of in convert.items() if name in values}
    compose.load_components(())
    config = build_config(compose.compose(["experiment=digits", *(f"{key}={text}" for key, text in values.items())]))
    device = choose_device(config.runtime.device)
    prepare_runtime(config.runtime, device)
    dtype = choose_precision(config.runtime.precision, device)
    figures = SUBJECTS[subject](Setting(config, device, dtype, **numbers))
    precision = config.runtime.precision if subject in ("head", "ema") else "fp32"
    return Measured(figures, config.runtime.device, {}, precision)


# ML-Decoder alone -----------------------------------------------------------------------------------------------------

FEATURES, DIM, FFN_DIM = 2048, 768, 2048


class Shape(NamedTuple):
    """N classes, K queries, T tokens, B images."""

    classes: int
    queries: int
    tokens: int
    images: int

    def __str__(self) -> str:
        return f"{self.classes} classes, {self.queries} queries, {self.tokens} tokens, {self.images} images"


#: COCO at 448 px; Open Images with 5,000 and with all classes at 224 px.
SHAPES = (Shape(80, 80, 196, 16), Shape(5000, 100, 49, 32), Shape(9605, 100, 49, 32))
FEW, MANY = Shape(100, 100, 49, 32), Shape(9605, 100, 49, 32)
#: Dropout of the head, and the targets of forward, and of forward and backward, in % of the matrix product.
DROPOUTS = ((0.0, 85.0, 80.0), (0.1, None, 70.0))
MORE_CLASSES = 1.25  # target: times as long with MANY classes as with FEW


def measure_head(setting: Setting) -> list[Figure]:
    """How close the head's multiply-accumulates come to the rate of one large product, and what more classes cost."""
    product = matrix_product(setting.device, setting.dtype, setting.seconds)
    rates: dict[str, tuple[Rate, float | None]] = {}
    for shape in (_scaled(shape, setting.scale) for shape in SHAPES):
        for dropout, forward_target, both_target in DROPOUTS:
            head, work = Head(shape, dropout, setting), macs(shape, shared=dropout == 0)
            title = f"{shape}, dropout {dropout:g}"
            rates[f"{title}: forward"] = setting.rate(head.forward, work), forward_target
            rates[f"{title}: forward and backward"] = setting.rate(head.both, 3 * work), both_target
    few, many = (setting.rate(Head(_scaled(shape, setting.scale), 0.0, setting).both) for shape in (FEW, MANY))
    setting.sample(product, *(rate for rate, _ in rates.values()), few, many)
    figures = [
        ratio_figure(f"{name}, of the matrix product", rate, product, target=target)
        for name, (rate, target) in rates.items()
    ]
    name = f"{MANY.classes} classes against {FEW.classes}, {MANY.queries} queries: forward and backward"
    figures.append(ratio_figure(name, many, few, unit="x", target=MORE_CLASSES, better="lower"))
    return [*figures, matrix_figure(product.samples, setting.device, setting.dtype)]


def macs(shape: Shape, *, shared: bool) -> int:
    """Multiply-accumulates of a forward pass in training (paper §3.6); a backward pass has twice as many.

    `shared`: without dropout the projection of the queries is the same for all images, and is computed once per batch.
    """
    n, k, t, b = shape
    projected = (1 if shared else b) * k * DIM * DIM  # queries
    tokens = t * FEATURES * DIM + 2 * t * DIM * DIM  # the input projection, keys, values
    queries = 2 * k * t * DIM + k * DIM * DIM + 2 * k * DIM * FFN_DIM + k * DIM * -(-n // k)
    return projected + b * (tokens + queries)


class Head:
    """ML-Decoder of the paper's widths in training on random tokens, with gradients of the tokens too."""

    def __init__(self, shape: Shape, dropout: float, setting: Setting) -> None:
        options: dict[str, Any] = {"device": setting.device, "dtype": setting.dtype}
        module = MLDecoder(FEATURES, shape.classes, shape.queries, dim=DIM, ffn_dim=FFN_DIM, dropout=dropout)
        self.head = module.to(**options)
        self.tokens = torch.randn(shape.images, shape.tokens, FEATURES, requires_grad=True, **options)
        self.gradient = torch.randn(shape.images, shape.classes, **options)
        self.inputs = [self.tokens, *(p for p in self.head.parameters() if p.requires_grad)]

    def forward(self) -> Tensor:
        logits: Tensor = self.head(self.tokens)
        return logits

    def both(self) -> object:
        return torch.autograd.grad(self.forward(), self.inputs, self.gradient)


def _scaled(shape: Shape, scale: float) -> Shape:
    return shape._replace(images=max(1, round(shape.images * scale)))


# Losses and EMA -------------------------------------------------------------------------------------------------------

IMAGES, LABELS, POSITIVES, UNKNOWN = 128, 9605, 3, 0.3  # of the batch that losses get; UNKNOWN is a share


def measure_loss(setting: Setting) -> list[Figure]:
    """The asymmetric loss on a batch of many labels against the plain chain of operations, forward and backward."""
    labels, device = max(POSITIVES, round(LABELS * setting.scale)), setting.device
    logits = torch.randn(IMAGES, labels, device=device, requires_grad=True)
    targets = torch.zeros(IMAGES, labels, dtype=torch.int8, device=device)
    targets[torch.rand(IMAGES, labels, device=device) < UNKNOWN] = -1
    targets.scatter_(1, torch.randint(labels, (IMAGES, POSITIVES), device=device), 1)

    def rate(loss: Callable[[Tensor, Tensor], Tensor]) -> Rate:
        return setting.rate(lambda: torch.autograd.grad(loss(logits, targets), logits))

    asymmetric = AsymmetricLoss()
    plain = rate(lambda x, y: ThreeStateLoss.forward(asymmetric, x, y))
    ours, binary = rate(asymmetric), rate(BinaryCrossEntropy())
    setting.sample(ours, plain, binary)
    note = f"{IMAGES} images, {labels:,} labels, forward and backward"
    return [
        ratio_figure("asymmetric loss over the plain chain", ours, plain, unit="x", target=0.5, better="lower"),
        ratio_figure("asymmetric loss over binary cross-entropy", ours, binary, unit="x", better="lower"),
        time_figure("asymmetric loss", ours, note),
        time_figure("asymmetric loss, plain chain", plain, note),
        time_figure("binary cross-entropy", binary, note),
    ]


def measure_ema(setting: Setting) -> list[Figure]:
    """The EMA update of TResNet-L against a copy of as many bytes, and that of digits in its training step."""
    runtime = [f"runtime.{name}={getattr(setting.config.runtime, name)}" for name in ("device", "precision")]
    paper = compose.compose(["experiment=coco_tresnet_l", "backbone.pretrained=false", *runtime])
    large, small = Network(build_config(paper), num_labels=80), Network(setting.config, num_labels=80)

    def update(network: Network) -> Rate:
        raw = network.trainer.state.model
        average = Ema(raw)
        return setting.rate(lambda: average.update(raw))

    raw = large.trainer.state.model
    size = sum(part.numel() * part.element_size() for part in (*raw.parameters(), *raw.buffers()))
    source = torch.zeros(size // 4, device=setting.device)
    target = torch.empty_like(source)
    copy = setting.rate(lambda: target.copy_(source))
    batch_size = setting.config.schedule.batch_size
    step = setting.rate(lambda: small.train(batch_size))
    of_large, of_small = update(large), update(small)
    setting.sample(of_large, copy, of_small, step)
    return [
        ratio_figure(
            "update of tresnet_l over a copy of its bytes", of_large, copy, unit="x", target=3.0, better="lower"
        ),
        ratio_figure("update in a training step of digits", of_small, step, target=2.0, better="lower"),
        time_figure("update of tresnet_l", of_large, f"{size / 1e6:,.0f} MB"),
        time_figure("update of digits", of_small),
        time_figure("training step of digits", step, f"batches of {batch_size}"),
    ]


# Mean AP --------------------------------------------------------------------------------------------------------------

COCO, OPEN_IMAGES = (40_137, 80), (125_436, 9_605)  # images and labels of the splits for evaluation
ROWS = 256  # drawn and stored at a time, as during an evaluation


def measure_metric(setting: Setting) -> list[Figure]:
    """Mean AP against scikit-learn at the size of COCO; time and memory at that of Open Images, in float16."""
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    images, labels = max(50, round(COCO[0] * setting.scale)), COCO[1]
    scores, targets = _draw(rng, images, labels, np.float32)
    targets = np.maximum(targets, 0)
    targets[0] = 1

    def reference() -> list[float]:
        return [average_precision_score(targets[:, n], scores[:, n]) for n in range(labels)]

    ours, theirs = setting.rate(lambda: average_precision(scores, targets)), setting.rate(reference)
    setting.sample(ours, theirs)
    error = float(np.abs(average_precision(scores, targets) - reference()).max())
    size = f"{images:,} images, {labels} labels"
    figures = [
        ratio_figure("mean AP over scikit-learn's", ours, theirs, unit="x", target=0.1, note=size, better="lower"),
        Figure("largest difference of an AP from scikit-learn's", error, "", 1e-12, "of 1"),
        time_figure("mean AP", ours, size),
        time_figure("mean AP of scikit-learn", theirs, size),
    ]
    images, labels = max(50, round(OPEN_IMAGES[0] * setting.scale)), OPEN_IMAGES[1]
    memory = PeakMemory(torch.device("cpu"))
    scores, targets = np.empty((images, labels), np.float16), np.empty((images, labels), np.int8)
    for first in range(0, images, ROWS):
        rows = slice(first, min(first + ROWS, images))
        scores[rows], targets[rows] = _draw(rng, rows.stop - first, labels, np.float16)
    began = perf_counter()
    counted = np.isfinite(average_precision(scores, targets, "partial")).sum()
    elapsed, peak = perf_counter() - began, memory.mib()
    size = f"{images:,} images, {labels:,} labels, 90 % unknown, in float16; {counted:,} labels counted"
    gib, note = None if peak is None else peak / 1024, "scores and targets included"
    return [
        *figures,
        Figure("mean AP of many labels", elapsed, "s", 240.0, size),
        Figure("mean AP of many labels: peak memory", gib, "GiB", 8.0, note),
    ]


def _draw(
    rng: np.random.Generator, images: int, labels: int, dtype: type[np.floating]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (S,N) and targets of three states, 3 % positive and 90 % unknown; positives score higher."""
    drawn = rng.random((images, labels), np.float32)
    targets = np.where(drawn < 0.03, 1, np.where(drawn < 0.93, -1, 0)).astype(np.int8)
    scores = rng.random((images, labels), np.float32) * np.float32(0.7) + np.float32(0.3) * (targets == 1)
    return scores.astype(dtype), targets


# The index of Open Images --------------------------------------------------------------------------------------------

TRAIN, TRAIN_LABELS = (9_000_000, 60_000_000), 9_605  # images and label rows of its train split
WORKERS = 8

_worker: tuple[ImageIndex, Any]  # in a worker: the index, and the barrier where it waits for the others


def measure_index(setting: Setting) -> list[Figure]:
    """Building, opening and sharing the index of annotation files of that size (10 minutes, 6 GB on the disk)."""
    images, rows = (round(count * setting.scale) for count in TRAIN)
    labels = min(TRAIN_LABELS, max(2, images // 10))
    with tempfile.TemporaryDirectory(prefix="mldec-") as root:
        write_annotations(Path(root), images, rows, labels)
        config = OpenImagesConfig(name="openimages", root=root, missing="ignore", cache=f"{root}/cache")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:  # for its own peak memory
            duration, peak = alone.submit(_build_index, config).result()
        opening = seconds(lambda: build_openimages(config, split="train"), 5)
        index, fork = build_openimages(config, split="train"), multiprocessing.get_context("fork")
        with fork.Pool(WORKERS, initializer=_keep, initargs=(index, fork.Barrier(WORKERS))) as pool:
            growth = sum(pool.map(_read_all_rows, range(WORKERS), chunksize=1)) / 1000
        size = sum(path.stat().st_size for path in Path(root, "cache").iterdir()) / 1e6
    note = f"growth of private dirty pages, all {WORKERS} workers together, each of which reads every row"
    return [
        Figure("index built in one pass", duration, "s", None, f"{images:,} images, {rows:,} label rows"),
        Figure("peak memory of building", peak, "GiB", 4.0, "of the whole process"),
        Figure("index opened from its cache", opening, "s", 1.0, f"{size:,.0f} MB, checksums read"),
        Figure("private memory of the workers", 100 * growth / size, "% of the index", 5.0, note),
    ]


def _build_index(config: OpenImagesConfig) -> tuple[float, float]:
    """Seconds, and peak memory of the process in GiB."""
    duration = seconds(lambda: build_openimages(config, split="train"), 1)
    return duration, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _keep(index: ImageIndex, barrier: Any) -> None:
    global _worker
    _worker = index, barrier


def _read_all_rows(_: int) -> float:
    """By how many kB reading all rows increases the private memory of this worker."""
    index, barrier = _worker
    barrier.wait()  # so that each worker takes one share
    before = _private_memory()
    for lists in (index.paths, index.positives, index.negatives, index.unknown):
        for first in range(0, len(index), 2**10):
            lists.values[lists.take(np.arange(first, min(first + 2**10, len(index))))[0]].sum()
    return _private_memory() - before


def _private_memory() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


def write_annotations(root: Path, images: int, rows: int, labels: int) -> None:
    """Write the class lists and the human labels of train, grouped by image in random order of labels."""
    (root / "train").mkdir()
    names, rng = [f"/m/{number:05x}" for number in range(labels)], np.random.default_rng(0)
    (root / "oidv6-classes-trainable.txt").write_text("\n".join(names) + "\n")
    descriptions = "".join(f"{name},Thing {number}\n" for number, name in enumerate(names))
    (root / "oidv6-class-descriptions.csv").write_text(f"LabelName,DisplayName\n{descriptions}")
    with open(root / "oidv6-train-annotations-human-imagelabels.csv", "w", encoding="ascii") as file:
        file.write("ImageID,Source,LabelName,Confidence\n")
        for first in range(0, rows, 2**20):
            ids = np.arange(first, min(first + 2**20, rows)) // -(-rows // images) * 2**20 + 7
            drawn = rng.integers(0, (labels, 2), (len(ids), 2)).tolist()
            file.writelines(
                f"{image:016x},verification,{names[column]},{present}\n"
                for image, (column, present) in zip(ids.tolist(), drawn, strict=True)
            )


SUBJECTS: dict[str, Callable[[Setting], list[Figure]]] = {
    "head": measure_head,
    "loss": measure_loss,
    "ema": measure_ema,
    "metric": measure_metric,
    "index": measure_index,
}


def ratio_figure(
    name: str,
    ours: Rate,
    theirs: Rate,
    *,
    unit: Literal["%", "x"] = "%",
    target: float | None = None,
    note: str = "",
    better: Literal["lower", "higher"] = "higher",
) -> Figure:
    """Our rate over theirs, per round; with better="lower" our time over theirs."""
    first, second = (ours, theirs) if better == "higher" else (theirs, ours)
    scale = 100 if unit == "%" else 1
    ratios = [scale * a / b for a, b in zip(first.samples, second.samples, strict=True)]
    return Figure.of_samples(name, ratios, unit, target=target, note=note, better=better)


def time_figure(name: str, rate: Rate, note: str = "") -> Figure:
    """The time per unit of work, in ms."""
    return Figure.of_samples(name, [1000 / sample for sample in rate.samples], "ms", note=note)


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median duration of `work` in seconds."""
    durations = []
    for _ in range(repeats):
        began = perf_counter()
        work()
        durations.append(perf_counter() - began)
    return median(durations)
