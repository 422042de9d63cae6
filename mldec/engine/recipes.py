"""Settings that follow from the data: `experiment=probe` and `experiment=finetune`.

A recipe is a set of rules from the number of training images and labels, the network and the device to the settings
that matter most. What the user sets is kept. The result is a plain experiment: a run stores the chosen values, so
nothing is chosen anew when it is resumed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import timm

from mldec.config import Config, with_settings
from mldec.engine import data_splits
from mldec.engine.device import choose_device
from mldec.errors import counted
from mldec.models.backbone import BackboneConfig

UPDATES = {"probe": 140, "finetune": 600}  # that a run makes at least, if the limits of epochs allow
EPOCHS = {"probe": (3, 15), "finetune": (5, 30)}
PROBE_RATES = {"gap": 3e-3, "gmp": 3e-3}  # highest rate of heads with one linear layer
DECODER_RATE = 1.6e-3  # of all others; the best of 4e-4, 8e-4, 1.6e-3, 3.2e-3 with 300, 1,000 and 6,000 photographs
FINETUNE_RATE, BACKBONE_SHARE = 1e-3, 0.2  # of the head in batches of 64 images; of the backbone, as a part of it
USUAL_SIZES = {"dinov2": 224}  # where timm has that of the end of training, 518, for five times as many tokens
#: Per label, with one label for each image. With 64 of CIFAR-100 average pooling is ahead by 5 points.
FEW_IMAGES = 100
MOST_QUERIES = 100  # of ML-Decoder; of more labels several share a query


class Choice(NamedTuple):
    """A setting of an experiment, by its key, the value that a recipe gives it, and why."""

    key: str
    value: Any
    why: str

    def __str__(self) -> str:
        """`schedule.epochs=5  (470 updates; …)`."""
        value = self.value["name"] if isinstance(self.value, dict) else self.value
        return f"{self.key}={value}  ({self.why})"


class Facts(NamedTuple):
    """What a recipe is decided by.

    Attributes:
        images: for training.
        labels: that are trained.
        single_label: whether each image has exactly one.
        native_size: side in pixels of the images that the backbone's weights are meant for; None if not known.
        cpu: whether the network runs on the CPU.
    """

    images: int
    labels: int
    single_label: bool
    native_size: int | None
    cpu: bool


def apply_recipe(config: Config, given: Collection[str]) -> tuple[Config, list[Choice]]:
    """An experiment whose `recipe` has chosen all settings but those that were given.

    Args:
        given: keys of the user's overrides, of settings or of whole groups. What a file of an experiment sets to
            another value than the default is kept too.

    Returns:
        The experiment, and what was chosen.

    Raises:
        ConfigError, DataError: the dataset cannot be read, or the result is not valid.
    """
    if config.recipe is None:
        return config, []
    choices = choose(config, read_facts(config), given)
    return with_settings(config, {choice.key: choice.value for choice in choices}), choices


def read_facts(config: Config) -> Facts:
    """The facts about the data, the network and the device of an experiment."""
    train = data_splits.build_split(config, "train", quiet=True)
    labels = len(train.labels.trained())
    is_cpu = choose_device(config.runtime.device).type == "cpu"
    return Facts(len(train), labels, config.dataset.single_label, native_size(config.backbone), is_cpu)


def native_size(backbone: BackboneConfig) -> int | None:
    """Side in pixels of the images that the weights of a backbone are meant for; None where that is not known."""
    if not timm.is_model(backbone.network):
        return None
    model = getattr(backbone, "model", backbone.name)
    if isinstance(backbone.pretrained, str) and backbone.pretrained.startswith("hub:"):
        model = f"{backbone.network}.{backbone.pretrained.removeprefix('hub:')}"
    published = timm.get_pretrained_cfg(model)
    size = None if published is None else published.input_size[-1]
    return next((usual for part, usual in USUAL_SIZES.items() if part in backbone.network), size)


def choose(config: Config, facts: Facts, given: Collection[str]) -> list[Choice]:
    """The settings that a recipe chooses for an experiment; settings that its components do not have are left out.

    Each rule sees what the earlier ones chose, and what was given in their place.
    """
    chosen: list[Choice] = []
    for rule in RULES[str(config.recipe)]:
        choice = rule(config, facts)
        if choice is not None and _is_free(config, choice.key, given):
            chosen.append(choice)
            config = with_settings(config, {choice.key: choice.value})
    return chosen


def _is_free(config: Config, key: str, given: Collection[str]) -> bool:
    """Whether a recipe may choose a setting: there is such a one, and neither the user nor a file has set it."""
    group, _, name = key.partition(".")
    if not name:  # a component, which the user may have chosen or changed
        return group not in {one.partition(".")[0] for one in given}
    settings = getattr(config, group)
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    return key not in given and name in defaults and getattr(settings, name) == defaults[name]


# Rules ----------------------------------------------------------------------------------------------------------------


def _size(config: Config, facts: Facts) -> Choice | None:
    if facts.native_size is None:
        return None
    return Choice("dataset.image_size", facts.native_size, "the input size of the backbone's weights")


def _loss(config: Config, facts: Facts) -> Choice | None:
    return Choice("loss", {"name": "ce"}, "each image has exactly one label") if facts.single_label else None


def _head(config: Config, facts: Facts) -> Choice | None:
    """Average pooling in place of ML-Decoder where that has too little to learn from."""
    each = facts.images / max(1, facts.labels)
    if config.head.name != "ml_decoder" or not facts.single_label or each >= FEW_IMAGES:
        return None
    why = (
        f"{each:.0f} images for each of {counted(facts.labels, 'label')}, one per image: attention learns them by heart"
    )
    return Choice("head", {"name": "gap"}, why)


def _queries(config: Config, facts: Facts) -> Choice | None:
    if config.head.name != "ml_decoder" or facts.labels <= MOST_QUERIES:
        return None
    return Choice("head.num_groups", MOST_QUERIES, f"{facts.labels:,} labels share {MOST_QUERIES} queries")


def _probe_batch(config: Config, facts: Facts) -> Choice:
    size = 64 if facts.images >= 2_000 else 32 if facts.images >= 500 else 16
    return Choice("schedule.batch_size", size, counted(facts.images, "training image"))


def _finetune_batch(config: Config, facts: Facts) -> Choice:
    size = 16 if facts.cpu or facts.images < 500 else 64
    return Choice("schedule.batch_size", size, "the CPU" if facts.cpu else counted(facts.images, "training image"))


def _probe_rate(config: Config, facts: Facts) -> Choice:
    rate = PROBE_RATES.get(config.head.name, DECODER_RATE)
    return Choice("schedule.max_lr", rate, f"head={config.head.name} on frozen tokens")


def _finetune_rate(config: Config, facts: Facts) -> Choice:
    size = config.schedule.batch_size
    rate = float(f"{FINETUNE_RATE * math.sqrt(size / 64):.2g}")
    return Choice("schedule.max_lr", rate, f"of the head, in batches of {size} images")


def _backbone_rate(config: Config, facts: Facts) -> Choice:
    return Choice("optimizer.backbone_lr_scale", BACKBONE_SHARE, "pretrained weights change less than a new head")


def _epochs(config: Config, facts: Facts) -> Choice:
    """So many that there are enough updates."""
    recipe, steps = str(config.recipe), _steps(config, facts)
    low, high = EPOCHS[recipe]
    epochs = min(max(math.ceil(UPDATES[recipe] / steps), low), high)
    return Choice("schedule.epochs", epochs, f"{epochs * steps:,} updates; at least {low} epochs, at most {high}")


def _decay(config: Config, facts: Facts) -> Choice:
    """An average over the last part of the updates."""
    updates = config.schedule.epochs * _steps(config, facts)
    window = max(10, updates // 6)
    return Choice("ema.decay", round(1 - 1 / window, 5), f"an average over about {window:,} of {updates:,} updates")


def _steps(config: Config, facts: Facts) -> int:
    """Updates of an epoch."""
    return -(-facts.images // config.schedule.batch_size)


Rule = Callable[[Config, Facts], Choice | None]
RULES: dict[str, tuple[Rule, ...]] = {
    # A head on a frozen backbone, whose tokens are cached: a few fast epochs.
    "probe": (_size, _loss, _head, _queries, _probe_batch, _probe_rate, _epochs, _decay),
    # The whole network from pretrained weights.
    "finetune": (_size, _loss, _queries, _finetune_batch, _finetune_rate, _backbone_rate, _epochs, _decay),
}
