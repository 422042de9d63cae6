"""Where a decoder's queries come from: fixed noise, learned vectors, or word vectors.

Each kind is a module without input whose output is queries (K, D). In the paper all three reach the same mAP (Table 7).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QueryKind = Literal["fixed", "learnable", "word_vectors"]


class EmbeddingQueries(nn.Module):
    """K vectors drawn from N(0, 1); with `learnable=False` they stay as drawn: saved, never trained (paper §1.1)."""

    def __init__(self, num_queries: int, dim: int, learnable: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_queries, dim), requires_grad=learnable)

    def forward(self) -> Tensor:
        return self.weight


class WordVectorQueries(nn.Module):
    """ReLU of a learned linear map of fixed word vectors (K, d_w); the vectors are saved with the weights."""

    vectors: Tensor

    def __init__(self, vectors_KW: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors_KW.detach().clone().to(torch.get_default_dtype()))
        self.projection = nn.Linear(vectors_KW.shape[1], dim)

    def forward(self) -> Tensor:
        return F.relu(self.projection(self.vectors))


def make_queries(kind: QueryKind, num_queries: int, dim: int, word_vectors: Tensor | None = None) -> nn.Module:
    """The module of `kind` with output (num_queries, dim).

    Raises:
        ValueError: an unknown kind, or word vectors that are absent, unused, or not one a query.
    """
    if kind not in ("fixed", "learnable", "word_vectors"):
        raise ValueError(f"queries={kind!r}: no such kind; use fixed, learnable or word_vectors")
    if kind != "word_vectors":
        if word_vectors is not None:
            raise ValueError(
                f"word_vectors: without effect for queries={kind}; use queries=word_vectors or leave them out"
            )
        return EmbeddingQueries(num_queries, dim, learnable=kind == "learnable")
    if word_vectors is None:
        raise ValueError("queries=word_vectors needs word_vectors of shape (number of queries, width)")
    if word_vectors.dim() != 2 or len(word_vectors) != num_queries:
        raise ValueError(
            f"word_vectors of shape {tuple(word_vectors.shape)}: {num_queries} queries need ({num_queries}, width)"
        )
    return WordVectorQueries(word_vectors, dim)
