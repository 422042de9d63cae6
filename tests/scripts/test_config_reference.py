"""`scripts/config_reference.py`: the page says what the code says, and nothing in the code goes unsaid."""

import dataclasses
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mldec.commands import compose
from mldec.config import ComponentConfig, Count
from mldec.registry import REGISTRIES

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("config_reference", ROOT / "scripts" / "config_reference.py")
reference = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = reference  # where dataclasses look up their annotations
spec.loader.exec_module(reference)


def test_the_committed_page_is_what_the_code_says():
    """After a change of a setting: python scripts/config_reference.py"""
    assert reference.page() == reference.PAGE.read_text(encoding="utf-8")


def test_every_choice_and_every_setting_stands_in_it():
    page = reference.page()
    for group in compose.GROUPS:
        assert [name for name in compose.choices(group) if f"### `{group}={name}`\n" not in page] == []
    for group, registry in REGISTRIES.items():
        assert [name for name in registry.settings() - {"name"} if f"| `{group}.{name}` |" not in page] == []


def test_every_option_of_every_command_stands_in_it():
    page = reference.page()
    for name, declared in reference.options_of_commands().items():
        section = page.partition(f"\n### mldec {name}\n")[2].partition("\n### ")[0]
        assert [f.name for f in dataclasses.fields(declared) if f"\n| `{f.name}` |" not in section] == []


@dataclass(frozen=True, kw_only=True)
class Parent(ComponentConfig):
    """A parent.

    Attributes:
        first, second: both of them,
            over two lines.

    Something else: not an attribute.
    """

    first: int = 1
    second: bool = False


@dataclass(frozen=True, kw_only=True)
class Child(Parent):
    second: bool = True  # said anew
    third: Count | None = None  # on a line of its own


@dataclass(frozen=True, kw_only=True)
class Silent(Parent):
    fourth: int


def test_what_a_setting_means_comes_from_comments_docstrings_and_the_classes_above():
    assert [dataclasses.astuple(row) for row in reference.settings(Child, "head")] == [
        ("head.first", "an integer", "`1`", "both of them, over two lines"),
        ("head.second", "true or false", "`true`", "said anew"),
        ("head.third", "an integer ≥ 1, or null", "`null`", "on a line of its own"),
    ]


def test_a_setting_that_nothing_describes_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"no description of .*\.Silent\.fourth; write a comment"):
        reference.settings(Silent, "head")
