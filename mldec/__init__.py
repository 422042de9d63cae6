"""mldec: multi-label image classification with ML-Decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mldec.engine.predictor import load
    from mldec.models.classifier import attach_ml_decoder

__version__ = "0.1.0"
__all__ = ["__version__", "attach_ml_decoder", "load"]


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is first asked for: `mldec --help` must not wait for it."""
    if name == "attach_ml_decoder":
        from mldec.models.classifier import attach_ml_decoder

        return attach_ml_decoder
    if name == "load":
        from mldec.engine.predictor import load

        return load
    raise AttributeError(f"module 'mldec' has no attribute {name!r}")
