"""From what was typed to a plain experiment: the only room that knows Hydra.

Hydra composes YAML; it never instantiates, launches, changes folders or logs here. Values are taken as typed, also
under keys that no YAML file mentions: the dataclasses of the components know which keys exist, and say so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import itertools
import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mldec
from mldec.commands.yaml_bounds import check_config_files
from mldec.config import from_stored
from mldec.engine import settings_file
from mldec.errors import ConfigError, shortened, suggest
from mldec.registry import REGISTRIES

GROUPS = (*REGISTRIES, "runtime", "protocol")
CHOICES = (*GROUPS, "experiment", "debug")
EMBEDDINGS_SOURCE = "head.label_embeddings.source"
_LONG_NUMBER = "set_int_max_str_digits"  # in Python's error for an integer of more than 4,300 digits
_RANGE = f"whole numbers from {-(2**63):,} to {2**63 - 1:,} are allowed; type a smaller one"


@dataclass(frozen=True)
class Arguments:
    """A parsed command line."""

    overrides: tuple[str, ...]  # Hydra's grammar: group=choice, key=value
    own: dict[str, str] = field(default_factory=dict)  # words of the command itself, e.g. run=…
    plugins: tuple[str, ...] = ()
    config_dir: str | None = None
    multirun: bool = False
    help: bool = False


def parse(
    argv: Sequence[str],
    own: Sequence[str] = (),
    flags: Sequence[str] = (),
    *,
    repeatable: Sequence[str] = (),
    multirun: bool = False,
    config_dir: bool = True,
) -> Arguments:
    """Sort a command line into overrides and the command's `own` words (`word=value`).

    A flag such as --fix is an own word that is "true".

    Args:
        repeatable: own words that may be typed several times; the command reads them from `argv` itself.
        multirun: whether -m means something to the command.
        config_dir: whether --config-dir means something to the command.

    Raises ConfigError for an option that does not exist or has no effect, for a word that is no `key=value`, and for
    an own word that is empty or typed twice with different values.
    """
    overrides, words = [], {}
    plugins: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    for position, argument in enumerate(argv):
        name, separator, value = argument.partition("=")
        if "\0" in argument:
            raise ConfigError(f"{shortened(argument)}: holds a zero byte, which no name or value may")
        if argument in ("-h", "--help"):
            options["help"] = True
        elif argument in ("-m", "--multirun"):
            if not multirun:
                raise ConfigError(f"{argument}: has no effect here; only mldec train runs several combinations")
            options["multirun"] = True
        elif name == "--config-dir" and separator:
            if not config_dir:
                raise ConfigError(f"{shortened(argument)}: has no effect here; this command composes no experiment")
            if not os.path.isdir(os.path.expanduser(value)):
                raise ConfigError(f"{shortened(argument)}: no such folder")
            options["config_dir"] = value
        elif argument in flags:
            words[argument.lstrip("-")] = "true"
        elif argument.startswith("-"):
            known = ("--help", *(("--multirun",) if multirun else ()), "--config-dir=DIR", *flags)
            raise ConfigError(f"{shortened(argument)}: no such option; {suggest(argument[:80], known)}")
        elif not separator and not argument.startswith("~"):
            raise ConfigError(
                f"{shortened(argument)} (word {position + 1}): expected key=value, as in schedule.epochs=10 or head=gap"
            )
        elif _debug_switch(argument) is not None:
            continue  # for `wants_traceback`; any other value of debug is a choice of the group
        elif name == "plugins":
            plugins = tuple(module.strip() for module in value.strip("[]").split(",") if module.strip())
        elif name in own:
            _check_own(name, value, None if name in repeatable else words.get(name))
            words[name] = value
        else:
            overrides.append(argument)
    return Arguments(tuple(overrides), words, plugins, **options)


def _check_own(name: str, value: str, earlier: str | None) -> None:
    """Raise ConfigError for a value that cannot be meant."""
    if not value.strip():
        raise ConfigError(f"{name}=: empty; type a value, or leave it out")
    if earlier is not None and earlier != value:
        raise ConfigError(
            f"{name}={shortened(value)}: typed twice, before as {name}={shortened(earlier)}; leave one out"
        )
    if value.startswith("~") and os.path.expanduser(value) == value:
        raise ConfigError(f"{name}={shortened(value)}: there is no user of that name; type the path in full, or ./~…")


def wants_traceback(argv: Sequence[str]) -> bool:
    """Whether a command line has `debug=true`."""
    return any(_debug_switch(argument) for argument in argv)


def load_components(plugins: Sequence[str]) -> None:
    """Fill the registries: our own components, then the modules that the user named.

    Raises ConfigError if a module is not there, or if importing it fails, however it fails.
    """
    importlib.import_module("mldec.engine.build")
    if plugins and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # python train.py finds modules beside it; the mldec script should too
    for module in plugins:
        if not all(module.split(".")):  # relative, or with two dots
            raise ConfigError(f"plugins={shortened(module)}: no name of a module; type it as in import: my_module")
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"plugins={module}: {error}; is it on PYTHONPATH or in the folder you stand in?"
            ) from None
        except (Exception, SystemExit) as error:  # code of the user's own, which may raise anything
            raise ConfigError(
                f"plugins={module}: importing it raised {type(error).__name__}: {_first_line(error)}{_where(error)}; "
                "debug=true shows the traceback"
            ) from error


def compose(overrides: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """The experiment that `configs/train.yaml` and `overrides` compose, as nested plain values.

    Raises ConfigError for choices that do not exist, overrides that cannot be read, and files that try to set what
    only the command line may.
    """
    folders = _folders(config_dir)
    words = [word for override in overrides for word in _for_hydra(override, folders)]
    if config_dir:
        check_config_files(folders[1], CHOICES)
        words.append(f"hydra.searchpath=[file://{folders[1]}]")
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with _hydra(folders[0]):
            from hydra import compose as hydra_compose

            composed = hydra_compose("train", overrides=words, return_hydra_config=True)
        _refuse_hydra_settings(composed.hydra)
        experiment = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        mapping: dict[str, Any] = OmegaConf.to_container(experiment, resolve=True)  # type: ignore[assignment]
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_readable(error)) from error
    except Exception as error:  # the YAML of a folder of the user's own: binary, endless, of a wrong shape
        raise _unreadable(error, config_dir) from error
    for forbidden in ("plugins", "resume"):
        if forbidden in mapping:
            raise ConfigError(f"{forbidden} may be set on the command line only, not in a config file")
    if mapping.get("dataset") is None:
        raise ConfigError(
            "no dataset chosen; type experiment=… or dataset=…\n"
            f"  experiments: {', '.join(choices('experiment', folders))}\n"
            f"  datasets: {', '.join(choices('dataset', folders))}"
        )
    return _without_leftovers(mapping, overrides)


def change(stored: dict[str, Any], overrides: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """A stored experiment with overrides applied: `group=choice` replaces a group whole, `key=value` sets one value.

    `${…}` is resolved in what was typed; what is stored is literal.

    Another source of words leaves the stored names of its rows behind, unless names are typed too.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    literal = _Literal()
    mapping = OmegaConf.create(literal.hide(stored))
    folders = _folders(config_dir)
    group_choices = [word for word in overrides if key_of(word) in GROUPS and not _value(word).startswith("{")]
    if group_choices:
        needed = (
            []
            if any(key_of(word) == "dataset" for word in group_choices)
            else [f"dataset={choices('dataset', folders)[0]}"]
        )
        composed = compose([*group_choices, *needed], config_dir)
        for word in group_choices:
            mapping[key_of(word)] = literal.hide(composed[key_of(word)])
    words = OmegaConf.select(mapping, "head.label_embeddings")
    if any(
        key_of(word) == EMBEDDINGS_SOURCE and _parsed(word).value() != literal.show(words.get("source"))
        for word in overrides
        if words
    ):
        words.names = None  # those of another file
    try:
        for override in overrides:
            if override in group_choices:
                continue
            if key_of(override) in CHOICES:
                raise ConfigError(
                    f"{override} composes a whole new experiment; a stored one takes group=choice and key=value"
                )
            parsed = _parsed(override)
            OmegaConf.update(mapping, parsed.key_or_group, parsed.value(), merge=False, force_add=True)
        changed: dict[str, Any] = literal.show(OmegaConf.to_container(mapping, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(_readable(error)) from error
    return changed


def expand_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """All combinations of overrides with several values: `head=gap,ml_decoder seed=0,1,2` gives six lists."""
    axes = []
    for override in overrides:
        parsed = _parsed(override)
        if parsed.is_sweep_override():
            if not parsed.is_discrete_sweep():
                raise ConfigError(f"{override}: an interval has no list of values; use a,b,c or range(start,stop,step)")
            axes.append([f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()])
        else:
            axes.append([override])
    return [list(combination) for combination in itertools.product(*axes)]


def to_yaml(mapping: dict[str, Any]) -> str:
    """A plain experiment as YAML text."""
    return settings_file.write_settings(mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """A plain experiment from a run folder's config.yaml, taken literally.

    Raises ConfigError if it is not there, not YAML, or stands for more than it holds.
    """
    return from_stored(settings_file.read_settings(path))


def config_folder() -> Path:
    """The configs that ship with mldec: inside the installed package, or beside it in a source tree."""
    package = Path(mldec.__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def choices(group: str, folders: Sequence[Path] | None = None) -> list[str]:
    """All names that `group=` takes, sorted; those of subfolders as `folder/name`."""
    found = set()
    for folder in folders or [config_folder()]:
        base = folder / group
        found |= {path.relative_to(base).with_suffix("").as_posix() for path in base.rglob("*.yaml")}
    return sorted(found)


def _folders(config_dir: str | None) -> list[Path]:
    """Where choices are looked for: our own configs, then the user's."""
    return [config_folder(), *([Path(config_dir).expanduser().resolve()] if config_dir else [])]


def _debug_switch(argument: str) -> bool | None:
    """The value of `debug=true` or `debug=false`; None for any other word."""
    return {"debug=true": True, "debug=false": False}.get(argument.lower())


class _Literal:
    """Keeps stored text from being taken for an interpolation: OmegaConf sees a random word in its place."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}

    def hide(self, value: Any) -> Any:
        """Nested plain values in which text that OmegaConf gives a meaning is a word without one."""
        if isinstance(value, dict):
            return {key: self.hide(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        if isinstance(value, str) and ("$" in value or value == "???"):
            word = f"literal-{secrets.token_hex(16)}"
            self._words[word] = value
            return word
        return value

    def show(self, value: Any) -> Any:
        """The same values with the text itself, also where a typed value refers to it."""
        if isinstance(value, dict):
            return {key: self.show(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.show(item) for item in value]
        if isinstance(value, str) and "literal-" in value:
            for word, text in self._words.items():
                value = value.replace(word, text)
        return value


# How overrides reach Hydra --------------------------------------------------------------------------------------------


def _for_hydra(override: str, folders: Sequence[Path]) -> list[str]:
    """An override as Hydra takes it: keys may be new (`++`), choices must exist, a timm model is a backbone."""
    key, value = key_of(override), _value(override)
    if key.startswith("hydra"):
        raise ConfigError(
            f"{override}: mldec composes with Hydra but does not run under it; use run_dir=…, output=… or -m instead"
        )
    if override.startswith(("~", "+")):
        raise ConfigError(f"{override}: no '+' or '~' is needed; every setting exists already and key=null clears one")
    parsed = _parsed(override)
    if parsed.is_sweep_override():
        raise ConfigError(
            f"{override}: several values need -m (one run each), or quotes and brackets for a list: '{key}=[…]'"
        )
    if key not in CHOICES or value.startswith("{"):
        return [f"++{override}"]
    known = choices(key, folders)
    if value in known:
        return [override]
    if value == "null" and key in ("dataset", "experiment", "debug"):
        return []  # which is what they are when nothing is said
    if key == "backbone" and _is_timm_model(value):
        return ["backbone=timm", f"++backbone.model={value}"]
    raise ConfigError(
        f"{override}: no such {key}; {suggest(value, known)}{_timm_hint(value) if key == 'backbone' else ''}"
    )


def _without_leftovers(mapping: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Leave out what files say of a component that was replaced, and say so.

    `experiment=digits head=gap` would otherwise fail on the widths that the experiment gives its decoder. What the new
    component has too is kept, so that heads are compared at equal widths; what no component of the group has, or what
    was typed, is a mistake that stays for `build_config` to find.
    """
    typed = {key_of(override) for override in overrides}
    for group, registry in REGISTRIES.items():
        node = mapping.get(group)
        if not isinstance(node, dict) or node.get("name") not in registry:
            continue
        own = {field.name for field in dataclasses.fields(registry[node["name"]].config_class)}
        leftovers = [key for key in node if key in registry.settings() - own and f"{group}.{key}" not in typed]
        for key in leftovers:
            value = node.pop(key)
            print(f"note: {group}={node['name']} has no {key}; left out {group}.{key}={value}", file=sys.stderr)
    return mapping


def _timm_hint(name: str) -> str:
    import timm

    near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.6)
    return f" or any timm model: did you mean {', '.join(near)}?" if near else " or any timm model by name"


def _is_timm_model(name: str) -> bool:
    if not re.fullmatch(r"[\w.-]+", name):
        return False
    import timm

    return bool(timm.is_model(name))


def _refuse_hydra_settings(hydra: Any) -> None:
    """An experiment file may choose values, not code: no callbacks, no launchers, no sweepers of its own."""
    launcher, sweeper = hydra.launcher.get("_target_", ""), hydra.sweeper.get("_target_", "")
    own = "hydra._internal."
    if hydra.callbacks or not launcher.startswith(own) or not sweeper.startswith(own):
        raise ConfigError(
            "a config file sets Hydra callbacks, a launcher or a sweeper; mldec runs none of them: remove it"
        )


@contextlib.contextmanager
def _hydra(folder: Path) -> Iterator[None]:
    from hydra import initialize_config_dir

    with initialize_config_dir(config_dir=str(folder), version_base="1.3", job_name="mldec"):
        yield


def _parsed(override: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except (HydraException, ValueError, RecursionError) as error:
        if _LONG_NUMBER in str(error):
            raise ConfigError(_too_long(override)) from None
        raise ConfigError(
            f"{shortened(override)}: cannot be read as key=value ({shortened(_readable(error), 400)}); quote values "
            f"with spaces or special signs: {shortened(key_of(override))}=\"'…'\""
        ) from None


def _too_long(override: str) -> str:
    digits = sum(map(str.isdigit, _value(override)))
    return f"{shortened(override, 100)}: a whole number of {digits:,} digits; {_RANGE}"


def key_of(override: str) -> str:
    """The key of an override: `dataset.root` of `+dataset.root=/data`."""
    return override.lstrip("+~").partition("=")[0]


def _unreadable(error: Exception, config_dir: str | None) -> ConfigError:
    """What to say of configs that Hydra or YAML stumble over."""
    where = "the experiment cannot be composed" if config_dir is None else f"--config-dir={config_dir}: cannot be read"
    if isinstance(error, RecursionError):
        return ConfigError(f"{where}: a config file includes or refers to itself, or is nested too deeply")
    return ConfigError(f"{where}: {type(error).__name__}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return shortened(next(iter(str(error).splitlines()), "") or "no message", 200)


def _where(error: BaseException) -> str:
    """The file and line that raised `error`."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return "" if last is None else f" ({last.tb_frame.f_code.co_filename}:{last.tb_lineno})"


def _value(override: str) -> str:
    return override.partition("=")[2]


def _readable(error: Exception) -> str:
    """The lines of a Hydra message that speak of the user's input."""
    if _LONG_NUMBER in str(error):
        return f"a whole number has too many digits; {_RANGE}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(
        line for line in lines if not line.startswith(("See https://", "full_key:", "object_type="))
    ) or repr(error)
