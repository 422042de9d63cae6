"""`mldec benchmark`: speed and memory of networks, heads, the training loop, loading, reading tables, cached tokens."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from mldec.commands import compose
from mldec.commands.options import EXPERIMENT, OutputFile, compose_config, parse, say
from mldec.config import Config, Range, Some, build_config
from mldec.errors import ConfigError, shortened, suggest
from mldec.field_docs import description
from mldec.files import write_text
from mldec.registry import HEADS

if TYPE_CHECKING:  # torch is imported only where something is measured
    from mldec.benchmarks.model import Case
    from mldec.benchmarks.record import Measured

NUM_GROUPS = 100  # K of an ML-Decoder where none is set: that of the paper's Table 9

Repeats = Annotated[int, Range(low=1, high=10**6)]
Labels = Annotated[int, Range(low=1, high=10**6)]
Seconds = Annotated[float, Range(low=0, high=1000, open_low=True)]
Scale = Annotated[float, Range(low=0, high=1000, open_low=True)]


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Options of every subject."""

    SETTINGS: ClassVar[Sequence[str]] = EXPERIMENT

    repeats: Repeats = 3  # rounds: everything is measured once per round, and the median counts
    output: OutputFile | None = None  # write figures, device and versions as JSON
    page: OutputFile | None = None  # write them as a Markdown page


# Subjects -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ModelOptions(BenchmarkOptions):
    """Training and inference of networks, as in the paper's Table 9."""

    num_labels: tuple[Labels, ...]  # numbers of labels, such as 100,1000; the dataset itself is not read
    heads: tuple[str, ...] = ()  # heads to compare for each number of labels; rates are also given over the first one's
    seconds: Seconds = 2.0  # about how long training and inference are measured in a round
    largest_batch: bool = True  # on CUDA, search for the largest batch that can be trained: 15 times `seconds`


def measure_model(options: ModelOptions, arguments: compose.Arguments) -> Measured:
    cases = make_cases(options, arguments)
    from mldec.benchmarks.model import measure
    from mldec.benchmarks.record import Measured

    figures = measure(cases, repeats=options.repeats, seconds=options.seconds, largest_batch=options.largest_batch)
    described = [
        {
            "title": case.title,
            "labels": case.num_labels,
            "head": case.config.head.name,
            "num_groups": getattr(case.config.head, "num_groups", None),
            "backbone": getattr(case.config.backbone, "model", case.config.backbone.name),
            "image_size": case.config.dataset.image_size,
            "batch_size": case.config.schedule.batch_size,
            **{name: getattr(case.config.runtime, name) for name in ("precision", "channels_last", "compile")},
        }
        for case in cases
    ]
    details = {"repeats": options.repeats, "seconds": options.seconds, "cases": described}
    runtime = cases[0].config.runtime
    return Measured(figures, runtime.device, details, runtime.precision)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(BenchmarkOptions):
    """The training loop of an experiment (default: digits) against a bare loop over a batch in memory."""

    steps: Repeats = 40  # per round
    images: Repeats | None = None  # use this many generated JPEG files of 640 x 427 instead of the dataset
    num_labels: Labels = 80  # of the generated images


