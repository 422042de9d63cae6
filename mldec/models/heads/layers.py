"""The parts of decoders: queries, attention, post-norm layers, and the group fully-connected layer.

Each kind of queries is a module whose output is queries (K, D). In the paper all kinds reach the same mAP on trained
labels (Table 7); only label embeddings extend to labels that were not trained.

Parameter names follow `torch.nn.MultiheadAttention` and `torch.nn.TransformerDecoderLayer`, whose weights (and so the
published ones) load without conversion of tensors.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mldec.models.heads.kernels import Dropout, attention, attention_weights, full_precision

QueryKind = Literal["fixed", "learnable", "label_embeddings"]


class EmbeddingQueries(nn.Module):
    """K vectors drawn from N(0, 1); with `learnable=False` they are saved but never trained (paper §1.1)."""

    def __init__(self, num_queries: int, dim: int, learnable: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_queries, dim), requires_grad=learnable)

    def forward(self) -> Tensor:
        return self.weight


class LabelEmbeddingQueries(nn.Module):
    """The ReLU of one learned linear map of the label embeddings of each group's labels, side by side (paper eq. 10).

    With g labels per group the map has D / g outputs, rounded up; entries beyond D are cut off. With g = 1 it is the
    published query of a single label.
    """

    def __init__(self, width: int, dim: int, group_size: int) -> None:
        super().__init__()
        self.dim = dim
        self.projection = nn.Linear(width, -(-dim // group_size))

    def forward(self, embeddings_KgW: Tensor) -> Tensor:
        """Label embeddings (K, g, width) to queries (K, D)."""
        return F.relu(self.projection(embeddings_KgW)).flatten(1)[:, : self.dim]


class MultiHeadAttention(nn.Module):
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V in `num_heads` parallel heads (paper eq. 1), batch first."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"dim={dim} does not divide into num_heads={num_heads} heads; choose a multiple of {num_heads}"
            )
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))  # rows of the query, key and value maps
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query_BQD: Tensor, key_BTD: Tensor, value_BTD: Tensor) -> Tensor:
        """(B, Q, D). A query of batch size 1 is shared by all images and projected once."""
        query, key, value = self._project(query_BQD, key_BTD, value_BTD)
        query = query.expand(key.shape[0], -1, -1, -1)
        given = query.dtype
        heads = attention(query, key, value, self.dropout if self.training else 0.0)
        return self.out_proj(heads.transpose(1, 2).flatten(2).to(given))

    def weights(self, query_BQD: Tensor, key_BTD: Tensor) -> Tensor:
        """The softmax of eq. 1 per head: (B, num_heads, Q, T), each row a distribution over the T tokens."""
        query, key, _ = self._project(query_BQD, key_BTD, key_BTD)
        return attention_weights(query, key)

    def values(self, value_BTD: Tensor) -> Tensor:
        """The projected values of each head: (B, num_heads, T, D / num_heads)."""
        dim = self.out_proj.in_features
        projected = F.linear(value_BTD, self.in_proj_weight[2 * dim :], self.in_proj_bias[2 * dim :])
        return projected.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _project(self, query_BQD: Tensor, key_BTD: Tensor, value_BTD: Tensor) -> list[Tensor]:
        """Query, key and value as (B, heads, length, D / heads)."""
        inputs, rows = [query_BQD, key_BTD, value_BTD], [self.out_proj.in_features] * 3
        if key_BTD is value_BTD:  # one product for both
            inputs, rows = inputs[:2], [rows[0], sum(rows[1:])]
        parts = zip(inputs, self.in_proj_weight.split(rows), self.in_proj_bias.split(rows), strict=True)
        projected = [F.linear(x, weight, bias) for x, weight, bias in parts]
        if len(projected) == 2:
            projected[1:] = projected[1].chunk(2, dim=2)
        return [x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in projected]


class DecoderLayer(nn.Module):
    """One post-norm decoder layer (paper eqs. 2-4); without self-attention it is the layer of ML-Decoder (eqs. 7-8).

    Without self-attention its residual connection stays: the query plus dropout of the query itself, as in the
    published code (paper §1.2). In evaluation the layer norm undoes that factor of two; in training it adds noise.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, self_attention: bool) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(dim, num_heads, dropout) if self_attention else None
        self.multihead_attn = MultiHeadAttention(dim, num_heads, dropout)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        queries_BQD: Tensor,
        memory_BTD: Tensor,
        position_TD: Tensor | None = None,
        query_position: Tensor | None = None,
    ) -> Tensor:
        """(B, Q, D). Queries of batch size 1 are expanded in cross-attention only.

        `position` is added to the keys of the memory, `query_position` to the queries (and keys) of attention only.
        """
        queries = self.before_attention(queries_BQD, query_position)
        memory_keys = with_position(memory_BTD, position_TD)
        attended = self.multihead_attn(with_position(queries, query_position), memory_keys, memory_BTD)
        queries = self.norm2(queries + self.dropout(attended))
        hidden = self.dropout(relu_of(self.linear1, queries))
        return self.norm3(queries + self.dropout(self.linear2(hidden)))

    def before_attention(self, queries: Tensor, query_position: Tensor | None = None) -> Tensor:
        """The queries of cross-attention."""
        placed = with_position(queries, query_position)
        update = queries if self.self_attn is None else self.self_attn(placed, placed, queries)
        return self.norm1(queries + self.dropout(update))


