"""`mldec table`: run the rows of a table of the paper over their seeds, and show what was published beside it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mldec.commands import compose
from mldec.commands.options import MOST_WORKERS, file_for_output, folder_for_output, listed, switch, whole
from mldec.commands.table_plan import Request, benchmark_job, chosen_words, configs_of, final_jobs, search_jobs
from mldec.commands.table_report import lines_of, report_table, write_page
from mldec.errors import ConfigError, DataError, shortened, suggest

if TYPE_CHECKING:
    from mldec.paper.report import Line
    from mldec.paper.runner import Failure, Job
    from mldec.paper.tables import Row, Scale, Table

HELP = """usage: mldec table TABLE [scale=paper|desk] [key=value …]
       make table-5                       the same as mldec table 5
       python scripts/reproduce.py table=5

Runs every row of a table over its seeds, each in a process of its own, and prints the table with published and obtained
values side by side. What was cut off goes on when the command is typed again; what is finished is not run again.

  TABLE                 1 to 14, figure5, figure6, all; list shows what is in each
  scale=desk            the form that runs on built-in digit scenes, in minutes to two hours on a laptop
  seeds=0,1,2           the seeds; default 0,1,2; at desk scale 0,1,2,3,4 where a run takes under 3 minutes
  choose_seed=0         the seed with which settings are chosen, where a row does; default the first one
  rows=gap,ml_decoder   some rows alone; default all that are reproduced
  jobs=2                processes at a time; default one a GPU, or one a core
  gpus=0,1              which GPUs; default all
  launcher=local        run here; print: the commands, one a line; slurm: a script for a job array
  run=false             run nothing, only report what there is
  output=DIR            default outputs/tables/SCALE: runs/, and each table as Markdown, CSV, LaTeX and PNG
  records=DIR           the results, a JSON file a run; default OUTPUT/records
  page=FILE             write one page of all tables asked for
  dataset.root=DIR …    any setting, for every run"""

OWN = ("scale", "seeds", "choose_seed", "rows", "jobs", "gpus", "launcher", "run", "output", "records", "page", "table")
SCALES = ("paper", "desk")
SHORTENS = ("runtime.limit_", "runtime.overfit")  # settings of the runtime after which a result is another one
MOST_SEED = 10**18 - 1
LAUNCHERS = ("local", "print", "slurm")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    named = [word for word in argv if "=" not in word and not word.startswith("-")]
    arguments = compose.parse([word for word in argv if word not in named], own=OWN, multirun=True)
    if "table" in arguments.own:
        named.append(arguments.own["table"])
    if arguments.help or not named:
        print(HELP)
        return 0
    if len(named) > 1:
        raise ConfigError(f"{' '.join(named)}: one table at a time, or all")
    compose.load_components(arguments.plugins)
    if named[0] == "list":
        return _list(_choice(arguments.own, "scale", SCALES))
    request = make_request(named[0], arguments)
    if request.launcher != "local":
        return _launch(request)
    return _reproduce(request)


def make_request(name: str, arguments: compose.Arguments) -> Request:
    """What a command line asks for of the table `name`, or of all. Raises ConfigError for words that mean nothing."""
    from mldec.paper.runner import Place
    from mldec.paper.tables import find_table, load_tables

    own = arguments.own
    scale = cast("Scale", _choice(own, "scale", SCALES))
    tables = load_tables(scale) if name == "all" else (find_table(name, scale),)
    rows = tuple(listed(own.get("rows", "")))
    if rows and len(tables) > 1:
        raise ConfigError(f"rows={own['rows']}: belongs to one table; name it instead of all")
    for key in rows:
        if tables[0].row(key).experiment is None:
            raise ConfigError(f"rows={key}: {tables[0].name} quotes it from the literature; there is nothing to run")
    output = folder_for_output(own, "output", Path("outputs") / "tables" / scale).absolute()
    slots, runtime = _slots(own)
    place = Place(
        records=folder_for_output(own, "records", output / "records").absolute(),
        runs=output / "runs",
        slots=slots,
        runtime=(*runtime, *(word for word in arguments.overrides if _only_executes(word))),
        components=_components(arguments),
    )
    _refuse_own_words(arguments)
    seeds = tuple(whole(word, "seeds", least=0, most=MOST_SEED) for word in listed(own.get("seeds", "")))
    if not seeds and "seeds" in own:
        raise ConfigError(f"seeds={own['seeds']}: none; type seeds=0,1,2")
    return Request(
        name=name,
        tables=tables,
        scale=scale,
        seeds=seeds,
        choose_seed=whole(own["choose_seed"], "choose_seed", least=0, most=MOST_SEED) if "choose_seed" in own else None,
        rows=rows,
        launcher=_choice(own, "launcher", LAUNCHERS),
        run=switch(own, "run", True),
        output=output,
        page=file_for_output(own, "page", "", "tables.md") if "page" in own else None,
        place=place,
        typed_runtime=tuple(word for word in arguments.overrides if _only_executes(word)),
        overrides=tuple(word for word in arguments.overrides if not _only_executes(word)),
        config_dir=arguments.config_dir,
    )


def _components(arguments: compose.Arguments) -> tuple[str, ...]:
    """The words by which other processes find the user's own components and configs, too."""
    plugins = (f"plugins=[{','.join(arguments.plugins)}]",) if arguments.plugins else ()
    folder = arguments.config_dir
    return plugins if folder is None else (*plugins, f"--config-dir={Path(folder).expanduser().absolute()}")


