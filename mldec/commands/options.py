"""The grammar of the command line, one for all commands: `mldec COMMAND [group=choice] [key=value]`.

A command declares its options as a frozen dataclass: the fields are their names, types and defaults, the comment on the
line of a field is its help. `parse` reads each value according to the type of its field, and `mldec.config` checks it,
as it checks the settings of an experiment.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from mldec.commands import compose
from mldec.commands.compose import Arguments, key_of
from mldec.config import Config, Count, Options, Precision, SomeOrNone, Weights, build_config, build_options
from mldec.errors import ConfigError, DataError, printable, shortened, suggest
from mldec.files import check_output_directory, check_output_file
from mldec.labels import LabelSpace
from mldec.registry import REGISTRIES

#: Types of options beside those of settings. The text describes them in errors and on the reference page.
OutputDirectory = Annotated[Path, "a directory to write into"]
OutputFile = Annotated[Path, "a file to write"]
LabelNames = Annotated[tuple[str, ...], "label names a,b or @FILE"]
LabelStates = Annotated[tuple[str, ...], "LABEL=1 or LABEL=0, several with commas"]
Repeatable = Annotated[tuple[str, ...], "text; may be repeated"]
Split = Literal["train", "val", "test"]

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")  # ASCII digits only
_WHOLE = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Options of every command that runs a trained network."""

    weights: Weights = "best"  # best: those whose metric training reported; ema: their moving average; raw: without it
    device: str | None = None  # auto, cpu, cuda, cuda:N or mps; default: as in training
    batch_size: Count | None = None  # images per batch; default: as in training
    workers: SomeOrNone | None = None  # processes that load images; default: as in training
    precision: Precision | None = None  # default: as in training

    def runtime(self) -> dict[str, Any]:
        """The settings of `runtime` that these options replace."""
        names = {"device": "device", "batch_size": "eval_batch_size", "workers": "workers", "precision": "precision"}
        return {name: value for option, name in names.items() if (value := getattr(self, option)) is not None}


def parse(argv: Sequence[str], declared: type[Options], command: str, **more: Any) -> tuple[Options, Arguments]:
    """Read and check the options that `declared` has fields for; everything else is an override of an experiment.

    Class attributes of `declared` describe a command further: `SETTINGS`, the groups and top-level settings of an
    experiment that it takes (none by default), and `MULTIRUN`, whether -m has a meaning.

    Args:
        more: values of options from Python.

    Raises ConfigError for an unknown option, for one without an effect, for anything but `key=value`, and for a value
    that is empty, given twice differently, or not of the option's type.
    """
    settings = getattr(declared, "SETTINGS", ())
    known = {field.name: field for field in dataclasses.fields(declared)}  # type: ignore[arg-type]
    texts: dict[str, list[str]] = {}
    overrides, flags = [], dict[str, Any]()
    for position, argument in enumerate(argv, start=1):
        name, separator, value = argument.partition("=")
        if "\0" in argument:
            raise ConfigError(f"{shortened(argument)}: contains a zero byte; remove it")
        if argument.startswith("-"):
            flags |= _flag(argument, multirun=getattr(declared, "MULTIRUN", False), composes="dataset" in settings)
        elif not separator and not argument.startswith("~"):
            raise ConfigError(
                f"{shortened(argument)} (argument {position}): expected key=value, as in schedule.epochs=10 or head=gap"
            )
        elif argument.lower() in ("debug=true", "debug=false"):
            continue  # for mldec.commands.main; any other value of debug is a choice of the group
        elif name == "plugins":
            flags["plugins"] = tuple(split_list(value))
        elif name in known:
            _check_text(name, value)
            texts.setdefault(name, []).append(value)
        elif _is_setting(argument, settings):
            overrides.append(argument)
        else:
            advice = _find_nested(name, settings) or suggest(key_of(argument)[:80], {*known, *settings})
            raise ConfigError(f"{shortened(argument)}: no such option of mldec {command}; {advice}")
    hints = typing.get_type_hints(declared, include_extras=True)
    values = {name: _read(name, given, hints[name]) for name, given in texts.items()} | more
    needed = (name for name, field in known.items() if field.default is field.default_factory is dataclasses.MISSING)
    if missing := [f"{name}=…" for name in needed if name not in values]:
        are = "is" if len(missing) == 1 else "are"
        raise ConfigError(f"{' and '.join(missing)} {are} missing; mldec {command} --help shows all options")
    options = build_options(declared, values)
    for name, value in values.items():
        types_of = (hints[name], *typing.get_args(hints[name]))
        for kind, check in ((OutputDirectory, check_output_directory), (OutputFile, check_output_file)):
            if kind in types_of and value is not None:
                check(name, getattr(options, name))
    return options, Arguments(tuple(overrides), **flags)


def compose_config(arguments: Arguments, *, reads_data: bool = True) -> Config:
    """The experiment of a command line, composed and checked, with what its recipe chooses.

    Notes of settings left out, and the choices with their reasons, go to standard error. `reads_data`: whether a recipe
    may read the dataset; without it nothing is chosen.
    """
    compose.load_components(arguments.plugins)
    compose.check_beside_data(arguments)
    notes: list[str] = []
    config = build_config(compose.compose(arguments.overrides, arguments.config_dir, notes))
    for note in notes:
        say(f"note: {note}", error=True)
    if config.recipe is None or not reads_data:
        return config
    from mldec.engine.recipes import apply_recipe

    config, choices = apply_recipe(config, arguments.keys())
    if choices and os.environ.get("RANK", "0") == "0":
        say(f"recipe={config.recipe} chose, for these images and this machine:", error=True)
        for choice in choices:
            say(f"  {choice}", error=True)
    return config


