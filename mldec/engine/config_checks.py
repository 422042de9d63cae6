"""Checks of a Config that need no data: combinations that cannot work, and settings without effect."""

from __future__ import annotations

import dataclasses
from typing import Any

from mldec.config import Config
from mldec.engine.config_properties import tells_labels, uses_label_embeddings, uses_softmax
from mldec.errors import ConfigError
from mldec.registry import HEADS


def check_config(config: Config) -> None:
    """Raise ConfigError for combinations that are invalid whatever the data. Reads no files."""
    dataset, loss = config.dataset, config.loss
    if dataset.cache == "":
        raise ConfigError("dataset.cache= is empty; name a folder, or leave it out to use your own cache folder")
    if uses_softmax(config) and not config.dataset.single_label:
        raise ConfigError(
            f"loss={loss.name} trains exactly one label per image, but {dataset.name} has several; "
            "use loss=asl or loss=bce"
        )
    if uses_softmax(config) and getattr(config.head, "random_queries", False):
        raise ConfigError(
            f"head.random_queries={config.head.random_queries}: each adds a positive target, but loss={loss.name} "
            "needs exactly one per image; use loss=bce or head.random_queries=0"
        )
    if tells_labels(config):
        _check_told_labels(config)
    _check_details(config)
    if config.cache.tokens:
        _check_cache(config)
    repeats, size = config.augment.repeats, config.schedule.batch_size
    if repeats > size:
        raise ConfigError(f"augment.repeats={repeats} exceeds schedule.batch_size={size}; lower augment.repeats")


def _check_told_labels(config: Config) -> None:
    """Raise ConfigError for what would give labels that the head is told a wrong state or a wrong loss."""
    otherwise = "or head.label_masks=false"
    for name in ("mixup", "cutmix"):
        if alpha := getattr(config.augment, name):
            raise ConfigError(
                f"augment.{name}={alpha}: a mixed image has fractions of labels, but training tells "
                f"head={config.head.name} whether a label is present or absent; use augment.{name}=0, {otherwise}"
            )
    weight = getattr(config.loss, "unknown_weight", 0)
    if weight > 0:
        raise ConfigError(
            f"loss.unknown_weight={weight}: labels that head={config.head.name} is told in training are left out of "
            f"the loss as unknown ones, and would then count as absent; use loss.unknown_weight=0, {otherwise}"
        )


def _check_details(config: Config) -> None:
    """Raise ConfigError if the loss needs more than logits, which the head does not give."""
    needs = getattr(config.loss, "needs", ())
    lacking = [name for name in needs if name not in getattr(config.head, "gives", ())]
    if lacking:
        able = [name for name in HEADS.names() if set(needs) <= set(getattr(HEADS[name].config_class, "gives", ()))]
        use = " or ".join(f"head={name}" for name in able) or "another loss, as no head gives them"
        raise ConfigError(
            f"loss={config.loss.name} needs details that head={config.head.name} does not give "
            f"({', '.join(lacking)}); use {use}"
        )


def _check_cache(config: Config) -> None:
    """Raise ConfigError if the run needs more than the tokens of fixed views of its images."""
    needed = {
        "backbone.freeze=all": config.backbone.freeze == "all",
        "augment.mixup=0": not config.augment.mixup,
        "augment.cutmix=0": not config.augment.cutmix,
        "augment.repeats=1": config.augment.repeats == 1,
        "runtime.overfit=false": not config.runtime.overfit,
        "dataset.on_error=error": config.dataset.on_error == "error",
    }
    if lacking := [setting for setting, is_met in needed.items() if not is_met]:
        raise ConfigError(f"cache.tokens=true needs {' and '.join(lacking)}; set that, or cache.tokens=false")


