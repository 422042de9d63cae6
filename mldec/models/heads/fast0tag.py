"""Fast0Tag (Zhang et al. 2016, arXiv:1605.09759): a network that maps an image among the label embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from mldec.config import Count, Share, arguments_of
from mldec.labels import LabelSpace
from mldec.models.heads.embedding_head import EmbeddingHead, EmbeddingHeadConfig
from mldec.models.heads.kernels import dropout, full_precision
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.label_vocabulary import Normalize
from mldec.models.tokens import Tokens
from mldec.registry import HEADS


class Fast0Tag(EmbeddingHead):
    """logit_n = f . v_n, where f is the mean token after linear layers with ReLUs between them.

    The method trains it with RankNet on frozen features, published with those of VGG-19. Sizes and dropout are those
    of re-implementations; the authors released no code.

    Args:
        hidden: widths of the hidden layers.
        dropout: before the last layer.
        Others: of `EmbeddingHead`.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden: Sequence[int] = (8192, 2048),
        dropout: float = 0.3,
        *,
        label_embeddings: LabelEmbeddings,
        normalize: Normalize = "unit",
        projection: int | None = None,
    ) -> None:
        super().__init__(
            in_features, num_classes, label_embeddings=label_embeddings, normalize=normalize, projection=projection
        )
        self.dropout = dropout
        widths = [self.features, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.fc = nn.Linear(widths[-1], label_embeddings.width)
        for parameter in self.fc.parameters():
            self.fit_to_length(parameter)

    def scores(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        features = tokens.values.mean(dim=1)
        for linear in self.hidden:
            features = F.relu(linear(features))
        features = dropout(features, self.dropout, self.training)
        with full_precision(features):
            embedding_BW = self.fc(features.to(self.fc.weight.dtype))
            return embedding_BW @ vectors_nW.to(embedding_BW.dtype).T

    def contributions(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        """(B, n, T): exact with the active units of the ReLUs held; the rest of a logit is what the biases give."""
        values_BTC = tokens.values.to(self.fc.weight.dtype)
        mean_B1C, parts_BTC = values_BTC.mean(dim=1, keepdim=True), values_BTC / values_BTC.shape[1]
        for module in self.hidden:
            linear = cast(nn.Linear, module)
            mean_B1C = F.relu(linear(mean_B1C))
            parts_BTC = F.linear(parts_BTC, linear.weight) * (mean_B1C > 0)
        return vectors_nW.to(parts_BTC.dtype) @ F.linear(parts_BTC, self.fc.weight).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class Fast0TagConfig(EmbeddingHeadConfig):
    """Settings of `head=fast0tag`."""

    hidden: tuple[Count, ...] = (8192, 2048)  # widths of the hidden layers
    dropout: Share = 0.3  # before the last layer


@HEADS.register("fast0tag", Fast0TagConfig)
def build_fast0tag(
    config: Fast0TagConfig, *, in_features: int, labels: LabelSpace, label_embeddings: LabelEmbeddings
) -> Fast0Tag:
    settings = arguments_of(config, leave_out=("label_embeddings",))
    return Fast0Tag(in_features, len(labels), **settings, label_embeddings=label_embeddings)
