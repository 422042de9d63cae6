"""Cached tokens: how fast they are computed, what they save, and what reading them costs, as ratios within one run."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.generated_images import write_index
from mldec.benchmarks.memory import PeakAnonymous, release
from mldec.benchmarks.rate import matrix_product, synchronize
from mldec.config import Config
from mldec.data.index import ImageIndex
from mldec.engine.data_splits import Splits
from mldec.engine.device import autocast
from mldec.engine.display import Display
from mldec.engine.inference import ImageScorer
from mldec.engine.token_cache import CPU_BATCH, TokenCache
from mldec.engine.trainer import Trainer

EXTRACTION, SAVED, READING, SHARE = 90.0, 20.0, 1.1, 40.0  # targets
MATRIX_SECONDS = 1.0  # of the matrix product that is the measure of the head's step
EVALUATED = 16  # images of val and test each, whose tokens are computed too
LARGE = 64  # the other number of images at once whose rate is compared
GROWTH = 4  # times as many images, of which the memory is compared
UNCACHED_STEPS = 4  # of an epoch without cache, from which its time follows

Heads = tuple[Config, Config]


def measure(
    heads: Heads, *, images: int = 640, num_labels: int = 80, repeats: int = 3, memory: bool = True
) -> list[Figure]:
    """Measure on generated JPEG files of 640 x 427.

    Args:
        heads: the experiment with average pooling and with ML-Decoder; their backbone is frozen, without augmentation.
        images: N, of which the tokens should take more than one shard where memory is compared.
        num_labels: of the images.
        repeats: rounds; everything is measured once in each.
        memory: also compare the peak memory with N and 4 N images.
    """
    with tempfile.TemporaryDirectory(prefix="mldec-") as folder:
        index = write_index(Path(folder) / "images", images, num_labels)
        rounds = [_round(heads, index, Path(folder) / f"cache{number}") for number in range(repeats)]
        found = {name: [one[name] for one in rounds] for name in rounds[0]}
        figures = _figures(found, heads[0], images)
        figures += _variants(heads[0], index, repeats)
        if memory:
            figures += _memory(heads[0], index, Path(folder) / "memory")
    return figures


def _figures(found: dict[str, list[float]], config: Config, images: int) -> list[Figure]:
    name = getattr(config.backbone, "model", config.backbone.name)
    size, batch = f"{name}, {config.dataset.image_size} px", f"batches of {config.schedule.batch_size}"

    def ratio(title: str, above: str, below: str, unit: str, **more: Any) -> Figure:
        scale = 100 if unit == "%" else 1
        values = [scale * a / b for a, b in zip(found[above], found[below], strict=True)]
        return Figure.of_samples(title, values, unit, **more)

    def rate(title: str, key: str, note: str) -> Figure:
        return Figure.of_samples(title, found[key], "img/s", better="higher", note=note)

    higher: dict[str, Any] = {"better": "higher"}
    return [
        ratio("extraction over the bare network", "extraction", "bare", "%", target=EXTRACTION, note=size, **higher),
        rate("extraction", "extraction", f"{images:,} images, decoding and writing included"),
        rate("bare network", "bare", f"{CPU_BATCH} images at once, in memory"),
        ratio(
            "epoch of average pooling, time without the cache over time with it",
            "uncached",
            "cached",
            "x",
            target=SAVED,
            **higher,
        ),
        ratio(
            "ML-Decoder step, time with reading over time without", "reading", "step", "x", target=READING, note=batch
        ),
        ratio(
            "ML-Decoder step, of the matrix product's rate", "flops", "matrix", "%", target=SHARE, note=batch, **higher
        ),
        Figure.of_samples("ML-Decoder step", [1000 * seconds for seconds in found["step"]], "ms", note=batch),
    ]


def _round(heads: Heads, index: ImageIndex, cache: Path) -> dict[str, float]:
    pooling, decoder = (_trainer(config, index, cache) for config in heads)
    device = pooling.device
    network: Any = pooling.state.model.backbone
    found = {}

    steps = min(UNCACHED_STEPS, len(pooling.batches))
    seconds = _time(device, lambda: _steps(pooling, 0, steps))
    found["uncached"] = seconds * len(pooling.batches) / steps

    # What is compared is measured in turn: other work on the machine meets both.
    before = _network_rate(pooling, network, CPU_BATCH)
    began = perf_counter()
    computed = _read_tokens(pooling)
    found["extraction"] = computed / (perf_counter() - began)
    found["bare"] = (before + _network_rate(pooling, network, CPU_BATCH)) / 2
    _steps(pooling, 1)  # loader processes start
    found["cached"] = median(_time(device, partial(_steps, pooling, epoch)) for epoch in (2, 3, 4))

    _read_tokens(decoder)
    batch = decoder.batches.first()
    count = len(decoder.batches)
    _steps(decoder, 0)
    reading, alone = [], []
    before = _matrix_rate(device)
    for epoch in (1, 2, 3):
        reading.append(_time(device, partial(_steps, decoder, epoch)) / count)
        alone.append(_time(device, lambda: [decoder.train_step(batch) for _ in range(count)]) / count)
    found["reading"], found["step"] = median(reading), median(alone)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        decoder.train_step(batch)
    found["flops"] = counter.get_total_flops() / found["step"]
    found["matrix"] = (before + _matrix_rate(device)) / 2
    return found


def _trainer(config: Config, index: ImageIndex, cache: Path) -> Trainer:
    dataset = dataclasses.replace(config.dataset, cache=str(cache))
    few = index.subset(np.arange(min(EVALUATED, len(index))))
    trainer = Trainer(dataclasses.replace(config, dataset=dataset), Splits(index, few, few), Display(quiet=True))
    trainer.network.train()
    return trainer


def _read_tokens(trainer: Trainer) -> int:
    """Let a trainer read tokens, after computing what is missing. Returns of how many images."""
    tokens = TokenCache(trainer.config, trainer.splits, trainer.state.model, trainer.scorer)
    tokens.fill(Display(quiet=True).counted, lambda: False)
    trainer.batches, trainer.scorer = tokens.train_loader(), tokens.scorer
    return tokens.computed


def _steps(trainer: Trainer, epoch: int, count: int | None = None) -> None:
    for number, batch in enumerate(trainer.batches.batches(epoch), start=1):
        trainer.train_step(batch)
        if number == count:
            return


def _time(device: torch.device, work: Callable[[], object]) -> float:
    synchronize(device)
    began = perf_counter()
    work()
    synchronize(device)
    return perf_counter() - began


@torch.inference_mode()
def _network_rate(trainer: Trainer, network: nn.Module, count: int, dtype: torch.dtype | None = None) -> float:
    """Images/s of the network alone on `count` images in memory, of about 128 after a first batch."""
    size, device = trainer.config.dataset.image_size, trainer.device
    prepare = ImageScorer.prepare  # also where the trainer reads tokens
    images = prepare(trainer.scorer, torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, device=device))
    was_training = network.training
    network.eval()
    times = max(1, 128 // count)
    with autocast(device, dtype or trainer.dtype):
        network(images)
        seconds = _time(device, lambda: [network(images) for _ in range(times)])
    network.train(was_training)
    return times * count / seconds


def _matrix_rate(device: torch.device) -> float:
    """FLOP/s of a product of large matrices in float32."""
    return 2 * matrix_product(device, torch.float32, MATRIX_SECONDS).sample(MATRIX_SECONDS)


def _variants(config: Config, index: ImageIndex, repeats: int) -> list[Figure]:
    """Rates of the network, each over the plain one: float32, channels first, 16 images at once."""
    with tempfile.TemporaryDirectory(prefix="mldec-") as cache:
        plain = _trainer(config, index, Path(cache))
        last = dataclasses.replace(config.runtime, channels_last=True)
        channels_last = _trainer(dataclasses.replace(config, runtime=last), index, Path(cache))
    network: Any = plain.state.model.backbone
    other: Any = channels_last.state.model.backbone
    compiled: Callable[[], Any] = functools.cache(lambda: torch.compile(network))
    ways: dict[str, Callable[[], float]] = {
        f"{LARGE} images at once": lambda: _network_rate(plain, network, LARGE),
        "channels last": lambda: _network_rate(channels_last, other, CPU_BATCH),
        "bfloat16": lambda: _network_rate(plain, network, CPU_BATCH, torch.bfloat16),
        "bfloat16, channels last": lambda: _network_rate(channels_last, other, CPU_BATCH, torch.bfloat16),
        "torch.compile": lambda: _network_rate(plain, compiled(), CPU_BATCH),
    }
    samples: dict[str, list[float]] = {name: [] for name in ways}
    reasons: dict[str, str] = {}
    for _ in range(repeats):
        alone = _network_rate(plain, network, CPU_BATCH)
        for name, measure_rate in ways.items():
            if name in reasons:
                continue
            try:
                samples[name].append(measure_rate() / alone)
            except Exception as error:  # no compiler, or a processor without bfloat16: torch documents no errors
                reasons[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100]}"
    figures = []
    for name, found in samples.items():
        title = f"network: {name}, over {CPU_BATCH} images in float32, channels first"
        if name in reasons:
            figures.append(Figure(title, None, "x", note=reasons[name], better="higher"))
        else:
            figures.append(Figure.of_samples(title, found, "x", better="higher"))
    return figures


# Memory ---------------------------------------------------------------------------------------------------------------


def _memory(config: Config, index: ImageIndex, cache: Path) -> list[Figure]:
    """The growth of anonymous memory at most while tokens are computed and two epochs read them."""
    runtime = dataclasses.replace(config.runtime, workers=0)  # all in one process
    config = dataclasses.replace(config, runtime=runtime)
    peaks = {}
    for times in (1, GROWTH):
        many = index.subset(np.tile(np.arange(len(index)), times))
        trainer = _trainer(config, many, cache / str(times))
        _steps(trainer, 0, 1)
        release(trainer.device)
        with PeakAnonymous() as peak:
            _read_tokens(trainer)
            _steps(trainer, 1)
            _steps(trainer, 2)
        peaks[times] = peak.mib
    found = {f"{len(index) * times:,} images": mib for times, mib in peaks.items()}
    note = ", ".join(f"{mib:,.0f} MiB with {what}" for what, mib in found.items())
    few, many_mib = peaks[1], peaks[GROWTH]
    return [Figure(f"anonymous memory with {GROWTH} N over N images", many_mib / max(few, 1.0), "x", note=note)]
