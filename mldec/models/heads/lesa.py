"""LESA (Huynh & Elhamifar 2020, "A Shared Multi-Attention Framework for Multi-Label Zero-Shot Learning"), and its
baseline with one attention per label.

Written from the equations of the authors' TensorFlow code. Both need tokens with a grid, for a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mldec.config import Count, arguments_of
from mldec.labels import LabelSpace
from mldec.models.heads.embedding_head import EmbeddingHead, EmbeddingHeadConfig
from mldec.models.heads.kernels import full_precision
from mldec.models.heads.layers import batch_norm
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.label_vocabulary import Normalize
from mldec.models.tokens import HeadOutput, Tokens, token_map
from mldec.registry import HEADS


class Regions(nn.Module):
    """Tokens to regions X = relu(norm(conv X_0)) (B, T, C), and what attention reads of them, e = tanh([X, 1] W_1).

    The convolution is 2 x 2 without bias; a row of zeros below the map and a column right of it keep its size.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, 2, bias=False)
        self.norm = nn.BatchNorm2d(features, eps=1e-3, momentum=0.01)
        self.hidden = nn.Parameter(variance_scaled(features + 1, features))
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """X and e, (B, T, C) each. Raises ValueError for tokens without a grid."""
        padded = F.pad(token_map(tokens, "LESA"), (0, 1, 0, 1))
        regions_BTC = F.relu(batch_norm(self.norm, self.conv(padded))).flatten(2).transpose(1, 2)
        return regions_BTC, torch.tanh(with_one(regions_BTC, self.hidden))


class LESA(EmbeddingHead):
    """logit_n = max_k g_k . W v_n, where g_k is the mean of the regions by attention k of K that all labels share.

    Attention k is the softmax over the regions of a_k = [e, 1] W_2. In training the result is `HeadOutput` with the
    details that the loss `lesa` reads: "attention_logits" (B, K, n), of which the logits are the maxima,
    "mean_logits" (B, n), those of the plain mean of the regions, and "attention_scores" a (B, K, T).

    Args:
        num_attentions: K.
        Others: of `EmbeddingHead`.

    Raises:
        ValueError: in `forward`, tokens without a grid.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_attentions: int = 10,
        *,
        label_embeddings: LabelEmbeddings,
        normalize: Normalize = "unit",
        projection: int | None = None,
    ) -> None:
        super().__init__(
            in_features, num_classes, label_embeddings=label_embeddings, normalize=normalize, projection=projection
        )
        self.regions = Regions(self.features)
        self.attention_weight = nn.Parameter(variance_scaled(self.features + 1, num_attentions))
        self.label_weight = nn.Parameter(variance_scaled(self.features, label_embeddings.width))
        self.fit_to_length(self.label_weight)

    def scores(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor | HeadOutput:
        regions_BTC, scores_BKT = self._attend(tokens)
        labels_nC = label_weights(vectors_nW, self.label_weight)
        with full_precision(regions_BTC):
            regions_BTC = regions_BTC.to(labels_nC.dtype)
            attended_BKC = scores_BKT.to(labels_nC.dtype).softmax(dim=2) @ regions_BTC
            logits_BKn = attended_BKC @ labels_nC.T
            logits = logits_BKn.amax(dim=1)
            if not self.training:
                return logits
            mean_logits = regions_BTC.mean(dim=1) @ labels_nC.T
        details = {"attention_logits": logits_BKn, "mean_logits": mean_logits, "attention_scores": scores_BKT}
        return HeadOutput(logits, details)

    def contributions(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        """(B, n, T): with the attention that gives the maximum; their sum over the regions is the logit."""
        return torch.mul(*self._of_the_maximum(tokens, vectors_nW))

    def attention(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        """(B, n, T): the attention that gives the maximum."""
        return self._of_the_maximum(tokens, vectors_nW)[0]

    def _attend(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """The regions (B, T, C) and the attention scores a (B, K, T)."""
        regions_BTC, hidden_BTC = self.regions(tokens)
        return regions_BTC, with_one(hidden_BTC, self.attention_weight).transpose(1, 2)

    def _of_the_maximum(self, tokens: Tokens, vectors_nW: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, T) each: the attention whose logit is the largest, and the logit of each region alone."""
        regions_BTC, scores_BKT = self._attend(tokens)
        alone_BnT = label_weights(vectors_nW, self.label_weight) @ regions_BTC.transpose(1, 2)
        attention_BKT = scores_BKT.softmax(dim=2)
        winner_Bn = (attention_BKT @ alone_BnT.transpose(1, 2)).argmax(dim=1)
        return attention_BKT.gather(1, winner_Bn[:, :, None].expand_as(alone_BnT)), alone_BnT


