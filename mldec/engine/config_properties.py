"""Properties of an experiment that follow from its Config and that several modules need."""

from __future__ import annotations

from mldec.config import Config


def uses_softmax(config: Config) -> bool:
    """Whether scores are the softmax of the logits, as the loss defines them, instead of independent sigmoids."""
    return bool(config.loss.single_label)


def uses_label_embeddings(config: Config) -> bool:
    """Whether the head queries labels by their embeddings, so that it can score labels it was not trained on."""
    return bool(getattr(config.head, "uses_label_embeddings", False))
