"""From images to scores: the one path that evaluation, prediction and reports share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mldec.data.image import Normalization
from mldec.engine.device import autocast


def logits_to_scores(logits: Tensor, softmax: bool) -> Tensor:
    """(B,N) scores in 0..1: the softmax over the labels, or an independent sigmoid for each of them."""
    return logits.softmax(-1) if softmax else logits.sigmoid()


@dataclass(frozen=True)
class ImageScorer:
    """How uint8 images become scores.

    Attributes:
        dtype: precision of matrix products and convolutions.
        softmax: see `logits_to_scores`.
        memory_format: of the images. Convolutions of another one differ in the last bit.
    """

    normalization: Normalization
    device: torch.device
    dtype: torch.dtype = torch.float32
    softmax: bool = False
    memory_format: torch.memory_format = torch.contiguous_format

    def __call__(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """(B,N) float32 scores in 0..1 of uint8 images (B,3,H,W), on `device`.

        `network`: normalised images (B,3,H,W) to logits (B,N).
        """
        normalised = self.normalization(images.to(self.device, non_blocking=True)).to(memory_format=self.memory_format)
        with autocast(self.device, self.dtype):
            logits = network(normalised)
        return logits_to_scores(logits.float(), self.softmax)
