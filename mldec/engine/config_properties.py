"""Properties of an experiment that follow from its Config and that several modules need."""

from __future__ import annotations

from mldec.config import Config


def is_single_label(config: Config) -> bool:
    """Whether each image has exactly one label. Then top-1 accuracy is the main metric, otherwise mAP."""
    return bool(config.dataset.single_label)


def uses_softmax(config: Config) -> bool:
    """Whether scores are the softmax of the logits, as the loss defines them, instead of independent sigmoids."""
    return bool(config.loss.single_label)


def uses_label_embeddings(config: Config) -> bool:
    """Whether the head queries labels by their embeddings, so that it can score labels it was not trained on."""
    return bool(getattr(config.head, "uses_label_embeddings", False))


def image_size(config: Config) -> int:
    """Side in pixels of the square images that the network receives."""
    return config.dataset.image_size
