"""Speed and memory: every such figure of the documentation comes from here."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldec.commands.benchmark_subjects import SUBJECTS
from mldec.commands.help import description
from mldec.commands.options import parse
from mldec.errors import ConfigError, DataError, shortened, suggest
from mldec.files import refuse_overwriting

if TYPE_CHECKING:
    from mldec.benchmarks.figure import Figure

SUBCOMMANDS = {name: subject.options for name, subject in SUBJECTS.items()}


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    if argv[0] not in SUBJECTS:
        raise ConfigError(f"{shortened(argv[0])}: no such subject; {suggest(argv[0][:80], SUBJECTS)}")
    subject = SUBJECTS[argv[0]]
    options, arguments = parse(argv[1:], subject.options, f"benchmark {argv[0]}")
    for name, path in (("output", options.output), ("page", options.page)):
        refuse_overwriting(name, [path] if path else [], [options.compare] if options.compare else [])
    from mldec.benchmarks.figure import as_grid, as_table
    from mldec.engine import tracking
    from mldec.engine.device import choose_device, choose_precision

    earlier = _read(options.compare) if options.compare else []
    figures, name, details, precision = subject.measure(options, arguments)
    table = as_grid(figures) if subject.grid else as_table(figures, earlier)
    if subject.grid and earlier:
        table += "\n\n" + as_table(figures, earlier)
    print(table)
    device = choose_device(name)
    record = {
        "subject": argv[0],
        "date": datetime.date.today().isoformat(),
        "environment": tracking.environment(device, choose_precision(precision, device)),
        **details,
        "figures": [dataclasses.asdict(figure) for figure in figures],
    }
    if options.output is not None:
        tracking.write_json(options.output, record)
    if options.page is not None:
        tracking.write_text(options.page, _page(argv, record, table))
    return 0


# Records and pages ----------------------------------------------------------------------------------------------------


def _read(path: Path) -> list[Figure]:
    from mldec.benchmarks.figure import Figure
    from mldec.data.files import read_bytes
    from mldec.engine.tracking import MOST_JSON

    try:
        record = json.loads(read_bytes(path, most=MOST_JSON).decode("utf-8"))
        if not isinstance(record.get("figures"), list):
            raise ValueError("no figures in it")
        figures = [Figure(**figure) for figure in record["figures"]]
        if not all(isinstance(f.name, str) and isinstance(f.value, (int, float, type(None))) for f in figures):
            raise ValueError("a figure of it has no name, or no number as its value")
        return figures
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"compare={shortened(path)}: is no output of mldec benchmark: {shortened(error)}") from None


def _page(argv: Sequence[str], record: dict[str, Any], table: str) -> str:
    environment = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    what, _, _ = description(SUBJECTS[argv[0]].options).partition("\n")[0].partition(" (")
    return (
        f"# Benchmark: {argv[0]}\n\n{what}. "
        f"Written by `{shlex.join(['mldec', 'benchmark', *argv])}` on {record['date']}.\n\n"
        f"{environment['device']}. Python {environment['python']}, {versions}. Commit {environment['commit']}.\n\n"
        f"{table}\n"
    )
