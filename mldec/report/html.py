"""Renders pages: all text is escaped, and a page cannot load or run anything that is not part of it."""

from __future__ import annotations

import base64
import datetime
import hashlib
import math
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import mldec
from mldec.errors import CONTROL
from mldec.report.run import number

NOTHING = "\u2013"  # shown where there is no number


def render(template: str, **values: Any) -> str:
    """A page of `templates/`. Strings among `values` are escaped; `Markup` is inserted as it is."""
    style, script = _part("style.css") + _scales(), _part("script.js")
    # Only style and script with these hashes are allowed: injected ones would not run.
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"style": Markup(style), "script": Markup(script), "policy": Markup(policy)}
    return str(fragment(template, version=mldec.__version__, **parts, **values))


def fragment(template: str, **values: Any) -> Markup:
    """A part of a page, such as a chart, in the same way."""
    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mldec.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, share=share, count=count, duration=duration, gib=gib)
    return environment


def shown(value: Any) -> Any:
    """A value as text that can be written to any file: control characters and lone surrogates are escaped.

    Marks of the text direction are kept for names in Arabic or Hebrew; the style sheet isolates names.
    """
    if isinstance(value, Markup):
        return value
    plain = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))
    return plain.encode("utf-8", "backslashreplace").decode()


def percent(value: float, digits: int = 2) -> str:
    """A number in percent; a dash for nan."""
    return f"{value:.{digits}f}" if math.isfinite(value) else NOTHING


def share(value: float, digits: int = 1) -> str:
    """A share of 0..1 in percent, without the percent sign."""
    return percent(100 * value, digits)


def count(value: Any) -> str:
    """An integer with thousands separators; a dash for anything else."""
    return f"{value:,}" if isinstance(value, int) else NOTHING


def duration(value: Any) -> str:
    """Seconds as hours, minutes and seconds; a dash for anything but a finite number."""
    seconds = number(value)
    return f"{datetime.timedelta(seconds=int(seconds))} h" if 0 <= seconds < 1e9 else NOTHING


def gib(value: Any) -> str:
    """Bytes in GiB; a dash for anything but a finite number."""
    size = number(value) / 2**30
    return f"{size:.2f} GiB" if math.isfinite(size) else NOTHING


def figure(value: float) -> str:
    """A number of any size in a few digits."""
    return f"{value:.4g}" if math.isfinite(value) else NOTHING


def _scales() -> str:
    """Widths of bars and shades of the heat map as classes: the page's policy forbids style attributes."""
    widths = "".join(f".b{share}{{width:{share}%}}" for share in range(101))
    # At most 36 %, so that text on it stays readable.
    shades = (f".h{i}{{background:color-mix(in srgb,var(--accent) {4 * i}%,transparent)}}" for i in range(1, 10))
    return f"\n{widths}\n{''.join(shades)}"


def _part(name: str) -> str:
    return resources.files("mldec.report").joinpath("templates", name).read_text(encoding="utf-8").strip()


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
