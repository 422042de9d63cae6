"""Global average or maximum pooling, or both, and one linear layer: the baselines of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mldec.config import ComponentConfig, Share, arguments_of
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.models.heads.kernels import full_precision
from mldec.models.heads.maps import Weighting, maximum_shares
from mldec.models.tokens import Tokens, class_token, token_values
from mldec.registry import HEADS

Source = Literal["patch", "cls", "both"]


class GlobalAveragePool(nn.Module):
    """Logits (B, N) = Linear(mean of the tokens (B, T, C)), with dropout before the linear layer.

    Args:
        source: what the linear layer reads: "patch", the mean of the T spatial tokens; "cls", the class token, which is
            the first of the tokens without a position; "both", first the class token, then the mean (2C values).
    """

    def __init__(self, in_features: int, num_classes: int, dropout: float = 0.0, source: Source = "patch") -> None:
        super().__init__()
        self.dropout, self.source = dropout, source
        self.fc = nn.Linear(in_features * (2 if source == "both" else 1), num_classes)

    def pool(self, values_BTC: Tensor) -> Tensor:
        """(B, C): one vector for an image."""
        return values_BTC.mean(dim=1)

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        features = F.dropout(self._features(tokens), self.dropout, self.training)  # (B, C or 2C)
        with full_precision(features):
            return self.fc(features.to(self.fc.weight.dtype))

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """Class activation maps (B, N, T): the sum of a label's map plus its bias is the label's logit.

        What the class token contributes has no position: it is spread evenly over the T tokens. With source="cls" maps
        are therefore flat.

        Raises DataError for weighting="attention".
        """
        if weighting == "attention":
            raise DataError("pooling has no attention; use maps=label, which shows what each token contributes")
        dtype = self.fc.weight.dtype
        parts = []
        if self.source != "patch":
            values_BTC, class_BC = token_values(tokens), class_token(tokens).to(dtype)
            parts.append((class_BC / values_BTC.shape[1])[:, None].expand(values_BTC.shape))
        if self.source != "cls":
            parts.append(self.shares(token_values(tokens).to(dtype)))
        return self.fc.weight @ torch.cat(parts, dim=2).transpose(1, 2)

    def shares(self, values_BTC: Tensor) -> Tensor:
        """(B, T, C): what each token adds to the pooled vector, which is their sum."""
        return values_BTC / values_BTC.shape[1]

    def _features(self, tokens: Tokens | Tensor) -> Tensor:
        if self.source == "patch":
            return self.pool(token_values(tokens))
        if self.source == "cls":
            return class_token(tokens)
        return torch.cat([class_token(tokens), self.pool(token_values(tokens))], dim=1)


class GlobalMaxPool(GlobalAveragePool):
    """Logits (B, N) = Linear(largest value of each channel over the tokens (B, T, C))."""

    def __init__(self, in_features: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__(in_features, num_classes, dropout)

    def pool(self, values_BTC: Tensor) -> Tensor:
        return values_BTC.amax(dim=1)

    def shares(self, values_BTC: Tensor) -> Tensor:
        """(B, T, C): the largest value of a channel, at the first token that has it; 0 elsewhere."""
        return maximum_shares(values_BTC)


class GlobalAverageMaxPool(GlobalAveragePool):
    """Logits (B, N) = Linear(mean of the tokens (B, T, C), then the largest value of each channel: 2C values)."""

    def __init__(self, in_features: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__(2 * in_features, num_classes, dropout)

    def pool(self, values_BTC: Tensor) -> Tensor:
        return torch.cat([values_BTC.mean(dim=1), values_BTC.amax(dim=1)], dim=1)

    def shares(self, values_BTC: Tensor) -> Tensor:
        return torch.cat([super().shares(values_BTC), maximum_shares(values_BTC)], dim=2)


@dataclass(frozen=True, kw_only=True)
class PoolingConfig(ComponentConfig):
    """Settings of `head=gmp` and `head=gap_gmp`."""

    dropout: Share = 0.0  # of the pooled features, before the linear layer


@dataclass(frozen=True, kw_only=True)
class AveragePoolingConfig(PoolingConfig):
    """Settings of `head=gap`.

    Attributes:
        source: what the linear layer reads: the mean of the spatial tokens (patch), the class token of a transformer
            (cls), or both, one after the other
    """

    source: Source = "patch"


@HEADS.register("gap", AveragePoolingConfig)
def build_gap(config: AveragePoolingConfig, *, in_features: int, labels: LabelSpace) -> GlobalAveragePool:
    return GlobalAveragePool(in_features, len(labels), **arguments_of(config))


@HEADS.register("gmp", PoolingConfig)
def build_gmp(config: PoolingConfig, *, in_features: int, labels: LabelSpace) -> GlobalMaxPool:
    return GlobalMaxPool(in_features, len(labels), **arguments_of(config))


@HEADS.register("gap_gmp", PoolingConfig)
def build_gap_gmp(config: PoolingConfig, *, in_features: int, labels: LabelSpace) -> GlobalAverageMaxPool:
    return GlobalAverageMaxPool(in_features, len(labels), **arguments_of(config))
