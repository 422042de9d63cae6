"""A classifier is a backbone that makes tokens and a head that reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn

from mldec.errors import DataError
from mldec.models.backbone import Backbone
from mldec.models.heads.ml_decoder import MLDecoder
from mldec.models.label_embeddings import LabelEmbeddings
from mldec.models.label_vocabulary import LabelVocabulary
from mldec.models.tokens import HeadOutput, Tokens

__all__ = ["Classifier", "HeadOutput", "Tokens", "attach_ml_decoder"]


class Classifier(nn.Module):
    """`head(backbone(images))`: (B, 3, H, W) floating point, normalised, to logits (B, N).

    Tokens that the backbone gave earlier are taken in place of images.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor | Tokens, known: Tensor | None = None) -> Tensor:
        """Logits (B, N); in training some heads give `HeadOutput`.

        Args:
            known: (B, N) labels that are known already, 1 present, 0 absent, -1 unknown, for a head that reads them.
        """
        tokens = images if isinstance(images, Tokens) else self.backbone(images)
        return cast(Tensor, self.head(tokens) if known is None else self.head(tokens, known=known))

    @property
    def reads_known_labels(self) -> bool:
        """Whether the head takes labels that are known already, beside the tokens."""
        return bool(getattr(self.head, "reads_known_labels", False))

    @property
    def label_embeddings(self) -> LabelEmbeddings | None:
        """The embeddings that the head was built with, or has been given since; None if it uses none."""
        if self.vocabulary is not None:
            return self.vocabulary.known
        found = getattr(self.head, "label_embeddings", None)
        return found if isinstance(found, LabelEmbeddings) else None

    @property
    def vocabulary(self) -> LabelVocabulary | None:
        """The label embeddings of a zero-shot head; None for a head that predicts its trained labels only."""
        vocabulary = getattr(self.head, "vocabulary", None)
        return vocabulary if isinstance(vocabulary, LabelVocabulary) else None

    def set_labels(self, names: Sequence[str], label_embeddings: LabelEmbeddings | None = None) -> None:
        """Predict `names` from now on: any number of query labels in any order, trained or not.

        With one label-embedding query per label (full decoding), the logit of a label does not depend on the other
        query labels; with fixed or learnable queries, or groups, that holds for trained labels.

        Args:
            label_embeddings: vectors of labels that the classifier does not know yet.

        Raises:
            DataError: the head has no label embeddings; no name, an empty or repeated one, or one without a vector;
                vectors of another width than those it was trained with.
        """
        if self.vocabulary is None:
            raise DataError(
                "this network cannot predict other labels: it was trained without label embeddings. Train one with "
                "head=zero_shot head.label_embeddings.source=…"
            )
        self.vocabulary.set_labels(names, label_embeddings)

    @contextmanager
    def querying(self, names: Sequence[str]) -> Iterator[None]:
        """Within the block the classifier predicts `names`; one without label embeddings is left as it is."""
        if self.vocabulary is None:
            yield
            return
        before = self.vocabulary.names
        self.vocabulary.set_labels(names)
        try:
            yield
        finally:
            self.vocabulary.set_labels(before)


def attach_ml_decoder(
    timm_model: nn.Module,
    num_classes: int,
    num_groups: int | None = None,
    image_size: int | None = None,
    *,
    final_norm: bool = True,
) -> Classifier:
    """A classifier of `timm_model`'s features and a new ML-Decoder with the paper's settings.

    The model itself is modified, not copied: its weights are shared, and the modules after its features (pooling
    weights, classifier) are removed.

    Args:
        timm_model: any model with timm's `forward_features`, on any device.
        num_classes: N.
        num_groups: K, the number of queries; None for one per class.
        image_size: side of its square input images in pixels; None for the model's default size.
        final_norm: keep the norm at the start of the model's own classifier, if there is one, and apply it to each
            token: weights that were trained with it need it.

    Raises:
        ConfigError: the features of the model cannot be read as tokens, or images of that size do not fit it.
        ValueError: `num_groups` exceeds `num_classes`.
    """
    backbone = Backbone(timm_model, image_size=image_size or _native_size(timm_model), final_norm=final_norm)
    device = next(timm_model.parameters()).device
    return Classifier(backbone, MLDecoder(backbone.num_features, num_classes, num_groups).to(device))


def _native_size(timm_model: nn.Module) -> int:
    fixed = getattr(getattr(timm_model, "patch_embed", None), "img_size", None)
    if fixed is not None:
        return int(fixed[0])
    return int(getattr(timm_model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[-1])
