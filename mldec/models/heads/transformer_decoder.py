"""The transformer decoder, the baseline of ML-Decoder (paper eqs. 2-5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mldec.config import ComponentConfig, Count, Natural, Share, arguments_of
from mldec.errors import check_choice
from mldec.labels import LabelSpace
from mldec.models.heads.layers import share_queries
from mldec.models.heads.per_class import PerClassDecoder, Start
from mldec.registry import HEADS


class TransformerDecoderHead(PerClassDecoder):
    """One query per class: self-attention among queries, cross-attention to tokens, feed-forward, a weight vector each.

    Without an encoder the projected tokens are the decoder's memory.

    Args:
        queries: "learnable" or "fixed".
        decoder_layers: one or more.
        position: "none", or "sine", which needs Tokens with a grid.
        final_norm: a layer norm after the last decoder layer.
        Others: of `PerClassDecoder`, which also lists the errors.
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
        check_choice("queries", queries, ("learnable", "fixed"))
        sizes = (in_features, num_classes, dim, num_heads, ffn_dim, dropout, encoder_layers, [True] * decoder_layers)
        learnable, sine = queries == "learnable", position == "sine"
        super().__init__(*sizes, learnable=learnable, sine=sine, input_projection=input_projection, norm=final_norm)

    def start(self, memory_BTD: Tensor, position_TD: Tensor | None) -> Start:
        queries = share_queries(self.queries(), memory_BTD.shape[0], self.training and self.dropout > 0)
        return Start(queries, memory_BTD, position_TD)


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
    return TransformerDecoderHead(in_features, len(labels), **arguments_of(config))
