"""Graphs of labels: how often they occur together in the training images, as matrices.

What is counted comes from `ImageIndex.cooccurrence`: M_ij, in how many of the images with label i label j is present
too, and on the diagonal n_i, how many have label i. An image in which label j is unknown says nothing of M_ij / n_i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mldec.config import ComponentConfig
from mldec.models.heads.projection import TokenProjection
from mldec.models.label_embeddings import LabelEmbeddings, LabelEmbeddingsConfig


def conditional_probabilities(cooccurrence: np.ndarray) -> Tensor:
    """(N, N) P_ij = M_ij / n_i: the share of the images with label i that have label j, where that is known. 0 on the
    diagonal, and for a label that no image has."""
    counts = torch.from_numpy(cooccurrence).to(torch.float64)
    present = counts.diagonal().clamp(min=1)
    return (counts / present[:, None]).fill_diagonal_(0).to(torch.get_default_dtype())


def reweighted_adjacency(probabilities: Tensor, threshold: float, neighbour_weight: float) -> Tensor:
    """(N, N) A_ij = w E_ij / sum_i E_ij + delta_ij with E_ij = [P_ij >= threshold] and w = p / (1 - p).

    ML-GCN's: the sum is over columns, as published; `neighbour_weight` is p.
    """
    edges = (probabilities >= threshold).to(probabilities.dtype).fill_diagonal_(0)
    weight = neighbour_weight / (1 - neighbour_weight)
    return weight * edges / (edges.sum(dim=0, keepdim=True) + 1e-6) + torch.eye(
        len(edges), dtype=edges.dtype, device=edges.device
    )


def normalised_adjacency(adjacency: Tensor) -> Tensor:
    """(N, N) D A^T D with D = diag(sum_j A_ij) ** -1/2. The transpose of A is what the published code multiplies by."""
    scale = adjacency.sum(dim=1) ** -0.5
    return scale[:, None] * adjacency.T * scale


def label_probabilities(cooccurrence: np.ndarray | None, num_classes: int) -> Tensor:
    """`conditional_probabilities`; without counts, as for a network that a checkpoint is loaded into, those of a graph
    without edges, on the default device: on the meta device a number of labels from a file then takes no memory.

    Raises ValueError for another number of labels.
    """
    if cooccurrence is None:
        return torch.zeros(num_classes, num_classes)
    if cooccurrence.shape != (num_classes, num_classes):
        raise ValueError(f"cooccurrence has shape {cooccurrence.shape}, but there are {num_classes} classes")
    return conditional_probabilities(cooccurrence)


def label_vectors(label_embeddings: LabelEmbeddings, num_classes: int) -> Tensor:
    """(N, width) of the trained labels, which come first. Raises ValueError if there are fewer."""
    if len(label_embeddings.names) < num_classes:
        raise ValueError(f"label embeddings of {len(label_embeddings.names)} labels for {num_classes} classes")
    vectors = label_embeddings.vectors[:num_classes]
    return vectors.to(torch.get_default_device(), torch.get_default_dtype(), copy=True)


class LabelGraphHead(nn.Module):
    """The common part of heads on a graph of labels: their embeddings, their graph, and the projection of tokens.

    Attributes:
        vectors: (N, width) the embeddings of the trained labels, as they are.
        adjacency: (N, N) part of the weights, but never trained.
    """

    adjacency: Tensor
    vectors: Tensor

    def __init__(
        self, in_features: int, label_embeddings: LabelEmbeddings, adjacency: Tensor, projection: int | None
    ) -> None:
        super().__init__()
        self.label_embeddings = label_embeddings
        self.projection = TokenProjection(in_features, projection)
        self.register_buffer("adjacency", adjacency.to(torch.get_default_device()))
        self.register_buffer("vectors", label_vectors(label_embeddings, len(adjacency)), persistent=False)


@dataclass(frozen=True, kw_only=True)
class LabelGraphConfig(ComponentConfig):
    """What heads on a graph of labels have in common: embeddings of the trained labels, and how often they co-occur."""

    uses_label_embeddings: ClassVar[bool] = True
    uses_cooccurrence: ClassVar[bool] = True
    fixed_labels: ClassVar[bool] = True  # the graph has the trained labels only

    label_embeddings: LabelEmbeddingsConfig  # where the embeddings of the labels come from
