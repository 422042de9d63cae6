"""Bounds of YAML files that a user names, checked before they are composed: few bytes may stand for much."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from mldec.engine.settings_file import MOST_BYTES
from mldec.errors import ConfigError, shortened

MOST_VALUES = 100_000  # that its aliases (*name) may stand for in total


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
