"""Two-way multi-label loss (Kobayashi, CVPR 2023): within an image and within a class."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mldec.config import Positive, Range, arguments_of
from mldec.losses.base import Context, LossConfig, Reduction, ThreeStateLoss, check_range, log_weights, separate
from mldec.registry import LOSSES


class TwoWayLoss(ThreeStateLoss):
    """A soft maximum of absent logits against a soft minimum of present ones, in each image and in each class.

    With T+ and T- the temperatures, an image costs `softplus(T- lse(x_a / T-) + T+ lse(-x_p / T+))`, lse over its
    absent labels a and its present labels p. A class costs the same over the images of the batch. Images and classes
    without a positive are left out; one with positives only costs 0.

    Args:
        positive_temperature, negative_temperature: T+ and T-, above 0.
        unknown_weight: factor of an unknown label's exponential among the absent ones; at 0 it is left out.
        reduction: "mean": the mean over images with a positive plus the mean over classes with a positive, as
            published; "sum": the two sums. A class is compared within the images of one call: a micro-batch of one
            device, so that neither is a mean or sum over micro-batches.
    """

    def __init__(
        self,
        positive_temperature: float = 4.0,
        negative_temperature: float = 1.0,
        unknown_weight: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(unknown_weight, reduction)
        check_range(
            Range(low=0, open_low=True),
            positive_temperature=positive_temperature,
            negative_temperature=negative_temperature,
        )
        self.positive_temperature = positive_temperature
        self.negative_temperature = negative_temperature

    def total(self, logits: Tensor, targets: Tensor, unknown: Tensor, context: Context) -> tuple[Tensor, int]:
        positive, absent = separate(*self.weigh(logits, targets, unknown))
        low = -logits / self.positive_temperature + log_weights(positive.to(logits.dtype))
        high = logits / self.negative_temperature + log_weights(absent)
        loss = logits.new_zeros(())
        for dim in (1, 0):  # over the labels of each image, over the images of each class
            hard = self.negative_temperature * high.logsumexp(dim) + self.positive_temperature * low.logsumexp(dim)
            total = F.softplus(hard).sum()  # 0 where there is no positive, or nothing absent
            loss = loss + (total if self.reduction == "sum" else total / positive.any(dim).sum().clamp(min=1))
        return loss, 1


@dataclass(frozen=True, kw_only=True)
class TwoWayConfig(LossConfig):
    """Settings of `loss=two_way`."""

    positive_temperature: Positive = 4.0  # of the soft minimum of present logits
    negative_temperature: Positive = 1.0  # of the soft maximum of absent logits


@LOSSES.register("two_way", TwoWayConfig)
def build_two_way_loss(config: TwoWayConfig) -> TwoWayLoss:
    return TwoWayLoss(**arguments_of(config))
