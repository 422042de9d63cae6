"""`mldec table`: run the rows of a table of the paper over their seeds, and show the published values beside them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mldec.commands import compose
from mldec.commands.options import MOST_WORKERS, file_for_output, folder_for_output, listed, switch, whole
from mldec.errors import ConfigError, shortened, suggest

if TYPE_CHECKING:
    from mldec.paper.planning import Planner, TableRequest
    from mldec.paper.tables import Scale

HELP = """usage: mldec table TABLE [scale=paper|desk] [key=value …]
       make table-5                       the same as mldec table 5
       python scripts/reproduce.py table=5

Runs every row of a table over its seeds, each in a process of its own, and prints the table with published and obtained
values side by side. The same command resumes what was interrupted and skips what is finished.

  TABLE                 1 to 14, figure5, figure6, all; list shows the rows of each
  scale=desk            the version on built-in digit scenes, minutes to two hours on a laptop
  seeds=0,1,2           the seeds; default 0,1,2; at desk scale 0,1,2,3,4 where a run takes under 3 minutes
  choose_seed=0         the seed with which settings are chosen, where a row does; default the first seed
  rows=gap,ml_decoder   run only these rows; default all that are reproduced
  jobs=2                processes at a time; default one per GPU, or one per core
  gpus=0,1              which GPUs; default all
  launcher=local        run here; print: the commands, one per line; slurm: a script for a job array
  run=false             run nothing, only report existing records
  output=DIR            default outputs/tables/SCALE: runs/, and each table as Markdown, CSV, LaTeX and PNG
  records=DIR           the results, one JSON file per run; default OUTPUT/records
  page=FILE             write one page of all requested tables
  dataset.root=DIR …    any setting, for every run"""

OWN = ("scale", "seeds", "choose_seed", "rows", "jobs", "gpus", "launcher", "run", "output", "records", "page", "table")
SCALES = ("paper", "desk")
SHORTENS = ("runtime.limit_", "runtime.overfit")  # settings of the runtime that change the result
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
    launcher = _choice(arguments.own, "launcher", LAUNCHERS)
    run = switch(arguments.own, "run", True)
    page = file_for_output(arguments.own, "page", "", "tables.md") if "page" in arguments.own else None
    planner = make_planner(named[0], arguments)
    if launcher != "local":
        return _launch(planner, arguments, slurm=launcher == "slurm")
    return _reproduce(planner, named[0], run=run, page=page)


def make_planner(name: str, arguments: compose.Arguments) -> Planner:
    """The planner of what a command line requests of the table `name`, or of all. Raises ConfigError."""
    from mldec.paper.planning import Planner

    return Planner(make_request(name, arguments), partial(compose_with_start, config_dir=arguments.config_dir))


def compose_with_start(overrides: tuple[str, ...], config_dir: str | None = None) -> tuple[dict[str, Any], ...]:
    """The experiment that overrides compose, and the one that it starts from, if any, as nested plain values."""
    from mldec.commands.train import NEEDED, needed_experiment

    with contextlib.redirect_stderr(io.StringIO()):  # notes on composing are in the log of each run
        experiment = compose.compose(overrides, config_dir)
        start = str(experiment.get("init_from") or "")
        if not start.startswith(NEEDED):
            return (experiment,)
        arguments = compose.Arguments(overrides, config_dir=config_dir)
        return experiment, needed_experiment(start.removeprefix(NEEDED), arguments)


def make_request(name: str, arguments: compose.Arguments) -> TableRequest:
    """What a command line requests of the table `name`, or of all. Raises ConfigError for options without a meaning."""
    from mldec.paper.planning import MOST_SEED, TableRequest
    from mldec.paper.runner import Workspace
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
    runtime = tuple(word for word in arguments.overrides if _only_executes(word))
    slots, machine = _slots(own)
    workspace = Workspace(
        records=folder_for_output(own, "records", output / "records").absolute(),
        runs=output / "runs",
        slots=slots,
        runtime=(*machine, *runtime),
        components=_components(arguments),
    )
    _refuse_per_row_options(arguments)
    seeds = tuple(whole(word, "seeds", least=0, most=MOST_SEED) for word in listed(own.get("seeds", "")))
    if not seeds and "seeds" in own:
        raise ConfigError(f"seeds={own['seeds']}: empty; use seeds=0,1,2")
    return TableRequest(
        tables=tables,
        scale=scale,
        seeds=seeds,
        choose_seed=whole(own["choose_seed"], "choose_seed", least=0, most=MOST_SEED) if "choose_seed" in own else None,
        rows=rows,
        overrides=tuple(word for word in arguments.overrides if word not in runtime),
        runtime=runtime,
        workspace=workspace,
        output=output,
    )


def _components(arguments: compose.Arguments) -> tuple[str, ...]:
    """The options by which other processes find the user's own components and configs, too."""
    plugins = (f"plugins=[{','.join(arguments.plugins)}]",) if arguments.plugins else ()
    folder = arguments.config_dir
    return plugins if folder is None else (*plugins, f"--config-dir={Path(folder).expanduser().absolute()}")


