"""What `mldec table` shows: of each row its records, its size and what was published, as text, files and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldec.commands.table_needs import needs
from mldec.commands.table_plan import (
    ALL,
    Request,
    benchmark_job,
    chosen_words,
    configs_of,
    job_of,
    search_jobs,
    tried,
)

if TYPE_CHECKING:
    from mldec.paper.records import Found, Record
    from mldec.paper.report import Line
    from mldec.paper.runner import Failure
    from mldec.paper.tables import Row, Table

INTRODUCTIONS = {
    "desk": "The comparisons of the paper's tables on [digit scenes](digits.md), with a small residual network, the "
    "`standard` protocol and three to five seeds: choices on val, figures on test. Each table is one command, as in "
    "`mldec table 1 scale=desk` ([tables.md](tables.md)). Absolute values say nothing about the paper's; whether a "
    "finding holds here is some evidence for it, and that it does not hold is little against it.",
    "paper": "Published values beside those obtained with the experiments of the same rows ([tables.md](tables.md)).",
}


def lines_of(
    table: Table, request: Request, found: Found, failures: Sequence[Failure], absent: dict[str, str]
) -> list[Line]:
    """What is shown of each row, whether it was asked for or not."""
    from mldec.paper.report import Line
    from mldec.paper.tables import COUNTED, load_tables

    paper = next(other for other in load_tables("paper") if other.id == table.id)
    published = {row.key: row for row in paper.rows}
    failed = {failure.job.row: failure for failure in failures if failure.job.table == table.id}
    if table.kind == "benchmark" and failed:
        failed = {row.key: failed[ALL] for row in table.rows}
    counted = any(name in COUNTED for name in table.figures)
    lines = []
    for row in table.rows:
        records: tuple[Record, ...] = ()
        chosen: dict[str, Any] = {}
        status = "literature"
        if row.experiment is not None:
            records, chosen = records_of_row(table, row, request, found)
            status = "not run"
            if row.key in failed:
                status = f"failed: exit code {failed[row.key].code}, see {failed[row.key].log}"
            elif row.experiment in absent:
                status = f"dataset absent: {absent[row.experiment]}"
        lines.append(
            Line(
                row=row,
                records=records,
                sizes=_sizes(row, request) if counted and row.experiment is not None else None,
                status=status,
                published=published.get(row.key),
                chosen=chosen,
                tried=tried(table, row, request) if row.choose else {},
                needs="" if records else _needs(row, request),
            )
        )
    return lines


def records_of_row(table: Table, row: Row, request: Request, found: Found) -> tuple[tuple[Record, ...], dict[str, Any]]:
    """The records of a row, one a seed, and the settings that it chose."""
    from mldec.paper.records import rounds_of_row

    if table.kind == "benchmark":
        record = found.by_key.get(benchmark_job(table, request).key)
        return (() if record is None else rounds_of_row(record, row.key)), {}
    words = chosen_words(table, row, request)
    if words is None:
        return (), {}
    jobs = [job_of(table, row, seed, words, request) for seed in request.seeds_of(table, row)]
    chosen = dict(word.split("=", 1) for word in words)
    return tuple(found.by_key[job.key] for job in jobs if job.key in found.by_key), chosen


def _needs(row: Row, request: Request) -> str:
    """What a run of a row takes; nothing to say at desk scale."""
    if row.experiment is None or request.scale == "desk":
        return ""
    return needs(configs_of(row.experiment, request.overrides, request.config_dir)[0], row)


def _sizes(row: Row, request: Request) -> dict[str, float]:
    """Multiply-accumulates [G] and parameters of a row's network, counted."""
    from mldec.benchmarks.network import count_cost

    assert row.experiment is not None
    config = configs_of(row.experiment, request.overrides, request.config_dir)[0]
    cost = count_cost(config, row.needs.labels)
    return {"macs": cost.macs / 1e9, "parameters": cost.parameters}


def report_table(table: Table, lines: Sequence[Line], request: Request, found: Found) -> None:
    """Print a table, and write it as Markdown, CSV, LaTeX and, where it is a figure, PNG."""
    from mldec.engine.tracking import write_text
    from mldec.paper import plots, report

    others = _others(table, lines, request, found)
    text = report.markdown(table, lines, request.scale, others)
    if table.plateau:
        text += f"\n{report.plateaus(table, lines)}\n"
    if table.findings:
        text += f"\n{report.findings(table, lines)}\n"
    print(f"\n{table.name}: {table.title}\n{table.about}\n\n{text}", flush=True)
    path = request.output / table.id
    write_text(path.with_suffix(".md"), text)
    write_text(path.with_suffix(".csv"), report.csv_text(table, lines, request.scale))
    write_text(path.with_suffix(".tex"), report.latex(table, lines, request.scale))
    if plots.draw(table, lines, request.scale, path.with_suffix(".png")):
        print(f"drawn in {path}.png")


def _others(table: Table, lines: Sequence[Line], request: Request, found: Found) -> dict[Path, str]:
    """Records that are not shown: of another version, or of this table with other settings than it has now."""
    shown = {record.key for line in lines for record in line.records}
    candidates_of = {job.key for row in table.reproduced for job in search_jobs(table, row, request)}
    seeds = {seed for row in table.reproduced for seed in request.seeds_of(table, row)}
    others = dict(found.others)
    for key, record in found.by_key.items():
        here = (record.table, record.scale) == (table.id, request.scale) and record.seed in seeds
        if here and key not in shown | candidates_of:
            others[request.place.records / record.file_name] = "was made with other settings than the row has now"
    return others


def write_page(request: Request, lines: dict[str, list[Line]]) -> None:
    """Write one page of all tables that were asked for."""
    from mldec.engine.tracking import write_text
    from mldec.paper import plots, report

    assert request.page is not None
    parts = []
    for table in request.tables:
        image = request.page.parent / "images" / f"{request.scale}-{table.id}.png"
        drawn = plots.draw(table, lines[table.id], request.scale, image)
        parts.append(report.Part(table, lines[table.id], request.scale, plot=f"images/{image.name}" if drawn else None))
    places = f"records={_from_here(request.place.records)} page={_from_here(request.page)}"
    text = report.page(
        parts,
        command=f"mldec table {request.name} scale={request.scale} report_only=true {places}",
        title="Results at desk scale" if request.scale == "desk" else "Results",
        introduction=INTRODUCTIONS[request.scale],
    )
    write_text(request.page, text)
    print(f"written to {request.page}")


def _from_here(path: Path) -> Path:
    """A path as it is typed from the folder that one stands in, where it lies below it."""
    absolute = path.absolute()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else path
