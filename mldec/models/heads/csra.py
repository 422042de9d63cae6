"""Class-specific residual attention: the mean of each label's scores over the tokens, plus an attended one.

Zhu and Wu, "Residual Attention: A Simple but Effective Method for Multi-Label Recognition", ICCV 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from mldec.config import ComponentConfig, Count, NonNegative, Range, arguments_of
from mldec.labels import LabelSpace
from mldec.models.heads.kernels import full_precision
from mldec.models.heads.maps import Weighting
from mldec.models.heads.projection import TokenProjection
from mldec.models.tokens import Tokens
from mldec.registry import HEADS

MAXIMUM = 99  # the published temperature that stands for the maximum


def temperatures(num_heads: int) -> tuple[int, ...]:
    """The softmax temperatures of 1 to 8 heads; the last of several takes the maximum, which is written as 99.

    Published are 1, 2, 4, 6 and 8 heads; 3, 5 and 7 follow the same order.
    """
    if num_heads == 1:
        return (1,)
    return (1, 2, 4, MAXIMUM) if num_heads == 4 else (*range(1, num_heads), MAXIMUM)


class ClassSpecificResidualAttention(nn.Module):
    """Logits (B, N) of tokens (B, T, C), summed over heads h of temperature tau:

        s_nt = w_n . x_t / ||w_n||,    logit_n = mean_t s_nt + residual * sum_t softmax_t(tau s_n) s_nt

    Args:
        num_heads: 1 to 8, each with weights (N, C) of its own.
        residual: lambda, the weight of the attended score.
        projection: width to which tokens are mapped first; None: they are read as they are.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_heads: int = 1,
        residual: float = 0.1,
        projection: int | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= num_heads <= 8:
            raise ValueError(f"num_heads={num_heads}: must be 1 to 8")
        self.residual, self.temperatures = residual, temperatures(num_heads)
        self.projection = TokenProjection(in_features, projection)
        width = self.projection.out_features
        self.weight = nn.Parameter(torch.empty(num_heads, num_classes, width).uniform_(-1, 1) * width**-0.5)

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        scores_BhNT, attention_BhNT = self._attend(tokens)
        attended = (attention_BhNT * scores_BhNT).sum(dim=3)
        return (scores_BhNT.mean(dim=3) + self.residual * attended).sum(dim=1)

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """(B, N, T): what each token adds to a label's logit, which is their sum; or the attention, mean over heads."""
        scores_BhNT, attention_BhNT = self._attend(tokens)
        if weighting == "attention":
            return attention_BhNT.mean(dim=1)
        return (scores_BhNT * (1 / scores_BhNT.shape[3] + self.residual * attention_BhNT)).sum(dim=1)

    def _attend(self, tokens: Tokens | Tensor) -> tuple[Tensor, Tensor]:
        """(B, h, N, T) each: the scores of every token, and the attention by which they are added."""
        values_BTC = self.projection(tokens).values
        with full_precision(values_BTC):
            directions = self.weight / self.weight.norm(dim=2, keepdim=True)
            scores_BhNT = torch.einsum("btc,hnc->bhnt", values_BTC.to(directions.dtype), directions)
        parts = []
        for scores_BNT, temperature in zip(scores_BhNT.unbind(1), self.temperatures, strict=True):
            if temperature == MAXIMUM:
                first = scores_BNT.argmax(dim=2, keepdim=True)
                parts.append(torch.zeros_like(scores_BNT).scatter(2, first, 1.0))
            else:
                parts.append(torch.softmax(temperature * scores_BNT, dim=2))
        return scores_BhNT, torch.stack(parts, dim=1)


@dataclass(frozen=True, kw_only=True)
class CSRAConfig(ComponentConfig):
    """Settings of `head=csra`; the defaults are those of the published script."""

    num_heads: Annotated[int, Range(low=1, high=8)] = 1  # each has a temperature; the last one takes the maximum
    residual: NonNegative = 0.1  # lambda, the weight of the attended score beside the mean
    projection: Count | None = None  # width to which tokens are mapped first (linear, ReLU); null: as they are


@HEADS.register("csra", CSRAConfig)
def build_csra(config: CSRAConfig, *, in_features: int, labels: LabelSpace) -> ClassSpecificResidualAttention:
    return ClassSpecificResidualAttention(in_features, len(labels), **arguments_of(config))
