"""Write the comment at the head of every experiment file that reproduces a row of the paper.

    python scripts/write_headers.py            # after a change of published.yaml, desk.yaml, an experiment or a record
    python scripts/write_headers.py table1     # those whose name begins so

Command, hardware, hours, published and obtained values come from the tables and from the records in docs/records. Hours
are an estimate, see mldec/paper/requirements.py.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mldec.commands import compose
from mldec.commands.table import TableOptions, make_planner
from mldec.paper.planning import Planner
from mldec.paper.requirements import describe_hardware, describe_start
from mldec.paper.tables import UNVERIFIED, WITHOUT_SEEDS, PaperTable, Scale, TableRow, load_tables
from mldec.paper.values import ResultValue, RowResult, result_values

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS, RECORDS = ROOT / "configs" / "experiment", ROOT / "docs" / "records"

#: Short names of rows; their files get the same comment.
SHORT = {"coco_tresnet_l": "table5/tresnet_l", "voc2007_tresnet_l": "table11/ml_decoder", "nuswide_zsl": "table3/none"}


def main(prefixes: Sequence[str]) -> None:
    compose.load_components(())
    for name in experiments():
        if not prefixes or name.startswith(tuple(prefixes)):
            path = EXPERIMENTS / f"{name}.yaml"
            text = with_header(path.read_text(encoding="utf-8"), header(name))
            path.write_text(text, encoding="utf-8")
            print(name)


def experiments() -> list[str]:
    """The experiments whose file has a comment."""
    rows = {row.experiment for scale in ("desk", "paper") for table in load_tables(scale) for row in table.reproduced}
    return sorted({name for name in rows if name is not None} | set(SHORT))


def with_header(text: str, lines: Sequence[str]) -> str:
    """An experiment file with `lines` in place of the comments at its head."""
    package, *rest = text.splitlines()
    while rest and rest[0].startswith("#"):
        del rest[0]
    return "\n".join([package, *(f"# {line}" for line in lines), *rest]) + "\n"


def header(name: str) -> list[str]:
    """The lines of an experiment's comment, without `# `."""
    scale: Scale = "desk" if name.startswith("desk/") else "paper"
    source = SHORT.get(name, name)
    found = [
        (table, row)
        for table in load_tables(scale)
        for row in table.rows
        if row.experiment == source and not row.settings  # with settings it is another run than the file's
    ]
    table, row = found[0]
    what = f"{table.name}{' at desk scale' if scale == 'desk' else ''}, {table.title}: {describe(table, row)}."
    if len(found) > 1:
        what = f"{table.name}, {table.title}: {row.cells['head']}, {len(found)} numbers of classes."
    lines = [*textwrap.wrap(what, 116), command(name, table, row)]
    facts = [cost(table, row, scale), *(result(table, row, scale) for table, row in found)]
    lines += textwrap.wrap(" ".join(facts), 116)
    if start := describe_start(row):
        lines += textwrap.wrap(f"Starts from {start}.", 116, break_on_hyphens=False)
    for note in dict.fromkeys(row.note for _, row in found if row.note):
        lines += textwrap.wrap(note, 116)
    return lines


def describe(table: PaperTable, row: TableRow) -> str:
    return ", ".join(f"{table.cells[column].lower()} {value}" for column, value in row.cells.items())


def command(name: str, table: PaperTable, row: TableRow) -> str:
    if table.kind == "benchmark":
        return f"mldec benchmark model experiment={name} num_labels=100,1000,5000"
    dataset = row.needs.dataset or ""
    root = "" if dataset.startswith("digits") else f" dataset.root=/path/to/{dataset}"
    return f"python train.py experiment={name}{root}"


def cost(table: PaperTable, row: TableRow, scale: Scale) -> str:
    """Hardware and time."""
    if scale == "desk":
        return "Minutes on two cores."
    rows = planner(scale)
    hardware = describe_hardware(row, rows.config(table, row), lambda: rows.cost(table, row).macs)
    return f"{hardware[0].upper()}{hardware[1:]}."


@cache
def planner(scale: Scale) -> Planner:
    """The planner of all tables of a scale, with the committed records."""
    return make_planner("all", TableOptions(scale=scale, records=RECORDS), compose.Arguments())


def result(table: PaperTable, row: TableRow, scale: Scale) -> str:
    """Published and obtained values."""
    published = []
    for name in _measured(table):
        if row.published.get(name) is not None:
            doubt = " (unverified)" if row.sources[name] in UNVERIFIED else ""
            published.append(f"{row.published[name]:g} {table.figures[name]}{doubt}")
    if row.expect == "out_of_memory":
        published = ["out of memory"]
    where = f"{row.needs.labels} classes: " if table.kind == "benchmark" else ""
    if scale == "desk":
        return f"Obtained: {obtained(table, row, scale)}."
    return f"Published: {where}{', '.join(published) or 'not known'}; obtained: {obtained(table, row, scale)}."


def obtained(table: PaperTable, row: TableRow, scale: Scale) -> str:
    """Mean and standard deviation over the seeds that have records."""
    records = planner(scale).records_of(table, row)
    if any(record.outcome == "out_of_memory" for record in records):
        return "out of memory"
    values = result_values(table, RowResult(row=row, records=records))
    found = {name: value for name, value in values.items() if name in _measured(table) and value.mean is not None}
    if not found:
        return "not run"
    shown = [f"{_with_spread(value)} {table.figures[name]}" for name, value in found.items()]
    return f"{', '.join(shown)} ({len(records)} {'rounds' if table.kind == 'benchmark' else 'seeds'})"


def _measured(table: PaperTable) -> list[str]:
    return [name for name in table.figures if name not in WITHOUT_SEEDS]


def _with_spread(value: ResultValue) -> str:
    assert value.mean is not None
    digits = 0 if value.mean >= 200 else 2
    spread = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread}"


if __name__ == "__main__":
    main(sys.argv[1:])
