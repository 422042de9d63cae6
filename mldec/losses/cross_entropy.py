"""Binary cross-entropy of every label by itself, and softmax cross-entropy for single-label data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mldec.config import Range, Share, arguments_of
from mldec.errors import check_choice
from mldec.losses.base import LossConfig, Reduction, ThreeStateLoss, check_range
from mldec.registry import LOSSES

Toward = Literal["half", "uniform"]

SHARE = Range(low=0, high=1, open_high=True)


class BinaryCrossEntropy(ThreeStateLoss):
    """Sigmoid cross-entropy of every label by itself; the loss of the ImageNet A2 recipe (paper §4.3) with a threshold.

    Args:
        label_smoothing: s in [0, 1).
        target_threshold: targets above it become 1 and all others 0, after smoothing as in timm; undoes the fractions
            of mixup (0.2 in ImageNet A1 and A2). None keeps targets as they are. With a threshold, smoothing only
            moves which fractions are above it; s / 2 <= threshold < 1 - s, so that whole targets keep their side.
        label_smoothing_toward: "half": targets y become y (1 - s) + s / 2, each label being a decision of its own;
            timm's BinaryCrossEntropy does this to multi-label targets with smooth_dense=True. "uniform": they become
            y (1 - s) + s / N, which spreads s over the N classes of a single-label image; timm does this to class
            numbers.
        unknown_weight, reduction: see `mldec.losses.base`.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        target_threshold: float | None = None,
        unknown_weight: float = 0.0,
        reduction: Reduction = "mean",
        label_smoothing_toward: Toward = "half",
    ) -> None:
        super().__init__(unknown_weight, reduction)
        check_range(SHARE, label_smoothing=label_smoothing, target_threshold=target_threshold or 0)
        check_choice("label_smoothing_toward", label_smoothing_toward, get_args(Toward))
        _check_smoothed_threshold(label_smoothing, target_threshold)
        self.label_smoothing = label_smoothing
        self.target_threshold = target_threshold
        self.label_smoothing_toward = label_smoothing_toward

    def terms(self, logits: Tensor, present: Tensor, weights: Tensor) -> Tensor:
        if self.label_smoothing:
            share = 1 / 2 if self.label_smoothing_toward == "half" else 1 / logits.shape[1]
            present = present * (1 - self.label_smoothing) + self.label_smoothing * share
        if self.target_threshold is not None:
            present = (present > self.target_threshold).to(logits.dtype)
        return weights * F.binary_cross_entropy_with_logits(logits, present, reduction="none")


class CrossEntropy(ThreeStateLoss):
    """Softmax cross-entropy for single-label data: the row's targets are the shares of its classes.

    A row's loss is -sum_i y_i log softmax(x)_i, linear in y: fractional rows are allowed and are not rescaled; a row
    without a known positive contributes 0. An unknown class enters the softmax's denominator with the factor
    `unknown_weight`, so at 0 it is left out.

    Args:
        label_smoothing: s in [0, 1): a row of mass m keeps 1 - s of its targets and spreads m s over the classes in
            proportion to their weights (evenly where all are known).
        unknown_weight, reduction: see `mldec.losses.base`.
    """

    def __init__(
        self, label_smoothing: float = 0.0, unknown_weight: float = 0.0, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(unknown_weight, reduction)
        check_range(SHARE, label_smoothing=label_smoothing)
        self.label_smoothing = label_smoothing

    def terms(self, logits: Tensor, present: Tensor, weights: Tensor) -> Tensor:
        # The smallest number instead of -inf: a row of unknown classes only must not become nan.
        log_probs = (logits + weights.log()).masked_fill(weights == 0, torch.finfo(logits.dtype).min).log_softmax(dim=1)
        if self.label_smoothing:
            spread = weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(logits.dtype).tiny)
            mass = present.sum(dim=1, keepdim=True)
            present = (1 - self.label_smoothing) * present + self.label_smoothing * mass * spread
        return -torch.where(present > 0, present * log_probs, 0).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropyConfig(LossConfig):
    """Settings of `loss=bce`.

    Attributes:
        label_smoothing: s, see label_smoothing_toward.
        label_smoothing_toward: half: targets y become y (1 - s) + s / 2; uniform, for single-label data: they become
            y (1 - s) + s / N.
        target_threshold: fractions of mixup above it become 1, others 0, after smoothing; null: they stay.
    """

    label_smoothing: Share = 0.0
    label_smoothing_toward: Toward = "half"
    target_threshold: Share | None = None

    def __post_init__(self) -> None:
        _check_smoothed_threshold(self.label_smoothing, self.target_threshold)


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig(LossConfig):
    """Settings of `loss=ce`."""

    single_label: ClassVar[bool] = True

    label_smoothing: Share = 0.0  # s: the class keeps 1 - s, and s is spread over all classes


@LOSSES.register("bce", BinaryCrossEntropyConfig)
def build_binary_cross_entropy(config: BinaryCrossEntropyConfig) -> BinaryCrossEntropy:
    return BinaryCrossEntropy(**arguments_of(config))


@LOSSES.register("ce", CrossEntropyConfig)
def build_cross_entropy(config: CrossEntropyConfig) -> CrossEntropy:
    return CrossEntropy(**arguments_of(config))


def _check_smoothed_threshold(smoothing: float, threshold: float | None) -> None:
    if smoothing and threshold is not None and not smoothing / 2 <= threshold < 1 - smoothing:
        raise ValueError(
            f"label_smoothing={smoothing}: with target_threshold={threshold} whole targets would change sides; needs "
            "label_smoothing / 2 <= target_threshold < 1 - label_smoothing, or target_threshold=null"
        )