class EncoderLayer(nn.Module):
    """One post-norm layer of self-attention among tokens; `position` is added to queries and keys, not to values."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(dim, num_heads, dropout)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, tokens_BTD: Tensor, position_TD: Tensor | None = None) -> Tensor:
        placed = with_position(tokens_BTD, position_TD)
        tokens = self.norm1(tokens_BTD + self.dropout(self.self_attn(placed, placed, tokens_BTD)))
        hidden = self.dropout(relu_of(self.linear1, tokens))
        return self.norm2(tokens + self.dropout(self.linear2(hidden)))


class GroupFullyConnected(nn.Module):
    """Each of K embeddings gives the logits of g = ceil(N / K) classes (paper eq. 6), all in one batched product.

    Class i belongs to entry i of the (K, g) table, or to a random entry that `grouping_seed` determines. The last
    K * g - N entries have weights but no class (paper §1.3). With K = N this is one weight vector per query (eq. 5).
    """

    places: Tensor | None

    def __init__(self, num_classes: int, num_groups: int, dim: int, grouping_seed: int | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        group_size = -(-num_classes // num_groups)
        self.weight = nn.Parameter(torch.empty(num_groups, dim, group_size))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        nn.init.xavier_normal_(self.weight)  # torch's fans of a 3-D tensor: std = sqrt(2 / ((dim + K) g))
        places = None if grouping_seed is None else random_places(num_classes, grouping_seed).to(self.weight.device)
        self.register_buffer("places", places)

    def forward(self, embeddings_BKD: Tensor) -> Tensor:
        """Logits (B, N) in the order of the classes."""
        row_BN = self.table(embeddings_BKD, self.weight)[:, : self.num_classes]
        if self.places is not None:
            row_BN = row_BN.index_select(1, self.places)
        return row_BN + self.bias

    def table(self, embeddings_BKD: Tensor, weight_KDg: Tensor) -> Tensor:
        """(B, K * g): the products of each embedding with the g weight vectors of its group, without bias."""
        with full_precision(embeddings_BKD):
            table_KBg = torch.bmm(embeddings_BKD.transpose(0, 1).to(self.weight.dtype), weight_KDg)
        return table_KBg.transpose(0, 1).flatten(1)

    def label_weights(self) -> Tensor:
        """(N, D): the product of each with the embedding of its query is the logit of the class, without its bias."""
        table_KgD = self.weight.transpose(1, 2).flatten(0, 1)
        return table_KgD[: self.num_classes] if self.places is None else table_KgD[self.places]


def batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """norm(x) of (B, C, …). One value per channel has no statistics, which torch refuses: it gets the running ones.

    Statistics over all processes (`runtime.sync_batch_norm`) have the values of the others, which wait for this one.
    """
    if norm.training and x.numel() == x.shape[1] and not isinstance(norm, nn.SyncBatchNorm):
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return cast(Tensor, norm(x))


def random_places(num_classes: int, seed: int) -> Tensor:
    """(N,) int64: the entry of the table that each class gets, by a seeded permutation."""
    return torch.randperm(num_classes, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")


def relu_of(linear: nn.Linear, x: Tensor) -> Tensor:
    """relu(linear(x)) of (..., D), with the ReLU in place.

    The batch dimensions are flattened first, since autograd copies a tensor that is changed through a view.
    """
    return F.relu(linear(x.flatten(0, -2)), inplace=True).unflatten(0, x.shape[:-1])


def share_queries(queries_QD: Tensor, batch_size: int, per_image: bool) -> Tensor:
    """Queries (1, Q, D) that all images share, or (B, Q, D) where dropout has to differ from image to image."""
    return queries_QD.expand(batch_size if per_image else 1, -1, -1)


def with_position(values_BTD: Tensor, position_TD: Tensor | None) -> Tensor:
    """`values` plus their positions, if there are any."""
    return values_BTD if position_TD is None else values_BTD + position_TD
