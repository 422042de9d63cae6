"""`mldec table`: run the rows of a table of the paper over their seeds, and show what was published beside it."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mldec.commands import compose
from mldec.config import Config, build_config
from mldec.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    from mldec.paper.records import Found, Record
    from mldec.paper.report import Line
    from mldec.paper.runner import Failure, Job, Place
    from mldec.paper.tables import Row, Scale, Table

HELP = """usage: mldec table TABLE [scale=paper|desk] [key=value …]
       make table-5                       the same as mldec table 5
       python scripts/reproduce.py table=5

Runs every row of a table over its seeds, each in a process of its own, and prints the table with published and obtained
values side by side. What was cut off goes on when the command is typed again; what is finished is not run again.

  TABLE                 1 to 14, figure5, figure6, all; list shows what is in each
  scale=desk            the form that runs on built-in digit scenes, in minutes to two hours on a laptop
  seeds=0,1,2           the seeds; default 0,1,2
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
ALL = "all"  # in place of a row: a benchmark measures all rows at once
SHORTENS = ("runtime.limit_", "runtime.overfit")  # settings of the runtime after which a result is another one
LAUNCHERS = ("local", "print", "slurm")

INTRODUCTIONS = {
    "desk": "The comparisons of the paper's tables on [digit scenes](digits.md), with a small residual network, the "
    "`standard` protocol and three seeds: choices on val, figures on test. Each table is one command, as in `mldec "
    "table 1 scale=desk` ([tables.md](tables.md)). Absolute values say nothing about the paper's; whether a finding "
    "holds here is some evidence for it, and that it does not hold is little against it.",
    "paper": "Published values beside those obtained with the experiments of the same rows ([tables.md](tables.md)).",
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for."""

    name: str
    tables: tuple[Table, ...]
    scale: Scale
    seeds: tuple[int, ...]
    choose_seed: int
    rows: tuple[str, ...]
    launcher: str
    run: bool
    output: Path
    page: Path | None
    place: Place
    typed_runtime: tuple[str, ...]
    overrides: tuple[str, ...]
    config_dir: str | None

    def rows_of(self, table: Table) -> tuple[Row, ...]:
        """The rows of a table that are to be run."""
        return tuple(table.row(key) for key in self.rows) if self.rows else table.reproduced


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    named = [word for word in argv if "=" not in word and not word.startswith("-")]
    arguments = compose.parse([word for word in argv if word not in named], own=OWN)
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
    rows = tuple(_words(own.get("rows", "")))
    if rows and len(tables) > 1:
        raise ConfigError(f"rows={own['rows']}: belongs to one table; name it instead of all")
    for key in rows:
        if tables[0].row(key).experiment is None:
            raise ConfigError(f"rows={key}: {tables[0].name} quotes it from the literature; there is nothing to run")
    output = Path(own.get("output", Path("outputs") / "tables" / scale)).expanduser().absolute()
    slots, runtime = _slots(own)
    run = own.get("run", "true").lower()
    if run not in ("true", "false"):
        raise ConfigError(f"run={own['run']}: expected true or false")
    place = Place(
        records=Path(own.get("records", output / "records")).expanduser().absolute(),
        runs=output / "runs",
        slots=slots,
        runtime=(*runtime, *(word for word in arguments.overrides if _only_executes(word))),
    )
    _refuse_own_words(arguments)
    seeds = tuple(_whole(word, "seeds", least=0) for word in _words(own.get("seeds", "0,1,2")))
    if not seeds:
        raise ConfigError(f"seeds={own['seeds']}: none; type seeds=0,1,2")
    return Request(
        name=name,
        tables=tables,
        scale=scale,
        seeds=seeds,
        choose_seed=_whole(own["choose_seed"], "choose_seed", least=0) if "choose_seed" in own else seeds[0],
        rows=rows,
        launcher=_choice(own, "launcher", LAUNCHERS),
        run=run == "true",
        output=output,
        page=Path(own["page"]) if "page" in own else None,
        place=place,
        typed_runtime=tuple(word for word in arguments.overrides if _only_executes(word)),
        overrides=tuple(word for word in arguments.overrides if not _only_executes(word)),
        config_dir=arguments.config_dir,
    )


def _slots(own: dict[str, str]) -> tuple[tuple[dict[str, str], ...], tuple[str, ...]]:
    """The environment of each process that may run at a time, and the overrides that all of them get."""
    import torch

    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))  # of a job on a shared node, those that it was given
    there = torch.cuda.device_count()
    gpus = _words(own["gpus"]) if "gpus" in own else [str(number) for number in range(there)]
    if "gpus" in own and not gpus:
        raise ConfigError("gpus=: none; type gpus=0,1, or runtime.device=cpu to use none")
    for gpu in gpus:
        if _whole(gpu, "gpus", least=0) >= there:
            raise ConfigError(f"gpus={own['gpus']}: there are {there} GPUs here, counted from 0")
    # Where only some GPUs are to be used, numbers count within these.
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    gpus = [visible[int(gpu)] if len(visible) == there else gpu for gpu in gpus]
    jobs = _whole(own["jobs"], "jobs", least=1) if "jobs" in own else len(gpus) or cores
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
    interrupted = False
    lines: dict[str, list[Line]] = {}
    for table in request.tables:
        if request.run and not interrupted:
            interrupted = _run(table, request, failures, absent)
        found = find_records(request.place.records)
        lines[table.id] = _lines(table, request, found, failures, absent)
        _report(table, lines[table.id], request, found)
    if request.page is not None:
        _page(request, lines)
    for failure in failures:
        print(f"failed: {failure}")
    if interrupted:
        print("stopped; the same command goes on")
        return 130
    return 1 if failures or absent else 0


def _run(table: Table, request: Request, failures: list[Failure], absent: dict[str, str]) -> bool:
    """Run a table; what fails or cannot run is added to the last two. Returns whether it was interrupted."""
    from mldec.engine.display import Display
    from mldec.paper.records import find_records
    from mldec.paper.runner import run_jobs

    if table.kind == "benchmark":
        # One process measures all rows in turn, by itself: what else the machine does hits all alike.
        alone = dataclasses.replace(request.place, slots=request.place.slots[:1], runtime=request.typed_runtime)
        outcome = run_jobs([_benchmark_job(table, request)], alone, Display())
        failures += outcome.failures
        return outcome.interrupted
    known = find_records(request.place.records).by_key
    rows = []
    for row in request.rows_of(table):
        jobs = _final_jobs(table, row, request)
        finished = bool(jobs) and all(job.key in known for job in jobs)
        if finished or _is_there(row, request, absent):
            rows.append(row)
    # A setting that is chosen on val is chosen first, with one seed; then come the others.
    for plan in (_search_jobs, _final_jobs):
        planned = [job for row in rows for job in plan(table, row, request)]
        if not planned:
            continue
        outcome = run_jobs(planned, request.place, Display())
        failures += outcome.failures
        if outcome.interrupted:
            return True
    return False


def _search_jobs(table: Table, row: Row, request: Request) -> list[Job]:
    return [_job(table, row, request.choose_seed, words, request) for words in candidates(row) if row.choose]


def _final_jobs(table: Table, row: Row, request: Request) -> list[Job]:
    words = _chosen(table, row, request)
    return [] if words is None else [_job(table, row, seed, words, request) for seed in request.seeds]


def candidates(row: Row) -> list[tuple[str, ...]]:
    """The overrides of each combination of values that a row chooses from; one without any where it chooses nothing."""
    axes = [[f"{key}={value}" for value in values] for key, values in row.choose.items()]
    return [tuple(combination) for combination in itertools.product(*axes)]


def _chosen(table: Table, row: Row, request: Request) -> tuple[str, ...] | None:
    """The candidate that is best on val with the first seed; None while not all of them are known."""
    if not row.choose:
        return ()
    from mldec.paper.records import find_records

    known = find_records(request.place.records).by_key
    values = {}
    for words in candidates(row):
        record = known.get(_job(table, row, request.choose_seed, words, request).key)
        if record is None or record.best is None:
            return None
        values[words] = record.best
    return max(values, key=values.__getitem__)


def _job(table: Table, row: Row, seed: int, words: Sequence[str], request: Request) -> Job:
    from mldec.paper.records import config_key
    from mldec.paper.runner import Job

    assert row.experiment is not None
    overrides = (*words, *request.overrides)
    return Job(
        table=table.id,
        row=row.key,
        scale=request.scale,
        seed=seed,
        key=config_key(*configs_of(row.experiment, (*overrides, f"seed={seed}"), request.config_dir)),
        experiment=row.experiment,
        overrides=overrides,
        expect=row.expect,
    )


def _benchmark_job(table: Table, request: Request) -> Job:
    from mldec.paper.records import config_key
    from mldec.paper.runner import Job

    experiments = dict.fromkeys(row.experiment for row in table.reproduced if row.experiment is not None)
    configs = [configs_of(experiment, request.overrides, request.config_dir)[0] for experiment in experiments]
    return Job(
        table=table.id,
        row=ALL,
        scale=request.scale,
        seed=0,
        key=config_key(*configs),
        experiment=next(iter(experiments)),
        overrides=request.overrides,
        benchmark=table.benchmark,
    )


def configs_of(experiment: str, overrides: Sequence[str], config_dir: str | None) -> list[Config]:
    """A row's experiment, and that which it starts from, if any."""
    from mldec.commands.train import NEEDED, needed_experiment

    arguments = compose.Arguments((f"experiment={experiment}", *overrides), config_dir=config_dir)
    config = build_config(_quietly(compose.compose, arguments.overrides, config_dir))
    if config.init_from is None or not config.init_from.startswith(NEEDED):
        return [config]
    return [config, build_config(_quietly(needed_experiment, config.init_from.removeprefix(NEEDED), arguments))]


def _is_there(row: Row, request: Request, absent: dict[str, str]) -> bool:
    """Whether a row's dataset is at hand; says once for each which is not, where it should be and how to get it."""
    from mldec.engine import build

    assert row.experiment is not None
    config = configs_of(row.experiment, request.overrides, request.config_dir)[0]
    dataset = f"{config.dataset.name} in {config.dataset.folder}"
    if dataset not in absent.values():
        try:
            build.build_splits(config)
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
    words = [f"output={request.output}", f"records={request.place.records}", f"choose_seed={request.choose_seed}"]
    words += [*request.typed_runtime, *request.overrides]
    pending: dict[str, tuple[Job, bool]] = {}
    for table in request.tables:
        if table.kind == "benchmark":
            job = _benchmark_job(table, request)
            pending |= {} if job.key in known else {job.key: (job, False)}
            continue
        for row in request.rows_of(table):
            chosen = _chosen(table, row, request)
            jobs = _search_jobs(table, row, request) if chosen is None else _final_jobs(table, row, request)
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


# Reporting ------------------------------------------------------------------------------------------------------------


def _lines(
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
            )
        )
    return lines


