"""From overrides to a plain experiment: the only module that knows Hydra.

Hydra composes YAML; it never instantiates, launches, changes directories or logs here. An override may have a key that
no YAML file mentions: the dataclasses of the components know which keys exist, and their check reports the others.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import itertools
import os
import re
import secrets
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mldec
from mldec.commands.own_dataset import find_own, literal_path, no_such_dataset, own_path, show_summary
from mldec.config import build_config, from_stored
from mldec.engine import settings_file
from mldec.errors import ConfigError, as_override, first_lines, shortened, suggest
from mldec.registry import REGISTRIES

GROUPS = (*REGISTRIES, "runtime", "protocol")
CHOICES = (*GROUPS, "experiment", "debug")
EMBEDDINGS_SOURCE = "head.label_embeddings.source"
_LONG_NUMBER = "set_int_max_str_digits"  # in Python's error for an integer of more than 4,300 digits
_RANGE = f"integers from {-(2**63):,} to {2**63 - 1:,} are allowed; use a smaller one"


@dataclass(frozen=True)
class Arguments:
    """What a command line holds beside the command's own options."""

    overrides: tuple[str, ...] = ()  # Hydra's grammar: group=choice, key=value
    plugins: tuple[str, ...] = ()
    config_dir: str | None = None
    multirun: bool = False

    def keys(self) -> set[str]:
        """The keys of the overrides."""
        return set(map(key_of, self.overrides))

    @property
    def choose_data(self) -> bool:
        """Whether an experiment or a dataset is among the overrides."""
        return bool(self.keys() & {"experiment", "dataset"})


def load_components(plugins: Sequence[str]) -> None:
    """Fill the registries: our own components, then the modules that the user named.

    Raises ConfigError if a module is not there, or if importing it fails, however it fails.
    """
    importlib.import_module("mldec.engine.build")
    if plugins and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # python train.py finds modules beside it; the mldec script should too
    for module in plugins:
        if not all(module.split(".")):  # relative, or with two dots
            raise ConfigError(f"plugins={shortened(module)}: not a module name; write it as in import: my_module")
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(f"plugins={module}: {error}; is it on PYTHONPATH or in the current directory?") from None
        except (Exception, SystemExit) as error:  # the user's own code, which may raise anything
            reason = f"{type(error).__name__}: {shortened(first_lines(error), 200)}{_where(error)}"
            what = f"plugins={module}: importing it raised {reason}"
            raise ConfigError(f"{what}; debug=true shows the traceback") from error


def compose(
    overrides: Sequence[str],
    config_dir: str | None = None,
    notes: list[str] | None = None,
    *,
    divides: bool = True,
    lists: bool = False,
) -> dict[str, Any]:
    """The experiment that `configs/train.yaml` and `overrides` compose, as nested plain values.

    `divides`: whether `dataset=PATH` without splits gets some. `lists`: whether its images need not exist.

    A sentence for each setting that was left out, since the component it belongs to was replaced, is added to `notes`.

    Raises ConfigError for choices that do not exist, overrides that cannot be read, and files that try to set what
    only the command line may.
    """
    folders = _folders(config_dir)
    overrides, own = find_own(overrides, choices("dataset", folders), divides=divides, lists=lists)
    for_hydra = [item for override in overrides for item in _for_hydra(override, folders)]
    if config_dir:
        settings_file.check_config_files(folders[1], CHOICES)
        for_hydra.append(f"hydra.searchpath=[file://{folders[1]}]")
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(config_dir=str(folders[0]), version_base="1.3", job_name="mldec"):
            composed = hydra_compose("train", overrides=for_hydra, return_hydra_config=True)
        _refuse_hydra_settings(composed.hydra)
        experiment = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        mapping: dict[str, Any] = OmegaConf.to_container(experiment, resolve=True)  # type: ignore[assignment]
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_readable(error)) from error
    except Exception as error:  # YAML of the user's own: binary, endless, of a wrong shape
        raise _unreadable(error, config_dir) from error
    for forbidden in ("plugins", "resume"):
        if forbidden in mapping:
            raise ConfigError(f"{forbidden} may be set on the command line only, not in a config file")
    if "name" not in (mapping.get("dataset") or {}):
        raise ConfigError(
            "no dataset chosen; add dataset=PATH, a folder or a table of your images, or one of\n"
            f"  datasets: {', '.join(choices('dataset', folders))}\n"
            f"  experiments, most of which have one: {', '.join(choices('experiment', folders))}"
        )
    mapping = _without_leftovers(mapping, overrides, notes if notes is not None else [])
    show_summary(own, mapping)
    return mapping


