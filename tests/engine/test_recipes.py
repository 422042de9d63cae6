"""Recipes choose what the user left open, say why, and the run stores plain values."""

from __future__ import annotations

import dataclasses

import pytest

from mldec.commands import compose
from mldec.commands.options import compose_config, parse
from mldec.commands.train import TrainOptions
from mldec.config import Config, build_config, to_mapping
from mldec.engine.recipes import EPOCHS, MOST_QUERIES, UPDATES, Choice, Facts, apply_recipe, choose
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
    many = FACTS._replace(labels=MOST_QUERIES + 1, single_label=True)
    assert chosen(probe, many)["head.num_groups"] == MOST_QUERIES
    assert chosen(probe, many)["loss"] == {"name": "ce"}
    assert "loss" not in chosen(probe, many, "loss")
    assert "loss" not in chosen(probe, many, "loss.gamma_neg")


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
