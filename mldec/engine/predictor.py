"""What a trained network says of pictures: scores by label, and where it looked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mldec.data.image import decode
from mldec.data.loader import Resize
from mldec.engine import build
from mldec.engine.alignment import measure_shift
from mldec.engine.checkpoint import Restored, choose_weights, find_checkpoint, load_checkpoint, restore
from mldec.engine.device import autocast, choose_device, choose_precision
from mldec.engine.pictures import View
from mldec.errors import ConfigError, DataError
from mldec.labels import LabelSpace
from mldec.models.classifier import Classifier
from mldec.models.heads.maps import Weighting
from mldec.models.tokens import Tokens
from mldec.models.word_vectors import WordsConfig

BATCH = 32  # pictures that are scored at a time
MAPS_BATCH = 8  # pictures whose maps are made at a time: on the way there are features for each picture and label

Picture = Any  # a path, a PIL picture, or (H,W,3) uint8 RGB


def load(path: str | Path, weights: Literal["ema", "live", "reported"] = "ema", device: str = "auto") -> Predictor:
    """The network of a run folder or checkpoint, ready for pictures.

    Args:
        weights: their moving average, which is what most runs report; a run that kept none has its live ones. Or
            "live", or "reported": those whose metric the run reported.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        CheckpointError: there is none, it is damaged, or holds something else.
        ConfigError: no such device.
    """
    if weights == "ema":
        file = find_checkpoint(path)
        content = load_checkpoint(file)
        weights = "live" if content.get("ema") is None else "ema"
        choose_weights(content, weights, file)
    return Predictor(restore(path, weights=weights), device)


class Predictor:
    """A network with the preprocessing that it was trained with.

    Attributes:
        model: the Classifier, in evaluation.
        labels: what the scores are of; of a zero-shot network those that are asked for.
    """

    def __init__(self, restored: Restored, device: str = "auto") -> None:
        self.config, self.normalization, self.path = restored.config, restored.normalization, restored.path
        self.device = choose_device(device)
        self.dtype = choose_precision("auto", self.device)
        self.model: Classifier = restored.classifier.to(self.device)
        self.softmax = build.uses_softmax(self.config)
        self._fit = Resize(build.image_size(self.config), self.config.dataset.crop)
        self._shift: tuple[float, float] | None = None  # of maps, measured once somebody asks
        words = self.model.words
        self.words_config: WordsConfig | None = getattr(self.config.head, "words", None)
        self.labels = restored.labels if words is None else LabelSpace(words.names)

    def set_labels(self, names: Sequence[str]) -> None:
        """Ask a zero-shot network for `names`, trained or not, any number in any order.

        Raises DataError if the network has no word vectors, or if there is none for a name.
        """
        build.ask_for(self.model, names, self.words_config)
        self.labels = LabelSpace(names)

    def take_words_from(self, source: str) -> None:
        """Look vectors of new labels up in `source`, in one of the forms of `head.words.source`.

        Templates and aliases stay those of the run; names of an array only if the source does. Raises ConfigError for
        no source.
        """
        stored = self.words_config
        try:
            if stored is None:
                self.words_config = WordsConfig(source=source)
            elif source != stored.source:  # which has names of its own
                self.words_config = dataclasses.replace(stored, source=source, names=None)
        except ValueError as error:
            raise ConfigError(f"words={source}: {error}") from None

    def scores(self, pictures: Sequence[Picture]) -> np.ndarray:
        """(S,N) float32 scores in 0..1 in the order of `labels`.

        Raises DataError for a picture that cannot be read.
        """
        parts = [self._scores(pictures[first : first + BATCH]) for first in range(0, len(pictures), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.labels)), np.float32)

    def predict(
        self, pictures: Sequence[Picture], threshold: float = 0.5, top_k: int | None = None
    ) -> list[dict[str, float]]:
        """For each picture its labels with their scores, the best first.

        Args:
            threshold: labels with a score above it are given.
            top_k: give the best k labels instead.
        """
        return [self.name(row, threshold, top_k) for row in self.scores(pictures)]

    def name(self, scores: np.ndarray, threshold: float = 0.5, top_k: int | None = None) -> dict[str, float]:
        """Labels and scores of one row of `scores`, as `predict` gives them."""
        order = np.argsort(-scores, kind="stable")[:top_k]
        return {self.labels.names[i]: float(scores[i]) for i in order if top_k is not None or scores[i] > threshold}

    def maps(self, pictures: Sequence[Picture], weighting: Weighting = "label") -> np.ndarray:
        """(S,N,H,W) float32: where in the pictures the network found what it says of each label.

        H and W are those of the backbone's last map; `view` says where in the picture that lies.

        Args:
            weighting: "label": what each place contributes to the label's logit, positive or negative, in logits; for
                average pooling that is the class activation map. "attention": where the query of the label looks, heads
                averaged; each map sums to 1, and labels of one group share it. See `mldec/models/heads/maps.py`.

        Raises:
            ConfigError: no such weighting.
            DataError: the head has no such maps, or the backbone's tokens are no map; or a picture cannot be read.
        """
        if weighting not in get_args(Weighting):
            raise ConfigError(f"weighting={weighting}: no such weighting; use {' or '.join(get_args(Weighting))}")
        parts = [self._maps(pictures[at : at + MAPS_BATCH], weighting) for at in range(0, len(pictures), MAPS_BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, *self.check_maps(weighting)), np.float32)

    def check_maps(self, weighting: Weighting = "label") -> tuple[int, int, int]:
        """N, H and W of `maps`, whose DataError it raises where there are none."""
        _, *shape = self.maps([np.zeros((8, 8, 3), np.uint8)], weighting).shape
        return tuple(shape)

    def view(self, height: int, width: int) -> View:
        """Where in a picture of that size, in pixels, its maps lie."""
        if self._shift is None:
            self._shift = measure_shift(self.model.backbone, self.normalization, self._fit.image_size)
        return View(self._fit.box(height, width), self._shift)

    def _maps(self, pictures: Sequence[Picture], weighting: Weighting) -> np.ndarray:
        head = self.model.head
        if not hasattr(head, "maps"):
            raise DataError(f"head={self.config.head.name} has no maps: it cannot say where it found a label")
        with torch.inference_mode():
            tokens: Tokens = self.model.backbone(self._images(pictures))
            if tokens.grid is None:
                raise DataError(f"backbone={self.config.backbone.name}: its tokens are no map")
            maps_BNT: Tensor = head.maps(tokens, weighting)  # type: ignore[operator]
            maps: np.ndarray = maps_BNT.unflatten(2, tokens.grid).float().cpu().numpy()
        return maps

    def _scores(self, pictures: Sequence[Picture]) -> np.ndarray:
        with torch.inference_mode():
            images = self._images(pictures)
            with autocast(self.device, self.dtype):
                logits = self.model(images).float()
            scores: np.ndarray = (logits.softmax(-1) if self.softmax else logits.sigmoid()).cpu().numpy()
        return scores

    def _images(self, pictures: Sequence[Picture]) -> Tensor:
        scaled = self._fit.min_side if self.config.dataset.scaled_decoding else None
        arrays = np.stack([self._fit(read(picture, scaled)) for picture in pictures])
        return self.normalization(torch.from_numpy(arrays).permute(0, 3, 1, 2).to(self.device))


def read(picture: Picture, min_side: int | None = None) -> np.ndarray:
    """(H,W,3) uint8 RGB of a path, a PIL picture or such an array. Raises DataError for anything else."""
    if isinstance(picture, (str, Path)):
        return decode(str(picture), min_side)
    array = np.asarray(picture.convert("RGB") if hasattr(picture, "convert") else picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise DataError(f"a picture is a path, a PIL picture or uint8 (H,W,3), found {array.dtype} {array.shape}")
    return array
