"""Query2Label (Liu et al. 2021, arXiv:2107.10834), as its authors' code builds it.

It differs from the transformer decoder of ML-Decoder's paper (`transformer_decoder.py`): by default its decoder layers
have no self-attention, their input is a target of zeros, and the learned queries are position encodings that are added
to the queries of the attention in every layer. Without self-attention, the residual connection and the norm of that
step are left out too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from mldec.config import ComponentConfig, Count, Natural, Share, arguments_of
from mldec.errors import check_choice
from mldec.labels import LabelSpace
from mldec.models.heads.layers import DecoderLayer, share_queries
from mldec.models.heads.per_class import PerClassDecoder, Start
from mldec.registry import HEADS

SelfAttention = Literal["none", "first", "others", "all"]


class Query2LabelLayer(DecoderLayer):
    """A decoder layer that leaves out the residual connection and the norm of self-attention where it has none."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, self_attention: bool) -> None:
        super().__init__(dim, num_heads, ffn_dim, dropout, self_attention)
        if not self_attention:
            del self.norm1

    def before_attention(self, queries: Tensor, query_position: Tensor | None = None) -> Tensor:
        """The target at the input of the cross-attention block."""
        return queries if self.self_attn is None else super().before_attention(queries, query_position)


class Query2Label(PerClassDecoder):
    """One learned query per class, cross-attention to encoded tokens, one weight vector per class.

    Args:
        decoder_layers: one or more.
        self_attention: the decoder layers that have it: "none", the "first", the "others", or "all"; in the published
            code keep_first_self_attn_dec and keep_other_self_attn_dec.
        input_projection: map tokens from C to D (keep_input_proj); False needs C = D.
        Others: of `PerClassDecoder`, which also lists the errors.
    """

    layer_class = Query2LabelLayer

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
        check_choice("self_attention", self_attention, get_args(SelfAttention))
        kept = [self_attention in ("all", "others" if index else "first") for index in range(decoder_layers)]
        sizes = (in_features, num_classes, dim, num_heads, ffn_dim, dropout, encoder_layers, kept)
        super().__init__(*sizes, learnable=True, sine=True, input_projection=input_projection, norm=True)
        # As published: every matrix of the transformer Xavier-uniform, the output layer uniform in +-1 / sqrt(D).
        for parameter in [*self.encoder.parameters(), *self.layers.parameters()]:
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        bound = self.fc.weight.shape[1] ** -0.5
        nn.init.uniform_(self.fc.weight, -bound, bound)
        nn.init.uniform_(self.fc.bias, -bound, bound)

    def start(self, memory_BTD: Tensor, position_TD: Tensor | None) -> Start:
        """A target of zeros; the queries are its positions."""
        queries = self.queries()[None]
        # Before the first cross-attention all images share one target, unless self-attention has dropout.
        differs = self.training and self.dropout > 0 and cast(DecoderLayer, self.layers[0]).self_attn is not None
        target = share_queries(torch.zeros_like(queries[0]), memory_BTD.shape[0], differs)
        return Start(target, memory_BTD, position_TD, queries)


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
    return Query2Label(in_features, len(labels), **arguments_of(config))
