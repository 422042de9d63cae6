"""`head=ml_decoder`: its settings, and which class they build."""

from __future__ import annotations

from dataclasses import dataclass

from mldec.config import ComponentConfig, Count, Natural, NonNegative, Seed, Share, arguments_of
from mldec.errors import ConfigError
from mldec.labels import LabelSpace
from mldec.models.heads.layers import QueryKind
from mldec.models.heads.ml_decoder import Grouping, MLDecoder
from mldec.models.heads.zero_shot import FcKind, ZeroShotMLDecoder, check_kinds
from mldec.models.label_embeddings import LabelEmbeddings, LabelEmbeddingsConfig
from mldec.models.label_vocabulary import Normalize, QueryAugment
from mldec.registry import HEADS


@dataclass(frozen=True, kw_only=True)
class MLDecoderConfig(ComponentConfig):
    """Settings of `head=ml_decoder`; the defaults are the paper's."""

    num_groups: Count | None = None  # K, the number of queries, at most that of classes; null: one query per class
    dim: Count = 768  # D, width of queries and projected tokens; a multiple of num_heads
    num_heads: Count = 8  # of the cross-attention
    ffn_dim: Count = 2048  # width inside the feed-forward layer
    dropout: Share = 0.1  # of attention and feed-forward
    num_layers: Count = 1  # decoder layers, one after another
    queries: QueryKind = "fixed"  # random and never trained, learned, or a learned map of the label embeddings
    grouping: Grouping = "contiguous"  # classes in their order, or assigned to groups at random
    grouping_seed: Seed = 0  # of grouping=random
    fc: FcKind = "group"  # output weights: one set per group, one for all, or made from label embeddings
    label_embeddings: LabelEmbeddingsConfig | None = None  # where label embeddings come from
    normalize: Normalize = "centered"  # of label embeddings
    query_noise: NonNegative = 0.0  # added to label embeddings in training, in units of their entries
    random_queries: Natural = 0  # random vectors that training adds to the queries; their target is "present"
    query_cutout: Share = 0.0  # share of the entries of label embeddings that training sets to zero

    @property
    def uses_label_embeddings(self) -> bool:
        return "label_embeddings" in (self.queries, self.fc)

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"dim={self.dim}: not a multiple of num_heads={self.num_heads}")
        check_kinds(self.queries, self.fc, has_embeddings=self.label_embeddings is not None)
        augmented = self.query_noise or self.random_queries or self.query_cutout
        if augmented and not self.uses_label_embeddings:
            raise ValueError(
                "query_noise, random_queries, query_cutout: without effect, since there are no label embeddings"
            )


@HEADS.register("ml_decoder", MLDecoderConfig)
def build_ml_decoder(
    config: MLDecoderConfig, *, in_features: int, labels: LabelSpace, label_embeddings: LabelEmbeddings | None = None
) -> MLDecoder:
    """`ZeroShotMLDecoder` if the queries or the output weights are label embeddings, else `MLDecoder`."""
    num_classes = len(labels)
    if config.num_groups is not None and config.num_groups > num_classes:
        raise ConfigError(
            f"head.num_groups={config.num_groups} exceeds the {num_classes} classes; "
            f"use 1..{num_classes} or null for one query per class"
        )
    augment = QueryAugment(config.query_noise, config.random_queries, config.query_cutout)
    zero_shot = arguments_of(config, leave_out=("label_embeddings", "query_noise", "random_queries", "query_cutout"))
    plain = {name: value for name, value in zero_shot.items() if name not in ("fc", "normalize")}
    if label_embeddings is None:
        return MLDecoder(in_features, num_classes, **plain)
    return ZeroShotMLDecoder(in_features, num_classes, **zero_shot, label_embeddings=label_embeddings, augment=augment)