def measure_train(options: TrainOptions, arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.record import Measured
    from mldec.benchmarks.train import measure

    config = _config(arguments)
    given = {name: getattr(options, name) for name in ("steps", "repeats", "images", "num_labels")}
    return Measured(measure(config, **given), config.runtime.device, {}, config.runtime.precision)


@dataclass(frozen=True, kw_only=True)
class LoaderOptions(BenchmarkOptions):
    """From image files to batches against decoding and resizing alone.

    Without experiment=… or dataset=…, generated images with the paper's augmentation.
    """

    workers: tuple[Some, ...] = (1,)  # numbers of loader processes, such as 1,4,8
    scale: Scale = 1.0  # shrinks the number of generated images


def measure_loader(options: LoaderOptions, arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.loader import measure, measure_dataset
    from mldec.benchmarks.record import Measured
    from mldec.engine import build, data_splits

    given: dict[str, Any] = {"repeats": options.repeats, "workers": options.workers}
    if not arguments.choose_data:
        if arguments.overrides:
            raise ConfigError(f"{arguments.overrides[0]}: has no effect without experiment=… or dataset=…")
        return Measured(measure(scale=options.scale, **given))
    if options.scale != 1:
        raise ConfigError(f"scale={options.scale:g}: has no effect on the images of an experiment; leave it out")
    config = _config(arguments)
    index = data_splits.build_split(config, "train", quiet=True)
    size = f"{config.dataset.name}, augment={config.augment.name}, to {config.dataset.image_size}"
    return Measured(measure_dataset(index, build.build_augment(config), size, **given))


@dataclass(frozen=True, kw_only=True)
class DataOptions(BenchmarkOptions):
    """Reading a table of a million images into an index, against parsing it with pyarrow alone; or dataset=PATH."""

    scale: Scale = 1.0  # shrinks the number of rows


def measure_data(options: DataOptions, arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.own_data import measure, measure_dataset
    from mldec.benchmarks.record import Measured

    if arguments.choose_data:
        if options.scale != 1:
            raise ConfigError(f"scale={options.scale:g}: has no effect on a dataset of one's own; leave it out")
        return Measured(measure_dataset(_config(arguments).dataset, repeats=options.repeats))
    if arguments.overrides:
        raise ConfigError(f"{arguments.overrides[0]}: has no effect here; the table is generated")
    return Measured(measure(scale=options.scale, repeats=options.repeats))


@dataclass(frozen=True, kw_only=True)
class CacheOptions(BenchmarkOptions):
    """Cached tokens of a frozen backbone: computing, reading, training on them, memory, all on generated images.

    By default a frozen EfficientNet-Lite0 with random weights, at 224 pixels; other settings are overrides.
    """

    images: Repeats = 640  # generated JPEG files of 640 x 427
    num_labels: Labels = 80  # of the generated images
    memory: bool = True  # also compare the peak memory with four times as many images


FROZEN = ("experiment=digits", "backbone=efficientnet_lite0", "dataset.image_size=224")  # default of `cache`
NEEDED = ("backbone.freeze=all", "augment=none", "schedule.epochs=1000")  # of what it measures
PROBE = ("head.dim=256", "head.ffn_dim=1024", "head.num_heads=8")  # ML-Decoder, unless its settings are given


def measure_cache(options: CacheOptions, arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.record import Measured
    from mldec.benchmarks.tokens import measure

    compose.load_components(arguments.plugins)
    given = [override for override in arguments.overrides if not override.startswith("head")]
    heads = [override for override in arguments.overrides if override.startswith("head.")]
    if chosen := [override for override in arguments.overrides if override.startswith("head=")]:
        raise ConfigError(f"{chosen[0]}: average pooling and ML-Decoder are measured; leave it out")
    base = [*(() if arguments.choose_data else FROZEN), *NEEDED, *given]
    pooling, decoder = (
        build_config(compose.compose([*base, *more], arguments.config_dir))
        for more in (["head=gap"], ["head=ml_decoder", *PROBE, *heads])
    )
    sizes = {name: getattr(options, name) for name in ("images", "num_labels", "repeats", "memory")}
    return Measured(measure((pooling, decoder), **sizes), pooling.runtime.device, {}, pooling.runtime.precision)


@dataclass(frozen=True, kw_only=True)
class HeadsOptions(BenchmarkOptions):
    """Heads on the tokens of a frozen backbone: the rows of a table at probe scale, without those of other lengths."""

    table: str = "arena"  # whose rows are measured; the last one is what ratios are given over
    rows: tuple[str, ...] = ()  # keys of rows; default: all that are tuned
    num_labels: Labels | None = None  # default: those of the data that the table was written for
    seconds: Seconds = 1.0  # about how long each time is measured in a round


def measure_heads(options: HeadsOptions, arguments: compose.Arguments) -> Measured:
    from mldec.benchmarks.heads import measure
    from mldec.benchmarks.model import Case
    from mldec.benchmarks.record import Measured
    from mldec.paper.tables import find_table
    from mldec.paper.values import row_name

    compose.load_components(arguments.plugins)
    table = find_table(options.table, "probe")
    rows = [table.row(key) for key in options.rows] or table.tuned
    cases = []
    for row in rows:
        settings = [f"{key}={value}" for key, value in row.settings.items()]
        data = () if arguments.choose_data else ("dataset=digits",)  # which is not read
        overrides = [f"experiment={row.experiment}", *data, *settings, *arguments.overrides]
        config = build_config(compose.compose(overrides, arguments.config_dir))
        title = str(row.cells.get("method", row_name(table, row)))
        cases.append(Case(title, config, options.num_labels or row.needs.labels))
    runtime = cases[0].config.runtime
    figures = measure(cases, repeats=options.repeats, seconds=options.seconds)
    names = [{"title": case.title, "row": row.key} for case, row in zip(cases, rows, strict=True)]
    return Measured(figures, runtime.device, {"table": table.id, "cases": names}, runtime.precision)


#: The options of each subject,
SUBCOMMANDS: dict[str, type[BenchmarkOptions]]
SUBCOMMANDS = {
    "model": ModelOptions,
    "train": TrainOptions,
    "loader": LoaderOptions,
    "data": DataOptions,
    "cache": CacheOptions,
    "heads": HeadsOptions,
}
#: and the function that measures it.
MEASURES: dict[str, Callable[[Any, compose.Arguments], Measured]]
MEASURES = {
    "model": measure_model,
    "train": measure_train,
    "loader": measure_loader,
    "data": measure_data,
    "cache": measure_cache,
    "heads": measure_heads,
}


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    subject = argv[0]
    if subject not in SUBCOMMANDS:
        raise ConfigError(f"{shortened(subject)}: no such subject; {suggest(subject[:80], SUBCOMMANDS)}")
    options, arguments = parse(argv[1:], SUBCOMMANDS[subject], f"benchmark {subject}")
    from mldec.benchmarks.figure import as_grid, as_table
    from mldec.benchmarks.record import make_record, page
    from mldec.engine import run_directory

    measured = MEASURES[subject](options, arguments)
    table = as_grid(measured.figures) if subject in ("model", "heads") else as_table(measured.figures)
    say(table)
    record = make_record(subject, measured)
    if options.output is not None:
        run_directory.write_json(options.output, record)
    if options.page is not None:
        what, command = description(SUBCOMMANDS[subject]).partition("\n")[0], shlex.join(["mldec", "benchmark", *argv])
        write_text(options.page, page(subject, what, command, record, table))
    return 0


# The networks that are compared ---------------------------------------------------------------------------------------


def make_cases(options: ModelOptions, arguments: compose.Arguments) -> list[Case]:
    """All combinations of `num_labels` and `heads`, those with the same number of labels together."""
    from mldec.benchmarks.model import Case

    compose.load_components(arguments.plugins)
    by_head = _compose_heads(options.heads, arguments)
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


def _compose_heads(heads: Sequence[str], arguments: compose.Arguments) -> dict[str, dict[str, Any]]:
    """The composed experiment with each of `heads`, or as it is; by the name of the head.

    A setting given for `head` goes to the heads that have it. Raises ConfigError if none has.
    """
    overrides = arguments.overrides
    if not heads:
        mapping = compose.compose(overrides, arguments.config_dir)
        return {mapping["head"]["name"]: mapping}
    if chosen := [override for override in overrides if override.startswith("head=")]:
        raise ConfigError(f"{chosen[0]}: heads={','.join(heads)} chooses the heads; leave one of both out")
    given = {text: text.partition("=")[0].split(".")[1] for text in overrides if text.startswith("head.")}
    others = [override for override in overrides if override not in given]
    composed = {name: compose.compose([*others, f"head={name}"], arguments.config_dir) for name in heads}
    settings = {
        name: {field.name for field in dataclasses.fields(HEADS[mapping["head"]["name"]].config_class)}
        for name, mapping in composed.items()
    }
    for override, key in given.items():
        if not any(key in known for known in settings.values()):
            everything = {f"head.{setting}" for known in settings.values() for setting in known}
            raise ConfigError(f"{override}: no head of {', '.join(heads)} has it; {suggest(f'head.{key}', everything)}")
    return {
        name: compose.change(mapping, [override for override, key in given.items() if key in settings[name]])
        for name, mapping in composed.items()
    }


def _config(arguments: compose.Arguments) -> Config:
    """The experiment of the command line, by default digits."""
    default = () if arguments.choose_data else ("experiment=digits",)
    return compose_config(dataclasses.replace(arguments, overrides=(*default, *arguments.overrides)))