def records_of_row(table: Table, row: Row, request: Request, found: Found) -> tuple[tuple[Record, ...], dict[str, Any]]:
    """The records of a row, one a seed, and the settings that it chose."""
    from mldec.paper.records import rounds_of_row

    if table.kind == "benchmark":
        record = found.by_key.get(_benchmark_job(table, request).key)
        return (() if record is None else rounds_of_row(record, row.key)), {}
    words = _chosen(table, row, request)
    if words is None:
        return (), {}
    jobs = [_job(table, row, seed, words, request) for seed in request.seeds]
    chosen = dict(zip(row.choose, (word.partition("=")[2] for word in words), strict=True))
    return tuple(found.by_key[job.key] for job in jobs if job.key in found.by_key), chosen


def _sizes(row: Row, request: Request) -> dict[str, float]:
    """Multiply-accumulates [G] and parameters of a row's network, counted."""
    from mldec.benchmarks.network import count_cost

    assert row.experiment is not None
    config = configs_of(row.experiment, request.overrides, request.config_dir)[0]
    cost = count_cost(config, row.needs.labels)
    return {"macs": cost.macs / 1e9, "parameters": cost.parameters}


def _report(table: Table, lines: Sequence[Line], request: Request, found: Found) -> None:
    """Print a table, and write it as Markdown, CSV, LaTeX and, where it is a figure, PNG."""
    from mldec.engine.tracking import write_text
    from mldec.paper import plots, report

    others = _others(table, lines, request, found)
    text = report.markdown(table, lines, request.scale, others)
    if table.findings:
        text += f"\n{report.findings(table, lines)}\n"
    print(f"\n{table.name}: {table.title}\n\n{text}", flush=True)
    path = request.output / table.id
    write_text(path.with_suffix(".md"), text)
    write_text(path.with_suffix(".csv"), report.csv_text(table, lines, request.scale))
    write_text(path.with_suffix(".tex"), report.latex(table, lines, request.scale))
    if plots.draw(table, lines, request.scale, path.with_suffix(".png")):
        print(f"drawn in {path}.png")


