"""What an experiment is: a tree of frozen dataclasses, checked whole before anything is read.

`build_config` turns plain nested dicts (composed YAML) into a `Config`, collecting every problem into one
`ConfigError`; `to_mapping` is its inverse. Component groups (`head: {name: ml_decoder, …}`) become the dataclass that
the component registered. `build_options` checks the options of a command in the same way.

Ranges are part of the annotation, so that a field reads as its own documentation:

    num_heads: Count = 8
    dropout: Fraction = 0.1
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from mldec.errors import ConfigError, shortened, suggest
from mldec.registry import REGISTRIES

Options = TypeVar("Options")
Weights = Literal["best", "ema", "raw"]  # those whose metric training reported; their moving average; without it
ApDefinition = Literal["exact", "exact_zero", "voc07", "partial", "paper"]
CountedImages = Literal["all", "with_unseen", "with_any"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Range:
    """Bounds of a number; `open_low` and `open_high` leave the bound itself out."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low, high = (str(bound) if isinstance(bound, int) else f"{bound:g}" for bound in (self.low, self.high))
        above, below = f"{'>' if self.open_low else '≥'} {low}", f"{'<' if self.open_high else '≤'} {high}"
        if self.high == math.inf:
            return above
        return f"{above} and {below}" if self.open_low or self.open_high else f"from {low} to {high}"


Count = Annotated[int, Range(low=1)]
Some = Annotated[int, Range(low=1, high=1024)]  # processes or threads
Views = Annotated[int, Range(low=1, high=1000)]
SomeOrNone = Annotated[int, Range(low=0, high=1024)]
Natural = Annotated[int, Range(low=0)]
Seed = Annotated[int, Range(low=0, high=2**63 - 1)]  # torch keeps a seed in 64 bits
Positive = Annotated[float, Range(low=0, open_low=True)]
NonNegative = Annotated[float, Range(low=0)]
Fraction = Annotated[float, Range(low=0, high=1)]  # both ends allowed
Share = Annotated[float, Range(low=0, high=1, open_high=True)]  # e.g. a dropout or decay rate


@dataclass(frozen=True, kw_only=True)
class ComponentConfig:
    """Settings of one component; `name` is what the registry knows it by."""

    name: str


