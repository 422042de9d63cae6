"""Property: any override or file ends in a valid Config or in one error of readable lines, never a traceback.

Hypothesis looks for the smallest mapping that breaks this (https://hypothesis.readthedocs.io).
"""

from __future__ import annotations

import dataclasses
import typing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mldec.commands import compose
from mldec.commands.options import parse
from mldec.commands.train import TrainOptions
from mldec.config import Config, build_config, to_mapping
from mldec.engine import config_checks
from mldec.errors import ConfigError
from mldec.registry import REGISTRIES

SHIPPED = [f"experiment={name}" for name in compose.choices("experiment")]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from(
        [10**400, -(10**400), 2**63, 0.5, 1e-300, float("nan"), float("inf"), "", " ", "../x", "null", "1e-3"]
    ),
    st.floats(),
    st.text(max_size=8),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
#: Strings that the settings know: names of components and of choices.
known_texts = sorted(
    {name for registry in REGISTRIES.values() for name in registry.names()}
    | {"fixed", "label_embeddings", "bf16", "mean", "sum"}
)


def names_of(component: type) -> list[str]:
    return [field.name for field in dataclasses.fields(component)]


@st.composite
def mappings(draw: st.DrawFn) -> dict:
    """A component of each group with some settings of its own or of nobody, and sometimes something else altogether."""
    mapping: dict = {"name": draw(st.sampled_from(["test", "a/b", "..", ""]) | st.text(max_size=5))}
    for group, registry in REGISTRIES.items():
        name = draw(st.sampled_from(registry.names()))
        fields = names_of(registry[name].config_class)
        keys = draw(st.lists(st.sampled_from(fields) | st.text(max_size=6), max_size=3))
        chosen = {key: draw(values | st.sampled_from(known_texts)) for key in keys}
        mapping[group] = {"name": name, **{key: value for key, value in chosen.items() if key != "name"}}
    for key in draw(st.lists(st.sampled_from(names_of(Config)) | st.text(max_size=6), max_size=2)):
        mapping[key] = draw(values)
    for group in ("runtime", "protocol"):
        if draw(st.booleans()):
            hints = typing.get_type_hints(Config)
            fields = names_of(hints[group])
            mapping[group] = {key: draw(values) for key in draw(st.lists(st.sampled_from(fields), max_size=3))}
    return mapping


def check_mapping(mapping: dict) -> None:
    problem = None
    try:
        config = build_config(mapping)
        config_checks.check_config(config)
        config_checks.find_unused(config)
    except ConfigError as error:
        problem = str(error).strip()
    assert problem != ""
    assert problem or build_config(to_mapping(config)) == config


FUZZ = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@settings(FUZZ, max_examples=200)
@given(mappings())
def test_any_mapping_is_a_config_or_one_error(mapping: dict) -> None:
    check_mapping(mapping)


@pytest.mark.slow  # more of the same
@settings(FUZZ, max_examples=4000, derandomize=False)
@given(mappings())
def test_many_mappings(mapping: dict) -> None:
    check_mapping(mapping)


arguments = st.one_of(
    st.tuples(
        st.sampled_from(["", "+", "++", "~"]),
        st.sampled_from(
            [
                "head",
                "loss",
                "dataset",
                "schedule.epochs",
                "head.num_groups",
                "runtime.threads",
                "augment.scale",
                "hydra.run.dir",
            ]
        )
        | st.text(max_size=6),
        st.sampled_from(["=", "=", "=", "", "=="]),
        scalars.map(str)
        | st.sampled_from([*known_texts, "[1,2]", "{a: 1}", "${seed}", "${oc.env:HOME}", "'", "a,b", "1..2"]),
    ).map("".join),
    st.sampled_from(["head=gap", "loss=bce", "seed=3", "schedule.epochs=2", "dataset.image_size=96", "ema=none"]),
    st.text(max_size=10),
)


def compose_arguments(given: list[str]) -> None:
    problem = None
    try:
        _, rest = parse(given, TrainOptions, "train")
        config = build_config(compose.compose(rest.overrides, rest.config_dir))
    except ConfigError as error:
        problem = str(error).strip()
    assert problem != ""
    assert problem or build_config(to_mapping(config)) == config


@settings(FUZZ, max_examples=60)
@given(st.lists(arguments, max_size=3))
def test_any_arguments_are_a_config_or_one_error(more: list[str]) -> None:
    compose_arguments(["experiment=digits", *more])


@pytest.mark.slow  # Hydra takes a while for each
@settings(FUZZ, max_examples=2000, derandomize=False)
@given(st.sampled_from(SHIPPED), st.lists(arguments, max_size=4))
def test_any_arguments_on_top_of_any_experiment(experiment: str, more: list[str]) -> None:
    compose_arguments([experiment, *more])
