"""Heads turn tokens (B, T, C) into logits (B, N)."""

from mldec.models.heads.gap import GlobalAveragePool
from mldec.models.heads.ml_decoder import MLDecoder
from mldec.models.heads.query2label import Query2Label
from mldec.models.heads.transformer_decoder import TransformerDecoderHead

__all__ = ["GlobalAveragePool", "MLDecoder", "Query2Label", "TransformerDecoderHead"]
