"""Records: a JSON file with the result of each row and seed, from which every report is made.

A record belongs to a configuration, identified by the digest of its settings. Rows of two tables that are the same
training share its record. A record of other settings, or of another version of this file format, is listed in the
report but not used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from mldec.config import Config, Range, Seed, build_options, to_mapping
from mldec.data.dataset import DatasetConfig
from mldec.engine.data_splits import read_recorded
from mldec.engine.metric_writer import read_records
from mldec.engine.run_directory import MOST_JSON, read_metadata, write_json
from mldec.errors import MldecError, printable, printable_name, shortened, whole_number
from mldec.untrusted import read_json

VERSION = 1

BENCHMARK = "benchmark.json"  # in the run directory of a benchmark: its measurements

#: What a record keeps of a run's environment.
KEPT = ("device", "precision", "threads", "python", "platform", "packages", "mldec", "commit")

#: Figures that a benchmark measures, by its subject, and what `mldec benchmark` calls them.
QUANTITIES = {
    "model": {
        "train_speed": "training",
        "inference_speed": "inference",
        "largest_batch": "largest training batch",
        "peak_memory": "peak memory of training",
    },
    "heads": {"latency_1": "logits of 1 image", "latency_64": "logits of 64 images"},
}

#: Settings that change where and how a run executes, but not its result.
NEUTRAL = ("name", "output", "run_dir", "runtime", "recipe")

#: Settings that are newer than the first records, and the value that reproduces the behaviour before they existed.
#: With that value they are left out of the key, so that a new setting does not invalidate earlier records.
ADDED: Mapping[tuple[str, str], Any] = {
    ("dataset", "interpolation"): None,
    ("dataset", "split_folders"): False,
    ("dataset", "unseen"): None,
    ("backbone", "freeze"): "none",
    ("optimizer", "layer_decay"): 1.0,
    ("backbone", "final_norm"): "auto",
    ("head", "source"): "patch",
    ("loss", "label_smoothing_toward"): "half",
    ("protocol", "zsl_images"): "all",
    ("protocol", "gzsl_images"): "all",
}

#: Settings that there are no longer, and the value that they have in the key of every record.
REMOVED: Mapping[tuple[str, str], Any] = {("backbone", "checkpoint"): None}

LARGEST = 1e100  # of a record's numbers; beyond it sums and squares overflow
MOST_LABELS = 100_000  # of a record, whose network is built to count its cost
Number = Annotated[float, Range(low=-LARGEST, high=LARGEST)]
Metrics = Annotated[Mapping[str, Number | None], "an object of numbers, or null where there is none"]
Scalar = str | int | float | bool | None
Environment = Annotated[Mapping[str, Scalar | Mapping[str, Scalar]], "an object of texts and numbers"]


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Which run a job or a record belongs to.

    Attributes:
        table, row, scale, seed: what it is run for.
        key: digest of its settings, see `config_key`.
        experiment, overrides: options that run it again, without the seed.
    """

    table: str
    row: str
    scale: str
    seed: Seed
    key: str
    experiment: str
    overrides: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """These fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(RunIdentity)}


@dataclass(frozen=True, kw_only=True)
class Record(RunIdentity):
    """The result of one run of a row.

    Attributes:
        outcome: "finished", or "out_of_memory" where that is the result.
        protocol: the protocol of the metrics.
        metrics: of the test split, or the figures of a benchmark.
        val: metrics of the val split at the best epoch; empty where nothing was trained.
        best: of these, the metric by which epochs are compared.
        seconds: of the whole run, evaluations included, summed over all times it was resumed.
        peak_memory: in bytes, `host` and (on a GPU) `device`.
        environment: device, versions, commit.
        labels: how many are trained; None in older records, and of a benchmark.
    """

    outcome: Literal["finished", "out_of_memory"]
    protocol: str
    metrics: Metrics
    val: Metrics = field(default_factory=dict)
    best: Number | None = None
    seconds: Number | None = None
    peak_memory: Annotated[Mapping[str, int], "an object of numbers"] = field(default_factory=dict)
    environment: Environment = field(default_factory=dict)
    labels: Annotated[int, Range(low=1, high=MOST_LABELS)] | None = None
    version: int = VERSION

    @property
    def file_name(self) -> str:
        """`table1_gap_seed0_1a2b3c4d.json`."""
        return f"{self.table}_{self.row}_seed{self.seed}_{self.key[:8]}.json"


class RecordSet(NamedTuple):
    """The records of a folder by key, and the files that were skipped, each with the reason."""

    by_key: dict[str, Record]
    skipped: dict[Path, str]


def config_key(*configs: Config) -> str:
    """16 hex digits of all settings but `NEUTRAL`, which differ whenever two runs may have different results.

    Settings of `ADDED` count where they differ from the earlier behaviour. Limits of a run
    (`runtime.limit_train_batches`, …) count as settings. Device and precision do not, and are in the record; nor does
    the folder of the dataset. A run that starts from another experiment has the settings of both: pass both configs.
    """
    trees = []
    for config in configs:
        settings = to_mapping(config)
        runtime = settings["runtime"]
        for name in NEUTRAL:
            del settings[name]
        root = settings["dataset"].pop("root", None)
        settings["dataset"].pop("cache", None)
        _within_folder(settings["dataset"], config.dataset)
        embeddings = settings["head"].get("label_embeddings") or {}
        if root and embeddings.get("source", "").startswith(f"{root}/"):  # the published vectors lie with the images
            embeddings["source"] = embeddings["source"].removeprefix(f"{root}/")
        for (group, name), earlier in ADDED.items():
            if settings[group].get(name) == earlier:
                settings[group].pop(name, None)
        settings |= {group: {**settings[group], name: earlier} for (group, name), earlier in REMOVED.items()}
        if settings["backbone"]["normalize"] == "auto" and not settings["backbone"]["pretrained"]:
            settings["backbone"]["normalize"] = "unit"  # the same, under its only name of earlier records
        cache = settings.pop("cache")
        if cache["tokens"]:
            settings["tokens"] = {name: cache[name] for name in ("views", "dtype")}
        settings["limits"] = {name: value for name, value in runtime.items() if name.startswith("limit_") and value}
        trees.append(settings)
    return hashlib.sha256(json.dumps(trees, sort_keys=True).encode()).hexdigest()[:16]


def _within_folder(settings: dict[str, Any], dataset: DatasetConfig) -> None:
    """Make paths of files in the dataset's folder relative to it: where it lies does not change a result."""
    folder = os.path.join(os.path.abspath(dataset.folder), "")
    for name in dataset.paths:
        path = settings.get(name)
        if isinstance(path, str) and (absolute := os.path.abspath(os.path.expanduser(path))).startswith(folder):
            settings[name] = absolute.removeprefix(folder)


