"""ZLPR, the zero-bounded log-sum-exp and pairwise rank-based loss (Su et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mldec.config import arguments_of
from mldec.losses.base import LossConfig, Reduction, ThreeStateLoss, log_weights, separate
from mldec.registry import LOSSES


class ZlprLoss(ThreeStateLoss):
    """`log(1 + sum_a exp(x_a)) + log(1 + sum_p exp(-x_p))` over the absent labels a and present labels p of an image.

    The 1 is a logit of 0 that absent labels should be below and present ones above.

    Args:
        unknown_weight: factor of an unknown label's exponential among the absent ones; at 0 it is left out.
        reduction: over images.
    """

    def __init__(self, unknown_weight: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__(unknown_weight, reduction)

    def terms(self, logits: Tensor, present: Tensor, weights: Tensor) -> Tensor:
        positive, absent = separate(present, weights)
        high = logits + log_weights(absent)
        low = -logits + log_weights(positive.to(logits.dtype))
        return sum(F.pad(part, (0, 1)).logsumexp(dim=1) for part in (high, low))  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class ZlprConfig(LossConfig):
    """Settings of `loss=zlpr`."""


@LOSSES.register("zlpr", ZlprConfig)
def build_zlpr_loss(config: ZlprConfig) -> ZlprLoss:
    return ZlprLoss(**arguments_of(config))
