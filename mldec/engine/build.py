"""The one place where a Config becomes objects.

Importing this module registers every component that ships with mldec.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

import mldec.data.augment
import mldec.data.cars
import mldec.data.cifar
import mldec.data.coco
import mldec.data.digits
import mldec.data.digits_many
import mldec.data.folder
import mldec.data.multi_scale_crop
import mldec.data.nuswide
import mldec.data.nuswide_zsl
import mldec.data.openimages
import mldec.data.table
import mldec.data.voc
import mldec.engine.ema
import mldec.engine.optimizer
import mldec.engine.schedule
import mldec.losses
import mldec.models.backbone
import mldec.models.heads  # noqa: F401  (imported to register their components, like the modules above)
from mldec.config import Config
from mldec.data.image import Normalization
from mldec.data.index import ImageIndex
from mldec.data.loader import Augment, CachedTokens, EvalLoader, Resize, TrainLoader, eval_loader, train_loader
from mldec.engine.config_properties import uses_cooccurrence, uses_label_counts, uses_label_embeddings
from mldec.engine.device import count_workers
from mldec.engine.distributed import SINGLE_PROCESS, ProcessGroup
from mldec.engine.ema import Ema
from mldec.engine.optimizer import parameter_groups
from mldec.engine.schedule import Schedule
from mldec.errors import ConfigError
from mldec.labels import LabelSpace
from mldec.models.classifier import Classifier
from mldec.models.label_embeddings import LabelEmbeddings, LabelEmbeddingsConfig, read_label_embeddings
from mldec.registry import AUGMENTS, BACKBONES, EMAS, HEADS, LOSSES, OPTIMIZERS, SCHEDULES


def build_classifier(
    config: Config,
    labels: LabelSpace,
    label_embeddings: LabelEmbeddings | None = None,
    *,
    cooccurrence: np.ndarray | None = None,
    pretrained: bool = True,
) -> Classifier:
    """Backbone and head, initialised by torch's global generator or with the pretrained weights that the config names.

    Args:
        labels: all labels of the dataset; the network is trained for the seen ones.
        label_embeddings: their embeddings, if the head uses any; None: read from the source that the config names.
        cooccurrence: (N,N) of the trained labels, see `ImageIndex.cooccurrence`, for a head that is built with it;
            None for a network that a checkpoint is loaded into, which has it.
        pretrained: False leaves out the pretrained weights, for a network that a checkpoint is loaded into.
    """
    settings = config.backbone
    if not pretrained:  # final_norm=auto depends on the pretrained weights, so it is resolved before they are dropped
        final_norm = settings.keeps_final_norm
        settings = dataclasses.replace(settings, pretrained=False, final_norm=final_norm)
    backbone = BACKBONES[settings.name].build(settings, image_size=config.dataset.image_size)
    if config.backbone.final_norm is True and getattr(backbone, "final_norm", None) is None:
        raise ConfigError(
            f"backbone.final_norm=true: the classifier of {getattr(settings, 'model', settings.name)} does not start "
            "with a norm that could be kept; use auto or false"
        )
    source = getattr(config.head, "source", "patch")
    if source != "patch" and not getattr(backbone, "has_class_token", False):
        raise ConfigError(
            f"head.source={source}: {getattr(settings, 'model', settings.name)} has no class token; use "
            "head.source=patch, or a backbone with one, such as backbone=dinov2_vit_s"
        )
    extra: dict[str, Any] = {}
    if uses_cooccurrence(config):
        extra["cooccurrence"] = cooccurrence
    if uses_label_embeddings(config):
        extra["label_embeddings"] = label_embeddings or build_label_embeddings(config, labels)
    head = HEADS[config.head.name].build(
        config.head, in_features=backbone.num_features, labels=labels.trained(), **extra
    )
    return Classifier(backbone, head)


def build_label_embeddings(config: Config, labels: LabelSpace) -> LabelEmbeddings:
    """The embeddings of all labels, trained ones first. Raises DataError if a label has none."""
    trained = labels.trained().names
    unseen = [name for name in labels.names if name not in set(trained)]
    return read_label_embeddings(config.head.label_embeddings, [*trained, *unseen], ordered=labels.names)


def set_query_labels(classifier: Classifier, names: Sequence[str], source: LabelEmbeddingsConfig | None) -> None:
    """Set the query labels of a classifier to `names`. Embeddings that it does not have are read from `source`.

    Raises DataError if the classifier has no label embeddings, or a label has none.
    """
    label_embeddings = None
    if classifier.vocabulary is not None and source is not None:
        known = set(classifier.vocabulary.known.names)
        if missing := [name for name in LabelSpace(names).names if name not in known]:
            label_embeddings = read_label_embeddings(source, missing, ordered=classifier.vocabulary.known.names)
    classifier.set_labels(names, label_embeddings)


def build_normalization(classifier: Classifier) -> Normalization:
    """The normalization of uint8 images that the backbone expects."""
    return Normalization(*cast(Any, classifier.backbone.normalization))


def build_loss(config: Config, index: ImageIndex | None = None) -> nn.Module:
    """The training objective, computed in float32.

    Args:
        index: of the training split, for a loss that is built with the counts of its labels.

    Raises:
        ValueError: there is no index, but the loss needs one.
    """
    extra: dict[str, Any] = {}
    if uses_label_counts(config):
        if index is None:
            raise ValueError(f"loss={config.loss.name} is built with the label counts of train: pass its index")
        extra = {"label_counts": torch.from_numpy(index.positives_per_class()), "num_images": len(index)}
    return cast(nn.Module, LOSSES[config.loss.name].build(config.loss, **extra))


def build_schedule(config: Config, steps_per_epoch: int) -> Schedule:
    """Learning rate and momentum as a function of the number of optimizer updates."""
    total = steps_per_epoch * config.schedule.epochs
    build = SCHEDULES[config.schedule.name].build
    return build(config.schedule, total_steps=total, steps_per_epoch=steps_per_epoch)


def build_optimizer(config: Config, classifier: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over four parameter groups: backbone and head, with and without weight decay."""
    settings = config.optimizer
    groups = parameter_groups(
        classifier,
        weight_decay=settings.weight_decay,
        backbone_lr_scale=settings.backbone_lr_scale,
        layer_decay=settings.layer_decay,
        exempt_named=config.protocol.name != "paper",  # the published code only exempts biases and 1-D parameters
    )
    return OPTIMIZERS[settings.name].build(settings, groups=groups, lr=config.schedule.max_lr)


