"""Heads turn tokens (B, T, C) into logits (B, N)."""

from mldec.models.heads.add_gcn import ADDGCN
from mldec.models.heads.c_tran import CTran
from mldec.models.heads.csra import ClassSpecificResidualAttention
from mldec.models.heads.gap import GlobalAverageMaxPool, GlobalAveragePool, GlobalMaxPool
from mldec.models.heads.ml_decoder import MLDecoder
from mldec.models.heads.ml_decoder_config import MLDecoderConfig
from mldec.models.heads.ml_gcn import MLGCN
from mldec.models.heads.query2label import Query2Label
from mldec.models.heads.ssgrl import SSGRL
from mldec.models.heads.transformer_decoder import TransformerDecoderHead
from mldec.models.heads.zero_shot import ZeroShotMLDecoder

__all__ = [
    "ADDGCN",
    "CTran",
    "ClassSpecificResidualAttention",
    "GlobalAverageMaxPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "MLDecoder",
    "MLDecoderConfig",
    "MLGCN",
    "Query2Label",
    "SSGRL",
    "TransformerDecoderHead",
    "ZeroShotMLDecoder",
]
