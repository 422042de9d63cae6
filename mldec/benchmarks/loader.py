"""The loader: images/s from files to batches, against what decoding and resizing alone allow."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import cv2

from mldec.benchmarks.figure import Figure
from mldec.benchmarks.generated_images import HEIGHT, WIDTH, write_index
from mldec.data.augment import PaperAugment
from mldec.data.image import decode, resize
from mldec.data.index import ImageIndex
from mldec.data.loader import Augment, TrainLoader, train_loader

SIZE, IMAGES, BATCH = 448, 512, 32
SHARE = 60.0  # target: % of the bare rate with one worker
AHEAD = 2  # batches that a worker may have prepared before the timing starts


def measure(*, scale: float = 1.0, repeats: int = 3, workers: Sequence[int] = (1,)) -> list[Figure]:
    """The paper's augmentation on generated images. `scale` shrinks their number; the target belongs to 1."""
    with tempfile.TemporaryDirectory(prefix="mldec-") as folder:
        index = write_index(Path(folder), max(4 * BATCH, round(IMAGES * scale)), num_labels=2)
        size = f"{WIDTH} x {HEIGHT} to {SIZE}"
        return measure_dataset(index, PaperAugment(SIZE), size, repeats=repeats, workers=workers, target=SHARE)


def measure_dataset(
    index: ImageIndex,
    augment: Augment,
    size: str,
    *,
    repeats: int = 3,
    workers: Sequence[int] = (1,),
    target: float | None = None,
) -> list[Figure]:
    """The same for the images of a dataset and their augmentation; `target` of one worker, in % of the bare rate."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a worker
    batch = min(BATCH, max(1, len(index) // (AHEAD + 2)))
    limit = min(len(index), IMAGES) // batch
    loaders = {
        count: train_loader(index, augment, batch_size=batch, seed=0, workers=count, limit=limit) for count in workers
    }
    bare: list[float] = []
    rates: dict[int, list[float]] = {count: [] for count in workers}
    for epoch in range(repeats + 1):  # the first does not count: workers start and files enter the page cache
        bare.append(_bare_rate(index, augment, limit * batch))
        for count, loader in loaders.items():
            rates[count].append(_loader_rate(loader, epoch))
    cv2.setNumThreads(threads)
    figure = partial(Figure.of_samples, better="higher")
    figures = [figure("decoding and resizing alone", bare[1:], "img/s", note=size)]
    for count, found in rates.items():
        name = f"loader with {count} worker{'' if count == 1 else 's'}"
        shares = [100 * ours / alone for ours, alone in zip(found[1:], bare[1:], strict=True)]
        figures.append(figure(name, found[1:], "img/s", note=size))
        figures.append(figure(f"{name}, of that", shares, "%", target=target if count == 1 else None))
    return figures


def _bare_rate(index: ImageIndex, augment: Augment, count: int) -> float:
    min_side = getattr(augment, "min_side", None)
    began = perf_counter()
    for row in range(count):
        resize(decode(index.path(row), min_side), augment.image_size)
    return count / (perf_counter() - began)


def _loader_rate(loader: TrainLoader, epoch: int) -> float:
    """Images/s, once the batches that were prepared in advance are used up."""
    images, began = 0, 0.0
    for number, batch in enumerate(loader.batches(epoch)):
        if number == AHEAD:
            began = perf_counter()
        elif number > AHEAD:
            images += len(batch.ids)
    return images / (perf_counter() - began)
