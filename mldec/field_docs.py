"""The documentation of a dataclass of settings or options, as its source code holds it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
import typing


def description(cls: type) -> str:
    """The docstring of a class up to its list of attributes."""
    return inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[0].strip()


def describe_fields(cls: type) -> dict[str, str]:
    """The meaning of each field: the comment on its line, or a line under "Attributes:" in the docstring of its class.

    The description of a field by a class replaces that by its bases.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _comments(base) | _attributes(base)
    return found


def _comments(cls: type) -> dict[str, str]:
    """The comments on the lines of each field."""
    source = textwrap.dedent(inspect.getsource(cls))
    on_line = {
        token.start[0]: token.string.lstrip("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in typing.cast(ast.ClassDef, ast.parse(source).body[0]).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            text = " ".join(on_line[line] for line in lines if line in on_line and "type: ignore" not in on_line[line])
            if text:
                found[node.target.id] = text
    return found


def _attributes(cls: type) -> dict[str, str]:
    """The descriptions under "Attributes:" in the docstring; `a, b: text` describes both."""
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        head = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
        if head:
            names = head[1].split(", ")
            found |= dict.fromkeys(names, head[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
