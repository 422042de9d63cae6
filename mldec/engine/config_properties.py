"""Properties of an experiment that follow from its Config and that several modules need."""

from __future__ import annotations

from mldec.config import Config


def uses_softmax(config: Config) -> bool:
    """Whether scores are the softmax of the logits, as the loss defines them, instead of independent sigmoids."""
    return bool(config.loss.single_label)


def uses_label_embeddings(config: Config) -> bool:
    """Whether the head is built with the embeddings of the labels."""
    return bool(getattr(config.head, "uses_label_embeddings", False))


def predicts_new_labels(config: Config) -> bool:
    """Whether the head queries labels by their embeddings, so that it can score labels it was not trained on."""
    return uses_label_embeddings(config) and not getattr(config.head, "fixed_labels", False)


def uses_cooccurrence(config: Config) -> bool:
    """Whether the head is built with the counts of labels, and of pairs of them, in the training images."""
    return bool(getattr(config.head, "uses_cooccurrence", False))


def tells_labels(config: Config) -> bool:
    """Whether training tells the head some labels of each image, so that prediction can be told known ones."""
    return bool(getattr(config.head, "label_masks", False))


def uses_label_counts(config: Config) -> bool:
    """Whether the loss is built with the counts of labels in the training images."""
    return bool(getattr(config.loss, "uses_label_counts", False))
