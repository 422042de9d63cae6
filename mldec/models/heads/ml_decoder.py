"""ML-Decoder: K group queries attend to the tokens once, and each predicts g classes (paper eqs. 6-9, §1.1-1.3)."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from mldec.errors import check_choice
from mldec.models.heads.layers import DecoderLayer, EmbeddingQueries, GroupFullyConnected, relu_of, share_queries
from mldec.models.heads.maps import Weighting, layer_maps
from mldec.models.tokens import Tokens, token_values

Grouping = Literal["contiguous", "random"]


class MLDecoder(nn.Module):
    """The head of the paper for any tokens; `ZeroShotMLDecoder` is its variant for labels that were not trained.

    In evaluation all images share the part of the computation that depends on queries only, and the logits of an image
    do not depend on the other images of its batch. In training with dropout each image has its own.

    Args:
        in_features: C, width of the tokens.
        num_classes: N.
        num_groups: K, the number of queries, 1..N; None for full decoding, K = N.
        dim: D, a multiple of `num_heads`.
        num_heads, ffn_dim, dropout, num_layers: of the decoder layers.
        queries: "fixed" (random and never trained, as published) or "learnable".
        grouping: "contiguous" (class i in group i div g, as published) or "random" (a seeded permutation).
        grouping_seed: of grouping="random".

    Raises:
        ValueError: an unknown choice, or sizes that do not fit one another; the message says which and what fits.
    """

    queries: nn.Module
    fc: nn.Module

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_groups: int | None = None,
        dim: int = 768,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        queries: Literal["fixed", "learnable"] = "fixed",
        grouping: Grouping = "contiguous",
        *,
        num_layers: int = 1,
        grouping_seed: int = 0,
    ) -> None:
        super().__init__()
        check_choice("queries", queries, ("fixed", "learnable"))
        num_groups = checked_groups(num_groups, num_classes, grouping)
        seed = grouping_seed if grouping == "random" else None
        self.input_projection = nn.Linear(in_features, dim)
        self.queries = EmbeddingQueries(num_groups, dim, learnable=queries == "learnable")
        self.layers = decoder_layers(num_layers, dim, num_heads, ffn_dim, dropout)
        self.fc = GroupFullyConnected(num_classes, num_groups, dim, seed)
        self.dropout = dropout

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        """Logits (B, N) of Tokens or a (B, T, C) tensor."""
        memory_BTD = self._project(tokens)
        embeddings_BKD = self._batch(self.queries(), memory_BTD)
        for layer in self.layers:  # cross-attention and feed-forward (eqs. 7-8)
            embeddings_BKD = layer(embeddings_BKD, memory_BTD)
        return cast(Tensor, self.fc(embeddings_BKD))  # group fully-connected (eq. 6)

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """Maps (B, n, T) of the classes or query labels, from the last layer; see `heads/maps.py`."""
        memory_BTD, queries_BKD = self._before_last_attention(tokens)
        labels, weights_nD = self.query_of_labels(), self._label_weights()
        return layer_maps(self._last_layer, queries_BKD, memory_BTD, None, labels, weights_nD, weighting)

    def attention_weights(self, tokens: Tokens | Tensor) -> Tensor:
        """The attention of each query in the last layer: (B, num_heads, K, T), rows that sum to 1."""
        memory_BTD, queries_BKD = self._before_last_attention(tokens)
        return self._last_layer.multihead_attn.weights(queries_BKD, memory_BTD)

    def query_of_labels(self) -> Tensor:
        """(N,) int64: the index of the query that predicts each class, in the order of the logits."""
        fc = cast(GroupFullyConnected, self.fc)
        slots = torch.arange(fc.num_classes) if fc.places is None else fc.places
        return slots.to(fc.weight.device) // fc.weight.shape[2]

    def _project(self, tokens: Tokens | Tensor) -> Tensor:
        """The tokens as the decoder layers read them: (B, T, D)."""
        return relu_of(self.input_projection, token_values(tokens))

    def _batch(self, queries_KD: Tensor, memory_BTD: Tensor) -> Tensor:
        """(1, K, D), or (B, K, D) where dropout has to differ from image to image."""
        return share_queries(queries_KD, memory_BTD.shape[0], self.training and self.dropout > 0)

    def _current_queries(self) -> Tensor:
        """(K, D)."""
        return cast(Tensor, self.queries())

    def _label_weights(self) -> Tensor:
        """(N, D), see `GroupFullyConnected`."""
        return cast(GroupFullyConnected, self.fc).label_weights()

    def _before_last_attention(self, tokens: Tokens | Tensor) -> tuple[Tensor, Tensor]:
        """Memory (B, T, D), and the queries (1 or B, K, D) of the cross-attention of the last layer."""
        memory_BTD = self._project(tokens)
        embeddings_BKD = self._batch(self._current_queries(), memory_BTD)
        for layer in self.layers[:-1]:
            embeddings_BKD = layer(embeddings_BKD, memory_BTD)
        return memory_BTD, self._last_layer.before_attention(embeddings_BKD)

    @property
    def _last_layer(self) -> DecoderLayer:
        return cast(DecoderLayer, self.layers[-1])


def decoder_layers(count: int, dim: int, num_heads: int, ffn_dim: int, dropout: float) -> nn.ModuleList:
    """`count` decoder layers without self-attention (paper eqs. 7-8)."""
    return nn.ModuleList(DecoderLayer(dim, num_heads, ffn_dim, dropout, self_attention=False) for _ in range(count))


def checked_groups(num_groups: int | None, num_classes: int, grouping: str) -> int:
    """K, the number of groups. Raises ValueError if it is not within 1..num_classes, or for an unknown grouping."""
    check_choice("grouping", grouping, ("contiguous", "random"))
    num_groups = num_classes if num_groups is None else num_groups
    if not 1 <= num_groups <= num_classes:
        raise ValueError(f"num_groups={num_groups} is not within 1..{num_classes}, the number of classes")
    return num_groups
