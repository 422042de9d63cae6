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
from mldec.models.tokens import Tokens

__all__ = ["Classifier", "Tokens", "attach_ml_decoder"]


class Classifier(nn.Module):
    """`head(backbone(images))`: (B, 3, H, W) floating point, normalised, to logits (B, N)."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.backbone(images)))

    @property
    def vocabulary(self) -> LabelVocabulary | None:
        """The label embeddings that the head can be queried with; None for a head that can answer for its trained labels alone."""
        vocabulary = getattr(self.head, "vocabulary", None)
        return vocabulary if isinstance(vocabulary, LabelVocabulary) else None

    def set_labels(self, names: Sequence[str], label_embeddings: LabelEmbeddings | None = None) -> None:
        """Ask for `names` from now on: any number of labels in any order, trained or not.

        With label-embedding queries, one a label (full decoding), the logits of a label do not depend on which others are asked
        for; with fixed or learnable queries, or groups, that holds for trained labels.

        Args:
            label_embeddings: vectors of labels that the classifier does not know yet.

        Raises:
            DataError: the head has no label embeddings; no name, an empty or repeated one, or one without a vector; vectors
                of another width than those it was trained with.
        """
        if self.vocabulary is None:
            raise DataError(
                "this network cannot be asked for other labels: it was trained without label embeddings. Train one with "
                "head=zero_shot head.label_embeddings.source=…"
            )
        self.vocabulary.set_labels(names, label_embeddings)

    @contextmanager
    def querying(self, names: Sequence[str]) -> Iterator[None]:
        """Within the block the classifier answers for `names`; one without label embeddings is left as it is."""
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
    """A classifier of `timm_model`'s features and a fresh ML-Decoder with the paper's settings.

    The model itself is taken over, not copied: its weights are shared, and what it had after its features (pooling
    weights, classifier) is gone afterwards.

    Args:
        timm_model: any model with timm's `forward_features`, on any device.
        num_classes: N.
        num_groups: K, the number of queries; None for one a class.
        image_size: side of the square images it will see; None for the size that the model was made for.
        final_norm: keep the norm that the model's own classifier begins with, if there is one, for each token: weights
            that were trained with it need it.

    Raises:
        ConfigError: the features of the model can't be read as tokens, or images of that size do not fit it.
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
