"""From an index to batches: the images, their order, the randomness of each, and the processes that load them.

Everything in a batch is a function of (seed, epoch, position): the order is a permutation drawn from (seed, epoch), and
an image's augmentation draws from (seed, epoch, sample id, repeat). So batches do not depend on how many workers there
are or how they were started, and a run that resumes within an epoch sees exactly the batches that it had not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, cast

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mldec.data.image import Interpolation, center_box, cut_center, decode, resize, scaled_side
from mldec.data.index import ImageIndex
from mldec.data.token_store import TokenStore
from mldec.data.workers import BatchFailure, WorkerDied, packed, received, start_worker
from mldec.errors import DataError

__all__ = [
    "Augment",
    "Batch",
    "CachedTokens",
    "EvalLoader",
    "Resize",
    "TrainLoader",
    "WorkerDied",
    "eval_loader",
    "train_loader",
    "view_loader",
]

SUBSTITUTES = 10  # images that are tried in place of a broken one before a run stops


class Batch(NamedTuple):
    """Images and their labels."""

    images: torch.Tensor  # (B,3,H,W) uint8 RGB; where tokens are cached these, (B,P+T,C)
    targets: torch.Tensor  # (B,N) int8: 1 present, 0 absent, -1 unknown
    ids: torch.Tensor  # (B,) int64 rows of the index
    broken: tuple[str, ...] = ()  # one message per image that another one replaces


class Augment(Protocol):
    """(H,W,3) uint8 of any size to (image_size, image_size, 3) uint8; all randomness comes from `rng`.

    `min_side` is the shorter side in pixels that images must keep when large ones are read at a part of their size;
    None, or no such attribute: they must be whole.
    """

    @property
    def image_size(self) -> int: ...

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


@dataclass(frozen=True)
class Resize:
    """No augmentation, as in evaluation. With `crop` the center of an image, see `cut_center`, else all.

    `interpolation` None: bicubic with `crop`, as timm's recipes evaluate, else bilinear, as published for MS-COCO.
    """

    image_size: int
    crop: float | None = None
    interpolation: Interpolation | None = None

    @property
    def filter(self) -> Interpolation:
        """The interpolation that is used."""
        return self.interpolation or ("bilinear" if self.crop is None else "bicubic")

    @property
    def min_side(self) -> int:
        return self.image_size if self.crop is None else scaled_side(self.image_size, self.crop)

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        if self.crop is None:
            return resize(image, self.image_size, self.filter)
        return cut_center(image, self.image_size, self.crop, self.filter)

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom, in pixels, of what is kept of an image of that size."""
        if self.crop is None:
            return 0, 0, width, height
        return center_box(height, width, self.image_size, self.crop)


