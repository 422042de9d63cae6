"""The common part of the heads with one query per class: the transformer decoder and Query2Label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from mldec.errors import ConfigError
from mldec.models.heads.layers import DecoderLayer, EmbeddingQueries, EncoderLayer, GroupFullyConnected
from mldec.models.heads.maps import Weighting, layer_maps
from mldec.models.tokens import Tokens, token_values


class Start(NamedTuple):
    """The input of the decoder layers.

    Attributes:
        state_BND: the embeddings of the classes; of batch size 1 where all images share them.
        memory_BTD: the encoded tokens.
        position_TD: added to the keys of the memory; None: nothing is added.
        query_position: added to the queries of attention, (1, N, D); None: nothing is added.
    """

    state_BND: Tensor
    memory_BTD: Tensor
    position_TD: Tensor | None
    query_position: Tensor | None = None


class PerClassDecoder(nn.Module):
    """Queries of N classes that attend to encoded tokens, and a weight vector per class. A subclass writes `start`.

    Args:
        in_features: C, width of the tokens.
        num_classes: N.
        dim: D, a multiple of `num_heads`, and of 4 for `sine`.
        num_heads, ffn_dim, dropout, encoder_layers: of the transformer.
        self_attention: for each decoder layer, one or more, whether it has self-attention among the queries.
        learnable: the queries are learned, not fixed.
        sine: two-dimensional sines are added to the tokens where they are attended to, which needs Tokens with a grid.
        input_projection: map tokens from C to D; False needs C = D.
        norm: a layer norm after the last decoder layer.

    Raises:
        ConfigError: `dim` differs from `in_features` without a projection.
        ValueError: sizes that do not fit one another; in `forward`, `sine` for tokens without a grid.
    """

    layer_class: type[DecoderLayer] = DecoderLayer

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        encoder_layers: int,
        self_attention: Sequence[bool],
        *,
        learnable: bool,
        sine: bool,
        input_projection: bool,
        norm: bool,
    ) -> None:
        super().__init__()
        if not input_projection and in_features != dim:
            raise ConfigError(
                f"head.dim={dim}: with input_projection=false it must equal the backbone's {in_features} features; "
                f"use head.dim={in_features} or head.input_projection=true"
            )
        if sine and dim % 4:
            raise ValueError(f"dim={dim}: sine positions need a multiple of 4")
        self.sine = sine
        self.dropout = dropout
        self.input_projection = nn.Linear(in_features, dim) if input_projection else nn.Identity()
        self.queries = EmbeddingQueries(num_classes, dim, learnable=learnable)
        self.encoder = nn.ModuleList(EncoderLayer(dim, num_heads, ffn_dim, dropout) for _ in range(encoder_layers))
        self.layers = nn.ModuleList(
            self.layer_class(dim, num_heads, ffn_dim, dropout, self_attention=has) for has in self_attention
        )
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.fc = GroupFullyConnected(num_classes, num_classes, dim)

    def start(self, memory_BTD: Tensor, position_TD: Tensor | None) -> Start:
        """The input of the decoder layers for encoded tokens."""
        raise NotImplementedError

    def forward(self, tokens: Tokens | Tensor) -> Tensor:
        """Logits (B, N) of Tokens or, without sine positions, a (B, T, C) tensor."""
        state_BND, *others = self._encode(tokens)
        for layer in self.layers:
            state_BND = layer(state_BND, *others)
        return self.fc(self.norm(state_BND))

    def maps(self, tokens: Tokens | Tensor, weighting: Weighting = "label") -> Tensor:
        """Maps (B, N, T) of the last layer, see `heads/maps.py`. An encoder mixes information between tokens."""
        state_BND, memory_BTD, position_TD, query_position = self._encode(tokens)
        for layer in self.layers[:-1]:
            state_BND = layer(state_BND, memory_BTD, position_TD, query_position)
        last, weights_ND = cast(DecoderLayer, self.layers[-1]), self.fc.label_weights()
        state_BND = last.before_attention(state_BND, query_position)
        own = torch.arange(len(weights_ND), device=weights_ND.device)  # one query per label
        return layer_maps(
            last, state_BND, memory_BTD, position_TD, own, weights_ND, weighting, self.norm, query_position
        )

    def _encode(self, tokens: Tokens | Tensor) -> Start:
        memory_BTD = self.input_projection(token_values(tokens))
        position_TD = None
        if self.sine:
            grid = tokens.grid if isinstance(tokens, Tokens) else None
            if grid is None:
                raise ValueError(
                    "sine positions need the grid of the tokens, which this backbone does not give; use another "
                    "backbone, head=ml_decoder, or head=transformer_decoder with head.position=none"
                )
            position_TD = sine_position(grid, memory_BTD.shape[2]).to(memory_BTD)
        for layer in self.encoder:
            memory_BTD = layer(memory_BTD, position_TD)
        return self.start(memory_BTD, position_TD)


def sine_position(grid: tuple[int, int], dim: int, temperature: float = 10_000.0) -> Tensor:
    """Query2Label's published encodings of positions, (H * W, dim) float64.

    The first half of the entries encodes the row, the second the column.

    Row i of H has the coordinate c = 2 pi (i + 1) / (H + 1e-6), and columns likewise, so that a position in the image
    has nearly the same encoding at any grid size. Entry k of a half is the sine, or for odd k the cosine, of
    c / temperature^(2 floor(k / 2) / (dim / 2)).

    Args:
        grid: (H, W).
        dim: a multiple of 4.
    """
    frequencies = temperature ** (-torch.arange(dim // 4, dtype=torch.float64) * 4 / dim)

    def code(length: int) -> Tensor:
        coordinates = torch.arange(1, length + 1, dtype=torch.float64) * (2 * math.pi / (length + 1e-6))
        phase = coordinates[:, None] * frequencies
        return torch.stack([phase.sin(), phase.cos()], dim=2).flatten(1)

    height, width = grid
    rows = code(height)[:, None].expand(height, width, -1)
    columns = code(width)[None].expand(height, width, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)