def arguments_of(config: ComponentConfig, *, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The settings of a component, for a constructor whose parameters have their names.

    Args:
        leave_out: fields that are not among the parameters, beside `name`.
    """
    names = (field.name for field in dataclasses.fields(config))
    return {name: getattr(config, name) for name in names if name != "name" and name not in leave_out}


#: A group whose `name` chooses the component; its value is an instance of the dataclass that this component registered.
#: Statically it is anything, since this layer does not know the components above it; `build_config` checks it.
Group = Annotated[Any, "component group"]


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Where and how a run executes. Nothing here is meant to change what is learned, only how fast and how visibly."""

    device: str = "auto"  # auto, cpu, cuda, cuda:N, mps
    devices: Some = 1  # processes on this machine, each with a device of its own and its share of every batch
    precision: Precision = "auto"  # auto: bf16 on CUDA that has it, else fp32
    workers: SomeOrNone | None = None  # loader processes; null: as many as cores, at most 8; on the CPU a fourth
    threads: Some | None = None  # CPU threads of the network; null: torch's choice
    eval_batch_size: Count | None = None  # null: the training batch size
    channels_last: bool = False  # another memory layout, often faster for convolutions on CUDA
    compile: bool = False  # torch.compile of the network
    sync_batch_norm: bool = False  # statistics of batch norm over all devices; CUDA only
    deterministic: bool = False  # deterministic CUDA kernels, slower; the CPU always is
    log_every: Count = 20  # steps between two records
    checkpoint_every: Count | None = None  # steps between two extra checkpoints; null: only after each epoch
    eval_every: Count = 1  # epochs
    limit_train_batches: Count | None = None  # batches of each epoch that are used; null: all
    limit_eval_batches: Count | None = None  # batches of each evaluation; null: all
    overfit: bool = False  # train on the first batch alone, unaugmented
    profile: bool = False  # write a torch profiler trace of a few steps
    tensorboard: bool = True  # write curves and images to `tensorboard/` in the run directory


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """How results are chosen and reported. `paper` and `standard` are never mixed; a result names its protocol."""

    name: Literal["paper", "standard"]
    average_precision: ApDefinition = "exact"  # the definition of AP (docs/evaluation.md)
    report: Literal["ema", "raw", "better"] = "ema"  # which weights count, where EMA is on
    holdout: Share = 0.05  # share of train kept as val where a dataset publishes no third split; 0: val is test
    threshold: Fraction = 0.5  # of the F1 scores
    top_k: tuple[Count, ...] = (3,)  # of the F1@k scores
    zero_shot: Literal["seen", "zsl", "gzsl"] = "seen"  # whose mAP chooses the epoch, where labels are never trained
    zsl_images: CountedImages = "all"  # counted for ZSL (docs/zero-shot.md)
    gzsl_images: CountedImages = "all"  # counted for GZSL: all, those with a label, …


@dataclass(frozen=True, kw_only=True)
class TokenCacheConfig:
    """Tokens of a frozen backbone (`backbone.freeze=all`), computed once and kept for later runs."""

    tokens: bool = False  # train the head on cached tokens
    views: Views = 1  # augmented views of each training image; epoch e shows view e modulo their number
    dtype: Literal["float16", "float32"] = "float16"  # of the tokens on disk
    max_gb: Positive = 20.0  # refuse to start a run whose tokens take more
    batch_size: Count | None = None  # images whose tokens are computed at once; null: 16 on the CPU, else 128


@dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment. Its run directory is `<output>/<name>/<date>_<time>/`, or `run_dir` where that is given."""

    name: str
    seed: Seed = 0  # of first weights, order, augmentation, dropout and mixing
    output: str = "outputs"  # the directory of all run directories
    run_dir: str | None = None  # exactly this run directory; null: `output`/`name`/date_time
    init_from: str | None = None  # a run directory or checkpoint whose weights are the start
    init_part: Literal["all", "backbone"] = "all"  # which of those weights
    recipe: Literal["probe", "finetune"] | None = None  # settings that follow from the data (docs/photographs.md)
    dataset: Group
    backbone: Group
    head: Group
    loss: Group
    augment: Group
    optimizer: Group
    schedule: Group
    ema: Group
    cache: TokenCacheConfig = field(default_factory=TokenCacheConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    protocol: ProtocolConfig = field(default_factory=lambda: ProtocolConfig(name="standard"))

    def __post_init__(self) -> None:
        if not self.name.strip() or any(character in self.name for character in "/\\") or self.name in (".", ".."):
            raise ValueError(f"name={self.name!r} cannot name a folder; use letters, digits, '-' and '_'")


def build_config(mapping: Mapping[str, Any]) -> Config:
    """Check a composed experiment and make it a `Config`. Raises ConfigError listing all problems, a line each.

    The registries must be filled first: import the components (`mldec.engine.build` does) and the user's plugins.
    """
    return build_options(Config, mapping)


def build_options(cls: type[Options], values: Mapping[str, Any], owner: str = "") -> Options:
    """Check plain values and make them an instance of the dataclass `cls`, which declares the options of a command.

    `owner` names the command in the error for an unknown option. Raises ConfigError listing all problems, a line each.
    """
    problems: list[str] = []
    options = _dataclass(values, cls, "", problems, f"{owner} has " if owner else "")
    if problems:
        raise ConfigError("\n".join(problems))
    return typing.cast(Options, options)


def build_component(mapping: Mapping[str, Any], group: str) -> Any:
    """Check the settings of one component, such as a dataset, as `build_config` does.

    Raises ConfigError listing all problems, a line each.
    """
    problems: list[str] = []
    component = _component(mapping, group, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return component


def from_stored(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment as a run or checkpoint stored it, completed by what settings that came later stand for there.

    Final norms were dropped until `backbone.final_norm` came, so a stored experiment without it has none.
    """
    backbone = mapping.get("backbone")
    if not isinstance(backbone, Mapping) or "final_norm" in backbone:
        return dict(mapping)
    return {**mapping, "backbone": {**backbone, "final_norm": False}}


def to_mapping(config: Any) -> dict[str, Any]:
    """A dataclass tree as nested dicts and lists of plain values; `build_config` of it gives an equal Config."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return value

    return typing.cast(dict[str, Any], plain(config))


def with_settings(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with other values, by key: `schedule.epochs`, or `loss` for a whole component as a mapping.

    Raises ConfigError if the result is not valid.
    """
    mapping = to_mapping(config)
    for key, value in values.items():
        group, _, name = key.partition(".")
        node, last = (mapping[group], name) if name else (mapping, group)
        node[last] = value
    return build_config(mapping)


def describe_type(annotation: Any) -> str:
    """What a field may hold, as text: "an integer ≥ 1, or null"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        base, *bounds = arguments
        if isinstance(bounds[0], str):  # that describes the type
            return bounds[0]
        return " ".join([describe_type(base), *map(str, bounds)])
    if origin in _UNIONS:
        return ", or ".join(map(describe_type, arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        variadic = arguments[-1] is ...
        return f"a list (each {describe_type(arguments[0])})" if variadic else f"a list of {len(arguments)} values"
    return _TYPES.get(annotation, str(annotation))


LARGEST_INT = 2**64  # of settings: what numpy, torch and printing take

_INVALID = object()
SHOWN = 20  # settings that there are not, of one component
_UNIONS = (typing.Union, types.UnionType)
_TYPES = {type(None): "null", int: "an integer", float: "a number", str: "text", bool: "true or false", Path: "a path"}


def _dataclass(value: Any, cls: type, path: str, problems: list[str], owner: str = "") -> Any:
    if not isinstance(value, Mapping):
        problems.append(f"{path}={shortened(value, 400)}: expected settings (key: value), found {_kind(value)}")
        return _INVALID
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = [key for key in value if key not in fields]
    for key in unknown[:SHOWN]:
        where = _join(path, shortened(key))
        problems.append(f"{where}: {owner}no such setting; {suggest(shortened(key), fields)}")
    if len(unknown) > SHOWN:
        problems.append(f"{path or 'the experiment'}: and {len(unknown) - SHOWN} more settings that there are not")
    arguments = {}
    before = len(problems)
    for key, spec in fields.items():
        if key in value:
            arguments[key] = _convert(value[key], hints[key], _join(path, key), problems)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            problems.append(f"{_join(path, key)}: missing; a value is needed")
    if len(problems) > before:
        return _INVALID
    try:
        return cls(**arguments)
    except ValueError as error:
        problems.append(f"{path}.{error}" if path else str(error))
        return _INVALID


def _component(value: Any, group: str, problems: list[str]) -> Any:
    registry = REGISTRIES[group]
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        problems.append(f"{group}: needs `name`, one of {', '.join(registry.names())}; found {shortened(value, 400)}")
        return _INVALID
    try:
        component = registry[value["name"]]
    except ConfigError as error:
        problems.append(str(error))
        return _INVALID
    return _dataclass(value, component.config_class, group, problems, owner=f"{group}={component.name} has ")


def _convert(value: Any, annotation: Any, path: str, problems: list[str]) -> Any:
    if annotation == Group:
        return _component(value, path, problems)
    options = typing.get_args(annotation) if typing.get_origin(annotation) in _UNIONS else (annotation,)
    classes = [option for option in options if isinstance(option, type)]
    settings = next(filter(dataclasses.is_dataclass, classes), None)
    if settings is not None:
        is_null = value is None and settings is not annotation  # where null is allowed
        return None if is_null else _dataclass(value, settings, path, problems)
    converted = _fit(value, annotation)
    if converted is _INVALID:
        value, annotation = _misfit(value, annotation)
        problems.append(f"{path}={shortened(value, 400)}: expected {describe_type(annotation)}, found {_kind(value)}")
    return converted


def _misfit(value: Any, annotation: Any) -> tuple[Any, Any]:
    """Of a list that does not fit, the first item that does not, and the type of items; otherwise what was given."""
    for option in (annotation, *typing.get_args(annotation)):
        if isinstance(value, list) and typing.get_origin(option) is tuple and typing.get_args(option)[-1] is ...:
            kind = typing.get_args(option)[0]
            return next(((item, kind) for item in value if _fit(item, kind) is _INVALID), (value, annotation))
    return value, annotation


def _fit(value: Any, annotation: Any) -> Any:
    """`value` as `annotation` requires, or _INVALID. Numbers widen (1 to 1.0), nothing else is coerced."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    is_bool = isinstance(value, bool)  # for Python also an integer
    if origin is Annotated:
        base, *bounds = arguments
        fitted = _fit(value, base)
        if fitted is not _INVALID and all(fitted in bound for bound in bounds if isinstance(bound, Range)):
            return fitted
    elif origin in _UNIONS:
        fits = (_fit(value, option) for option in arguments)
        return next((fitted for fitted in fits if fitted is not _INVALID), _INVALID)
    elif origin is Literal:
        if any(value == option and type(value) is type(option) for option in arguments):
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
            items = tuple(map(_fit, value, kinds))
            if len(kinds) == len(value) and _INVALID not in items:
                return items
    elif origin is Mapping:  # in JSON
        if isinstance(value, Mapping):
            key, item = arguments
            fitted = {_fit(k, key): _fit(v, item) for k, v in value.items()}
            if _INVALID not in (*fitted, *fitted.values()):
                return fitted
    elif annotation is float:  # an integer may have hundreds of digits
        if isinstance(value, (int, float)) and not is_bool and abs(value) <= sys.float_info.max:
            return float(value)
    elif annotation is int:
        if isinstance(value, int) and not is_bool and abs(value) < LARGEST_INT:
            return value
    elif annotation is Path:
        with contextlib.suppress(RuntimeError, TypeError):  # ~user, of whom there is none; neither text nor a path
            return Path(value).expanduser()
    elif annotation in (str, bool, type(None)):
        if isinstance(value, annotation):
            return value
    else:
        raise TypeError(f"config fields may not have the type {annotation}")
    return _INVALID


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, Mapping):
        return "nested settings"
    names = {**_TYPES, list: "a list", tuple: "a list"}
    return f"{names.get(type(value), type(value).__name__)} ({shortened(value, 400)})"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
