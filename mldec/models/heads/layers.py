"""The parts that decoders are made of: attention, post-norm layers, and the group fully-connected layer.

Parameter names follow `torch.nn.MultiheadAttention` and `torch.nn.TransformerDecoderLayer`, whose weights (and so the
published ones) load without conversion of tensors.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mldec.errors import ConfigError
from mldec.models.heads.dropout import Dropout, dropout
from mldec.models.label_vocabulary import GroupedLabels


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
        """(B, Q, D). A query of batch size 1 is shared by all images, and projected once."""
        query, key, value = self._project(query_BQD, key_BTD, value_BTD)
        query = query.expand(key.shape[0], -1, -1, -1)
        given = query.dtype
        p = self.dropout if self.training else 0.0
        if query.device.type == "cpu":
            # In bfloat16 torch's fused kernel is 10 to 20 times slower than in float32 on processors without AMX.
            dtype = torch.promote_types(query.dtype, torch.float32)
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        with full_precision(query) if query.device.type == "cpu" else nullcontext():
            if query.device.type == "cpu" and p > 0:  # which the fused kernel does not know there
                heads = dropout(_softmax(query, key), p, training=True) @ value
            else:
                heads = F.scaled_dot_product_attention(query, key, value, dropout_p=p)
        return self.out_proj(heads.transpose(1, 2).flatten(2).to(given))

    def weights(self, query_BQD: Tensor, key_BTD: Tensor) -> Tensor:
        """The softmax of eq. 1 by head: (B, num_heads, Q, T), each row a distribution over the T tokens."""
        query, key, _ = self._project(query_BQD, key_BTD, key_BTD)
        return _softmax(query, key)

    def values(self, value_BTD: Tensor) -> Tensor:
        """What each head takes up of a token that has all its attention: (B, num_heads, T, D / num_heads)."""
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


def _softmax(query: Tensor, key: Tensor) -> Tensor:
    return torch.softmax(query @ key.transpose(2, 3) / query.shape[-1] ** 0.5, dim=-1)


class DecoderLayer(nn.Module):
    """One post-norm decoder layer (paper eqs. 2-4); without self-attention it is the layer of ML-Decoder (eqs. 7-8).

    Leaving self-attention out keeps its residual: the query plus dropout of the query itself, as in the published code
    (paper §1.2). In evaluation the layer norm undoes that factor of two; in training it is noise on the query.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, self_attention: bool) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(dim, num_heads, dropout) if self_attention else None
        self.multihead_attn = MultiHeadAttention(dim, num_heads, dropout)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, queries_BQD: Tensor, memory_BTD: Tensor, position_TD: Tensor | None = None) -> Tensor:
        """(B, Q, D). Queries of batch size 1 stay so until they meet the images; `position` is added to the keys."""
        queries = self.before_attention(queries_BQD)
        memory_keys = with_position(memory_BTD, position_TD)
        queries = self.norm2(queries + self.dropout(self.multihead_attn(queries, memory_keys, memory_BTD)))
        hidden = self.dropout(relu_of(self.linear1, queries))
        return self.norm3(queries + self.dropout(self.linear2(hidden)))

    def before_attention(self, queries: Tensor) -> Tensor:
        """The queries as cross-attention takes them."""
        update = queries if self.self_attn is None else self.self_attn(queries, queries, queries)
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


def check_width(dim: int, in_features: int, *, projected: bool) -> None:
    """Raise ConfigError for a decoder that reads a backbone's features as they are, and has another width."""
    if not projected and dim != in_features:
        raise ConfigError(
            f"head.dim={dim}: with input_projection=false it must equal the backbone's {in_features} features; "
            f"use head.dim={in_features} or head.input_projection=true"
        )


