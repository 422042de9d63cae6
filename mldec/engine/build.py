"""The one place where a Config becomes objects.

Importing this module fills the registries with every component that ships with mldec.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

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
import mldec.data.imagenet
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
import mldec.models.heads  # noqa: F401  (imported for what they register, as the ones above)
from mldec.config import Config
from mldec.data.dataset import warn_of_differences
from mldec.data.image import Normalization
from mldec.data.index import ImageIndex
from mldec.data.loader import Augment, EvalLoader, Resize, TrainLoader, eval_loader, train_loader
from mldec.engine.device import count_workers
from mldec.engine.distributed import ALONE, ProcessGroup
from mldec.engine.ema import Ema
from mldec.engine.optimizer import parameter_groups
from mldec.engine.schedule import Schedule
from mldec.errors import ConfigError, DataError
from mldec.labels import LabelSpace
from mldec.models.classifier import Classifier
from mldec.models.label_embeddings import LabelEmbeddings, LabelEmbeddingsConfig, read_label_embeddings
from mldec.registry import AUGMENTS, BACKBONES, DATASETS, EMAS, HEADS, LOSSES, OPTIMIZERS, SCHEDULES

logger = logging.getLogger(__name__)


class Splits(NamedTuple):
    """The images that train, those on which choices are made, and those on which the result is reported."""

    train: ImageIndex
    val: ImageIndex
    test: ImageIndex

    @property
    def labels(self) -> LabelSpace:
        """All labels that are asked for in evaluation; those of `train` are the ones that are trained."""
        return self.test.labels


def check_config(config: Config) -> None:
    """Refuse combinations that no data could make valid. Raises ConfigError; reads nothing."""
    dataset, loss = config.dataset, config.loss
    if uses_softmax(config) and not is_single_label(config):
        raise ConfigError(
            f"loss={loss.name} trains exactly one label per image, but {dataset.name} has several; "
            "use loss=asl or loss=bce"
        )
    if uses_softmax(config) and getattr(config.head, "random_queries", False):
        raise ConfigError(
            f"head.random_queries={config.head.random_queries}: their answer is one more present label, but "
            f"loss={loss.name} has exactly one an image; use loss=bce or 0"
        )
    repeats, size = config.augment.repeats, config.schedule.batch_size
    if repeats > size:
        raise ConfigError(f"augment.repeats={repeats} exceeds schedule.batch_size={size}; lower the first")


def find_unused(config: Config) -> list[str]:
    """Settings that were given a value which has no effect in this run, a sentence each."""
    found = list(config.dataset.unused())
    if config.ema.name == "none" and config.protocol.report != "raw":
        found.append(
            f"protocol.report={config.protocol.report}: there is no average (ema=none), raw weights are reported"
        )
    if "val" in config.dataset.splits and _given(config.protocol, "holdout") and config.protocol.holdout > 0:
        found.append(f"protocol.holdout={config.protocol.holdout}: {config.dataset.name} has a val split of its own")
    if not uses_label_embeddings(config) and _given(config.head, "normalize"):
        found.append(f"head.normalize={config.head.normalize}: there are no label embeddings")
    if uses_label_embeddings(config):
        found += config.head.label_embeddings.unused()
    if config.init_from is None and config.init_part != "all":
        found.append(f"init_part={config.init_part}: there is no init_from to take it from")
    if config.backbone.tag is not None and not config.backbone.pretrained:
        found.append(f"backbone.tag={config.backbone.tag}: no weights of timm's hub are loaded (pretrained=false)")
    found += _unused_smoothing(config)
    cycled = config.schedule.cycle_momentum
    if not cycled and _given(config.schedule, "momentum"):
        found.append("schedule.momentum: only used with schedule.cycle_momentum=true")
    for name in ("betas", "momentum"):
        if cycled and _given(config.optimizer, name):
            found.append(f"optimizer.{name}: schedule.cycle_momentum=true replaces the momentum in it")
    if config.runtime.overfit and config.runtime.limit_train_batches is None:
        found.append("runtime.overfit=true without runtime.limit_train_batches: an epoch is one step")
    if config.runtime.profile and (config.runtime.limit_train_batches or 5) < 5:
        found.append(
            "runtime.profile=true: the trace needs at least 5 steps an epoch; raise runtime.limit_train_batches"
        )
    return found


def _unused_smoothing(config: Config) -> list[str]:
    loss = config.loss
    if _given(loss, "label_smoothing_toward") and not loss.label_smoothing:
        return [f"loss.label_smoothing_toward={loss.label_smoothing_toward}: loss.label_smoothing is 0"]
    mixed = config.augment.mixup or config.augment.cutmix
    if _given(loss, "label_smoothing") and getattr(loss, "target_threshold", None) is not None and not mixed:
        return [
            f"loss.label_smoothing={loss.label_smoothing}: loss.target_threshold makes smoothed targets 0 or 1 again; "
            "it acts on fractions of mixup and cutmix only, and both are off"
        ]
    return []


def _given(settings: Any, name: str) -> bool:
    """Whether a setting exists and differs from its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    return name in defaults and getattr(settings, name) != defaults[name]


