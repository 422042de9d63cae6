"""The losses beyond those of `tests/test_losses.py`, and batches for them with what a head gives beside logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mldec.losses import (
    DistributionBalancedLoss,
    HingeRankingLoss,
    LesaLoss,
    RankNetLoss,
    SdlLoss,
    TwoWayLoss,
    ZlprLoss,
)

COUNTS = [40, 3, 100, 0, 17, 60, 1]  # of 100 images


def distribution_balanced(**settings) -> DistributionBalancedLoss:
    return DistributionBalancedLoss(torch.tensor(COUNTS), 100, **settings)


LOSSES = {
    "hinge_ranking": HingeRankingLoss,
    "ranknet": RankNetLoss,
    "two_way": TwoWayLoss,
    "zlpr": ZlprLoss,
    "distribution_balanced": distribution_balanced,
    "sdl": SdlLoss,
    "lesa": LesaLoss,
}


class Sample(NamedTuple):
    logits: Tensor
    targets: Tensor
    details: dict[str, Tensor]

    def value(self, loss, known: Tensor | None = None) -> Tensor:
        return loss(self.logits, self.targets, known, details=self.details)

    def labels(self, order: Tensor) -> Sample:
        """With only these labels, in this order."""
        axes = {"label_vectors": 0, "attention_logits": 2, "mean_logits": 1}
        details = {
            key: value.index_select(axes[key], order) if key in axes else value for key, value in self.details.items()
        }
        return Sample(self.logits[:, order], self.targets[:, order], details)

    def images(self, order: Tensor) -> Sample:
        """With only these images, in this order."""
        details = {key: value if key == "label_vectors" else value[order] for key, value in self.details.items()}
        return Sample(self.logits[order], self.targets[order], details)

    def to(self, dtype: torch.dtype) -> Sample:
        return Sample(self.logits.to(dtype), self.targets, {key: part.to(dtype) for key, part in self.details.items()})


def sample(images: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 2.0) -> Sample:
    """Of 7 labels. The first images have no positive, one, only positives, only positives and unknown labels."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)

    labels, width, rows, tokens = len(COUNTS), 6, 3, 8
    targets = torch.randint(-1, 2, (images, labels), generator=rng)
    special = [[0, 0, -1, 0, 0, -1, 0], [0, 0, 1, 0, -1, 0, 0], [1] * 7, [1, -1, 1, -1, 1, 1, -1]]
    targets[: len(special)] = torch.tensor(special[:images])
    details = {
        "matrix": normal(images, width, rows),
        "label_vectors": torch.nn.functional.normalize(normal(labels, width), dim=1),
        "attention_logits": normal(images, rows, labels),
        "mean_logits": normal(images, labels),
        "attention_scores": normal(images, rows, tokens),
    }
    return Sample(scale * normal(images, labels), targets, details)