def find_unused(config: Config) -> list[str]:
    """Settings that differ from their default and have no effect in this run, one sentence each."""
    found = list(config.dataset.unused())
    if config.ema.name == "none" and config.protocol.report != "raw":
        found.append(
            f"protocol.report={config.protocol.report}: there are no EMA weights (ema=none), raw weights are reported"
        )
    if "val" in config.dataset.splits and _is_changed(config.protocol, "holdout") and config.protocol.holdout > 0:
        found.append(f"protocol.holdout={config.protocol.holdout}: {config.dataset.name} has its own val split")
    if not uses_label_embeddings(config) and _is_changed(config.head, "normalize"):
        found.append(f"head.normalize={config.head.normalize}: there are no label embeddings")
    if uses_label_embeddings(config):
        found += config.head.label_embeddings.unused()
    if getattr(config.head, "label_masks", None) is False:
        for name in ("known_share", "published"):
            if _is_changed(config.head, name):
                found.append(f"head.{name}: only used with head.label_masks=true")
    if config.init_from is None and config.init_part != "all":
        found.append(f"init_part={config.init_part}: init_from is not set")
    if config.backbone.freeze == "all":
        for name in ("backbone_lr_scale", "layer_decay"):
            if _is_changed(config.optimizer, name):
                found.append(f"optimizer.{name}: the whole backbone is frozen (backbone.freeze=all)")
    for field in dataclasses.fields(config.cache):
        if not config.cache.tokens and _is_changed(config.cache, field.name):
            found.append(f"cache.{field.name}: only used with cache.tokens=true")
    if config.cache.tokens and config.cache.views > 1 and config.augment.name == "none":
        found.append(f"cache.views={config.cache.views}: with augment=none all views are the same")
    found += _unused_in_loss(config)
    found += _unused_in_schedule(config)
    cycled = config.schedule.cycle_momentum
    if not cycled and _is_changed(config.schedule, "momentum"):
        found.append("schedule.momentum: only used with schedule.cycle_momentum=true")
    for name in ("betas", "momentum"):
        if cycled and _is_changed(config.optimizer, name):
            found.append(f"optimizer.{name}: schedule.cycle_momentum=true overrides the momentum")
    if config.runtime.overfit and config.runtime.limit_train_batches is None:
        found.append("runtime.overfit=true without runtime.limit_train_batches: each epoch has one step")
    if config.runtime.profile and (config.runtime.limit_train_batches or 5) < 5:
        found.append(
            "runtime.profile=true: the trace needs at least 5 steps per epoch; raise runtime.limit_train_batches"
        )
    return found


def _unused_in_schedule(config: Config) -> list[str]:
    schedule, found = config.schedule, []
    if late := [epoch for epoch in getattr(schedule, "milestones", ()) if epoch >= schedule.epochs]:
        found.append(f"schedule.milestones={late}: the run has schedule.epochs={schedule.epochs}")
    if _is_changed(schedule, "gamma") and not schedule.milestones:
        found.append(f"schedule.gamma={schedule.gamma:g}: there are no schedule.milestones")
    if _is_changed(schedule, "warmup_lr") and not schedule.warmup_epochs:
        found.append(f"schedule.warmup_lr={schedule.warmup_lr:g}: schedule.warmup_epochs is 0")
    return found


def _unused_in_loss(config: Config) -> list[str]:
    loss = config.loss
    if _is_changed(loss, "focal_balance") and not loss.focal_gamma:
        return [f"loss.focal_balance={loss.focal_balance}: loss.focal_gamma is 0"]
    if _is_changed(loss, "label_smoothing_toward") and not loss.label_smoothing:
        return [f"loss.label_smoothing_toward={loss.label_smoothing_toward}: loss.label_smoothing is 0"]
    mixed = config.augment.mixup or config.augment.cutmix
    if _is_changed(loss, "label_smoothing") and getattr(loss, "target_threshold", None) is not None and not mixed:
        return [
            f"loss.label_smoothing={loss.label_smoothing}: loss.target_threshold rounds smoothed targets to 0 or 1; "
            "it only affects fractional targets of mixup and cutmix, and both are off"
        ]
    return []


def _is_changed(settings: Any, name: str) -> bool:
    """Whether a setting exists and differs from its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    return name in defaults and getattr(settings, name) != defaults[name]