def is_single_label(config: Config) -> bool:
    """Whether each image has exactly one label: then top-1 is what counts, else mAP."""
    return bool(config.dataset.single_label)


def uses_softmax(config: Config) -> bool:
    """Whether scores are the softmax of the logits, as the loss makes them; else each is a sigmoid."""
    return bool(config.loss.single_label)


def uses_label_embeddings(config: Config) -> bool:
    """Whether the head knows labels by embeddings, so that it can be queried for ones that were not trained."""
    return bool(getattr(config.head, "uses_label_embeddings", False))


def build_split(config: Config, split: str, *, quiet: bool = False) -> ImageIndex:
    """The images that a run uses as "train", "val" or "test".

    Where a dataset has no val split, `protocol.holdout` of its train images are val. The draw does not depend on the
    run's seed, so that seeds are compared on the same images. With `holdout=0` choices are made on the test split, as
    the published code does. Where there is no test split, val is reported. What differs from the published figures is
    said of the split itself, not of one that is made from it, nor if `quiet`.

    Raises:
        ConfigError: nothing is left to train or to evaluate on.
        DataError: files are missing or broken, or contradict the config.
    """
    published = config.dataset.splits
    if split in published and (split != "train" or "val" in published):
        return _published_split(config, split, quiet)
    if split == "test" or (split == "val" and config.protocol.holdout == 0):
        other = "val" if split == "test" else "test"
        if other not in published and config.protocol.holdout == 0:
            raise ConfigError(
                f"{config.dataset.name} has a train split only; give it another one (dataset.val=…) or hold images "
                "out of training: protocol.holdout=0.05"
            )
        return build_split(config, other, quiet=True)
    train = _published_split(config, "train", quiet or split != "train")
    if config.protocol.holdout == 0:
        return train
    order = np.random.default_rng(0).permutation(len(train))
    held = max(1, round(len(train) * config.protocol.holdout))
    if held >= len(train):
        raise ConfigError(f"protocol.holdout={config.protocol.holdout} leaves none of {len(train)} images to train on")
    return train.subset(np.sort(order[held:] if split == "train" else order[:held]))


def build_splits(config: Config) -> Splits:
    """All three splits, as `build_split` gives each. Raises DataError if their labels differ."""
    if "test" not in config.dataset.splits:
        logger.warning(
            "warning: %s has no test split: results are of val, on which the epoch is chosen too, and flatter",
            config.dataset.name,
        )
    splits = Splits(*(build_split(config, split) for split in Splits._fields))
    for split, index in zip(Splits._fields, splits, strict=True):
        if index.labels.names != splits.train.labels.names:
            own, trained = set(index.labels.names), set(splits.train.labels.names)
            differing = sorted(own ^ trained) or ["their order"]
            raise DataError(
                f"{config.dataset.name}: {split} has other labels ({len(own)}) than train ({len(trained)}); they "
                f"differ in {', '.join(differing[:5])}"
            )
    if splits.labels.has_unseen and not uses_label_embeddings(config):
        logger.info("the head has no label embeddings: only the labels that are seen are trained and evaluated")
    check_choice(config, splits.val)
    return Splits(*(known_to_head(config, index, split) for split, index in zip(Splits._fields, splits, strict=True)))


