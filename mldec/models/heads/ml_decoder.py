"""ML-Decoder: K group queries read the tokens once, and each answers for g classes (paper eqs. 6-9, §1.1-1.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mldec.config import ComponentConfig, Count, Natural, Share
from mldec.errors import ConfigError, DataError
from mldec.labels import LabelSpace
from mldec.models.heads.layers import DecoderLayer, GroupFullyConnected, SharedFullyConnected, share_queries
from mldec.models.queries import QueryKind, make_queries
from mldec.models.tokens import Tokens, token_values
from mldec.registry import HEADS


class MLDecoder(nn.Module):
    """The head of the paper on any tokens.

    The work that concerns queries alone is done once a batch in evaluation, so a picture's logits do not depend on its
    neighbours; in training with dropout every picture draws its own.

    Args:
        in_features: C, width of the tokens.
        num_classes: N.
        num_groups: K, the number of queries, 1..N; None for full decoding, K = N.
        dim: D, a multiple of `num_heads`.
        num_heads, ffn_dim, dropout, num_layers: of the decoder layers.
        queries: "fixed" (noise that is never trained), "learnable", or "word_vectors".
        grouping: "contiguous" (class i in group i div g, as published) or "random" (a seeded permutation).
        grouping_seed: of the random grouping.
        word_vectors: (N, d_w), one row a class, for queries="word_vectors".
        shared_fc: one output vector for all classes instead of one each; needs K = N.

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
        word_vectors: Tensor | None = None,
        shared_fc: bool = False,
    ) -> None:
        super().__init__()
        num_groups = num_classes if num_groups is None else num_groups
        if num_groups < num_classes and (queries == "word_vectors" or shared_fc):
            what = "queries=word_vectors" if queries == "word_vectors" else "shared_fc"
            raise ValueError(f"num_groups={num_groups}: {what} needs one query a class; use null or {num_classes}")
        if grouping not in ("contiguous", "random"):
            raise ValueError(f"grouping={grouping!r}: no such grouping; use contiguous or random")
        self.input_projection = nn.Linear(in_features, dim)
        self.queries = make_queries(queries, num_groups, dim, word_vectors)
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, ffn_dim, dropout, self_attention=False) for _ in range(num_layers)
        )
        self.fc: nn.Module = (
            SharedFullyConnected(dim)
            if shared_fc
            else GroupFullyConnected(num_classes, num_groups, dim, grouping_seed if grouping == "random" else None)
        )
        self.dropout = dropout

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        """Logits (B, N) of Tokens or a (B, T, C) tensor."""
        memory_BTD, embeddings = self._memory_and_queries(tokens)
        for layer in self.layers:
            embeddings = layer(embeddings, memory_BTD)
        return self.fc(embeddings)

    def attention_weights(self, tokens: Tokens | Tensor) -> Tensor:
        """Where each query looks in the last layer: (B, num_heads, K, T), rows that sum to 1."""
        memory_BTD, embeddings = self._memory_and_queries(tokens)
        for layer in self.layers[:-1]:
            embeddings = layer(embeddings, memory_BTD)
        last = cast(DecoderLayer, self.layers[-1])
        return last.multihead_attn.weights(last.before_attention(embeddings), memory_BTD)

    def _memory_and_queries(self, tokens: Tokens | Tensor) -> tuple[Tensor, Tensor]:
        memory_BTD = F.relu(self.input_projection(token_values(tokens)))
        return memory_BTD, share_queries(self.queries(), memory_BTD.shape[0], self.training and self.dropout > 0)


@dataclass(frozen=True, kw_only=True)
class MLDecoderConfig(ComponentConfig):
    """Settings of `head=ml_decoder`; the defaults are the paper's."""

    num_groups: Count | None = None  # null: one query a class
    dim: Count = 768
    num_heads: Count = 8
    ffn_dim: Count = 2048
    dropout: Share = 0.1
    num_layers: Count = 1
    queries: Literal["fixed", "learnable", "word_vectors"] = "fixed"
    word_vectors: str | None = None  # a .npy file (classes, width), rows in the order of the labels
    grouping: Literal["contiguous", "random"] = "contiguous"
    grouping_seed: Natural = 0

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"dim={self.dim}: not a multiple of num_heads={self.num_heads}")
        if self.queries == "word_vectors" and self.word_vectors is None:
            raise ValueError("word_vectors=null: queries=word_vectors needs a .npy file (classes, width)")
        if self.queries != "word_vectors" and self.word_vectors is not None:
            raise ValueError(f"word_vectors={self.word_vectors}: without effect for queries={self.queries}; use null")


@HEADS.register("ml_decoder", MLDecoderConfig)
def build_ml_decoder(config: MLDecoderConfig, *, in_features: int, labels: LabelSpace) -> MLDecoder:
    num_classes = len(labels)
    if config.num_groups is not None and config.num_groups > num_classes:
        raise ConfigError(
            f"head.num_groups={config.num_groups} exceeds the {num_classes} classes; "
            f"use 1..{num_classes} or null for one query per class"
        )
    if config.queries == "word_vectors" and config.num_groups not in (None, num_classes):
        raise ConfigError(
            f"head.num_groups={config.num_groups}: queries=word_vectors needs one query per class; "
            f"use null or {num_classes}"
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
        word_vectors=None if config.word_vectors is None else _read_word_vectors(config.word_vectors, num_classes),
    )


def _read_word_vectors(path: str, num_classes: int) -> Tensor:
    try:
        vectors = np.load(Path(path).expanduser(), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"head.word_vectors={path}: not a readable .npy file ({error})") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or len(vectors) != num_classes:
        raise DataError(
            f"head.word_vectors={path}: {num_classes} classes need an array ({num_classes}, width); "
            f"found {getattr(vectors, 'shape', 'an archive')}"
        )
    return torch.from_numpy(vectors.astype(np.float32))
