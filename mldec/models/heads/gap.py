"""Global average pooling and one linear layer: the baseline of every table."""

from __future__ import annotations

from dataclasses import dataclass

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

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        pooled_BC = F.dropout(token_values(tokens).mean(dim=1), self.dropout, self.training)
        with full_precision(pooled_BC):
            return self.fc(pooled_BC.to(self.fc.weight.dtype))

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """Class activation maps (B, N, T): the sum of a label's map plus its bias is the label's logit.

        Raises DataError for weighting="attention".
        """
        if weighting == "attention":
            raise DataError("average pooling has no attention; use maps=label, which shows what each token contributes")
        values_BTC = token_values(tokens).to(self.fc.weight.dtype)
        return self.fc.weight @ values_BTC.transpose(1, 2) / values_BTC.shape[1]


@dataclass(frozen=True, kw_only=True)
class GapConfig(ComponentConfig):
    """Settings of `head=gap`."""

    dropout: Share = 0.0  # of the pooled features, before the linear layer


@HEADS.register("gap", GapConfig)
def build_gap(config: GapConfig, *, in_features: int, labels: LabelSpace) -> GlobalAveragePool:
    return GlobalAveragePool(in_features, len(labels), **arguments_of(config))
