"""`mldec benchmark`: every figure of speed and memory in docs comes from here."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mldec.commands import compose
from mldec.errors import ConfigError, DataError, suggest

SUBJECTS = {"data": "Building, opening and sharing the index, at the sizes of COCO and Open Images (10 minutes, 6 GB)"}

HELP = """usage: mldec benchmark SUBJECT [scale=1] [repeats=3] [output=FILE] [page=FILE] [compare=FILE]

{subjects}

  scale=0.01     a part of the size, to see that it runs; targets belong to scale=1
  repeats=3      how often what is short is measured; the median counts
  folder=DIR     where generated files lie while it runs; default: the system's temporary folder
  output=FILE    write the figures, device and versions as JSON
  page=FILE      write them as a page of Markdown
  compare=FILE   show ratios to the figures of an earlier output"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP.format(subjects="\n".join(f"  {name:<12} {what}" for name, what in SUBJECTS.items())))
        return 0
    if argv[0] not in SUBJECTS:
        raise ConfigError(f"{argv[0]}: no such subject; {suggest(argv[0], SUBJECTS)}")
    words = ("scale", "repeats", "folder", "output", "page", "compare")
    arguments = compose.parse(argv[1:], own=words)
    if arguments.help:
        return main([])
    if arguments.overrides:
        raise ConfigError(f"{arguments.overrides[0]}: no such word; {suggest(arguments.overrides[0], words)}")
    own = arguments.own
    from mldec.benchmarks.figure import Figure, as_table
    from mldec.engine import tracking
    from mldec.engine.device import choose_device

    earlier = [Figure(**figure) for figure in _read(Path(own["compare"]))["figures"]] if "compare" in own else []
    subject: Any = importlib.import_module(f"mldec.benchmarks.{argv[0]}")
    with tempfile.TemporaryDirectory(prefix="mldec-", dir=own.get("folder")) as folder:
        figures = subject.measure(
            Path(folder),
            scale=_number(own, "scale", 1.0),
            repeats=round(_number(own, "repeats", 3)),
        )
    table = as_table(figures, earlier)
    print(table)
    record = {
        "subject": argv[0],
        "date": datetime.date.today().isoformat(),
        "environment": tracking.environment(choose_device("cpu")),
        "figures": [dataclasses.asdict(figure) for figure in figures],
    }
    if "output" in own:
        tracking.write_json(Path(own["output"]), record)
    if "page" in own:
        tracking.write_text(Path(own["page"]), _page(argv, record, table))
    return 0


def _number(own: dict[str, str], name: str, default: float) -> float:
    try:
        value = float(own.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 < value <= 1000:
        raise ConfigError(f"{name}={own[name]}: expected a number above 0")
    return value


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
    what, _, _ = SUBJECTS[argv[0]].partition(" (")
    return (
        f"# Benchmark: {argv[0]}\n\n{what}. "
        f"Written by `mldec benchmark {' '.join(argv)}` on {record['date']}.\n\n"
        f"{environment['device']}. Python {environment['python']}, {versions}. Commit {environment['commit']}.\n\n"
        f"{table}\n"
    )
