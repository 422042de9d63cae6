"""`--help` of a command, from the dataclass of its options and the comments on its lines."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from mldec.commands.options import OutputDirectory, OutputFile, Repeatable
from mldec.field_docs import describe_fields, description

WIDTH = 120
COLUMN = 26  # at which the meaning of an option begins
#: What stands for the value of a text or a path, where that is not obvious from the name of the option.
PLACEHOLDERS = {
    "checkpoint": "FILE",
    "font": "FILE",
    "input": "IMAGES",
    "label_embeddings": "SOURCE",
    "resume": "RUN",
    "run": "RUN",
    "thresholds": "tuned|FILE",
}
ALWAYS = {
    "plugins=[MODULE]": "import components of your own before composing",
    "debug=true": "show tracebacks",
    "--config-dir=DIR": "a directory with experiment/*.yaml and other groups of your own",
    "-m, --multirun": "several values (seed=0,1): one run for each combination, one after another",
}


def command_help(command: str, declared: type) -> str:
    """The text of `mldec COMMAND --help`."""
    fields = own_fields_first(declared)
    meanings, hints = describe_fields(declared), typing.get_type_hints(declared, include_extras=True)
    settings = getattr(declared, "SETTINGS", ())
    needed = [f"{field.name}={placeholder(field.name, hints[field.name])}" for field in fields if is_needed(field)]
    more = ["[group=choice …] [key=value …]"] if "dataset" in settings else []
    usage = f"usage: mldec {' '.join([command, *needed, *(['[option=value …]'] if fields else []), *more])}"
    lines = [*textwrap.wrap(usage, WIDTH, subsequent_indent=" " * 7, break_on_hyphens=False), ""]
    lines += [description(declared), ""]
    for field in fields:
        default = f" (default: {show_value(field.default)})" if shows_default(field) else ""
        label = f"{field.name}={placeholder(field.name, hints[field.name])}"
        lines += _row(label, f"{meanings.get(field.name, '')}{default}")
    always = [name for name in ALWAYS if not name.startswith("-")]
    always += ["--config-dir=DIR"] if "dataset" in settings else []
    always += ["-m, --multirun"] if getattr(declared, "MULTIRUN", False) else []
    for name in always:
        lines += _row(name, ALWAYS[name])
    return "\n".join(lines)


def subcommands_help(command: str, text: str, subcommands: Mapping[str, type]) -> str:
    """The text of `mldec COMMAND --help` for a command that consists of others."""
    lines = [f"usage: mldec {command} NAME [option=value …]", "", inspect.cleandoc(text), ""]
    for name, declared in subcommands.items():
        lines += _row(name, description(declared).partition("\n")[0])
    return "\n".join([*lines, "", f"mldec {command} NAME --help shows its options."])


def own_fields_first(declared: type) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass, its own before those that its bases have, too."""
    inherited = {name for base in declared.__mro__[1:] for name in inspect.get_annotations(base)}
    return sorted(dataclasses.fields(declared), key=lambda field: field.name in inherited)


def is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def shows_default(field: dataclasses.Field[Any]) -> bool:
    return not is_needed(field) and field.default not in (None, (), dataclasses.MISSING) and field.default is not False


def show_value(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(show_value, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def placeholder(name: str, annotation: Any) -> str:
    """What stands for the value of an option: true|false, N, FILE."""
    if annotation == OutputDirectory:
        return "DIR"
    if annotation == OutputFile:
        return "FILE"
    if annotation == Repeatable:
        return PLACEHOLDERS[name]
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return placeholder(name, parts[0])
    if origin in (typing.Union, types.UnionType):
        return "|".join(dict.fromkeys(placeholder(name, part) for part in parts if part is not type(None)))
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin is tuple:
        item = placeholder(name, parts[0])
        return f"{item},…" if item in ("N", "X") or "|" in item else "A,B"
    if annotation in (str, Path) and name in PLACEHOLDERS:
        return PLACEHOLDERS[name]
    return {bool: "true|false", int: "N", float: "X", Path: "PATH"}.get(annotation, name.upper())


def _row(label: str, meaning: str) -> list[str]:
    label = f"  {label}"
    first = label.ljust(COLUMN) if len(label) < COLUMN - 1 else f"{label}  "
    indent = " " * COLUMN
    if len(first) > COLUMN:
        return [label, *textwrap.wrap(meaning, WIDTH, initial_indent=indent, subsequent_indent=indent)]
    return textwrap.wrap(f"{first}{meaning}", WIDTH, subsequent_indent=indent, drop_whitespace=True) or [label]