def say(text: str, *, error: bool = False) -> None:
    """Print text of several lines; what a terminal would obey in it is shown as codes."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


def split_list(text: str) -> list[str]:
    """The values of `a,b` or `[a,b]`, without empty ones."""
    return [value.strip() for value in text.strip("[]").split(",") if value.strip()]


def read_label_names(text: str) -> tuple[str, ...]:
    """The names in `a,b c`, or in `@FILE`: one per line, or JSON. Raises DataError for an empty or repeated one."""
    if text.startswith("@"):
        from mldec.models.embedding_files import read_name_list

        try:
            names = read_name_list(Path(text[1:]).expanduser())
        except DataError as error:
            reason = str(error).partition(": ")[2]
            raise DataError(f"labels={shortened(text)}: {reason}") from None
    else:
        names = [name.strip() for name in text.strip("[]").split(",")]
    try:
        return LabelSpace(names).names
    except DataError as error:
        wanted = ",".join(dict.fromkeys(name for name in names if name)) or "red seven,blue one"
        advice = "list each label once, one per line" if text.startswith("@") else f'use labels="{shortened(wanted)}"'
        raise DataError(f"labels={shortened(text)}: {error}; {advice}") from None


def read_label_states(option: str, items: Sequence[str]) -> dict[str, int]:
    """1 (present) or 0 (absent) by label, of items such as `cat=1`. Raises ConfigError for any other item."""
    states: dict[str, int] = {}
    for item in items:
        name, separator, value = (part.strip() for part in item.rpartition("="))
        if not separator or not name or value not in ("0", "1"):
            raise ConfigError(
                f"{option}: found {shortened(item)}, expected LABEL=1 (present) or LABEL=0 (absent), several with "
                f'commas: {option}="cat=1,dog=0"'
            )
        if name in states:
            raise ConfigError(f"{option}: {shortened(name)} is given twice; leave one out")
        states[name] = int(value)
    return states


def value_of(text: str, annotation: Any) -> Any:
    """The plain value of `text` for a field of the given type; `text` itself if it is not of that type."""
    if annotation == LabelNames:
        return read_label_names(text)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return value_of(text, parts[0])
    if origin in (typing.Union, types.UnionType):
        return next((value for part in parts if (value := value_of(text, part)) is not text), text)
    if origin is tuple:
        return [value_of(item, parts[0]) for item in split_list(text)]
    if annotation is type(None):
        return None if text == "null" else text
    if annotation is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if annotation is int:
        return int(text) if _WHOLE.fullmatch(text) else text
    if annotation is float:
        value = float(text) if _NUMBER.fullmatch(text) and len(text) <= 400 else math.inf
        return value if math.isfinite(value) else text
    return text


def _read(name: str, texts: Sequence[str], annotation: Any) -> Any:
    """The value of an option from all texts that were given for it."""
    if annotation == Repeatable:
        return texts
    if other := next((text for text in texts if text != texts[0]), None):
        raise ConfigError(
            f"{name}={shortened(other)}: given twice, before as {name}={shortened(texts[0])}; leave one out"
        )
    value = value_of(texts[0], annotation)
    if isinstance(value, list) and (not value or len(set(value)) < len(value)):
        found = "an item twice" if value else "no item"
        raise ConfigError(f"{name}={shortened(texts[0])}: found {found}; list different values: {name}=a,b")
    return value


def _check_text(name: str, value: str) -> None:
    """Raise ConfigError for a value that is not valid for any option."""
    if not value.strip():
        raise ConfigError(f"{name}=: empty; set a value, or leave it out")
    if value.startswith("~") and os.path.expanduser(value) == value:
        raise ConfigError(f"{name}={shortened(value)}: no such user; use the full path, or ./~…")


def _flag(argument: str, *, multirun: bool, composes: bool) -> dict[str, Any]:
    """What -m and --config-dir set. Raises ConfigError for any other, and where they have no effect."""
    name, separator, value = argument.partition("=")
    if argument in ("-m", "--multirun"):
        if not multirun:
            raise ConfigError(f"{argument}: has no effect here; only mldec train runs several combinations")
        return {"multirun": True}
    if name == "--config-dir" and separator:
        if not composes:
            raise ConfigError(f"{shortened(argument)}: has no effect here; this command composes no experiment")
        if not os.path.isdir(os.path.expanduser(value)):
            raise ConfigError(f"{shortened(argument)}: no such directory")
        return {"config_dir": value}
    known = ("--help", *(("--multirun",) if multirun else ()), *(("--config-dir=DIR",) if composes else ()))
    raise ConfigError(f"{shortened(argument)}: no such option; {suggest(argument[:80], known)}")


def _is_setting(argument: str, settings: Sequence[str]) -> bool:
    """Whether an override sets something that a command takes: one of `settings` (groups, keys), or a key within it."""
    key = key_of(argument)
    if "dataset" in settings and key.startswith("hydra"):
        return True  # composing refuses it and explains why
    return any(key == setting or key.startswith(f"{setting}.") for setting in settings)


def _find_nested(name: str, settings: Sequence[str]) -> str:
    """`did you mean schedule.epochs?` for the last part of the name of a setting; "" if there is none."""
    if "dataset" not in settings:
        return ""
    compose.load_components(())
    names = {group: registry.settings() for group, registry in REGISTRIES.items()}
    for group in ("runtime", "protocol"):
        names[group] = {field.name for field in dataclasses.fields(typing.get_type_hints(Config)[group])}
    found = [f"{group}.{name}" for group in names if group in settings and name in names[group]]
    return f"did you mean {' or '.join(found)}?" if found else ""


#: What an experiment consists of: the SETTINGS of commands that take all of it.
EXPERIMENT = tuple(dict.fromkeys((*compose.CHOICES, *(field.name for field in dataclasses.fields(Config)))))
