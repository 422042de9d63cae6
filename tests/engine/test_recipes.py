"""Recipes choose what the user left open, say why, and the run stores plain values."""

from __future__ import annotations

import dataclasses

import pytest

from mldec.commands import compose
from mldec.commands.options import compose_config, parse
from mldec.commands.train import TrainOptions
from mldec.config import Config, build_config, to_mapping, with_settings
from mldec.engine.recipes import (
    EPOCHS,
    MOST_QUERIES,
    PROBE_RATES,
    UPDATES,
    Choice,
    Facts,
    apply_recipe,
    choose,
    native_size,
)
from tests.curve import make

FACTS = Facts(images=6_000, labels=18, single_label=False, native_size=240, cpu=True)


@pytest.fixture
def probe(digits_root) -> Config:
    """experiment=probe on drawn digits, before its recipe has chosen."""
    return make(["experiment=probe", "dataset=digits", f"dataset.root={digits_root}", "backbone.pretrained=false"])


def chosen(config: Config, facts: Facts, *given: str) -> dict[str, object]:
    return {choice.key: choice.value for choice in choose(config, facts, given)}


def test_every_choice_says_why_and_is_a_setting_with_another_value_than_the_default(probe):
    choices = choose(probe, FACTS, ())
    assert all(choice.why for choice in choices)
    settings = to_mapping(probe)
    for choice in choices:
        group, _, name = choice.key.partition(".")
        assert settings[group][name] != choice.value
    assert str(Choice("schedule.epochs", 3, "282 updates")) == "schedule.epochs=3  (282 updates)"


@pytest.mark.parametrize("recipe", ["probe", "finetune"])
@pytest.mark.parametrize("images", [1, 20, 300, 1_999, 2_000, 6_000, 10**6])
def test_length_stays_within_its_limits(probe, recipe, images):
    config = dataclasses.replace(probe, recipe=recipe)
    settings = chosen(config, FACTS._replace(images=images))
    epochs, batch_size = settings["schedule.epochs"], settings["schedule.batch_size"]
    low, high = EPOCHS[recipe]
    assert low <= epochs <= high
    updates = epochs * -(-images // batch_size)
    assert epochs == high or updates >= UPDATES[recipe]
    assert epochs == low or (epochs - 1) * -(-images // batch_size) < UPDATES[recipe]
    assert 0 < settings["ema.decay"] < 1


def test_pooling_learns_at_a_higher_rate_than_attention(probe, digits_root):
    pooling = make(["experiment=probe", "head=gap", "dataset=digits", f"dataset.root={digits_root}"])
    assert chosen(pooling, FACTS)["schedule.max_lr"] > chosen(probe, FACTS)["schedule.max_lr"]
    assert "head.num_groups" not in chosen(pooling, FACTS._replace(labels=10**4))


def test_labels_and_kind_of_task_decide_queries_and_loss(probe):
    assert "loss" not in chosen(probe, FACTS)
    assert "head.num_groups" not in chosen(probe, FACTS._replace(labels=MOST_QUERIES))
    many = FACTS._replace(images=10**5, labels=MOST_QUERIES + 1, single_label=True)
    assert chosen(probe, many)["head.num_groups"] == MOST_QUERIES
    assert chosen(probe, many)["loss"] == {"name": "ce"}
    assert "loss" not in chosen(probe, many, "loss")
    assert "loss" not in chosen(probe, many, "loss.gamma_neg")


def test_few_images_of_each_class_are_pooled(probe):
    few = FACTS._replace(images=6_400, labels=100, single_label=True)
    settings = chosen(probe, few)
    assert settings["head"] == {"name": "gap"}
    assert settings["schedule.max_lr"] == PROBE_RATES["gap"]
    assert "head.num_groups" not in settings
    for other in (few._replace(single_label=False), few._replace(images=20_000)):
        assert "head" not in chosen(probe, other)
    for given in ("head", "head.dim"):
        assert "head" not in chosen(probe, few, given)
    assert "head" not in chosen(dataclasses.replace(probe, recipe="finetune"), few)


@pytest.mark.parametrize("recipe", ["probe", "finetune"])
def test_what_is_derived_from_given_settings_follows_them(probe, recipe):
    """Epochs from the batch size that was given, the average from the epochs."""
    config = with_settings(dataclasses.replace(probe, recipe=recipe), {"schedule.batch_size": 512})
    settings = chosen(config, FACTS, "schedule.batch_size")
    steps = -(-FACTS.images // 512)
    assert settings["schedule.epochs"] == min(-(-UPDATES[recipe] // steps), EPOCHS[recipe][1])
    config = with_settings(config, {"schedule.epochs": 2})
    (decay,) = (c for c in choose(config, FACTS, ["schedule.batch_size", "schedule.epochs"]) if c.key == "ema.decay")
    assert decay.value == 1 - 1 / 10
    assert "about 10 of 24 updates" in decay.why
    if recipe == "finetune":
        assert settings["schedule.max_lr"] == pytest.approx(1e-3 * 8**0.5, rel=0.02)


def test_sizes_are_those_of_the_weights():
    for words, size in (
        (["backbone=efficientnet_lite2"], 260),
        (["backbone=dinov2_vit_b"], 224),
        (["backbone=timm", "backbone.model=convnext_tiny", "backbone.pretrained=hub:in12k_ft_in1k_384"], 384),
        (["backbone=resnet_digits"], None),
    ):
        assert native_size(make(["experiment=digits", *words]).backbone) == size


def test_what_the_user_or_a_file_set_is_kept(probe):
    assert "schedule.epochs" not in chosen(probe, FACTS, "schedule.epochs")
    file_set = dataclasses.replace(probe, schedule=dataclasses.replace(probe.schedule, epochs=7))
    assert "schedule.epochs" not in chosen(file_set, FACTS)


def test_the_result_is_a_plain_experiment_which_chooses_nothing_anew(probe):
    config, choices = apply_recipe(probe, ["schedule.max_lr"])
    assert config.schedule.max_lr == probe.schedule.max_lr
    assert choices
    assert build_config(to_mapping(config)) == config
    plain = dataclasses.replace(config, recipe=None)
    assert apply_recipe(plain, ()) == (plain, [])


def test_the_command_prints_choices_and_a_stored_run_keeps_them(digits_root, capsys):
    overrides = ["experiment=probe", "dataset=digits", f"dataset.root={digits_root}", "schedule.batch_size=50"]
    _, arguments = parse([*overrides, "backbone.pretrained=false"], TrainOptions, "train")
    config = compose_config(arguments)
    said = capsys.readouterr().err
    assert f"schedule.epochs={config.schedule.epochs}  (" in said
    assert "schedule.batch_size" not in said
    assert config.schedule.batch_size == 50
    stored = build_config(compose.change(to_mapping(config), ["head.dropout=0.2"]))
    assert stored.schedule == config.schedule
