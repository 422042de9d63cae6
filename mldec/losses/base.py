"""The losses: asymmetric loss (the paper's), binary cross-entropy, and softmax cross-entropy for single-label data.

All three take logits (B,N), targets (B,N) and optionally a mask of what is known, and give a float32 scalar:

    targets 1 present, 0 absent, -1 (anything negative) unknown, in any integer or float dtype; or fractions from mixup
    known   False where the label is unknown, whatever the target

An unknown label counts as absent with the weight `unknown_weight`; at the default 0 its logit's gradient is exactly 0.
Half-precision logits are computed in float32, autocast or not; float64 logits stay float64.

`reduction="mean"` divides by all B·N entries (cross-entropy: all B rows), known or not, so that the mean over equal
micro-batches or devices is the mean over the whole batch. The published recipe sums; it matters for Adam with
coupled weight decay, where decay and gradient share one scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mldec.config import ComponentConfig, Fraction, NonNegative, Range, Share, arguments_of
from mldec.errors import check_choice
from mldec.registry import LOSSES

Reduction = Literal["sum", "mean"]
Toward = Literal["half", "uniform"]

CACHED = 2**16  # labels that are handled at a time on the CPU: a dozen float32 buffers of these fit into its cache
SHARE = Range(low=0, high=1, open_high=True)
FLOOR = 1e-8  # probabilities are kept above this before the logarithm, as published


class ThreeStateLoss(nn.Module):
    """Common to the losses: shapes, precision, unknown labels, reduction. A subclass implements `terms`.

    Args:
        unknown_weight: weight of an unknown label, which counts as absent. At least 0.
        reduction: "sum" or "mean".

    Raises:
        ValueError: from the constructor for a value out of range; from `forward` for shapes that do not fit.
    """

    def __init__(self, unknown_weight: float, reduction: Reduction) -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(Reduction))
        _check_range(Range(low=0), unknown_weight=unknown_weight)
        self.unknown_weight = unknown_weight
        self.reduction = reduction

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        known: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        step: int = 0,
        details: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The loss of logits (B,N) against targets (B,N); scalar float32 (float64 for float64 logits).

        Args:
            rows: (B,) int64, the number of each image in the training split, for a loss that remembers images.
            step: of training, counted from 0, for a loss that changes with time.
            details: what the head gives beside logits, for a loss that lists it in `needs`.
        """
        _check_shapes(logits, targets, known)
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            unknown = targets < 0 if known is None else ~known | (targets < 0)
            total, count = self.total(logits, targets, unknown)
            return total if self.reduction == "sum" else total / max(count, 1)

    def total(self, logits: Tensor, targets: Tensor, unknown: Tensor) -> tuple[Tensor, int]:
        """The sum of the weighted losses, and their number. `unknown` (B,N) is bool: by the target or by the mask."""
        present = targets.to(logits.dtype).masked_fill(unknown, 0)
        weights = torch.where(unknown, self.unknown_weight, torch.ones_like(logits))
        terms = self.terms(logits, present, weights)
        return terms.sum(), terms.numel()

    def terms(self, logits: Tensor, present: Tensor, weights: Tensor) -> Tensor:
        """Weighted losses, (B,N) or (B,), from logits, targets in [0,1] and the weight of each label, all (B,N)."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        shown = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "training"}
        return ", ".join(f"{name}={value}" for name, value in shown.items())


class AsymmetricLoss(ThreeStateLoss):
    """Asymmetric loss (paper §4.1, appendix C): focal weights that differ for present and absent labels.

    With p = sigmoid(x) and q = min(1 - p + clip, 1), the shifted probability of absence, a label costs
    `-(1 - p)^gamma_pos log p` if present and `-(1 - q)^gamma_neg log q` if absent; fractional targets mix logarithms,
    bases and exponents, as published. Negatives with p below `clip` cost nothing.

    Args:
        gamma_neg, gamma_pos: focusing exponents of absent and present labels. At least 0.
        clip: the probability shift, 0 to 1; 0 shifts nothing.
        detach_weight: the focal weight is a constant for autograd, as in the published training.
        unknown_weight, reduction: see the module.
    """

    def __init__(
        self,
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        clip: float = 0.05,
        detach_weight: bool = True,
        unknown_weight: float = 0.0,
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__(unknown_weight, reduction)
        _check_range(Range(low=0), gamma_neg=gamma_neg, gamma_pos=gamma_pos)
        _check_range(Range(low=0, high=1), clip=clip)
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.clip = clip
        self.detach_weight = detach_weight

    def total(self, logits: Tensor, targets: Tensor, unknown: Tensor) -> tuple[Tensor, int]:
        """As of every loss. Whole targets with constant focal weights, the usual case, take a path of fewer passes."""
        constant = self.detach_weight or not (self.gamma_neg or self.gamma_pos)
        if targets.is_floating_point() or not constant:
            return super().total(logits, targets, unknown)
        present = (targets > 0) & ~unknown
        settings = (self.gamma_neg, self.gamma_pos, self.clip, self.unknown_weight)
        return cast(Tensor, _WholeAsymmetric.apply(logits, present, unknown, *settings)), logits.numel()

    def terms(self, logits: Tensor, present: Tensor, weights: Tensor) -> Tensor:
        absent = 1 - present
        p = torch.sigmoid(logits)
        not_p = torch.sigmoid(-logits)  # 1 - p without cancellation
        q = (not_p + self.clip).clamp(max=1)
        log_likelihood = present * p.clamp(min=FLOOR).log() + absent * q.clamp(min=FLOOR).log()
        if self.gamma_neg or self.gamma_pos:
            miss = present * not_p + absent * (p - self.clip).clamp(min=0)  # 1 - p_t
            gamma = self.gamma_pos * present + self.gamma_neg * absent
            miss = miss.detach() if self.detach_weight else miss
            # The minimum avoids the infinite slope of 0^gamma for gamma < 1; where it applies the logarithm is 0, too.
            log_likelihood = log_likelihood * miss.clamp(min=FLOOR).pow(gamma)
        return -weights * log_likelihood


class _WholeAsymmetric(torch.autograd.Function):
    """The summed asymmetric loss of targets that are whole numbers, with focal weights that are constants.

    A present label is an absent one of the logit -x without shift: with the sign of each label put into the logit there
    is one formula for both, and its slope is at hand where its value is. `AsymmetricLoss.terms` is the plain form.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        present: Tensor,
        unknown: Tensor,
        gamma_neg: float,
        gamma_pos: float,
        clip: float,
        unknown_weight: float,
    ) -> Tensor:
        total = logits.new_zeros(())
        slopes = torch.empty_like(logits, memory_format=torch.contiguous_format)
        flat = [part.reshape(-1) for part in (logits, present, unknown, slopes)]
        # On the CPU a part stays in the cache from the first operation on it to the last.
        size = CACHED if logits.device.type == "cpu" else max(logits.numel(), 1)
        for first in range(0, logits.numel(), size):
            x, is_present, is_unknown, slope = (part[first : first + size] for part in flat)
            sign = is_present.to(x.dtype).mul_(-2).add_(1)
            shift = is_present.to(x.dtype).mul_(-clip).add_(clip)
            x = x * sign
            wrong, right = torch.sigmoid(x), torch.sigmoid(-x)  # each without cancellation
            shifted = right + shift
            clamped = shifted.clamp(FLOOR, 1)
            if gamma_neg or gamma_pos:
                missed = (wrong - shift).clamp_(min=FLOOR)
                weight = torch.where(is_present, _power(missed, gamma_pos), _power(missed, gamma_neg))
            else:
                weight = torch.ones_like(x)
            weight = torch.where(is_unknown, weight * unknown_weight, weight)
            total -= (clamped.log() * weight).sum()
            if ctx.needs_input_grad[0]:
                torch.mul(wrong.mul_(right).div_(clamped), weight.mul_(sign), out=slope)
                slope.masked_fill_(shifted != clamped, 0)
        ctx.save_for_backward(slopes)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradient, None, None, None, None, None, None


