"""mldec: multi-label image classification with ML-Decoder."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mldec.commands.evaluate import evaluate
    from mldec.commands.predict import predict
    from mldec.commands.train import train
    from mldec.engine.predictor import load
    from mldec.models.classifier import attach_ml_decoder

__version__ = "0.1.0"
__all__ = ["__version__", "attach_ml_decoder", "evaluate", "load", "predict", "train"]

#: The public functions, by their modules, which import torch: `mldec --help` must not wait for it.
_FUNCTIONS = {
    "attach_ml_decoder": "mldec.models.classifier",
    "evaluate": "mldec.commands.evaluate",
    "load": "mldec.engine.predictor",
    "predict": "mldec.commands.predict",
    "train": "mldec.commands.train",
}


def __getattr__(name: str) -> Any:
    """Import a public function when it is first used."""
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'mldec' has no attribute {name!r}")
    return getattr(importlib.import_module(_FUNCTIONS[name]), name)
