"""Which runs a table consists of: its rows, the settings that they choose, the seeds."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldec.commands import compose
from mldec.config import Config, build_config

if TYPE_CHECKING:
    from mldec.paper.runner import Job, Place
    from mldec.paper.tables import Row, Scale, Table

ALL = "all"  # in place of a row: a benchmark measures all rows at once


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


def search_jobs(table: Table, row: Row, request: Request) -> list[Job]:
    """The runs on which a row chooses, one a candidate; none where it chooses nothing."""
    return [job_of(table, row, request.choose_seed, words, request) for words in candidates(row) if row.choose]


def final_jobs(table: Table, row: Row, request: Request) -> list[Job]:
    """The runs of a row, one a seed; none while what it chooses is not known."""
    words = chosen_words(table, row, request)
    return [] if words is None else [job_of(table, row, seed, words, request) for seed in request.seeds]


def candidates(row: Row) -> list[tuple[str, ...]]:
    """The overrides of each combination of values that a row chooses from; one without any where it chooses nothing."""
    axes = [[f"{key}={value}" for value in values] for key, values in row.choose.items()]
    return [tuple(combination) for combination in itertools.product(*axes)]


def chosen_words(table: Table, row: Row, request: Request) -> tuple[str, ...] | None:
    """The candidate that is best on val with the first seed; None while not all of them are known."""
    if not row.choose:
        return ()
    from mldec.paper.records import find_records

    known = find_records(request.place.records).by_key
    values = {}
    for words in candidates(row):
        record = known.get(job_of(table, row, request.choose_seed, words, request).key)
        if record is None or record.best is None:
            return None
        values[words] = record.best
    return max(values, key=values.__getitem__)


def job_of(table: Table, row: Row, seed: int, words: Sequence[str], request: Request) -> Job:
    """The run of a row with one seed and the settings `words`."""
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


def benchmark_job(table: Table, request: Request) -> Job:
    """The one run that measures all rows of a table of speed."""
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


@cache
def configs_of(experiment: str, overrides: tuple[str, ...], config_dir: str | None) -> tuple[Config, ...]:
    """A row's experiment, and that which it starts from, if any."""
    from mldec.commands.train import NEEDED, needed_experiment

    arguments = compose.Arguments((f"experiment={experiment}", *overrides), config_dir=config_dir)
    config = build_config(_quietly(compose.compose, arguments.overrides, config_dir))
    if config.init_from is None or not config.init_from.startswith(NEEDED):
        return (config,)
    return (config, build_config(_quietly(needed_experiment, config.init_from.removeprefix(NEEDED), arguments)))


def _quietly(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns, without its notes on standard error: they are in the log of each run."""
    with contextlib.redirect_stderr(io.StringIO()):
        return work(*arguments)