class GroupFullyConnected(nn.Module):
    """Each of K embeddings gives the logits of g = ceil(N / K) classes (paper eq. 6), all in one batched product.

    Class i belongs to place `i` of the (K, g) table, or to a random place that `grouping_seed` draws. The last
    K * g - N places have weights but no class (paper §1.3). With K = N this is a weight vector a query (eq. 5).
    """

    places: Tensor | None

    def __init__(self, num_classes: int, num_groups: int, dim: int, grouping_seed: int | None = None) -> None:
        super().__init__()
        if not 1 <= num_groups <= num_classes:
            raise ValueError(f"num_groups={num_groups} is not within 1..{num_classes}, the number of classes")
        self.num_classes = num_classes
        group_size = -(-num_classes // num_groups)
        self.weight = nn.Parameter(torch.empty(num_groups, dim, group_size))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        nn.init.xavier_normal_(self.weight)  # torch's fans of a 3-D tensor: std = sqrt(2 / ((dim + K) g))
        places = None
        if grouping_seed is not None:
            places = random_places(num_classes, grouping_seed).to(self.weight.device)
        self.register_buffer("places", places)

    def forward(self, embeddings_BKD: Tensor, labels: GroupedLabels | None = None) -> Tensor:
        """Logits (B, N) in class order, or (B, n) of the labels of `labels`.

        Labels that were not trained borrow the weights and biases of trained ones in turn; what these say of them is
        chance (paper Table 8).
        """
        weight = self.weight if labels is None else self.weight[labels.groups]
        with full_precision(embeddings_BKD):
            table_KBg = torch.bmm(embeddings_BKD.transpose(0, 1).to(self.weight.dtype), weight)
        table_BKg = table_KBg.transpose(0, 1).flatten(1)
        if labels is not None:
            return table_BKg.index_select(1, labels.places) + self.bias[labels.biases]
        row_BN = table_BKg[:, : self.num_classes]
        if self.places is not None:
            row_BN = row_BN.index_select(1, self.places)
        return row_BN + self.bias

    def label_weights(self, labels: GroupedLabels | None = None) -> Tensor:
        """(n, D): what the embedding of its query is multiplied with to give the logit of each label, less the bias."""
        if labels is not None:
            return self.weight[labels.groups].transpose(1, 2).flatten(0, 1)[labels.places]
        table_KgD = self.weight.transpose(1, 2).flatten(0, 1)
        return table_KgD[: self.num_classes] if self.places is None else table_KgD[self.places]


def random_places(num_classes: int, seed: int) -> Tensor:
    """(N,) int64: the place that each class is dealt by a seeded permutation."""
    return torch.randperm(num_classes, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")


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
        """(n, D): as of `GroupFullyConnected`."""
        return self.weight.T[labels.places % self.weight.shape[1]]


class LabelEmbeddingFullyConnected(nn.Module):
    """Output weights that are label embeddings times one learned matrix (paper eq. 11): W_k = N_k W_b, one bias for all.

    Args:
        width: of the label embeddings.
        dim: D.
        length: root mean square length of the label embeddings, by which the start of W_b is scaled: logits begin with a
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
        """(n, D): as of `GroupFullyConnected`."""
        return labels.vectors.flatten(0, 1)[labels.places].to(self.weight.dtype) @ self.weight.T


def relu_of(linear: nn.Linear, x: Tensor) -> Tensor:
    """relu(linear(x)) of (..., D), in the memory of the product: rows without batch dimensions, since autograd copies
    what is changed through a view."""
    return F.relu(linear(x.flatten(0, -2)), inplace=True).unflatten(0, x.shape[:-1])


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """A context without autocast, for the product that makes logits.

    bfloat16 leaves 256 steps to a power of two, and scores that tie cannot be ranked."""
    if like.device.type == "meta":  # has shapes alone, and no autocast in older torch
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def share_queries(queries_QD: Tensor, batch_size: int, per_image: bool) -> Tensor:
    """Queries (1, Q, D) that all images share, or (B, Q, D) where dropout must differ from image to image."""
    return queries_QD.expand(batch_size if per_image else 1, -1, -1)


def with_position(values_BTD: Tensor, position_TD: Tensor | None) -> Tensor:
    """`values` plus their positions, if there are any."""
    return values_BTD if position_TD is None else values_BTD + position_TD
