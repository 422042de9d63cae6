"""The asymmetric loss, the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mldec.config import Fraction, NonNegative, Range, arguments_of
from mldec.losses.base import Context, LossConfig, Reduction, ThreeStateLoss, check_range
from mldec.registry import LOSSES

CACHED = 2**16  # labels that are handled at a time on the CPU: a dozen float32 buffers of these fit into its cache
FLOOR = 1e-8  # probabilities are kept above this before the logarithm, as published


class AsymmetricLoss(ThreeStateLoss):
    """Asymmetric loss (paper §4.1, appendix C): focal weights that differ for present and absent labels.

    With p = sigmoid(x) and q = min(1 - p + clip, 1), the shifted probability of absence, a label costs
    `-(1 - p)^gamma_pos log p` if present and `-(1 - q)^gamma_neg log q` if absent; fractional targets mix logarithms,
    bases and exponents, as published. Negatives with p below `clip` cost nothing.

    Args:
        gamma_neg, gamma_pos: focusing exponents of absent and present labels. At least 0.
        clip: the probability shift, 0 to 1; 0 shifts nothing.
        detach_weight: the focal weight is a constant for autograd, as in the published training.
        unknown_weight, reduction: see `mldec.losses.base`.
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
        check_range(Range(low=0), gamma_neg=gamma_neg, gamma_pos=gamma_pos)
        check_range(Range(low=0, high=1), clip=clip)
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.clip = clip
        self.detach_weight = detach_weight

    def total(self, logits: Tensor, targets: Tensor, unknown: Tensor, context: Context) -> tuple[Tensor, int]:
        """As of every loss. Whole targets with constant focal weights, the usual case, take a path of fewer passes."""
        constant = self.detach_weight or not (self.gamma_neg or self.gamma_pos)
        if targets.is_floating_point() or not constant:
            return super().total(logits, targets, unknown, context)
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


@dataclass(frozen=True, kw_only=True)
class AsymmetricLossConfig(LossConfig):
    """Settings of `loss=asl`; the defaults are the paper's."""

    reduction: Reduction = "sum"
    gamma_neg: NonNegative = 4.0  # focusing exponent of absent labels: the higher, the less easy ones count
    gamma_pos: NonNegative = 0.0  # focusing exponent of present labels
    clip: Fraction = 0.05  # probability shift: absent labels scored below it cost nothing
    detach_weight: bool = True  # the focal weight is a constant for the gradient, as published


@LOSSES.register("asl", AsymmetricLossConfig)
def build_asymmetric_loss(config: AsymmetricLossConfig) -> AsymmetricLoss:
    return AsymmetricLoss(**arguments_of(config))
