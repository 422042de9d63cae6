"""Values of a door's own words, from what was typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mldec.errors import ConfigError


def one_of(own: Mapping[str, str], name: str, allowed: Sequence[str], default: str) -> str:
    """One of the `allowed` values. Raises ConfigError for any other."""
    value = own.get(name, default)
    if value not in allowed:
        raise ConfigError(f"{name}={value}: expected one of {', '.join(allowed)}")
    return value


def switch(own: Mapping[str, str], name: str, default: bool = False) -> bool:
    """true or false, in letters of any case. Raises ConfigError for anything else."""
    text = own.get(name, str(default)).lower()
    if text not in ("true", "false"):
        raise ConfigError(f"{name}={own[name]}: expected true or false")
    return text == "true"


def count(own: Mapping[str, str], name: str) -> int | None:
    """A whole number of at least 1; None where none was typed. Raises ConfigError for anything else."""
    text = own.get(name)
    if text is None or text == "null":
        return None
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{name}={text}: expected a whole number of at least 1")
    return int(text)


def share(own: Mapping[str, str], name: str, default: float) -> float:
    """A number from 0 to 1. Raises ConfigError for anything else."""
    try:
        value = float(own.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}={own[name]}: expected a number from 0 to 1")
    return value
