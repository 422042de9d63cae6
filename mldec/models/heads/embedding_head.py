"""The common part of heads that compare an image with the vectors of labels, whichever labels these are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mldec.config import ComponentConfig, Count
from mldec.errors import DataError
from mldec.models.heads.maps import Weighting
from mldec.models.heads.projection import TokenProjection
from mldec.models.label_embeddings import LabelEmbeddings, LabelEmbeddingsConfig
from mldec.models.label_vocabulary import GroupedLabels, LabelVocabulary, Normalize
from mldec.models.tokens import HeadOutput, Tokens


class EmbeddingHead(nn.Module):
    """Logits (B, n) of n labels given by their vectors v_n. A subclass writes `scores`.

    No parameter belongs to a single label, and the logit of a label depends on no other label's vector, so the head
    can score labels that were not trained: `Classifier.set_labels`.

    Args:
        in_features: C, width of the tokens.
        num_classes: N, the number of trained labels.
        label_embeddings: vectors of the trained labels, the first N of its names in order, and of any further labels.
        normalize: of the label embeddings, see `LabelVocabulary`; the published heads use vectors of length 1.
        projection: map the tokens to this width first, see `TokenProjection`; None: they are read as they are.

    Attributes:
        features: the width of the tokens that `scores` reads.
    """

    labels_are_independent = True

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        label_embeddings: LabelEmbeddings,
        normalize: Normalize = "unit",
        projection: int | None = None,
    ) -> None:
        super().__init__()
        self.projection = TokenProjection(in_features, projection)
        self.features = self.projection.out_features
        self.vocabulary = LabelVocabulary(label_embeddings, num_classes, num_classes, normalize=normalize)

    def scores(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor | HeadOutput:
        """Logits (B, n) of labels with these vectors (n, width)."""
        raise NotImplementedError

    def forward(self, tokens: Tokens | Tensor, query_labels: GroupedLabels | None = None) -> Tensor | HeadOutput:
        """Logits (B, n) of the labels that `vocabulary` holds, or of `query_labels`."""
        return self.scores(self.projection(tokens), self.label_vectors(query_labels))

    def label_vectors(self, query_labels: GroupedLabels | None = None) -> Tensor:
        """(n, width): the vectors of the labels that `vocabulary` holds, or of `query_labels`, in the logits' order."""
        labels = self.vocabulary() if query_labels is None else query_labels
        return labels.vectors.flatten(0, 1)[labels.places]

    @torch.no_grad()
    def fit_to_length(self, weight: Tensor) -> None:
        """Divide an initial weight by the length of the label embeddings: published initial values suit length 1."""
        weight /= self.vocabulary.length()

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """Maps (B, n, T), see `heads/maps.py`: what each token contributes to a logit, or where the head attends.

        Raises DataError for weighting="attention" where the head has no attention.
        """
        method = self.attention if weighting == "attention" else self.contributions
        return method(self.projection(tokens), self.label_vectors())

    def contributions(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        """(B, n, T): what each token adds to the logit, with choices such as maxima held as they are."""
        raise NotImplementedError

    def attention(self, tokens: Tokens, vectors_nW: Tensor) -> Tensor:
        """(B, n, T): a distribution over the tokens for each label."""
        raise DataError("this head has no attention; use maps=label, which shows what each token contributes")


@dataclass(frozen=True, kw_only=True)
class EmbeddingHeadConfig(ComponentConfig):
    """Settings of every head that compares an image with the vectors of labels."""

    label_embeddings: LabelEmbeddingsConfig  # where label embeddings come from
    normalize: Normalize = "unit"  # of label embeddings; published: unit
    projection: Count | None = None  # map tokens to this width first (linear, ReLU); null: read them as they are

    @property
    def uses_label_embeddings(self) -> bool:
        return True
