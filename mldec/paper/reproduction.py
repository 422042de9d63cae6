"""Runs what is missing of a table, in this process's care or as commands for other machines."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mldec.engine import data_splits
from mldec.engine.display import Display
from mldec.errors import DataError
from mldec.paper.planning import Planner
from mldec.paper.runner import Failure, Job, run_jobs, shell_lines
from mldec.paper.tables import PaperTable, TableRow


@dataclass
class ReproductionStatus:
    """What went wrong so far.

    Attributes:
        failures: runs that failed.
        unavailable: by experiment, the dataset that cannot be used, as "coco in /data/coco".
        stopped: the exit code of a stop that the user or the system requested, else 0.
    """

    failures: list[Failure] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    stopped: int = 0


def reproduce(planner: Planner, table: PaperTable, status: ReproductionStatus, display: Display) -> None:
    """Run what has no record yet; failures are added to `status`. Afterwards the planner has read all records."""
    if table.kind == "benchmark":
        # One process measures all rows in turn, by itself: other load on the machine affects all of them alike.
        _run(planner, [planner.benchmark_job(table)], status, display, alone=True)
        return
    rows = [
        row
        for row in planner.rows(table)
        if planner.is_complete(table, row) or _is_available(planner, table, row, status, display)
    ]
    # A setting is chosen on val first, with one seed; a best value at the edge adds candidates.
    searched: set[str] = set()
    while jobs := [j for row in rows for j in planner.search_jobs(table, row) if j.key not in searched]:
        searched |= {job.key for job in jobs}
        if not _run(planner, jobs, status, display):
            return
    # Seed by seed, so that an interrupted table has rows to compare.
    jobs = [job for row in rows for job in planner.final_jobs(table, row)]
    _run(planner, sorted(jobs, key=lambda job: job.seed), status, display)


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


def _run(
    planner: Planner, jobs: list[Job], status: ReproductionStatus, display: Display, *, alone: bool = False
) -> bool:
    """Run jobs and read their records; returns whether to continue.

    `alone`: one at a time, with no runtime settings but the user's.
    """
    workspace = planner.request.workspace
    if alone:
        workspace = replace(workspace, slots=workspace.slots[:1], runtime=planner.request.runtime)
    outcome = run_jobs(jobs, workspace, display)
    planner.read_records()
    status.failures += outcome.failures
    status.stopped = outcome.stopped
    return not outcome.stopped


def _is_available(
    planner: Planner, table: PaperTable, row: TableRow, status: ReproductionStatus, display: Display
) -> bool:
    """Whether a row's dataset can be read; each dataset that cannot is reported once, with where to get it."""
    assert row.experiment is not None
    config = planner.config(table, row)
    dataset = f"{config.dataset.name} in {config.dataset.folder}"
    if dataset not in status.unavailable.values():
        try:
            data_splits.build_splits(config)
            return True
        except DataError as error:
            display.say(f"warning: {config.dataset.name} cannot be used; rows that need it are skipped\n{error}\n")
    status.unavailable[row.experiment] = dataset
    return False
