"""ConSE (Norouzi et al. 2014, arXiv:1312.5650): new labels are compared with a mean of trained labels' vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mldec.config import Count, arguments_of
from mldec.errors import DataError, check_choice
from mldec.labels import LabelSpace
from mldec.models.heads.embedding_head import EmbeddingHead, EmbeddingHeadConfig
from mldec.models.heads.kernels import full_precision
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.label_vocabulary import GroupedLabels, Normalize, normalized
from mldec.models.tokens import Tokens
from mldec.registry import HEADS

Activation = Literal["sigmoid", "softmax"]


def conse_scores(
    logits_BN: Tensor, trained_NW: Tensor, vectors_nW: Tensor, top: int | None, activation: Activation
) -> Tensor:
    """(B, n): cos(e, v_n), e = sum p_s v_s / sum p_s over the most probable trained labels s.

    Args:
        logits_BN: of the trained labels.
        trained_NW: the vectors v_s of the trained labels.
        vectors_nW: the vectors v_n of the labels to score.
        top: the number of labels s; None, or more than N: all.
        activation: what makes p of the logits.
    """
    log_p_BN = F.logsigmoid(logits_BN) if activation == "sigmoid" else logits_BN.log_softmax(dim=1)
    found = log_p_BN.topk(min(top or logits_BN.shape[1], logits_BN.shape[1]), dim=1)
    weights_BS = found.values.softmax(dim=1)  # p / sum p, also where every p rounds to 0
    embedding_BW = torch.einsum("bs,bsw->bw", weights_BS, trained_NW[found.indices])
    return F.normalize(embedding_BW, dim=1) @ F.normalize(vectors_nW, dim=1).T


class ConSE(EmbeddingHead):
    """A linear layer of the mean token for the trained labels, and scores of any labels by `conse_scores`.

    It is trained, and scores, as `GlobalAveragePool` as long as the query labels are trained ones. If any of them is
    not, the logits of all are cosines, so that they can be compared; an exported network with label vectors as inputs
    gives cosines always. A sigmoid of a cosine is no probability: use these scores to rank labels.

    Reports differ in the number of labels of the mean and in the activation. Five labels and the sigmoid, by which
    networks of several labels are trained, are our choice.

    Args:
        top: the number of trained labels whose vectors are averaged; None: all.
        activation: "sigmoid" or "softmax": what makes probabilities of the logits.
        Others: of `EmbeddingHead`.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        top: int | None = 5,
        activation: Activation = "sigmoid",
        *,
        label_embeddings: LabelEmbeddings,
        normalize: Normalize = "unit",
        projection: int | None = None,
    ) -> None:
        super().__init__(
            in_features, num_classes, label_embeddings=label_embeddings, normalize=normalize, projection=projection
        )
        check_choice("activation", activation, get_args(Activation))
        self.top, self.activation = top, activation
        self.fc = nn.Linear(self.features, num_classes)

    def forward(self, tokens: Tokens | Tensor, query_labels: GroupedLabels | None = None) -> Tensor:
        """Logits (B, n) of the labels that `vocabulary` holds, or cosines of `query_labels`."""
        if query_labels is None and self.scores_trained_labels:
            return self.trained_logits(self.projection(tokens)).index_select(1, self.vocabulary().biases)
        return cast(Tensor, super().forward(tokens, query_labels))

    def scores(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        logits_BN = self.trained_logits(tokens)
        trained = normalized(self.vocabulary.trained, self.vocabulary.trained, self.vocabulary.normalize)
        with full_precision(logits_BN):
            return conse_scores(logits_BN, trained.to(logits_BN), vectors_nW.to(logits_BN), self.top, self.activation)

    @property
    def scores_trained_labels(self) -> bool:
        """Whether all query labels are trained ones, which have outputs of their own."""
        return set(self.vocabulary.names) <= set(self.vocabulary.trained_names)

    def trained_logits(self, tokens: Tokens) -> Tensor:
        """(B, N): of the linear layer."""
        mean_BC = tokens.values.mean(dim=1)
        with full_precision(mean_BC):
            return self.fc(mean_BC.to(self.fc.weight.dtype))

    def contributions(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        """(B, n, T): of the linear layer; their sum plus the label's bias is the logit.

        Raises DataError if some query label was not trained.
        """
        if not self.scores_trained_labels:
            raise DataError(
                "head=conse has maps of trained labels only: other labels are scored by a mean of vectors, to which "
                "tokens do not contribute one by one; query trained labels, or use head=zero_shot"
            )
        values_BTC = tokens.values.to(self.fc.weight.dtype)
        weights_nC = self.fc.weight[self.vocabulary().biases]
        return weights_nC @ values_BTC.transpose(1, 2) / values_BTC.shape[1]


@dataclass(frozen=True, kw_only=True)
class ConSEConfig(EmbeddingHeadConfig):
    """Settings of `head=conse`."""

    top: Count | None = 5  # trained labels whose vectors are averaged, the most probable ones; null: all
    activation: Activation = "sigmoid"  # what makes probabilities, the weights of that mean, of logits


@HEADS.register("conse", ConSEConfig)
def build_conse(
    config: ConSEConfig, *, in_features: int, labels: LabelSpace, label_embeddings: LabelEmbeddings
) -> ConSE:
    settings = arguments_of(config, leave_out=("label_embeddings",))
    return ConSE(in_features, len(labels), **settings, label_embeddings=label_embeddings)
