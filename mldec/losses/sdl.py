"""The semantic diversity loss of ZS-SDL (Ben-Cohen et al., ICCV 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mldec.config import Fraction, Range, arguments_of
from mldec.losses.base import Context, LossConfig, Reduction, ThreeStateLoss, check_range, separate
from mldec.losses.ranking import pair_sums
from mldec.registry import LOSSES

NEEDS = ("matrix", "label_vectors")


class SdlLoss(ThreeStateLoss):
    """Logistic ranking of an image's labels, more of it for semantically diverse ones, and a penalty of spread rows.

    Of an image with present labels P, absent labels A, matrix M (width, K) and label vectors v:

        rank = 1 / |P| sum_p sum_a log(1 + exp(x_a - x_p))      without an absent label: log(1 + exp(-x_p))
        div  = sum_d var_{p in P}(v_p[d])                       0 where |P| = 1
        reg  = sum_d var_k(M[d, k])                             0 where K = 1
        loss = 2 ((1 - weight) (1 + div) rank + weight reg)     weight=None: (1 + div) rank

    Variances are unbiased. An image without a positive contributes 0 (the published code gives nan, as it does for
    K = 1) and counts in the mean.

    `forward` needs the details `matrix` (B,width,K) and `label_vectors` (N,width), in the order of the logits.

    Args:
        weight: of the penalty, 0 to 1; the published training script has 0.01. None leaves out the factors, too.
        unknown_weight: factor of an unknown label's pairs; at 0 it is in none. The published code counts unknown
            labels as absent ones, which 1 does.
        reduction: over images.
    """

    needs = NEEDS

    def __init__(self, weight: float | None = 0.01, unknown_weight: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__(unknown_weight, reduction)
        check_range(Range(low=0, high=1), weight=weight or 0)
        self.weight = weight

    def total(self, logits: Tensor, targets: Tensor, unknown: Tensor, context: Context) -> tuple[Tensor, int]:
        matrix, vectors = (context.details[name] for name in NEEDS)
        if matrix.ndim != 3 or len(matrix) != len(logits) or vectors.shape != (logits.shape[1], matrix.shape[1]):
            raise ValueError(
                f"details matrix {tuple(matrix.shape)}, label_vectors {tuple(vectors.shape)}: with logits "
                f"{tuple(logits.shape)} they must be (B,width,K) and (N,width)"
            )
        positive, absent = separate(*self.weigh(logits, targets, unknown))
        count = positive.sum(dim=1)
        against_absent = pair_sums(logits, positive, absent, "logistic")[0]
        against_zero = (-F.logsigmoid(logits)).masked_fill(~positive, 0).sum(dim=1)
        rank = torch.where((absent > 0).any(dim=1), against_absent, against_zero) / count.clamp(min=1)
        terms = (1 + _diversity(positive, vectors)) * rank
        if self.weight is not None:
            spread = matrix.var(dim=2).sum(dim=1) if matrix.shape[2] > 1 else 0
            terms = 2 * ((1 - self.weight) * terms + self.weight * spread)
        return torch.where(count > 0, terms, 0).sum(), len(logits)


def _diversity(positive: Tensor, vectors: Tensor) -> Tensor:
    """The summed unbiased variance (B,) of the label vectors (N,width) of each image's present labels (B,N)."""
    vectors = vectors - vectors.mean(dim=0)  # changes no variance, but the difference below becomes more precise
    chosen = positive.to(vectors.dtype)
    count = chosen.sum(dim=1)
    squares = chosen @ vectors.square().sum(dim=1) - (chosen @ vectors).square().sum(dim=1) / count.clamp(min=1)
    return torch.where(count > 1, squares.clamp(min=0) / (count - 1).clamp(min=1), 0)


@dataclass(frozen=True, kw_only=True)
class SdlConfig(LossConfig):
    """Settings of `loss=sdl`."""

    needs: ClassVar[tuple[str, ...]] = NEEDS

    weight: Fraction | None = 0.01  # of the penalty for rows of the matrix that differ; null: the ranking alone


@LOSSES.register("sdl", SdlConfig)
def build_sdl_loss(config: SdlConfig) -> SdlLoss:
    return SdlLoss(**arguments_of(config))
