"""What `mldec benchmark` can measure: the options of each subject, and how they become its figures."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from mldec.commands import compose
from mldec.commands.options import EXPERIMENT, OutputFile, compose_config
from mldec.config import Config, Range, build_config
from mldec.errors import ConfigError, shortened, suggest
from mldec.registry import HEADS

if TYPE_CHECKING:  # torch is only imported where something is measured
    import torch

    from mldec.benchmarks.figure import Figure
    from mldec.benchmarks.model import Case

NUM_GROUPS = 100  # K of an ML-Decoder for which none is set: that of the paper's Table 9

Number = Annotated[int, Range(1, 10**6)]
Factor = Annotated[float, Range(0, 1000, open_low=True)]


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """Options of all benchmarks."""

    output: OutputFile | None = None  # write the figures, device and versions as JSON
    page: OutputFile | None = None  # write them as a page of Markdown
    compare: Path | None = None  # show ratios to the figures of an earlier output


@dataclass(frozen=True, kw_only=True)
class PartOptions(FigureOptions):
    """Options of benchmarks of parts of training; runtime.threads=2 and other settings of runtime are overrides."""

    SETTINGS = ("runtime",)

    scale: Factor = 1.0  # a part of the size, to see that it runs; targets belong to 1
    repeats: Number = 3  # rounds, in which everything is measured in turn; the median counts
    seconds: Factor = 1.0  # about how long each rate is measured in a round


@dataclass(frozen=True, kw_only=True)
class HeadOptions(PartOptions):
    """ML-Decoder alone, against the rate of a matrix product (2 minutes)"""


@dataclass(frozen=True, kw_only=True)
class GrowthOptions(PartOptions):
    """How a head's time and memory grow with classes, queries, tokens, images (2 minutes)"""


@dataclass(frozen=True, kw_only=True)
class LossOptions(PartOptions):
    """The asymmetric loss, against the plain chain of operations"""


@dataclass(frozen=True, kw_only=True)
class MetricOptions(PartOptions):
    """Mean AP, at the sizes of COCO and Open Images (3 minutes, 6 GB)"""


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(PartOptions):
    """Each augmentation of an image, beside decoding and resizing"""


@dataclass(frozen=True, kw_only=True)
class EmaOptions(FigureOptions):
    """The average of the weights, against a copy and a training step"""

    SETTINGS = ("runtime",)

    repeats: Number = 3  # rounds, in which everything is measured in turn; the median counts
    seconds: Factor = 1.0  # about how long each rate is measured in a round


@dataclass(frozen=True, kw_only=True)
class LoaderOptions(FigureOptions):
    """From files to batches, against decoding and resizing alone

    experiment=NAME  its images and augmentation; default: generated images, the paper's augmentation
    """

    SETTINGS = EXPERIMENT

    scale: Factor | None = None  # a part of the size, to see that it runs; not with experiment=NAME
    repeats: Number = 3  # rounds, in which everything is measured in turn; the median counts
    workers: tuple[Number, ...] = (1,)  # numbers of workers


@dataclass(frozen=True, kw_only=True)
class TrainOptions(FigureOptions):
    """The training loop, against a bare loop over a batch in memory

    experiment=NAME  which experiment; default: digits. Its dataset is not read
    """

    SETTINGS = EXPERIMENT

    steps: Number | None = None  # of a round; default 40
    repeats: Number | None = None  # rounds; default 3
    images: Number | None = None  # generated JPEG files of 640 x 427
    num_labels: Number | None = None  # labels of these images


@dataclass(frozen=True, kw_only=True)
class StartupOptions(FigureOptions):
    """How long a command takes to begin, against importing torch and timm"""

    repeats: Number = 5  # rounds; the median counts


@dataclass(frozen=True, kw_only=True)
class DataOptions(FigureOptions):
    """Building, opening and sharing the index, at the sizes of COCO and Open Images (10 minutes, 6 GB)"""

    scale: Factor = 1.0  # a part of the size, to see that it runs; targets belong to 1
    repeats: Number = 3  # rounds, in which everything is measured in turn; the median counts
    folder: Path | None = None  # a directory for generated files; default: the system's temporary one


@dataclass(frozen=True, kw_only=True)
class ModelOptions(FigureOptions):
    """Training and inference of networks, as in the paper's Table 9: images/s, memory, cost

    experiment=NAME     which experiment; its dataset is not read
    head.num_groups=K   ML-Decoder's queries, at most one per label; default 100; null: one per label

    Attributes:
        heads: heads to compare, at each number of labels, with the first; what is set for one head (head.num_groups=100)
            is left out where a head has no such setting
    """

    SETTINGS = EXPERIMENT

    num_labels: tuple[Number, ...]  # how many labels; several: each of them
    heads: tuple[str, ...] | None = None
    repeats: Number = 3  # rounds, in which everything is measured in turn; the median counts
    seconds: Factor = 2.0  # about how long training and inference are measured in a round
    largest_batch: bool = True  # search for the largest batch that can be trained, which takes 15 times as long