class TrainLoader:
    """Epochs of training batches; made by `train_loader`. Workers stay alive from epoch to epoch."""

    def __init__(self, order: _TrainOrder, loader: DataLoader) -> None:
        self._order, self._loader = order, loader

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps

    def __len__(self) -> int:
        return self.steps_per_epoch

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` (from 0), without the first `start`. One epoch at a time.

        Raises:
            DataError: an image is missing or broken; names it.
            WorkerDied: a loader process was killed.
        """
        self._order.epoch, self._order.start = epoch, start
        yield from map(_sound, received(self._loader))

    def num_images_of(self, step: int) -> tuple[int, int]:
        """The images of batch `step` of an epoch, and those of this process, as numbers."""
        total = len(self._order.places(step))
        return total, len(range(self._order.rank, total, self._order.processes))

    def used_rows(self, epochs: int) -> np.ndarray:
        """The rows, ascending, that this many epochs read."""
        keys: set[int] = set()
        for self._order.epoch in range(epochs):
            self._order.start = 0
            keys.update(key.row for batch in self._order for key in batch)
        return np.array(sorted(keys), np.int64)

    def first(self) -> Batch:
        """The first batch of the first epoch, made in this process, to show training images."""
        self._order.epoch = self._order.start = 0
        return _sound(self._loader.dataset[next(iter(self._order))])


class EvalLoader:
    """Batches of all samples, each exactly once, in row order; made by `eval_loader`. May be iterated repeatedly."""

    def __init__(self, order: _EvalOrder, loader: DataLoader) -> None:
        self._order, self._loader = order, loader

    def __len__(self) -> int:
        return len(self._order)

    @property
    def num_images(self) -> int:
        """The number of images in all batches together."""
        return len(self._order.rows)

    @property
    def common(self) -> int:
        """The number of batches that each of the processes that share the samples has at least."""
        return self._order.common

    def __iter__(self) -> Iterator[Batch]:
        """Raises DataError naming the image, if one is missing or broken, and WorkerDied."""
        return map(_sound, received(self._loader))


def train_loader(
    index: ImageIndex,
    augment: Augment,
    *,
    batch_size: int,
    seed: int,
    workers: int,
    repeats: int = 1,
    pin_memory: bool = False,
    limit: int | None = None,
    overfit: bool = False,
    scaled_decoding: bool = True,
    on_error: Literal["error", "skip"] = "error",
    start_method: str | None = None,
    rank: int = 0,
    processes: int = 1,
    tokens: CachedTokens | None = None,
) -> TrainLoader:
    """Shuffled, augmented batches of `index`.

    Args:
        augment: see Augment.
        workers: processes that decode; 0: the calling one.
        repeats: each image is drawn this often in a row, augmented anew each time, while the epoch stays as long as
            the set, so that it shows only one in `repeats` images (repeated augmentation, as in timm).
        limit: at most this many batches per epoch.
        overfit: always the first `batch_size` samples, only resized; an epoch is `limit` steps, or one.
        scaled_decoding: read large JPEGs at a part of their size where that is enough for `augment`.
        on_error: of an image that cannot be decoded: "error" stops, "skip" replaces it with another one, drawn from
            the same seed, epoch and sample, and adds a message to `Batch.broken`.
        start_method: of the workers: fork, spawn or forkserver; None: Python's choice.
        rank, processes: of several processes that share every batch, which one this is and how many; a batch of fewer
            images than processes gives those without one its first.
        tokens: read these instead of images; `augment` and what concerns decoding then have no effect.

    The last batch of an epoch may be smaller and is kept, as published: 82,081 images by 56 are 1,466 steps.
    """
    steps = steps_per_epoch(len(index), batch_size, limit=limit, overfit=overfit)
    order = _TrainOrder(len(index), batch_size, seed, 1 if overfit else repeats, steps, overfit, rank, processes)
    transform = Resize(augment.image_size) if overfit else augment
    samples = tokens or _Samples(index, transform, seed, scaled_decoding, on_error)
    return TrainLoader(order, _data_loader(samples, order, workers, pin_memory, start_method))


def eval_loader(
    index: ImageIndex,
    image_size: int,
    *,
    batch_size: int,
    workers: int,
    pin_memory: bool = False,
    limit: int | None = None,
    scaled_decoding: bool = True,
    crop: float | None = None,
    interpolation: Interpolation | None = None,
    start_method: str | None = None,
    rank: int = 0,
    processes: int = 1,
    tokens: CachedTokens | None = None,
) -> EvalLoader:
    """All of `index` in row order, only resized. Arguments as of train_loader and `Resize`; `limit` keeps the first
    batches.

    An image that cannot be decoded is always an error here: without it the metrics would be those of another set.
    """
    order = _EvalOrder(len(index), batch_size, limit, rank, processes)
    samples = tokens or _Samples(index, Resize(image_size, crop, interpolation), 0, scaled_decoding, "error")
    return EvalLoader(order, _data_loader(samples, order, workers, pin_memory, start_method))


def view_loader(
    index: ImageIndex,
    transform: Augment,
    rows: Sequence[int],
    *,
    batch_size: int,
    workers: int,
    view: int = 0,
    pin_memory: bool = False,
    scaled_decoding: bool = True,
) -> Iterator[Batch]:
    """Batches of some images, in the order of `rows`, each transformed as a function of its row and `view` alone."""
    keys = [_Key(view, row, 0) for row in rows]
    batches = [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)]
    samples = _Samples(index, transform, 0, scaled_decoding, "error")
    return map(_sound, received(_data_loader(samples, batches, workers, pin_memory, None)))


def steps_per_epoch(num_images: int, batch_size: int, *, limit: int | None = None, overfit: bool = False) -> int:
    """The number of batches per epoch of a `train_loader` with these arguments."""
    if overfit:
        return 1 if limit is None else limit
    steps = -(-num_images // batch_size)
    return steps if limit is None else min(steps, limit)


# The purposes of generators. Without them (seed, epoch) and (seed, epoch, 0, 0) would be one stream: numpy pads with 0.
_ORDER, _AUGMENTATION, _SUBSTITUTE = range(3)


def _rng(purpose: int, *entropy: int) -> np.random.Generator:
    """A generator that is a function of its purpose and of all numbers of `entropy`."""
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(purpose,)))


class _Key(NamedTuple):
    """One appearance of a sample."""

    epoch: int
    row: int
    repeat: int


@dataclass(eq=False)
class _TrainOrder:
    """Iterating gives the keys of each batch of `epoch`, from batch `start` on; to overfit, of the first rows only."""

    size: int
    batch_size: int
    seed: int
    repeats: int
    steps: int
    overfit: bool
    rank: int
    processes: int
    epoch: int = 0
    start: int = 0

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[_Key]]:
        epoch = self.epoch
        rows = np.arange(self.size) if self.overfit else _rng(_ORDER, self.seed, epoch).permutation(self.size)
        for step in range(self.start, self.steps):
            places = self.places(step)
            own = places[self.rank :: self.processes] or places[:1]  # this process's part, at least one
            yield [_Key(epoch, int(rows[place // self.repeats]), place % self.repeats) for place in own]

    def places(self, step: int) -> range:
        """The positions in the order of the whole batch `step`."""
        first = 0 if self.overfit else step * self.batch_size
        return range(first, min(first + self.batch_size, self.size))


class _EvalOrder:
    """Iterating gives the keys of each batch in row order. Of several processes each takes every so many-th row."""

    def __init__(self, size: int, batch_size: int, limit: int | None, rank: int, processes: int) -> None:
        size = size if limit is None else min(size, limit * batch_size)
        self.rows, self.batch_size = range(rank, size, processes), batch_size
        self.common = -(-(size // processes) // batch_size)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[_Key]]:
        for first in range(0, len(self.rows), self.batch_size):
            yield [_Key(0, row, 0) for row in self.rows[first : first + self.batch_size]]


class _Samples(Dataset):
    """Keys of one batch to a Batch."""

    def __init__(
        self, index: ImageIndex, augment: Augment, seed: int, scaled_decoding: bool, on_error: Literal["error", "skip"]
    ) -> None:
        self.index, self.augment, self.seed, self.on_error = index, augment, seed, on_error
        self.min_side: int | None = getattr(augment, "min_side", None) if scaled_decoding else None

    def __getitem__(self, keys: list[_Key]) -> Batch | BatchFailure:
        size = self.augment.image_size
        rows = np.array([key.row for key in keys], np.int64)
        images_BCHW = np.empty((len(keys), 3, size, size), np.uint8)
        broken: list[str] = []
        try:
            for place, key in enumerate(keys):
                rng = _rng(_AUGMENTATION, self.seed, *key)
                rows[place], image = self._decode(key, broken)
                _store(self.augment(image, rng), images_BCHW[place])
        except DataError as error:
            return BatchFailure(str(error))
        targets = torch.from_numpy(self.index.targets(rows))
        return Batch(torch.from_numpy(images_BCHW), targets, torch.from_numpy(rows), tuple(broken))

    def _decode(self, key: _Key, broken: list[str]) -> tuple[int, np.ndarray]:
        """The row and pixels of `key`, or of the first sound image among some that its seed draws."""
        row = key.row
        for attempt in range(SUBSTITUTES + 1):
            try:
                return row, decode(self.index.path(row), self.min_side)
            except DataError as error:
                if self.on_error == "error":
                    raise
                broken.append(str(error))
                row = int(_rng(_SUBSTITUTE, self.seed, *key, attempt).integers(len(self.index)))
        raise DataError(f"{SUBSTITUTES + 1} images in a row cannot be decoded, the last one:\n{broken[-1]}")


class CachedTokens(Dataset):
    """Keys of one batch to a Batch with cached tokens in place of images.

    Args:
        index: the images, for their targets.
        stores: the tokens of each view. Epoch e reads view e modulo their number.
        places: (S,) the position of each row of `index` in the stores; None: they have all rows in order.
    """

    def __init__(self, index: ImageIndex, stores: Sequence[TokenStore], places: np.ndarray | None = None) -> None:
        self.index, self.stores, self.places = index, list(stores), places

    def __getitem__(self, keys: list[_Key]) -> Batch | BatchFailure:
        rows = np.array([key.row for key in keys], np.int64)
        store = self.stores[keys[0].epoch % len(self.stores)]
        try:
            values = store.read(rows if self.places is None else self.places[rows])
        except DataError as error:
            return BatchFailure(str(error))
        return Batch(values, torch.from_numpy(self.index.targets(rows)), torch.from_numpy(rows))


def _store(image: np.ndarray, planes: np.ndarray) -> None:
    """(H,W,3) uint8 into (3,H,W): OpenCV takes a quarter of numpy's time, but checks nothing."""
    if image.dtype != np.uint8 or image.shape != (*planes.shape[1:], 3):
        raise ValueError(
            f"the augmentation returned {image.dtype} {image.shape}; it must be uint8 {(*planes.shape[1:], 3)}"
        )
    cv2.split(image, list(planes))


def _data_loader(
    samples: _Samples | CachedTokens,
    order: Iterable[list[_Key]],
    workers: int,
    pin_memory: bool,
    start_method: str | None,
) -> DataLoader:
    return DataLoader(
        samples,
        sampler=cast(Any, order),
        batch_size=None,  # a key of ours is a whole batch
        collate_fn=packed,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
        multiprocessing_context=start_method if workers > 0 else None,
        generator=torch.Generator(),  # else each epoch would take a number from torch's global stream
    )


def _sound(batch: Batch | BatchFailure) -> Batch:
    if isinstance(batch, BatchFailure):
        raise DataError(batch.message)
    return batch
