"""The four losses of LESA, a shared multi-attention model (Huynh and Elhamifar, CVPR 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mldec.config import NonNegative, Range, arguments_of
from mldec.losses.base import Context, LossConfig, Reduction, ThreeStateLoss, check_range, separate
from mldec.losses.ranking import hinge_ranking
from mldec.registry import LOSSES

NEEDS = ("attention_logits", "mean_logits", "attention_scores")


class LesaLoss(ThreeStateLoss):
    """Hinge ranking plus three terms that make the attentions differ; the sum is `rank + 0.1 dist + 0.001 glob + ...`

    With present labels P and absent labels A of an image, and K attentions:

        rank   hinge ranking of the logits, see `HingeRankingLoss`: mean over images
        dist   mean over images and k of (sum_{p in P} softmax_k(att_kp))^2: labels share the attentions evenly
        glob   sum over images of sum_p max(0, xm_p - x_p) + sum_a max(0, x_a - xm_a): better than the mean token's xm
        span   ||G - diag G||, Frobenius norm over the batch of the Gram matrices (K,K) of the scores s_k, each
               divided by its norm over the T tokens: different attentions see different places

    `forward` needs the details `attention_logits` (B,K,N) att, `mean_logits` (B,N) xm and `attention_scores` (B,K,T)
    s, before the softmax over tokens.

    Args:
        dist_weight, glob_weight, span_weight: factors of the terms, at least 0; the defaults are the published ones.
        unknown_weight: factor of an unknown label in `rank` and, as an absent one, in `glob`; at 0 it is in none. The
            softmax of `dist` is over attentions, so that it depends on no other label than the present ones.
        reduction: of rank and dist over images. glob is a sum and span a norm over the batch either way, as published.
    """

    needs = NEEDS

    def __init__(
        self,
        dist_weight: float = 0.1,
        glob_weight: float = 0.001,
        span_weight: float = 0.01,
        unknown_weight: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(unknown_weight, reduction)
        check_range(Range(low=0), dist_weight=dist_weight, glob_weight=glob_weight, span_weight=span_weight)
        self.dist_weight = dist_weight
        self.glob_weight = glob_weight
        self.span_weight = span_weight

    def total(self, logits: Tensor, targets: Tensor, unknown: Tensor, context: Context) -> tuple[Tensor, int]:
        attention_logits, mean_logits, scores = (context.details[name] for name in NEEDS)
        (images, labels), (attentions, tokens) = logits.shape, scores.shape[-2:]
        expected = (images, attentions, labels), (images, labels), (images, attentions, tokens)
        found = tuple(tuple(context.details[name].shape) for name in NEEDS)
        if found != expected:
            shapes = ", ".join(f"{name} {shape}" for name, shape in zip(NEEDS, found, strict=True))
            raise ValueError(
                f"details {shapes}: with logits {tuple(logits.shape)} they must be (B,K,N), (B,N), (B,K,T)"
            )
        positive, absent = separate(*self.weigh(logits, targets, unknown))
        per_image = hinge_ranking(logits, positive, absent)
        per_image = per_image + self.dist_weight * distribution_loss(attention_logits, positive)
        ranking = per_image.sum() if self.reduction == "sum" else per_image.sum() / max(images, 1)
        glob, span = global_loss(logits, mean_logits, positive, absent), span_loss(scores)
        return ranking + self.glob_weight * glob + self.span_weight * span, 1


def distribution_loss(attention_logits: Tensor, positive: Tensor) -> Tensor:
    """dist of each image, (B,), from (B,K,N) and bool (B,N)."""
    return attention_logits.softmax(dim=1).mul(positive[:, None]).sum(dim=2).square().mean(dim=1)


def global_loss(logits: Tensor, mean_logits: Tensor, positive: Tensor, absent: Tensor) -> Tensor:
    """glob of the batch, a scalar, from (B,N) each; `absent` holds weights."""
    gain = logits - mean_logits
    return (positive * F.relu(-gain) + absent * F.relu(gain)).sum()


def span_loss(scores: Tensor) -> Tensor:
    """span of the batch, a scalar, from (B,K,T)."""
    unit = scores * scores.square().sum(dim=2, keepdim=True).clamp(min=1e-12).rsqrt()
    gram = unit @ unit.transpose(1, 2)
    return torch.linalg.vector_norm(gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2)))


@dataclass(frozen=True, kw_only=True)
class LesaConfig(LossConfig):
    """Settings of `loss=lesa`; the ranking term has the weight 1."""

    needs: ClassVar[tuple[str, ...]] = NEEDS

    dist_weight: NonNegative = 0.1  # of the term that spreads present labels over the attentions
    glob_weight: NonNegative = 0.001  # of the term that compares the logits with those of the mean token
    span_weight: NonNegative = 0.01  # of the term that makes the attentions look at different places


@LOSSES.register("lesa", LesaConfig)
def build_lesa_loss(config: LesaConfig) -> LesaLoss:
    return LesaLoss(**arguments_of(config))
