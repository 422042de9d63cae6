"""Query2Label (Liu et al. 2021, arXiv:2107.10834), as its authors' code builds it.

It differs from the transformer decoder of ML-Decoder's paper (`transformer_decoder.py`): by default its decoder layers
have no self-attention, their input is a target of zeros, and the learned queries are position encodings that are added
to the queries of the attention in every layer. Without self-attention, the residual connection and the norm of that
step are left out too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from mldec.config import ComponentConfig, Count, Natural, Share, arguments_of
from mldec.errors import CheckpointError
from mldec.labels import LabelSpace
from mldec.models.heads.kernels import Dropout
from mldec.models.heads.layers import (
    EncoderLayer,
    GroupFullyConnected,
    MultiHeadAttention,
    check_width,
    relu_of,
    share_queries,
    with_position,
)
from mldec.models.heads.maps import Weighting, layer_maps
from mldec.models.heads.positions import grid_of, sine_position
from mldec.models.queries import EmbeddingQueries
from mldec.models.tokens import Tokens, token_values
from mldec.registry import HEADS

SelfAttention = Literal["none", "first", "others", "all"]

#: Our name of a part -> the published one.
PARTS = {
    "input_projection.": "input_proj.",
    "queries.": "query_embed.",
    "encoder.": "transformer.encoder.layers.",
    "layers.": "transformer.decoder.layers.",
    "norm.": "transformer.decoder.norm.",
    "fc.weight": "fc.W",
    "fc.bias": "fc.b",
}


class Query2Label(nn.Module):
    """One learned query per class, cross-attention to encoded tokens, one weight vector per class.

    Args:
        in_features: C, width of the tokens.
        num_classes: N.
        dim: D, a multiple of `num_heads` and of 4.
        num_heads, ffn_dim, dropout, encoder_layers, decoder_layers: of the transformer; one decoder layer or more.
        self_attention: the decoder layers that have it: "none", the "first", the "others", or "all"; in the published
            code keep_first_self_attn_dec and keep_other_self_attn_dec.
        input_projection: map tokens from C to D (keep_input_proj); False needs C = D.

    Raises:
        ValueError: sizes that do not fit one another; in `forward`, tokens without a grid.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        dim: int = 2048,
        num_heads: int = 4,
        ffn_dim: int = 8192,
        dropout: float = 0.1,
        *,
        encoder_layers: int = 1,
        decoder_layers: int = 2,
        self_attention: SelfAttention = "none",
        input_projection: bool = False,
    ) -> None:
        super().__init__()
        if not input_projection and in_features != dim:
            raise ValueError(
                f"dim={dim}: without an input projection it must equal the {in_features} features of the tokens"
            )
        if dim % 4:
            raise ValueError(f"dim={dim}: sine positions need a multiple of 4")
        if self_attention not in get_args(SelfAttention):
            raise ValueError(f"self_attention={self_attention!r}: use {', '.join(get_args(SelfAttention))}")
        self.dropout = dropout
        self.input_projection = nn.Linear(in_features, dim) if input_projection else nn.Identity()
        self.queries = EmbeddingQueries(num_classes, dim, learnable=True)
        self.encoder = nn.ModuleList(EncoderLayer(dim, num_heads, ffn_dim, dropout) for _ in range(encoder_layers))
        self.layers = nn.ModuleList(
            Query2LabelLayer(
                dim,
                num_heads,
                ffn_dim,
                dropout,
                self_attention=self_attention in ("all", "others" if index else "first"),
            )
            for index in range(decoder_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.fc = GroupFullyConnected(num_classes, num_classes, dim)
        self._initialise()

    def _initialise(self) -> None:
        """As published: every matrix of the transformer Xavier-uniform, the output layer uniform in +-1 / sqrt(D)."""
        for parameter in [*self.encoder.parameters(), *self.layers.parameters()]:
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        bound = self.fc.weight.shape[1] ** -0.5
        nn.init.uniform_(self.fc.weight, -bound, bound)
        nn.init.uniform_(self.fc.bias, -bound, bound)

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        """Logits (B, N) of Tokens with a grid."""
        target, queries, memory_BTD, position_TD = self._begin(tokens)
        for layer in self.layers:
            target = layer(target, queries, memory_BTD, position_TD)
        return self.fc(self.norm(target))

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """Maps (B, N, T) of the last layer, see `heads/maps.py`. The encoder mixes information between tokens."""
        target, queries, memory_BTD, position_TD = self._begin(tokens)
        for layer in self.layers[:-1]:
            target = layer(target, queries, memory_BTD, position_TD)
        last, weights_ND = cast(Query2LabelLayer, self.layers[-1]), self.fc.label_weights()
        own = torch.arange(len(weights_ND), device=weights_ND.device)  # one query per label
        target = last.before_attention(target, queries)
        return layer_maps(last, target, memory_BTD, position_TD, own, weights_ND, weighting, self.norm, queries)

    def load_published(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the head of a published checkpoint of the same sizes and variant.

        Args:
            tensors: its `state_dict`, also with the prefix `module.`. Tensors of the backbone, among which are the
                positions, are ignored.

        Raises:
            CheckpointError: any tensor of the head is missing, unexpected or of another shape.
        """
        bare = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
        found = {name: tensor for name, tensor in bare.items() if not name.startswith("backbone.")}
        fitting, wrong = {}, []
        for ours, expected in self.state_dict().items():
            name = _published_name(ours)
            tensor = found.pop(name, None)
            if tensor is None:
                wrong.append(f"{name} is missing")
            elif tensor.numel() != expected.numel() or tensor.squeeze().shape != expected.squeeze().shape:
                wrong.append(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected.shape)}")
            else:
                fitting[ours] = tensor.reshape(expected.shape)  # fc.W is (1, N, D), the projection a 1x1 convolution
        wrong += [f"{name} is unexpected" for name in found]
        if wrong:
            raise CheckpointError(
                "these weights do not fit this Query2Label head: "
                + "; ".join(wrong[:10])
                + (f"; and {len(wrong) - 10} more" if len(wrong) > 10 else "")
                + ". Its classes, sizes, self_attention, encoder_layers and input_projection must be those of the file"
            )
        self.load_state_dict(fitting)

    def _begin(self, tokens: Tokens | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Target (1 or B,N,D) of zeros, queries (1,N,D), memory (B,T,D), and positions of the memory (T,D)."""
        memory_BTD = self.input_projection(token_values(tokens))
        grid = grid_of(tokens)
        if grid is None:
            raise ValueError(
                "Query2Label needs the grid of the tokens for their positions, and this backbone does not give it; use "
                "another backbone or head"
            )
        position_TD = sine_position(grid, memory_BTD.shape[2]).to(memory_BTD)
        for layer in self.encoder:
            memory_BTD = layer(memory_BTD, position_TD)
        queries = self.queries()[None]
        # Before the first cross-attention all images share one target, unless self-attention has dropout.
        differs = self.training and self.dropout > 0 and cast(Query2LabelLayer, self.layers[0]).self_attn is not None
        target = share_queries(torch.zeros_like(queries[0]), memory_BTD.shape[0], differs)
        return target, queries, memory_BTD, position_TD


class Query2LabelLayer(nn.Module):
    """One post-norm decoder layer whose queries are added to the queries (and keys) of its attention only."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, self_attention: bool) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(dim, num_heads, dropout) if self_attention else None
        self.norm1 = nn.LayerNorm(dim) if self_attention else None
        self.multihead_attn = MultiHeadAttention(dim, num_heads, dropout)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, target_BQD: Tensor, queries: Tensor, memory_BTD: Tensor, position_TD: Tensor) -> Tensor:
        """(B, Q, D). A target of batch size 1 is expanded in cross-attention only."""
        target = self.before_attention(target_BQD, queries)
        attended = self.multihead_attn(target + queries, with_position(memory_BTD, position_TD), memory_BTD)
        target = self.norm2(target + self.dropout(attended))
        hidden = self.dropout(relu_of(self.linear1, target))
        return self.norm3(target + self.dropout(self.linear2(hidden)))

    def before_attention(self, target: Tensor, queries: Tensor) -> Tensor:
        """The target at the input of the cross-attention block."""
        if self.self_attn is None or self.norm1 is None:
            return target
        placed = target + queries
        return self.norm1(target + self.dropout(self.self_attn(placed, placed, target)))


def _published_name(ours: str) -> str:
    part = next(part for part in PARTS if ours.startswith(part))
    return PARTS[part] + ours.removeprefix(part)


@dataclass(frozen=True, kw_only=True)
class Query2LabelConfig(ComponentConfig):
    """Settings of `head=query2label`; the defaults are those of the published code."""

    dim: Count = 2048  # D, width of queries and tokens; a multiple of num_heads and of 4
    num_heads: Count = 4  # of each attention
    ffn_dim: Count = 8192  # width inside the feed-forward layers
    dropout: Share = 0.1  # of attention and feed-forward
    encoder_layers: Natural = 1  # self-attention among the tokens before the decoder
    decoder_layers: Count = 2  # each with cross-attention to the tokens
    self_attention: SelfAttention = "none"  # which decoder layers have self-attention among the queries
    input_projection: bool = False  # map tokens to `dim`; false needs a backbone of exactly that width

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"dim={self.dim}: not a multiple of num_heads={self.num_heads}")
        if self.dim % 4:
            raise ValueError(f"dim={self.dim}: not a multiple of 4, which the sine positions need")
        if self.self_attention == "others" and self.decoder_layers == 1:
            raise ValueError("self_attention=others: there is only one decoder layer; use none or decoder_layers=2")


@HEADS.register("query2label", Query2LabelConfig)
def build_query2label(config: Query2LabelConfig, *, in_features: int, labels: LabelSpace) -> Query2Label:
    check_width(config.dim, in_features, projected=config.input_projection)
    return Query2Label(in_features, len(labels), **arguments_of(config))
