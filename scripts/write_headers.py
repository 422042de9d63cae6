"""Write the comment at the head of every experiment file that reproduces a row of the paper.

    python scripts/write_headers.py            # after a change of published.yaml, desk.yaml, an experiment or a record
    python scripts/write_headers.py table1     # those whose name begins so

Command, hardware, hours, published and obtained values come from the tables and from the records in docs/records. Hours
are an estimate, see mldec/commands/table_needs.py.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from mldec.commands import compose
from mldec.commands import table as door
from mldec.commands.table_needs import hardware, starts_from
from mldec.commands.table_report import records_of_row
from mldec.config import Config, build_config
from mldec.paper.records import find_records
from mldec.paper.report import Line, Value, cell_values
from mldec.paper.tables import COUNTED, UNVERIFIED, Row, Scale, Table, load_tables

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS, RECORDS = ROOT / "configs" / "experiment", ROOT / "docs" / "records"

#: Short names of rows, whose files get the same comment.
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
    """All experiments that get a comment."""
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
    table, first = found[0]
    config = build_config(compose.compose([f"experiment={name}"]))
    what = f"{table.name}{' at desk scale' if scale == 'desk' else ''}, {table.title}: {describe(table, first)}."
    if len(found) > 1:
        what = f"{table.name}, {table.title}: {first.cells['head']}, {len(found)} numbers of classes."
    lines = textwrap.wrap(what, 116)
    lines.append(command(name, table, config))
    lines += textwrap.wrap(
        " ".join([cost(config, first, scale), *(result(table, row, scale) for _, row in found)]), 116
    )
    if start := starts_from(first):
        lines += textwrap.wrap(f"Starts from {start}.", 116, break_on_hyphens=False)
    for note in dict.fromkeys(row.note for _, row in found if row.note):
        lines += textwrap.wrap(note, 116)
    return lines


def describe(table: Table, row: Row) -> str:
    return ", ".join(f"{table.cells[column].lower()} {value}" for column, value in row.cells.items())


def command(name: str, table: Table, config: Config) -> str:
    if table.kind == "benchmark":
        return f"mldec benchmark model experiment={name} labels=100,1000,5000"
    root = "" if config.dataset.name.startswith("digits") else f" dataset.root=/path/to/{config.dataset.name}"
    return f"python train.py experiment={name}{root}"


def cost(config: Config, row: Row, scale: Scale) -> str:
    """Hardware and time."""
    if scale == "desk":
        return "Minutes on two cores."
    words = hardware(config, row)
    return f"{words[0].upper()}{words[1:]}."


def result(table: Table, row: Row, scale: Scale) -> str:
    """What was published and what was obtained."""
    measured = [name for name in table.figures if name not in COUNTED]
    published = []
    for name in measured:
        if row.published.get(name) is not None:
            doubt = " (unverified)" if row.sources[name] in UNVERIFIED else ""
            published.append(f"{row.published[name]:g} {table.figures[name]}{doubt}")
    if row.expect == "out_of_memory":
        published = ["out of memory"]
    where = f"{row.needs.labels} classes: " if table.kind == "benchmark" else ""
    said = f"Published: {where}{', '.join(published) or 'not known'}; " if scale == "paper" else ""
    return f"{said}{'obtained' if said else 'Obtained'}: {obtained(table, row, scale)}."


def obtained(table: Table, row: Row, scale: Scale) -> str:
    """Mean and standard deviation over the seeds whose records are there."""
    request = door.make_request(table.id, compose.parse([f"scale={scale}", f"records={RECORDS}"], own=door.OWN))
    records, _ = records_of_row(table, row, request, find_records(RECORDS))
    if any(record.outcome == "out_of_memory" for record in records):
        return "out of memory"
    values = cell_values(table, Line(row=row, records=records), scale)
    found = {name: value for name, value in values.items() if name not in COUNTED and value.mean is not None}
    if not found:
        return "not run"
    said = [f"{_with_spread(value)} {table.figures[name]}" for name, value in found.items()]
    return f"{', '.join(said)} ({len(records)} {'rounds' if table.kind == 'benchmark' else 'seeds'})"


def _with_spread(value: Value) -> str:
    assert value.mean is not None
    digits = 0 if value.mean >= 200 else 2
    spread = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread}"


if __name__ == "__main__":
    main(sys.argv[1:])
