"""What a trained network says of images: scores by label, and where it looked."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mldec.data.image import decode, from_pillow
from mldec.engine import build, exported_model
from mldec.engine.cam_alignment import measure_shift
from mldec.engine.checkpoint import Restored, Weights, load_checkpoint, restore, run_folder
from mldec.engine.device import autocast, choose_device, choose_precision
from mldec.engine.image_sheets import View
from mldec.engine.thresholds import FILE, Thresholds, read_thresholds
from mldec.errors import ConfigError, DataError, RunError
from mldec.labels import LabelSpace
from mldec.models.classifier import Classifier
from mldec.models.heads.maps import Weighting
from mldec.models.label_embeddings import LabelEmbeddingsConfig
from mldec.models.tokens import Tokens

BATCH = 32  # images that are scored at a time
AHEAD = 2  # batches that are decoded while one is scored
MAPS_BATCH = 8  # images whose maps are made at a time: on the way there are features for each image and label

Precision = Literal["auto", "fp32", "bf16", "fp16"]
ImageInput = Any  # a path, a PIL image, or uint8: (H,W,3) RGB or (H,W) grey


class Answer(NamedTuple):
    """What the network says of an image: scores (N,) float32 in 0..1; or None, and why it could not be read."""

    image: ImageInput
    scores: np.ndarray | None
    error: str = ""


def load(
    path: str | Path, weights: Weights = "best", device: str = "auto", precision: Precision = "auto"
) -> Predictor:
    """The network of a run directory, a checkpoint or an exported folder, ready for images.

    Args:
        weights: "best", those whose metric training reported; "ema", their moving average; or "raw", without averaging.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto" (bf16 on CUDA that has it, else fp32), "fp32", "bf16" or "fp16".

    Raises:
        CheckpointError: there is none, it is damaged, or holds something else.
        ConfigError: no such device.
    """
    return Predictor(restore(path, weights=weights), device, precision)


class Predictor:
    """A network with the preprocessing that it was trained with.

    Attributes:
        model: the Classifier, in evaluation.
        labels: what the scores are of; of a zero-shot network those that are asked for.
    """

    def __init__(self, restored: Restored, device: str = "auto", precision: Precision = "auto") -> None:
        self.config, self.normalization, self.path = restored.config, restored.normalization, restored.path
        self.device = choose_device(device)
        self.dtype = choose_precision(precision, self.device)
        self.model: Classifier = restored.classifier.to(self.device)
        self.softmax = build.uses_softmax(self.config)
        self._fit = build.build_resize(self.config)
        self._shift: tuple[float, float] | None = None  # of maps, measured once somebody asks
        vocabulary = self.model.vocabulary
        self.label_embeddings_config: LabelEmbeddingsConfig | None = getattr(self.config.head, "label_embeddings", None)
        self.labels = restored.labels if vocabulary is None else LabelSpace(vocabulary.names)

    def set_labels(self, names: Sequence[str]) -> None:
        """Ask a zero-shot network for `names`, trained or not, any number in any order.

        Raises DataError if the network has no label embeddings, or if there is none for a name.
        """
        build.set_query_labels(self.model, names, self.label_embeddings_config)
        self.labels = LabelSpace(names)

    def take_label_embeddings_from(self, source: str) -> None:
        """Look vectors of new labels up in `source`, in one of the forms of `head.label_embeddings.source`.

        Templates and aliases stay those of the run; names of an array only if the source does. Raises ConfigError for
        no source.
        """
        stored = self.label_embeddings_config
        try:
            if stored is None:
                self.label_embeddings_config = LabelEmbeddingsConfig(source=source)
            elif source != stored.source:  # which has names of its own
                self.label_embeddings_config = dataclasses.replace(stored, source=source, names=None)
        except ValueError as error:
            raise ConfigError(f"label_embeddings={source}: {error}") from None

    @functools.cached_property
    def thresholds(self) -> Thresholds | None:
        """What was tuned on val for each label, from the run or exported folder; None if it has none. May be set.

        Raises DataError for a file that is broken.
        """
        folder = run_folder(self.path)
        if (folder / FILE).exists():
            return read_thresholds(folder / FILE)
        if not exported_model.is_exported(folder):
            return None
        content = load_checkpoint(self.path)
        values = content["thresholds"]
        return None if values is None else Thresholds(LabelSpace(content["labels"]), np.array(values, np.float64))

    def scores(self, images: Sequence[ImageInput], batch_size: int = BATCH) -> np.ndarray:
        """(S,N) float32 scores in 0..1 in the order of `labels`.

        Raises DataError for an image that cannot be read.
        """
        if isinstance(images, (str, Path, Image.Image)):
            raise DataError(f"expected a list of images, found one; put it in brackets: [{images!r}]")
        rows = []
        for answer in itertools.chain.from_iterable(self.stream(images, batch_size=batch_size)):
            if answer.scores is None:
                raise DataError(answer.error)
            rows.append(answer.scores)
        return np.stack(rows) if rows else np.empty((0, len(self.labels)), np.float32)

    def stream(
        self, images: Iterable[ImageInput], *, batch_size: int = BATCH, workers: int | None = None
    ) -> Iterator[list[Answer]]:
        """Answers for any number of images, a batch at a time, in order. An image that cannot be read stops nothing.

        Args:
            workers: threads that read images while the network computes; 0: none, None: one, or on another device
                than the CPU one a core, at most 8.

        Raises RunError if scores are not finite, or if a batch does not fit the device's memory.
        """
        if workers is None:
            workers = 1 if self.device.type == "cpu" else min(8, os.cpu_count() or 1)
        remaining = iter(images)
        batches = iter(lambda: list(itertools.islice(remaining, batch_size)), [])
        if workers == 0:
            for batch in batches:
                yield self._answer(batch, [self._try(image) for image in batch])
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        waiting: deque[tuple[list[ImageInput], list[Future]]] = deque()
        try:
            for batch in batches:
                waiting.append((batch, [pool.submit(self._try, image) for image in batch]))
                if len(waiting) > AHEAD:
                    first, arrays = waiting.popleft()
                    yield self._answer(first, [array.result() for array in arrays])
            for batch, arrays in waiting:
                yield self._answer(batch, [array.result() for array in arrays])
        finally:
            pool.shutdown(cancel_futures=True)

    def predict(
        self,
        images: Sequence[ImageInput],
        threshold: float | Literal["tuned"] | np.ndarray = 0.5,
        top_k: int | None = None,
    ) -> list[dict[str, float]]:
        """For each image its labels with their scores, the best first.

        Args:
            images: paths, Pillow's images, or arrays of uint8: (H,W,3) RGB or (H,W) grey.
            threshold: labels with a score above it are given; "tuned": above what was tuned on val for each, and above
                0.5 for labels that were not there; or an array (N,).
            top_k: give the best k labels instead.

        Raises DataError for an image that cannot be read, and where nothing was tuned.
        """
        cuts = self.tuned() if isinstance(threshold, str) and threshold == "tuned" else threshold
        return [self.name(row, cuts, top_k) for row in self.scores(images)]

    def tuned(self, default: float = 0.5) -> np.ndarray:
        """(N,) thresholds of `labels` that were tuned on val; labels that were not there get `default`.

        Raises DataError if nothing was tuned.
        """
        if self.thresholds is None:
            raise DataError(
                f"{self.path} has no {FILE}; run mldec evaluate run=RUN split=val tune_thresholds=true, or set a threshold"
            )
        return self.thresholds.of(self.labels, default).values

    def name(
        self, scores: np.ndarray, threshold: float | np.ndarray = 0.5, top_k: int | None = None
    ) -> dict[str, float]:
        """Labels and scores of one row of `scores`, as `predict` gives them; `threshold`: one, or (N,)."""
        order = np.argsort(-scores, kind="stable")[:top_k]
        given = np.ones(len(scores), bool) if top_k is not None else scores > threshold
        return {self.labels.names[i]: float(scores[i]) for i in order if given[i]}

    def maps(self, images: Sequence[ImageInput], weighting: Weighting = "label") -> np.ndarray:
        """(S,N,H,W) float32: where in the images the network found what it says of each label.

        H and W are those of the backbone's last map; `view` says where in the image that lies.

        Args:
            weighting: "label": what each place contributes to the label's logit, positive or negative, in logits; for
                average pooling that is the class activation map. "attention": where the query of the label looks, heads
                averaged; each map sums to 1, and labels of one group share it. See `mldec/models/heads/maps.py`.

        Raises:
            ConfigError: no such weighting.
            DataError: the head has no such maps, or the backbone's tokens are no map; or an image cannot be read.
        """
        if weighting not in get_args(Weighting):
            raise ConfigError(f"weighting={weighting}: no such weighting; use {' or '.join(get_args(Weighting))}")
        parts = [self._maps(images[at : at + MAPS_BATCH], weighting) for at in range(0, len(images), MAPS_BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, *self.check_maps(weighting)), np.float32)

    def check_maps(self, weighting: Weighting = "label") -> tuple[int, int, int]:
        """N, H and W of `maps`, whose DataError it raises where there are none."""
        _, *shape = self.maps([np.zeros((8, 8, 3), np.uint8)], weighting).shape
        return tuple(shape)

    def view(self, height: int, width: int) -> View:
        """Where in an image of that size, in pixels, its maps lie."""
        if self._shift is None:
            self._shift = measure_shift(self.model.backbone, self.normalization, self._fit.image_size)
        return View(self._fit.box(height, width), self._shift)

    def _maps(self, images: Sequence[ImageInput], weighting: Weighting) -> np.ndarray:
        head = self.model.head
        if not hasattr(head, "maps"):
            raise DataError(f"head={self.config.head.name} has no maps: it cannot say where it found a label")
        with torch.inference_mode():
            tokens: Tokens = self.model.backbone(self._images(images))
            if tokens.grid is None:
                raise DataError(f"backbone={self.config.backbone.name}: its tokens are no map")
            maps_BNT: Tensor = head.maps(tokens, weighting)  # type: ignore[operator]
            maps: np.ndarray = maps_BNT.unflatten(2, tokens.grid).float().cpu().numpy()
        return maps

    def _answer(self, images: Sequence[ImageInput], arrays: Sequence[np.ndarray | DataError]) -> list[Answer]:
        """Answers for images of which some could be read."""
        sound = [array for array in arrays if not isinstance(array, DataError)]
        rows = iter(self._scores(self._normalized(sound)) if sound else ())
        return [
            Answer(image, None, str(array)) if isinstance(array, DataError) else Answer(image, next(rows))
            for image, array in zip(images, arrays, strict=True)
        ]

    def _scores(self, images: Tensor) -> np.ndarray:
        try:
            with torch.inference_mode(), autocast(self.device, self.dtype):
                logits = self.model(images).float()
        except torch.OutOfMemoryError:
            raise RunError(
                f"out of memory on {self.device} with {len(images)} images at a time; lower batch_size"
            ) from None
        scores: np.ndarray = (logits.softmax(-1) if self.softmax else logits.sigmoid()).detach().cpu().numpy()
        if not np.isfinite(scores).all():
            raise RunError(f"{self.path}: scores are not finite; the weights are damaged")
        return scores

    def _images(self, images: Sequence[ImageInput]) -> Tensor:
        return self._normalized([self._read(image) for image in images])

    def _normalized(self, arrays: Sequence[np.ndarray]) -> Tensor:
        # In the order of memory that evaluation has: convolutions of another one differ in the last bit.
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        return self.normalization(images.to(self.device))

    def _read(self, image: ImageInput) -> np.ndarray:
        """(S,S,3) uint8: an image as evaluation sees it."""
        return self._fit(read(image, self._fit.min_side if self.config.dataset.scaled_decoding else None))

    def _try(self, image: ImageInput) -> np.ndarray | DataError:
        try:
            return self._read(image)
        except DataError as error:
            return error


def read(image: ImageInput, min_side: int | None = None) -> np.ndarray:
    """(H,W,3) uint8 RGB of a path, an image of Pillow, or an array (H,W,3) RGB or (H,W) grey, uint8.

    Raises DataError for anything else, and for what `decode` refuses.
    """
    if isinstance(image, (str, Path)):
        return decode(str(image), min_side)
    if isinstance(image, Image.Image):
        return from_pillow(image)
    array = np.asarray(image)
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)) or 0 in array.shape:
        raise DataError(
            f"an image is a path, an image of Pillow, or uint8 (H,W,3) RGB or (H,W) grey; found "
            f"{type(image).__name__} of {array.dtype} {array.shape}; "
            "for other forms: PIL.Image.fromarray(array), or scale it to 0..255"
        )
    return np.repeat(array[..., None], 3, axis=2) if grey else np.ascontiguousarray(array)
