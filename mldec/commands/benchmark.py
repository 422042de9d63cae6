"""`mldec benchmark`: every figure of speed and memory in docs comes from here."""

from __future__ import annotations

import dataclasses
import datetime
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mldec.commands import compose
from mldec.config import Config, build_config
from mldec.errors import ConfigError, DataError, suggest
from mldec.registry import HEADS

if TYPE_CHECKING:  # torch is only imported where something is measured
    from mldec.benchmarks.figure import Figure
    from mldec.benchmarks.model import Case

REPORT_WORDS = ("output", "page", "compare")
NUM_GROUPS = 100  # K of an ML-Decoder for which none is set: that of the paper's Table 9

HELP = """usage: mldec benchmark data [scale=1] [repeats=3] [folder=DIR] [output=FILE] [page=FILE] [compare=FILE]
       mldec benchmark model experiment=NAME labels=N[,N…] [heads=NAME[,NAME…]] [group=choice …] [key=value …]
                             [repeats=3] [seconds=2] [output=FILE] [page=FILE] [compare=FILE]

{subjects}

data
  scale=0.01     a part of the size, to see that it runs; targets belong to scale=1
  repeats=3      how often what is short is measured; the median counts
  folder=DIR     where generated files lie while it runs; default: the system's temporary folder
model
  labels=100,1000        how many labels; the dataset itself is not read
  heads=gap,ml_decoder   heads to compare, at each number of labels; the first is what others are compared with. What is
                         set for one head (head.num_groups=100) is left out where a head has no such setting
  head.num_groups=K      ML-Decoder's queries, at most one a label; default: 100; null: one a label
  repeats=3              rounds, in which all are measured in turn; the median counts
  seconds=2              about how long training and inference are measured in a round
both
  output=FILE    write the figures, device and versions as JSON
  page=FILE      write them as a page of Markdown
  compare=FILE   show ratios to the figures of an earlier output"""


class Measured(NamedTuple):
    """What a subject gives: its figures, the device (runtime.device), and what else belongs into the record."""

    figures: list[Figure]
    device: str
    details: dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP.format(subjects="\n".join(f"{name:<8} {subject.what}" for name, subject in SUBJECTS.items())))
        return 0
    if argv[0] not in SUBJECTS:
        raise ConfigError(f"{argv[0]}: no such subject; {suggest(argv[0], SUBJECTS)}")
    subject = SUBJECTS[argv[0]]
    arguments = compose.parse(argv[1:], own=(*subject.words, *REPORT_WORDS))
    if arguments.help:
        return main([])
    if arguments.multirun:
        raise ConfigError("-m: a benchmark is one run; several values go into heads=a,b and labels=1,2")
    own = arguments.own
    from mldec.benchmarks.figure import Figure, as_grid, as_table
    from mldec.engine import tracking
    from mldec.engine.device import choose_device

    earlier = [Figure(**figure) for figure in _read(Path(own["compare"]))["figures"]] if "compare" in own else []
    figures, device, details = subject.measure(arguments)
    table = as_grid(figures) if subject.grid else as_table(figures, earlier)
    if subject.grid and earlier:
        table += "\n\n" + as_table(figures, earlier)
    print(table)
    record = {
        "subject": argv[0],
        "date": datetime.date.today().isoformat(),
        "environment": tracking.environment(choose_device(device)),
        **details,
        "figures": [dataclasses.asdict(figure) for figure in figures],
    }
    if "output" in own:
        tracking.write_json(Path(own["output"]), record)
    if "page" in own:
        tracking.write_text(Path(own["page"]), _page(argv, record, table))
    return 0


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
    cases = _cases(arguments)
    from mldec.benchmarks.model import measure

    figures = measure(cases, repeats=repeats, seconds=seconds)
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
        }
        for case in cases
    ]
    details = {"repeats": repeats, "seconds": seconds, "cases": described}
    return Measured(figures, cases[0].config.runtime.device, details)


class Subject(NamedTuple):
    """Something that can be measured: what it is, its own words, how, and whether things are compared in a grid."""

    what: str
    words: tuple[str, ...]
    measure: Callable[[compose.Arguments], Measured]
    grid: bool = False


SUBJECTS = {
    "data": Subject(
        "Building, opening and sharing the index, at the sizes of COCO and Open Images (10 minutes, 6 GB)",
        ("scale", "repeats", "folder"),
        _measure_data,
    ),
    "model": Subject(
        "Training and inference of networks, as in the paper's Table 9: images a second, memory, cost",
        ("heads", "labels", "repeats", "seconds"),
        _measure_model,
        grid=True,
    ),
}


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
    if not word.isdecimal() or not 1 <= int(word) <= 10**6:
        raise ConfigError(f"{name}={word}: expected a whole number of at least 1")
    return int(word)


def _number(own: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(own.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 < value <= 1000:
        raise ConfigError(f"{name}={own[name]}: expected a number above 0")
    return value


# Records and pages ----------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record.get("figures"), list):
            raise ValueError("no figures in it")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"compare={path}: is no output of mldec benchmark: {error}") from None
    return record


def _page(argv: Sequence[str], record: dict[str, Any], table: str) -> str:
    environment = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    what, _, _ = SUBJECTS[argv[0]].what.partition(" (")
    return (
        f"# Benchmark: {argv[0]}\n\n{what}. "
        f"Written by `mldec benchmark {' '.join(argv)}` on {record['date']}.\n\n"
        f"{environment['device']}. Python {environment['python']}, {versions}. Commit {environment['commit']}.\n\n"
        f"{table}\n"
    )