def check_choice(config: Config, val: ImageIndex) -> None:
    """Raise ConfigError if epochs are compared by unseen labels of which val has no image."""
    if config.protocol.zero_shot == "seen" or not val.labels.has_unseen or not uses_label_embeddings(config):
        return
    seen = val.labels.seen or ()
    present = val.positives_per_class()
    if not any(count for count, is_seen in zip(present, seen, strict=True) if not is_seen):
        raise ConfigError(
            f"protocol.zero_shot={config.protocol.zero_shot}: val of {config.dataset.name} says nothing of the unseen "
            "labels, so epochs cannot be compared by them; use protocol.zero_shot=seen"
            + (" or dataset.zero_shot=choose" if hasattr(config.dataset, "zero_shot") else "")
        )


def known_to_head(config: Config, index: ImageIndex, split: str) -> ImageIndex:
    """An index as the head needs it: of unseen labels there is nothing to train, and without embeddings nothing to query."""
    if not index.labels.has_unseen or (uses_label_embeddings(config) and split != "train"):
        return index
    return index.with_labels(index.labels.trained())


def describe_splits(splits: Splits) -> dict[str, dict[str, Any]]:
    """What a result belongs to: of each split the number of images and labels, and a fingerprint of both."""
    return {split: describe_index(index) for split, index in zip(Splits._fields, splits, strict=True)}


def describe_index(index: ImageIndex) -> dict[str, Any]:
    """Number of images and labels, and the fingerprint, which does not depend on where the images lie."""
    return {"images": len(index), "labels": len(index.labels), "fingerprint": index.fingerprint()}


def _published_split(config: Config, split: str, quiet: bool) -> ImageIndex:
    index: ImageIndex = DATASETS[config.dataset.name].build(config.dataset, split=split)
    if not quiet:
        warn_of_differences(config.dataset, split, index)
    if is_single_label(config):
        other = np.flatnonzero(index.positives.counts != 1)
        if len(other):
            raise DataError(
                f"{config.dataset.name} {split}: {len(other):,} of {len(index):,} images have not exactly one label "
                f"(first: {index.name(other[0])} with {index.positives.counts[other[0]]}), but the dataset says that "
                "all have"
            )
    return index


def build_classifier(config: Config, labels: LabelSpace, label_embeddings: LabelEmbeddings | None = None) -> Classifier:
    """Backbone and head, weights drawn from torch's global generator or loaded as the backbone's settings say.

    Args:
        labels: all labels of the dataset; the network is for those that are seen.
        label_embeddings: their vectors, where the head uses any; None: they are read from where the config says.
    """
    return _assemble(config, config.backbone, labels, label_embeddings)


def build_bare_classifier(
    config: Config, labels: LabelSpace, label_embeddings: LabelEmbeddings | None = None
) -> Classifier:
    """The same network without its pretrained weights: what a checkpoint is loaded into."""
    # Once no weights are named, final_norm=auto would no longer say what the network was built with.
    bare = dataclasses.replace(
        config.backbone, pretrained=False, checkpoint=None, final_norm=config.backbone.keeps_final_norm
    )
    return _assemble(config, bare, labels, label_embeddings)


def _assemble(
    config: Config, settings: Any, labels: LabelSpace, label_embeddings: LabelEmbeddings | None
) -> Classifier:
    """A classifier with the backbone that `settings` describes, and the head of `config`."""
    backbone = BACKBONES[settings.name].build(settings, image_size=image_size(config))
    if config.backbone.final_norm is True and getattr(backbone, "final_norm", None) is None:
        raise ConfigError(
            f"backbone.final_norm=true: the classifier of {getattr(settings, 'model', settings.name)} does not begin "
            "with a norm that could be kept; use auto or false"
        )
    more = (
        {"label_embeddings": label_embeddings or build_label_embeddings(config, labels)}
        if uses_label_embeddings(config)
        else {}
    )
    head = HEADS[config.head.name].build(
        config.head, in_features=backbone.num_features, labels=labels.trained(), **more
    )
    return Classifier(backbone, head)


def build_label_embeddings(config: Config, labels: LabelSpace) -> LabelEmbeddings:
    """The vectors of all labels, those that are trained first. Raises DataError if there are none for some."""
    trained = labels.trained().names
    unseen = [name for name in labels.names if name not in set(trained)]
    return read_label_embeddings(config.head.label_embeddings, [*trained, *unseen], ordered=labels.names)


