"""`mldec table`: run the rows of a table of the paper over their seeds, and show the published values beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mldec.commands import compose
from mldec.commands.options import EXPERIMENT, OutputDirectory, OutputFile, parse, say
from mldec.config import Natural, Range, Some, build_config
from mldec.errors import ConfigError, option, shortened

if TYPE_CHECKING:
    from mldec.paper.planning import Planner
    from mldec.paper.tables import PaperTable, Scale

RunSeed = Annotated[int, Range(0, 10**18 - 1)]


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Run every row of a table of the paper over its seeds, and print published beside obtained values.

    mldec table 5                      1 to 14, figure5, figure6, several of them, or all; list prints what is in each
    make table-5                       the same as mldec table 5
    python scripts/reproduce.py table=5
    dataset.root=DIR …                 any setting, for every run

    Each run is a process of its own. What was interrupted resumes with the same command; what is finished is not run
    again. DIR of `output` gets runs/, and each table as Markdown, CSV, LaTeX and PNG.
    """

    SETTINGS = EXPERIMENT

    table: str | None = None  # the table, as an option
    scale: Literal["paper", "probe", "desk"] = "paper"  # probe: heads on a frozen backbone; desk: drawn digits
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
    title: str | None = None  # of the page, such as the data that its figures are of; default: "Results …"


OPTIONS = TableOptions

SHORTENS = ("runtime.limit_", "runtime.overfit")  # settings of the runtime that change results


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    named = [item for item in argv if "=" not in item and not item.startswith("-")]
    options, arguments = parse([item for item in argv if item not in named], TableOptions, "table")
    named += [] if options.table is None else [options.table]
    if not named:
        raise ConfigError("no table named; use mldec table 5, for example; mldec table list prints all")
    names = " ".join(named)
    if len(named) > 1 and {"all", "list"} & set(named):
        raise ConfigError(f"{shortened(names)}: all and list stand alone")
    compose.load_components(arguments.plugins)
    if named[0] == "list":
        return _list(options.scale)
    planner = make_planner(names, options, arguments)
    if options.launcher != "local":
        return _launch(planner, arguments, slurm=options.launcher == "slurm")
    return _reproduce(planner, names, run=not options.report_only, page=options.page, title=options.title)


def compose_with_start(
    overrides: tuple[str, ...], composing: Callable[[tuple[str, ...]], dict[str, Any]] = compose.compose
) -> tuple[dict[str, Any], ...]:
    """The experiment that overrides compose, and the one that it starts from, if any, as nested plain values."""
    from mldec.commands.train import NEEDED, needed_overrides

    experiment = composing(overrides)
    start = str(experiment.get("init_from") or "")
    if not start.startswith(NEEDED):
        return (experiment,)
    return experiment, composing(needed_overrides(start.removeprefix(NEEDED), overrides))


def make_planner(name: str, options: TableOptions, arguments: compose.Arguments) -> Planner:
    """The planner of what a command line requests of the table `name`, of several with spaces between them, or of all.

    Raises ConfigError for options without a meaning.
    """
    from mldec.paper.planning import Planner, TableRequest
    from mldec.paper.runner import Workspace, slots
    from mldec.paper.tables import find_table, load_tables

    tables = load_tables(options.scale)
    if name != "all":
        tables = tuple(
            {table.id: table for table in (find_table(part, options.scale) for part in name.split())}.values()
        )
    if options.rows and len(tables) > 1:
        raise ConfigError(f"rows={','.join(options.rows)}: belongs to one table; name that one alone")
    for key in options.rows:
        if tables[0].row(key).experiment is None:
            raise ConfigError(f"rows={key}: {tables[0].name} quotes it from the literature; there is nothing to run")
    _refuse_per_row_options(arguments)
    _refuse_what_rows_set(arguments, tables, options.rows)
    output = (options.output or Path("outputs") / "tables" / options.scale).absolute()
    processes, runtime = slots(options.jobs, options.gpus)
    executing = tuple(override for override in arguments.overrides if _only_executes(override))
    workspace = Workspace(
        records=(options.records or output / "records").absolute(),
        runs=output / "runs",
        slots=processes,
        runtime=(*runtime, *executing),
        components=_components(arguments),
    )
    request = TableRequest(
        tables=tables,
        scale=options.scale,
        seeds=options.seeds or (),
        choose_seed=options.choose_seed,
        rows=options.rows,
        overrides=(*(text for text in arguments.overrides if text not in executing), *_native_size(arguments, options)),
        runtime=executing,
        workspace=workspace,
        output=output,
    )
    composing = cache(partial(compose.compose, config_dir=arguments.config_dir))  # many rows have the same start
    return Planner(request, partial(compose_with_start, composing=composing))


