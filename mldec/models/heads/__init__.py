"""Heads turn tokens (B, T, C) into logits (B, N)."""

from mldec.models.heads.add_gcn import ADDGCN
from mldec.models.heads.biam import BiAM
from mldec.models.heads.c_tran import CTran
from mldec.models.heads.conse import ConSE
from mldec.models.heads.csra import ClassSpecificResidualAttention
from mldec.models.heads.fast0tag import Fast0Tag
from mldec.models.heads.gap import GlobalAverageMaxPool, GlobalAveragePool, GlobalMaxPool
from mldec.models.heads.lesa import LESA, AttentionPerLabel
from mldec.models.heads.ml_decoder import MLDecoder
from mldec.models.heads.ml_decoder_config import MLDecoderConfig
from mldec.models.heads.ml_gcn import MLGCN
from mldec.models.heads.query2label import Query2Label
from mldec.models.heads.sdl import SDL
from mldec.models.heads.ssgrl import SSGRL
from mldec.models.heads.transformer_decoder import TransformerDecoderHead
from mldec.models.heads.zero_shot import ZeroShotMLDecoder

__all__ = [
    "ADDGCN",
    "BiAM",
    "CTran",
    "ConSE",
    "ClassSpecificResidualAttention",
    "Fast0Tag",
    "GlobalAverageMaxPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "LESA",
    "AttentionPerLabel",
    "MLDecoder",
    "MLDecoderConfig",
    "MLGCN",
    "Query2Label",
    "SDL",
    "SSGRL",
    "TransformerDecoderHead",
    "ZeroShotMLDecoder",
]
