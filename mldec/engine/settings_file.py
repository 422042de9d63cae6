"""config.yaml of a run directory: plain values as YAML, written and read literally.

The file may come from anybody. Nothing in it is resolved: `${…}` is text. Anchors and aliases, by which a few lines
stand for millions of values, tags (`!!set`), integers that are not plain decimal, and values within one another beyond
any experiment's depth are refused. Config files that a user names, which may have aliases, are checked before they are
composed: few bytes may stand for much.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mldec.engine.run_directory import runs_within
from mldec.errors import ConfigError, DataError, first_lines, printable, shortened
from mldec.untrusted import read_bytes

MOST_BYTES = 2**20
MOST_VALUES = 100_000  # that the aliases (*name) in a user's own config file may stand for in total
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
    if printable(text) != text:  # with marks of the text direction: as codes
        text = yaml.dump(dict(settings), **form)
    return text


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a config.yaml as nested plain values. Raises ConfigError if it is missing, damaged or unsafe."""
    try:
        loader = _Loader(read_bytes(path, most=MOST_BYTES).decode("utf-8"))
        try:
            settings = loader.get_single_data()
        finally:
            loader.dispose()
    except FileNotFoundError:
        raise ConfigError(f"no {path}: is {path.parent} a run directory?{runs_within(path.parent)}") from None
    except DataError as error:
        raise ConfigError(str(error)) from None
    except (OSError, ValueError, RecursionError, OverflowError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {_reason(error)}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds no settings")
    return settings


def check_config_files(folder: Path, groups: Iterable[str]) -> None:
    """Raise ConfigError for a config file that is not text, too large, or whose aliases stand for too many values.

    Other mistakes are left to whoever reads the file, if it is chosen.
    """
    for path in sorted(path for group in groups for path in (folder / group).rglob("*.yaml")):
        if not path.is_file():
            raise ConfigError(f"{shortened(path)}: is not a regular file; remove it from --config-dir")
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{shortened(path)}: has more than {MOST_BYTES:,} bytes; shorten it")
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except RecursionError:
            raise ConfigError(f"{shortened(path)}: is nested too deeply") from None
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if node is not None and _count(node, {}, set()) > MOST_VALUES:
            raise ConfigError(
                f"{shortened(path)}: its aliases stand for more than {MOST_VALUES:,} values, or for themselves; write "
                "values out"
            )


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem is not None:
        mark = error.problem_mark
        return f"{error.problem}" + (f" (line {mark.line + 1})" if mark is not None else "")
    return first_lines(error)[:300]


def _refusal(problem: str, place: Any) -> yaml.MarkedYAMLError:
    """An error about an event or node of the file."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _count(node: yaml.Node, known: dict[int, int], open_nodes: set[int]) -> int:
    """How many values a node stands for with its aliases written out; far more than MOST_VALUES if it holds itself."""
    if id(node) in open_nodes:
        return MOST_VALUES + 1
    if id(node) not in known:
        open_nodes.add(id(node))
        inner = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else ()
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_count(part, known, open_nodes) for part in parts)
        open_nodes.discard(id(node))
    return known[id(node)]


class _Loader(yaml.SafeLoader):
    """Plain values without anchors or tags; a setting that appears twice is an error."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            raise _refusal("anchors and aliases are not read", event)
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"tags are not read ({shortened(event.tag)}); write the plain value", event)
        self.depth += 1
        if self.depth > DEPTH:
            raise _refusal(f"more than {DEPTH} levels of settings within one another", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise _refusal("a setting appears twice", node)
        return mapping

    def construct_decimal(self, node: Any) -> int:
        if INTEGER.fullmatch(node.value) is None:
            raise _refusal(f"{shortened(node.value)} is not an integer of at most 20 decimal digits", node)
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
