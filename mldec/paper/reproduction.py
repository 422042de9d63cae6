"""Runs what is missing of a table, in this process's care or as commands for other machines."""

from __future__ import annotations

from dataclasses import replace

from mldec.engine import data_splits
from mldec.engine.display import Display
from mldec.errors import DataError
from mldec.paper.planning import Planner
from mldec.paper.runner import Job, Outcome, run_jobs, shell_lines
from mldec.paper.tables import PaperTable, TableRow


def reproduce(planner: Planner, table: PaperTable, outcome: Outcome, display: Display) -> None:
    """Run what has no record yet; `outcome` gets what could not be run. Afterwards the planner has read all records."""
    workspace = planner.request.workspace
    if table.kind == "benchmark":
        _measure(planner, table, outcome, display)
        return
    rows = [
        row
        for row in planner.rows(table)
        if planner.is_complete(table, row) or _is_available(planner, table, row, outcome, display)
    ]
    # A setting is chosen on val first, with one seed; a best value at the edge adds candidates.
    searched: set[str] = set()
    while jobs := {job.key: job for row in rows for job in planner.search_jobs(table, row) if job.key not in searched}:
        searched |= jobs.keys()
        stopped = run_jobs(list(jobs.values()), workspace, display, outcome).stopped
        planner.read_records()
        if stopped:
            return
    # Seed by seed, so that an interrupted table has rows to compare.
    final = [job for row in rows for job in planner.final_jobs(table, row)]
    stopped = run_jobs(sorted(final, key=lambda job: job.seed), workspace, display, outcome).stopped
    planner.read_records()
    if table.benchmark and not planner.request.rows and not stopped:
        _measure(planner, table, outcome, display)


def pending_commands(planner: Planner, options: list[str]) -> tuple[list[str], bool]:
    """A shell command for each run without a record, and whether some rows still have to choose a setting.

    A row that chooses a setting runs its candidates in one command, which then runs the seed itself.

    Args:
        options: what every command gets, such as output=….
    """
    jobs: dict[str, Job] = {}
    searching = False
    for table in planner.request.tables:
        if table.kind == "benchmark":
            planned = [planner.benchmark_job(table)]
            jobs |= {job.key: job for job in planned if job.key not in planner.records.by_key}
            continue
        for row in planner.rows(table):
            undecided = planner.chosen(table, row) is None
            planned = planner.search_jobs(table, row) if undecided else planner.final_jobs(table, row)
            missing = {job.key: job for job in planned if job.key not in planner.records.by_key}
            jobs |= missing
            searching |= undecided and bool(missing)
    return list(dict.fromkeys(shell_lines(list(jobs.values()), options))), searching


def _measure(planner: Planner, table: PaperTable, outcome: Outcome, display: Display) -> None:
    """Run a table's benchmark: one process measures all rows in turn.

    It runs by itself, with no runtime settings but the user's: other load on the machine then affects all rows alike.
    """
    workspace = planner.request.workspace
    alone = replace(workspace, slots=workspace.slots[:1], runtime=planner.request.runtime)
    run_jobs([planner.benchmark_job(table)], alone, display, outcome)
    planner.read_records()


def _is_available(planner: Planner, table: PaperTable, row: TableRow, outcome: Outcome, display: Display) -> bool:
    """Whether a row's dataset can be read; each dataset that cannot is reported once, with where to get it."""
    assert row.experiment is not None
    config = planner.config(table, row)
    dataset = f"{config.dataset.name} in {config.dataset.folder}"
    if dataset not in outcome.unavailable.values():
        try:
            data_splits.build_splits(config)
            return True
        except DataError as error:
            display.say(f"warning: {config.dataset.name} cannot be used; rows that need it are skipped\n{error}\n")
    outcome.unavailable[row.experiment] = dataset
    return False