class Measurement(NamedTuple):
    """What a subject gives: its figures, device and precision (of `runtime`), and what else belongs into the record."""

    figures: list[Figure]
    device: str
    details: dict[str, Any]
    precision: str = "fp32"


class Subject(NamedTuple):
    """Something that can be measured: its options, how, and whether things are compared in a grid."""

    options: type[FigureOptions]
    measure: Callable[[Any, compose.Arguments], Measurement]
    grid: bool = False


# The parts of training, each by itself -------------------------------------------------------------------------------


def _measure_head(options: HeadOptions, arguments: compose.Arguments) -> Measurement:
    from mldec.benchmarks.head import measure

    config = _experiment(arguments, "digits")
    device, dtype = _prepare(config)
    return Measurement(measure(device, dtype, **_common(options)), config.runtime.device, {}, config.runtime.precision)


def _measure_growth(options: GrowthOptions, arguments: compose.Arguments) -> Measurement:
    from mldec.benchmarks.growth import measure

    config = _experiment(arguments, "digits")
    device, dtype = _prepare(config)
    figures, points = measure(device, dtype, **_common(options))
    details = {"points": [point._asdict() for point in points]}
    return Measurement(figures, config.runtime.device, details, config.runtime.precision)


def _measure_loss(options: LossOptions, arguments: compose.Arguments) -> Measurement:
    from mldec.benchmarks.loss import measure

    config = _experiment(arguments, "digits")
    device, _ = _prepare(config)
    return Measurement(measure(device, **_common(options)), config.runtime.device, {})


def _measure_metric(options: MetricOptions, arguments: compose.Arguments) -> Measurement:
    from mldec.benchmarks.metric import measure

    _prepare(_experiment(arguments, "digits"))
    return Measurement(measure(**_common(options)), "cpu", {})


def _measure_augment(options: AugmentOptions, arguments: compose.Arguments) -> Measurement:
    from mldec.benchmarks.augment import measure

    _prepare(_experiment(arguments, "digits"))
    return Measurement(measure(**_common(options)), "cpu", {})


def _measure_ema(options: EmaOptions, arguments: compose.Arguments) -> Measurement:
    from mldec.benchmarks.ema import measure

    small = _experiment(arguments, "digits")
    _prepare(small)
    paper = ["experiment=coco_tresnet_l", "backbone.pretrained=false"]
    large = build_config(compose.compose([*paper, *arguments.overrides], arguments.config_dir))
    figures = measure(large, small, repeats=options.repeats, seconds=options.seconds)
    return Measurement(figures, small.runtime.device, {}, small.runtime.precision)


def _measure_startup(options: StartupOptions, arguments: compose.Arguments) -> Measurement:
    from mldec.benchmarks.startup import measure

    return Measurement(measure(repeats=options.repeats), "cpu", {})


def _measure_loader(options: LoaderOptions, arguments: compose.Arguments) -> Measurement:
    from mldec.benchmarks.loader import measure, measure_dataset
    from mldec.engine import build

    if not any(override.startswith("experiment=") for override in arguments.overrides):
        for override in arguments.overrides:
            if not override.startswith("runtime"):
                raise ConfigError(f"{shortened(override)}: has no effect without experiment=NAME; leave it out")
        _prepare(_experiment(arguments, "digits"))
        scale = 1.0 if options.scale is None else options.scale
        return Measurement(measure(scale=scale, workers=options.workers, repeats=options.repeats), "cpu", {})
    if options.scale is not None:
        raise ConfigError(f"scale={options.scale:g}: has no effect on an experiment's images; leave it out")
    config = _experiment(arguments, "digits")
    index = build.build_split(config, "train", quiet=True)
    augment = build.build_augment(config)
    size = f"{config.dataset.name}, augment={config.augment.name}, to {build.image_size(config)}"
    return Measurement(
        measure_dataset(index, augment, size, workers=options.workers, repeats=options.repeats), "cpu", {}
    )


def _measure_train(options: TrainOptions, arguments: compose.Arguments) -> Measurement:
    from mldec.benchmarks.train import measure

    config = _experiment(arguments, "digits")
    names = ("steps", "repeats", "images", "num_labels")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return Measurement(measure(config, **given), config.runtime.device, {}, config.runtime.precision)


def _experiment(arguments: compose.Arguments, default: str) -> Config:
    named = any(override.startswith("experiment=") for override in arguments.overrides)
    overrides = arguments.overrides if named else (f"experiment={default}", *arguments.overrides)
    return compose_config(dataclasses.replace(arguments, overrides=overrides))


