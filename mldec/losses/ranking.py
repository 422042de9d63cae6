"""Losses of the pairs of a present and an absent label of one image: hinge ranking and RankNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mldec.config import arguments_of
from mldec.losses.base import LossConfig, Reduction, ThreeStateLoss, separate
from mldec.registry import LOSSES

Cost = Literal["hinge", "logistic"]

PAIRS = 2**20  # that are handled at a time


class HingeRankingLoss(ThreeStateLoss):
    """Every present label should score 1 above every absent one; LESA and BiAM train with it.

    Of an image with present labels P and absent labels A, `sum max(0, 1 + x_a - x_p) / (#{1 + x_a - x_p > 0} + 1e-8)`
    over p in P and a in A. The count is a constant for autograd. An image without a pair contributes 0 and counts in
    the mean.

    Args:
        unknown_weight: factor of an unknown label's pairs, in sum and count; at 0 it is in none.
        reduction: over images.
    """

    def __init__(self, unknown_weight: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__(unknown_weight, reduction)

    def terms(self, logits: Tensor, present: Tensor, weights: Tensor) -> Tensor:
        return hinge_ranking(logits, *separate(present, weights))


class RankNetLoss(ThreeStateLoss):
    """The mean of `log(1 + exp(x_a - x_p))` over the pairs of an image; Fast0Tag's loss.

    An image without a pair contributes 0 and counts in the mean.

    Args:
        unknown_weight: weight of an unknown label's pairs in the mean over pairs; at 0 it is in none.
        reduction: over images.
    """

    def __init__(self, unknown_weight: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__(unknown_weight, reduction)

    def terms(self, logits: Tensor, present: Tensor, weights: Tensor) -> Tensor:
        positive, absent = separate(present, weights)
        pairs = positive.sum(dim=1) * absent.sum(dim=1)
        return pair_sums(logits, positive, absent, "logistic")[0] / pairs.masked_fill(pairs == 0, 1)


def hinge_ranking(logits: Tensor, positive: Tensor, absent: Tensor) -> Tensor:
    """The hinge ranking loss of each image, (B,); arguments as of `pair_sums`."""
    sums, count = pair_sums(logits, positive, absent, "hinge")
    return sums / (count + 1e-8)


def pair_sums(logits: Tensor, positive: Tensor, absent: Tensor, cost: Cost) -> tuple[Tensor, Tensor]:
    """Sums over the pairs (p, a) of a present and an absent label of each image; (B,) each.

    The first is of `absent_a c(x_a - x_p)` with c(d) = max(0, 1 + d) ("hinge") or log(1 + exp d) ("logistic"); the
    second of `absent_a c'(x_a - x_p)`, a constant for autograd: for the hinge the number of pairs that cost something.
    Its memory does not grow with the number of pairs, which is that of present labels times N for the whole batch.

    Args:
        logits: (B,N) floating point.
        positive: (B,N) bool, the present labels.
        absent: (B,N) the weight of each absent label, 0 for all others.
    """
    return cast(tuple[Tensor, Tensor], _PairSums.apply(logits, positive, absent, cost))


class _PairSums(torch.autograd.Function):
    """The slope of each logit is added up where the costs are, so that no pair has to be kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, positive: Tensor, absent: Tensor, cost: Cost) -> tuple[Tensor, Tensor]:
        sums, counts = logits.new_zeros(2, len(logits))
        slopes = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        rows, columns = positive.nonzero(as_tuple=True)
        size = max(PAIRS // max(logits.shape[1], 1), 1)
        for first in range(0, len(rows), size):
            row, column = rows[first : first + size], columns[first : first + size]
            gaps = logits[row] - logits[row, column][:, None]  # one row for each present label
            weight = absent[row]
            if cost == "hinge":
                value, slope = F.relu(1 + gaps), (gaps > -1) * weight
            else:
                value, slope = -F.logsigmoid(-gaps), torch.sigmoid(gaps) * weight
            total = slope.sum(dim=1)
            sums.index_add_(0, row, (value * weight).sum(dim=1))
            counts.index_add_(0, row, total)
            slopes.index_add_(0, row, slope)
            slopes[row, column] -= total  # each (row, column) is there once
        ctx.save_for_backward(slopes)
        ctx.mark_non_differentiable(counts)
        return sums, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradient[:, None], None, None, None


@dataclass(frozen=True, kw_only=True)
class HingeRankingConfig(LossConfig):
    """Settings of `loss=hinge_ranking`."""


@dataclass(frozen=True, kw_only=True)
class RankNetConfig(LossConfig):
    """Settings of `loss=ranknet`."""


@LOSSES.register("hinge_ranking", HingeRankingConfig)
def build_hinge_ranking_loss(config: HingeRankingConfig) -> HingeRankingLoss:
    return HingeRankingLoss(**arguments_of(config))


@LOSSES.register("ranknet", RankNetConfig)
def build_ranknet_loss(config: RankNetConfig) -> RankNetLoss:
    return RankNetLoss(**arguments_of(config))
