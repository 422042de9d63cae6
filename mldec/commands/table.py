"""`mldec table`: run the rows of a table of the paper over their seeds, and show published values beside them."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from mldec.commands import compose
from mldec.commands.options import EXPERIMENT, OutputDirectory, OutputFile, parse
from mldec.commands.table_plan import Request, benchmark_job, chosen_words, configs_of, final_jobs, search_jobs
from mldec.commands.table_report import lines_of, report_table, write_page
from mldec.config import Natural, Range, Some
from mldec.errors import ConfigError, DataError, shortened

if TYPE_CHECKING:
    from mldec.paper.report import Line
    from mldec.paper.runner import Failure, Job
    from mldec.paper.tables import Row, Scale, Table

RunSeed = Annotated[int, Range(0, 10**18 - 1)]


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Run every row of a table of the paper over its seeds, and print published beside obtained values.

    mldec table 5                      1 to 14, figure5, figure6, all; list prints what is in each
    make table-5                       the same as mldec table 5
    python scripts/reproduce.py table=5
    dataset.root=DIR …                 any setting, for every run

    Each run is a process of its own. What was interrupted resumes with the same command; what is finished is not run
    again. DIR of `output` gets runs/, and each table as Markdown, CSV, LaTeX and PNG.
    """

    SETTINGS = EXPERIMENT

    table: str | None = None  # the table, as an option
    scale: Literal["paper", "desk"] = "paper"  # desk: built-in digit scenes, minutes to two hours on a laptop
    seeds: tuple[RunSeed, ...] | None = None  # default 0,1,2; at desk scale 0,1,2,3,4 where a run takes under 3 minutes
    choose_seed: RunSeed | None = None  # with which settings are chosen, where a row does; default: the first seed
    rows: tuple[str, ...] = ()  # some rows alone; default: all that are reproduced
    jobs: Some | None = None  # processes at a time; default: one per GPU, or one per core
    gpus: tuple[Natural, ...] | None = None  # which GPUs; default: all
    launcher: Literal["local", "print", "slurm"] = "local"  # run here; print the commands; a script for a job array
    report_only: bool = False  # run nothing, only report the records that exist
    output: OutputDirectory | None = None  # default outputs/tables/SCALE
    records: OutputDirectory | None = None  # the results, a JSON file per run; default OUTPUT/records
    page: OutputFile | None = None  # write one page of all tables that were named


OPTIONS = TableOptions

SHORTENS = ("runtime.limit_", "runtime.overfit")  # settings of the runtime that change results


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    named = [item for item in argv if "=" not in item and not item.startswith("-")]
    options, arguments = parse([item for item in argv if item not in named], TableOptions, "table")
    named += [] if options.table is None else [options.table]
    if not named:
        raise ConfigError("no table named; use mldec table 5, for example; mldec table list prints all")
    if len(named) > 1:
        raise ConfigError(f"{shortened(' '.join(named))}: one table at a time, or all")
    compose.load_components(arguments.plugins)
    if named[0] == "list":
        return _list(options.scale)
    request = make_request(named[0], options, arguments)
    if request.launcher != "local":
        return _launch(request)
    return _reproduce(request)


def make_request(name: str, options: TableOptions, arguments: compose.Arguments) -> Request:
    """What a command line requests of the table `name`, or of all. Raises ConfigError for options without a meaning."""
    from mldec.paper.runner import Place
    from mldec.paper.tables import find_table, load_tables

    tables = load_tables(options.scale) if name == "all" else (find_table(name, options.scale),)
    if options.rows and len(tables) > 1:
        raise ConfigError(f"rows={','.join(options.rows)}: belongs to one table; name it instead of all")
    for key in options.rows:
        if tables[0].row(key).experiment is None:
            raise ConfigError(f"rows={key}: {tables[0].name} quotes it from the literature; there is nothing to run")
    _refuse_settings_of_rows(arguments)
    output = (options.output or Path("outputs") / "tables" / options.scale).absolute()
    slots, runtime = _slots(options)
    executing = tuple(override for override in arguments.overrides if _only_executes(override))
    place = Place(
        records=(options.records or output / "records").absolute(),
        runs=output / "runs",
        slots=slots,
        runtime=(*runtime, *executing),
        components=_components(arguments),
    )
    return Request(
        name=name,
        tables=tables,
        scale=options.scale,
        seeds=options.seeds or (),
        choose_seed=options.choose_seed,
        rows=options.rows,
        launcher=options.launcher,
        run=not options.report_only,
        output=output,
        page=options.page,
        place=place,
        typed_runtime=executing,
        overrides=tuple(override for override in arguments.overrides if override not in executing),
        config_dir=arguments.config_dir,
    )