def _slots(own: dict[str, str]) -> tuple[tuple[dict[str, str], ...], tuple[str, ...]]:
    """The environment of each process that may run at a time, and the overrides that all of them get."""
    import torch

    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))  # of a job on a shared node, those that it was given
    there = torch.cuda.device_count()
    gpus = listed(own["gpus"]) if "gpus" in own else [str(number) for number in range(there)]
    if "gpus" in own and not gpus:
        raise ConfigError("gpus=: none; type gpus=0,1, or runtime.device=cpu to use none")
    for gpu in gpus:
        if whole(gpu, "gpus", least=0) >= there:
            raise ConfigError(f"gpus={own['gpus']}: there are {there} GPUs here, counted from 0")
    # Where only some GPUs are to be used, numbers count within these.
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    gpus = [visible[int(gpu)] if len(visible) == there else gpu for gpu in gpus]
    jobs = whole(own["jobs"], "jobs", most=MOST_WORKERS) if "jobs" in own else len(gpus) or cores
    if gpus:
        return tuple({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} for number in range(jobs)), ()
    # Without a GPU a process a core with one thread is the most that a machine can do.
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
        print(f"failed: {failure}")
    if stopped:
        print("stopped; the same command goes on")
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
    """Whether a row's dataset is at hand; says once for each which is not, where it should be and how to get it."""
    from mldec.engine import data_splits

    assert row.experiment is not None
    config = configs_of(row.experiment, request.overrides, request.config_dir)[0]
    dataset = f"{config.dataset.name} in {config.dataset.folder}"
    if dataset not in absent.values():
        try:
            data_splits.build_splits(config)
            return True
        except DataError as error:
            print(f"{config.dataset.name} cannot be used, so that rows which need it are left out\n{error}\n")
    absent[row.experiment] = dataset
    return False


def _launch(request: Request) -> int:
    """Print what would be run, as commands or as a job array."""
    from mldec.paper.records import find_records
    from mldec.paper.runner import shell_lines, slurm_script

    known = find_records(request.place.records).by_key
    words = [f"output={request.output}", f"records={request.place.records}", f"choose_seed={request.search_seed}"]
    words += [*request.typed_runtime, *request.overrides, *request.place.components]
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
    # A row that chooses a setting runs its candidates in one task, which then goes on to the seed itself.
    lines = list(dict.fromkeys(line for job, _ in pending.values() for line in shell_lines([job], words)))
    if not lines:
        print("# nothing is left to run")
        return 0
    name = request.tables[0].id if len(request.tables) == 1 else "all"
    print(slurm_script(name, lines) if request.launcher == "slurm" else "\n".join(lines))
    if any(searching for _, searching in pending.values()):
        print("# some rows choose a setting with the first seed; the other seeds are listed once that is done")
    return 0


def _list(scale: str) -> int:
    from mldec.paper.tables import load_tables

    for table in load_tables(cast("Scale", scale)):
        print(f"{table.name}: {table.title}")
        for row in table.rows:
            what = ", ".join(str(value) for value in row.cells.values())
            print(f"  {row.key:<26} {what:<44} {row.experiment or 'quoted'}")
    return 0


# Words ----------------------------------------------------------------------------------------------------------------


def _choice(own: dict[str, str], name: str, allowed: Sequence[str]) -> str:
    value = own.get(name, allowed[0])
    if value not in allowed:
        raise ConfigError(f"{name}={shortened(value)}: no such {name}; {suggest(value[:80], allowed)}")
    return value


def _only_executes(word: str) -> bool:
    """Whether an override says where and how fast a run executes, and not what of it."""
    name = word.partition("=")[0]
    return name == "runtime" or (name.startswith("runtime.") and not name.startswith(SHORTENS))


def _refuse_own_words(arguments: compose.Arguments) -> None:
    """Raise ConfigError for words that mean something else here than in a single training."""
    instead = {"seed": "seeds=0,1,2", "run_dir": "output=DIR", "experiment": "rows=…", "name": "output=DIR"}
    for word in arguments.overrides:
        if (name := word.partition("=")[0]) in instead:
            raise ConfigError(f"{word}: every row has its own; type {instead[name]}")
    if arguments.multirun:
        raise ConfigError("-m: a table runs its rows and seeds anyway; type rows=… or seeds=…")
