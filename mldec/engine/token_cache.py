"""The tokens of a frozen backbone, computed once and read by all runs that need the same.

With `cache.tokens=true` a run computes the tokens of its images before its first step and then trains the head alone.
A store (`mldec.data.token_store`) belongs to one list of images and one view of them. Its name is a digest of all that
the tokens depend on: the image files, their size and transformation, the weights, the precision and the versions of the
libraries. Labels are not among it: other labels of the same images use the same tokens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from torch import Tensor

from mldec.config import Config, to_mapping
from mldec.data.cache import cache_folder
from mldec.data.dataset import DatasetConfig
from mldec.data.index import ImageIndex
from mldec.data.loader import Augment, Batch, CachedTokens, EvalLoader, TrainLoader, view_loader
from mldec.data.token_store import TokenShape, TokenStore
from mldec.engine import build
from mldec.engine.data_splits import Splits
from mldec.engine.device import autocast, count_workers
from mldec.engine.display import Bar
from mldec.engine.distributed import SINGLE_PROCESS, ProcessGroup
from mldec.engine.inference import ImageScorer, TokenScorer
from mldec.errors import ConfigError, counted
from mldec.models.backbone import Backbone
from mldec.models.classifier import Classifier
from mldec.models.tokens import Tokens

logger = logging.getLogger(__name__)

FOLDER = "tokens"  # within the cache folder
CPU_BATCH, BATCH = 16, 128  # images that are computed at once: on the CPU more are slower
GB = 1e9
UNITS = ((GB, "GB"), (1e6, "MB"), (1e3, "kB"))

#: Opens a progress bar over a number of images.
Progress = Callable[[str, int], AbstractContextManager[Bar]]


@dataclass(frozen=True)
class _View:
    """A store and what it takes to fill it."""

    split: str
    number: int
    index: ImageIndex  # of the images in the store
    transform: Augment
    store: TokenStore


def size_text(size: float) -> str:
    """`1.3 GB`, `125 GB`, `16 MB`, `8.2 kB`."""
    amount, unit = next((size / of, unit) for of, unit in UNITS if size >= of or unit == "kB")
    return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:,.0f} {unit}"


class TokenCache:
    """The tokens of all images of a run.

    Args:
        config: with `cache.tokens`, and a frozen backbone.
        splits: the images; those that a limit of batches leaves out are not computed.
        classifier: whose backbone makes the tokens, on its device.
        scorer: how its images are prepared.
        group: the processes of the run; each computes a part.

    Attributes:
        computed: images of a view whose tokens this process has computed and written.
    """

    def __init__(
        self,
        config: Config,
        splits: Splits,
        classifier: Classifier,
        scorer: ImageScorer,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        assert isinstance(classifier.backbone, Backbone)
        self.config, self.splits, self.group, self._images = config, splits, group, scorer
        self.backbone = classifier.backbone
        self.root = tokens_folder(config.dataset)
        self.computed = 0
        self._places: dict[str, np.ndarray | None] = {}
        tokens = self._compute(torch.zeros(1, 3, *(config.dataset.image_size,) * 2, dtype=torch.uint8))
        self.scorer = TokenScorer.like(scorer, tokens)
        _, count, channels = tokens.values.shape
        self._one = TokenShape(1, self.scorer.num_prefix, count, channels, tokens.grid, config.cache.dtype)
        self._network = self._describe_network()
        self.views = [view for split in Splits._fields for view in self._views(split)]

    @property
    def bytes(self) -> int:
        """Bytes of all tokens of the run, computed or not."""
        return sum({view.store.key: view.store.shape.bytes for view in self.views}.values())

    def describe(self) -> str:
        """One line: `tokens: 49 x 1,280 float16 of each of 10,500 images, 1.3 GB in FOLDER`."""
        shape = self._one
        images = sum({view.store.key: view.store.shape.images for view in self.views}.values())
        size = f"{shape.prefix + shape.tokens} x {shape.channels:,} {shape.dtype}"
        return f"tokens: {size} for each of {counted(images, 'image')}, {size_text(self.bytes)} in {self.root}"

    def fill(self, progress: Progress, should_stop: Callable[[], bool]) -> bool:
        """Compute what no earlier run has. All processes of the group call it.

        Args:
            should_stop: whether a signal arrived; called after each batch of a single process, else after each shard.

        Returns:
            False where it was stopped before the end; what has been computed is kept.

        Raises:
            ConfigError: the tokens would take more than `cache.max_gb`, or than there is space for.
            RunError: tokens are not finite or cannot be written.
            DataError: an image cannot be read.
        """
        if self.group.is_main:
            self._check_space()
        return all(self._fill(view, progress, should_stop) for view in self.views)

    def train_loader(self) -> TrainLoader:
        """As `build.build_train_loader`, with tokens."""
        stores = [view.store for view in self.views if view.split == "train"]
        tokens = CachedTokens(self.splits.train, stores, self._places["train"])
        return build.build_train_loader(self.config, self.splits.train, self._images.device, self.group, tokens)

    def eval_loader(self, split: str) -> EvalLoader:
        """As `build.build_eval_loader` of a split, with tokens."""
        index = getattr(self.splits, split)
        stores = [view.store for view in self.views if view.split == split]
        tokens = CachedTokens(index, stores, self._places[split])
        return build.build_eval_loader(self.config, index, self._images.device, self.group, tokens)

    # What tokens depend on --------------------------------------------------------------------------------------------

    def _views(self, split: str) -> Iterator[_View]:
        config, index = self.config, getattr(self.splits, split)
        rows = self._used_rows(split, index)
        places = None
        if rows is not None:
            places = np.zeros(len(index), np.int64)
            places[rows] = np.arange(len(rows))
            index = index.subset(rows)
        self._places[split] = places
        augmented = split == "train" and config.augment.name != "none"
        transform = build.build_augment(config) if split == "train" else build.build_resize(config)
        images = _digest_images(index)
        for number in range(config.cache.views if augmented else 1):
            seen = {"augment": to_mapping(config.augment), "view": number} if augmented else repr(transform)
            depends = self._network | {"images": images, "transform": seen}
            store = TokenStore(self.root, dataclasses.replace(self._one, images=len(index)), depends)
            yield _View(split, number, index, transform, store)

    def _used_rows(self, split: str, index: ImageIndex) -> np.ndarray | None:
        """The rows that a run with limited batches uses; None for all."""
        runtime = self.config.runtime
        if split == "train":
            if runtime.limit_train_batches is None:
                return None
            loader = build.build_train_loader(self.config, index, torch.device("cpu"))
            return loader.used_rows(self.config.schedule.epochs)
        if runtime.limit_eval_batches is None:
            return None
        batch_size = runtime.eval_batch_size or self.config.schedule.batch_size
        return np.arange(min(len(index), runtime.limit_eval_batches * batch_size))

    def _describe_network(self) -> dict[str, Any]:
        backbone, images = self.backbone, self._images
        digest = hashlib.sha256(f"{backbone.model} {backbone.final_norm} {backbone.prefix_tokens}".encode())
        for name, value in sorted(backbone.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return {
            "network": digest.hexdigest(),
            "normalization": [images.normalization.mean, images.normalization.std],
            "image_size": self.config.dataset.image_size,
            "scaled_decoding": self.config.dataset.scaled_decoding,
            "precision": str(images.dtype),
            "memory_format": str(images.memory_format),
            "batch_size": self._batch_size,
            "device": images.device.type,
            "versions": {"torch": torch.__version__, "timm": timm.__version__, "opencv": cv2.__version__},
        }

    # Computing --------------------------------------------------------------------------------------------------------

    @property
    def _batch_size(self) -> int:
        return self.config.cache.batch_size or (CPU_BATCH if self._images.device.type == "cpu" else BATCH)

    def _check_space(self) -> None:
        cache, needed = self.config.cache, self.bytes
        at_least = math.ceil(needed / GB * 100) / 100
        if needed > cache.max_gb * GB:
            raise ConfigError(
                f"{self.describe()}: more than cache.max_gb={cache.max_gb:g}; use cache.max_gb={at_least:g}, a "
                "smaller dataset.image_size, fewer cache.views, or cache.tokens=false"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        missing = sum({view.store.key: view.store.missing_bytes() for view in self.views}.values())
        if missing > (free := shutil.disk_usage(self.root).free):
            raise ConfigError(
                f"{self.describe()}: only {size_text(free)} are free there; use dataset.cache=FOLDER for another "
                "place, mldec cache clear to delete tokens of earlier runs, or cache.tokens=false"
            )

    def _fill(self, view: _View, progress: Progress, should_stop: Callable[[], bool]) -> bool:
        store, group = view.store, self.group
        with ExitStack() as held:
            missing: list[int] = []
            if group.is_main:
                # Complete tokens can be read where nothing can be written.
                if store.missing_bytes() or store.missing():
                    # Another run may compute the same. Of a group the others wait for this process meanwhile, so that a
                    # collective call is not possible.
                    if not held.enter_context(store.lock(_Patience(should_stop if group.size == 1 else lambda: False))):
                        return False
                    missing = store.missing()
                    if missing:
                        store.prepare(self._title(view))
                store.mark_used()
            missing = group.broadcast(missing)
            if not missing:
                return True
            own = missing[group.rank :: group.size]
            rounds = -(-len(missing) // group.size)
            name = view.split if len([v for v in self.views if v.split == view.split]) == 1 else f"train {view.number}"
            with progress(f"tokens of {name}", sum(len(store.shape.rows(shard)) for shard in own)) as bar:
                for _, done in zip(range(rounds), self._shards(view, own, bar, should_stop), strict=False):
                    if not done or (group.size > 1 and should_stop()):
                        return False
            return True

    def _shards(self, view: _View, own: list[int], bar: Bar, should_stop: Callable[[], bool]) -> Iterator[bool]:
        """Compute and write shards. Gives True after each, then for ever; False where a single process is stopped."""
        store = view.store
        shape = store.shape
        parts: list[np.ndarray] = []
        pending = list(own)
        rows = [row for shard in own for row in shape.rows(shard)]
        loader = view_loader(
            view.index,
            view.transform,
            rows,
            batch_size=self._batch_size,
            workers=count_workers(self.config.runtime, self._images.device),
            view=view.number,
            pin_memory=self._images.device.type == "cuda",
            scaled_decoding=self.config.dataset.scaled_decoding,
        )
        with ThreadPoolExecutor(1) as reader:
            for batch in _ahead(loader, reader) if rows else ():
                tokens = self._compute(batch.images)
                values = tokens.values if tokens.prefix is None else torch.cat([tokens.prefix, tokens.values], 1)
                parts.append(values.to("cpu", getattr(torch, shape.dtype)).numpy())
                bar.advance(len(batch.ids))
                while pending and sum(map(len, parts)) >= len(shape.rows(pending[0])):
                    whole = np.concatenate(parts)
                    size = len(shape.rows(pending[0]))
                    store.write(pending.pop(0), whole[:size])
                    self.computed += size
                    parts = [whole[size:]] if len(whole) > size else []
                    yield True
                if self.group.size == 1 and should_stop():
                    yield False
        while True:
            yield True

    @torch.inference_mode()
    def _compute(self, images: Tensor) -> Tokens:
        """Tokens of uint8 images (B,3,H,W)."""
        inputs = self._images.prepare(images.to(self._images.device, non_blocking=True))
        was_training = self.backbone.training
        self.backbone.eval()
        with autocast(self._images.device, self._images.dtype):
            tokens: Tokens = self.backbone(inputs)
        self.backbone.train(was_training)
        return tokens

    def _title(self, view: _View) -> dict[str, Any]:
        backbone = self.config.backbone
        return {
            "dataset": self.config.dataset.name,
            "folder": os.path.abspath(view.index.root),
            "split": view.split,
            "view": view.number,
            "images": len(view.index),
            "backbone": getattr(backbone, "model", backbone.name),
            "image_size": self.config.dataset.image_size,
        }


def _ahead(batches: Iterator[Batch], reader: ThreadPoolExecutor) -> Iterator[Batch]:
    """The same batches; the next one is decoded by a thread of `reader` while one is used."""
    following = reader.submit(next, batches, None)
    while (batch := following.result()) is not None:
        following = reader.submit(next, batches, None)
        yield batch


class _Patience:
    """Whether to wait on for another process; reports the first time that it does."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop, self._waits = should_stop, False

    def __call__(self) -> bool:
        if not self._waits:
            logger.info("waiting for another process that computes the same tokens")
        self._waits = True
        return not self._should_stop()


def tokens_folder(dataset: DatasetConfig) -> Path:
    """The folder of the tokens of a dataset's images. Raises ConfigError where none is known."""
    folder = cache_folder(dataset)
    if folder is None:
        raise ConfigError("cache.tokens=true: the user has no cache folder; name one: dataset.cache=FOLDER")
    return Path(folder) / FOLDER


def _digest_images(index: ImageIndex) -> str:
    """Of the image files in order: their paths within the dataset, sizes and times of change.

    Both times count: programs set the time of the content (`cp -p`, archives), but not that of the file's status. Where
    the dataset lies does not count, so another path to it has the same tokens; a copy has others.
    """
    digest = hashlib.sha256()
    for row, name in enumerate(index.names()):
        try:
            status = os.stat(index.path(row))
            facts = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0"
        except OSError:
            facts = f"{name}\0"  # reading it says what is wrong
        digest.update(facts.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
