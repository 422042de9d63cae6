"""Backbones, heads, and the classifier they make. Importing this package registers all that come with mldec."""

from mldec.models import backbone, heads, resnet, tresnet
from mldec.models.classifier import Classifier, Tokens, attach_ml_decoder

__all__ = ["Classifier", "Tokens", "attach_ml_decoder", "backbone", "heads", "resnet", "tresnet"]
