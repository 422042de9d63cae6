"""Property: a mapping becomes a valid Config that maps back to itself, or one error that names every wrong key."""

from __future__ import annotations

import dataclasses

import pytest

import mldec.engine.build  # noqa: F401  (fills the registries)
from mldec.config import build_config, to_mapping
from mldec.errors import ConfigError


def valid() -> dict:
    return {
        "name": "test",
        "dataset": {"name": "digits"},
        "backbone": {"name": "resnet_digits"},
        "head": {"name": "ml_decoder", "num_groups": 20},
        "loss": {"name": "asl"},
        "augment": {"name": "none"},
        "optimizer": {"name": "adamw"},
        "schedule": {"name": "one_cycle", "epochs": 3},
        "ema": {"name": "none"},
        "protocol": {"name": "standard"},
    }


def changed(**groups: dict) -> dict:
    mapping = valid()
    for group, values in groups.items():
        mapping[group] = {**mapping.get(group, {}), **values}
    return mapping


def test_a_config_survives_the_round_trip_through_plain_values():
    config = build_config(valid())
    assert build_config(to_mapping(config)) == config


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        build_config(valid()).seed = 1  # type: ignore[misc]


def test_whole_numbers_widen_to_floats_and_nothing_else_is_coerced():
    assert build_config(changed(loss={"gamma_neg": 2})).loss.gamma_neg == 2.0
    for wrong in ("4", True, None, [4]):
        with pytest.raises(ConfigError, match=r"loss\.gamma_neg"):
            build_config(changed(loss={"gamma_neg": wrong}))


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (
            {"head": {"num_group": 3}},
            r"head\.num_group: head=ml_decoder has no such setting; did you mean num_groups\?",
        ),
        ({"head": {"name": "ml_decodr"}}, r"head\.name=ml_decodr: no such head; did you mean ml_decoder\?"),
        (
            {"head": {"num_heads": 0}},
            r"head\.num_heads=0: expected an integer ≥ 1, found an integer \(0\)",
        ),
        ({"head": {"dropout": 1.5}}, r"head\.dropout=1\.5: expected a number ≥ 0 and < 1"),
        ({"head": {"dim": 30, "num_heads": 8}}, r"head\.dim=30"),
        ({"loss": {"reduction": "max"}}, r"loss\.reduction=max: expected one of sum, mean, found text"),
        ({"schedule": {"batch_size": 10, "accumulate": 3}}, r"schedule\.accumulate=3: does not divide"),
        ({"schedule": {"epochs": 2.5}}, r"schedule\.epochs=2\.5: expected an integer"),
        ({"runtime": {"precision": "int8"}}, r"runtime\.precision=int8: expected one of auto, fp32, bf16, fp16"),
        ({"protocol": {"top_k": [3, 0]}}, r"protocol\.top_k=0: expected an integer ≥ 1"),
    ],
)
def test_an_error_names_the_key_what_was_found_and_what_is_allowed(groups, expected):
    with pytest.raises(ConfigError, match=expected):
        build_config(changed(**groups))


def test_all_problems_are_told_at_once():
    mapping = changed(head={"num_heads": 0, "droput": 0.1}, loss={"name": "als"}, optimizer={"weight_decay": -1})
    mapping["sed"] = 3
    with pytest.raises(ConfigError) as caught:
        build_config(mapping)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    for part in (
        "head.num_heads",
        "head.droput",
        "loss.name=als",
        "optimizer.weight_decay",
        "sed: no such setting; did you mean seed",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("missing", ["name", "dataset", "head", "protocol"])
def test_a_missing_group_or_key_is_named(missing):
    mapping = valid()
    del mapping[missing]
    if missing == "protocol":  # has a default: the standard one
        assert build_config(mapping).protocol.name == "standard"
        return
    with pytest.raises(ConfigError, match=f"{missing}: missing"):
        build_config(mapping)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\\b"])
def test_a_name_that_is_no_folder_name_is_refused(name):
    with pytest.raises(ConfigError, match="cannot name a folder"):
        build_config({**valid(), "name": name})


def test_numbers_that_are_not_finite_are_refused():
    for value in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"schedule\.max_lr"):
            build_config(changed(schedule={"max_lr": value}))


@pytest.mark.parametrize("group", ["", "dataset"])
def test_a_seed_is_what_torch_takes(group: str) -> None:
    def with_seed(seed: int) -> dict:
        return changed(dataset={"seed": seed}) if group else {**valid(), "seed": seed}

    assert to_mapping(build_config(with_seed(2**63 - 1)))
    for wrong in (2**63, 2**64, 10**30, -1):
        with pytest.raises(
            ConfigError, match=rf"seed={wrong}: expected an integer from 0 to 9223372036854775807, found"
        ):
            build_config(with_seed(wrong))