def _refuse_what_rows_set(arguments: compose.Arguments, tables: Sequence[PaperTable], keys: Sequence[str]) -> None:
    """Raise ConfigError for the choice of a component, such as backbone=…, that a row makes itself."""
    for table in tables:
        for row in [table.row(key) for key in keys] or table.reproduced:
            for text in arguments.overrides:
                if (key := compose.key_of(text)) in row.settings and "." not in key:
                    raise ConfigError(
                        f"{text}: row {row.key} of {table.name} has {key}={row.settings[key]} of its own; leave it "
                        "out, or choose rows without any: rows=…"
                    )


def _native_size(arguments: compose.Arguments, options: TableOptions) -> tuple[str, ...]:
    """The option of an image size for the weights of another backbone, which tables at probe scale may be given."""
    from mldec.engine.recipes import native_size

    given = arguments.keys()
    if options.scale != "probe" or "dataset.image_size" in given or not {"backbone", "backbone.model"} & set(given):
        return ()
    composed = compose.compose(["experiment=probe_table", *arguments.overrides], arguments.config_dir)
    size, before = native_size(build_config(composed).backbone), composed["dataset"]["image_size"]
    if size is None or size == before:
        return ()
    say(f"note: dataset.image_size={size}, the input size of this backbone's weights, instead of {before}", error=True)
    return (f"dataset.image_size={size}",)


def _components(arguments: compose.Arguments) -> tuple[str, ...]:
    """The arguments by which other processes find the user's own components and configs, too."""
    plugins = (f"plugins=[{','.join(arguments.plugins)}]",) if arguments.plugins else ()
    folder = arguments.config_dir
    return plugins if folder is None else (*plugins, f"--config-dir={Path(folder).expanduser().absolute()}")


def _reproduce(planner: Planner, name: str, *, run: bool, page: Path | None, title: str | None) -> int:
    """Run what is missing of each table (if `run`) and report all of them; returns the exit code."""
    from mldec.engine.display import Display
    from mldec.paper.reproduction import reproduce
    from mldec.paper.results import row_results, write_page, write_table
    from mldec.paper.runner import Outcome

    outcome, results = Outcome(), {}
    for table in planner.request.tables:
        if run and not outcome.stopped:
            reproduce(planner, table, outcome, Display())
        results[table.id] = row_results(planner, table, outcome)
        say(f"\n{write_table(planner, table, results[table.id])}")
    if page is not None:
        records, scale = planner.request.workspace.records, planner.request.scale
        options = ["report_only=true", option("records", _relative(records)), option("page", _relative(page))]
        options += [] if title is None else [option("title", title)]
        command = " ".join([f"mldec table {name} scale={scale}", *planner.request.overrides, *options])
        write_page(planner, results, page, command, title)
        say(f"written to {page}", error=True)
    for failure in outcome.failures:
        say(f"error: failed: {failure}", error=True)
    if outcome.stopped:
        say("note: stopped; the same command resumes", error=True)
        return outcome.stopped
    return 1 if outcome.failures or outcome.unavailable else 0


def _launch(planner: Planner, arguments: compose.Arguments, *, slurm: bool) -> int:
    """Print what would be run, as commands or as a job array."""
    from mldec.paper.reproduction import pending_commands
    from mldec.paper.runner import slurm_script

    request = planner.request
    options = [f"output={request.output}", f"records={request.workspace.records}", f"choose_seed={request.search_seed}"]
    lines, searching = pending_commands(planner, [*options, *arguments.overrides, *request.workspace.components])
    if not lines:
        say("# nothing is left to run")
        return 0
    name = request.tables[0].id if len(request.tables) == 1 else "all"
    say(slurm_script(name, lines) if slurm else "\n".join(lines))
    if searching:
        say("# some rows choose a setting with the first seed; their other seeds are listed after that")
    return 0


def _list(scale: Scale) -> int:
    from mldec.paper.tables import load_tables, name_of

    for table in load_tables(scale):
        also = f" (also for {', '.join(map(name_of, table.also))})" if table.also else ""
        say(f"{table.name}: {table.title}{also}")
        for row in table.rows:
            what = ", ".join(str(value) for value in row.cells.values())
            say(f"  {row.key:<26} {what:<44} {row.experiment or 'quoted'}")
    return 0


def _only_executes(override: str) -> bool:
    """Whether an override changes where and how fast a run executes, but not its result."""
    name = compose.key_of(override)
    return name == "runtime" or (name.startswith("runtime.") and not name.startswith(SHORTENS))


def _refuse_per_row_options(arguments: compose.Arguments) -> None:
    """Raise ConfigError for settings of a single training, which every row has for itself."""
    instead = {"seed": "seeds=0,1,2", "run_dir": "output=DIR", "experiment": "rows=…", "name": "output=DIR"}
    for override in arguments.overrides:
        if (name := compose.key_of(override)) in instead:
            raise ConfigError(f"{override}: every row has its own; use {instead[name]}")


def _relative(path: Path) -> Path:
    """A path relative to the current directory, where it lies below it."""
    absolute = path.absolute()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else path
