"""Changing one value within nested ones."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any


def put(content: MutableMapping[str, Any], path: Sequence[str], value: Any) -> None:
    """Set the value at `path`; ... takes it out."""
    *parents, last = path
    place = content
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