def _components(arguments: compose.Arguments) -> tuple[str, ...]:
    """The arguments by which other processes find the user's own components and configs, too."""
    plugins = (f"plugins=[{','.join(arguments.plugins)}]",) if arguments.plugins else ()
    folder = arguments.config_dir
    return plugins if folder is None else (*plugins, f"--config-dir={Path(folder).expanduser().absolute()}")


def _slots(options: TableOptions) -> tuple[tuple[dict[str, str], ...], tuple[str, ...]]:
    """The environment of each process that may run at a time, and the overrides that all of them get."""
    import torch

    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))  # a job on a shared node may use only these
    there = torch.cuda.device_count()
    numbers = range(there) if options.gpus is None else options.gpus
    if any(number >= there for number in numbers):
        raise ConfigError(f"gpus={','.join(map(str, numbers))}: there are {there} GPUs here, counted from 0")
    gpus = [str(number) for number in numbers]
    # Where only some GPUs are to be used, numbers count within these.
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    gpus = [visible[int(gpu)] if len(visible) == there else gpu for gpu in gpus]
    jobs = options.jobs or len(gpus) or cores
    if gpus:
        return tuple({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} for number in range(jobs)), ()
    # Without a GPU one process per core with one thread each is the most that a machine can do.
    threads = max(1, cores // jobs)
    return ({},) * jobs, (f"runtime.threads={threads}", f"runtime.workers={0 if threads == 1 else 1}")


# Running --------------------------------------------------------------------------------------------------------------


def _reproduce(request: Request) -> int:
    """Run what is missing of each table, report all of them; returns the exit code."""
    from mldec.paper.records import find_records

    failures: list[Failure] = []
    absent: dict[str, str] = {}
    stopped = 0
    lines: dict[str, list[Line]] = {}
    for table in request.tables:
        if request.run and not stopped:
            stopped = _run(table, request, failures, absent)
        found = find_records(request.place.records)
        lines[table.id] = lines_of(table, request, found, failures, absent)
        report_table(table, lines[table.id], request, found)
    if request.page is not None:
        write_page(request, lines)
    for failure in failures:
        print(f"error: failed: {failure}", file=sys.stderr)
    if stopped:
        print("note: stopped; the same command resumes", file=sys.stderr)
        return stopped
    return 1 if failures or absent else 0


def _run(table: Table, request: Request, failures: list[Failure], absent: dict[str, str]) -> int:
    """Run a table; what fails or cannot run is added to the last two. Returns the exit code of a stop, else 0."""
    from mldec.engine.display import Display
    from mldec.paper.records import find_records
    from mldec.paper.runner import run_jobs

    if table.kind == "benchmark":
        # One process measures all rows in turn, by itself: what else the machine does hits all alike.
        alone = dataclasses.replace(request.place, slots=request.place.slots[:1], runtime=request.typed_runtime)
        outcome = run_jobs([benchmark_job(table, request)], alone, Display())
        failures += outcome.failures
        return outcome.stopped
    known = find_records(request.place.records).by_key
    rows = []
    for row in request.rows_of(table):
        jobs = final_jobs(table, row, request)
        finished = bool(jobs) and all(job.key in known for job in jobs)
        if finished or _is_there(row, request, absent):
            rows.append(row)
    # A setting that is chosen on val is chosen first, with one seed; a best value at the edge adds candidates.
    searched: set[str] = set()
    while planned := [j for row in rows for j in search_jobs(table, row, request) if j.key not in searched]:
        searched |= {job.key for job in planned}
        outcome = run_jobs(planned, request.place, Display())
        failures += outcome.failures
        if outcome.stopped:
            return outcome.stopped
    # Seed by seed, so that a table that is cut off has rows to compare.
    planned = [job for row in rows for job in final_jobs(table, row, request)]
    outcome = run_jobs(sorted(planned, key=lambda job: job.seed), request.place, Display())
    failures += outcome.failures
    return outcome.stopped


def _is_there(row: Row, request: Request, absent: dict[str, str]) -> bool:
    """Whether a row's dataset is at hand; reports once for each missing one where it should be and how to get it."""
    from mldec.engine import build

    assert row.experiment is not None
    config = configs_of(row.experiment, request.overrides, request.config_dir)[0]
    dataset = f"{config.dataset.name} in {config.dataset.folder}"
    if dataset not in absent.values():
        try:
            build.build_splits(config)
            return True
        except DataError as error:
            print(
                f"warning: {config.dataset.name} cannot be used, so rows that need it are left out\n{error}\n",
                file=sys.stderr,
            )
    absent[row.experiment] = dataset
    return False


def _launch(request: Request) -> int:
    """Print what would be run, as commands or as a job array."""
    from mldec.paper.records import find_records
    from mldec.paper.runner import shell_lines, slurm_script

    known = find_records(request.place.records).by_key
    shared = [f"output={request.output}", f"records={request.place.records}", f"choose_seed={request.search_seed}"]
    shared += [*request.typed_runtime, *request.overrides, *request.place.components]
    pending: dict[str, tuple[Job, bool]] = {}
    for table in request.tables:
        if table.kind == "benchmark":
            job = benchmark_job(table, request)
            pending |= {} if job.key in known else {job.key: (job, False)}
            continue
        for row in request.rows_of(table):
            chosen = chosen_words(table, row, request)
            jobs = search_jobs(table, row, request) if chosen is None else final_jobs(table, row, request)
            pending |= {job.key: (job, chosen is None) for job in jobs if job.key not in known}
    # A row that chooses a setting runs its candidates in one task, which then continues with the seed itself.
    lines = list(dict.fromkeys(line for job, _ in pending.values() for line in shell_lines([job], shared)))
    if not lines:
        print("# nothing is left to run")
        return 0
    name = request.tables[0].id if len(request.tables) == 1 else "all"
    print(slurm_script(name, lines) if request.launcher == "slurm" else "\n".join(lines))
    if any(searching for _, searching in pending.values()):
        print("# some rows choose a setting with the first seed; the other seeds are listed once that is done")
    return 0


def _list(scale: Scale) -> int:
    from mldec.paper.tables import load_tables

    for table in load_tables(scale):
        print(f"{table.name}: {table.title}")
        for row in table.rows:
            what = ", ".join(str(value) for value in row.cells.values())
            print(f"  {row.key:<26} {what:<44} {row.experiment or 'quoted'}")
    return 0


# Options ----------------------------------------------------------------------------------------------------------------


def _only_executes(override: str) -> bool:
    """Whether an override sets where and how fast a run executes, and not what of it."""
    name = compose.key_of(override)
    return name == "runtime" or (name.startswith("runtime.") and not name.startswith(SHORTENS))


def _refuse_settings_of_rows(arguments: compose.Arguments) -> None:
    """Raise ConfigError for overrides that mean something else here than in a single training."""
    instead = {"seed": "seeds=0,1,2", "run_dir": "output=DIR", "experiment": "rows=…", "name": "output=DIR"}
    for override in arguments.overrides:
        if (name := compose.key_of(override)) in instead:
            raise ConfigError(f"{override}: every row has its own; use {instead[name]}")