def change(
    stored: dict[str, Any], overrides: Sequence[str], config_dir: str | None = None, *, measures: bool = False
) -> dict[str, Any]:
    """A stored experiment with overrides applied: `group=choice` replaces a group whole, `key=value` sets one value.

    `${…}` is resolved in overrides; what is stored is literal. Another source of label embeddings drops the stored
    names of its rows, unless an override sets them too. `measures`: nothing is trained on another dataset, which
    therefore is not divided.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    literal = _Literal()
    mapping = OmegaConf.create(literal.hide(stored))
    folders = _folders(config_dir)
    trained_on = stored.get("dataset") if measures else None
    overrides, own = find_own(overrides, choices("dataset", folders), trained_on)
    group_choices = [item for item in overrides if key_of(item) in GROUPS and not _value(item).startswith("{")]
    if group_choices:
        chosen = {key_of(choice) for choice in group_choices}
        needed = [] if "dataset" in chosen else [f"dataset={choices('dataset', folders)[0]}"]
        composed = compose([*group_choices, *needed], config_dir)
        for group in chosen:
            mapping[group] = literal.hide(composed[group])
    embeddings = OmegaConf.select(mapping, "head.label_embeddings")
    sources = [_parsed(override).value() for override in overrides if key_of(override) == EMBEDDINGS_SOURCE]
    if embeddings and any(source != literal.show(embeddings.get("source")) for source in sources):
        embeddings.names = None  # those of another file
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
    show_summary(own, changed)
    return changed


def path_of_dataset(arguments: Arguments) -> str | None:
    """The file or folder that `dataset=PATH` names; None where it names a choice, or is not there."""
    return own_path(arguments.overrides, choices("dataset", _folders(arguments.config_dir)))


def check_beside_data(arguments: Arguments) -> None:
    """Raise ConfigError for what is wrong with settings beside `dataset=PATH`, before any of its files is read."""
    path = path_of_dataset(arguments)
    others = [text for text in arguments.overrides if key_of(text).partition(".")[0] != "dataset"]
    if path is not None and others:
        stand_in = ["dataset=folder", as_override("dataset.root", path)]
        build_config(compose([*others, *stand_in], arguments.config_dir))


def value_of(override: str) -> Any:
    """The plain value of a single override, `${…}` resolved. Raises ConfigError for what cannot be read."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.select(OmegaConf.create({"value": _parsed(override).value()}), "value")
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_readable(error)) from error


def expand_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """All combinations of overrides with several values: `head=gap,ml_decoder seed=0,1,2` gives six lists."""
    axes = []
    for override in overrides:
        parsed = _parsed(override := literal_path(override))
        if not parsed.is_sweep_override():
            axes.append([override])
        elif parsed.is_discrete_sweep():
            axes.append([f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()])
        else:
            raise ConfigError(f"{override}: an interval has no list of values; use a,b,c or range(start,stop,step)")
    return [list(combination) for combination in itertools.product(*axes)]


