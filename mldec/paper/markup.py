"""Text escaped for Markdown and LaTeX, and the templates that it is put into."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from string import Template

_MARKDOWN = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    "](": r"]\(",
    **{sign: "\\" + sign for sign in ("\\", "|", "*", "_", "`", "$")},
}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "†": r"\textdagger{}",
    "§": r"\S{}",
    "…": r"\ldots{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}
_CODE = re.compile(r"`([^`]+)`")


def markdown_text(text: str) -> str:
    """Text on one line, escaped for Markdown, HTML and Markdown tables; `spans of code` stay code."""
    return _outside_code(text, _MARKDOWN, lambda code: "`" + code.replace("|", r"\|") + "`")


def latex_text(text: str) -> str:
    """Text on one line, escaped for LaTeX; `spans of code` become typewriter."""
    return _outside_code(text, _LATEX, lambda code: rf"\texttt{{{_replace(code, _LATEX)}}}")


def fill_template(template: str, /, **values: object) -> str:
    """A file of `templates/` with values in place of `$name`."""
    text = resources.files("mldec.paper").joinpath("templates", template).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def _outside_code(text: str, signs: dict[str, str], code: Callable[[str], str]) -> str:
    parts = _CODE.split(" ".join(text.split()))  # text and code alternate
    return "".join(code(part) if place % 2 else _replace(part, signs) for place, part in enumerate(parts))


def _replace(text: str, signs: dict[str, str]) -> str:
    return re.sub("|".join(map(re.escape, signs)), lambda match: signs[match[0]], text)
