"""What `mldec benchmark` can measure: the words of each subject, and how they become its figures."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mldec.commands import compose
from mldec.commands.options import number, switch, whole
from mldec.config import Config, build_config
from mldec.errors import ConfigError, shortened, suggest
from mldec.registry import HEADS

if TYPE_CHECKING:  # torch is only imported where something is measured
    import torch

    from mldec.benchmarks.figure import Figure
    from mldec.benchmarks.model import Case

REPORT_WORDS = ("output", "page", "compare")
COMMON_WORDS = ("scale", "repeats", "seconds")
NUM_GROUPS = 100  # K of an ML-Decoder for which none is set: that of the paper's Table 9


class Measured(NamedTuple):
    """What a subject gives: its figures, device and precision (of `runtime`), and what else belongs into the record."""

    figures: list[Figure]
    device: str
    details: dict[str, Any]
    precision: str = "fp32"


class Subject(NamedTuple):
    """Something that can be measured: what it is, its own words, how, and whether things are compared in a grid."""

    what: str
    words: tuple[str, ...]
    measure: Callable[[compose.Arguments], Measured]
    grid: bool = False


# The parts of training, each by itself -------------------------------------------------------------------------------


def _measure_head(arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.head import measure

    config = _runtime(arguments)
    device, dtype = _prepare(config)
    return Measured(measure(device, dtype, **_common(arguments)), config.runtime.device, {}, config.runtime.precision)


def _measure_growth(arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.growth import measure

    config = _runtime(arguments)
    device, dtype = _prepare(config)
    figures, points = measure(device, dtype, **_common(arguments))
    details = {"points": [point._asdict() for point in points]}
    return Measured(figures, config.runtime.device, details, config.runtime.precision)


def _measure_loss(arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.loss import measure

    config = _runtime(arguments)
    device, _ = _prepare(config)
    return Measured(measure(device, **_common(arguments)), config.runtime.device, {})


def _measure_metric(arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.metric import measure

    _prepare(_runtime(arguments))
    return Measured(measure(**_common(arguments)), "cpu", {})


def _measure_augment(arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.augment import measure

    _prepare(_runtime(arguments))
    return Measured(measure(**_common(arguments)), "cpu", {})


def _measure_ema(arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.ema import measure

    _refuse_scale(arguments, "the networks of ema have one size")
    small = _runtime(arguments)
    _prepare(small)
    paper = ["experiment=coco_tresnet_l", "backbone.pretrained=false"]
    large = build_config(compose.compose([*paper, *arguments.overrides], arguments.config_dir))
    words = _common(arguments)
    del words["scale"]
    return Measured(measure(large, small, **words), small.runtime.device, {}, small.runtime.precision)


def _measure_startup(arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.startup import measure

    if arguments.overrides:
        raise ConfigError(f"{arguments.overrides[0]}: no such word; startup knows repeats")
    return Measured(measure(repeats=_whole("repeats", arguments.own.get("repeats", "5"))), "cpu", {})


def _measure_loader(arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.loader import measure, measure_dataset
    from mldec.engine import build, config_properties, data_splits

    own = arguments.own
    words = {"repeats": _whole("repeats", own.get("repeats", "3"))}
    workers = [_whole("workers", word) for word in _listed(own, "workers")] if "workers" in own else [1]
    if not any(word.startswith("experiment=") for word in arguments.overrides):
        _prepare(_runtime(arguments))
        return Measured(measure(scale=_number(own, "scale", 1.0), workers=workers, **words), "cpu", {})
    _refuse_scale(arguments, "an experiment's images are as many as they are")
    config = _experiment(arguments, "digits")
    index = data_splits.build_split(config, "train", quiet=True)
    augment = build.build_augment(config)
    size = f"{config.dataset.name}, augment={config.augment.name}, to {config_properties.image_size(config)}"
    return Measured(measure_dataset(index, augment, size, workers=workers, **words), "cpu", {})


def _measure_train(arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.train import measure

    own, config = arguments.own, _experiment(arguments, "digits")
    words: dict[str, Any]
    words = {name: _whole(name, own[name]) for name in ("steps", "repeats", "images") if name in own}
    if "labels" in own:
        words["num_labels"] = _whole("labels", own["labels"])
    return Measured(measure(config, **words), config.runtime.device, {}, config.runtime.precision)


def _runtime(arguments: compose.Arguments) -> Config:
    """`experiment=digits` with what was typed of the runtime, the only settings that these subjects have."""
    for word in arguments.overrides:
        if not word.startswith("runtime"):
            raise ConfigError(f"{word}: no such word; {suggest(word.partition('=')[0], (*COMMON_WORDS, 'runtime'))}")
    return _experiment(arguments, "digits")


def _experiment(arguments: compose.Arguments, default: str) -> Config:
    named = any(word.startswith("experiment=") for word in arguments.overrides)
    words = arguments.overrides if named else (f"experiment={default}", *arguments.overrides)
    compose.load_components(arguments.plugins)
    return build_config(compose.compose(words, arguments.config_dir))


def _refuse_scale(arguments: compose.Arguments, why: str) -> None:
    if "scale" in arguments.own:
        raise ConfigError(f"scale={shortened(arguments.own['scale'])}: has no effect here, {why}; leave it out")


def _prepare(config: Config) -> tuple[torch.device, torch.dtype]:
    """Set threads and kernels as training does; the device and the precision."""
    from mldec.engine.device import choose_device, choose_precision, prepare_runtime

    device = choose_device(config.runtime.device)
    prepare_runtime(config.runtime, device)
    return device, choose_precision(config.runtime.precision, device)


def _common(arguments: compose.Arguments) -> dict[str, Any]:
    own = arguments.own
    return {
        "scale": _number(own, "scale", 1.0),
        "repeats": _whole("repeats", own.get("repeats", "3")),
        "seconds": _number(own, "seconds", 1.0),
    }


# The index, and whole networks ----------------------------------------------------------------------------------------


def _measure_data(arguments: compose.Arguments) -> Measured:
    own, words = arguments.own, (*SUBJECTS["data"].words, *REPORT_WORDS)
    if arguments.overrides:
        raise ConfigError(f"{arguments.overrides[0]}: no such word; {suggest(arguments.overrides[0], words)}")
    scale, repeats = _number(own, "scale", 1.0), _whole("repeats", own.get("repeats", "3"))
    from mldec.benchmarks.data import measure

    if "folder" in own and not Path(own["folder"]).is_dir():
        raise ConfigError(f"folder={own['folder']}: no such folder; make it, or leave the word out")
    with tempfile.TemporaryDirectory(prefix="mldec-", dir=own.get("folder")) as folder:
        return Measured(measure(Path(folder), scale=scale, repeats=repeats), "cpu", {})


def _measure_model(arguments: compose.Arguments) -> Measured:
    own = arguments.own
    repeats, seconds = _whole("repeats", own.get("repeats", "3")), _number(own, "seconds", 2.0)
    largest_batch = switch(own, "largest_batch", True)
    cases = _cases(arguments)
    from mldec.benchmarks.model import measure

    figures = measure(cases, repeats=repeats, seconds=seconds, largest_batch=largest_batch)
    described = [
        {
            "title": case.title,
            "labels": case.num_labels,
            "head": case.config.head.name,
            "num_groups": getattr(case.config.head, "num_groups", None),
            "backbone": getattr(case.config.backbone, "model", case.config.backbone.name),
            "image_size": case.config.dataset.image_size,
            "batch_size": case.config.schedule.batch_size,
            "precision": case.config.runtime.precision,
            "channels_last": case.config.runtime.channels_last,
            "compile": case.config.runtime.compile,
        }
        for case in cases
    ]
    details = {"repeats": repeats, "seconds": seconds, "cases": described}
    runtime = cases[0].config.runtime
    return Measured(figures, runtime.device, details, runtime.precision)


# The networks that are compared ---------------------------------------------------------------------------------------


def _cases(arguments: compose.Arguments) -> list[Case]:
    """All combinations of `labels=` and `heads=`, those with the same number of labels together."""
    from mldec.benchmarks.model import Case

    own, overrides = arguments.own, arguments.overrides
    known = {*SUBJECTS["model"].words, *REPORT_WORDS, *compose.CHOICES, *(f.name for f in dataclasses.fields(Config))}
    for word in overrides:
        name = word.partition("=")[0]
        if "." not in name and name not in known:
            raise ConfigError(f"{word}: no such word; {suggest(name, known)}")
    if "labels" not in own:
        raise ConfigError("labels: missing; type how many there shall be, as in labels=80 or labels=100,1000,5000")
    labels = [_whole("labels", word) for word in _listed(own, "labels")]
    compose.load_components(arguments.plugins)
    by_head = _compose_heads(arguments)
    num_groups_typed = any(word.startswith("head.num_groups=") for word in overrides)
    cases = []
    for count in labels:
        for name, mapping in by_head.items():
            config, title = build_config(mapping), f"{name}, {count} labels"
            if config.head.name == "ml_decoder":
                num_groups = config.head.num_groups
                if num_groups is None:
                    num_groups = count if num_groups_typed else NUM_GROUPS
                head = dataclasses.replace(config.head, num_groups=min(num_groups, count))
                config, title = dataclasses.replace(config, head=head), f"{name} K={head.num_groups}, {count} labels"
            cases.append(Case(title, config, count))
    return cases


def _compose_heads(arguments: compose.Arguments) -> dict[str, dict[str, Any]]:
    """The composed experiment with each of `heads=`, or as it is; by the name of the head."""
    overrides = arguments.overrides
    if "heads" not in arguments.own:
        mapping = compose.compose(overrides, arguments.config_dir)
        return {mapping["head"]["name"]: mapping}
    chosen = [word for word in overrides if word.startswith("head=")]
    if chosen:
        raise ConfigError(f"{chosen[0]}: heads={arguments.own['heads']} chooses the heads; leave one of both out")
    typed = {word: word.partition("=")[0].split(".")[1] for word in overrides if word.startswith("head.")}
    others = [word for word in overrides if word not in typed]
    composed = {
        name: compose.compose([*others, f"head={name}"], arguments.config_dir)
        for name in _listed(arguments.own, "heads")
    }
    settings = {name: _settings_of(mapping) for name, mapping in composed.items()}
    for word, key in typed.items():
        if not any(key in known for known in settings.values()):
            everything = {f"head.{setting}" for known in settings.values() for setting in known}
            raise ConfigError(f"{word}: no head of {', '.join(composed)} has it; {suggest(f'head.{key}', everything)}")
    return {
        name: compose.change(mapping, [word for word, key in typed.items() if key in settings[name]])
        for name, mapping in composed.items()
    }


def _settings_of(mapping: Mapping[str, Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(HEADS[mapping["head"]["name"]].config_class)}


def _listed(own: Mapping[str, str], name: str) -> list[str]:
    words = [word.strip() for word in own[name].strip("[]").split(",")]
    for word in words:
        if not word or words.count(word) > 1:
            found = f"{word} twice" if word else "an empty one"
            raise ConfigError(f"{name}={own[name]}: found {found}; list different values: {name}=a,b,c")
    return words


def _whole(name: str, word: str) -> int:
    return whole(word, name, most=10**6)


def _number(own: Mapping[str, str], name: str, default: float) -> float:
    value = default if name not in own else number(own[name])
    if value is None or not 0 < value <= 1000:
        raise ConfigError(f"{name}={shortened(own[name])}: expected a number above 0 and at most 1000")
    return value


SUBJECTS = {
    "head": Subject("ML-Decoder alone, against the rate of a matrix product (2 minutes)", COMMON_WORDS, _measure_head),
    "growth": Subject(
        "How a head's time and memory grow with classes, queries, tokens, images (2 minutes)",
        COMMON_WORDS,
        _measure_growth,
        grid=True,
    ),
    "loss": Subject("The asymmetric loss, against the plain chain of operations", COMMON_WORDS, _measure_loss),
    "ema": Subject("The average of the weights, against a copy and a training step", COMMON_WORDS, _measure_ema),
    "metric": Subject("Mean AP, at the sizes of COCO and Open Images (3 minutes, 6 GB)", COMMON_WORDS, _measure_metric),
    "augment": Subject("Each augmentation of an image, beside decoding and resizing", COMMON_WORDS, _measure_augment),
    "loader": Subject(
        "From files to batches, against decoding and resizing alone", ("scale", "repeats", "workers"), _measure_loader
    ),
    "train": Subject(
        "The training loop, against a bare loop over a batch in memory",
        ("repeats", "steps", "images", "labels"),
        _measure_train,
    ),
    "startup": Subject(
        "How long a command takes to begin, against importing torch and timm", ("repeats",), _measure_startup
    ),
    "data": Subject(
        "Building, opening and sharing the index, at the sizes of COCO and Open Images (10 minutes, 6 GB)",
        ("scale", "repeats", "folder"),
        _measure_data,
    ),
    "model": Subject(
        "Training and inference of networks, as in the paper's Table 9: images a second, memory, cost",
        ("heads", "labels", "repeats", "seconds", "largest_batch"),
        _measure_model,
        grid=True,
    ),
}
