"""Property: a name finds exactly the component that was registered under it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from mldec.config import ComponentConfig
from mldec.errors import ConfigError
from mldec.registry import Registry


@dataclass(frozen=True, kw_only=True)
class ToyConfig(ComponentConfig):
    size: int = 1


def test_a_registered_factory_is_found_by_its_name_alone():
    registry = Registry("toy")

    @registry.register("small", ToyConfig)
    def build_small(config):
        return config.size

    component = registry["small"]
    assert component.config_class is ToyConfig
    assert component.build(component.config_class(name="small")) == 1
    assert registry.names() == ["small"]


def test_a_name_is_taken_once_and_an_unknown_one_gets_a_hint():
    registry = Registry("toy")
    registry.register("small", ToyConfig)(lambda config: None)
    with pytest.raises(ValueError, match="registered already"):
        registry.register("small", ToyConfig)(lambda config: None)
    with pytest.raises(ConfigError, match=r"toy\.name=smal: no such toy; did you mean small\?"):
        registry["smal"]


def test_the_vocabulary_does_not_import_torch():
    """`mldec --help` and a wrong word must answer at once."""
    code = "import sys, mldec.commands.main, mldec.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