def _power(base: Tensor, exponent: float) -> Tensor:
    """base ** exponent, by multiplication where that is faster."""
    if exponent == 4:
        return base.square().square_()
    return base**exponent


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
        unknown_weight, reduction: see the module.
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
        _check_range(SHARE, label_smoothing=label_smoothing, target_threshold=target_threshold or 0)
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
        unknown_weight, reduction: see the module.
    """

    def __init__(
        self, label_smoothing: float = 0.0, unknown_weight: float = 0.0, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(unknown_weight, reduction)
        _check_range(SHARE, label_smoothing=label_smoothing)
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
class LossConfig(ComponentConfig):
    """Settings that every loss has."""

    single_label: ClassVar[bool] = False  # True: requires data with exactly one class per image

    reduction: Reduction = "mean"  # over labels and images (over images for ce)
    unknown_weight: NonNegative = 0.0  # weight of an unknown label, which counts as absent


@dataclass(frozen=True, kw_only=True)
class AsymmetricLossConfig(LossConfig):
    """Settings of `loss=asl`; the defaults are the paper's."""

    reduction: Reduction = "sum"
    gamma_neg: NonNegative = 4.0  # focusing exponent of absent labels: the higher, the less easy ones count
    gamma_pos: NonNegative = 0.0  # focusing exponent of present labels
    clip: Fraction = 0.05  # probability shift: absent labels scored below it cost nothing
    detach_weight: bool = True  # the focal weight is a constant for the gradient, as published


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


@LOSSES.register("asl", AsymmetricLossConfig)
def build_asymmetric_loss(config: AsymmetricLossConfig) -> AsymmetricLoss:
    return AsymmetricLoss(**arguments_of(config))


@LOSSES.register("bce", BinaryCrossEntropyConfig)
def build_binary_cross_entropy(config: BinaryCrossEntropyConfig) -> BinaryCrossEntropy:
    return BinaryCrossEntropy(**arguments_of(config))


@LOSSES.register("ce", CrossEntropyConfig)
def build_cross_entropy(config: CrossEntropyConfig) -> CrossEntropy:
    return CrossEntropy(**arguments_of(config))


def _check_shapes(logits: Tensor, targets: Tensor, known: Tensor | None) -> None:
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be floats of shape (B,N), found {logits.dtype} {tuple(logits.shape)}")
    if targets.shape != logits.shape:
        hint = "; single-label targets are rows of 0 and 1 too" if targets.ndim == 1 else ""
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}, logits {tuple(logits.shape)}: they must agree{hint}"
        )
    if known is not None and (known.shape != logits.shape or known.dtype != torch.bool):
        raise ValueError(f"known must be bool of shape {tuple(logits.shape)}, found {known.dtype} {tuple(known.shape)}")


def _check_smoothed_threshold(smoothing: float, threshold: float | None) -> None:
    if smoothing and threshold is not None and not smoothing / 2 <= threshold < 1 - smoothing:
        raise ValueError(
            f"label_smoothing={smoothing}: with target_threshold={threshold} whole targets would change sides; needs "
            "label_smoothing / 2 <= target_threshold < 1 - label_smoothing, or target_threshold=null"
        )


def _check_range(allowed: Range, **values: float) -> None:
    for name, value in values.items():
        if value not in allowed or not math.isfinite(value):
            raise ValueError(f"{name}={value}: must be a number {allowed}")
