"""Settings that follow from the data: `experiment=probe` and `experiment=finetune`.

A recipe is a set of rules from the number of training images and labels, the network and the device to the settings
that matter most. What the user sets is kept. The result is a plain experiment: a run stores the chosen values, so
nothing is chosen anew when it is resumed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import timm

from mldec.config import Config, with_settings
from mldec.engine import data_splits
from mldec.engine.device import choose_device
from mldec.errors import counted

UPDATES = {"probe": 140, "finetune": 600}  # that a run makes at least, if the limits of epochs allow
EPOCHS = {"probe": (3, 15), "finetune": (5, 30)}
PROBE_RATES = {"gap": 3e-3, "gmp": 3e-3}  # highest rate of heads with one linear layer
DECODER_RATE = 1.6e-3  # of all others; the best of 4e-4, 8e-4, 1.6e-3, 3.2e-3 with 300, 1,000 and 6,000 photographs
FINETUNE_RATE, BACKBONE_SHARE = 1e-3, 0.2  # of the head in batches of 64 images; of the backbone, as a part of it
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
        native_size: side in pixels of the images that the backbone's weights were trained with; None if not known.
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
    model = getattr(config.backbone, "model", config.backbone.name)
    published = timm.get_pretrained_cfg(model) if timm.is_model(model.partition(".")[0]) else None
    native = None if published is None else published.input_size[-1]
    is_cpu = choose_device(config.runtime.device).type == "cpu"
    return Facts(len(train), labels, config.dataset.single_label, native, is_cpu)


def choose(config: Config, facts: Facts, given: Collection[str]) -> list[Choice]:
    """The settings that a recipe chooses for an experiment; settings that its components do not have are left out."""
    rules = {"probe": _probe, "finetune": _finetune}[str(config.recipe)]
    return [choice for choice in rules(config, facts) if _is_free(config, choice.key, given)]


def _is_free(config: Config, key: str, given: Collection[str]) -> bool:
    """Whether a recipe may choose a setting: there is such a one, and neither the user nor a file has set it."""
    group, _, name = key.partition(".")
    if not name:  # a component, which the user may have chosen or changed
        return group not in {one.partition(".")[0] for one in given}
    settings = getattr(config, group)
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    return key not in given and name in defaults and getattr(settings, name) == defaults[name]


def _common(config: Config, facts: Facts) -> Iterator[Choice]:
    if facts.native_size is not None:
        yield Choice("dataset.image_size", facts.native_size, "the size that the backbone's weights were trained with")
    if facts.single_label:
        yield Choice("loss", {"name": "ce"}, "each image has exactly one label")
    if config.head.name == "ml_decoder" and facts.labels > MOST_QUERIES:
        yield Choice("head.num_groups", MOST_QUERIES, f"{facts.labels:,} labels share {MOST_QUERIES} queries")


def _length(recipe: str, facts: Facts, batch_size: int) -> Iterator[Choice]:
    """Epochs, so that there are enough updates, and an average over the last part of them."""
    steps = -(-facts.images // batch_size)
    low, high = EPOCHS[recipe]
    epochs = min(max(math.ceil(UPDATES[recipe] / steps), low), high)
    updates = f"{epochs * steps:,} updates"
    yield Choice("schedule.epochs", epochs, f"{updates}; at least {low} epochs, at most {high}")
    window = max(10, epochs * steps // 6)
    yield Choice("ema.decay", round(1 - 1 / window, 5), f"an average over about {window:,} of {updates}")


def _probe(config: Config, facts: Facts) -> Iterator[Choice]:
    """A head on a frozen backbone, whose tokens are cached: a few fast epochs."""
    yield from _common(config, facts)
    batch_size = 64 if facts.images >= 2_000 else 32 if facts.images >= 500 else 16
    images = counted(facts.images, "training image")
    yield Choice("schedule.batch_size", batch_size, images)
    rate = PROBE_RATES.get(config.head.name, DECODER_RATE)
    yield Choice("schedule.max_lr", rate, f"head={config.head.name} on frozen tokens")
    yield from _length("probe", facts, batch_size)


def _finetune(config: Config, facts: Facts) -> Iterator[Choice]:
    """The whole network from pretrained weights."""
    yield from _common(config, facts)
    batch_size = 16 if facts.cpu or facts.images < 500 else 64
    yield Choice("schedule.batch_size", batch_size, "the CPU" if facts.cpu else counted(facts.images, "training image"))
    rate = FINETUNE_RATE * math.sqrt(batch_size / 64)
    yield Choice("schedule.max_lr", float(f"{rate:.2g}"), f"of the head, in batches of {batch_size} images")
    yield Choice("optimizer.backbone_lr_scale", BACKBONE_SHARE, "pretrained weights change less than a new head")
    yield from _length("finetune", facts, batch_size)