def _others(table: Table, lines: Sequence[Line], request: Request, found: Found) -> dict[Path, str]:
    """Records that are not shown: of another version, or of this table with other settings than it has now."""
    shown = {record.key for line in lines for record in line.records}
    candidates_of = {
        _job(table, row, request.choose_seed, words, request).key
        for row in table.reproduced
        if row.choose
        for words in candidates(row)
    }
    others = dict(found.others)
    for key, record in found.by_key.items():
        here = (record.table, record.scale) == (table.id, request.scale) and record.seed in request.seeds
        if here and key not in shown | candidates_of:
            others[request.place.records / record.file_name] = "was made with other settings than the row has now"
    return others


def _page(request: Request, lines: dict[str, list[Line]]) -> None:
    """Write one page of all tables that were asked for."""
    from mldec.engine.tracking import write_text
    from mldec.paper import plots, report

    assert request.page is not None
    parts = []
    for table in request.tables:
        picture = request.page.parent / "images" / f"{request.scale}-{table.id}.png"
        drawn = plots.draw(table, lines[table.id], request.scale, picture)
        parts.append(
            report.Part(table, lines[table.id], request.scale, plot=f"images/{picture.name}" if drawn else None)
        )
    text = report.page(
        parts,
        command=f"mldec table {request.name} scale={request.scale} run=false records=… page=…",
        title="Results at desk scale" if request.scale == "desk" else "Results",
        introduction=INTRODUCTIONS[request.scale],
    )
    write_text(request.page, text)
    print(f"written to {request.page}")


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
        raise ConfigError(f"{name}={value}: no such {name}; {suggest(value, allowed)}")
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


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.strip("[]").split(",") if word.strip()]


def _whole(text: str, name: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{name}={text}: expected whole numbers of at least {least}")
    return int(text)


def _quietly(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns, without its notes on standard error: they are in the log of each run."""
    import contextlib
    import io

    with contextlib.redirect_stderr(io.StringIO()):
        return work(*arguments)