def write_record(folder: Path, record: Record) -> Path:
    """Write a record atomically; returns its path."""
    path = folder / record.file_name
    write_json(path, asdict(record))
    return path


def find_records(folder: Path, pattern: str = "*.json") -> RecordSet:
    """All records in a folder. A file that is no record, of another version, or with a wrong entry is skipped with a
    reason that is safe to print."""
    found = RecordSet({}, {})
    for path in sorted(folder.glob(pattern)) if folder.is_dir() else []:
        try:
            record = _record(read_json(path, most=MOST_JSON))
        except (MldecError, OSError, ValueError, RecursionError) as error:
            found.skipped[path] = printable(str(error))
        else:
            earlier = found.by_key.setdefault(record.key, record)
            if earlier != record:
                found.skipped[path] = f"{earlier.file_name} is of the same run, and has another content; delete one"
    return found


def has_record(folder: Path, key: str) -> bool:
    """Whether a folder has the record of a configuration; only files whose name has its key are read."""
    return key in find_records(folder, f"*_{key[:8]}.json").by_key


def record_of_run(folder: Path, training: RunIdentity) -> Record:
    """The record of a finished run directory. Raises ValueError if the run has no result yet."""
    records = read_records(folder / "metrics.jsonl")
    test = next((r for r in reversed(records) if r["kind"] == "test"), None)
    if test is None:
        raise ValueError(f"{folder} has no result: its metrics.jsonl ends without a test record")
    metrics = {name: value for name, value in test.items() if isinstance(value, float) or value is None}
    chosen = next((r for r in records if r["kind"] == "eval" and r["epoch"] == test["epoch"]), None)
    return Record(
        **training.identity(),
        outcome="finished",
        protocol=test["protocol"],
        metrics=metrics,
        val={} if chosen is None else chosen[chosen["reported"]],
        best=None if chosen is None else chosen["best"],
        **_circumstances(folder),
    )