def _prepare(config: Config) -> tuple[torch.device, torch.dtype]:
    """Set threads and kernels as training does; the device and the precision."""
    from mldec.engine.device import choose_device, choose_precision, prepare_runtime

    device = choose_device(config.runtime.device)
    prepare_runtime(config.runtime, device)
    return device, choose_precision(config.runtime.precision, device)


def _common(options: PartOptions) -> dict[str, Any]:
    return {"scale": options.scale, "repeats": options.repeats, "seconds": options.seconds}


# The index, and whole networks ----------------------------------------------------------------------------------------


def _measure_data(options: DataOptions, arguments: compose.Arguments) -> Measurement:
    from mldec.benchmarks.data import measure

    if options.folder is not None and not options.folder.is_dir():
        raise ConfigError(f"folder={shortened(options.folder)}: no such directory; make it, or leave the option out")
    with tempfile.TemporaryDirectory(prefix="mldec-", dir=options.folder) as folder:
        return Measurement(measure(Path(folder), scale=options.scale, repeats=options.repeats), "cpu", {})


def _measure_model(options: ModelOptions, arguments: compose.Arguments) -> Measurement:
    repeats, seconds = options.repeats, options.seconds
    cases = _cases(options, arguments)
    from mldec.benchmarks.model import measure

    figures = measure(cases, repeats=repeats, seconds=seconds, largest_batch=options.largest_batch)
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
    return Measurement(figures, runtime.device, details, runtime.precision)


# The networks that are compared ---------------------------------------------------------------------------------------


def _cases(options: ModelOptions, arguments: compose.Arguments) -> list[Case]:
    """All combinations of `num_labels=` and `heads=`, those with the same number of labels together."""
    from mldec.benchmarks.model import Case

    compose.load_components(arguments.plugins)
    by_head = _compose_heads(options, arguments)
    num_groups_given = any(override.startswith("head.num_groups=") for override in arguments.overrides)
    cases = []
    for count in options.num_labels:
        for name, mapping in by_head.items():
            config, title = build_config(mapping), f"{name}, {count} labels"
            if config.head.name == "ml_decoder":
                num_groups = config.head.num_groups
                if num_groups is None:
                    num_groups = count if num_groups_given else NUM_GROUPS
                head = dataclasses.replace(config.head, num_groups=min(num_groups, count))
                config, title = dataclasses.replace(config, head=head), f"{name} K={head.num_groups}, {count} labels"
            cases.append(Case(title, config, count))
    return cases


def _compose_heads(options: ModelOptions, arguments: compose.Arguments) -> dict[str, dict[str, Any]]:
    """The composed experiment with each of `heads=`, or as it is; by the name of the head."""
    overrides = arguments.overrides
    if options.heads is None:
        mapping = compose.compose(overrides, arguments.config_dir)
        return {mapping["head"]["name"]: mapping}
    if chosen := [override for override in overrides if override.startswith("head=")]:
        raise ConfigError(f"{chosen[0]}: heads={','.join(options.heads)} chooses the heads; leave one of both out")
    of_head = {item: item.partition("=")[0].split(".")[1] for item in overrides if item.startswith("head.")}
    others = [override for override in overrides if override not in of_head]
    composed = {name: compose.compose([*others, f"head={name}"], arguments.config_dir) for name in options.heads}
    settings = {name: _settings_of(mapping) for name, mapping in composed.items()}
    for override, key in of_head.items():
        if not any(key in known for known in settings.values()):
            everything = {f"head.{setting}" for known in settings.values() for setting in known}
            raise ConfigError(
                f"{override}: no head of {', '.join(composed)} has it; {suggest(f'head.{key}', everything)}"
            )
    return {
        name: compose.change(mapping, [override for override, key in of_head.items() if key in settings[name]])
        for name, mapping in composed.items()
    }


def _settings_of(mapping: Mapping[str, Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(HEADS[mapping["head"]["name"]].config_class)}


SUBJECTS = {
    "head": Subject(HeadOptions, _measure_head),
    "growth": Subject(GrowthOptions, _measure_growth, grid=True),
    "loss": Subject(LossOptions, _measure_loss),
    "ema": Subject(EmaOptions, _measure_ema),
    "metric": Subject(MetricOptions, _measure_metric),
    "augment": Subject(AugmentOptions, _measure_augment),
    "loader": Subject(LoaderOptions, _measure_loader),
    "train": Subject(TrainOptions, _measure_train),
    "startup": Subject(StartupOptions, _measure_startup),
    "data": Subject(DataOptions, _measure_data),
    "model": Subject(ModelOptions, _measure_model, grid=True),
}
