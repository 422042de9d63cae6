"""From images to scores: the one path that evaluation, prediction and reports share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from mldec.data.image import Normalization
from mldec.engine.device import autocast
from mldec.models.tokens import Tokens


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

    def __call__(self, network: Callable[[Any], Tensor], images: Tensor) -> Tensor:
        """(B,N) float32 scores in 0..1 of uint8 images (B,3,H,W), on `device`.

        `network`: what `prepare` gives to logits (B,N).
        """
        inputs = self.prepare(images.to(self.device, non_blocking=True))
        with autocast(self.device, self.dtype):
            logits = network(inputs)
        return logits_to_scores(logits.float(), self.softmax)

    def prepare(self, images: Tensor) -> Any:
        """The input of the network, (B,3,H,W) float32, of uint8 images on the device."""
        return self.normalization(images).contiguous(memory_format=self.memory_format)


@dataclass(frozen=True, kw_only=True)
class TokenScorer(ImageScorer):
    """How cached tokens become scores.

    Attributes:
        grid: of the tokens.
        num_prefix: P, the number of tokens that have no position, which come first.
    """

    grid: tuple[int, int] | None
    num_prefix: int

    @classmethod
    def like(cls, scorer: ImageScorer, tokens: Tokens) -> TokenScorer:
        """As `scorer`, for the values of tokens that are like `tokens`."""
        given = {field.name: getattr(scorer, field.name) for field in fields(ImageScorer)}
        return cls(**given, grid=tokens.grid, num_prefix=0 if tokens.prefix is None else tokens.prefix.shape[1])

    def prepare(self, values: Tensor) -> Tokens:
        """The input of the head, float32, of values (B,P+T,C) on the device."""
        if not self.num_prefix:
            return Tokens(values.float(), self.grid)
        prefix, spatial = (part.float().contiguous() for part in values.tensor_split([self.num_prefix], dim=1))
        return Tokens(spatial, self.grid, prefix)
