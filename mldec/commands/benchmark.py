"""`mldec benchmark`: every figure of speed and memory in docs comes from here."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldec.commands import compose
from mldec.commands.benchmark_subjects import REPORT_WORDS, SUBJECTS
from mldec.commands.options import file_for_output, refuse_overwriting
from mldec.errors import ConfigError, DataError, shortened, suggest

if TYPE_CHECKING:
    from mldec.benchmarks.figure import Figure

HELP = """usage: mldec benchmark SUBJECT [word=value …] [output=FILE] [page=FILE] [compare=FILE]

{subjects}

all
  output=FILE    write the figures, device and versions as JSON
  page=FILE      write them as a page of Markdown
  compare=FILE   show ratios to the figures of an earlier output
all but ema, model and startup
  scale=0.01     a part of the size, to see that it runs; targets belong to scale=1
  repeats=3      rounds, in which all are measured in turn; the median counts
  seconds=1      about how long each rate is measured in a round
  runtime.threads=2 runtime.device=cpu runtime.precision=bf16      as in training
data
  folder=DIR     where generated files lie while it runs; default: the system's temporary folder
loader
  experiment=NAME [key=value …]   its images and augmentation; default: generated images, the paper's augmentation
  workers=1,2,4                   numbers of workers
train
  experiment=NAME [key=value …]   default: digits
  steps=40                        of a round
  images=512 labels=80          generated JPEG files of 640 x 427 with that many labels; the dataset is not read
model experiment=NAME labels=N[,N…] [key=value …]
  labels=100,1000        how many labels; the dataset itself is not read
  heads=gap,ml_decoder   heads to compare, at each number of labels; the first is what others are compared with. What is
                         set for one head (head.num_groups=100) is left out where a head has no such setting
  head.num_groups=K      ML-Decoder's queries, at most one a label; default: 100; null: one a label
  repeats=3              rounds, in which all are measured in turn; the median counts
  seconds=2              about how long training and inference are measured in a round
  largest_batch=false    do not search for the largest batch that can be trained, which takes 15 times as long"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP.format(subjects="\n".join(f"{name:<8} {subject.what}" for name, subject in SUBJECTS.items())))
        return 0
    if argv[0] not in SUBJECTS:
        raise ConfigError(f"{shortened(argv[0])}: no such subject; {suggest(argv[0][:80], SUBJECTS)}")
    subject = SUBJECTS[argv[0]]
    arguments = compose.parse(argv[1:], own=(*subject.words, *REPORT_WORDS), multirun=True)
    if arguments.help:
        return main([])
    if arguments.multirun:
        raise ConfigError("-m: a benchmark is one run; several values go into heads=a,b and labels=1,2")
    own = arguments.own
    output = file_for_output(own, "output", "", "figures.json") if "output" in own else None
    page = file_for_output(own, "page", "", "figures.md") if "page" in own else None
    for name, path in (("output", output), ("page", page)):
        refuse_overwriting(name, [path] if path else [], [own["compare"]] if "compare" in own else [])
    from mldec.benchmarks.figure import as_grid, as_table
    from mldec.engine import environment, run_directory
    from mldec.engine.device import choose_device, choose_precision

    earlier = _read(Path(own["compare"])) if "compare" in own else []
    figures, name, details, precision = subject.measure(arguments)
    table = as_grid(figures) if subject.grid else as_table(figures, earlier)
    if subject.grid and earlier:
        table += "\n\n" + as_table(figures, earlier)
    print(table)
    device = choose_device(name)
    record = {
        "subject": argv[0],
        "date": datetime.date.today().isoformat(),
        "environment": environment.environment(device, choose_precision(precision, device)),
        **details,
        "figures": [dataclasses.asdict(figure) for figure in figures],
    }
    if output is not None:
        run_directory.write_json(output, record)
    if page is not None:
        run_directory.write_text(page, _page(argv, record, table))
    return 0


# Records and pages ----------------------------------------------------------------------------------------------------


def _read(path: Path) -> list[Figure]:
    from mldec.benchmarks.figure import Figure
    from mldec.data.files import read_bytes
    from mldec.engine.run_directory import MOST_JSON

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
    what, _, _ = SUBJECTS[argv[0]].what.partition(" (")
    return (
        f"# Benchmark: {argv[0]}\n\n{what}. "
        f"Written by `mldec benchmark {' '.join(argv)}` on {record['date']}.\n\n"
        f"{environment['device']}. Python {environment['python']}, {versions}. Commit {environment['commit']}.\n\n"
        f"{table}\n"
    )
