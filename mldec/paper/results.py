"""What the rows of a table obtained, written as Markdown, CSV, LaTeX and PNG, and as one page of several tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mldec.files import write_text
from mldec.paper import exports, findings, plots, report
from mldec.paper.planning import ALL, Planner
from mldec.paper.requirements import describe_requirements
from mldec.paper.runner import Outcome
from mldec.paper.tables import COUNTED, PaperTable, load_tables
from mldec.paper.values import RowResult

INTRODUCTIONS = {
    "probe": "The comparisons of the paper's tables on photographs, with a frozen backbone whose ImageNet weights come "
    "as a Python package, the `standard` protocol and three to five seeds: settings are chosen on val, metrics are of "
    "test. Each table is one command on any data set ([photographs.md](photographs.md)). Absolute values cannot be "
    "compared with the paper's, whose backbones are trained.",
    "desk": "The comparisons of the paper's tables on [digit scenes](digits.md), with a small residual network, the "
    "`standard` protocol and three to five seeds: settings are chosen on val, metrics are of test. Each table is one "
    "command, such as `mldec table 1 scale=desk` ([tables.md](tables.md)). Absolute values cannot be compared with the "
    "paper's. A finding that holds here is some evidence for it; one that does not hold is little evidence against it. "
    "Settings and experiments were renamed since some records were made: their keys were migrated by renaming, and the "
    "golden loss curve of the tests is the proof that the training is the same.",
    "paper": "Published values beside those obtained with the experiments of the same rows ([tables.md](tables.md)).",
}


def row_results(planner: Planner, table: PaperTable, outcome: Outcome | None = None) -> list[RowResult]:
    """The result of each row of a table, whether it was to be run or not; `outcome`: what could not be run."""
    outcome = outcome or Outcome()
    published = {row.key: row for paper in load_tables("paper") if paper.id == table.id for row in paper.rows}
    failed = {failure.job.row: failure for failure in outcome.failures if failure.job.table == table.id}
    results = []
    for row in table.rows:
        result = RowResult(row=row, published=published.get(row.key, row if row.published else None))
        if row.experiment is None:
            result = replace(result, status="literature")
        elif failure := failed.get(row.key) or failed.get(ALL):
            result = replace(result, status=f"failed: exit code {failure.code}, see {failure.log}")
        elif row.experiment in outcome.unavailable:
            result = replace(result, status=f"dataset absent: {outcome.unavailable[row.experiment]}")
        results.append(result if row.experiment is None else _with_records(planner, table, result))
    return results


def _with_records(planner: Planner, table: PaperTable, result: RowResult) -> RowResult:
    """A result with the row's records, the settings it chose, the size of its network and what a run requires."""
    row, sizes, needs = result.row, None, ""
    records, chosen = planner.records_of(table, row), planner.chosen(table, row) or ()
    if any(name in COUNTED for name in table.figures):
        cost = planner.cost(table, row)
        sizes = {"macs": cost.macs / 1e9, "parameters": cost.parameters}
    if not records and planner.request.scale == "paper":  # at desk scale a run takes minutes
        needs = describe_requirements(row, planner.config(table, row), lambda: planner.cost(table, row).macs)
    settings, tried = dict(override.split("=", 1) for override in chosen), planner.tried(table, row)
    rounds = planner.rounds_of(table, row)
    return replace(result, records=records, rounds=rounds, sizes=sizes, chosen=settings, tried=tried, needs=needs)


def write_table(planner: Planner, table: PaperTable, results: Sequence[RowResult]) -> str:
    """Write a table as Markdown, CSV, LaTeX and, where it is a figure, PNG; returns its text for the terminal."""
    path = planner.request.output / table.id
    text = report.markdown(table, results, _leftover_records(planner, table, results))
    claims = findings.plateaus(table, results), findings.findings(table, results)
    text += "".join(f"\n{claim}\n" for claim in claims if claim)
    write_text(path.with_suffix(".md"), text)
    write_text(path.with_suffix(".csv"), exports.csv_text(table, results))
    write_text(path.with_suffix(".tex"), exports.latex(table, results))
    drawn = plots.draw(table, results, path.with_suffix(".png"))
    plot = f"\nplot written to {path}.png\n" if drawn else ""
    return f"{table.name}: {table.title}\n{table.about}\n\n{text}{plot}"


def write_page(
    planner: Planner,
    results: Mapping[str, Sequence[RowResult]],
    path: Path,
    command: str,
    title: str | None = None,
) -> None:
    """Write one page of the request's tables.

    Args:
        results: of each table's rows, by table id.
        path: the Markdown file; plots go to `images/` beside it.
        command: what writes the page, for its head.
        title: of the page; None: that of its scale.
    """
    scale, sections = planner.request.scale, []
    for table in planner.request.tables:
        image = f"images/{scale}-{table.id}.png"
        drawn = plots.draw(table, results[table.id], path.parent / image)
        sections.append(report.PageSection(table, results[table.id], plot=image if drawn else None))
    title = title or ("Results" if scale == "paper" else f"Results at {scale} scale")
    introduction = INTRODUCTIONS[scale]
    if scale == "probe" and (networks := _networks(planner, results)):
        introduction += f"\n\nBackbones: {', '.join(networks)}."
    write_text(path, report.page(sections, command=command, title=title, introduction=introduction))


def _networks(planner: Planner, results: Mapping[str, Sequence[RowResult]]) -> list[str]:
    """The backbones of the rows that have records: `tf_efficientnet_lite1 at 240 px`."""
    found = set()
    for table in planner.request.tables:
        for result in results[table.id]:
            if result.records and table.kind == "training":
                config = planner.config(table, result.row)
                found.add(f"{config.backbone.network} at {config.dataset.image_size} px")
    return sorted(found)


def _leftover_records(planner: Planner, table: PaperTable, results: Sequence[RowResult]) -> dict[Path, str]:
    """Records that are not shown: of another version, or of this table with other settings than it has now."""
    used = {record.key for result in results for record in result.records}
    used |= {job.key for row in table.reproduced for job in planner.search_jobs(table, row)}
    seeds = {seed for row in table.reproduced for seed in planner.seeds(table, row)}
    others = dict(planner.records.skipped)
    for key, record in planner.records.by_key.items():
        here = (record.table, record.scale) == (table.id, planner.request.scale) and record.seed in seeds
        if here and key not in used:
            path = planner.request.workspace.records / record.file_name
            others[path] = "was made with other settings than the row has now"
    return others
