"""ML-GCN: the classifier of each label is computed by graph convolutions over the labels.

Chen et al., "Multi-Label Image Recognition with Graph Convolutional Networks", CVPR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mldec.config import Count, Fraction, Share, arguments_of
from mldec.errors import DataError
from mldec.labels import LabelSpace
from mldec.models.heads.kernels import full_precision
from mldec.models.heads.label_graph import (
    LabelGraphConfig,
    LabelGraphHead,
    label_probabilities,
    normalised_adjacency,
    reweighted_adjacency,
)
from mldec.models.heads.maps import Weighting, maximum_shares
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.tokens import Tokens
from mldec.registry import HEADS

SLOPE = 0.2  # of the leaky ReLU


class MLGCN(LabelGraphHead):
    """Logits (B, N) = f G^T: f is the maximum of each channel over the tokens (B, T, C), and G (N, C) the classifiers

        G = A' Z W2,    Z = LeakyReLU(A' V W1),

    where V (N, width) are label embeddings, as they are, and A' the normalised adjacency of the training labels. Unlike
    the published code, which looks at the first 14 x 14 tokens, f is over all of them.

    Args:
        cooccurrence: (N, N) counts of the training images; None for a network that a checkpoint is loaded into.
        hidden: width of Z.
        threshold: the share of the images with label i from which label j is its neighbour.
        neighbour_weight: p, the weight of all neighbours together is p / (1 - p) of the label's own.
        projection: width to which tokens are mapped first; None: they are read as they are.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        label_embeddings: LabelEmbeddings,
        cooccurrence: np.ndarray | None = None,
        hidden: int = 1024,
        threshold: float = 0.4,
        neighbour_weight: float = 0.2,
        projection: int | None = None,
    ) -> None:
        probabilities = label_probabilities(cooccurrence, num_classes)
        adjacency = reweighted_adjacency(probabilities, threshold, neighbour_weight)
        super().__init__(in_features, label_embeddings, adjacency, projection)
        width = self.projection.out_features
        self.weight1 = nn.Parameter(torch.empty(label_embeddings.width, hidden).uniform_(-1, 1) * hidden**-0.5)
        self.weight2 = nn.Parameter(torch.empty(hidden, width).uniform_(-1, 1) * width**-0.5)

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        pooled_BC = self.projection(tokens).values.amax(dim=1)
        with full_precision(pooled_BC):
            return pooled_BC.to(self.weight1.dtype) @ self.classifiers().T

    def classifiers(self) -> Tensor:
        """G (N, C): one weight vector for each label."""
        graph_NN = normalised_adjacency(self.adjacency)
        hidden = F.leaky_relu(graph_NN @ (self.vectors @ self.weight1), SLOPE)
        return graph_NN @ (hidden @ self.weight2)

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """(B, N, T): what each token adds to a label's logit, which is their sum. DataError for the attention."""
        if weighting == "attention":
            raise DataError("head=ml_gcn has no attention; use maps=label, which shows what each token contributes")
        shares_BTC = maximum_shares(self.projection(tokens).values.to(self.weight1.dtype))
        return self.classifiers() @ shares_BTC.transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class MLGCNConfig(LabelGraphConfig):
    """Settings of `head=ml_gcn`; the defaults are the published ones."""

    hidden: Count = 1024  # width of the first graph convolution
    threshold: Fraction = 0.4  # label j is a neighbour of i if at least this share of the images with i have j
    neighbour_weight: Share = 0.2  # p: all neighbours together weigh p / (1 - p) as much as the label itself
    projection: Count | None = None  # width to which tokens are mapped first (linear, ReLU); null: as they are


@HEADS.register("ml_gcn", MLGCNConfig)
def build_ml_gcn(
    config: MLGCNConfig,
    *,
    in_features: int,
    labels: LabelSpace,
    label_embeddings: LabelEmbeddings,
    cooccurrence: np.ndarray | None = None,
) -> MLGCN:
    settings = arguments_of(config, leave_out=("label_embeddings",))
    return MLGCN(in_features, len(labels), label_embeddings, cooccurrence, **settings)
