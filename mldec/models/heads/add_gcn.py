"""ADD-GCN: features of the labels from their own maps, exchanged over one learned graph and one made from the image.

Ye et al., "Attention-Driven Dynamic Graph Convolutional Network for Multi-Label Image Recognition", ECCV 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mldec.config import ComponentConfig, Count, arguments_of
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.models.heads.kernels import full_precision
from mldec.models.heads.layers import batch_norm
from mldec.models.heads.maps import Weighting
from mldec.models.heads.projection import TokenProjection
from mldec.models.tokens import Tokens
from mldec.registry import HEADS

SLOPE = 0.2  # of the leaky ReLU


class ADDGCN(nn.Module):
    """Logits (B, N) of tokens (B, T, C): (s_m + s_r) / 2 with

        m = Wf x (B, N, T),   s_m = max_t m,   V_n = sum_t sigmoid(m_nt) (Wt x_t + bt)   (B, N, D),
        U = V + LReLU(Ws LReLU(As V) + bs)                      the static graph As (N, N) is learned,
        g = LReLU(BN(Wg mean_n U_n + bg)),   Ad_nj = sigmoid(Wc [g ; U_j] + bc)_n   the dynamic graph of the image,
        Z = LReLU(Wd LReLU(Ad^T U) + bd),   s_r = l_n . (V_n + Z_n) + b_n.

    Args:
        dim: D, width of the labels' features.
        projection: width to which tokens are mapped first; None: they are read as they are.

    In training the batch norm takes the statistics of the batch, of which one image has none: it then uses its running
    statistics.
    """

    def __init__(self, in_features: int, num_classes: int, dim: int = 1024, projection: int | None = None) -> None:
        super().__init__()
        self.projection = TokenProjection(in_features, projection)
        width = self.projection.out_features
        self.label_map = nn.Linear(width, num_classes, bias=False)  # Wf
        self.token_map = nn.Linear(width, dim)  # Wt
        self.static_graph = nn.Linear(num_classes, num_classes, bias=False)  # As
        self.static_map = nn.Linear(dim, dim)  # Ws
        self.image_map = nn.Linear(dim, dim)  # Wg
        self.image_norm = nn.BatchNorm1d(dim)
        self.dynamic_graph = nn.Linear(2 * dim, num_classes)  # Wc
        self.dynamic_map = nn.Linear(dim, dim)  # Wd
        self.fc = nn.Linear(dim, num_classes)

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        scores_BNT, mixed_BTD = self._tokens(tokens)
        static_BND = scores_BNT.sigmoid() @ mixed_BTD
        features_BND = static_BND + self._exchange(static_BND)
        with full_precision(features_BND):
            own = (features_BND.to(self.fc.weight.dtype) * self.fc.weight).sum(dim=2) + self.fc.bias
            return (scores_BNT.amax(dim=2).to(own.dtype) + own) / 2

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """(B, N, T): what each token adds to a label's logit, apart from the dynamic graph's share Z. DataError for the
        attention."""
        if weighting == "attention":
            raise DataError("head=add_gcn has no attention; use maps=label, which shows what each token contributes")
        scores_BNT, mixed_BTD = self._tokens(tokens)
        largest_BN1, first_BN1 = scores_BNT.max(dim=2, keepdim=True)
        peaks_BNT = torch.zeros_like(scores_BNT).scatter_(2, first_BN1, largest_BN1)
        return (peaks_BNT + scores_BNT.sigmoid() * (self.fc.weight @ mixed_BTD.transpose(1, 2))) / 2

    def _tokens(self, tokens: Tokens | Tensor) -> tuple[Tensor, Tensor]:
        """m (B, N, T), and the tokens (B, T, D) that its sigmoid adds up."""
        values_BTC = self.projection(tokens).values
        return self.label_map(values_BTC).transpose(1, 2), self.token_map(values_BTC)

    def _exchange(self, features_BND: Tensor) -> Tensor:
        """Z (B, N, D), by the static and then by the dynamic graph."""
        neighbours = F.leaky_relu(self.static_graph.weight @ features_BND, SLOPE)
        features_BND = features_BND + F.leaky_relu(self.static_map(neighbours), SLOPE)
        image_BD = F.leaky_relu(batch_norm(self.image_norm, self.image_map(features_BND.mean(dim=1))), SLOPE)
        joined_BNE = torch.cat([image_BD[:, None].expand_as(features_BND), features_BND], dim=2)
        graph_BjN = torch.sigmoid(self.dynamic_graph(joined_BNE))  # row j is column j of Ad
        return F.leaky_relu(self.dynamic_map(F.leaky_relu(graph_BjN @ features_BND, SLOPE)), SLOPE)


@dataclass(frozen=True, kw_only=True)
class ADDGCNConfig(ComponentConfig):
    """Settings of `head=add_gcn`; the defaults are the published ones."""

    dim: Count = 1024  # D, width of the labels' features
    projection: Count | None = None  # width to which tokens are mapped first (linear, ReLU); null: as they are


@HEADS.register("add_gcn", ADDGCNConfig)
def build_add_gcn(config: ADDGCNConfig, *, in_features: int, labels: LabelSpace) -> ADDGCN:
    return ADDGCN(in_features, len(labels), **arguments_of(config))