def set_query_labels(classifier: Classifier, names: Sequence[str], source: LabelEmbeddingsConfig | None) -> None:
    """Let a classifier answer for `names`; vectors that it lacks are read from `source`.

    Raises DataError if it has no label embeddings, or if there is none for a name.
    """
    label_embeddings = None
    if classifier.vocabulary is not None and source is not None:
        known = set(classifier.vocabulary.known.names)
        if missing := [name for name in LabelSpace(names).names if name not in known]:
            label_embeddings = read_label_embeddings(source, missing, ordered=classifier.vocabulary.known.names)
    classifier.set_labels(names, label_embeddings)


def build_normalization(classifier: Classifier) -> Normalization:
    """What turns uint8 images into the numbers that this network expects."""
    statistics: Any = classifier.backbone.normalization
    return Normalization(*statistics)


def build_loss(config: Config) -> nn.Module:
    """The training objective, computed in float32."""
    loss: nn.Module = LOSSES[config.loss.name].build(config.loss)
    return loss


def build_schedule(config: Config, steps_per_epoch: int) -> Schedule:
    """Learning rate and momentum as a function of the number of updates made."""
    total = steps_per_epoch * config.schedule.epochs
    schedule: Schedule = SCHEDULES[config.schedule.name].build(
        config.schedule, total_steps=total, steps_per_epoch=steps_per_epoch
    )
    return schedule


def build_optimizer(config: Config, classifier: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over decayed and undecayed, backbone and head parameters."""
    settings: Any = config.optimizer
    groups = parameter_groups(
        classifier,
        weight_decay=settings.weight_decay,
        backbone_lr_scale=settings.backbone_lr_scale,
        exempt_named=config.protocol.name != "paper",  # the published code knew dimensions and biases only
    )
    optimizer: torch.optim.Optimizer = OPTIMIZERS[settings.name].build(
        settings,
        groups=groups,
        lr=config.schedule.max_lr,
    )
    return optimizer


def build_ema(config: Config, classifier: nn.Module) -> Ema | None:
    """The moving average of the weights, or None where the experiment has none."""
    ema: Ema | None = EMAS[config.ema.name].build(config.ema, classifier)
    return ema


def build_augment(config: Config) -> Augment:
    """What becomes of a training image."""
    augment: Augment = AUGMENTS[config.augment.name].build(config.augment, image_size=image_size(config))
    return augment


def build_train_loader(
    config: Config, index: ImageIndex, device: torch.device, group: ProcessGroup = ALONE
) -> TrainLoader:
    """Shuffled, augmented batches; each a function of seed, epoch and position alone. `group` shares each of them."""
    augment: Any = config.augment
    return train_loader(
        index,
        build_augment(config),
        batch_size=config.schedule.batch_size,
        seed=config.seed,
        workers=count_workers(config.runtime, device),
        repeats=augment.repeats,
        pin_memory=device.type == "cuda",
        limit=config.runtime.limit_train_batches,
        overfit=config.runtime.overfit,
        scaled_decoding=config.dataset.scaled_decoding,
        on_error=config.dataset.on_error,
        rank=group.rank,
        processes=group.size,
    )


def build_eval_loader(
    config: Config, index: ImageIndex, device: torch.device, group: ProcessGroup = ALONE
) -> EvalLoader:
    """Every image once, in order, resized and nothing else. `group` shares the images."""
    return eval_loader(
        index,
        image_size(config),
        batch_size=config.runtime.eval_batch_size or config.schedule.batch_size,
        workers=count_workers(config.runtime, device),
        pin_memory=device.type == "cuda",
        limit=config.runtime.limit_eval_batches,
        scaled_decoding=config.dataset.scaled_decoding,
        crop=config.dataset.crop,
        interpolation=config.dataset.interpolation,
        rank=group.rank,
        processes=group.size,
    )


def build_resize(config: Config) -> Resize:
    """What evaluation and prediction do to a decoded image."""
    return Resize(image_size(config), config.dataset.crop, config.dataset.interpolation)


def image_size(config: Config) -> int:
    """Side in pixels of the square images that the network sees."""
    size: int = config.dataset.image_size
    return size
