"""mldec: multi-label image classification with ML-Decoder."""

__version__ = "0.1.0"
