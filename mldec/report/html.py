"""From values to a page: everything that is text is escaped, and nothing on the page may fetch or run anything else."""

from __future__ import annotations

import base64
import hashlib
import math
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import mldec
from mldec.errors import CONTROL

NOTHING = "\u2013"  # what stands where there is no number


def render(template: str, **values: Any) -> str:
    """A page of `templates/`. Strings among `values` are text, whatever they hold; `Markup` is taken as it is."""
    environment = Environment(
        loader=PackageLoader("mldec.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, share=share, count=count)
    style, script = _part("style.css") + _scales(), _part("script.js")
    # Style and script of these very bytes alone: what a label could smuggle in would not run.
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = environment.get_template(template)
    return page.render(
        version=mldec.__version__, style=Markup(style), script=Markup(script), policy=Markup(policy), **values
    )


def shown(value: Any) -> Any:
    """A value as text that any file can hold: control characters and halves of characters as their codes.

    Marks of the text direction stay, which names in Arabic or Hebrew need: the style sheet isolates names.
    """
    if isinstance(value, Markup):
        return value
    plain = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))
    return plain.encode("utf-8", "backslashreplace").decode()


def text(value: Any) -> Markup:
    """`shown`, escaped, for what is put together outside of a template."""
    return escape(shown(value))


def percent(value: float, digits: int = 2) -> str:
    """A number that is in percent already; a dash for nan."""
    return f"{value:.{digits}f}" if math.isfinite(value) else NOTHING


def share(value: float, digits: int = 1) -> str:
    """A share of 0..1 in percent, without the sign."""
    return percent(100 * value, digits)


def count(value: int) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}"


def figure(value: float) -> str:
    """A number of any size in a few digits."""
    return f"{value:.4g}" if math.isfinite(value) else NOTHING


def _scales() -> str:
    """Widths of bars and shades of a heat map as classes: the page's policy allows no style attributes."""
    widths = "".join(f".b{share}{{width:{share}%}}" for share in range(101))
    # At most 36 %, so that text on it stays readable.
    shades = (f".h{i}{{background:color-mix(in srgb,var(--accent) {4 * i}%,transparent)}}" for i in range(1, 10))
    return f"\n{widths}\n{''.join(shades)}"


def _part(name: str) -> str:
    return resources.files("mldec.report").joinpath("templates", name).read_text(encoding="utf-8").strip()


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
