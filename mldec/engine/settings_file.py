"""config.yaml of a run directory: plain values as YAML, written and read literally.

The file may come from anybody. Nothing in it is resolved: `${…}` is text. Anchors and aliases, by which a few lines
stand for millions of values, tags (`!!set`), integers that are not plain decimal, and values within one another beyond
any experiment's depth are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mldec.errors import ConfigError, DataError, first_lines, printable, shortened
from mldec.untrusted import read_bytes

MOST_BYTES = 2**20
DEPTH = 20  # of settings within one another; an experiment has 4

#: Numbers as YAML 1.2 and Hydra read them: 3e-4 is one, which YAML 1.1 takes for text.
FLOAT = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*(?:[eE][-+]?[0-9]+)
    |\.[0-9_]+(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.X,
)
FLOAT_TAG, DATE_TAG = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
INT_TAG, MERGE_TAG, VALUE_TAG = (f"tag:yaml.org,2002:{name}" for name in ("int", "merge", "value"))
INTEGER = re.compile("[-+]?(?:0|[1-9][0-9]{0,19})")  # YAML 1.1 also has 0x1f, 0b1, 010 for 8 and 1:30 for 90


def write_settings(settings: Mapping[str, Any]) -> str:
    """Plain settings as YAML text that is safe to print, and which `read_settings` reads as the same settings."""
    form = {"Dumper": _Dumper, "sort_keys": False, "default_flow_style": False}
    text: str = yaml.dump(dict(settings), allow_unicode=True, **form)
    return (
        text if printable(text) == text else yaml.dump(dict(settings), **form)
    )  # marks of the text direction as codes


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a config.yaml as nested plain values. Raises ConfigError if it is missing, damaged or unsafe."""
    try:
        loader = _Loader(read_bytes(path, most=MOST_BYTES).decode("utf-8"))
        try:
            settings = loader.get_single_data()
        finally:
            loader.dispose()
    except FileNotFoundError:
        raise ConfigError(f"no {path}: is {path.parent} a run directory?") from None
    except DataError as error:
        raise ConfigError(str(error)) from None
    except (OSError, ValueError, RecursionError, OverflowError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {_reason(error)}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds no settings")
    return settings


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem is not None:
        mark = error.problem_mark
        return f"{error.problem}" + (f" (line {mark.line + 1})" if mark is not None else "")
    return first_lines(error)[:300]


class _Loader(yaml.SafeLoader):
    """Plain values without anchors or tags; a setting that appears twice is an error."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not read", event.start_mark)
        if getattr(event, "tag", None) is not None:
            problem = f"tags are not read ({shortened(event.tag)}); write the plain value"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self.depth += 1
        if self.depth > DEPTH:
            raise yaml.composer.ComposerError(
                None, None, f"more than {DEPTH} levels of settings within one another", event.start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a setting appears twice", node.start_mark)
        return mapping

    def construct_decimal(self, node: Any) -> int:
        if INTEGER.fullmatch(node.value) is None:
            problem = f"{shortened(node.value)} is not a whole number of at most 20 decimal digits"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return int(node.value)


class _Dumper(yaml.SafeDumper):
    """Puts text in quotation marks that the loader would take for something else; writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_constructor(INT_TAG, _Loader.construct_decimal)
for _kind, _dropped in ((_Loader, (FLOAT_TAG, DATE_TAG, MERGE_TAG, VALUE_TAG)), (_Dumper, (FLOAT_TAG, DATE_TAG))):
    _kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _dropped]
        for first, resolvers in _kind.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver(FLOAT_TAG, FLOAT, list("-+0123456789."))