def build_ema(config: Config, classifier: nn.Module) -> Ema | None:
    """The exponential moving average of the weights, or None with ema=none."""
    return EMAS[config.ema.name].build(config.ema, classifier)


def build_augment(config: Config) -> Augment:
    """The augmentation of training images."""
    return AUGMENTS[config.augment.name].build(config.augment, image_size=config.dataset.image_size)


def build_train_loader(
    config: Config,
    index: ImageIndex,
    device: torch.device,
    group: ProcessGroup = SINGLE_PROCESS,
    tokens: CachedTokens | None = None,
) -> TrainLoader:
    """Shuffled, augmented batches, each a function of seed, epoch and position only; `group` splits each.

    With `tokens` these are read in place of images.
    """
    return train_loader(
        index,
        build_augment(config),
        batch_size=config.schedule.batch_size,
        seed=config.seed,
        workers=count_workers(config.runtime, device),
        repeats=config.augment.repeats,
        pin_memory=device.type == "cuda",
        limit=config.runtime.limit_train_batches,
        overfit=config.runtime.overfit,
        scaled_decoding=config.dataset.scaled_decoding,
        on_error=config.dataset.on_error,
        rank=group.rank,
        processes=group.size,
        tokens=tokens,
    )


def build_eval_loader(
    config: Config,
    index: ImageIndex,
    device: torch.device,
    group: ProcessGroup = SINGLE_PROCESS,
    tokens: CachedTokens | None = None,
) -> EvalLoader:
    """Every image once, in order, resized but not augmented, split over the processes of `group`.

    With `tokens` these are read in place of images.
    """
    return eval_loader(
        index,
        config.dataset.image_size,
        batch_size=config.runtime.eval_batch_size or config.schedule.batch_size,
        workers=count_workers(config.runtime, device),
        pin_memory=device.type == "cuda",
        limit=config.runtime.limit_eval_batches,
        scaled_decoding=config.dataset.scaled_decoding,
        crop=config.dataset.crop,
        interpolation=config.dataset.interpolation,
        rank=group.rank,
        processes=group.size,
        tokens=tokens,
    )


def build_resize(config: Config) -> Resize:
    """The resizing of a decoded image in evaluation and prediction."""
    return Resize(config.dataset.image_size, config.dataset.crop, config.dataset.interpolation)
