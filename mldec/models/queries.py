"""The queries of a decoder: fixed noise, learned vectors, or a map of label embeddings.

Each kind is a module whose output is queries (K, D). In the paper all three reach the same mAP on trained labels
(Table 7); only label embeddings extend to labels that were not trained.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QueryKind = Literal["fixed", "learnable", "label_embeddings"]


class EmbeddingQueries(nn.Module):
    """K vectors drawn from N(0, 1); with `learnable=False` they are saved but never trained (paper §1.1)."""

    def __init__(self, num_queries: int, dim: int, learnable: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_queries, dim), requires_grad=learnable)

    def forward(self) -> Tensor:
        return self.weight


class LabelEmbeddingQueries(nn.Module):
    """The ReLU of one learned linear map of the label embeddings of each group's labels, side by side (paper eq. 10).

    With g labels per group the map has D / g outputs, rounded up; entries beyond D are cut off. With g = 1 it is the
    published query of a single label.
    """

    def __init__(self, width: int, dim: int, group_size: int) -> None:
        super().__init__()
        self.dim = dim
        self.projection = nn.Linear(width, -(-dim // group_size))

    def forward(self, embeddings_KgW: Tensor) -> Tensor:
        """Label embeddings (K, g, width) to queries (K, D)."""
        return F.relu(self.projection(embeddings_KgW)).flatten(1)[:, : self.dim]