def to_yaml(mapping: dict[str, Any]) -> str:
    """A plain experiment as YAML text."""
    return settings_file.write_settings(mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """A plain experiment from a run directory's config.yaml, taken literally.

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
    bases = [folder / group for folder in folders or [config_folder()]]
    return sorted({path.relative_to(b).with_suffix("").as_posix() for b in bases for path in b.rglob("*.yaml")})


def _folders(config_dir: str | None) -> list[Path]:
    """Where choices are looked for: our own configs, then the user's."""
    return [config_folder(), *([Path(config_dir).expanduser().resolve()] if config_dir else [])]


class _Literal:
    """Keeps stored text from being taken for an interpolation: OmegaConf sees a random token in its place."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def hide(self, value: Any) -> Any:
        """Nested plain values in which a token replaces text that OmegaConf gives a meaning."""
        return _with_texts(value, self._hide)

    def show(self, value: Any) -> Any:
        """The same values with the text itself, also where an override refers to it."""
        return _with_texts(value, self._show)

    def _hide(self, text: str) -> str:
        if "$" not in text and text != "???":
            return text
        token = f"literal-{secrets.token_hex(16)}"
        self._texts[token] = text
        return token

    def _show(self, text: str) -> str:
        for token, original in self._texts.items():
            text = text.replace(token, original)
        return text


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Nested plain values with each text as `change` gives it."""
    if isinstance(value, dict):
        return {key: _with_texts(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


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
    try:
        parsed = _parsed(override)
    except ConfigError:
        if key == "dataset":
            raise no_such_dataset(value, choices(key, folders)) from None
        raise
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
        return []  # their default
    if key == "backbone" and _is_timm_model(value):
        return ["backbone=timm", f"++backbone.model={value}"]
    if key == "dataset":
        raise no_such_dataset(value, known)
    raise ConfigError(
        f"{override}: no such {key}; {suggest(value, known)}{_timm_hint(value) if key == 'backbone' else ''}"
    )


def _without_leftovers(mapping: dict[str, Any], overrides: Sequence[str], notes: list[str]) -> dict[str, Any]:
    """Leave out what files set for a component that was replaced, with a note.

    `experiment=digits head=gap` would otherwise fail on the widths that the experiment gives its decoder. What the new
    component has too is kept, so that heads are compared at equal widths; what no component of the group has, or what
    an override sets, is a mistake that stays for `build_config` to find.
    """
    given = {key_of(override) for override in overrides}
    for group, registry in REGISTRIES.items():
        node = mapping.get(group)
        if not isinstance(node, dict) or node.get("name") not in registry:
            continue
        own = {field.name for field in dataclasses.fields(registry[node["name"]].config_class)}
        leftovers = [key for key in node if key in registry.settings() - own and f"{group}.{key}" not in given]
        for key in leftovers:
            value = node.pop(key)
            notes.append(f"{group}={node['name']} has no {key}; left out {group}.{key}={value}")
    return mapping


def _timm_hint(name: str) -> str:
    import timm

    near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.6)
    return f" or any timm model: did you mean {', '.join(near)}?" if near else " or any timm model by name"


def _is_timm_model(name: str) -> bool:
    import timm

    return bool(re.fullmatch(r"[\w.-]+", name) and timm.is_model(name))


def _refuse_hydra_settings(hydra: Any) -> None:
    """An experiment file may choose values, not code: no callbacks, no launchers, no sweepers of its own."""
    launcher, sweeper = hydra.launcher.get("_target_", ""), hydra.sweeper.get("_target_", "")
    own = "hydra._internal."
    if hydra.callbacks or not launcher.startswith(own) or not sweeper.startswith(own):
        raise ConfigError(
            "a config file sets Hydra callbacks, a launcher or a sweeper; mldec runs none of them: remove it"
        )


def _parsed(override: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except (HydraException, ValueError, RecursionError) as error:
        if _LONG_NUMBER in str(error):
            digits = sum(map(str.isdigit, _value(override)))
            raise ConfigError(f"{shortened(override, 100)}: an integer of {digits:,} digits; {_RANGE}") from None
        raise ConfigError(
            f"{shortened(override)}: cannot be read as key=value ({shortened(_readable(error), 400)}); quote values "
            f"with spaces or special signs: {shortened(key_of(override))}=\"'…'\""
        ) from None


def key_of(override: str) -> str:
    """The key of an override: `dataset.root` of `+dataset.root=/data`."""
    return override.lstrip("+~").partition("=")[0]


def _unreadable(error: Exception, config_dir: str | None) -> ConfigError:
    """The error for configs that Hydra or YAML cannot read."""
    where = "the experiment cannot be composed" if config_dir is None else f"--config-dir={config_dir}: cannot be read"
    if isinstance(error, RecursionError):
        return ConfigError(f"{where}: a config file includes or refers to itself, or is nested too deeply")
    return ConfigError(f"{where}: {type(error).__name__}: {shortened(first_lines(error), 200)}")


def _where(error: BaseException) -> str:
    """The file and line that raised `error`."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _value(override: str) -> str:
    return override.partition("=")[2]


def _readable(error: Exception) -> str:
    """The lines of a Hydra message about the user's input."""
    if _LONG_NUMBER in str(error):
        return f"an integer has too many digits; {_RANGE}"
    about_hydra = ("See https://", "full_key:", "object_type=")
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line and not line.startswith(about_hydra)) or repr(error)
