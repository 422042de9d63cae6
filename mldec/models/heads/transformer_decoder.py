"""The transformer decoder, the baseline of ML-Decoder (paper eqs. 2-5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mldec.config import ComponentConfig, Count, Natural, Share, arguments_of
from mldec.labels import LabelSpace
from mldec.models.heads.layers import DecoderLayer, EncoderLayer, GroupFullyConnected, check_width, share_queries
from mldec.models.heads.maps import Weighting, layer_maps
from mldec.models.heads.positions import grid_of, sine_position
from mldec.models.queries import EmbeddingQueries
from mldec.models.tokens import Tokens, token_values
from mldec.registry import HEADS


class TransformerDecoderHead(nn.Module):
    """One query per class: self-attention among queries, cross-attention to tokens, feed-forward, a weight vector each.

    Without an encoder the projected tokens are the decoder's memory. Sine positions are added to the keys (and to the
    queries of the encoder) wherever tokens are attended to.

    Args:
        in_features: C, width of the tokens.
        num_classes: N.
        dim: D, a multiple of `num_heads`, and of 4 for position="sine".
        num_heads, ffn_dim, dropout, encoder_layers, decoder_layers: of the transformer; one decoder layer or more.
        queries: "learnable" or "fixed".
        position: "none", or "sine" for two-dimensional sines, which need Tokens with a grid.
        input_projection: map tokens from C to D; False needs C = D.
        final_norm: a layer norm after the last decoder layer.

    Raises:
        ValueError: sizes that do not fit one another; in `forward`, sine positions for tokens without a grid.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        dim: int = 768,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        queries: Literal["learnable", "fixed"] = "learnable",
        *,
        encoder_layers: int = 0,
        decoder_layers: int = 1,
        position: Literal["none", "sine"] = "none",
        input_projection: bool = True,
        final_norm: bool = False,
    ) -> None:
        super().__init__()
        if not input_projection and in_features != dim:
            raise ValueError(
                f"dim={dim}: without an input projection it must equal the {in_features} features of the tokens"
            )
        if position == "sine" and dim % 4:
            raise ValueError(f"dim={dim}: sine positions need a multiple of 4")
        if queries not in ("learnable", "fixed"):
            raise ValueError(f"queries={queries!r}: no such queries; use learnable or fixed")
        self.position = position
        self.dropout = dropout
        self.input_projection = nn.Linear(in_features, dim) if input_projection else nn.Identity()
        self.queries = EmbeddingQueries(num_classes, dim, learnable=queries == "learnable")
        self.encoder = nn.ModuleList(EncoderLayer(dim, num_heads, ffn_dim, dropout) for _ in range(encoder_layers))
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, ffn_dim, dropout, self_attention=True) for _ in range(decoder_layers)
        )
        self.norm = nn.LayerNorm(dim) if final_norm else nn.Identity()
        self.fc = GroupFullyConnected(num_classes, num_classes, dim)

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        """Logits (B, N) of Tokens or, without sine positions, a (B, T, C) tensor."""
        embeddings, memory_BTD, position_TD = self._begin(tokens)
        for layer in self.layers:
            embeddings = layer(embeddings, memory_BTD, position_TD)
        return self.fc(self.norm(embeddings))

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """Maps (B, N, T) of the last layer, see `heads/maps.py`. An encoder mixes information between tokens."""
        embeddings, memory_BTD, position_TD = self._begin(tokens)
        for layer in self.layers[:-1]:
            embeddings = layer(embeddings, memory_BTD, position_TD)
        last, weights_ND = cast(DecoderLayer, self.layers[-1]), self.fc.label_weights()
        own = torch.arange(len(weights_ND), device=weights_ND.device)  # one query per label
        queries = last.before_attention(embeddings)
        return layer_maps(last, queries, memory_BTD, position_TD, own, weights_ND, weighting, self.norm)

    def _begin(self, tokens: Tokens | Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries (1 or B,N,D), memory (B,T,D), and its positions."""
        memory_BTD = self.input_projection(token_values(tokens))
        position_TD = self._position(tokens, memory_BTD)
        for layer in self.encoder:
            memory_BTD = layer(memory_BTD, position_TD)
        queries = share_queries(self.queries(), memory_BTD.shape[0], self.training and self.dropout > 0)
        return queries, memory_BTD, position_TD

    def _position(self, tokens: Tokens | Tensor, like: Tensor) -> Tensor | None:
        if self.position == "none":
            return None
        grid = grid_of(tokens)
        if grid is None:
            raise ValueError(
                "position=sine needs the grid of the tokens, which this backbone does not give; use position=none"
            )
        return sine_position(grid, like.shape[2]).to(like)


@dataclass(frozen=True, kw_only=True)
class TransformerDecoderConfig(ComponentConfig):
    """Settings of `head=transformer_decoder`; the defaults are those of the paper's Table 1."""

    dim: Count = 768  # D, width of queries and tokens; a multiple of num_heads
    num_heads: Count = 8  # of each attention
    ffn_dim: Count = 2048  # width inside the feed-forward layers
    dropout: Share = 0.1  # of attention and feed-forward
    encoder_layers: Natural = 0  # self-attention among the tokens before the decoder
    decoder_layers: Count = 1  # each with self-attention among queries and cross-attention to the tokens
    queries: Literal["learnable", "fixed"] = "learnable"  # learned, or random and never trained
    position: Literal["none", "sine"] = "none"  # added to tokens where they are attended to; sine needs a grid
    input_projection: bool = True  # map tokens to `dim`; false needs a backbone of exactly that width
    final_norm: bool = False  # layer norm after the last decoder layer

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"dim={self.dim}: not a multiple of num_heads={self.num_heads}")
        if self.position == "sine" and self.dim % 4:
            raise ValueError(f"dim={self.dim}: not a multiple of 4, which position=sine needs")


@HEADS.register("transformer_decoder", TransformerDecoderConfig)
def build_transformer_decoder(
    config: TransformerDecoderConfig, *, in_features: int, labels: LabelSpace
) -> TransformerDecoderHead:
    check_width(config.dim, in_features, projected=config.input_projection)
    return TransformerDecoderHead(in_features, len(labels), **arguments_of(config))
