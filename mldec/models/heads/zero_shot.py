"""ML-Decoder whose queries, output weights or both are made from label embeddings (paper §2.3.3, eqs. 10-11).

Such a head can be queried with labels that were not trained. The combinations of `queries` and `fc` are those of the
paper's Table 8.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from mldec.errors import check_choice
from mldec.models.heads.kernels import full_precision
from mldec.models.heads.layers import (
    EmbeddingQueries,
    GroupFullyConnected,
    LabelEmbeddingQueries,
    QueryKind,
    random_places,
)
from mldec.models.heads.ml_decoder import Grouping, MLDecoder, checked_groups, decoder_layers
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.label_vocabulary import GroupedLabels, LabelVocabulary, Normalize, QueryAugment
from mldec.models.tokens import Tokens

FcKind = Literal["group", "shared", "label_embeddings"]


class ZeroShotMLDecoder(MLDecoder):
    """ML-Decoder for the labels of a vocabulary: `vocabulary.set_labels`, or `Classifier.set_labels`.

    Args:
        in_features, num_classes, num_groups, dim, num_heads, ffn_dim, dropout, grouping, num_layers, grouping_seed: as
            for `MLDecoder`; N counts the trained labels.
        label_embeddings: vectors of the trained labels, the first N of its names in order, and of any further labels.
        queries: "label_embeddings" (eq. 10), or "fixed" or "learnable" as for `MLDecoder`.
        fc: the output weights: "group" (learned, one set per group, eq. 6), "shared" (learned, one set for all groups;
            needs queries="label_embeddings"), or "label_embeddings" (label embeddings times a learned matrix, eq. 11).
        normalize, augment: of the label embeddings, see `LabelVocabulary`.

    Raises:
        ValueError: an unknown choice, a combination without label embeddings, or sizes that do not fit one another.
    """

    vocabulary: LabelVocabulary

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_groups: int | None = None,
        dim: int = 768,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        queries: QueryKind = "label_embeddings",
        grouping: Grouping = "contiguous",
        *,
        label_embeddings: LabelEmbeddings,
        num_layers: int = 1,
        grouping_seed: int = 0,
        fc: FcKind = "shared",
        normalize: Normalize = "none",
        augment: QueryAugment | None = None,
    ) -> None:
        super(MLDecoder, self).__init__()  # the same parts, made in the same order, with other queries and weights
        check_kinds(queries, fc, has_embeddings=True)
        num_groups = checked_groups(num_groups, num_classes, grouping)
        group_size = -(-num_classes // num_groups)
        self.input_projection = nn.Linear(in_features, dim)
        order = torch.argsort(random_places(num_classes, grouping_seed)) if grouping == "random" else None
        self.vocabulary = LabelVocabulary(
            label_embeddings,
            num_classes,
            num_groups,
            fixed_groups=queries != "label_embeddings",
            normalize=normalize,
            augment=augment,
            order=order,
        )
        if queries == "label_embeddings":
            self.queries = LabelEmbeddingQueries(label_embeddings.width, dim, group_size)
        else:
            self.queries = EmbeddingQueries(num_groups, dim, learnable=queries == "learnable")
        self.layers = decoder_layers(num_layers, dim, num_heads, ffn_dim, dropout)
        if fc == "group":
            self.fc = BorrowedFullyConnected(num_classes, num_groups, dim)
        elif fc == "shared":
            self.fc = SharedFullyConnected(dim, group_size)
        else:
            self.fc = LabelEmbeddingFullyConnected(label_embeddings.width, dim, self.vocabulary.length())
        self.dropout = dropout

    def forward(self, tokens: Tokens | Tensor, query_labels: GroupedLabels | None = None) -> Tensor:
        """Logits (B, n) of the labels that `vocabulary` holds, or of `query_labels`.

        In training the logits of the random queries of `augment` follow.
        """
        memory_BTD = self._project(tokens)
        labels = self.vocabulary() if query_labels is None else query_labels
        embeddings_BKD = self._batch(self._current_queries(labels), memory_BTD)
        for layer in self.layers:
            embeddings_BKD = layer(embeddings_BKD, memory_BTD)
        return cast(Tensor, self.fc(embeddings_BKD, labels))

    @property
    def labels_are_independent(self) -> bool:
        """Whether the logit of any label depends on its own label embedding only.

        That needs one label-embedding query per label, and output weights that belong to no trained label.
        """
        own_query = isinstance(self.queries, LabelEmbeddingQueries) and self.vocabulary.group_size == 1
        return own_query and not isinstance(self.fc, GroupFullyConnected)

    def query_of_labels(self) -> Tensor:
        """(n,) int64: the index of the query that predicts each query label, in the order of the logits."""
        return self.vocabulary.query_of_labels()

    def _label_weights(self) -> Tensor:
        """(n, D), see `GroupFullyConnected`."""
        return cast(Tensor, self.fc.label_weights(self.vocabulary()))  # type: ignore[operator]

    def _current_queries(self, labels: GroupedLabels | None = None) -> Tensor:
        """(K, D), for the labels that `vocabulary` holds or for `labels`."""
        labels = self.vocabulary() if labels is None else labels
        if isinstance(self.queries, LabelEmbeddingQueries):
            return self.queries(labels.vectors)
        return cast(Tensor, self.queries())[labels.groups]


class BorrowedFullyConnected(GroupFullyConnected):
    """Learned output weights (paper eq. 6); labels that were not trained borrow those of trained labels in turn.

    The predictions for these labels are at chance level (paper Table 8).
    """

    def forward(self, embeddings_BKD: Tensor, labels: GroupedLabels) -> Tensor:  # type: ignore[override]
        """Logits (B, n) of the labels of `labels`."""
        table_BKg = self.table(embeddings_BKD, self.weight[labels.groups])
        return table_BKg.index_select(1, labels.places) + self.bias[labels.biases]

    def label_weights(self, labels: GroupedLabels) -> Tensor:  # type: ignore[override]
        """(n, D): as for `GroupFullyConnected`."""
        return self.weight[labels.groups].transpose(1, 2).flatten(0, 1)[labels.places]


class SharedFullyConnected(nn.Module):
    """One matrix (D, g) and bias (g,) for all groups: new labels need no new weights (paper §2.3.3; §1.1 for g = 1)."""

    def __init__(self, dim: int, group_size: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, group_size))
        self.bias = nn.Parameter(torch.zeros(group_size))
        nn.init.xavier_normal_(self.weight)

    def forward(self, embeddings_BKD: Tensor, labels: GroupedLabels) -> Tensor:
        """Logits (B, n) of the labels of `labels`."""
        with full_precision(embeddings_BKD):
            table_BKg = embeddings_BKD.to(self.weight.dtype) @ self.weight + self.bias
        return table_BKg.flatten(1).index_select(1, labels.places)

    def label_weights(self, labels: GroupedLabels) -> Tensor:
        """(n, D): as for `GroupFullyConnected`."""
        return self.weight.T[labels.places % self.weight.shape[1]]


class LabelEmbeddingFullyConnected(nn.Module):
    """Output weights that are label embeddings times a learned matrix (paper eq. 11): W_k = N_k W_b, one bias for all.

    Args:
        width: of the label embeddings.
        dim: D.
        length: root mean square length of the label embeddings, which scales the initial W_b: initial logits have a
            variance of about 1 for vectors of any length.
    """

    def __init__(self, width: int, dim: int, length: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, width) / (length * dim**0.5))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, embeddings_BKD: Tensor, labels: GroupedLabels) -> Tensor:
        """Logits (B, n) of the labels of `labels`."""
        with full_precision(embeddings_BKD):
            projected_BKW = embeddings_BKD.to(self.weight.dtype) @ self.weight
            table_BKg = torch.einsum("bkw,kgw->bkg", projected_BKW, labels.vectors.to(self.weight.dtype))
        return table_BKg.flatten(1).index_select(1, labels.places) + self.bias

    def label_weights(self, labels: GroupedLabels) -> Tensor:
        """(n, D): as for `GroupFullyConnected`."""
        return labels.vectors.flatten(0, 1)[labels.places].to(self.weight.dtype) @ self.weight.T


def check_kinds(queries: str, fc: str, *, has_embeddings: bool) -> None:
    """Raise ValueError for an unknown kind, or if label embeddings are missing or without effect."""
    check_choice("queries", queries, get_args(QueryKind))
    check_choice("fc", fc, get_args(FcKind))
    if fc == "shared" and queries != "label_embeddings":
        raise ValueError(
            f"fc=shared: one output for all groups cannot distinguish labels with queries={queries}; "
            "use queries=label_embeddings or fc=group"
        )
    needed = "label_embeddings" in (queries, fc)
    if needed and not has_embeddings:
        what = "queries" if queries == "label_embeddings" else "fc"
        raise ValueError(f"label_embeddings: {what}=label_embeddings needs the label embeddings of the classes")
    if has_embeddings and not needed:
        raise ValueError(
            f"label_embeddings: without effect for queries={queries} and fc={fc}; use queries=label_embeddings"
        )