class AttentionPerLabel(EmbeddingHead):
    """logit_n = sum_t alpha_nt X_t . W v_n: one attention for each label, alpha_n = softmax over t of e_t . W_a v_n.

    The baseline that LESA's authors compare with. They write no equation of it that could be found: a learned
    attention per trained label would have none for other labels, so this one is made from the label's vector, by a
    form bilinear in vector and region, and all else is as in `LESA`. That form is ours.

    Arguments are those of `EmbeddingHead`.

    Raises:
        ValueError: in `forward`, tokens without a grid.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        label_embeddings: LabelEmbeddings,
        normalize: Normalize = "unit",
        projection: int | None = None,
    ) -> None:
        super().__init__(
            in_features, num_classes, label_embeddings=label_embeddings, normalize=normalize, projection=projection
        )
        self.regions = Regions(self.features)
        self.attention_weight = nn.Parameter(variance_scaled(self.features, label_embeddings.width))
        self.label_weight = nn.Parameter(variance_scaled(self.features, label_embeddings.width))
        for weight in (self.attention_weight, self.label_weight):
            self.fit_to_length(weight)

    def scores(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        return self.contributions(tokens, vectors_nW).sum(dim=2)

    def contributions(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        """(B, n, T): their sum over the regions is the logit."""
        return torch.mul(*self._attend(tokens, vectors_nW))

    def attention(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        """(B, n, T)."""
        return self._attend(tokens, vectors_nW)[0]

    def _attend(self, tokens: Tokens, vectors_nW: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, T) each: the attention of each label, and the logit of each region alone."""
        regions_BTC, hidden_BTC = self.regions(tokens)
        with full_precision(regions_BTC):
            dtype = self.label_weight.dtype
            keys_BCT, values_BCT = (x.to(dtype).transpose(1, 2) for x in (hidden_BTC, regions_BTC))
            attention = (label_weights(vectors_nW, self.attention_weight) @ keys_BCT).softmax(dim=2)
            return attention, label_weights(vectors_nW, self.label_weight) @ values_BCT


def with_one(x: Tensor, weight: Tensor) -> Tensor:
    """[x, 1] W of x (..., C) and W (C + 1, D): its last row is a bias."""
    return F.linear(x, weight[:-1].T, weight[-1])


def label_weights(vectors_nW: Tensor, weight_CW: Tensor) -> Tensor:
    """(n, C): W v_n of each label."""
    with full_precision(vectors_nW):
        return vectors_nW.to(weight_CW.dtype) @ weight_CW.T


def variance_scaled(rows: int, columns: int) -> Tensor:
    """(rows, columns), normal, cut off at two standard deviations, so that the variance is 2 / rows.

    As TensorFlow 1 has it, by the factor 1.3 for what the cut takes from the variance.
    """
    std = (1.3 * 2 / rows) ** 0.5
    return nn.init.trunc_normal_(torch.empty(rows, columns), std=std, a=-2 * std, b=2 * std)


@dataclass(frozen=True, kw_only=True)
class LESAConfig(EmbeddingHeadConfig):
    """Settings of `head=lesa`."""

    gives: ClassVar[tuple[str, ...]] = ("attention_logits", "mean_logits", "attention_scores")

    num_attentions: Count = 10  # K, shared by all labels


@dataclass(frozen=True, kw_only=True)
class AttentionPerLabelConfig(EmbeddingHeadConfig):
    """Settings of `head=attention_per_label`."""


@HEADS.register("lesa", LESAConfig)
def build_lesa(config: LESAConfig, *, in_features: int, labels: LabelSpace, label_embeddings: LabelEmbeddings) -> LESA:
    settings = arguments_of(config, leave_out=("label_embeddings",))
    return LESA(in_features, len(labels), **settings, label_embeddings=label_embeddings)


@HEADS.register("attention_per_label", AttentionPerLabelConfig)
def build_attention_per_label(
    config: AttentionPerLabelConfig, *, in_features: int, labels: LabelSpace, label_embeddings: LabelEmbeddings
) -> AttentionPerLabel:
    settings = arguments_of(config, leave_out=("label_embeddings",))
    return AttentionPerLabel(in_features, len(labels), **settings, label_embeddings=label_embeddings)
