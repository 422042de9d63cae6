"""SDL, semantic diversity learning (Ben-Cohen et al. 2021, arXiv:2105.05926), as its authors' code builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mldec.config import Count, arguments_of
from mldec.labels import LabelSpace
from mldec.models.heads.embedding_head import EmbeddingHead, EmbeddingHeadConfig
from mldec.models.heads.kernels import full_precision
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.label_vocabulary import Normalize
from mldec.models.tokens import HeadOutput, Tokens
from mldec.registry import HEADS


class SDL(EmbeddingHead):
    """logit_n = max_k A_k . v_n, where the mean token gives K vectors A_k of the label embeddings' width.

    A = W z is linear without a bias; entry (d, k) of the matrix (width, K) is output d K + k, as in published weights.
    In training the result is `HeadOutput` with the details that the loss `sdl` reads: "matrix" A (B, width, K), and
    "label_vectors" v (n, width).

    Args:
        num_rows: K. The released code has 2 for COCO and 7 for NUS-WIDE.
        Others: of `EmbeddingHead`.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_rows: int = 7,
        *,
        label_embeddings: LabelEmbeddings,
        normalize: Normalize = "unit",
        projection: int | None = None,
    ) -> None:
        super().__init__(
            in_features, num_classes, label_embeddings=label_embeddings, normalize=normalize, projection=projection
        )
        self.num_rows = num_rows
        self.embedding = nn.Linear(self.features, label_embeddings.width * num_rows, bias=False)
        self.fit_to_length(self.embedding.weight)

    def scores(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor | HeadOutput:
        matrix_BWK, rows_BKn = self._rows(tokens, vectors_nW)
        logits = rows_BKn.amax(dim=1)
        return HeadOutput(logits, {"matrix": matrix_BWK, "label_vectors": vectors_nW}) if self.training else logits

    def contributions(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        """(B, n, T): with the row that gives the maximum; their sum over the tokens is the logit."""
        row_Bn = self._rows(tokens, vectors_nW)[1].argmax(dim=1)
        weights_WKC = self.embedding.weight.unflatten(0, (-1, self.num_rows))
        weights_nKC = torch.einsum("nw,wkc->nkc", vectors_nW.to(weights_WKC.dtype), weights_WKC)
        own_BnC = weights_nKC[torch.arange(len(vectors_nW), device=row_Bn.device), row_Bn]
        values_BTC = tokens.values.to(own_BnC.dtype)
        return own_BnC @ values_BTC.transpose(1, 2) / values_BTC.shape[1]

    def _rows(self, tokens: Tokens, vectors_nW: Tensor) -> tuple[Tensor, Tensor]:
        """A (B, width, K), and A_k . v_n (B, K, n)."""
        dtype = self.embedding.weight.dtype
        mean_BC = tokens.values.mean(dim=1)
        with full_precision(mean_BC):
            matrix_BWK = self.embedding(mean_BC.to(dtype)).unflatten(1, (-1, self.num_rows))
            return matrix_BWK, matrix_BWK.transpose(1, 2) @ vectors_nW.to(dtype).T


@dataclass(frozen=True, kw_only=True)
class SDLConfig(EmbeddingHeadConfig):
    """Settings of `head=sdl`."""

    gives: ClassVar[tuple[str, ...]] = ("matrix", "label_vectors")

    num_rows: Count = 7  # K, vectors of an image; published: 2 for COCO, 7 for NUS-WIDE


@HEADS.register("sdl", SDLConfig)
def build_sdl(config: SDLConfig, *, in_features: int, labels: LabelSpace, label_embeddings: LabelEmbeddings) -> SDL:
    settings = arguments_of(config, leave_out=("label_embeddings",))
    return SDL(in_features, len(labels), **settings, label_embeddings=label_embeddings)
