"""Global average or maximum pooling and one linear layer: the baselines of every table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mldec.config import ComponentConfig, Share, arguments_of
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.models.heads.kernels import full_precision
from mldec.models.heads.maps import Weighting
from mldec.models.tokens import Tokens, token_values
from mldec.registry import HEADS


class GlobalAveragePool(nn.Module):
    """Logits (B, N) = Linear(mean of the tokens (B, T, C)), with dropout before the linear layer."""

    def __init__(self, in_features: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.fc = nn.Linear(in_features, num_classes)

    def pool(self, values_BTC: Tensor) -> Tensor:
        """(B, C): one vector for an image."""
        return values_BTC.mean(dim=1)

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        pooled_BC = F.dropout(self.pool(token_values(tokens)), self.dropout, self.training)
        with full_precision(pooled_BC):
            return self.fc(pooled_BC.to(self.fc.weight.dtype))

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """Class activation maps (B, N, T): the sum of a label's map plus its bias is the label's logit.

        Raises DataError for weighting="attention".
        """
        if weighting == "attention":
            raise DataError("pooling has no attention; use maps=label, which shows what each token contributes")
        shares_BTC = self.shares(token_values(tokens).to(self.fc.weight.dtype))
        return self.fc.weight @ shares_BTC.transpose(1, 2)

    def shares(self, values_BTC: Tensor) -> Tensor:
        """(B, T, C): what each token adds to the pooled vector, which is their sum."""
        return values_BTC / values_BTC.shape[1]


class GlobalMaxPool(GlobalAveragePool):
    """Logits (B, N) = Linear(largest value of each channel over the tokens (B, T, C))."""

    def pool(self, values_BTC: Tensor) -> Tensor:
        return values_BTC.amax(dim=1)

    def shares(self, values_BTC: Tensor) -> Tensor:
        """(B, T, C): the largest value of a channel, at the first token that has it; 0 elsewhere."""
        largest_B1C, first_B1C = values_BTC.max(dim=1, keepdim=True)
        return torch.zeros_like(values_BTC).scatter_(1, first_B1C, largest_B1C)


@dataclass(frozen=True, kw_only=True)
class PoolingConfig(ComponentConfig):
    """Settings of `head=gap` and `head=gmp`."""

    dropout: Share = 0.0  # of the pooled features, before the linear layer


@HEADS.register("gap", PoolingConfig)
def build_gap(config: PoolingConfig, *, in_features: int, labels: LabelSpace) -> GlobalAveragePool:
    return GlobalAveragePool(in_features, len(labels), **arguments_of(config))


@HEADS.register("gmp", PoolingConfig)
def build_gmp(config: PoolingConfig, *, in_features: int, labels: LabelSpace) -> GlobalMaxPool:
    return GlobalMaxPool(in_features, len(labels), **arguments_of(config))
