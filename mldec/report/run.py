"""The files of a run directory. Any may be missing or damaged: then there is a sentence about it."""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mldec.engine.metric_writer import describe_damaged, scan_records
from mldec.engine.run_directory import MOST_JSON, run_directory_of, runs_within
from mldec.engine.settings_file import MOST_BYTES, read_settings
from mldec.errors import CheckpointError, MldecError, first_lines, whole_number
from mldec.labels import from_cell
from mldec.untrusted import open_text, read_bytes, read_json

T = TypeVar("T")

LARGEST = 1e100  # of what a run records; beyond it sums and squares overflow


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    Attributes:
        folder: where they lie.
        config: config.yaml as nested plain values, and `config_text` as it is written; empty if it is not there.
        train, evals, tests: records of metrics.jsonl by kind.
        data, environment, cost: what the JSON files of these names hold; empty if they are not there.
        average_precision: of per_class_ap.csv, by label: AP in 0..1 (nan where undefined) and positives.
        problems: what is wrong with files that are there, by name of the file.
    """

    folder: Path
    config: dict[str, Any]
    config_text: str
    train: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    tests: list[dict[str, Any]]
    data: dict[str, Any]
    environment: dict[str, Any]
    cost: dict[str, Any]
    average_precision: dict[str, tuple[float, int]]
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The experiment's name, or the folder's."""
        return str(self.config.get("name") or self.folder.resolve().name)

    def setting(self, path: str) -> Any:
        """A value of the config by its dotted path; None if there is none."""
        value: Any = self.config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def facts(self, split: str) -> Mapping[str, Any]:
        """The entry of data.json for a split: images, labels, fingerprint; {} if there is none."""
        found = self.data.get(split)
        return found if isinstance(found, dict) else {}

    def date(self) -> str:
        """When its best checkpoint was written (UTC), which does not change with the report; else empty."""
        for name in ("best", "last"):
            path = self.folder / "checkpoints" / f"{name}.pt"
            if path.is_file():
                moment = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
                return f"{moment:%Y-%m-%d %H:%M} UTC"
        return ""


def read_run(source: str | Path) -> RunFiles:
    """The run directory `source`, or that of a checkpoint `source`.

    Raises CheckpointError if there is nothing of a run.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise CheckpointError(f"no run directory or checkpoint at {path}")
    folder = run_directory_of(path) if path.is_file() else path
    problems: dict[str, str] = {}

    def read(name: str, reader: Callable[[Path], T], nothing: T) -> T:
        if (folder / name).is_symlink():  # to a private file, perhaps, whose text the page would show
            problems[name] = f"{name} is a symbolic link, which a report does not follow; replace it with the file"
            return nothing
        try:
            return reader(folder / name) if (folder / name).is_file() else nothing
        except (MldecError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            problems[name] = f"{name} is damaged: {first_lines(error)}"
            return nothing

    nothing: tuple[list[dict[str, Any]], list[int]] = [], []
    records, damaged = read("metrics.jsonl", scan_records, nothing)
    if damaged:
        problems["metrics.jsonl"] = describe_damaged(Path("metrics.jsonl"), damaged)
    kinds = {kind: [record for record in records if record.get("kind") == kind] for kind in ("train", "eval", "test")}
    run = RunFiles(
        folder=folder,
        config=read("config.yaml", read_settings, {}),
        config_text=read("config.yaml", _text, ""),
        train=kinds["train"],
        evals=kinds["eval"],
        tests=kinds["test"],
        data=read("data.json", _object, {}),
        environment=read("environment.json", _object, {}),
        cost=read("cost.json", _object, {}),
        average_precision=read("per_class_ap.csv", _per_class, {}),
        problems=problems,
    )
    if path.is_dir() and not run.config_text and not records and not list((folder / "checkpoints").glob("*.pt")):
        raise CheckpointError(
            f"{path} is not a run directory of mldec: no config.yaml, metrics.jsonl or checkpoints{runs_within(path)}"
        )
    return run


def number(value: Any) -> float:
    """A recorded value as a finite number; nan for null and whatever else is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > LARGEST:
        return math.nan
    return float(value)


def flat(settings: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Nested settings by dotted path, each as it is written on one line."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{path}{key}.")
        else:
            found[f"{path}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return found


def _text(path: Path) -> str:
    return read_bytes(path, most=MOST_BYTES).decode("utf-8", "replace")


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path, most=MOST_JSON)
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    return content


def _per_class(path: Path) -> dict[str, tuple[float, int]]:
    found = {}
    with open_text(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        try:
            for row in rows:
                label, text, positives = row["label"], row["average_precision"], whole_number(row["positives"] or "")
                if not label or text is None or positives is None or (text and not 0 <= float(text) <= 100):
                    raise ValueError("expected a label, its AP in percent or nothing, and a number of positives")
                found[from_cell(label)] = (float(text) / 100 if text else math.nan, positives)
        except KeyError as error:
            raise ValueError(f"no column {error}") from None
        except (csv.Error, ValueError) as error:
            raise ValueError(f"line {rows.line_num}: {error}") from None
    return found
