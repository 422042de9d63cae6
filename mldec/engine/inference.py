"""From images to scores: the one path that evaluation, prediction and reports share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mldec.data.image import Normalization
from mldec.engine.device import autocast


def logits_to_scores(logits: Tensor, softmax: bool) -> Tensor:
    """(B,N) scores in 0..1: the softmax over the labels, or an independent sigmoid for each of them."""
    return logits.softmax(-1) if softmax else logits.sigmoid()


def score_images(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    normalization: Normalization,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    softmax: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """(B,N) float32 scores in 0..1 of uint8 images (B,3,H,W), on `device`.

    Args:
        network: normalised images (B,3,H,W) to logits (B,N).
        dtype: precision of matrix products and convolutions.
        softmax: see `logits_to_scores`.
        memory_format: of the images. Convolutions of another one differ in the last bit.
    """
    images = normalization(images.to(device, non_blocking=True)).to(memory_format=memory_format)
    with autocast(device, dtype):
        logits = network(images)
    return logits_to_scores(logits.float(), softmax)
