"""The losses, each in a module of its own; `base` says what they have in common."""

from mldec.losses.asymmetric import CACHED, AsymmetricLoss, AsymmetricLossConfig
from mldec.losses.base import Context, LossConfig, Reduction, ThreeStateLoss
from mldec.losses.cross_entropy import BinaryCrossEntropy, BinaryCrossEntropyConfig, CrossEntropy, CrossEntropyConfig
from mldec.losses.distribution_balanced import DistributionBalancedConfig, DistributionBalancedLoss
from mldec.losses.lesa import LesaConfig, LesaLoss
from mldec.losses.ranking import HingeRankingConfig, HingeRankingLoss, RankNetConfig, RankNetLoss
from mldec.losses.sdl import SdlConfig, SdlLoss
from mldec.losses.two_way import TwoWayConfig, TwoWayLoss
from mldec.losses.zlpr import ZlprConfig, ZlprLoss

__all__ = [
    "CACHED",
    "AsymmetricLoss",
    "AsymmetricLossConfig",
    "BinaryCrossEntropy",
    "BinaryCrossEntropyConfig",
    "Context",
    "CrossEntropy",
    "CrossEntropyConfig",
    "DistributionBalancedConfig",
    "DistributionBalancedLoss",
    "HingeRankingConfig",
    "HingeRankingLoss",
    "LesaConfig",
    "LesaLoss",
    "LossConfig",
    "RankNetConfig",
    "RankNetLoss",
    "Reduction",
    "SdlConfig",
    "SdlLoss",
    "ThreeStateLoss",
    "TwoWayConfig",
    "TwoWayLoss",
    "ZlprConfig",
    "ZlprLoss",
]
