"""ML-Decoder: K group queries read the tokens once, and each answers for g classes (paper eqs. 6-11, §1.1-1.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from mldec.config import ComponentConfig, Count, Natural, NonNegative, Seed, Share
from mldec.errors import ConfigError
from mldec.labels import LabelSpace
from mldec.models.heads.layers import (
    DecoderLayer,
    GroupFullyConnected,
    LabelEmbeddingFullyConnected,
    SharedFullyConnected,
    random_places,
    relu_of,
    share_queries,
)
from mldec.models.heads.maps import Weighting, layer_maps
from mldec.models.label_embeddings import LabelEmbeddings, LabelEmbeddingsConfig
from mldec.models.label_vocabulary import GroupedLabels, LabelVocabulary, Normalize, QueryAugment
from mldec.models.queries import EmbeddingQueries, LabelEmbeddingQueries, QueryKind
from mldec.models.tokens import Tokens, token_values
from mldec.registry import HEADS

FcKind = Literal["group", "shared", "label_embeddings"]


class MLDecoder(nn.Module):
    """The head of the paper on any tokens.

    The work that concerns queries alone is done once a batch in evaluation, so an image's logits do not depend on its
    neighbours; in training with dropout every image draws its own.

    With label embeddings in the queries, in the output weights, or in both (the combinations of Table 8) it can be query_labels
    for labels that it was not trained on: `vocabulary.set_labels`, or `Classifier.set_labels`.

    Args:
        in_features: C, width of the tokens.
        num_classes: N.
        num_groups: K, the number of queries, 1..N; None for full decoding, K = N.
        dim: D, a multiple of `num_heads`.
        num_heads, ffn_dim, dropout, num_layers: of the decoder layers.
        queries: "fixed" (noise that is never trained), "learnable", or "label_embeddings" (eq. 10).
        grouping: "contiguous" (class i in group i div g, as published) or "random" (a seeded permutation).
        grouping_seed: of the random grouping.
        fc: the output weights: "group" (learned, each group its own, eq. 6), "shared" (learned, one for all groups;
            needs queries="label_embeddings"), or "label_embeddings" (label embeddings times a learned matrix, eq. 11).
        label_embeddings: vectors of the classes, the first N of its names in order, and of any further labels.
        normalize, augment: of the label embeddings, see `LabelVocabulary`.

    Raises:
        ValueError: sizes that do not fit one another; the message says which and what fits.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_groups: int | None = None,
        dim: int = 768,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        queries: QueryKind = "fixed",
        grouping: Literal["contiguous", "random"] = "contiguous",
        *,
        num_layers: int = 1,
        grouping_seed: int = 0,
        fc: FcKind = "group",
        label_embeddings: LabelEmbeddings | None = None,
        normalize: Normalize = "none",
        augment: QueryAugment | None = None,
    ) -> None:
        super().__init__()
        num_groups = num_classes if num_groups is None else num_groups
        _check_kinds(queries, fc, grouping, label_embeddings is not None)
        if not 1 <= num_groups <= num_classes:
            raise ValueError(f"num_groups={num_groups} is not within 1..{num_classes}, the number of classes")
        by_embeddings = queries == "label_embeddings"
        seed = grouping_seed if grouping == "random" else None
        self.input_projection = nn.Linear(in_features, dim)
        self.vocabulary: LabelVocabulary | None = None
        if label_embeddings is not None:
            self.vocabulary = LabelVocabulary(
                label_embeddings,
                num_classes,
                num_groups,
                fixed_groups=not by_embeddings,
                normalize=normalize,
                augment=augment,
                order=None if seed is None else torch.argsort(random_places(num_classes, seed)),
            )
        self.queries: nn.Module = (
            LabelEmbeddingQueries(label_embeddings.width, dim, -(-num_classes // num_groups))
            if by_embeddings and label_embeddings is not None
            else EmbeddingQueries(num_groups, dim, learnable=queries == "learnable")
        )
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, ffn_dim, dropout, self_attention=False) for _ in range(num_layers)
        )
        self.fc: nn.Module
        if fc == "group":
            self.fc = GroupFullyConnected(num_classes, num_groups, dim, None if self.vocabulary is not None else seed)
        elif fc == "shared":
            self.fc = SharedFullyConnected(dim, -(-num_classes // num_groups))
        elif self.vocabulary is not None:
            self.fc = LabelEmbeddingFullyConnected(self.vocabulary.trained.shape[1], dim, self.vocabulary.length())
        self.dropout = dropout

    def forward(self, tokens: Tokens | Tensor, query_labels: GroupedLabels | None = None) -> Tensor:
        """Logits of Tokens or a (B, T, C) tensor: (B, N), or (B, n) of the labels that `vocabulary` holds now.

        In training those of `augment.random` queries without meaning come after them. `query_labels` takes the place of what
        `vocabulary` holds.
        """
        memory_BTD, embeddings, labels = self._begin(tokens, query_labels)
        for layer in self.layers:
            embeddings = layer(embeddings, memory_BTD)
        return cast(Tensor, self.fc(embeddings) if labels is None else self.fc(embeddings, labels))

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """Maps (B, n, T) of the labels, in the last layer, see `heads/maps.py`."""
        memory_BTD, embeddings, labels = self._begin(tokens)
        for layer in self.layers[:-1]:
            embeddings = layer(embeddings, memory_BTD)
        last = cast(DecoderLayer, self.layers[-1])
        weights = self.fc.label_weights() if labels is None else self.fc.label_weights(labels)  # type: ignore[operator]
        queries = last.before_attention(embeddings)
        return layer_maps(last, queries, memory_BTD, None, self.query_of_labels(), weights, weighting)

    def attention_weights(self, tokens: Tokens | Tensor) -> Tensor:
        """Where each query looks in the last layer: (B, num_heads, K, T), rows that sum to 1."""
        memory_BTD, embeddings, _ = self._begin(tokens)
        for layer in self.layers[:-1]:
            embeddings = layer(embeddings, memory_BTD)
        last = cast(DecoderLayer, self.layers[-1])
        return last.multihead_attn.weights(last.before_attention(embeddings), memory_BTD)

    @property
    def queries_by_embedding_alone(self) -> bool:
        """Whether the logit of a label depends on its label embedding and no other: one label-embedding query a label, and output
        weights that belong to no trained label."""
        own_query = (
            isinstance(self.queries, LabelEmbeddingQueries)
            and self.vocabulary is not None
            and self.vocabulary.group_size == 1
        )
        return own_query and not isinstance(self.fc, GroupFullyConnected)

    def query_of_labels(self) -> Tensor:
        """(n,) int64: which of the K queries answers for each label, in the order of the logits."""
        if self.vocabulary is not None:
            return self.vocabulary.query_of_labels()
        fc = cast(GroupFullyConnected, self.fc)
        places = torch.arange(fc.num_classes) if fc.places is None else fc.places
        return places.to(fc.weight.device) // fc.weight.shape[2]

    def _begin(
        self, tokens: Tokens | Tensor, query_labels: GroupedLabels | None = None
    ) -> tuple[Tensor, Tensor, GroupedLabels | None]:
        """Memory (B,T,D), queries (1 or B,K,D), and the labels that they ask for."""
        memory_BTD = relu_of(self.input_projection, token_values(tokens))
        labels = self.vocabulary() if self.vocabulary is not None and query_labels is None else query_labels
        if isinstance(self.queries, LabelEmbeddingQueries) and labels is not None:
            queries_KD = self.queries(labels.vectors)
        else:
            queries_KD = self.queries()
            if labels is not None:
                queries_KD = queries_KD[labels.groups]
        return memory_BTD, share_queries(queries_KD, memory_BTD.shape[0], self.training and self.dropout > 0), labels


def _check_kinds(queries: str, fc: str, grouping: str, has_embeddings: bool) -> None:
    for name, value, allowed in (
        ("queries", queries, get_args(QueryKind)),
        ("fc", fc, get_args(FcKind)),
        ("grouping", grouping, ("contiguous", "random")),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r}: no such {name}; use {', '.join(allowed[:-1])} or {allowed[-1]}")
    if fc == "shared" and queries != "label_embeddings":
        raise ValueError(
            f"fc=shared: one output for all groups tells nothing apart with queries={queries}; "
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


@dataclass(frozen=True, kw_only=True)
class MLDecoderConfig(ComponentConfig):
    """Settings of `head=ml_decoder`; the defaults are the paper's."""

    num_groups: Count | None = None  # K, the number of queries, at most that of classes; null: one query a class
    dim: Count = 768  # D, width of queries and projected tokens; a multiple of num_heads
    num_heads: Count = 8  # of the cross-attention
    ffn_dim: Count = 2048  # width inside the feed-forward layer
    dropout: Share = 0.1  # of attention and feed-forward
    num_layers: Count = 1  # decoder layers, one after another
    queries: QueryKind = "fixed"  # random and never trained, learned, or a learned map of the labels' label embeddings
    grouping: Literal["contiguous", "random"] = "contiguous"  # classes in their order, or dealt out at random
    grouping_seed: Seed = 0  # of grouping=random
    fc: FcKind = "group"  # output weights: each group's own, one for all, or made from label embeddings
    label_embeddings: LabelEmbeddingsConfig | None = None  # where label embeddings come from
    normalize: Normalize = "centered"  # of label embeddings
    query_noise: NonNegative = 0.0  # added to label embeddings in training, in units of their entries
    random_queries: Natural = 0  # vectors without meaning that training asks for; the answer should be "present"
    query_cutout: Share = 0.0  # share of the entries of label embeddings that training sets to zero

    @property
    def uses_label_embeddings(self) -> bool:
        return "label_embeddings" in (self.queries, self.fc)

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"dim={self.dim}: not a multiple of num_heads={self.num_heads}")
        _check_kinds(self.queries, self.fc, self.grouping, self.label_embeddings is not None)
        augmented = self.query_noise or self.random_queries or self.query_cutout
        if augmented and not self.uses_label_embeddings:
            raise ValueError(
                "query_noise, random_queries, query_cutout: without effect, since there are no label embeddings"
            )


@HEADS.register("ml_decoder", MLDecoderConfig)
def build_ml_decoder(
    config: MLDecoderConfig, *, in_features: int, labels: LabelSpace, label_embeddings: LabelEmbeddings | None = None
) -> MLDecoder:
    num_classes = len(labels)
    if config.num_groups is not None and config.num_groups > num_classes:
        raise ConfigError(
            f"head.num_groups={config.num_groups} exceeds the {num_classes} classes; "
            f"use 1..{num_classes} or null for one query per class"
        )
    return MLDecoder(
        in_features,
        num_classes,
        config.num_groups,
        dim=config.dim,
        num_heads=config.num_heads,
        ffn_dim=config.ffn_dim,
        dropout=config.dropout,
        queries=config.queries,
        grouping=config.grouping,
        num_layers=config.num_layers,
        grouping_seed=config.grouping_seed,
        fc=config.fc,
        label_embeddings=label_embeddings,
        normalize=config.normalize,
        augment=QueryAugment(config.query_noise, config.random_queries, config.query_cutout),
    )