def record_without_memory(folder: Path, training: RunIdentity) -> Record:
    """The record of a run whose result is that it runs out of memory, with the device that it was tried on."""
    return Record(**training.identity(), outcome="out_of_memory", protocol="", metrics={}, **_circumstances(folder))


def _circumstances(folder: Path) -> dict[str, Any]:
    """Cost and environment from a run directory, as far as a run that ended early has written them."""
    cost = read_metadata(folder / "cost.json")
    return {
        "seconds": cost.get("seconds"),
        "peak_memory": cost.get("peak_memory", {}),
        "environment": _kept(read_metadata(folder / "environment.json")),
        "labels": read_recorded(folder).get("train", {}).get("labels"),
    }


def _kept(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: environment[name] for name in KEPT if name in environment}


def record_of_benchmark(folder: Path, training: RunIdentity) -> Record:
    """The record of a finished benchmark, with all rows: `<row>.<figure>.<round>` of `QUANTITIES`.

    A benchmark of networks does not know its rows; they are called `<head>_<labels>`.
    """
    content = read_json(folder / BENCHMARK, most=MOST_JSON)
    figures = {figure["name"]: figure for figure in content["figures"]}
    metrics = {}
    for case in content["cases"]:
        row = case.get("row") or f"{case['head']}_{case['labels']}"
        for name, quantity in QUANTITIES[content["subject"]].items():
            figure = figures.get(f"{case['title']}: {quantity}", {"value": None, "samples": ()})
            for number, value in enumerate(figure["samples"] or [figure["value"]]):
                metrics[f"{row}.{name}.{number}"] = value
    return Record(
        **training.identity(),
        outcome="finished",
        protocol="",
        metrics=metrics,
        environment=_kept(content["environment"]),
    )


def _record(content: Any) -> Record:
    """A record from the content of its file, which may come from anybody. Raises ConfigError or ValueError."""
    if not isinstance(content, dict):
        raise ValueError("is not a record")
    if content.get("version") != VERSION:
        version = shortened(content.get("version"))
        raise ValueError(f"is a record of version {version}; this mldec writes version {VERSION}")
    unsafe = next((text for text in _texts(content) if printable_name(text) != text), None)
    if unsafe is not None:
        raise ValueError(f"holds {shortened(unsafe)}; expected text without control characters")
    return build_options(Record, content, "a record")


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested lists and objects, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in (*value, *(value.values() if isinstance(value, dict) else ())):
            yield from _texts(item)


def rounds_of_row(record: Record, row: str) -> tuple[Record, ...]:
    """The part of a benchmark's record for a row, as one record per round that measured it."""
    rounds: dict[int, dict[str, float | None]] = {}
    for name, value in record.metrics.items():
        measured, _, place = name.partition(f"{row}.")
        figure, _, number = place.rpartition(".")
        if not measured and (index := whole_number(number)) is not None:
            rounds.setdefault(index, {})[figure] = value
    return tuple(replace(record, row=row, seed=number, metrics=rounds[number]) for number in sorted(rounds))
