"""Using a trained network: scores by label, and class activation maps."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mldec.config import Precision, Weights
from mldec.data.image import decode, from_pillow
from mldec.engine import build
from mldec.engine.cam_alignment import measure_shift
from mldec.engine.checkpoint import Restored, restore
from mldec.engine.config_properties import uses_softmax
from mldec.engine.device import autocast, choose_device, choose_precision
from mldec.engine.image_sheets import View
from mldec.engine.inference import ImageScorer
from mldec.engine.known_labels import label_states, with_known
from mldec.engine.thresholds import LabelThresholds
from mldec.errors import ConfigError, DataError, RunError
from mldec.labels import LabelSpace
from mldec.models.classifier import Classifier
from mldec.models.heads.maps import Weighting
from mldec.models.label_embeddings import LabelEmbeddingsConfig
from mldec.models.tokens import Tokens
from mldec.system import usable_cores

BATCH = 32  # images per forward pass
AHEAD = 2  # batches that are decoded while one is computed
MAPS_BATCH = 8  # images whose maps are computed together: intermediate features have an entry per image and label

ImageInput = Any  # a path, a PIL image, or uint8: (H,W,3) RGB or (H,W) grey


class Prediction(NamedTuple):
    """The result for one image.

    Attributes:
        image: the input.
        scores: (N,) float32 in 0..1, or None if the image could not be read.
        error: why it could not be read.
        pixels: (H,W,3) uint8, the decoded image that was scored; only if kept by `Predictor.stream`.
        maps: (N,h,w) float32 of the same forward pass; only if `Predictor.stream` was called with `maps`.
    """

    image: ImageInput
    scores: np.ndarray | None
    error: str = ""
    pixels: np.ndarray | None = None
    maps: np.ndarray | None = None


class _Decoded(NamedTuple):
    """An image in its own size, and resized for the network: (H,W,3) and (S,S,3) uint8."""

    pixels: np.ndarray
    resized: np.ndarray


def load(path: str | Path, weights: Weights = "best", device: str = "auto", precision: Precision = "auto") -> Predictor:
    """The network of a run directory, a checkpoint or an exported folder, ready for images.

    Args:
        weights: "best", those whose metric training reported; "ema", their moving average; or "raw", without averaging.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto" (bf16 on CUDA that has it, else fp32), "fp32", "bf16" or "fp16".

    Raises:
        CheckpointError: it is missing, damaged, or not of mldec.
        ConfigError: the device is not available.
    """
    return Predictor(restore(path, weights=weights), device, precision)


class Predictor:
    """A network with the preprocessing that it was trained with.

    Attributes:
        model: the Classifier, in eval mode.
        labels: the labels of the scores; for a zero-shot network the query labels.
        thresholds: tuned on val for the loaded weights; None if there are none. May be set.
    """

    def __init__(self, restored: Restored, device: str = "auto", precision: Precision = "auto") -> None:
        self.config, self.normalization, self.path = restored.config, restored.normalization, restored.path
        self.thresholds: LabelThresholds | None = restored.thresholds
        self.device = choose_device(device)
        self.dtype = choose_precision(precision, self.device)
        self.model: Classifier = restored.classifier.to(self.device)
        self.scorer = ImageScorer(self.normalization, self.device, self.dtype, uses_softmax(self.config))
        self._resize = build.build_resize(self.config)
        self._shift: tuple[float, float] | None = None  # of maps, measured when first needed
        vocabulary = self.model.vocabulary
        self.label_embeddings_config: LabelEmbeddingsConfig | None = getattr(self.config.head, "label_embeddings", None)
        self.labels = restored.labels if vocabulary is None else LabelSpace(vocabulary.names)

    # Labels -----------------------------------------------------------------------------------------------------------

    @property
    def single_label(self) -> bool:
        """Whether the images that it was trained on have exactly one label each."""
        return bool(self.config.dataset.single_label)

    def set_labels(self, names: Sequence[str]) -> None:
        """Set the query labels of a zero-shot network: any number, trained or not, in any order.

        Raises DataError if the network has no label embeddings, or a label has none.
        """
        build.set_query_labels(self.model, names, self.label_embeddings_config)
        self.labels = LabelSpace(names)

    def take_label_embeddings_from(self, source: str) -> None:
        """Read embeddings of new labels from `source`, in any form of `head.label_embeddings.source`.

        Templates and aliases remain those of the run; its array names only apply to its own source. Raises ConfigError
        if the source is not valid.
        """
        stored = self.label_embeddings_config
        try:
            if stored is None:
                self.label_embeddings_config = LabelEmbeddingsConfig(source=source)
            elif source != stored.source:
                self.label_embeddings_config = dataclasses.replace(stored, source=source, names=None)
        except ValueError as error:
            raise ConfigError(f"label_embeddings={source}: {error}") from None

    # Scores -----------------------------------------------------------------------------------------------------------

    def scores(
        self, images: Sequence[ImageInput], batch_size: int = BATCH, known: Mapping[str, int] | None = None
    ) -> np.ndarray:
        """(S,N) float32 scores in 0..1, columns in the order of `labels`; `known` as in `predict`.

        Raises DataError for an image that cannot be read, and ConfigError as `check_known`.
        """
        if isinstance(images, (str, Path, Image.Image)):
            raise DataError(f"expected a list of images, found one image; pass [{images!r}]")
        rows = [prediction.scores for prediction in self._readable(images, batch_size, known=known)]
        return np.array(rows, np.float32) if rows else np.empty((0, len(self.labels)), np.float32)

    def stream(
        self,
        images: Iterable[ImageInput],
        *,
        batch_size: int = BATCH,
        workers: int | None = None,
        maps: Weighting | None = None,
        known: Mapping[str, int] | None = None,
    ) -> Iterator[list[Prediction]]:
        """Predictions for any number of images, in order, a batch at a time. What cannot be read has an error instead.

        Args:
            workers: threads that decode images while the network computes; 0: none, None: one on the CPU, otherwise one
                per core, at most 8.
            maps: also return the maps of this weighting (see `maps`) and the decoded pixels.
            known: as in `predict`; maps are of the network that was told these labels.

        Raises:
            RunError: scores are not finite, or a batch does not fit into the device's memory.
            ConfigError, DataError: as `maps` and `check_known`.
        """
        states = self._states(known)
        if maps is not None:
            self._check_weighting(maps)
        if workers is None:
            workers = 1 if self.device.type == "cpu" else min(8, usable_cores())
        remaining = iter(images)
        batches = iter(lambda: list(itertools.islice(remaining, batch_size)), [])
        if workers == 0:
            for batch in batches:
                yield self._predict(batch, [self._decode(image) for image in batch], maps, states)
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        waiting: deque[tuple[list[ImageInput], list[Future]]] = deque()
        try:
            for batch in batches:
                waiting.append((batch, [pool.submit(self._decode, image) for image in batch]))
                if len(waiting) > AHEAD:
                    first, decoded = waiting.popleft()
                    yield self._predict(first, [future.result() for future in decoded], maps, states)
            for batch, decoded in waiting:
                yield self._predict(batch, [future.result() for future in decoded], maps, states)
        finally:
            pool.shutdown(cancel_futures=True)

    def predict(
        self,
        images: Sequence[ImageInput],
        threshold: float | Literal["tuned"] | np.ndarray | None = None,
        top_k: int | None = None,
        known: Mapping[str, int] | None = None,
    ) -> list[dict[str, float]]:
        """The predicted labels of each image with their scores, highest first.

        Args:
            images: paths, Pillow images, or uint8 arrays: (H,W,3) RGB or (H,W) grey.
            threshold: labels with a higher score are predicted; "tuned": the threshold that was tuned on val for each
                label, and 0.5 for labels without one; or an array (N,). None: 0.5. With None and "tuned" a network of
                images with one label each, which has no thresholds, predicts the best label.
            top_k: predict the k labels with the highest scores instead.
            known: labels of all these images that are known already, 1 present or 0 absent: {"cat": 1, "dog": 0}. The
                network is told them and predicts the others; their own score is the given value, exactly. Only
                for head=c_tran, trained with head.label_masks=true. With a softmax (one label per image) the labels
                that are left share the mass of absent ones.

        Raises DataError for an image that cannot be read, and if there are no tuned thresholds; ConfigError as
        `check_known`.
        """
        if threshold is None or (isinstance(threshold, str) and threshold == "tuned"):
            if self.single_label and top_k is None:
                threshold, top_k = 0.5, 1
            else:
                threshold = 0.5 if threshold is None else self.tuned_thresholds().values
        return [self.name(row, threshold, top_k) for row in self.scores(images, known=known)]

    def check_known(self, known: Mapping[str, int]) -> None:
        """Raise ConfigError for labels that the network cannot be told.

        That is an unknown name, a value other than 0 and 1, or any label of a head that reads none; and for images of
        one label each two present labels, or all labels absent.
        """
        self._states(known)

    def _states(self, known: Mapping[str, int] | None) -> Tensor | None:
        """(1,N) int8 on the device, see `label_states`."""
        states = label_states(known or {}, self.config, self.model, self.labels)
        return None if states is None else states.to(self.device)

    def tuned_thresholds(self, default: float = 0.5) -> LabelThresholds:
        """The tuned thresholds of `labels`; labels without one get `default`.

        Raises DataError if there are no tuned thresholds.
        """
        if self.single_label:
            raise DataError(
                f"{self.path}: images of this run have one label each, so there are no tuned thresholds; the best "
                "label is predicted without threshold= and thresholds="
            )
        if self.thresholds is None:
            raise DataError(
                f"{self.path} has no tuned thresholds; run mldec evaluate run=RUN split=val tune_thresholds=true, or "
                "set threshold="
            )
        return self.thresholds.of(self.labels, default)

    def name(
        self, scores: np.ndarray, threshold: float | np.ndarray = 0.5, top_k: int | None = None
    ) -> dict[str, float]:
        """Labels and scores of one row of `scores`, see `predict`; `threshold` is a number or (N,)."""
        order = np.argsort(-scores, kind="stable")[:top_k]
        predicted = np.ones(len(scores), bool) if top_k is not None else scores > threshold
        return {self.labels.names[i]: float(scores[i]) for i in order if predicted[i]}

    # Maps -------------------------------------------------------------------------------------------------------------

    def maps(
        self,
        images: Sequence[ImageInput],
        weighting: Weighting = "label",
        known: Mapping[str, int] | None = None,
    ) -> np.ndarray:
        """(S,N,H,W) float32 class activation maps: where in the images the evidence for each label is.

        H and W are those of the backbone's last feature map; `view` gives its position in the image.

        Args:
            weighting: "label": the contribution of each position to the label's logit, positive or negative; with
                average pooling this is the class activation map. "attention": the attention of the label's query,
                averaged over heads; each map sums to 1, and labels of one group share it. See
                `mldec/models/heads/maps.py`.
            known: as in `predict`.

        Raises:
            ConfigError: unknown weighting, or as `check_known`.
            DataError: the head has no such maps, the backbone's tokens have no grid, or an image cannot be read.
        """
        found = [prediction.maps for prediction in self._readable(images, MAPS_BATCH, weighting, known)]
        return np.array(found) if found else np.empty((0, *self.check_maps(weighting)), np.float32)

    def check_maps(self, weighting: Weighting = "label") -> tuple[int, int, int]:
        """N, H and W of `maps`. Raises as `maps` if there are none."""
        _, *shape = self.maps([np.zeros((8, 8, 3), np.uint8)], weighting).shape
        return tuple(shape)

    def view(self, height: int, width: int) -> View:
        """The position of maps in an image of that size in pixels."""
        if self._shift is None:
            self._shift = measure_shift(self.model.backbone, self.normalization, self._resize.image_size)
        return View(self._resize.box(height, width), self._shift)

    def _readable(
        self,
        images: Sequence[ImageInput],
        batch_size: int,
        maps: Weighting | None = None,
        known: Mapping[str, int] | None = None,
    ) -> Iterator[Prediction]:
        """The predictions of `stream`. Raises DataError for an image that cannot be read."""
        batches = self.stream(images, batch_size=batch_size, maps=maps, known=known)
        for prediction in itertools.chain.from_iterable(batches):
            if prediction.error:
                raise DataError(prediction.error)
            yield prediction

    # One batch --------------------------------------------------------------------------------------------------------

    def _predict(
        self,
        images: Sequence[ImageInput],
        decoded: Sequence[_Decoded | DataError],
        weighting: Weighting | None,
        known: Tensor | None,
    ) -> list[Prediction]:
        """Predictions for images of which some could not be decoded."""
        valid = [image for image in decoded if not isinstance(image, DataError)]
        found: Iterator[tuple[np.ndarray, np.ndarray | None]] = iter(())
        if valid:
            scores, tokens = self._forward(np.stack([image.resized for image in valid]), known)
            maps = [None] * len(valid) if weighting is None else self._maps(tokens, weighting, known)
            found = zip(scores, maps, strict=True)
        predictions = []
        for image, result in zip(images, decoded, strict=True):
            if isinstance(result, DataError):
                predictions.append(Prediction(image, None, str(result)))
            else:
                row, row_maps = next(found)
                pixels = None if weighting is None else result.pixels
                predictions.append(Prediction(image, row, pixels=pixels, maps=row_maps))
        return predictions

    @torch.inference_mode()
    def _forward(self, resized: np.ndarray, known: Tensor | None) -> tuple[np.ndarray, Tokens]:
        """Scores (B,N) and the backbone's tokens of images (B,S,S,3) uint8; `known` (1,N)."""
        kept: list[Tokens] = []

        def network(images: Tensor) -> Tensor:
            kept.append(self.model.backbone(images))
            if known is None:
                return self.model.head(kept[0])
            return with_known(self.model.head(kept[0], known=known), known, self.scorer.softmax)

        images = torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous()
        try:
            scores = self.scorer(network, images).cpu().numpy()
        except torch.OutOfMemoryError:
            raise RunError(
                f"out of memory on {self.device} with {len(images)} images per batch; lower batch_size"
            ) from None
        if not np.isfinite(scores).all():
            raise RunError(f"{self.path}: scores are not finite; the weights are damaged")
        return scores, kept[0]

    def _maps(self, tokens: Tokens, weighting: Weighting, known: Tensor | None) -> Iterator[np.ndarray]:
        """(N,H,W) for each image of tokens (B,T,C); `known` (1,N)."""
        if tokens.grid is None:
            raise DataError(f"backbone={self.config.backbone.name} has no maps: its tokens have no grid")
        head, told = self.model.head, {} if known is None else {"known": known}
        for first in range(0, len(tokens.values), MAPS_BATCH):
            some = slice(first, first + MAPS_BATCH)
            part = Tokens(tokens.values[some], tokens.grid, None if tokens.prefix is None else tokens.prefix[some])
            with torch.inference_mode(), autocast(self.device, self.dtype):
                maps_BNT: Tensor = head.maps(part, weighting, **told)  # type: ignore[operator]
            yield from maps_BNT.unflatten(2, tokens.grid).float().cpu().numpy()

    def _check_weighting(self, weighting: str) -> None:
        if weighting not in get_args(Weighting):
            raise ConfigError(f"weighting={weighting}: no such weighting; use {' or '.join(get_args(Weighting))}")
        if not hasattr(self.model.head, "maps"):
            raise DataError(f"head={self.config.head.name} has no maps: it does not localise labels")

    def _decode(self, image: ImageInput) -> _Decoded | DataError:
        try:
            pixels = read(image, self._resize.min_side if self.config.dataset.scaled_decoding else None)
            return _Decoded(pixels, self._resize(pixels))
        except DataError as error:
            return error


def read(image: ImageInput, min_side: int | None = None) -> np.ndarray:
    """(H,W,3) uint8 RGB of a path, a Pillow image, or a uint8 array (H,W,3) RGB or (H,W) grey.

    `min_side` allows to decode a large JPEG at a reduced size, see `decode`. Raises DataError for any other input, and
    as `decode`.
    """
    if isinstance(image, (str, Path)):
        return decode(str(image), min_side)
    if isinstance(image, Image.Image):
        return from_pillow(image)
    array = np.asarray(image)
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)) or 0 in array.shape:
        raise DataError(
            f"an image must be a path, a Pillow image, or uint8 (H,W,3) RGB or (H,W) grey; found "
            f"{type(image).__name__} of {array.dtype} {array.shape}; "
            "convert other forms with PIL.Image.fromarray(array), or scale them to 0..255"
        )
    return np.repeat(array[..., None], 3, axis=2) if grey else np.ascontiguousarray(array)