def _slots(own: dict[str, str]) -> tuple[tuple[dict[str, str], ...], tuple[str, ...]]:
    """The environment of each of the processes that may run at a time, and the overrides of all of them."""
    import torch

    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))  # on a shared node, those that were allocated to the job
    available = torch.cuda.device_count()
    gpus = listed(own["gpus"]) if "gpus" in own else [str(number) for number in range(available)]
    if "gpus" in own and not gpus:
        raise ConfigError("gpus=: none; use gpus=0,1, or runtime.device=cpu for no GPU")
    for gpu in gpus:
        if whole(gpu, "gpus", least=0) >= available:
            raise ConfigError(f"gpus={own['gpus']}: this machine has {available} GPUs, counted from 0")
    # gpus= counts within CUDA_VISIBLE_DEVICES, where that is set.
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    gpus = [visible[int(gpu)] if len(visible) == available else gpu for gpu in gpus]
    jobs = whole(own["jobs"], "jobs", most=MOST_WORKERS) if "jobs" in own else len(gpus) or cores
    if gpus:
        return tuple({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} for number in range(jobs)), ()
    # Without a GPU, one process per core with one thread each makes the most of a machine.
    threads = max(1, cores // jobs)
    return ({},) * jobs, (f"runtime.threads={threads}", f"runtime.workers={0 if threads == 1 else 1}")


def _reproduce(planner: Planner, name: str, *, run: bool, page: Path | None) -> int:
    """Run what is missing of each table (if `run`) and report all of them; returns the exit code."""
    from mldec.engine.display import Display
    from mldec.paper.reproduction import ReproductionStatus, reproduce
    from mldec.paper.results import row_results, write_page, write_table

    status, results = ReproductionStatus(), {}
    for table in planner.request.tables:
        if run and not status.stopped:
            reproduce(planner, table, status, Display())
        results[table.id] = row_results(planner, table, status.failures, status.unavailable)
        print(f"\n{write_table(planner, table, results[table.id])}", flush=True)
    if page is not None:
        records, scale = planner.request.workspace.records, planner.request.scale
        places = f"records={_relative(records)} page={_relative(page)}"
        write_page(planner, results, page, f"mldec table {name} scale={scale} run=false {places}")
        print(f"written to {page}")
    for failure in status.failures:
        print(f"failed: {failure}")
    if status.stopped:
        print("stopped; the same command resumes")
        return status.stopped
    return 1 if status.failures or status.unavailable else 0


def _launch(planner: Planner, arguments: compose.Arguments, *, slurm: bool) -> int:
    """Print what would be run, as commands or as a job array."""
    from mldec.paper.reproduction import pending_commands
    from mldec.paper.runner import slurm_script

    request = planner.request
    options = [f"output={request.output}", f"records={request.workspace.records}", f"choose_seed={request.search_seed}"]
    lines, searching = pending_commands(planner, [*options, *arguments.overrides, *request.workspace.components])
    if not lines:
        print("# nothing is left to run")
        return 0
    name = request.tables[0].id if len(request.tables) == 1 else "all"
    print(slurm_script(name, lines) if slurm else "\n".join(lines))
    if searching:
        print("# some rows choose a setting with the first seed; their other seeds are listed after that")
    return 0


def _list(scale: str) -> int:
    from mldec.paper.tables import load_tables

    for table in load_tables(cast("Scale", scale)):
        print(f"{table.name}: {table.title}")
        for row in table.rows:
            what = ", ".join(str(value) for value in row.cells.values())
            print(f"  {row.key:<26} {what:<44} {row.experiment or 'quoted'}")
    return 0


def _choice(own: dict[str, str], name: str, allowed: Sequence[str]) -> str:
    value = own.get(name, allowed[0])
    if value not in allowed:
        raise ConfigError(f"{name}={shortened(value)}: no such {name}; {suggest(value[:80], allowed)}")
    return value


def _only_executes(word: str) -> bool:
    """Whether an override changes where and how fast a run executes, but not its result."""
    name = word.partition("=")[0]
    return name == "runtime" or (name.startswith("runtime.") and not name.startswith(SHORTENS))


def _refuse_per_row_options(arguments: compose.Arguments) -> None:
    """Raise ConfigError for options of a single training, which every row has for itself."""
    instead = {"seed": "seeds=0,1,2", "run_dir": "output=DIR", "experiment": "rows=…", "name": "output=DIR"}
    for word in arguments.overrides:
        if (name := word.partition("=")[0]) in instead:
            raise ConfigError(f"{word}: every row has its own; use {instead[name]}")
    if arguments.multirun:
        raise ConfigError("-m: a table runs its rows and seeds anyway; use rows=… or seeds=…")


def _relative(path: Path) -> Path:
    """A path relative to the current directory, where it lies below it."""
    absolute = path.absolute()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else path
