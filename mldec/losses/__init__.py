"""The losses, each in a module of its own; `base.py` says what they have in common."""

from mldec.losses.base import (
    CACHED,
    AsymmetricLoss,
    AsymmetricLossConfig,
    BinaryCrossEntropy,
    BinaryCrossEntropyConfig,
    CrossEntropy,
    CrossEntropyConfig,
    LossConfig,
    Reduction,
    ThreeStateLoss,
)

__all__ = [
    "CACHED",
    "AsymmetricLoss",
    "AsymmetricLossConfig",
    "BinaryCrossEntropy",
    "BinaryCrossEntropyConfig",
    "CrossEntropy",
    "CrossEntropyConfig",
    "LossConfig",
    "Reduction",
    "ThreeStateLoss",
]
